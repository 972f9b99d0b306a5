//! The db app's side: pairs named by uuid are looked up there, and each gets its annotation once.

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use wm_analyzer::job::{Job, JobId, OlderVersion, VersionRef};
use wm_testbed::body::Body;
use wm_testbed::db_app::{DbState, FakeDb, errors, version};
use wm_testbed::http::{Request, Respond, Response};
use wm_testbed::{pages, poison};

use crate::harness::{GatedSite, Worker, World, job, key, until};

/// `analyst@db.test:hunter2`
const BASIC: &str = "Basic YW5hbHlzdEBkYi50ZXN0Omh1bnRlcjI=";
/// The 12 fields of the old job's annotation.
const FIELDS: [&str; 12] = [
    "text_diff_hash",
    "text_diff_count",
    "text_diff_length",
    "text_diff_ratio",
    "source_diff_hash",
    "source_diff_count",
    "source_diff_length",
    "source_diff_ratio",
    "links_diff_hash",
    "links_diff_count",
    "links_diff_ratio",
    "priority",
];

/// A version that the app knows, whose body is at the site.
pub(crate) fn version_on_site(world: &World, page: Uuid, name: &str, body: Vec<u8>) -> (Uuid, Value) {
    let uuid = Uuid::new_v4();
    let url = world.site.put(&format!("/{name}"), Body::html(body));
    let mut version = version(uuid, page);
    version["body_url"] = url.as_str().into();
    version["body_hash"] = Value::Null;
    (uuid, version)
}

/// An app that knows a page with two versions, and a world that uses it.
pub(crate) async fn world_with_app() -> (World, FakeDb, Uuid, [Uuid; 2]) {
    let world = World::new().await;
    let page = Uuid::new_v4();
    let (old, new) = pages::pair(5, 20_000);
    let (from, from_version) = version_on_site(&world, page, "old", old);
    let (to, to_version) = version_on_site(&world, page, "new", new);
    let db = FakeDb::with(DbState {
        versions: vec![from_version, to_version],
        authorization: Some(BASIC.to_owned()),
        ..DbState::default()
    })
    .await;
    let world = world
        .with("api.url", format!("http://{}", db.address()))
        .with("api.email", "analyst@db.test")
        .with("api.password", "hunter2")
        .with("api.post", "post");
    (world, db, page, [from, to])
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn job_for_versions(id: &str, from: Option<Uuid>, to: Uuid) -> Job {
    Job {
        id: JobId::parse(id).unwrap(),
        from: from.map_or(OlderVersion::Previous, |from| OlderVersion::Given(VersionRef::Uuid(from))),
        ..Job::new(VersionRef::Uuid(to), VersionRef::Uuid(to))
    }
}

#[tokio::test]
async fn a_pair_named_by_uuid_is_looked_up_analysed_and_annotated_once_with_the_twelve_fields() {
    let (world, db, page, [from, to]) = world_with_app().await;
    let worker = world.worker();
    let pair = job_for_versions("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;

    let annotations = db.with_state(|db| db.annotations.clone());
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
    assert_eq!(db.posts(), [format!("POST /api/v0/pages/{page}/changes/{from}..{to}/annotations")]);
    let token = db.with_state(|db| db.tokens.keys().next().unwrap().clone());
    let sent = db.with_state(|db| db.authorizations.clone());
    assert_eq!(sent[0], None, "a login, once");
    assert!(sent[1..].iter().all(|sent| *sent == Some(format!("Bearer {token}"))), "{sent:?}");
    assert!(!worker.log_text().contains("hunter2") && !worker.log_text().contains(&token));
}

#[tokio::test]
async fn thirty_jobs_cost_the_app_one_login_and_a_token_that_it_forgot_is_replaced() {
    let (world, db, page, _) = world_with_app().await;
    let mut jobs = Vec::new();
    for n in 0..30 {
        let (old, new) = pages::pair(n, 3_000);
        let (from, old) = version_on_site(&world, page, &format!("{n}/old"), old);
        let (to, new) = version_on_site(&world, page, &format!("{n}/new"), new);
        db.with_state(|db| db.versions.extend([old, new]));
        jobs.push(job_for_versions(&format!("job-{n}"), Some(from), to));
    }
    let worker = world.worker();
    world.send(&jobs[1..]).await;
    for job in &jobs[1..] {
        world.until_event(&job.id, "done").await;
    }
    assert_eq!(db.logins(), 1);
    db.with_state(|db| db.tokens.clear());
    world.send(&jobs[..1]).await;
    world.until_event(&jobs[0].id, "done").await;
    assert_eq!(db.logins(), 2);
    assert_eq!(db.with_state(|db| db.annotations.len()), 30);
    assert_eq!(worker.metric("breaker_open{dependency=\"api\"}").await, 0.0);
    assert!(world.events().await.iter().all(|event| event.what == "done"), "no job was put off");
}

#[tokio::test]
async fn a_job_without_from_is_compared_with_the_version_before_it() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let _worker = world.worker();
    world.send(&[job_for_versions("previous", None, to), job_for_versions("first", None, from)]).await;
    let (previous, first) =
        (job_for_versions("previous", None, to).id, job_for_versions("first", None, from).id);
    world.until_event(&previous, "done").await;
    world.until_event(&first, "skipped").await;
    assert!(db.with_state(|db| db.annotations.keys().all(|(change, _)| *change == format!("{from}..{to}"))));
    assert!(world.queue.report(from, to).await.unwrap().is_some());
}

#[tokio::test]
async fn credentials_go_to_the_app_and_never_to_a_body() {
    let (world, db, page, _) = world_with_app().await;
    // The second "app" plays the archive: it records what came with each request for a body.
    let archive = FakeDb::with(DbState {
        response_override: Some((200, vec![("content-type", "text/html".into())], "<p>a page</p>".into())),
        ..DbState::default()
    })
    .await;
    let uuids = [Uuid::new_v4(), Uuid::new_v4()];
    for (n, uuid) in uuids.into_iter().enumerate() {
        let mut version = version(uuid, page);
        version["body_url"] = format!("http://{}/{n}", archive.address()).into();
        version["body_hash"] = Value::Null;
        db.with_state(|db| db.versions.push(version));
    }
    let _worker = world.worker();
    let pair = job_for_versions("pair", Some(uuids[0]), uuids[1]);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;
    assert_eq!(archive.calls(), 2);
    assert_eq!(archive.with_state(|archive| archive.authorizations.clone()), [None, None]);
}

#[tokio::test]
async fn an_app_that_is_down_costs_no_attempt_and_one_alert_and_is_told_when_it_is_back() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let world = world.with("policy.attempts", "1");
    db.with_state(|db| db.response_override = Some((503, vec![], "down".to_owned())));
    let worker = world.worker();
    let pair = job_for_versions("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    until("it was put off a few times", async || {
        world.job_events(&pair.id).await.iter().filter(|what| *what == "postponed").count() >= 3
    })
    .await;
    assert_eq!(world.sentry.fingerprints(), [["outage", "api"]]);
    assert_eq!(world.field(&pair.id, "failures").await, None);
    db.with_state(|db| db.response_override = None);
    world.until_event(&pair.id, "done").await;
    worker.stop().await;
    let last = world.sentry.events().pop().unwrap();
    assert!(last["message"].as_str().unwrap().starts_with("resolved: the db app's API answers"), "{last}");
    assert_eq!(world.sentry.alerts(), 2);
}

#[tokio::test]
async fn what_the_app_refuses_is_buried_with_its_words_and_what_it_does_not_know_is_missing() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let _worker = world.worker();
    let unknown = job_for_versions("unknown", Some(from), Uuid::new_v4());
    world.send(std::slice::from_ref(&unknown)).await;
    let reason = world.until_dead_letters(1).await.remove(0).reason.unwrap();
    assert_eq!(reason.kind.as_str(), "version_missing");
    let pair = job_for_versions("pair", Some(from), to);
    let words = errors(422, "Validation failed: From version must be captured before to").to_string();
    db.with_state(|db| db.refuse_posts = Some((422, words)));
    world.send(&[Job { again: true, ..job_for_versions("refused", Some(from), to) }]).await;
    let refused = world.until_dead_letters(2).await.remove(0).reason.unwrap();
    assert_eq!(refused.kind.as_str(), "rejected");
    assert!(refused.failure.detail.contains("must be captured before"), "{}", refused.failure);
    db.with_state(|db| (db.refuse_posts, db.read_only) = (None, true));
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "postponed").await;
    db.with_state(|db| db.read_only = false);
    world.until_event(&pair.id, "done").await;
    assert_eq!(world.dead().await.len(), 2);
}

#[tokio::test]
async fn a_pair_without_text_is_annotated_as_by_the_old_job_and_what_is_not_posted_says_so() {
    // Declared as a page the old job annotated such a pair; declared as JSON it did not.
    for (post_partial, declared, posted) in [
        ("text", "text/html", true),
        ("text", "text/plain", true),
        ("text", "application/json", false),
        ("always", "application/json", true),
        ("never", "text/html", false),
    ] {
        let (world, db, page, _) = world_with_app().await;
        let world = world.with("api.post_partial", post_partial);
        let world = world.with("filter.extra_allowed_media_types", "application/json");
        let mut uuids = Vec::new();
        for (side, body) in [("old", r#"{"a": 1, "b": [1, 2]}"#), ("new", r#"{"a": 2, "b": [1, 2]}"#)] {
            let (uuid, mut version) = version_on_site(&world, page, side, body.as_bytes().to_vec());
            version["media_type"] = declared.into();
            db.with_state(|db| db.versions.push(version));
            uuids.push(uuid);
        }
        let worker = world.worker();
        let pair = job_for_versions("pair", Some(uuids[0]), uuids[1]);
        world.send(std::slice::from_ref(&pair)).await;
        world.until_event(&pair.id, "done").await;
        let what = format!("{post_partial} {declared}");
        let report = world.report(&pair).await.unwrap();
        let missing: Vec<&str> =
            report["missing"].as_array().unwrap().iter().map(|m| m["diff"].as_str().unwrap()).collect();
        assert_eq!(missing, ["html_text_dmp", "links_json"], "{what}: {report}");
        assert_eq!(report["posted"], posted, "{what}");
        let annotations = db.with_state(|db| db.annotations.clone());
        assert_eq!(annotations.len(), usize::from(posted), "{what}");
        for annotation in annotations.values() {
            let fields: Vec<&str> = annotation.as_object().unwrap().keys().map(String::as_str).collect();
            let source = FIELDS.into_iter().filter(|f| f.starts_with("source") || *f == "priority");
            assert_eq!(fields, source.collect::<Vec<_>>());
        }
        // The log, the event, the end, the counters and the screen.
        let line = worker.until_logged("done").await;
        assert_eq!((&line["posted"], &line["missing"]), (&posted.into(), &"html_text_dmp,links_json".into()));
        let why = if posted { "" } else { "not_posted:html_text_dmp,links_json" };
        let event = world.events().await.into_iter().find(|event| event.what == "done").unwrap();
        assert_eq!(event.why, why, "{what}");
        assert_eq!(world.queue.ended(&pair.id).await.unwrap().unwrap().why, why, "{what}");
        assert_eq!(worker.metric("not_posted_total").await, f64::from(u8::from(!posted)), "{what}");
        let status = world.run(&["status"]).await;
        assert_eq!(status.stdout.contains("not_posted 1"), !posted, "{what}: {}", status.stdout);
        let status = world.run(&["status", "-o", "json"]).await.json();
        let counted = &status["last_hour"]["not_posted:html_text_dmp,links_json"];
        assert_eq!(counted.as_u64(), (!posted).then_some(1), "{what}");
    }
}

#[tokio::test]
async fn an_annotation_whose_post_timed_out_is_looked_for_before_it_is_posted_again() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let world = world.with("api.timeout", "500ms");
    db.with_state(|db| db.slow_posts = (1, std::time::Duration::from_secs(2)));
    let _worker = world.worker();
    let pair = job_for_versions("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;
    assert_eq!(world.job_events(&pair.id).await, ["postponed", "done"]);
    assert_eq!((db.posts().len(), db.with_state(|db| db.annotations.len())), (1, 1));
    assert_eq!(world.report(&pair).await.unwrap()["posted"], true);
}

#[tokio::test]
async fn a_pair_in_the_wrong_order_is_skipped_before_anything_is_fetched() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let worker = world.worker();
    let pair = job_for_versions("pair", Some(to), from);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "skipped").await;
    assert_eq!(world.queue.ended(&pair.id).await.unwrap().unwrap().why, "wrong_order");
    assert_eq!((world.site.hits("/old"), world.site.hits("/new"), db.posts().len()), (0, 0, 0));
    // Both versions are named, once they are known.
    let previous = job_for_versions("previous", None, to);
    world.send(std::slice::from_ref(&previous)).await;
    world.until_event(&previous.id, "done").await;
    let line = worker.until_logged("done").await;
    assert_eq!(line["pair"], format!("{from}..{to}"));
    assert!(line["spans"][0].as_str().unwrap().contains(&format!("{from}..{to}")), "{line}");
}

#[tokio::test]
async fn nothing_follows_a_pair_that_a_comparison_with_the_earliest_version_would_repeat() {
    let (world, db, page, [first, _]) = world_with_app().await;
    // The second version kills its child, the third is well.
    let (second, version) = version_on_site(&world, page, "bomb", Vec::new());
    world.site.put("/bomb", poison::gzip_bomb(1 << 28));
    db.with_state(|db| {
        db.versions.truncate(1);
        db.versions.push(version);
    });
    let (third, version) = version_on_site(&world, page, "third", pages::pair(5, 20_000).1);
    db.with_state(|db| db.versions.push(version));
    let _worker = world.worker();
    let asked = |id: &str, from, to| Job { compare_earliest: true, ..job_for_versions(id, from, to) };
    let jobs = [
        (asked("no-previous", None, first), "skipped"),
        (asked("same", Some(third), third), "skipped"),
        (asked("poison", None, second), "buried"),
        (asked("given", Some(first), third), "done"),
        (asked("follows", Some(second), third), "buried"),
    ];
    for (job, ends) in &jobs {
        world.send(std::slice::from_ref(job)).await;
        world.until_event(&job.id, ends).await;
    }
    // Only where the older version was not the first is there something to follow.
    world.until_event(&JobId::parse("follows.earliest").unwrap(), "skipped").await;
    let follow_ups = world.events().await.into_iter().filter(|event| event.id.ends_with(".earliest"));
    let follow_ups: Vec<String> = follow_ups.map(|event| event.id.to_string()).collect();
    assert_eq!(follow_ups, ["follows.earliest"]);
    assert_eq!(world.dead().await.len(), 2);
}

#[tokio::test]
async fn a_dry_run_does_everything_but_the_call() {
    let (world, db, _, [from, to]) = world_with_app().await;
    let world = world.with("api.post", "dry_run");
    let _worker = world.worker();
    let pair = job_for_versions("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;
    assert_eq!(world.report(&pair).await.unwrap()["annotation"].as_object().unwrap().len(), FIELDS.len());
    assert_eq!(db.posts(), [""; 0]);
}

/// `Authorization` of each request for this target.
fn sent_for(db: &FakeDb, target: &str) -> Vec<Option<String>> {
    db.with_state(|db| {
        let calls = db.requests.iter().zip(&db.authorizations);
        calls.filter(|(line, _)| line.ends_with(target)).map(|(_, sent)| sent.clone()).collect()
    })
}

#[tokio::test]
async fn a_body_that_the_app_keeps_itself_is_fetched_under_our_login_and_its_redirect_without() {
    let (world, db, page, [from, _]) = world_with_app().await;
    let world = world.with("api.headers", "X-Pass: sesame");
    // The second "app" plays the archive behind the redirect.
    let body = String::from_utf8(pages::pair(5, 20_000).1).unwrap();
    let response_override = Some((200, vec![("content-type", "text/html".into())], body));
    let archive = FakeDb::with(DbState { response_override, ..DbState::default() }).await;
    let to = Uuid::new_v4();
    let mut kept = version(to, page);
    kept["body_url"] = format!("http://{}/api/v0/versions/{to}/raw", db.address()).into();
    kept["body_hash"] = sha256_hex(&pages::pair(5, 20_000).1).into();
    db.with_state(|db| {
        db.versions.push(kept);
        db.raw.insert(to.to_string(), format!("http://{}/1", archive.address()));
        db.private_raw = true;
    });
    let _worker = world.worker();
    let pair = job_for_versions("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;
    let token = db.with_state(|db| db.tokens.keys().next().unwrap().clone());
    assert_eq!(sent_for(&db, &format!("{to}/raw")), [Some(format!("Bearer {token}"))]);
    assert_eq!(sent_for(&archive, "/1"), [None]);
    let heads = archive.with_state(|archive| archive.heads.concat());
    assert!(!heads.contains("sesame"), "{heads}");

    // A token that the app has forgotten is replaced here, too, and no job pays for that.
    db.with_state(|db| db.tokens.clear());
    let again = Job { again: true, ..job_for_versions("again", Some(from), to) };
    world.send(std::slice::from_ref(&again)).await;
    world.until_event(&again.id, "done").await;
    assert_eq!((sent_for(&db, &format!("{to}/raw")).len(), db.logins()), (3, 2));
    assert_eq!(world.job_events(&again.id).await, ["done"]);
}

#[tokio::test]
async fn credentials_are_for_the_body_of_that_very_version_and_no_other_address_that_a_producer_names() {
    let (world, db, page, [other, _]) = world_with_app().await;
    let world = world.with("api.headers", "X-Pass: sesame");
    let app = format!("http://{}", db.address());
    // Redirects to the app itself.
    let uuids = [(); 9].map(|()| Uuid::new_v4());
    let site = wm_testbed::http::HttpServer::start(std::sync::Arc::new(RedirectsTo(format!(
        "{app}/api/v0/versions/{}/raw",
        uuids[8]
    ))));
    let site = site.await.unwrap();
    let at = |n: usize, place: String| json!({ "uuid": uuids[n], "body_url": place });
    let places = [
        format!("{app}/api/v0/versions/{other}/raw"),
        format!("{app}/api/v0/versions/{}/raw?a=b", uuids[1]),
        format!("{app}/api/v0/versions/{}/raw/", uuids[2]),
        format!("{app}/api/v0/versions/{}", uuids[3]),
        format!("{app}/api/v0/users/session"),
        format!("{app}/versions/{}/raw", uuids[5]),
        format!("{app}/api/v0/versions/{}/raw/../../{}/raw", uuids[6], other),
        format!("http://localhost:{}/api/v0/versions/{}/raw", db.address().port(), uuids[7]),
        format!("http://{}/api/v0/versions/{}/raw", site.address(), uuids[8]),
    ];
    let _worker = world.worker();
    for (n, place) in places.into_iter().enumerate() {
        let from = json!({ "uuid": other, "body_url": world.page() });
        let id = format!("job-{n}");
        let job = json!({ "v": 1, "id": id, "page": page, "from": from, "to": at(n, place) }).to_string();
        world.push(&[job.as_bytes()]).await;
        until("it has ended", async || {
            world.job_events(&JobId::parse(&id).unwrap()).await.iter().any(|what| what != "retried")
        })
        .await;
    }
    let heads = db.with_state(|db| db.heads.clone());
    assert!(heads.len() >= 8, "{heads:#?}");
    for head in heads {
        let head = head.to_lowercase();
        assert!(!head.contains("authorization") && !head.contains("sesame"), "{head}");
    }
    assert_eq!(db.logins(), 0, "nobody had to be known");
}

/// Sends everybody to one place.
struct RedirectsTo(String);

impl Respond for RedirectsTo {
    async fn respond(&self, _request: &Request) -> Response {
        Response::new(302, &[("location", &self.0)], [])
    }
}

#[tokio::test]
async fn a_pair_that_was_done_for_redis_is_not_done_for_an_app() {
    let (world, db, page, [from, to]) = world_with_app().await;
    let world = world.with("api.post", "off");
    let pair = job_for_versions("pair", Some(from), to);
    let worker = world.worker();
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;
    worker.stop().await;
    assert!(db.with_state(|db| db.annotations.is_empty()));
    let world = world.with("api.post", "post");
    let line = json!({ "v": 1, "id": "again", "page": page, "from": from, "to": to }).to_string();
    world.run_with_stdin(&["enqueue", "-"], line).await.exited_with(0).stderr_contains(&["enqueued 1"]);
    let _worker = world.worker();
    world.until_event(&JobId::parse("again").unwrap(), "done").await;
    assert_eq!(db.with_state(|db| db.annotations.len()), 1);
}

#[tokio::test]
async fn a_worker_that_was_stopped_past_its_lease_writes_nothing_when_it_goes_on() {
    let (world, db, page, [from, _]) = world_with_app().await;
    let world = world.with("queue.lease", "1s");
    let gate = GatedSite::closed().await;
    let slow = Uuid::new_v4();
    let mut slow_version = version(slow, page);
    slow_version["body_url"] = gate.url("/slow").as_str().into();
    slow_version["body_hash"] = Value::Null;
    db.with_state(|db| db.versions.push(slow_version));
    let held = job_for_versions("held", Some(from), slow);
    world.send(std::slice::from_ref(&held)).await;
    let stopped = world.worker();
    gate.until_requested(1).await;
    stopped.signal(Signal::STOP);

    // It is reclaimed and done by another while the first one cannot even know.
    let other = world.worker();
    world.until_event(&held.id, "reclaimed").await;
    gate.until_requested(2).await;
    gate.open();
    world.until_event(&held.id, "done").await;
    let (report, posts) = (world.report(&held).await, post_count(&db));
    assert_eq!(posts, 1);
    other.stop().await;

    stopped.signal(Signal::CONT);
    stopped.until_logged("the lease was lost: nothing was written, another worker has this job").await;
    // It is well, and alone: what it does now is done by it.
    let next = job_for_versions("next", None, from);
    world.send(std::slice::from_ref(&next)).await;
    world.until_event(&next.id, "skipped").await;
    assert_eq!(post_count(&db), posts, "not to the app");
    assert_eq!(world.report(&held).await, report, "not to Redis");
    assert_eq!(world.job_events(&held.id).await, ["reclaimed", "done"]);
    stopped.stop().await;
}

/// A worker with a job in flight that another has by now, which no beat tells it in time.
async fn worker_with_lost_lease(world: &World) -> Worker {
    let gate = GatedSite::closed().await;
    let held = Job { page: Some(Uuid::new_v4()), ..job("held", gate.url("/a"), world.page()) };
    world.send(std::slice::from_ref(&held)).await;
    let worker = world.worker_with(&[("queue.lease", "90s"), ("worker.heartbeat", "25s")]);
    gate.until_requested(1).await;
    world.redis_cmd::<()>("HSET", &[&key("job:held"), "token", "another's"]).await;
    gate.open();
    worker.until_logged("the lease was lost: nothing was written, another worker has this job").await;
    assert_eq!(world.job_events(&held.id).await, [""; 0]);
    assert_eq!(world.report(&held).await, None);
    assert_eq!(world.field(&held.id, "token").await.as_deref(), Some("another's"));
    worker
}

#[tokio::test]
async fn who_has_lost_its_lease_unknowingly_posts_nothing() {
    let (world, db, _, _) = world_with_app().await;
    worker_with_lost_lease(&world).await.stop().await;
    assert_eq!(post_count(&db), 0);
}

#[tokio::test]
async fn who_has_lost_its_lease_unknowingly_settles_nothing() {
    worker_with_lost_lease(&World::new().await).await.stop().await;
}

/// How often anything was posted to the app.
fn post_count(db: &FakeDb) -> usize {
    db.posts().len()
}
