//! What producers push, however odd, becomes a job, a duplicate, or a dead letter; and nothing blocks what is behind.

use std::time::{Duration, Instant};

use wm_analyzer::job::JobId;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::queue::{Claim, Content, RawPayload, Selection};

use crate::world::*;

async fn raw_letter(world: &World) -> RawPayload {
    let letters = world.queue().await.operator.dead(&Selection::default(), 10).await.unwrap();
    assert_eq!(letters.len(), 1, "buried once");
    assert_eq!(letters[0].reason.as_ref().unwrap().kind, FailureKind::Decode);
    match &letters[0].content {
        Content::Raw(raw) => raw.clone(),
        Content::Job(job) => panic!("{job:?} is no job"),
    }
}

#[tokio::test]
async fn inbox_to_ready_in_the_order_it_was_pushed() {
    let world = World::new().await;
    let queue = world.queue().await;
    let jobs = [job(), job(), job()];
    for job in &jobs {
        world.push(job.encode()).await;
    }
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.more), (3, false));
    for job in &jobs {
        assert_eq!(claimed(&queue, "w").await.job, *job);
    }
}

#[tokio::test]
async fn an_undecodable_payload_is_buried_once_with_its_evidence_and_blocks_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let good = [job(), job()];
    world.push(good[0].encode()).await;
    let nonsense = b"{\"v\":1, \xff nonsense";
    world.push(nonsense).await;
    world.push(good[1].encode()).await;
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.buried.len()), (2, 1));
    assert_eq!(ingested.buried[0].reason.kind, FailureKind::Decode);
    let again = queue.worker.ingest().await.unwrap();
    assert_eq!((again.admitted, again.buried.len()), (0, 0), "never a loop");
    let raw = raw_letter(&world).await;
    assert_eq!(raw.head, nonsense);
    assert_eq!(raw.length, nonsense.len() as u64);
    assert_eq!(raw.hash, format!("sha256:{}", sha256(nonsense)));
    world.check_invariants().await;
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn a_payload_over_8_kib_is_buried_with_its_first_2_kib_its_length_and_its_hash() {
    let world = World::new().await;
    let queue = world.queue().await;
    let big: Vec<u8> = (0..200_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    world.push(&big).await;
    world.push(job().encode()).await;
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.buried.len()), (1, 1));
    let raw = raw_letter(&world).await;
    assert_eq!(raw.head, big[..2_048]);
    assert_eq!(raw.length, 200_000);
    assert_eq!(raw.hash, format!("sha256:{}", sha256(&big)));
    world.check_invariants().await;
}

#[tokio::test]
async fn a_payload_over_1_mib_never_leaves_redis_whole() {
    let world = World::new().await;
    let queue = world.queue().await;
    let huge = vec![b'x'; 30_000_000];
    world.push(&huge).await;
    world.push(job().encode()).await;
    let sent = async || {
        let info: String = world.ask("INFO", "stats").await;
        let line = info.lines().find_map(|l| l.strip_prefix("total_net_output_bytes:")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = sent().await;
    let ingested = queue.worker.ingest().await.unwrap();
    assert!(sent().await - before < 1_000_000, "only the first bytes went over the wire");
    assert_eq!((ingested.buried.len(), ingested.more), (1, true));
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 1);
    let raw = raw_letter(&world).await;
    assert_eq!((raw.head.len(), raw.length), (2_048, 30_000_000));
    // As `head -c 1M /dev/zero | tr '\0' x | sha1sum` says.
    assert_eq!(raw.hash, "sha1-1MiB:e37f4d5be56713044d62525e406d250a722647d6");
    world.check_invariants().await;
}

#[tokio::test]
async fn a_payload_that_ends_a_wait_for_the_inbox_never_leaves_redis_whole() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.worker.wait_for_inbox(Duration::from_millis(1)).await;
    let sent = async || {
        let info: String = world.ask("INFO", "stats").await;
        let line = info.lines().find_map(|l| l.strip_prefix("total_net_output_bytes:")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let (before, begun) = (sent().await, Instant::now());
    let push = async {
        until("the wait has begun", async || {
            let info: String = world.ask("INFO", "clients").await;
            info.contains("blocked_clients:1")
        })
        .await;
        world.push(vec![b'x'; 30_000_000]).await;
    };
    tokio::join!(queue.worker.wait_for_inbox(Duration::from_secs(60)), push);
    assert!(begun.elapsed() < Duration::from_secs(30), "the push ended it");
    assert!(sent().await - before < 1_000_000, "the payload did not go over the wire");
    assert_eq!(queue.worker.ingest().await.unwrap().buried.len(), 1);
    // Replies are still matched to their commands: the next waits last as long as they should.
    let begun = Instant::now();
    queue.worker.wait_for_inbox(Duration::from_millis(300)).await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    world.push(job().encode()).await;
    let begun = Instant::now();
    queue.worker.wait_for_inbox(Duration::from_secs(60)).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "a payload that is there already ends it at once");
}

#[tokio::test]
async fn a_wait_for_the_inbox_that_is_refused_is_no_busy_loop() {
    let world = World::new().await;
    let queue = world.queue().await;
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    let begun = Instant::now();
    for _ in 0..3 {
        queue.worker.wait_for_inbox(Duration::from_secs(60)).await;
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(30), "{took:?}");
}

#[tokio::test]
async fn hundreds_of_large_payloads_are_taken_in_bounded_looks() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..12 {
        world.push(vec![b'y'; 900_000]).await;
    }
    let mut looks = 0;
    while queue.status().await.unwrap().inbox > 0 {
        assert!(queue.worker.ingest().await.unwrap().buried.len() <= 2, "2 MiB a look");
        looks += 1;
        assert!(looks <= 12, "for ever");
    }
    assert_eq!(looks, 6);
    assert_eq!(world.check_invariants().await.len(), 12);
}

#[tokio::test]
async fn every_kind_of_refusal_is_filed_under_its_own_name() {
    let world = World::new().await;
    let queue = world.queue().await;
    world.push(r#"{"v":9,"to":"7c9904f4-c090-4f0d-8c3f-ba3dc4fade25"}"#).await;
    world.push(r#"{"v":1,"to":"7"}"#).await;
    world.push("").await;
    queue.worker.ingest().await.unwrap();
    let by_kind = queue.status().await.unwrap().dead_by_kind;
    let kinds: Vec<_> = by_kind.keys().copied().collect();
    assert_eq!(kinds, [FailureKind::Decode, FailureKind::UnsupportedVersion, FailureKind::BadReference]);
}

#[tokio::test]
async fn duplicates_in_the_inbox_are_counted_and_leave_it() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = job();
    for payload in [job.encode(), twin(&job).encode(), job.encode()] {
        world.push(payload).await;
    }
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.duplicates), (1, 2));
    assert_eq!(queue.status().await.unwrap().inbox, 0);
    let _ = queue.worker.settle(claimed(&queue, "w").await, done(&job)).await.unwrap();
    world.push(twin(&job).encode()).await;
    assert_eq!(queue.worker.ingest().await.unwrap().already_done, 1);
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn several_workers_may_ingest_at_once_and_each_payload_is_taken_in_once() {
    let world = World::new().await;
    for n in 0..500 {
        if n % 10 == 0 { world.push(format!("nonsense {n}")).await } else { world.push(job().encode()).await }
    }
    let mut workers = Vec::new();
    for _ in 0..4 {
        let queue = world.queue().await;
        workers.push(tokio::spawn(async move {
            let (mut admitted, mut buried) = (0, 0);
            for _ in 0..1000 {
                if queue.status().await.unwrap().inbox == 0 {
                    break;
                }
                let ingested = queue.worker.ingest().await.unwrap();
                admitted += ingested.admitted;
                buried += ingested.buried.len();
            }
            (admitted, buried)
        }));
    }
    let (mut admitted, mut buried) = (0, 0);
    for worker in workers {
        let (a, b) = worker.await.unwrap();
        (admitted, buried) = (admitted + a, buried + b);
    }
    assert_eq!((admitted, buried), (450, 50));
    let states = world.check_invariants().await;
    assert_eq!(states.len(), 500);
}

#[tokio::test]
async fn a_stored_payload_that_this_build_cannot_read_is_buried_at_its_claim() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let behind = enqueued(&queue).await;
    let of_a_newer_build = r#"{"v":2,"to":"new"}"#;
    let _: u64 = world.ask("HSET", &[&key(&format!("job:{}", job.id)), "payload", of_a_newer_build]).await;
    let Claim::Buried(buried) = queue.worker.claim(&worker("w")).await.unwrap() else { panic!("buried") };
    assert_eq!((&buried.id, buried.reason.kind), (&job.id, FailureKind::UnsupportedVersion));
    let letter = queue.operator.stored_job(&job.id).await.unwrap().unwrap();
    let Content::Raw(raw) = letter.content else { panic!("raw") };
    assert_eq!(raw.head, of_a_newer_build.as_bytes());
    let next: JobId = claimed(&queue, "w").await.job.id;
    assert_eq!(next, behind.id);
    world.check_invariants().await;
}
