//! A backfill: what the app knows and nobody compared, enqueued once, slowly, and from where it was left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;
use wm_analyzer::job::JobId;
use wm_testbed::body::Body;
use wm_testbed::db_app::{DbState, FakeDb, errors, version};
use wm_testbed::pages;
use wm_testbed::site::Resource;

use crate::harness::{World, until};

/// `analyst@db.test:hunter2`
const BASIC: &str = "Basic YW5hbHlzdEBkYi50ZXN0Omh1bnRlcjI=";
const OCTOBER: [&str; 5] = ["backfill", "--since", "2018-10-01", "--until", "2018-11-01"];

/// An app with nine versions, one a day from the 28th of September on, in chunks of two. Of the six of October one
/// does not differ and one has a change: four are to be enqueued.
async fn world_with_history() -> (World, FakeDb, Vec<String>) {
    let page = Uuid::new_v4();
    let days = ["09-28", "09-29", "09-30", "10-01", "10-02", "10-03", "10-04", "10-05", "10-06"];
    let versions: Vec<Value> = days
        .iter()
        .map(|day| {
            let mut version = version(Uuid::new_v4(), page);
            version["capture_time"] = format!("2018-{day}T12:00:00.123Z").into();
            version["different"] = (*day != "10-02").into();
            version
        })
        .collect();
    let uuids: Vec<String> = versions.iter().map(|v| v["uuid"].as_str().unwrap().to_owned()).collect();
    let db = FakeDb::with(DbState {
        versions,
        authorization: Some(BASIC.to_owned()),
        changes: vec![uuids[4 + 1].clone()],
        max_chunk: 2,
        ..DbState::default()
    })
    .await;
    let world = World::new()
        .await
        .with("api.url", format!("http://{}", db.address()))
        .with("api.email", "analyst@db.test")
        .with("api.password", "hunter2");
    let wanted = [3, 6, 7, 8].map(|at| uuids[at].clone()).to_vec();
    (world, db, wanted)
}

fn october<'a>(more: &[&'a str]) -> Vec<&'a str> {
    OCTOBER.iter().chain(more).copied().collect()
}

async fn enqueued(world: &World) -> Vec<String> {
    let mut uuids: Vec<String> = world.keys("job:backfill:*").await;
    uuids.iter_mut().for_each(|key| *key = key.rsplit(':').next().unwrap().to_owned());
    uuids
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}

#[tokio::test]
async fn versions_without_a_change_are_enqueued_once_with_the_version_before_them() {
    let (world, db, wanted) = world_with_history().await;
    let ran = world.run(&october(&["--yes", "-o", "json", "--compare-earliest"])).await.exited_with(0);
    let count = json!({"seen": 6, "unchanged": 1, "unreadable": 0, "has_change": 1, "enqueued": 4, "duplicate": 0,
        "already_done": 0, "ended_before": 0});
    assert_eq!(ran.json(), json!({"schema_version": 1, "finished": true, "dry_run": false, "count": count}));
    assert_eq!(sorted(enqueued(&world).await), sorted(wanted.clone()));
    let id = wm_analyzer::job::JobId::parse(&format!("backfill:{}", wanted[0])).unwrap();
    let payload: Value = serde_json::from_str(&world.field(&id, "payload").await.unwrap()).unwrap();
    assert_eq!((&payload["to"], &payload["priority"]), (&json!(wanted[0]), &json!("low")));
    assert_eq!((&payload["compare_earliest"], payload.get("from")), (&json!(true), None));
    assert_eq!(payload["page"], db.with_state(|db| db.versions[0]["page_uuid"].clone()));
    // Every chunk is asked of the app itself, whatever its links say; the last one is empty.
    assert_eq!((db.calls() - db.logins(), db.logins()), (4, 1));

    let again = world.run(&october(&["--yes"])).await.exited_with(0);
    again.stderr_contains(&["enqueued 0 of 6 versions", "4 wait already", "queue pause"]);
}

#[tokio::test]
async fn a_plan_is_shown_and_nothing_happens_without_a_yes() {
    let (world, _db, _) = world_with_history().await;
    let planned = world.run(&october(&["--dry-run"])).await.exited_with(0);
    planned.stderr_contains(&["into queue analysis", "would enqueue 4 of 6", "nothing changed"]);
    world.run(&OCTOBER).await.exited_with(4).stderr_contains(&["--yes", "nothing changed"]);
    world.run(&["backfill", "--since", "2018-10-02", "--until", "2018-10-01", "--yes"]).await.exited_with(2);
    let nobody = world.run(&["backfill", "--since", "2019-01-01", "--until", "2019-02-01", "--yes"]).await;
    nobody.exited_with(0).stderr_contains(&["enqueued 0 of 0"]);
    assert_eq!(enqueued(&world).await, [""; 0]);
    world.with("api.url", "").run(&october(&["--yes"])).await.exited_with(78).stderr_contains(&["api.url"]);
}

#[tokio::test]
async fn a_backfill_that_was_stopped_goes_on_where_its_cursor_says() {
    let (world, db, wanted) = world_with_history().await;
    let directory = tempfile::tempdir().unwrap();
    let cursor = directory.path().join("october.json");
    let cursor = cursor.to_str().unwrap();
    let refusal = (400, Vec::new(), errors(400, "not today").to_string());
    db.with_state(|db| db.list_fault = Some((1, 1, refusal)));
    let stopped = world.run(&october(&["--yes", "--cursor", cursor])).await.exited_with(1);
    stopped.stderr_contains(&["not today", "say the same again to go on"]);
    assert_eq!(enqueued(&world).await, wanted[..1], "the first chunk is in");

    let looked = world.run(&october(&["--dry-run", "--cursor", cursor])).await.exited_with(0);
    looked.stderr_contains(&["going on where", "after 2 versions"]);
    let calls = || db.calls() - db.logins();
    let before = calls();
    // Without --until, which the cursor knows.
    world.run(&["backfill", "--since", "2018-10-01", "--yes", "--cursor", cursor]).await.exited_with(0);
    assert_eq!(calls() - before, 3, "the first chunk is not asked for again");
    assert_eq!(sorted(enqueued(&world).await), sorted(wanted));

    world
        .run(&october(&["--yes", "--cursor", cursor]))
        .await
        .exited_with(0)
        .stderr_contains(&["backfill is finished"]);
    assert_eq!(calls() - before, 3);
    let other = world.run(&["backfill", "--since", "2018-10-02", "--yes", "--cursor", cursor]).await;
    other.exited_with(2).stderr_contains(&["another backfill"]);
}

#[tokio::test]
async fn an_app_that_cannot_answer_is_asked_again_and_an_endless_list_is_left() {
    let (world, db, wanted) = world_with_history().await;
    let down = (503, Vec::new(), json!({"status": 503}).to_string());
    db.with_state(|db| db.list_fault = Some((1, 1, down)));
    world.run(&october(&["--yes"])).await.exited_with(0).stderr_contains(&["trying again"]);
    assert_eq!(sorted(enqueued(&world).await), sorted(wanted));
    // The same version for ever.
    db.with_state(|db| {
        let data = json!({"links": {"next": "/api/v0/versions?chunk=here"}, "data": [db.versions[3]]});
        db.authorization = None;
        db.response_override = Some((200, Vec::new(), data.to_string()));
    });
    let world = world.with("api.timeout", "5s").with("api.email", "").with("api.password", "");
    let before = db.calls();
    world
        .run(&october(&["--yes", "--again"]))
        .await
        .exited_with(1)
        .stderr_contains(&["goes back to versions"]);
    assert!(db.calls() - before <= 5, "{}", db.calls() - before);
}

/// An app with these times of capture, and what is wrong with some of the versions.
async fn world_with_versions(times: impl IntoIterator<Item = String>) -> (World, FakeDb, Vec<String>) {
    let page = Uuid::new_v4();
    let timed = |time: String| {
        let mut version = version(Uuid::new_v4(), page);
        version["capture_time"] = time.into();
        version
    };
    let versions: Vec<Value> = times.into_iter().map(timed).collect();
    let uuids = versions.iter().map(|v| v["uuid"].as_str().unwrap().to_owned()).collect();
    let authorization = Some(BASIC.to_owned());
    let db = FakeDb::with(DbState { versions, authorization, ..DbState::default() }).await;
    let world = World::new().await.with("api.url", format!("http://{}", db.address()));
    let world = world.with("api.email", "analyst@db.test").with("api.password", "hunter2");
    (world, db, uuids)
}

#[tokio::test]
async fn a_second_with_three_hundred_versions_is_enqueued_whole() {
    // In one second, in one millisecond that the app does not show apart, and at one moment.
    let second = (0..300).map(|n| format!("2018-10-05T12:00:00.{:03}Z", n * 3));
    let millisecond = (0..300).map(|n| format!("2018-10-06T12:00:00.123{n:03}Z"));
    let moment = (0..300).map(|_| "2018-10-07T12:00:00.000Z".to_owned());
    let all = second.chain(millisecond).chain(moment).chain(["2018-10-08T12:00:00.000Z".to_owned()]);
    let (world, _db, uuids) = world_with_versions(all).await;
    let ran = world.run(&october(&["--yes", "--rate", "10000/s", "-o", "json"])).await.exited_with(0);
    assert_eq!((&ran.json()["count"]["seen"], &ran.json()["count"]["enqueued"]), (&json!(901), &json!(901)));
    assert_eq!(sorted(enqueued(&world).await), sorted(uuids));
}

#[tokio::test]
async fn more_versions_of_a_moment_than_the_app_lists_are_passed_over_and_named() {
    let moment = (1..=30).map(|n| format!("2018-10-06T12:00:00.1230{n:02}Z"));
    let all = moment.chain(["2018-10-08T12:00:00.000Z".to_owned()]);
    let (world, db, uuids) = world_with_versions(all).await;
    db.with_state(|db| db.max_chunk = 10);
    let ran = world.run(&october(&["--yes"])).await.exited_with(0);
    ran.stderr_contains(&["enqueued 11 of 11", "than the app lists at once", "2018-10-06 12:00:00.123"]);
    assert!(enqueued(&world).await.contains(&uuids[30]), "it goes on behind them");
}

#[tokio::test]
async fn versions_without_a_page_are_named_and_cost_no_other_one_its_place() {
    let times = (0..250).map(|n| format!("2018-10-05T{:02}:{:02}:00.000Z", n / 60, n % 60));
    let (world, db, uuids) = world_with_versions(times).await;
    let orphans = [7, 8, 155];
    db.with_state(|db| {
        orphans.iter().for_each(|at| db.versions[*at]["page_uuid"] = Value::Null);
        db.changes = vec![uuids[9].clone(), uuids[156].clone()];
    });
    let ran = world.run(&october(&["--yes", "--rate", "10000/s", "-o", "json"])).await.exited_with(0);
    let count = &ran.json()["count"];
    let counted = ["seen", "enqueued", "has_change", "unreadable"].map(|name| count[name].as_u64().unwrap());
    assert_eq!(counted, [250, 245, 2, 3], "{count}");
    let named = orphans.map(|at| format!("version {} of ", uuids[at]));
    ran.stderr_contains(&named.each_ref().map(String::as_str)).stderr_contains(&["has no page: passed over"]);
    let list = enqueued(&world).await;
    assert_eq!(list.len(), 245);
    assert!(orphans.iter().all(|at| !list.contains(&uuids[*at])));
    // Three chunks without any, and at most two steps of ten for each of those that failed.
    assert!(db.calls() < 80, "{}", db.calls());
}

#[tokio::test]
async fn what_ended_for_good_in_one_run_is_not_enqueued_by_the_next() {
    let times = (1..=7).map(|n| format!("2018-10-0{n}T12:00:00.000Z"));
    let (world, db, uuids) = world_with_versions(times).await;
    // The first of its page, a picture, a body that is gone, one that is refused, one that is there, one that a host has
    // no answer for, and another one that is there.
    let pages: Vec<_> = (0..7).map(|n| pages::pair(n, 3_000).1).collect();
    db.with_state(|db| {
        for (n, body) in pages.into_iter().enumerate() {
            db.versions[n]["body_hash"] = Value::Null;
            let answer = match n {
                2 => Resource::Status(404),
                3 => Resource::Status(403),
                5 => Resource::Status(503),
                _ => Body::html(body).into(),
            };
            db.versions[n]["body_url"] = world.site.put(&format!("/{n}"), answer).as_str().into();
        }
        db.versions[1]["media_type"] = "image/png".into();
    });
    let world = world.with("policy.attempts", "1").with("queue.host_failures_max", "0");
    world.run(&october(&["--yes"])).await.exited_with(0).stderr_contains(&["enqueued 7 of 7"]);
    let ended = ["skipped", "skipped", "skipped", "dead", "dead", "dead", "dead"];
    let _worker = world.worker();
    let id = |n: usize| JobId::parse(&format!("backfill:{}", uuids[n])).unwrap();
    for n in 0..7 {
        until("it has ended", async || world.queue.ended(&id(n)).await.unwrap().is_some()).await;
    }
    let mut found = Vec::new();
    for n in 0..7 {
        found.push(world.queue.ended(&id(n)).await.unwrap().unwrap().state);
    }
    assert_eq!(found, ended, "the version before the fifth and the sixth is what cannot be fetched");
    // Also where an operator has thrown the letters away.
    world.run(&["dead", "discard", "--now", "--yes"]).await.exited_with(0);
    let again = world.run(&october(&["--yes", "-o", "json"])).await.exited_with(0);
    let count = &again.json()["count"];
    let counted = ["seen", "ended_before", "enqueued"].map(|name| count[name].as_u64().unwrap());
    assert_eq!(counted, [7, 5, 2], "a host that had no answer may have one: {count}");
    world.run(&october(&["--yes", "--again"])).await.exited_with(0).stderr_contains(&["enqueued 5 of 7"]);
}

#[tokio::test]
async fn a_rate_is_kept_and_a_full_backlog_ends_it() {
    let (world, _db, _) = world_with_history().await;
    let begun = Instant::now();
    world.run(&october(&["--yes", "--rate", "4/s"])).await.exited_with(0);
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "four jobs, the first at once: {:?}",
        begun.elapsed()
    );
    let world = world.with("queue.backlog_max", "4");
    world.run(&october(&["--yes", "--again"])).await.exited_with(1).stderr_contains(&["the backlog is full"]);
}
