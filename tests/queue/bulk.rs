//! What operators do in bulk: frozen selections that can be gone on with, undone, and asked about later.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{JobId, LimitsRequest};
use wm_analyzer::queue::{
    Actor, AuditEntry, DiscardTo, Error, JobState, OperationId, ReleaseKind, ReplayOptions, ReplayUndone,
    Replayed, Selected, Selection, StoredJob,
};
use wm_testbed::roles::Roles;
use wm_testbed::wait::until;

use crate::world::{World, claimed, death, done, job, key, retry};

/// A letter that was buried with this kind and host.
async fn buried(queue: &Roles, kind: FailureKind, host: &str) -> JobId {
    let job = job();
    let id = job.id.clone();
    let _ = queue.producer.enqueue(&[job]).await.unwrap();
    let _ = queue.worker.settle(claimed(queue, "w").await, death(kind, host)).await.unwrap();
    id
}

fn entry(what: &str) -> AuditEntry {
    AuditEntry { what: what.to_owned(), by: "ana@bastion".to_owned(), ..AuditEntry::default() }
}

/// A replay of all letters, begun and recorded.
async fn begun(queue: &Roles) -> (OperationId, Vec<StoredJob>) {
    let letters = queue.operator.dead(&Selection::default(), 100).await.unwrap();
    let (operation, selected) = (OperationId::fresh("replay"), letters.iter().map(Selected::of));
    let selected: Vec<Selected> = selected.collect();
    queue.operator.begin_operation(&operation, &entry("replay"), "", &selected).await.unwrap();
    (operation, letters)
}

async fn replayed(queue: &Roles, letter: &StoredJob, operation: &OperationId) -> Replayed {
    let actor = Actor { by: "ana@bastion", operation: Some(operation) };
    let options = ReplayOptions { granted: LimitsRequest::default(), edited: None };
    queue.operator.replay_selected(&Selected::of(letter), Some(letter), options, actor).await.unwrap()
}

async fn outcomes(queue: &Roles, operation: &OperationId) -> Vec<(String, usize)> {
    let operation = queue.operation(operation).await.unwrap().expect("it is remembered");
    operation.counts().into_iter().map(|(what, count)| (what.to_owned(), count)).collect()
}

#[tokio::test]
async fn an_operation_knows_what_became_of_each_of_its_jobs() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..4 {
        buried(&queue, FailureKind::Gone, "a.test").await;
    }
    let (operation, letters) = begun(&queue).await;
    assert_eq!(outcomes(&queue, &operation).await, [("selected".to_owned(), 4)]);
    for letter in &letters[..3] {
        assert_eq!(replayed(&queue, letter, &operation).await, Replayed::Replayed);
    }
    let held = claimed(&queue, "w").await;
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let held = claimed(&queue, "w").await;
    let _ = queue.worker.settle(held, death(FailureKind::WallExceeded, "a.test")).await.unwrap();
    let wanted = [("dead:wall_exceeded", 1), ("done", 1), ("replayed", 1), ("selected", 1)];
    let wanted = wanted.map(|(what, count)| (what.to_owned(), count));
    assert_eq!(outcomes(&queue, &operation).await, wanted);
    let left = queue.operation(&operation).await.unwrap().unwrap().left();
    assert_eq!(left, [Selected::of(&letters[3])], "what it was not come to is as it was selected");
    world.check_invariants().await;
}

#[tokio::test]
async fn a_replay_is_undone_only_where_the_job_still_waits_and_the_letter_is_as_it_was() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..3 {
        buried(&queue, FailureKind::Gone, "a.test").await;
    }
    let (operation, letters) = begun(&queue).await;
    for letter in &letters {
        assert_eq!(replayed(&queue, letter, &operation).await, Replayed::Replayed);
    }
    let in_flight = claimed(&queue, "w").await;
    let finished = claimed(&queue, "w").await;
    let verdict = done(&finished.job);
    let _ = queue.worker.settle(finished, verdict).await.unwrap();
    let undo = async |id: &JobId, operation: &OperationId| {
        queue.operator.undo_replay(id, operation, "ana@bastion").await.unwrap()
    };
    let ids: Vec<&JobId> = letters.iter().map(|letter| &letter.id).collect();
    assert_eq!(undo(ids[2], &OperationId::fresh("replay")).await, ReplayUndone::Missing, "not its own");
    assert_eq!(undo(ids[2], &operation).await, ReplayUndone::Undone);
    assert_eq!(undo(ids[2], &operation).await, ReplayUndone::Missing, "once");
    assert_eq!(undo(&in_flight.job.id, &operation).await, ReplayUndone::InFlight);
    assert_eq!(undo(ids[1], &operation).await, ReplayUndone::Missing, "it has ended");
    let letter = queue.operator.stored_job(ids[2]).await.unwrap().unwrap();
    let then = &letters[2];
    assert_eq!((letter.died_ms, &letter.reason, letter.replays), (then.died_ms, &then.reason, 0));
    let states = world.check_invariants().await;
    assert_eq!(states[ids[2].as_str()], "dead");
    assert_eq!(queue.groups().await.unwrap().0[0].replays.replayed, 2);
}

#[tokio::test]
async fn what_waits_for_its_host_or_its_time_can_be_undone_too() {
    let world = World::new().await;
    let queue = world.queue().await;
    buried(&queue, FailureKind::Gone, "a.test").await;
    let (operation, letters) = begun(&queue).await;
    assert_eq!(replayed(&queue, &letters[0], &operation).await, Replayed::Replayed);
    let held = claimed(&queue, "w").await;
    let _ = queue.worker.settle(held, retry(Duration::from_secs(60))).await.unwrap();
    let undone = queue.operator.undo_replay(&letters[0].id, &operation, "ana@bastion").await.unwrap();
    assert_eq!(undone, ReplayUndone::Undone);
    world.check_invariants().await;
}

#[tokio::test]
async fn a_discarded_letter_is_in_the_trash_for_a_day_and_can_be_restored() {
    let world = World::new().await;
    let queue = world.queue().await;
    let (a, b) = (
        buried(&queue, FailureKind::Gone, "a.test").await,
        buried(&queue, FailureKind::Gone, "a.test").await,
    );
    let letters = queue.operator.dead(&Selection::default(), 10).await.unwrap();
    let selected: Vec<Selected> = letters.iter().map(Selected::of).collect();
    let discards = queue.operator.discard_selected(&selected, DiscardTo::Trash, Actor::default()).await;
    assert_eq!(discards.discarded, 2);
    let states = world.check_invariants().await;
    assert_eq!([&states[a.as_str()], &states[b.as_str()]], ["trash", "trash"]);
    assert_eq!(queue.operator.dead(&Selection::default(), 10).await.unwrap(), []);

    assert!(queue.operator.restore(&a, Actor::default()).await.unwrap());
    assert!(!queue.operator.restore(&a, Actor::default()).await.unwrap(), "once");
    let restored = queue.operator.stored_job(&a).await.unwrap().unwrap();
    let then = letters.iter().find(|letter| letter.id == a).unwrap();
    assert_eq!(
        (restored.state, restored.died_ms, &restored.reason),
        (JobState::Dead, then.died_ms, &then.reason)
    );

    let _: u64 = world.ask("ZADD", &[&key("trash"), "1", b.as_str()]).await;
    queue.worker.upkeep().await.unwrap();
    assert_eq!(queue.operator.stored_job(&b).await.unwrap(), None, "after a day it is gone");
    world.check_invariants().await;
}

#[tokio::test]
async fn the_trash_gives_way_before_any_dead_letter_does() {
    let mut world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..3 {
        buried(&queue, FailureKind::Gone, "a.test").await;
    }
    let oldest_first = queue.operator.dead(&Selection::default(), 10).await.unwrap();
    let newest = Selected::of(&oldest_first[0]);
    let discards = queue.operator.discard_selected(&[newest], DiscardTo::Trash, Actor::default()).await;
    assert_eq!(discards.discarded, 1);
    let bytes: u64 = world.ask("HGET", &[&key("meta"), "dead_bytes"]).await;
    world.config.dead_max_bytes = bytesize::ByteSize::b(bytes + 10);
    let tighter = world.queue().await;
    let _: u64 = world.ask("HDEL", &[&key("meta"), "dead_max_bytes"]).await;
    tighter.worker.upkeep().await.unwrap();
    let states = world.check_invariants().await;
    assert_eq!(states.values().filter(|state| *state == "dead").count(), 2);
    assert_eq!(states.values().filter(|state| *state == "trash").count(), 0);
}

#[tokio::test]
async fn a_job_whose_id_is_in_the_trash_can_be_enqueued_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    let id = buried(&queue, FailureKind::Gone, "a.test").await;
    let letter = queue.operator.stored_job(&id).await.unwrap().unwrap();
    let discards =
        queue.operator.discard_selected(&[Selected::of(&letter)], DiscardTo::Trash, Actor::default()).await;
    assert_eq!(discards.discarded, 1);
    let _ = queue.producer.enqueue(&[letter.job().unwrap().clone()]).await.unwrap();
    assert_eq!(world.check_invariants().await[id.as_str()], "ready");
    assert_eq!(claimed(&queue, "w").await.counts.deliveries, 1, "nothing of the letter is left");
}

#[tokio::test]
async fn deaths_are_counted_by_kind_and_host_with_what_became_of_those_that_were_replayed() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..3 {
        buried(&queue, FailureKind::Gone, "a.test").await;
    }
    buried(&queue, FailureKind::WallExceeded, "b.test").await;
    let (groups, _) = queue.groups().await.unwrap();
    let named: Vec<_> = groups.iter().map(|group| (group.kind, group.host.as_str(), group.dead)).collect();
    let wanted = [(Some(FailureKind::Gone), "a.test", 3), (Some(FailureKind::WallExceeded), "b.test", 1)];
    assert_eq!(named, wanted);
    assert_eq!(
        (groups[0].deaths["1h"], groups[0].deaths["7d"], groups[0].trend.iter().sum::<u64>()),
        (3, 3, 3)
    );

    let (operation, letters) = begun(&queue).await;
    for letter in letters.iter().filter(|letter| letter.kind() == Some(FailureKind::Gone)) {
        assert_eq!(replayed(&queue, letter, &operation).await, Replayed::Replayed);
    }
    let held = claimed(&queue, "w").await;
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let _ =
        queue.worker.settle(claimed(&queue, "w").await, death(FailureKind::Gone, "a.test")).await.unwrap();
    let replays = queue.groups().await.unwrap().0.remove(0).replays;
    assert_eq!((replays.replayed, replays.done, replays.died, replays.open()), (3, 1, 1, 1));
    world.check_invariants().await;
}

#[tokio::test]
async fn beyond_five_hundred_groups_the_hosts_of_a_kind_are_counted_together() {
    let world = World::new().await;
    let queue = world.queue().await;
    for n in 0..500 {
        let _: u64 =
            world.ask("ZADD", &[&key("dead_groups"), "9999999999999", &format!("gone h{n}.test")]).await;
    }
    for host in ["one-more.test", "another.test"] {
        buried(&queue, FailureKind::Gone, host).await;
    }
    let (groups, _) = queue.groups().await.unwrap();
    let others = groups.iter().find(|group| group.host == "*").expect("the hosts beyond the cap");
    assert_eq!((others.kind, others.dead), (Some(FailureKind::Gone), 2));
}

#[tokio::test]
async fn a_job_remembers_its_deliveries_and_what_people_did_also_once_it_has_ended() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = job();
    let _ = queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap();
    let _ = queue.worker.settle(claimed(&queue, "w").await, retry(Duration::ZERO)).await.unwrap();
    queue.worker.upkeep().await.unwrap();
    let _ =
        queue.worker.settle(claimed(&queue, "v").await, death(FailureKind::Gone, "a.test")).await.unwrap();
    let (operation, letters) = begun(&queue).await;
    assert_eq!(replayed(&queue, &letters[0], &operation).await, Replayed::Replayed);
    let told = |log: &[wm_analyzer::queue::LogEntry]| -> Vec<(String, String, String)> {
        log.iter().map(|entry| (entry.what.clone(), entry.worker.clone(), entry.by.clone())).collect()
    };
    let wanted = [("retried", "w", ""), ("dead", "v", ""), ("replayed", "", "ana@bastion")]
        .map(|(what, worker, by)| (what.to_owned(), worker.to_owned(), by.to_owned()));
    let waiting = queue.operator.stored_job(&job.id).await.unwrap().unwrap();
    assert_eq!(told(&waiting.log), wanted);
    assert!(waiting.log[0].why.contains(": "), "kind and sentence: {:?}", waiting.log[0]);
    let held = claimed(&queue, "w").await;
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let ended = queue.ended(&job.id).await.unwrap().expect("it is kept with its result");
    assert_eq!((told(&ended.log), ended.worker.as_str()), (wanted.to_vec(), "w"));
    assert!(ended.enqueued_ms > 0 && ended.claimed_ms >= ended.enqueued_ms);
}

#[tokio::test]
async fn a_history_that_is_too_long_loses_its_oldest_entries_and_says_how_many() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = job();
    let _ = queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap();
    for _ in 0..60 {
        let held = claimed(&queue, "w").await;
        let _ = queue.worker.release(held, ReleaseKind::WhileFetching).await.unwrap();
        until("it waits again", async || world.field(&job.id, "token").await.is_none()).await;
    }
    let stored = queue.operator.stored_job(&job.id).await.unwrap().unwrap();
    let bytes: u64 = world.ask("HSTRLEN", &[&key(&format!("job:{}", job.id)), "log"]).await;
    assert!(bytes <= 4_000, "{bytes}");
    assert_eq!(stored.log.len() as u64 + stored.log_cut, 60);
    assert!(stored.log_cut > 0);
}

/// An operation on a job that does not exist, which is come to at once where `to_its_end`.
async fn small_operation(queue: &Roles, to_its_end: bool) -> Result<OperationId, Error> {
    let (operation, id) = (OperationId::fresh("cancel"), JobId::generate());
    let selected = [Selected { id: id.clone(), died_ms: 0 }];
    queue.operator.begin_operation(&operation, &entry("cancel"), "", &selected).await?;
    if to_its_end {
        assert!(!queue.operator.cancel(&id, Actor { by: "ana", operation: Some(&operation) }).await?);
    }
    Ok(operation)
}

#[tokio::test]
async fn the_oldest_operations_that_are_through_forget_their_jobs_first() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..2 {
        buried(&queue, FailureKind::Gone, "a.test").await;
    }
    let (running, letters) = begun(&queue).await;
    assert_eq!(replayed(&queue, &letters[0], &running).await, Replayed::Replayed);
    let mut operations = Vec::new();
    for _ in 0..102 {
        operations.push(small_operation(&queue, true).await.unwrap());
        let now = world.now_ms().await;
        until("the clock has gone on", async || world.now_ms().await > now).await;
    }
    assert_eq!(queue.operation(&operations[0]).await.unwrap(), None);
    assert!(queue.operation(&operations[101]).await.unwrap().is_some());
    let kept: u64 = world.ask("ZCARD", &[&key("operations")]).await;
    assert!(kept <= 100, "{kept}");
    assert_eq!(queue.audit_rows(1000).await.unwrap().1, 103, "the audit has them all");
    let left = queue.operation(&running).await.unwrap().expect("it is not through").left();
    assert_eq!(left, [Selected::of(&letters[1])], "and is gone on with");
}

#[tokio::test]
async fn an_operation_for_which_others_would_have_to_break_off_is_refused_and_told_the_way_out() {
    let world = World::new().await;
    let queue = world.queue().await;
    let oldest = small_operation(&queue, false).await.unwrap();
    let now = world.now_ms().await;
    until("the clock has gone on", async || world.now_ms().await > now).await;
    for _ in 0..99 {
        small_operation(&queue, false).await.unwrap();
    }
    let refused = small_operation(&queue, false).await.unwrap_err();
    assert!(matches!(&refused, Error::TooManyOperations { jobs: 100, .. }), "{refused:?}");
    assert!(refused.to_string().contains(&format!("wm-analyzer audit show {oldest}")), "{refused}");
    assert_eq!(queue.audit_rows(1000).await.unwrap().1, 100, "nothing was begun");

    let _: u64 = world.ask("ZADD", &[&key("operations"), "XX", "1", oldest.as_str()]).await;
    let many = small_operation(&queue, false).await.unwrap();
    assert_eq!(queue.operation(&oldest).await.unwrap(), None, "after half a day it gives way");

    let most = [(key(&format!("operation:{many}")), "jobs", "200000")];
    for (operation, field, jobs) in &most {
        let _: u64 = world.ask("HSET", &[operation, *field, *jobs]).await;
    }
    let others: Vec<String> = world.ask("ZRANGE", &[&key("operations"), "0", "-2"]).await;
    let _: u64 = world.ask("ZREM", &[&[key("operations")], &others[..]].concat()).await;
    let refused = small_operation(&queue, false).await.unwrap_err();
    assert!(matches!(&refused, Error::TooManyOperations { jobs: 200_000, .. }), "{refused:?}");
}

#[tokio::test]
async fn what_operations_take_up_is_what_they_take_up_now() {
    let world = World::new().await;
    let queue = world.queue().await;
    let bytes = async || queue.status().await.unwrap().memory.history_bytes;
    let before = bytes().await;
    let selected: Vec<_> = (0..3_000).map(|_| Selected { id: JobId::generate(), died_ms: 1 }).collect();
    let operation = OperationId::fresh("replay");
    queue.operator.begin_operation(&operation, &entry("replay"), "", &selected).await.unwrap();
    assert!(bytes().await > before + 100_000);
    let _: u64 = world.ask("PEXPIRE", &[&key(&format!("operation_jobs:{operation}")), "1"]).await;
    until("its jobs are forgotten", async || bytes().await < before + 10_000).await;
}

#[tokio::test]
async fn a_selection_and_a_reason_are_stored_without_the_secrets_in_them() {
    let world = World::new().await;
    let queue = world.queue().await;
    let said = "text:https://ana:geheim@a.test/p?token=geheim";
    let entry = AuditEntry { selection: said.to_owned(), why: said.to_owned(), ..entry("cancel") };
    let selected = [Selected { id: JobId::generate(), died_ms: 0 }];
    let operation = OperationId::fresh("cancel");
    queue.operator.begin_operation(&operation, &entry, "", &selected).await.unwrap();
    queue.operator.audit(&entry).await.unwrap();
    let mut stored = queue.audit_rows(10).await.unwrap().0;
    stored.push(queue.operation(&operation).await.unwrap().unwrap().entry);
    assert_eq!(stored.len(), 3);
    for AuditEntry { selection, why, .. } in stored {
        assert!(!selection.contains("geheim") && selection.contains("a.test/p"), "{selection}");
        assert_eq!(why, selection);
    }
}

#[tokio::test]
async fn an_edited_replay_that_is_undone_has_its_own_payload_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    let id = buried(&queue, FailureKind::Gone, "a.test").await;
    let (operation, letters) = begun(&queue).await;
    let before = letters[0].job().unwrap().clone();
    let edited = wm_analyzer::job::Job { again: true, ..before.clone() };
    let options = ReplayOptions { granted: LimitsRequest::default(), edited: Some(&edited) };
    let actor = Actor { by: "ana@bastion", operation: Some(&operation) };
    let replayed =
        queue.operator.replay_selected(&Selected::of(&letters[0]), Some(&letters[0]), options, actor).await;
    assert_eq!(replayed.unwrap(), Replayed::Replayed);
    assert!(queue.operator.stored_job(&id).await.unwrap().unwrap().job().unwrap().again);
    let undone = queue.operator.undo_replay(&id, &operation, "ana@bastion").await.unwrap();
    assert_eq!(undone, ReplayUndone::Undone);
    assert_eq!(queue.operator.stored_job(&id).await.unwrap().unwrap().job(), Some(&before));
    world.check_invariants().await;
}

#[tokio::test]
async fn a_second_attempt_at_a_replay_does_not_hide_what_the_first_one_did() {
    let world = World::new().await;
    let queue = world.queue().await;
    buried(&queue, FailureKind::Gone, "a.test").await;
    let (operation, letters) = begun(&queue).await;
    assert_eq!(replayed(&queue, &letters[0], &operation).await, Replayed::Replayed);
    assert_eq!(replayed(&queue, &letters[0], &operation).await, Replayed::Missing);
    assert_eq!(outcomes(&queue, &operation).await, [("replayed".to_owned(), 1)]);
}

#[tokio::test]
async fn a_group_that_has_expired_does_not_come_back_when_its_letters_go() {
    let world = World::new().await;
    let queue = world.queue().await;
    let id = buried(&queue, FailureKind::Gone, "a.test").await;
    let _: u64 = world.ask("DEL", &[&key("dead_group:gone a.test")]).await;
    let _: u64 = world.ask("DEL", &[&key("dead_groups")]).await;
    assert_eq!(queue.operator.discard(std::slice::from_ref(&id)).await.unwrap(), 1);
    assert_eq!(world.ask::<u64>("EXISTS", &[&key("dead_group:gone a.test")]).await, 0);
}

#[tokio::test]
async fn a_producers_call_stays_out_of_a_full_redis_also_where_its_id_is_in_the_trash() {
    let world = World::new().await;
    let queue = world.queue().await;
    let id = buried(&queue, FailureKind::Gone, "a.test").await;
    let letter = queue.operator.stored_job(&id).await.unwrap().unwrap();
    let discards =
        queue.operator.discard_selected(&[Selected::of(&letter)], DiscardTo::Trash, Actor::default()).await;
    assert_eq!(discards.discarded, 1);
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    let refused = queue.producer.enqueue(&[letter.job().unwrap().clone(), job()]).await;
    assert!(matches!(refused, Err(wm_analyzer::queue::Error::Full(_))), "{refused:?}");
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    assert_eq!(world.check_invariants().await[id.as_str()], "trash");
}
