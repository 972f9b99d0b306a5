//! What operators come for, done by clicks against a worker that works: look, understand, act, take it back.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use wm_testbed::body::Body;
use wm_testbed::pages;

use crate::browser::Browser;
use crate::harness::until;
use crate::page::{Role, View};
use crate::world::{DashWorld, Dashboard};

const REASON: &str = "Why, for the audit";
const FIND: &str = "Find a job, a version, a page or an address";
/// Longest that a person waits for something.
const READ_TIME: Duration = Duration::from_secs(20);
/// Jobs at the host that answers nothing wait there; nothing of them is in the way of a test.
const CLOSED_HOST: &str = "127.0.0.3";

/// A person at the overview.
struct Person {
    dash: DashWorld,
    dashboard: Dashboard,
    browser: Browser,
}

impl Person {
    async fn come(view: View) -> Option<Self> {
        let browser = Browser::start().await?;
        let dash = DashWorld::new().await;
        let dashboard = dash.dashboard(&[]).await;
        browser.open(&dashboard.url, view).await;
        Some(Self { dash, dashboard, browser })
    }

    /// Clicks, and waits for the page of this heading.
    async fn click(&self, role: Role, name: &str, heading: &str) {
        self.browser.click(role, name).await;
        self.browser.until_text("h1", heading).await;
    }

    async fn find(&self, sought: &str) {
        self.browser.fill(FIND, sought).await;
        self.click(Role::Button, "Find", sought).await;
    }

    /// Sends the form of an act, and waits for the page that shows what it would touch.
    async fn show_plan(&self) {
        // It is the same page again.
        self.browser.eval("document.body.id = 'before'", &[]).await;
        self.browser.click(Role::Button, "Show the plan").await;
        self.browser
            .until("the plan is shown", "document.body?.id === '' && document.readyState === 'complete'")
            .await;
    }

    /// What stands on the page.
    async fn reads(&self, text: &str) {
        let read = timeout(READ_TIME, self.browser.until_text("main", text)).await;
        assert!(read.is_ok(), "{text:?} is not in {:#?}", self.browser.texts("main").await);
    }

    /// The pages of the dead letters of kind `gone` are there again.
    fn mend_site(&self) {
        for id in DashWorld::GONE {
            let (from, _) = pages::pair(id.bytes().map(u64::from).sum(), 3_000);
            self.dash.world.site.put(&format!("/{id}/from"), Body::html(from));
        }
    }

    async fn status(&self) -> Value {
        self.dash.world.run(&["status", "-o", "json"]).await.json()
    }

    async fn dead_of(&self, kind: &str) -> u64 {
        self.status().await["dead_by_kind"][kind].as_u64().unwrap_or(0)
    }

    /// The rows of the audit as the command shows them, newest first.
    async fn audit(&self) -> String {
        self.dash.world.run(&["audit", "ls", "-o", "json"]).await.exited_with(0).stdout
    }

    async fn leave(self) {
        self.browser.evidence().await.assert_clean(&self.dashboard.url);
    }
}

#[tokio::test]
async fn an_operator_goes_from_a_red_group_to_a_job_and_to_what_changed_on_a_page() {
    let Some(person) = Person::come(View::DESKTOP).await else { return };
    person.reads("Why jobs die").await;
    person.click(Role::Link, "gone", "Jobs").await;
    person.reads("1–6 of 6").await;
    person.click(Role::Link, "gone-0", "Job gone-0").await;
    for part in ["dead · gone", "Time line", "Evidence", "enqueued", "What it asks", "Reproduce it here"] {
        person.reads(part).await;
    }
    person.click(Role::Link, "those that died of the same at the same host", "Jobs").await;
    person.reads("1–6 of 6").await;
    person.find(DashWorld::DONE[0]).await;
    person.click(Role::Link, "What changed", "What changed").await;
    person.reads("Priority").await;
    let unified = person.browser.texts("p.hunk").await;
    assert!(!unified.is_empty());
    person.browser.click(Role::Link, "Side by side").await;
    person.browser.until_text(".sides", "").await;
    assert!(!person.browser.texts(".sides del").await.is_empty());
    assert!(!person.browser.texts(".sides ins").await.is_empty());
    person.leave().await;
}

#[tokio::test]
async fn an_operator_tries_five_sees_them_done_and_replays_the_rest() {
    let Some(person) = Person::come(View::DESKTOP).await else { return };
    person.mend_site();
    person.click(Role::Link, "gone", "Jobs").await;
    person.click(Role::Link, "Try 5…", "Replay dead letters").await;
    person.show_plan().await;
    person.reads("5 canaries").await;
    assert_eq!(person.dead_of("gone").await, 6, "a plan is not an act");
    person.browser.fill(REASON, "the pages are back").await;
    person.click(Role::Button, "Replay 6 dead letters", "Operation").await;
    person.reads("not come to 1").await;
    person.reads("done 5").await;
    person.reads("Replay the rest (1)…").await;
    assert_eq!(person.dead_of("gone").await, 1);
    person.click(Role::Link, "Replay the rest (1)…", "Replay the rest").await;
    person.show_plan().await;
    person.browser.fill(REASON, "they were done").await;
    person.click(Role::Button, "Replay 1 dead letter", "Operation").await;
    until("all of them are done", async || person.dead_of("gone").await == 0).await;
    person.click(Role::Link, "Audit", "What operators did").await;
    for reason in ["the pages are back", "they were done"] {
        person.reads(reason).await;
        assert!(person.audit().await.contains(reason));
    }
    for id in DashWorld::GONE {
        person.dash.world.run(&["job", "show", id]).await.exited_with(0).stdout_contains(&["done"]);
    }
    person.leave().await;
}

#[tokio::test]
async fn what_is_replayed_while_the_queue_is_paused_is_taken_back() {
    let Some(person) = Person::come(View::DESKTOP).await else { return };
    person.click(Role::Link, "Pause…", "Pause the queue").await;
    person.browser.fill("Name", "deploy").await;
    person.browser.fill(REASON, "an upgrade").await;
    person.browser.click(Role::Button, "Pause the queue").await;
    person.reads("an upgrade").await;
    assert_eq!(person.status().await["pauses"][0]["name"], "deploy");

    person.click(Role::Link, "Groups", "Why jobs die").await;
    person.click(Role::Link, "gone", "Jobs").await;
    person.click(Role::Link, "Replay…", "Replay dead letters").await;
    person.browser.fill("Canaries first", "").await;
    person.show_plan().await;
    person.click(Role::Button, "Replay 6 dead letters", "Operation").await;
    person.reads("still waits or runs 6").await;
    until("they wait", async || person.dead_of("gone").await == 0).await;
    person.reads("It is through.").await;
    person.click(Role::Link, "Undo…", "Undo a replay").await;
    person.show_plan().await;
    person.browser.fill(REASON, "too early").await;
    person.click(Role::Button, "Undo it", "Operation").await;
    person.reads("It is through.").await;
    until("they are dead letters again", async || person.dead_of("gone").await == 6).await;

    person.browser.open(&person.dashboard.url, View::DESKTOP).await;
    person.click(Role::Link, "Resume…", "Resume the queue").await;
    person.browser.click(Role::Button, "Resume the queue").await;
    until("it runs", async || {
        person.browser.texts(".state strong").await.first().is_some_and(|state| state == "RUNNING")
    })
    .await;
    assert_eq!(person.status().await["pauses"], Value::Array(Vec::new()));
    let audit = person.audit().await;
    for what in ["pause deploy", "an upgrade", "undo", "too early", "resume deploy"] {
        assert!(audit.contains(what), "{what}: {audit}");
    }
    person.leave().await;
}

#[tokio::test]
async fn what_is_discarded_lies_in_the_trash_and_is_restored_by_its_operation() {
    let Some(person) = Person::come(View::DESKTOP).await else { return };
    person.click(Role::Link, "forbidden_address", "Jobs").await;
    person.click(Role::Link, "Discard…", "Discard dead letters").await;
    person.show_plan().await;
    person.browser.fill(REASON, "a test by hand").await;
    person.click(Role::Button, "Discard 2 dead letters", "Operation").await;
    person.reads("discarded 2").await;
    person.reads("It is through.").await;
    assert_eq!(person.dead_of("forbidden_address").await, 0);
    let trash = person.dash.world.run(&["job", "ls", "state:trash"]).await.exited_with(0).stdout;
    assert!(DashWorld::FORBIDDEN.iter().all(|id| trash.contains(id)), "{trash}");
    person.click(Role::Link, "Restore all…", "Restore from the trash").await;
    person.click(Role::Button, "Restore 2 letters", "Operation").await;
    person.reads("restored 2").await;
    assert_eq!(person.dead_of("forbidden_address").await, 2);
    let audit = person.audit().await;
    assert!(audit.contains("a test by hand") && audit.contains("restore"), "{audit}");
    person.leave().await;
}

#[tokio::test]
async fn a_field_of_a_dead_letter_is_edited_and_the_job_is_done() {
    let Some(person) = Person::come(View::DESKTOP).await else { return };
    let [id, _] = DashWorld::FORBIDDEN;
    person.find(id).await;
    person.click(Role::Link, "Edit a field and retry…", "Edit a field and retry").await;
    let page = person.dash.world.page();
    person.browser.fill("Fields to change, one on a line", "id=another").await;
    person.show_plan().await;
    person.reads("its id and its two versions must stay").await;
    let edits = format!("from.body_url={page}\nto.body_url={page}");
    person.browser.fill("Fields to change, one on a line", &edits).await;
    person.show_plan().await;
    person.browser.fill(REASON, "the address was wrong").await;
    person.click(Role::Button, "Replay 1 dead letter", "Operation").await;
    person.reads("done 1").await;
    person.dash.world.run(&["job", "show", id]).await.exited_with(0).stdout_contains(&["done"]);
    assert!(person.audit().await.contains("the address was wrong"));
    person.leave().await;
}

#[tokio::test]
async fn a_host_rests_by_a_click_and_its_rest_is_ended_by_another() {
    let Some(person) = Person::come(View::DESKTOP).await else { return };
    person.click(Role::Link, "Hosts", "Hosts").await;
    person.click(Role::Link, "Rest another host…", "Rest a host").await;
    person.browser.fill("Host", CLOSED_HOST).await;
    person.browser.fill("For how long", "20m").await;
    person.browser.fill(REASON, "they asked us to").await;
    person.click(Role::Button, "Rest a host", "Hosts").await;
    person.reads("they asked us to").await;
    let hosts = person.status().await["hosts"].to_string();
    assert!(hosts.contains(CLOSED_HOST) && hosts.contains("they asked us to"), "{hosts}");
    person.click(Role::Link, "End rest…", "End the rest of a host").await;
    person.click(Role::Button, "End the rest of a host", "Hosts").await;
    let audit = person.audit().await;
    assert!(audit.contains("they asked us to") && audit.contains("resume"), "{audit}");
    person.leave().await;
}
