//! The db app's side: pairs named by uuid are looked up there, and each gets its annotation once.

use serde_json::{Value, json};
use uuid::Uuid;
use wm_analyzer::demo::pages;
use wm_analyzer::demo::site::Body;
use wm_analyzer::job::{Job, JobId, Older, VersionRef};

use crate::db::{Db, FakeDb, version};
use crate::harness::{World, until};

/// `analyst@db.test:hunter2`
const BASIC: &str = "Basic YW5hbHlzdEBkYi50ZXN0Omh1bnRlcjI=";
/// The 12 fields of the old job's annotation.
const FIELDS: [&str; 12] = [
    "links_diff_count",
    "links_diff_hash",
    "links_diff_ratio",
    "priority",
    "source_diff_count",
    "source_diff_hash",
    "source_diff_length",
    "source_diff_ratio",
    "text_diff_count",
    "text_diff_hash",
    "text_diff_length",
    "text_diff_ratio",
];

/// A version that the app knows, whose body is at the site.
fn known(world: &World, page: Uuid, name: &str, body: Vec<u8>) -> (Uuid, Value) {
    let uuid = Uuid::new_v4();
    let url = world.site.put(&format!("/{name}"), Body::html(body));
    let mut version = version(uuid, page);
    version["body_url"] = url.as_str().into();
    version["body_hash"] = Value::Null;
    (uuid, version)
}

/// An app that knows a page with two versions, and a world that uses it.
async fn world_with_app() -> (World, FakeDb, Uuid, [Uuid; 2]) {
    let world = World::new().await;
    let page = Uuid::new_v4();
    let (old, new) = pages::pair(5, 20_000);
    let (from, from_version) = known(&world, page, "old", old);
    let (to, to_version) = known(&world, page, "new", new);
    let db = FakeDb::with(Db {
        versions: vec![from_version, to_version],
        authorization: Some(BASIC.to_owned()),
        ..Db::default()
    })
    .await;
    let world = world
        .with("api.url", format!("http://{}", db.address))
        .with("api.email", "analyst@db.test")
        .with("api.password", "hunter2")
        .with("api.post", "post");
    (world, db, page, [from, to])
}

fn named(id: &str, from: Option<Uuid>, to: Uuid) -> Job {
    Job {
        id: JobId::parse(id).unwrap(),
        from: from.map_or(Older::Previous, |from| Older::Given(VersionRef::Uuid(from))),
        ..Job::new(VersionRef::Uuid(to), VersionRef::Uuid(to))
    }
}

#[tokio::test]
async fn a_pair_named_by_uuid_is_looked_up_analysed_and_annotated_once_with_the_twelve_fields() {
    let (world, db, page, [from, to]) = world_with_app().await;
    let worker = world.worker();
    let pair = named("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_it_is(&pair.id, "done").await;

    let annotations = db.look(|db| db.annotations.clone());
    assert_eq!(annotations.len(), 1);
    let ((change, _), annotation) = annotations.iter().next().unwrap();
    assert_eq!(change, &format!("{from}..{to}"));
    let fields: Vec<&str> = annotation.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, FIELDS);
    assert!(
        annotation["text_diff_count"].as_u64().unwrap() + annotation["source_diff_count"].as_u64().unwrap()
            > 0
    );
    let report = world.report(&pair).await.unwrap();
    assert_eq!(report["annotation"]["priority"], annotation["priority"]);
    let posts =
        db.look(|db| db.requests.iter().filter(|line| line.starts_with("POST")).cloned().collect::<Vec<_>>());
    assert_eq!(posts, [format!("POST /api/v0/pages/{page}/changes/{from}..{to}/annotations")]);
    assert!(db.look(|db| db.authorizations.iter().all(|sent| sent.as_deref() == Some(BASIC))));
    assert!(!worker.text().contains("hunter2"));
}

#[tokio::test]
async fn a_job_without_from_is_compared_with_the_version_before_it() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let _worker = world.worker();
    world.send(&[named("previous", None, to), named("first", None, from)]).await;
    let (previous, first) = (named("previous", None, to).id, named("first", None, from).id);
    world.until_it_is(&previous, "done").await;
    world.until_it_is(&first, "skipped").await;
    assert!(db.look(|db| db.annotations.keys().all(|(change, _)| *change == format!("{from}..{to}"))));
    assert!(world.queue.report(from, to).await.unwrap().is_some());
}

#[tokio::test]
async fn credentials_go_to_the_app_and_never_to_a_body() {
    let (world, db, page, _) = world_with_app().await;
    // The second "app" plays the archive: it records what came with each request for a body.
    let archive = FakeDb::with(Db {
        instead: Some((200, vec![("content-type", "text/html".into())], "<p>a page</p>".into())),
        ..Db::default()
    })
    .await;
    let uuids = [Uuid::new_v4(), Uuid::new_v4()];
    for (n, uuid) in uuids.into_iter().enumerate() {
        let mut version = version(uuid, page);
        version["body_url"] = format!("http://{}/{n}", archive.address).into();
        version["body_hash"] = Value::Null;
        db.look(|db| db.versions.push(version));
    }
    let _worker = world.worker();
    let pair = named("pair", Some(uuids[0]), uuids[1]);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_it_is(&pair.id, "done").await;
    assert_eq!(archive.calls(), 2);
    assert_eq!(archive.look(|archive| archive.authorizations.clone()), [None, None]);
}

#[tokio::test]
async fn an_app_that_is_down_costs_no_attempt_and_one_alert_and_is_told_when_it_is_back() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let world = world.with("policy.attempts", "1");
    db.look(|db| db.instead = Some((503, vec![], "down".to_owned())));
    let worker = world.worker();
    let pair = named("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    until("it was put off a few times", async || {
        world.story(&pair.id).await.iter().filter(|what| *what == "postponed").count() >= 3
    })
    .await;
    assert_eq!(world.ingest.fingerprints(), [["trouble", "api"]]);
    assert_eq!(world.field(&pair.id, "failures").await, None);
    db.look(|db| db.instead = None);
    world.until_it_is(&pair.id, "done").await;
    worker.leave().await;
    let last = world.ingest.events().pop().unwrap();
    assert!(last["message"].as_str().unwrap().starts_with("over: the db app's API answers"), "{last}");
    assert_eq!(world.ingest.alerts(), 2);
}

#[tokio::test]
async fn what_the_app_refuses_is_buried_with_its_words_and_what_it_does_not_know_is_missing() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let _worker = world.worker();
    let unknown = named("unknown", Some(from), Uuid::new_v4());
    world.send(std::slice::from_ref(&unknown)).await;
    let reason = world.until_dead(1).await.remove(0).reason.unwrap();
    assert_eq!(reason.kind.as_str(), "version_missing");
    let pair = named("pair", Some(from), to);
    db.look(|db| db.read_only = true);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_it_is(&pair.id, "postponed").await;
    db.look(|db| db.read_only = false);
    world.until_it_is(&pair.id, "done").await;
    assert_eq!(world.dead().await.len(), 1);
}

#[tokio::test]
async fn a_pair_that_was_done_for_redis_is_not_done_for_an_app() {
    let (world, db, page, [from, to]) = world_with_app().await;
    let world = world.with("api.post", "off");
    let pair = named("pair", Some(from), to);
    let worker = world.worker();
    world.send(std::slice::from_ref(&pair)).await;
    world.until_it_is(&pair.id, "done").await;
    worker.leave().await;
    assert!(db.look(|db| db.annotations.is_empty()));
    let world = world.with("api.post", "post");
    let line = json!({ "v": 1, "id": "again", "page": page, "from": from, "to": to }).to_string();
    world.feed(&["enqueue", "-"], line).await.ended(0).told(&["enqueued 1"]);
    let _worker = world.worker();
    world.until_it_is(&JobId::parse("again").unwrap(), "done").await;
    assert_eq!(db.look(|db| db.annotations.len()), 1);
}
