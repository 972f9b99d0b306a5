//! How the pages look and are used: by keys, by who cannot see well, on a phone, without scripts, and as pictures.

use std::path::{Path, PathBuf};

use thirtyfour::Key;
use tokio::fs;

use crate::browser::Browser;
use crate::harness::{World, until};
use crate::page::{Role, View};
use crate::world::{DashWorld, Dashboard};

/// Longest way by the Tab key to something on a page.
const TABS_MAX: usize = 120;
/// Where pictures are that README and docs show; written where this is set in the environment.
const UPDATE: &str = "WM_UPDATE_SCREENSHOTS";
/// As much of a page as a README has room for.
const PICTURE_HEIGHT: f64 = 760.0;
/// A picture is loaded with the README.
const PICTURE_MAX_BYTES: usize = 250 * 1024;

/// Every page of a queue with jobs in every state; `change` is the page of a pair.
async fn every_page(dash: &DashWorld) -> Vec<String> {
    let ended = dash.world.queue.operator.results(100).await.unwrap().0;
    let done = ended.iter().find(|ended| ended.id == DashWorld::DONE[0]).unwrap();
    let (from, to) = done.pair.split_once("..").unwrap();
    let replay = ["dead", "replay", DashWorld::FORBIDDEN[0], "--yes", "-o", "json"];
    let operation = dash.world.run(&replay).await.json()["operation"].as_str().unwrap().to_owned();
    let fixed = [
        "/",
        "/groups",
        "/jobs",
        "/jobs?q=state%3Adead",
        "/jobs?q=no-such-job",
        "/job?id=gone-0",
        "/job?id=done-0",
        "/job?id=no-such-job",
        "/find?q=nothing",
        "/hosts",
        "/workers",
        "/audit",
        "/settings",
        "/no-such-page",
        "/acts/replay?q=state%3Adead&canary=5",
        "/acts/edit?id=gone-0",
        "/acts/discard?q=kind%3Agone",
        "/acts/replay?q=nonsense%3Ax",
        "/switch/pause",
        "/switch/rest-host",
        "/switch/set",
        "/login",
    ];
    let mut pages: Vec<String> = fixed.iter().map(|page| (*page).to_owned()).collect();
    pages.extend(["unified", "side"].map(|view| format!("/change?from={from}&to={to}&view={view}")));
    pages.push(format!("/find?q={to}"));
    pages.push(format!("/operation?id={operation}"));
    pages
}

#[tokio::test]
async fn every_page_is_accessible_in_both_schemes_and_is_read_on_a_phone_without_moving_it_sideways() {
    let Some(browser) = Browser::start().await else { return };
    let dash = DashWorld::new().await;
    let dashboard = dash.dashboard(&[]).await;
    let mut wrong = Vec::new();
    for page in every_page(&dash).await {
        for view in [View::DESKTOP, View::DESKTOP.dark()] {
            browser.open(&dashboard.page(&page), view).await;
            let found = browser.axe().await.unwrap_or_default();
            let said = |v: &crate::axe::Violation| format!("{page}: {} {:?} ({})", v.id, v.nodes, v.help);
            wrong.extend(found.iter().map(said));
        }
        browser.open(&dashboard.page(&page), View::PHONE).await;
        wrong.extend(browser.overflow().await.map(|overflow| format!("{page}: {overflow:?}")));
    }
    assert_eq!(wrong, [""; 0], "{wrong:#?}");
}

#[tokio::test]
async fn an_empty_queue_says_on_each_page_what_will_be_there() {
    let Some(browser) = Browser::start().await else { return };
    let world = World::new().await;
    let dashboard = Dashboard::start(&world, &[]).await;
    for (page, said) in [
        ("/", "No job is dead. What dies is listed here"),
        ("/", "No worker lives. Start one:"),
        ("/", "No host is slow, down or resting."),
        ("/", "Each act of each operator is listed here."),
        ("/groups", "No job died in the last week"),
        ("/jobs", "No job matches."),
        ("/hosts", "A host that fails rests by itself"),
        ("/workers", "No worker lives. Start one:"),
        ("/audit", "Nothing yet."),
        ("/settings", "not stored yet: no worker has started"),
        ("/find?q=something", "No job has this id."),
        ("/job?id=some-job", "It is unknown here, or ended so long ago"),
        ("/operation?id=replay-00000000", "It is unknown, or forgotten"),
        ("/acts/replay?q=state%3Adead", "nothing changed"),
    ] {
        for view in [View::DESKTOP, View::PHONE.dark()] {
            browser.open(&dashboard.page(page), view).await;
            browser.until_text("main", said).await;
            assert!(browser.overflow().await.is_none(), "{page}");
        }
        browser.assert_accessible().await;
    }
    browser.evidence().await.assert_clean(&dashboard.url);
}

impl Browser {
    /// Presses Tab until the focus is on what is called so; what is passed can be seen all the way.
    async fn tab_to(&self, name: &str) {
        let mut passed = Vec::new();
        for _ in 0..TABS_MAX {
            self.press(Key::Tab).await;
            let Some(focus) = self.focus().await else { continue };
            assert!(focus.is_outlined && focus.is_in_view, "{focus:?} on {}", self.url().await);
            if focus.name == name {
                return;
            }
            passed.push(focus.name);
        }
        panic!("no way to {name:?} on {}: {passed:?}", self.url().await);
    }

    /// Goes to the page behind the link or button that is called so, by keys alone.
    async fn follow_by_keys(&self, name: &str, heading: &str) {
        self.tab_to(name).await;
        self.press(Key::Enter).await;
        self.until_text("h1", heading).await;
    }
}

#[tokio::test]
async fn the_whole_way_is_gone_by_keys_alone_and_the_focus_is_always_seen() {
    let Some(browser) = Browser::start().await else { return };
    let dash = DashWorld::new().await;
    let dashboard = dash.dashboard(&[]).await;
    browser.open(&dashboard.url, View::DESKTOP.reduced_motion()).await;
    browser.tab_to("Skip to the content").await;
    browser.press(Key::Enter).await;
    browser.press(Key::Tab).await;
    let first = browser.focus().await.unwrap();
    assert!(!["Find", "Overview"].contains(&first.name.as_str()), "{first:?}");

    browser.open(&dashboard.url, View::DESKTOP).await;
    browser.tab_to("Find a job, a version, a page or an address").await;
    browser.type_text("gone-1").await;
    browser.press(Key::Enter).await;
    browser.until_text("h1", "Job gone-1").await;
    browser.follow_by_keys("Groups", "Why jobs die").await;
    browser.follow_by_keys("gone", "Jobs").await;
    browser.follow_by_keys("Try 5…", "Replay dead letters").await;
    browser.tab_to("Why, for the audit").await;
    browser.type_text("by keys").await;
    browser.follow_by_keys("Replay 6 dead letters", "Operation").await;
    browser.until_text("main", "dead").await;
    let audit = dash.world.run(&["audit", "ls"]).await.exited_with(0).stdout;
    assert!(audit.contains("by keys"), "{audit}");
    browser.evidence().await.assert_clean(&dashboard.url);
}

#[tokio::test]
async fn pages_forms_and_acts_work_without_scripts() {
    let Some(browser) = Browser::start().await else { return };
    let dash = DashWorld::new().await;
    let dashboard = dash.dashboard(&[]).await;
    browser.open(&dashboard.url, View::DESKTOP.without_scripts()).await;
    browser.click(Role::Link, "gone").await;
    browser.until_text("h1", "Jobs").await;
    browser.click(Role::Link, "Discard…").await;
    browser.until_text("h1", "Discard dead letters").await;
    browser.click(Role::Button, "Show the plan").await;
    browser.fill("Why, for the audit", "without scripts").await;
    browser.click(Role::Button, "Discard 6 dead letters").await;
    browser.until_text("h1", "Operation").await;
    until("they are discarded", async || {
        browser.driver.refresh().await.unwrap();
        browser.texts("main").await.join("").contains("discarded 6")
    })
    .await;
    browser.click(Role::Link, "Overview").await;
    browser.click(Role::Link, "Pause…").await;
    browser.fill("Why, for the audit", "without scripts").await;
    browser.click(Role::Button, "Pause the queue").await;
    browser.until_text("main", "without scripts").await;
    browser.evidence().await.assert_clean(&dashboard.url);
    let status = dash.world.run(&["status", "-o", "json"]).await.json();
    assert_eq!(status["pauses"][0]["reason"], "without scripts");
}

#[tokio::test]
async fn reduced_motion_turns_every_transition_off() {
    let Some(browser) = Browser::start().await else { return };
    let world = World::new().await;
    let dashboard = Dashboard::start(&world, &[]).await;
    let moving = "return [...document.querySelectorAll('*')].filter((e) => {
        const style = getComputedStyle(e);
        return parseFloat(style.transitionDuration) > 0 || style.animationName !== 'none';
    }).length;";
    browser.open(&dashboard.url, View::DESKTOP).await;
    assert!(browser.eval(moving, &[]).await.as_u64().unwrap() > 0);
    browser.open(&dashboard.url, View::DESKTOP.reduced_motion()).await;
    assert_eq!(browser.eval(moving, &[]).await, 0);
}

/// Takes a picture of the page that is open, and keeps it where pictures are to be updated.
async fn take(browser: &Browser, name: &str, dir: &Path) {
    let picture = dir.join(format!("dash-{name}.png"));
    browser.screenshot_of_top(&picture, PICTURE_HEIGHT).await;
    let bytes = fs::read(&picture).await.unwrap();
    assert!((5_000..=PICTURE_MAX_BYTES).contains(&bytes.len()), "{name}: {} bytes", bytes.len());
    if std::env::var_os(UPDATE).is_some() {
        let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/images");
        fs::create_dir_all(&kept).await.unwrap();
        fs::copy(&picture, kept.join(picture.file_name().unwrap())).await.unwrap();
    }
}

#[tokio::test]
async fn the_pictures_of_the_documentation_are_taken_of_the_pages_as_they_are() {
    let Some(browser) = Browser::start().await else { return };
    let dashboard = Dashboard::of_demo().await;
    until("the worker has said that it is idle", async || {
        dashboard.get("/", &[]).await.is(200).body.contains("0 of 2 slots busy")
    })
    .await;
    let of_kind = dashboard.get("/jobs?q=kind%3Amemory_exceeded", &[]).await.is(200);
    let job = of_kind.body.split('"').find(|text| text.starts_with("/job?id=")).unwrap().to_owned();
    let done = dashboard.get("/job?id=demo-good-0", &[]).await.is(200);
    let change =
        done.body.split('"').find(|text| text.starts_with("/change?")).unwrap().replace("&amp;", "&");
    let rest = [("host", "archive.example.gov"), ("time", "15m"), ("reason", "they asked us to wait")];
    dashboard.post("/switch/rest-host", &[], &rest).await.is(303);
    let dir = tempfile::tempdir().unwrap();
    for (scheme, view) in [("light", View::DESKTOP), ("dark", View::DESKTOP.dark())] {
        for (name, page) in [("overview", "/"), ("groups", "/groups"), ("job", &*job), ("change", &*change)] {
            browser.open(&dashboard.page(page), view).await;
            take(&browser, &format!("{name}-{scheme}"), dir.path()).await;
        }
    }
    browser.evidence().await.assert_clean(&dashboard.url);
}
