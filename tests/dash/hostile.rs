//! The XSS table: every untrusted field with every payload; none of them runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;
use url::Url;
use uuid::Uuid;
use wm_analyzer::job::page::Version;
use wm_analyzer::job::{Job, VersionRef};
use wm_testbed::http::{HttpServer, Request, Response};

use crate::browser::Browser;
use crate::client::encoded;
use crate::evidence::Evidence;
use crate::harness::{World, env_var_name, job, key, until};
use crate::page::View;
use crate::payloads::payloads;
use crate::world::Dashboard;

/// Payloads on one page of the site: a report has room for all of their hunks.
const ON_A_PAGE: usize = 6;
/// Longer ones are in forms and in the queue, and not in addresses, which browsers and we bound.
const ADDRESS_MAX_BYTES: usize = 8_000;
/// Hosts that rest by hand, of the 100 that may.
const RESTS_MAX: usize = 90;

/// Nothing of what was shown ran, asked anybody, or had to be refused by the policy: it was text.
fn assert_inert(evidence: &Evidence, own: &Url) {
    assert_eq!(evidence.ran, [""; 0], "{:#?}", evidence.ran);
    assert_eq!(evidence.dialogs, [""; 0], "{:#?}", evidence.dialogs);
    assert_eq!(evidence.csp_violations, [""; 0], "{:#?}", evidence.csp_violations);
    assert_eq!(evidence.foreign_requests(own), [""; 0]);
}

/// Fails where the page that is open has something to click that is no page: `javascript:`, `data:`.
async fn assert_leads_to_pages(browser: &Browser) {
    let script = "return [...document.querySelectorAll('a, area, form, button, input')]
        .flatMap((e) => [e.href, e.action, e.formAction].filter((to) => typeof to === 'string' && to))
        .filter((to) => !/^https?:/.test(to)).slice(0, 5);";
    let leads = browser.eval(script, &[]).await;
    assert_eq!(leads, json!([]), "{}", browser.url().await);
}

fn texts() -> Vec<String> {
    payloads().into_iter().map(|payload| payload.text).collect()
}

/// As a page writes text that is no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").replace('\0', "")
}

/// A page whose text, title, metadata and links are these payloads.
fn hostile_page(number: usize) -> String {
    let all = texts();
    let mut page = String::from("<!DOCTYPE html><html><head>");
    for (at, text) in all.iter().skip(number * ON_A_PAGE).take(ON_A_PAGE).enumerate() {
        let text: String = text.chars().take(2_000).collect();
        let text = escaped(&text);
        write!(page, "<title>{text}</title><meta name=\"description\" content=\"{text}\">").unwrap();
        write!(page, "<meta property=\"og:{at}\" content=\"{text}\">").unwrap();
        write!(page, "<h2>{text}</h2><p>{text}</p><a href=\"{text}\">{text}</a>").unwrap();
        write!(page, "<a href=\"https://x.example.gov/?q={text}#{text}\">link {at} {text}</a>").unwrap();
    }
    page
}

/// Answers `/<number>/from|to`; the newer version has the payloads, and so has its media type.
fn respond(request: &Request) -> Response {
    let mut parts = request.path().trim_start_matches('/').split('/');
    let number: usize = parts.next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let (body, declared) = match parts.next() {
        Some("to") => {
            let text = &texts()[number % texts().len()];
            let printable: String = text.chars().filter(|c| (' '..='~').contains(c)).take(500).collect();
            (hostile_page(number), format!("text/html; charset=utf-8; {printable}"))
        }
        Some("missing") => return Response::new(404, &[], []),
        _ => ("<!DOCTYPE html><title>Before</title><p>Nothing yet.</p>".to_owned(), "text/html".to_owned()),
    };
    Response::new(200, &[("content-type", declared.as_str())], body.into_bytes())
}

/// A queue whose untrusted fields are all hostile, and the jobs that were made of them.
struct Hostile {
    world: World,
    dashboard: Dashboard,
    pairs: Vec<Job>,
    _worker: crate::harness::Worker,
    _site: HttpServer,
}

impl Hostile {
    async fn new() -> Self {
        let site = HttpServer::start(Arc::new(respond)).await.unwrap();
        let mut world = World::new().await.with("dash.user_header", "X-Forwarded-User");
        let worker = world.worker();
        let url = |path: String| site.url(&path);
        let pages = texts().len().div_ceil(ON_A_PAGE);
        let pairs: Vec<Job> = (0..pages)
            .map(|n| job(&format!("pair-{n}"), url(format!("/{n}/from")), url(format!("/{n}/to"))))
            .collect();
        world.send(&pairs).await;
        let all = texts();
        let as_they_are: Vec<&[u8]> = all.iter().map(|text| text.as_bytes()).collect();
        world.push(&as_they_are).await;
        let as_jobs: Vec<Vec<u8>> =
            all.iter().enumerate().flat_map(|(n, text)| jobs_of(n, text, &site)).collect();
        world.push(&as_jobs.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
        // The dashboard for acting is behind a proxy that passes hostile user names.
        let behind_proxy = Dashboard::start(&world, &[]).await;
        world.settings.remove(&env_var_name("dash.user_header"));
        let dashboard = Dashboard::start(&world, &[]).await;
        let hostile = Self { world, dashboard, pairs, _worker: worker, _site: site };
        for pair in &hostile.pairs {
            hostile.world.until_event(&pair.id, "done").await;
        }
        until("all of the others have died", async || {
            let status = hostile.world.queue.status().await.unwrap();
            status.backlog() + status.inbox + status.in_flight == 0
        })
        .await;
        hostile.write_as_operators(&behind_proxy).await;
        hostile.write_in_redis().await;
        hostile
    }

    /// Names and reasons, as forms send them.
    async fn write_as_operators(&self, dashboard: &Dashboard) {
        for (n, text) in texts().iter().enumerate().take(RESTS_MAX) {
            let name: String = text.chars().filter(|c| (' '..='~').contains(c)).take(200).collect();
            let who = [("X-Forwarded-User", name.as_str())];
            let reason: String = text.chars().take(500).collect();
            let rest = [("host", &*format!("h{n}.example.gov")), ("reason", &reason)];
            dashboard.post("/switch/rest-host", &who, &rest).await.is(303);
            let refused = [("q", text.as_str()), ("reason", &reason), ("edits", text), ("limits", text)];
            let answer = dashboard.post("/acts/replay", &who, &refused).await;
            assert!([200, 303, 413].contains(&answer.status), "{answer:?}");
        }
    }

    /// What somebody writes who reaches Redis, or an older build: pauses and workers.
    async fn write_in_redis(&self) {
        let world = &self.world;
        let status = world.queue.status().await.unwrap();
        let real = status.workers.first().map(|worker| worker.info.id.to_string()).unwrap();
        let entry: Vec<(String, String)> = world.redis_cmd("HGETALL", key(&format!("worker:{real}"))).await;
        for (n, text) in texts().iter().enumerate() {
            let text: String = text.chars().take(1_000).collect();
            let pause = json!({ "by": text, "reason": text, "since_ms": status.at_ms });
            let _: () = world.redis_cmd("HSET", &[key("paused"), format!("p{n}"), pause.to_string()]).await;
            let breakers = json!({ &text: text }).to_string();
            let mut fields = vec![key(&format!("worker:evil-{n}"))];
            for (name, value) in &entry {
                let is_text = ["host", "version", "phase", "db_app"].contains(&name.as_str());
                fields.extend([name.clone(), if is_text { text.clone() } else { value.clone() }]);
            }
            fields.extend(["slots_limited_by".to_owned(), text.clone()]);
            fields.extend(["breakers".to_owned(), breakers.clone(), "breaker_reasons".to_owned(), breakers]);
            let _: () = world.redis_cmd("HSET", &fields).await;
            let silent = [key("workers"), status.at_ms.to_string(), format!("evil-{n}")];
            let _: () = world.redis_cmd("ZADD", &silent).await;
        }
    }
}

/// Payloads of producers with this text in each field that a job has.
fn jobs_of(n: usize, text: &str, site: &HttpServer) -> Vec<Vec<u8>> {
    let text: String = text.chars().take(1_500).collect();
    let missing = site.url(&format!("/{n}/missing"));
    let with = |id: &str, change: &dyn Fn(&mut Version)| {
        let mut version = Version::at(Uuid::new_v4(), missing.clone());
        change(&mut version);
        let older = VersionRef::Inline(Box::new(Version::at(Uuid::new_v4(), missing.clone())));
        let job = Job::new(older, VersionRef::Inline(Box::new(version)));
        let mut payload = serde_json::to_value(&job).unwrap();
        payload["id"] = json!(id);
        payload
    };
    let mut addressed = missing.clone();
    addressed.set_query(Some(&text));
    addressed.set_fragment(Some(&text));
    let mut payloads = vec![
        with(&format!("typed-{n}"), &|version| version.media_type = Some(text.clone())),
        with(&format!("captured-{n}"), &|version| version.url = Some(text.clone())),
        with(&format!("addressed-{n}"), &|version| version.body_url = addressed.clone()),
        with(&text, &|_| ()),
    ];
    let mut scheme = with(&format!("scheme-{n}"), &|_| ());
    scheme["to"]["body_url"] = json!(text);
    payloads.push(scheme);
    let mut unknown = with(&format!("unknown-{n}"), &|_| ());
    unknown["traceparent"] = json!(text);
    unknown[&text] = json!(text);
    payloads.push(unknown);
    payloads.iter().map(|payload| payload.to_string().into_bytes()).collect()
}

#[tokio::test]
async fn hostile_text_in_pages_payloads_reasons_and_redis_is_shown_as_text_on_every_page() {
    let Some(browser) = Browser::start().await else { return };
    let hostile = Hostile::new().await;
    let dashboard = &hostile.dashboard;
    let mut paths: Vec<String> =
        ["/", "/groups", "/hosts", "/workers", "/audit", "/settings"].map(str::to_owned).into();
    paths.extend((0..8).map(|page| format!("/jobs?q=state%3Adead&skip={}", page * 100)));
    for pair in &hostile.pairs {
        let (from, to) = (pair.from.given().unwrap().uuid(), pair.to.uuid());
        paths.extend(["unified", "side"].map(|view| format!("/change?from={from}&to={to}&view={view}")));
        paths.push(format!("/job?id={}", pair.id));
        paths.push(format!("/find?q={to}"));
    }
    until("the overview is that of now", async || {
        dashboard.get("/", &[]).await.is(200).body.contains("Paused as")
    })
    .await;
    let dead = hostile.world.dead().await;
    assert!(dead.len() > 4 * texts().len(), "{} have died", dead.len());
    paths.extend(dead.iter().map(|job| format!("/job?id={}", job.id)));
    let mut shown: BTreeMap<&str, String> = BTreeMap::new();
    for path in &paths {
        browser.open(&dashboard.page(path), View::DESKTOP).await;
        assert!(browser.title().await.ends_with("· analysis · wm-analyzer"), "{path}");
        assert_leads_to_pages(&browser).await;
        let page = path.split('?').next().unwrap();
        shown.entry(page).or_default().extend(browser.texts("main").await);
    }
    assert_inert(&browser.evidence().await, &dashboard.url);
    // What was to be shown was shown; the longest are cut before they say their names.
    let mut wrong = Vec::new();
    for page in ["/", "/workers", "/audit", "/jobs", "/job", "/change"] {
        let short = payloads().into_iter().filter(|payload| !payload.id.starts_with("long-"));
        let missing: Vec<&str> =
            short.map(|payload| payload.id).filter(|id| !shown[page].contains(id)).collect();
        wrong.extend((!missing.is_empty()).then(|| format!("{page}: {missing:?}")));
    }
    assert_eq!(wrong, [""; 0]);
}

#[tokio::test]
async fn hostile_text_in_an_address_is_shown_as_text() {
    let Some(browser) = Browser::start().await else { return };
    let world = World::new().await;
    let dashboard = Dashboard::start(&world, &[]).await;
    browser.open(&dashboard.url, View::DESKTOP).await;
    for payload in payloads().iter().filter(|payload| payload.text.len() < ADDRESS_MAX_BYTES) {
        let text = payload.text.as_str();
        let all = |path: &str, names: &[&str]| {
            let pairs: Vec<(&str, &str)> = names.iter().map(|name| (*name, text)).collect();
            format!("{path}?{}", encoded(&pairs))
        };
        for path in [
            all("/jobs", &["q"]),
            all("/find", &["q"]),
            all("/groups", &["host", "kind", "window"]),
            all("/job", &["id"]),
            all("/operation", &["id"]),
            all("/login", &["next"]),
            all("/acts/replay", &["q", "rate", "canary", "only", "limits", "reason"]),
            all("/acts/edit", &["id", "edits", "limits", "reason"]),
            all("/switch/pause", &["name", "time", "reason"]),
            all("/switch/set", &["name", "value", "host", "id"]),
            format!("/{}", encoded(&[(text, text)])),
        ] {
            let url = dashboard.page(&path);
            browser.driver.goto(url.as_str()).await.unwrap();
        }
        assert_leads_to_pages(&browser).await;
        assert_inert(&browser.evidence().await, &dashboard.url);
    }
}
