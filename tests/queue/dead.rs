//! Dead letters: found, filtered, put back, trimmed; never lost without being counted.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{JobId, LimitsRequest};
use wm_analyzer::queue::{
    Actor, DiscardTo, Discards, Error, ReplayOptions, Replayed, Selected, Selection, StoredJob,
};
use wm_testbed::roles::Roles;

use crate::world::*;

async fn buried(queue: &Roles, kind: FailureKind, host: &str) -> JobId {
    let job = enqueued(queue).await;
    let _ = queue.worker.settle(claimed(queue, "w").await, death(kind, host)).await.unwrap();
    job.id
}

async fn found(queue: &Roles, filter: Selection) -> Vec<JobId> {
    let mut ids: Vec<_> =
        queue.operator.dead(&filter, 1000).await.unwrap().into_iter().map(|l| l.id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn letters_are_found_by_kind_host_time_and_id() {
    let world = World::new().await;
    let queue = world.queue().await;
    let a = buried(&queue, FailureKind::Gone, "a.test").await;
    let b = buried(&queue, FailureKind::Gone, "b.test").await;
    let c = buried(&queue, FailureKind::WallExceeded, "b.test").await;
    let by = |kinds: &[FailureKind], hosts: &[&str]| Selection {
        kinds: kinds.to_vec(),
        hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
        ..Selection::default()
    };
    let sorted = |ids: &[&JobId]| {
        let mut ids: Vec<JobId> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(found(&queue, by(&[], &[])).await, sorted(&[&a, &b, &c]));
    assert_eq!(found(&queue, by(&[FailureKind::Gone], &[])).await, sorted(&[&a, &b]));
    assert_eq!(
        found(&queue, by(&[FailureKind::Gone, FailureKind::WallExceeded], &[])).await,
        sorted(&[&a, &b, &c])
    );
    assert_eq!(found(&queue, by(&[FailureKind::Gone], &["b.test"])).await, [b]);
    assert_eq!(found(&queue, by(&[FailureKind::Tls], &[])).await, []);
    let ids = Selection { ids: vec![a.clone(), JobId::generate()], ..by(&[], &[]) };
    assert_eq!(found(&queue, ids).await, [a]);
    let later = world.now_ms().await + 60_000;
    assert_eq!(found(&queue, Selection { since_ms: Some(later), ..by(&[], &[]) }).await, []);
    assert_eq!(queue.operator.dead(&by(&[], &[]), 2).await.unwrap().len(), 2);
    world.check_invariants().await;
}

#[tokio::test]
async fn hundreds_of_letters_are_read_page_by_page() {
    let world = World::new().await;
    let queue = world.queue().await;
    for n in 0..230 {
        world.push(format!("nonsense {n}")).await;
    }
    for _ in 0..3 {
        queue.worker.ingest().await.unwrap();
    }
    let letters = queue.operator.dead(&Selection::default(), 1000).await.unwrap();
    assert_eq!(letters.len(), 230);
    let replayed = queue.operator.replay(&[letters[0].id.clone()]).await.unwrap();
    assert_eq!(replayed[0].1, Replayed::Undecodable);
    let all: Vec<_> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!(queue.operator.discard(&all).await.unwrap(), 230);
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn replay_onto_a_live_pair_answers_the_holder_and_leaves_the_letter() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let _ =
        queue.worker.settle(claimed(&queue, "w").await, death(FailureKind::Gone, "a.test")).await.unwrap();
    let holder = twin(&job);
    let _ = queue.producer.enqueue(std::slice::from_ref(&holder)).await.unwrap();
    let ids = [job.id.clone(), holder.id.clone(), JobId::generate()];
    let answers = queue.operator.replay(&ids).await.unwrap();
    let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
    assert_eq!(answers, [Replayed::Duplicate { holder: holder.id }, Replayed::Missing, Replayed::Missing]);
    assert_eq!(world.check_invariants().await[job.id.as_str()], "dead");
}

/// How many dead letters one upkeep forgets because of their age, of their number, and of their bytes.
async fn evicted(queue: &Roles) -> [u64; 3] {
    let evicted = queue.worker.upkeep().await.unwrap().evicted;
    [evicted.by_age, evicted.by_count, evicted.by_bytes]
}

#[tokio::test]
async fn dead_letters_are_trimmed_oldest_first_and_counted_by_the_cap_they_were_beyond() {
    let mut world = World::new().await;
    let queue = world.queue().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(buried(&queue, FailureKind::Gone, "a.test").await);
        let died = (world.now_ms().await - 10_000 + n * 1000).to_string();
        let _: u64 = world.ask("ZADD", &[&key("dead"), "XX", &died, ids[n as usize].as_str()]).await;
    }
    let size: u64 = world.field(&ids[0], "size").await.unwrap().parse().unwrap();
    let left = async |queue: &Roles| {
        let left = found(queue, Selection::default()).await;
        ids.iter().map(|id| left.contains(id)).collect::<Vec<_>>()
    };

    assert_eq!(evicted(&queue).await, [0; 3], "exactly at no cap");
    world.config.dead_max_count = 4;
    let by_count = world.queue().await;
    assert_eq!(evicted(&by_count).await, [0, 1, 0]);
    assert_eq!(left(&queue).await, [false, true, true, true, true]);
    assert_eq!(evicted(&by_count).await, [0; 3], "exactly at the cap");

    world.config.dead_max_bytes = bytesize::ByteSize::b(size * 3 + size / 2);
    assert_eq!(evicted(&world.queue().await).await, [0, 0, 1]);
    assert_eq!(left(&queue).await, [false, false, true, true, true]);

    world.config.dead_max_age = Duration::from_millis(7_500);
    let by_age = world.queue().await;
    until("the third is older than 7.5 s", async || evicted(&by_age).await[0] > 0).await;
    assert_eq!(left(&queue).await[..3], [false, false, false]);
    assert_eq!(world.counter("evicted").await, 2);
    assert!(world.counter("outlived").await >= 1);
    assert_eq!(queue.status().await.unwrap().evicted_last_day(), 2, "of old age nobody needs to be told");
    world.check_invariants().await;
}

#[tokio::test]
async fn what_a_replay_grants_is_delivered_until_the_job_is_replayed_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    let id = buried(&queue, FailureKind::MemoryExceeded, "a.test").await;
    let ids = std::slice::from_ref(&id);
    let granted = LimitsRequest { wall_ms: Some(30_000), heap_bytes: Some(512 << 20) };
    assert_eq!(replayed_with(&queue, &id, granted).await, Replayed::Replayed);
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.granted, granted);
    assert!(delivery.job.limits.is_empty(), "the payload stays the producer's word");
    let _ = queue.worker.settle(delivery, retry(Duration::ZERO)).await.unwrap();
    queue.worker.upkeep().await.unwrap();
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.granted, granted, "a retry is the same run");
    let _ = queue.worker.settle(delivery, death(FailureKind::WallExceeded, "a.test")).await.unwrap();

    let wall_alone = LimitsRequest { wall_ms: Some(60_000), heap_bytes: None };
    assert_eq!(replayed_with(&queue, &id, wall_alone).await, Replayed::Replayed);
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.granted, wall_alone, "nothing is left of the grant before");
    let _ = queue.worker.settle(delivery, death(FailureKind::WallExceeded, "a.test")).await.unwrap();
    assert_eq!(queue.operator.replay(ids).await.unwrap()[0].1, Replayed::Replayed);
    assert!(claimed(&queue, "w").await.granted.is_empty());
    world.check_invariants().await;
}

/// Replays a letter, whenever it died, with these limits.
async fn replayed_with(queue: &Roles, id: &JobId, granted: LimitsRequest) -> Replayed {
    let letter = queue.operator.stored_job(id).await.unwrap();
    let (selected, options) =
        (Selected { id: id.clone(), died_ms: 0 }, ReplayOptions { granted, edited: None });
    queue.operator.replay_selected(&selected, letter.as_ref(), options, Actor::default()).await.unwrap()
}

/// Replays a letter as it was listed.
async fn replayed_as(queue: &Roles, letter: &StoredJob) -> Replayed {
    let (selected, options) = (Selected::of(letter), ReplayOptions::default());
    queue.operator.replay_selected(&selected, Some(letter), options, Actor::default()).await.unwrap()
}

/// Deletes letters as they were listed.
async fn discarded(queue: &Roles, letters: &[StoredJob]) -> Discards {
    let selected: Vec<Selected> = letters.iter().map(Selected::of).collect();
    queue.operator.discard_selected(&selected, DiscardTo::Nowhere, Actor::default()).await
}

/// All letters, as an operator lists them.
async fn listed(queue: &Roles) -> Vec<StoredJob> {
    queue.operator.dead(&Selection::default(), 1000).await.unwrap()
}

#[tokio::test]
async fn a_letter_that_died_anew_since_it_was_listed_is_neither_replayed_nor_discarded() {
    let world = World::new().await;
    let queue = world.queue().await;
    let id = buried(&queue, FailureKind::Gone, "a.test").await;
    let first = listed(&queue).await;
    assert_eq!(queue.operator.replay(std::slice::from_ref(&id)).await.unwrap()[0].1, Replayed::Replayed);
    let delivery = claimed(&queue, "w").await;
    until("the server's clock has gone on", async || world.now_ms().await > first[0].died_ms).await;
    let _ = queue.worker.settle(delivery, death(FailureKind::WallExceeded, "a.test")).await.unwrap();

    assert_eq!(replayed_as(&queue, &first[0]).await, Replayed::DiedAnew);
    let discards = discarded(&queue, &first).await;
    assert_eq!((discards.discarded, &discards.missing[..]), (0, &[][..]));
    assert_eq!(discards.died_anew, std::slice::from_ref(&id));
    assert_eq!(world.check_invariants().await[id.as_str()], "dead");

    let second = listed(&queue).await;
    assert_eq!(replayed_as(&queue, &second[0]).await, Replayed::Replayed);
    let discards = discarded(&queue, &second).await;
    assert_eq!((discards.discarded, discards.missing), (0, vec![id.clone()]), "it is live");
    assert_eq!(world.check_invariants().await[id.as_str()], "ready");
}

#[tokio::test]
async fn letters_are_replayed_and_discarded_while_redis_is_full() {
    let world = World::new().await;
    let queue = world.queue().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(buried(&queue, FailureKind::Gone, "a.test").await);
    }
    let letters = listed(&queue).await;
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    let refused = async || matches!(queue.producer.enqueue(&[job()]).await, Err(Error::Full(_)));
    assert!(refused().await);

    let granted = LimitsRequest { wall_ms: Some(30_000), heap_bytes: Some(512 << 20) };
    assert_eq!(replayed_with(&queue, &letters[0].id, granted).await, Replayed::Replayed);
    let by_id = queue.operator.replay(std::slice::from_ref(&letters[1].id)).await.unwrap();
    assert_eq!(by_id[0].1, Replayed::Replayed);
    let discards = discarded(&queue, &letters[2..3]).await;
    assert_eq!(discards.discarded, 1, "{discards:?}");
    assert_eq!(queue.operator.discard(std::slice::from_ref(&letters[3].id)).await.unwrap(), 1);

    assert!(refused().await, "it was full all the time");
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    let states = world.check_invariants().await;
    let state = |letter: &StoredJob| states.get(letter.id.as_str()).map(String::as_str);
    assert_eq!(letters.iter().map(state).collect::<Vec<_>>(), [Some("ready"), Some("ready"), None, None]);
    assert_eq!(claimed(&queue, "w").await.job.id, letters[0].id, "in the order in which they were replayed");
    assert_eq!(claimed(&queue, "w").await.job.id, letters[1].id);
}
