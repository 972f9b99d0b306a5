//! The harness shown something bad once: each kind of fault that it can report is planted here once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thirtyfour::Key;
use url::Url;
use wm_testbed::http::{HttpServer, Request, Response};
use wm_testbed::processes::is_alive;

use crate::browser::Browser;
use crate::evidence::Evidence;
use crate::harness::until;
use crate::page::{Role, View};
use crate::payloads::{Outcome, payloads};
use crate::world::DashWorld;

/// The policy that the dashboard is to have.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = "body { background: #fff; color: #111; font: 16px sans-serif }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee } a { color: #9cf } }
@media (prefers-reduced-motion: reduce) { #moves { display: none } }";

/// A page that keeps the policy and has nothing wrong with it.
const GOOD: &str = r#"<main><h1>Good</h1><p id=count>0</p><p id=moves>moving</p>
<p><label>Find <input id=host></label> <label>Kind <select id=kind><option>gone<option>timeout</select></label></p>
<p><a href="/second">Second page</a> <button id=add>Add one</button> <button hidden>Add one</button></p></main>"#;

const SCRIPT: &str = "const count = document.getElementById('count');
document.getElementById('add')?.addEventListener('click', () => {
  setTimeout(() => { count.textContent = Number(count.textContent) + 1; }, 50);
});";

/// A site of one page, whose body this is, under this policy.
struct TestSite {
    server: HttpServer,
}

impl TestSite {
    async fn new(policy: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        let respond = move |request: &Request| {
            let (kind, text) = match request.path() {
                "/" => ("text/html; charset=utf-8", page(&body)),
                "/second" => ("text/html; charset=utf-8", page("<main><h1>Second</h1></main>")),
                "/style.css" => ("text/css", STYLE.to_owned()),
                "/script.js" => ("text/javascript", SCRIPT.to_owned()),
                "/favicon.ico" => return Response::new(200, &[("content-type", "image/x-icon")], []),
                _ => return Response::new(404, &[], []),
            };
            let headers = [("content-type", kind), ("content-security-policy", policy)];
            Response::new(200, &headers, text.into_bytes())
        };
        Self { server: HttpServer::start(Arc::new(respond)).await.unwrap() }
    }

    fn url(&self) -> Url {
        self.server.url("/")
    }
}

fn page(body: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=en><head><title>A page</title><link rel=stylesheet href=/style.css>\
         <script src=/script.js defer></script></head><body>{body}</body></html>"
    )
}

#[tokio::test]
async fn a_good_page_is_read_clicked_and_clean() {
    let Some(browser) = Browser::start().await else { return };
    let site = TestSite::new(POLICY, GOOD).await;
    browser.open(&site.url(), View::DESKTOP).await;
    assert_eq!(browser.text("h1").await, "Good");
    browser.click(Role::Button, "Add one").await;
    browser.until("it counts", "document.getElementById('count').textContent === '1'").await;
    browser.until_text("#count", "1").await;
    browser.fill("Find", "a host").await;
    browser.choose("Kind", "timeout").await;
    let values = browser.eval("return [host.value, kind.value];", &[]).await;
    assert_eq!(values, serde_json::json!(["a host", "timeout"]));
    assert!(browser.overflow().await.is_none());
    browser.assert_accessible().await;
    browser.click(Role::Link, "Second page").await;
    assert_eq!((browser.text("h1").await.as_str(), browser.url().await.path()), ("Second", "/second"));
    let evidence = browser.evidence().await;
    evidence.assert_clean(&site.url());
    assert!(evidence.requests.iter().any(|url| url.ends_with("/script.js")), "{evidence:?}");
    assert!(browser.evidence().await.requests.is_empty(), "it was asked already");
}

#[tokio::test]
async fn keys_move_a_focus_whose_missing_outline_is_seen() {
    let Some(browser) = Browser::start().await else { return };
    let bare = "<style>#bare { outline: none }</style><button id=bare>Bare</button>";
    let site = TestSite::new("", format!("{GOOD}{bare}")).await;
    browser.open(&site.url(), View::DESKTOP).await;
    assert!(browser.focus().await.is_none());
    browser.press(Key::Tab).await;
    let field = browser.focus().await.unwrap();
    assert_eq!((field.tag.as_str(), field.name.as_str()), ("input", "Find"));
    assert!(field.is_outlined && field.is_in_view, "{field:?}");
    browser.type_text("typed").await;
    assert_eq!(browser.eval("return host.value;", &[]).await, "typed");
    let mut visited = Vec::new();
    for _ in 0..4 {
        browser.press(Key::Tab).await;
        visited.push(browser.focus().await.unwrap());
    }
    let names: Vec<&str> = visited.iter().map(|focus| focus.name.as_str()).collect();
    assert_eq!(names[1..], ["Second page", "Add one", "Bare"]);
    let outlined: Vec<bool> = visited.iter().map(|focus| focus.is_outlined).collect();
    assert_eq!(outlined, [true, true, true, false]);
    browser.press_with_shift(Key::Tab).await;
    browser.press(Key::Space).await;
    browser.until_text("#count", "1").await;
    browser.press(Key::Enter).await;
    browser.until_text("#count", "2").await;
    browser.press_with_shift(Key::Tab).await;
    browser.press(Key::Enter).await;
    browser.until_text("h1", "Second").await;
}

#[tokio::test]
async fn a_view_is_dark_calm_and_narrow_and_what_is_wider_is_named() {
    let Some(browser) = Browser::start().await else { return };
    let wide = "<style>.wide { width: 600px; height: 1000px }</style><div class=wide></div>";
    let site = TestSite::new("", format!("{GOOD}{wide}")).await;
    browser.open(&site.url(), View::PHONE).await;
    let background = "return getComputedStyle(document.body).backgroundColor;";
    assert_eq!(browser.eval(background, &[]).await, "rgb(255, 255, 255)");
    assert_eq!(browser.texts("#moves").await, ["moving"]);
    let overflow = browser.overflow().await.unwrap();
    assert_eq!(overflow.window_width, 375);
    assert!(overflow.page_width >= 600, "{overflow:?}");
    assert_eq!(overflow.elements, ["div.wide"]);

    browser.set_view(View::DESKTOP.dark().reduced_motion()).await;
    assert_eq!(browser.eval(background, &[]).await, "rgb(17, 17, 17)");
    assert_eq!(browser.texts("#moves").await, [""; 0]);
    assert!(browser.overflow().await.is_none());
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("page.png");
    browser.screenshot(&picture).await;
    let bytes = std::fs::read(picture).unwrap();
    assert_eq!(&bytes[..4], b"\x89PNG");
    let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(side(16), 1280);
    assert!(side(20) > 1000, "{} rows: the window has 800", side(20));
}

#[tokio::test]
async fn a_page_is_read_and_followed_without_its_scripts() {
    let Some(browser) = Browser::start().await else { return };
    let body = format!("{GOOD}<noscript><p id=without>no scripts here</p></noscript>");
    let site = TestSite::new(POLICY, body).await;
    browser.open(&site.url(), View::DESKTOP.without_scripts()).await;
    assert_eq!(browser.text("#without").await, "no scripts here");
    browser.click(Role::Button, "Add one").await;
    browser.click(Role::Link, "Second page").await;
    assert_eq!((browser.text("h1").await.as_str(), browser.title().await.as_str()), ("Second", "A page"));
    browser.evidence().await.assert_clean(&site.url());
    browser.open(&site.url(), View::DESKTOP).await;
    assert_eq!(browser.texts("#without").await, [""; 0]);
}

#[tokio::test]
async fn axe_finds_a_planted_fault_on_a_page_whose_policy_refuses_other_scripts() {
    let Some(browser) = Browser::start().await else { return };
    let site = TestSite::new(POLICY, format!("{GOOD}<main><input><img src=/x.png></main>")).await;
    browser.open(&site.url(), View::DESKTOP).await;
    let Some(violations) = browser.axe().await else { return };
    let ids: Vec<&str> = violations.iter().map(|violation| violation.id.as_str()).collect();
    assert_eq!(ids, ["image-alt", "label"], "{violations:?}");
    assert_eq!(violations[0].impact, "critical");
    assert_eq!(violations[0].nodes, ["img"]);
    assert!(!violations[0].help.is_empty());
}

#[tokio::test]
async fn a_payload_that_runs_is_seen_wherever_it_runs() {
    let Some(browser) = Browser::start().await else { return };
    let body = "<script>__xss('inline'); alert('hello'); document.title = 'xss titled'</script>\
                <iframe srcdoc='<script>__xss(`framed`)</script>'></iframe>\
                <img src=/missing onerror=\"__xss('error')\">";
    let site = TestSite::new("", body).await;
    browser.open(&site.url(), View::DESKTOP).await;
    let mut evidence = browser.evidence().await;
    evidence.ran.sort_unstable();
    assert_eq!(evidence.ran, ["error", "framed", "inline", "titled"]);
    assert_eq!(evidence.dialogs, ["alert hello"]);
    assert!(evidence.console.iter().any(|(_, text)| text.contains("/missing")), "{evidence:?}");
}

#[tokio::test]
async fn what_a_policy_refuses_is_reported_and_nothing_of_it_runs() {
    let Some(browser) = Browser::start().await else { return };
    let body = "<script>__xss('inline')</script><img src=/missing onerror=\"__xss('error')\">\
                <iframe src='data:text/html,<script>__xss(1)</script>'></iframe>\
                <img src=//other.invalid/refused.png>";
    let site = TestSite::new(POLICY, body).await;
    browser.open(&site.url(), View::DESKTOP).await;
    let evidence = browser.evidence().await;
    assert_eq!(evidence.ran, [""; 0]);
    for refused in
        ["script-src-elem refuses inline", "script-src-attr refuses inline", "frame-src", "img-src"]
    {
        assert!(
            evidence.csp_violations.iter().any(|said| said.contains(refused)),
            "{refused}: {evidence:#?}"
        );
    }
    assert_eq!(evidence.foreign_requests(&site.url()), [""; 0]);
}

#[tokio::test]
async fn a_request_to_another_origin_is_seen_and_never_sent() {
    let Some(browser) = Browser::start().await else { return };
    let found = |_: &Request| Response::new(200, &[], []);
    let other = HttpServer::bind(("127.0.0.2", 0), Arc::new(found)).await.unwrap();
    let pixel = other.url("/pixel.png");
    let site = TestSite::new("", format!("<img src={pixel}><script>console.log('said')</script>")).await;
    browser.open(&site.url(), View::DESKTOP).await;
    let evidence = browser.evidence().await;
    assert_eq!(evidence.foreign_requests(&site.url()), [pixel.as_str()]);
    assert_eq!(other.requests(), [""; 0]);
    assert!(evidence.console.iter().any(|(_, text)| text.contains("said")), "{evidence:?}");
}

#[tokio::test]
async fn every_payload_does_what_it_is_listed_for_where_nothing_is_escaped() {
    let Some(browser) = Browser::start().await else { return };
    let all = payloads();
    let ids: BTreeSet<&str> = all.iter().map(|payload| payload.id).collect();
    assert!(ids.len() == all.len() && ids.len() >= 60, "{} ids of {}", ids.len(), all.len());
    let page = |request: &Request| {
        let payload = payloads().into_iter().find(|payload| payload.id == request.query());
        let Some(payload) = payload.filter(|_| request.path() == "/") else {
            return Response::new(404, &[], []);
        };
        let text = payload.place.unescaped(&payload.text);
        let html = format!("<!DOCTYPE html><html lang=en><meta charset=utf-8>{text}");
        Response::new(200, &[("content-type", "text/html; charset=utf-8")], html.into_bytes())
    };
    let server = HttpServer::start(Arc::new(page)).await.unwrap();
    let mut wrong = Vec::new();
    for payload in &all {
        browser.open(&server.url(&format!("/?{}", payload.id)), View::DESKTOP).await;
        let mut evidence = browser.evidence().await;
        let mut outcome = outcome_of(&evidence, payload.id);
        if outcome == Outcome::Nothing && browser.eval(CLICK, &[]).await == true {
            evidence.append(browser.evidence().await);
            let clicked = outcome_of(&evidence, payload.id);
            outcome = if clicked == Outcome::Runs { Outcome::RunsOnClick } else { clicked };
        }
        // Pages that go elsewhere do so in their own time.
        for _ in 0..MAX_LOOKS {
            if outcome == payload.outcome {
                break;
            }
            evidence.append(browser.evidence().await);
            outcome = outcome_of(&evidence, payload.id);
        }
        if outcome != payload.outcome {
            wrong.push(format!("{}: {outcome:?}, not {:?}", payload.id, payload.outcome));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// Clicks at the first thing to click, if there is one, and says so; also at one too small for a pointer.
const CLICK: &str = "const found = document.querySelector('a, button');
    return Boolean(found?.dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true })));";

/// How often a page is looked at before it is said that a payload did not do what it is listed for; of 16 ms or more.
const MAX_LOOKS: usize = 100;

fn outcome_of(evidence: &Evidence, id: &str) -> Outcome {
    let ran = evidence.ran.iter().any(|ran| ran == id);
    if ran || evidence.dialogs.iter().any(|dialog| dialog.ends_with(id)) {
        return Outcome::Runs;
    }
    let asked = format!("//evil.invalid/{id}");
    let asks = evidence.requests.iter().any(|url| url.ends_with(&asked));
    if asks { Outcome::Asks } else { Outcome::Nothing }
}

#[tokio::test]
async fn a_browser_ends_with_its_guard() {
    let Some(browser) = Browser::start().await else { return };
    let pids = browser.pids();
    assert!(pids.len() > 3, "chromedriver, the browser and its processes: {pids:?}");
    drop(browser);
    until("all of them are gone", async || !pids.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn a_world_for_the_dashboard_has_jobs_in_every_state() {
    let dash = DashWorld::new().await;
    let status = dash.world.queue.status().await.unwrap();
    let dead: Vec<(&str, u64)> =
        status.dead_by_kind.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(
        BTreeMap::from_iter(dead),
        BTreeMap::from([("decode", 2), ("forbidden_address", 2), ("gone", 6)])
    );
    assert_eq!(status.scheduled, 1, "{status:?}");
    assert!(status.in_flight > 0 && status.in_flight + status.ready <= 8, "{status:?}");
    assert!(dash.closed_site.requests() > 0);
    for id in DashWorld::DONE {
        dash.world.run(&["job", "show", id]).await.exited_with(0).stdout_contains(&["done"]);
    }
}
