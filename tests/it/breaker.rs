//! When our own house burns: claims stop, one job at a time finds out when to go on, and no job pays for it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use uuid::Uuid;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, JobId, Priority};
use wm_testbed::db_app::{DbState, FakeDb};
use wm_testbed::pages;

use crate::annotations::{job_for_versions, version_on_site, world_with_app};
use crate::harness::{World, key, until};

const PAUSE: Duration = Duration::from_millis(300);

/// So many jobs, each about a pair of its own, all to be looked up.
fn jobs(world: &World, db: &FakeDb, page: Uuid, from: Uuid, count: usize) -> Vec<Job> {
    let one = |n: usize| {
        let (to, version) = version_on_site(world, page, &format!("to-{n}"), pages::pair(n as u64, 4_000).1);
        db.with_state(|db| db.versions.push(version));
        job_for_versions(&format!("job-{n}"), Some(from), to)
    };
    (0..count).map(one).collect()
}

/// The most that a worker with two slots has claimed when it learns of the first failure: what it claims ahead, and
/// what it claimed as those ended.
const CLAIMED_AHEAD: usize = 16;

/// What was counted against these jobs, all together.
async fn postponements_counted(world: &World, jobs: &[Job]) -> u32 {
    let mut sum = 0;
    for job in jobs {
        let field = world.field(&job.id, "postponements").await;
        sum += field.map_or(0, |count| count.parse::<u32>().unwrap());
    }
    sum
}

async fn postponed_events(world: &World) -> usize {
    world.events().await.iter().filter(|event| event.what == "postponed").count()
}

#[tokio::test]
async fn a_db_app_that_is_down_stops_claims_costs_no_job_anything_and_is_one_alert() {
    let (world, db, page, [from, _]) = world_with_app().await;
    let pause = format!("{}ms", PAUSE.as_millis());
    let world = world.with("policy.probe_base", &pause).with("policy.probe_max", &pause);
    let world = world.with("policy.backoff_max", "1s");
    let jobs = jobs(&world, &db, page, from, 40);
    // It asks for an hour, and gets the longest pause that there is: so no pause is shorter.
    db.with_state(|db| {
        db.response_override = Some((503, vec![("retry-after", "3600".into())], "down".to_owned()))
    });
    let start = Instant::now();
    let worker = world.worker();
    world.send(&jobs).await;
    until("some probes failed", async || postponed_events(&world).await >= CLAIMED_AHEAD + 4).await;

    // A few were claimed when it began; after that it was one probe in each pause.
    let most = CLAIMED_AHEAD as u128 + start.elapsed().as_millis() / PAUSE.as_millis() + 1;
    let seen = postponed_events(&world).await as u128;
    assert!(seen <= most, "{seen} claims, and at most {most} were to be made");
    let requests = db.calls() as u128;
    assert!(requests <= 2 * (most + 1), "{requests} requests for {most} claims, two for each");
    assert_eq!(
        postponements_counted(&world, &jobs).await,
        1,
        "the failure that opened it is counted, and no other"
    );
    let status = world.queue.status().await.unwrap();
    assert_eq!((status.backlog() + status.in_flight + status.inbox, status.dead), (40, 0));
    let shown = world.run(&["status"]).await.exited_with(0);
    assert!(
        shown.stdout.contains("breaker api open") || shown.stdout.contains("breaker api half_open"),
        "{shown:?}"
    );
    let json = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    assert!(json["workers"][0]["breakers"]["api"].as_str().unwrap().contains("open"), "{json}");
    assert_eq!(worker.metric("breaker_open{dependency=\"api\"}").await, 1.0);
    assert_eq!(worker.metric("breaker_open{dependency=\"spawn\"}").await, 0.0);
    assert_eq!(world.sentry.fingerprints(), [["outage", "api"]]);

    db.with_state(|db| db.response_override = None);
    for job in &jobs {
        world.until_event(&job.id, "done").await;
    }
    assert_eq!(worker.metric("breaker_open{dependency=\"api\"}").await, 0.0);
    until("status says so", async || world.queue.status().await.unwrap().workers[0].info.breakers.is_empty())
        .await;
    assert_eq!(world.dead().await.len(), 0);
    worker.stop().await;
    let told: Vec<String> =
        world.sentry.events().iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("nothing is claimed until a probe goes through"), "{}", told[0]);
    assert!(told[1].starts_with("resolved: the db app's API answers again"), "{}", told[1]);
}

#[tokio::test]
async fn an_app_that_answers_but_refuses_us_or_every_write_is_down_for_us_all_the_same() {
    for refusal in ["read-only", "credentials"] {
        let (world, db, page, [from, _]) = world_with_app().await;
        let world = world.with("policy.probe_base", "100ms").with("policy.probe_max", "100ms");
        let world = world.with("policy.backoff_max", "1s");
        let jobs = jobs(&world, &db, page, from, 5);
        let authorization = db.with_state(|db| match refusal {
            "read-only" => {
                db.read_only = true;
                db.authorization.clone()
            }
            _ => db.authorization.replace("Basic changed".to_owned()),
        });
        // The oldest version of the page: looked up, and skipped. That shows an app that answers, not one that writes.
        let first = Job { priority: Priority::High, ..job_for_versions("first", None, from) };
        let worker = world.worker();
        world.send(&jobs).await;
        until("the breaker is open", async || postponed_events(&world).await >= 2).await;
        world.send(std::slice::from_ref(&first)).await;
        if refusal == "read-only" {
            world.until_event(&first.id, "skipped").await;
        }
        let enough = postponed_events(&world).await + 4;
        until("some probes failed", async || postponed_events(&world).await >= enough).await;
        assert_eq!(
            postponements_counted(&world, &jobs).await,
            1,
            "{refusal}: what still works closed the breaker"
        );
        assert_eq!(world.sentry.fingerprints(), [["outage", "api"]], "{refusal}");
        db.with_state(|db| (db.read_only, db.authorization) = (false, authorization));
        for job in &jobs {
            world.until_event(&job.id, "done").await;
        }
        world.until_event(&first.id, "skipped").await;
        assert_eq!(db.with_state(|db| db.annotations.len()), 5);
        worker.stop().await;
    }
}

#[tokio::test]
async fn versions_that_the_app_fails_for_are_buried_after_a_few_tries_and_are_no_outage() {
    const BAD: usize = 10;
    let (world, db, page, [from, _]) = world_with_app().await;
    let world = world.with("policy.backoff_base", "10ms").with("policy.backoff_max", "10ms");
    let all = jobs(&world, &db, page, from, BAD + 10);
    let (bad, good) = all.split_at(BAD);
    let orphans: Vec<String> = bad.iter().map(|job| job.to.uuid().to_string()).collect();
    db.with_state(|db| {
        let is_orphan = |version: &Value| orphans.iter().any(|uuid| version["uuid"] == uuid.as_str());
        db.versions.iter_mut().filter(|v| is_orphan(v)).for_each(|v| v["page_uuid"] = Value::Null);
    });
    let worker = world.worker();
    world.send(&all).await;
    let dead = world.until_dead_letters(BAD).await;
    for job in good {
        world.until_event(&job.id, "done").await;
    }
    assert!(dead.iter().all(|letter| {
        let reason = letter.reason.as_ref().unwrap();
        reason.kind == FailureKind::VersionUnreadable && reason.failure.detail.contains("answered 500")
    }));
    for job in bad {
        assert_eq!(world.job_events(&job.id).await, ["retried", "retried", "buried"]);
    }
    assert_eq!(postponed_events(&world).await, 0, "no other job waited for that");
    assert!(
        world.sentry.fingerprints().iter().all(|of| of[0] != "outage"),
        "{:?}",
        world.sentry.fingerprints()
    );
    // Each try costs two calls: for the version, and for another one.
    let asked =
        |uuid: &String| db.with_state(|db| db.requests.iter().filter(|line| line.contains(uuid)).count());
    assert!(orphans.iter().all(|uuid| asked(uuid) == 3), "three tries each");
    worker.stop().await;
}

#[tokio::test]
async fn an_app_that_fails_for_every_version_is_an_outage_and_no_versions_fault() {
    let (world, db, page, [from, _]) = world_with_app().await;
    let jobs = jobs(&world, &db, page, from, 5);
    let lost =
        |db: &mut DbState, page: Value| db.versions.iter_mut().for_each(|v| v["page_uuid"] = page.clone());
    db.with_state(|db| lost(db, Value::Null));
    let worker = world.worker();
    world.send(&jobs).await;
    until("an outage is told", async || world.sentry.fingerprints() == [["outage", "api"]]).await;
    db.with_state(|db| lost(db, page.to_string().into()));
    for job in &jobs {
        world.until_event(&job.id, "done").await;
    }
    assert_eq!(world.dead().await.len(), 0);
    worker.stop().await;
}

/// Until when the word of each worker counts that sees the app's outage.
async fn outage_reports(world: &World) -> BTreeMap<String, f64> {
    let words: Vec<(String, f64)> =
        world.redis_cmd("ZRANGE", &[&key("outage:api"), "0", "-1", "WITHSCORES"]).await;
    words.into_iter().collect()
}

/// Waits until so many workers see the outage, and each has twice heard what the others know.
async fn until_all_report_outage(world: &World, workers: usize) {
    until("all see it", async || outage_reports(world).await.len() == workers).await;
    for _ in 0..2 {
        let before = outage_reports(world).await;
        let again = async || {
            outage_reports(world)
                .await
                .iter()
                .all(|(worker, word)| before.get(worker).is_none_or(|b| word > b))
        };
        until("each has spoken again", again).await;
    }
}

/// How often it was told that the app is down.
fn outages_alerted(world: &World) -> usize {
    let events = world.sentry.events();
    events
        .iter()
        .filter(|e| e["message"].as_str().unwrap().starts_with("outage: the db app's API is down"))
        .count()
}

#[tokio::test]
async fn an_outage_that_all_workers_see_is_one_alert_and_the_next_one_is_another() {
    let (world, db, page, [from, _]) = world_with_app().await;
    let world = world.with("sentry.window", "50ms").with("policy.backoff_max", "1s");
    let workers = [world.worker(), world.worker()];
    for outage in 1..=2 {
        db.with_state(|db| db.response_override = Some((503, Vec::new(), "down".to_owned())));
        let jobs = jobs(&world, &db, page, from, 12);
        let jobs: Vec<Job> = jobs.into_iter().map(|job| Job { again: true, ..job }).collect();
        world.send(&jobs).await;
        until_all_report_outage(&world, workers.len()).await;
        until("somebody told", async || outages_alerted(&world) == outage).await;
        until_all_report_outage(&world, workers.len()).await;
        assert_eq!(
            outages_alerted(&world),
            outage,
            "one alert, however many see it and however long it lasts"
        );
        for worker in &workers {
            assert_eq!(worker.metric("breaker_open{dependency=\"api\"}").await, 1.0);
        }
        db.with_state(|db| db.response_override = None);
        until("all is done", async || world.queue.status().await.unwrap().backlog() == 0).await;
        // A worker whose breaker is still open when all is done needs another job to find out.
        until("all know that it is over", async || {
            let status = world.queue.status().await.unwrap();
            if status.backlog() + status.in_flight + status.inbox == 0 {
                let probe = Job { id: JobId::generate(), ..jobs[0].clone() };
                world.send(&[probe]).await;
            }
            world.keys("alerts:group:outage:*").await.is_empty()
        })
        .await;
        assert_eq!(outage_reports(&world).await, BTreeMap::new());
    }
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(outages_alerted(&world), 2);
    assert_eq!(world.dead().await.len(), 0);
}

#[tokio::test]
async fn an_alert_is_not_lost_with_the_worker_that_was_to_send_it() {
    let (world, db, page, [from, _]) = world_with_app().await;
    let world = world.with("queue.lease", "2s");
    db.with_state(|db| db.response_override = Some((503, Vec::new(), "down".to_owned())));
    // A Sentry that never answers: what is sent there is not told.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let victim =
        world.worker_with(&[("sentry.dsn", &format!("http://key@{}/1", deaf.local_addr().unwrap()))]);
    world.send(&jobs(&world, &db, page, from, 6)).await;
    until_all_report_outage(&world, 1).await;
    let heir = world.worker();
    until_all_report_outage(&world, 2).await;
    assert_eq!(world.sentry.alerts(), 0, "it is another's to tell");
    victim.signal(Signal::KILL);
    until("the heir tells", async || outages_alerted(&world) == 1).await;
    until_all_report_outage(&world, 1).await;
    assert_eq!(world.sentry.fingerprints(), [["outage", "api"]]);
    heir.stop().await;
}

#[tokio::test]
async fn jobs_at_the_front_that_make_the_app_fail_hold_up_no_others_and_are_stranded_in_the_end() {
    const BAD: usize = 10;
    let (world, db, page, [from, _]) = world_with_app().await;
    let world = world.with("policy.postponements", "1").with("policy.probe_max", "100ms");
    let world = world.with("policy.backoff_max", "5s");
    let all = jobs(&world, &db, page, from, BAD + 30);
    let (bad, good) = all.split_at(BAD);
    let bad: Vec<Job> = bad.iter().map(|job| Job { priority: Priority::High, ..job.clone() }).collect();
    db.with_state(|db| db.broken = bad.iter().map(|job| job.to.uuid()).collect());
    let worker = world.worker();
    world.send(&bad).await;
    until("the app fails", async || postponed_events(&world).await >= 2).await;
    world.send(&good[..10]).await;
    for job in &good[..10] {
        world.until_event(&job.id, "done").await;
    }
    // What still waits is tried in a sound house only while others come through.
    let mut turns = good[10..].iter().cycle();
    until("all of them are stranded", async || {
        let next = turns.next().unwrap();
        let next = Job { id: JobId::generate(), again: true, ..next.clone() };
        world.send(std::slice::from_ref(&next)).await;
        world.until_event(&next.id, "done").await;
        world.dead().await.len() == BAD
    })
    .await;
    let dead = world.dead().await;
    assert!(
        dead.iter().all(|letter| letter.reason.as_ref().unwrap().kind == FailureKind::Stranded),
        "{dead:?}"
    );
    worker.stop().await;
}
