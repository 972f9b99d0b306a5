//! Lists of Sidekiq and Resque: what comes there comes in, in order and once, while nobody else works on them.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Adopted, Adopter, Config, Content, Error, ForeignList, ListState, Selection};
use wm_testbed::roles::Roles;

use crate::pool::cluster;
use crate::world::*;

const SIDEKIQ: &str = "queue:analysis";
const RESQUE: &str = "resque:queue:analysis";
/// So that foreign workers are looked for at the first look, and not again within a test.
const NOW_AND_THEN: Duration = Duration::from_secs(3600);

async fn adopting() -> World {
    let mut world = World::new().await;
    world.config.adopt = lists(&["sidekiq:queue:analysis", "resque:resque:queue:analysis"]);
    world
}

fn lists(lists: &[&str]) -> Vec<ForeignList> {
    lists.iter().map(|list| ForeignList::try_from((*list).to_owned()).unwrap()).collect()
}

/// As a native object in an envelope: what is told apart here is lists, not forms.
fn envelope(job: &Job) -> String {
    format!(r#"{{"class":"Compare","args":[{}]}}"#, String::from_utf8(job.encode()).unwrap())
}

async fn length(world: &World, list: &str) -> u64 {
    world.ask("LLEN", list).await
}

async fn standing(adopter: &mut Adopter, list: &str) -> Option<ListState> {
    let adopted = adopter.look().await.unwrap();
    adopted.changed.into_iter().find(|(key, _)| key == list).map(|(_, standing)| standing)
}

#[tokio::test]
async fn each_list_is_taken_from_its_older_end_and_every_payload_is_judged() {
    let world = adopting().await;
    let queue = world.queue().await;
    let jobs: Vec<Job> = (0..6).map(|_| job()).collect();
    for job in &jobs[..3] {
        let _: u64 = world.ask("LPUSH", &[SIDEKIQ, &envelope(job)]).await;
    }
    for job in &jobs[3..] {
        let _: u64 = world.ask("RPUSH", &[RESQUE, &envelope(job)]).await;
    }
    let foreign = r#"{"class":"HardJob","args":[1]}"#;
    let _: u64 = world.ask("LPUSH", &[SIDEKIQ, foreign]).await;
    let _: u64 = world.ask("ZADD", &["schedule", "1", &envelope(&job())]).await;

    let adopted = queue.worker.adopter(NOW_AND_THEN).look().await.unwrap();
    assert_eq!((adopted.moved, adopted.left), (7, 0));
    let both = [SIDEKIQ, RESQUE].map(|list| (list.to_owned(), ListState::Adopted));
    assert_eq!(adopted.changed, both);
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.buried.len()), (6, 1));
    for job in &jobs {
        assert_eq!(claimed(&queue, "w").await.job, *job);
    }
    let letter = queue.operator.dead(&Selection::default(), 9).await.unwrap().remove(0);
    assert_eq!(letter.reason.unwrap().kind, FailureKind::Decode);
    assert!(matches!(letter.content, Content::Raw(raw) if raw.head == foreign.as_bytes()));
    assert_eq!(world.counter("adopted").await, 7);
    let scheduled: u64 = world.ask("ZCARD", "schedule").await;
    assert_eq!(scheduled, 1, "Sidekiq's own is left alone");
    world.check_invariants().await;
}

#[tokio::test]
async fn several_workers_may_adopt_at_once_and_each_payload_comes_in_once() {
    let world = adopting().await;
    let jobs: Vec<Job> = (0..700).map(|_| job()).collect();
    for job in &jobs {
        let _: u64 = world.ask("LPUSH", &[SIDEKIQ, &envelope(job)]).await;
    }
    let mut workers = Vec::new();
    for _ in 0..4 {
        let queue = world.queue().await;
        workers.push(tokio::spawn(async move {
            let mut adopter = queue.worker.adopter(NOW_AND_THEN);
            let mut sum = 0;
            loop {
                let Adopted { moved, left, .. } = adopter.look().await.unwrap();
                sum += moved;
                if left == 0 {
                    return sum;
                }
            }
        }));
    }
    let mut moved = 0;
    for worker in workers {
        moved += worker.await.unwrap();
    }
    assert_eq!(moved, 700);
    let queue = world.queue().await;
    while queue.worker.ingest().await.unwrap().more {}
    let ready: Vec<String> = world.ask("ZRANGE", &[&key("ready"), "0", "-1"]).await;
    let expected: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    assert_eq!(ready, expected, "in the order in which they were pushed");
}

#[tokio::test]
async fn a_live_sidekiq_process_keeps_its_list_and_one_that_is_quiet_gone_or_elsewhere_does_not() {
    let world = adopting().await;
    let queue = world.queue().await;
    let _: u64 = world.ask("LPUSH", &[SIDEKIQ, &envelope(&job())]).await;
    let _: u64 = world.ask("SADD", &["processes", "web-1:7:abc"]).await;
    let says = async |queues: &str, quiet: &str| {
        let info = format!(r#"{{"hostname":"web-1","pid":7,"queues":["default"{queues}]}}"#);
        let _: u64 = world.ask("HSET", &["web-1:7:abc", "info", &info, "quiet", quiet]).await;
    };
    says(r#","analysis""#, "false").await;
    let mut adopter = queue.worker.adopter(NOW_AND_THEN);
    let theirs = ListState::Theirs("web-1:7:abc".to_owned());
    assert_eq!(standing(&mut adopter, SIDEKIQ).await, Some(theirs));
    assert_eq!(standing(&mut adopter, SIDEKIQ).await, None, "told once");
    assert_eq!(length(&world, SIDEKIQ).await, 1);

    let forced = Config { adopt_beside_others: true, ..world.config.clone() };
    let forced = Roles::connect(&forced).await.unwrap();
    let shared = ListState::Shared("web-1:7:abc".to_owned());
    assert_eq!(standing(&mut forced.worker.adopter(NOW_AND_THEN), SIDEKIQ).await, Some(shared));
    assert_eq!(length(&world, SIDEKIQ).await, 0);

    for (queues, quiet) in [(r#","analysis""#, "true"), ("", "false")] {
        says(queues, quiet).await;
        assert_eq!(
            standing(&mut queue.worker.adopter(NOW_AND_THEN), SIDEKIQ).await,
            Some(ListState::Adopted),
            "{queues} {quiet}"
        );
    }
    says(r#","analysis""#, "false").await;
    let _: u64 = world.ask("DEL", "web-1:7:abc").await;
    assert_eq!(
        standing(&mut queue.worker.adopter(NOW_AND_THEN), SIDEKIQ).await,
        Some(ListState::Adopted),
        "its heartbeat ran out"
    );
}

#[tokio::test]
async fn a_live_resque_worker_keeps_its_list_until_its_heartbeat_is_old() {
    let world = adopting().await;
    let queue = world.queue().await;
    let _: u64 = world.ask("RPUSH", &[RESQUE, &envelope(&job())]).await;
    let worker = "web-1:7:import,analysis";
    let _: u64 = world.ask("SADD", &["resque:workers", "web-1:6:import", worker]).await;
    let heartbeat = async |ago: u64| {
        let then = OffsetDateTime::now_utc() - Duration::from_secs(ago);
        let then = then.format(&Rfc3339).unwrap();
        let _: u64 = world.ask("HSET", &["resque:workers:heartbeat", worker, &then]).await;
    };
    let theirs = Some(ListState::Theirs(worker.to_owned()));
    assert_eq!(
        standing(&mut queue.worker.adopter(NOW_AND_THEN), RESQUE).await,
        theirs,
        "without heartbeats it is believed"
    );
    heartbeat(60).await;
    assert_eq!(standing(&mut queue.worker.adopter(NOW_AND_THEN), RESQUE).await, theirs);
    assert_eq!(length(&world, RESQUE).await, 1);
    heartbeat(301).await;
    assert_eq!(standing(&mut queue.worker.adopter(NOW_AND_THEN), RESQUE).await, Some(ListState::Adopted));
    assert_eq!(length(&world, RESQUE).await, 0);
}

#[tokio::test]
async fn who_works_on_a_list_is_looked_at_again_now_and_then() {
    let world = adopting().await;
    let queue = world.queue().await;
    let (mut adopter, mut eager) = (queue.worker.adopter(NOW_AND_THEN), queue.worker.adopter(Duration::ZERO));
    assert_eq!(standing(&mut adopter, SIDEKIQ).await, Some(ListState::Adopted));
    assert_eq!(standing(&mut eager, SIDEKIQ).await, Some(ListState::Adopted));
    let _: u64 = world.ask("SADD", &["processes", "web-1:7:abc"]).await;
    let _: u64 = world.ask("HSET", &["web-1:7:abc", "info", r#"{"queues":["analysis"]}"#]).await;
    assert_eq!(standing(&mut adopter, SIDEKIQ).await, None, "not at every look");
    assert!(matches!(standing(&mut eager, SIDEKIQ).await, Some(ListState::Theirs(_))));
}

#[tokio::test]
async fn what_there_is_no_room_for_stays_in_its_list() {
    let mut world = adopting().await;
    world.config.backlog_max = 1;
    let queue = world.queue().await;
    for _ in 0..1200 {
        let _: u64 = world.ask("LPUSH", &[SIDEKIQ, &envelope(&job())]).await;
    }
    let mut adopter = queue.worker.adopter(NOW_AND_THEN);
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    assert!(matches!(adopter.look().await, Err(Error::Full(_))));
    assert_eq!(length(&world, SIDEKIQ).await, 1200);
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    let _ = queue.producer.enqueue(&[job()]).await.unwrap();
    for _ in 0..15 {
        let adopted = adopter.look().await.unwrap();
        assert!(adopted.moved <= 100);
        assert!(queue.worker.ingest().await.unwrap().full);
    }
    assert_eq!((length(&world, SIDEKIQ).await, length(&world, &key("inbox")).await), (200, 1000));
}

#[tokio::test]
async fn a_key_that_is_no_list_and_a_list_in_a_cluster_are_refused_and_the_inbox_goes_on() {
    let world = adopting().await;
    let queue = world.queue().await;
    let _: u64 = world.ask("SADD", &[SIDEKIQ, "x"]).await;
    world.push(job().encode()).await;
    let refused = standing(&mut queue.worker.adopter(NOW_AND_THEN), SIDEKIQ).await;
    assert!(matches!(refused, Some(ListState::Refused(why)) if why.contains("holds a set")));
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 1);

    let node = cluster(1).await.remove(0);
    let config = Config { adopt: lists(&["sidekiq:queue:analysis"]), ..config(&node.url()) };
    let queue = Roles::connect(&config).await.unwrap();
    let refused = standing(&mut queue.worker.adopter(NOW_AND_THEN), SIDEKIQ).await;
    assert!(matches!(refused, Some(ListState::Refused(why)) if why.contains("cluster")));
}

#[tokio::test]
async fn a_job_that_was_sent_twice_is_in_once() {
    let world = adopting().await;
    let queue = world.queue().await;
    let sent = r#"{"class":"AnalyzeChangeJob","jid":"a1","args":["7c9904f4-c090-4f0d-8c3f-ba3dc4fade25"]}"#;
    for _ in 0..2 {
        let _: u64 = world.ask("LPUSH", &[SIDEKIQ, sent]).await;
    }
    let _ = queue.worker.adopter(NOW_AND_THEN).look().await.unwrap();
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.duplicates), (1, 1));
    assert_eq!(claimed(&queue, "w").await.job.id, JobId::parse("a1").unwrap());
}
