//! A backfill: what the app knows and nobody compared, enqueued once, slowly, and from where it was left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;
use wm_testbed::db_app::{DbState, FakeDb, errors, version};

use crate::harness::World;

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
    let count = json!({"seen": 5, "has_change": 1, "enqueued": 4, "duplicate": 0, "already_done": 0});
    let told = json!({"schema_version": 1, "finished": true, "dry_run": false, "count": count});
    assert_eq!(ran.json(), told);
    assert_eq!(sorted(enqueued(&world).await), sorted(wanted.clone()));
    let id = wm_analyzer::job::JobId::parse(&format!("backfill:{}", wanted[0])).unwrap();
    let payload: Value = serde_json::from_str(&world.field(&id, "payload").await.unwrap()).unwrap();
    assert_eq!((&payload["to"], &payload["priority"]), (&json!(wanted[0]), &json!("low")));
    assert_eq!((&payload["compare_earliest"], payload.get("from")), (&json!(true), None));
    assert_eq!(payload["page"], db.with_state(|db| db.versions[0]["page_uuid"].clone()));
    // Every chunk is asked of the app itself, whatever its links say.
    assert_eq!(db.calls(), 3);

    let again = world.run(&october(&["--yes"])).await.exited_with(0);
    again.stderr_contains(&["enqueued 0 of 5 versions", "4 wait already", "queue pause"]);
}

#[tokio::test]
async fn a_plan_is_shown_and_nothing_happens_without_a_yes() {
    let (world, _db, _) = world_with_history().await;
    let planned = world.run(&october(&["--dry-run"])).await.exited_with(0);
    planned.stderr_contains(&["into queue analysis", "would enqueue 4 of 5", "nothing changed"]);
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
    let before = db.calls();
    // Without --until, which the cursor knows.
    world.run(&["backfill", "--since", "2018-10-01", "--yes", "--cursor", cursor]).await.exited_with(0);
    assert_eq!(db.calls() - before, 2, "the first chunk is not asked for again");
    assert_eq!(sorted(enqueued(&world).await), sorted(wanted));

    world
        .run(&october(&["--yes", "--cursor", cursor]))
        .await
        .exited_with(0)
        .stderr_contains(&["backfill is finished"]);
    assert_eq!(db.calls() - before, 2);
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
    // A second with more versions than a chunk: the app's places are cut to seconds.
    db.with_state(|db| {
        db.max_chunk = 1;
        db.response_override = Some((
            200,
            Vec::new(),
            json!({"links": {"next": "/api/v0/versions?chunk=here"}, "data": [db.versions[0]]}).to_string(),
        ));
    });
    let world = world.with("api.timeout", "5s");
    let before = db.calls();
    world
        .run(&october(&["--yes", "--again"]))
        .await
        .exited_with(1)
        .stderr_contains(&["not in its API's format"]);
    assert!(db.calls() - before <= 1 + 5);
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
