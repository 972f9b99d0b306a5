//! What is reported of the queue by one worker for all: once, in order, and by another where that one dies.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::queue::{
    AlertClaim, AlertOutcome, AlertState, AlertSubject, Config, LetterGroup, OutageReport, SharedAlert, Storm,
};
use wm_testbed::roles::Roles;

use crate::world::*;

const WINDOW: Duration = Duration::from_secs(60);
const ONGOING: OutageReport<'static> = OutageReport::Ongoing { detail: "503", reported: false };

fn claims(window: Duration) -> AlertClaim {
    AlertClaim { window, lease: Duration::from_secs(10), leaving: false }
}

async fn claim_with(queue: &Roles, name: &str, claim: AlertClaim) -> Option<SharedAlert> {
    queue.worker.claim_alert(&worker(name), claim).await.unwrap().alert
}

async fn claim(queue: &Roles, name: &str) -> Option<SharedAlert> {
    claim_with(queue, name, claims(WINDOW)).await
}

/// Claims, and settles as accepted.
async fn reported(queue: &Roles, name: &str, claim: AlertClaim) -> Option<AlertSubject> {
    let alert = claim_with(queue, name, claim).await?;
    queue.worker.settle_alert(alert.event, AlertOutcome::Accepted).await.unwrap();
    Some(alert.subject)
}

async fn sees(queue: &Roles, name: &str, report: OutageReport<'_>) {
    queue.worker.outage("api", &worker(name), report).await.unwrap();
}

/// The states of the outage that are reported now, without windows.
async fn states(queue: &Roles) -> Vec<AlertState> {
    let mut states = Vec::new();
    while let Some(subject) = reported(queue, "r", claims(Duration::from_millis(1))).await {
        let AlertSubject::Outage(outage) = subject else { panic!("{subject:?}") };
        assert_eq!(outage.what, "api");
        states.push(outage.state);
        tokio::time::sleep(Duration::from_millis(3)).await; // the window
    }
    states
}

async fn buries(queue: &Roles, kind: FailureKind, host: &str, count: usize) {
    for _ in 0..count {
        enqueued(queue).await;
        let held = claimed(queue, "w").await;
        let _ = queue.worker.settle(held, death(kind, host)).await.unwrap();
    }
}

fn letters(subject: AlertSubject) -> LetterGroup {
    match subject {
        AlertSubject::Letters(group) => *group,
        other => panic!("letters, not {other:?}"),
    }
}

fn storm(subject: AlertSubject) -> Storm {
    match subject {
        AlertSubject::Storm(storm) => *storm,
        other => panic!("a storm, not {other:?}"),
    }
}

#[tokio::test]
async fn an_outage_that_several_see_is_reported_once_and_so_is_its_end_when_the_last_one_says_so() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..2 {
        sees(&queue, "a", ONGOING).await;
        sees(&queue, "b", ONGOING).await;
        assert_eq!(states(&queue).await, [AlertState::Begins]);
        sees(&queue, "a", OutageReport::Over).await;
        sees(&queue, "a", ONGOING).await;
        sees(&queue, "b", OutageReport::Over).await;
        assert_eq!(states(&queue).await, [], "one still sees it");
        sees(&queue, "a", OutageReport::Over).await;
        assert_eq!(states(&queue).await, [AlertState::Over]);
    }
}

#[tokio::test]
async fn the_end_of_an_outage_comes_after_its_beginning_also_where_that_was_not_reported_yet() {
    let world = World::new().await;
    let queue = world.queue().await;
    sees(&queue, "a", ONGOING).await;
    sees(&queue, "a", OutageReport::Over).await;
    assert_eq!(states(&queue).await, [AlertState::Begins, AlertState::Over]);
}

#[tokio::test]
async fn an_outage_is_over_when_those_who_saw_it_have_died() {
    let world = World::new().await;
    let config = Config { lease: Duration::from_millis(300), ..world.config.clone() };
    let queue = Roles::connect(&config).await.unwrap();
    sees(&queue, "dies", ONGOING).await;
    assert_eq!(states(&queue).await, [AlertState::Begins]);
    let mut seen = Vec::new();
    until("its end is reported", async || {
        seen.extend(states(&queue).await);
        !seen.is_empty()
    })
    .await;
    assert_eq!(seen, [AlertState::Over]);
}

#[tokio::test]
async fn an_outage_that_lasts_is_reported_again_after_one_four_and_24_hours() {
    let world = World::new().await;
    let queue = world.queue().await;
    sees(&queue, "a", ONGOING).await;
    assert_eq!(states(&queue).await, [AlertState::Begins]);
    let (group, mut passed) = (key("alerts:group:outage:api"), 0);
    for (hours, again) in [(2, true), (3, false), (5, true), (23, false), (25, true), (47, false), (50, true)]
    {
        // As if it had begun so much earlier, and the next look at it were due.
        let later = ((passed - hours) * 3_600_000).to_string();
        passed = hours;
        for field in ["since_ms", "remind_ms"] {
            let _: i64 = world.ask("HINCRBY", &[&group, field, &later]).await;
        }
        let _: i64 = world.ask("ZADD", &[&key("alerts:due"), "1", "outage:api"]).await;
        let want: &[AlertState] = if again { &[AlertState::Lasts] } else { &[] };
        assert_eq!(states(&queue).await, want, "after {hours} h");
    }
}

#[tokio::test]
async fn what_a_worker_reported_by_itself_is_not_reported_again_and_its_end_is() {
    let world = World::new().await;
    let queue = world.queue().await;
    sees(&queue, "a", OutageReport::Ongoing { detail: "503", reported: true }).await;
    assert_eq!(states(&queue).await, []);
    sees(&queue, "a", OutageReport::Over).await;
    assert_eq!(states(&queue).await, [AlertState::Over]);
}

#[tokio::test]
async fn what_happens_at_one_moment_is_reported_once_however_many_notice_it_and_has_no_end() {
    let world = World::new().await;
    let queue = world.queue().await;
    for name in ["a", "b"] {
        sees(&queue, name, OutageReport::Once { detail: "gone" }).await;
    }
    let subject = reported(&queue, "r", claims(WINDOW)).await;
    assert!(matches!(subject, Some(AlertSubject::Outage(_))), "{subject:?}");
    sees(&queue, "c", OutageReport::Once { detail: "gone" }).await;
    assert_eq!(states(&queue).await, []);
}

#[tokio::test]
async fn letters_of_a_group_are_claimed_once_in_a_window_with_their_counts_hosts_and_ids() {
    let world = World::new().await;
    let queue = world.queue().await;
    buries(&queue, FailureKind::Gone, "a.test", 3).await;
    buries(&queue, FailureKind::Gone, "b.test", 1).await;
    buries(&queue, FailureKind::Refused, "b.test", 1).await;
    let claimed = claim(&queue, "a").await.unwrap();
    assert_eq!(claim(&queue, "b").await, None, "one reports at a time");
    queue.worker.settle_alert(claimed.event, AlertOutcome::Accepted).await.unwrap();
    let groups = [letters(claimed.subject), letters(reported(&queue, "b", claims(WINDOW)).await.unwrap())];
    let gone = groups.iter().find(|group| group.kind == "gone").unwrap();
    assert_eq!((gone.stage.as_str(), gone.counts.count), ("fetch", 4));
    assert_eq!(gone.counts.hosts, [("a.test".to_owned(), 3), ("b.test".to_owned(), 1)]);
    assert_ne!(gone.counts.first, gone.counts.last);
    assert_eq!(gone.reason.as_ref().unwrap().failure.detail, "it would happen again");
    assert!(gone.pair.contains(".."), "{}", gone.pair);

    buries(&queue, FailureKind::Gone, "a.test", 2).await;
    let found = queue.worker.claim_alert(&worker("a"), claims(WINDOW)).await.unwrap();
    assert_eq!((found.pending, found.alert), (2, None), "they wait for the window");
    let leaving = AlertClaim { leaving: true, ..claims(WINDOW) };
    let last = letters(reported(&queue, "a", leaving).await.unwrap());
    assert_eq!(last.counts.count, 2, "but not after the last worker has left");
    assert_eq!(queue.worker.claim_alert(&worker("a"), leaving).await.unwrap().pending, 0);
}

#[tokio::test]
async fn what_a_dead_worker_has_claimed_is_claimed_by_another_as_the_same_event() {
    let world = World::new().await;
    let queue = world.queue().await;
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    let short = AlertClaim { lease: Duration::from_millis(100), ..claims(WINDOW) };
    let dies = claim_with(&queue, "dies", short).await.unwrap();
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    let mut taken = None;
    until("the claim of the dead one runs out", async || {
        taken = claim(&queue, "lives").await;
        taken.is_some()
    })
    .await;
    assert_eq!(taken.unwrap(), dies, "nothing is added, or Sentry would not know it again");
    queue.worker.settle_alert(dies.event, AlertOutcome::Accepted).await.unwrap();
    queue.worker.settle_alert(dies.event, AlertOutcome::Accepted).await.unwrap();
    let found = queue.worker.claim_alert(&worker("lives"), claims(WINDOW)).await.unwrap();
    assert_eq!((found.pending, found.alert), (1, None), "settled once");
}

#[tokio::test]
async fn what_sentry_refused_is_claimed_again_after_a_while_by_anybody() {
    let world = World::new().await;
    let queue = world.queue().await;
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    let refused = claim(&queue, "a").await.unwrap();
    queue.worker.settle_alert(refused.event, AlertOutcome::Failed(Duration::from_millis(200))).await.unwrap();
    assert_eq!(claim(&queue, "b").await, None);
    until("it may be tried again", async || claim(&queue, "b").await.as_ref() == Some(&refused)).await;
}

#[tokio::test]
async fn above_a_rate_one_event_stands_for_all_groups_and_another_one_closes_it() {
    let world = World::new().await;
    let queue = world.queue().await;
    assert_eq!(claim(&queue, "a").await, None);
    buries(&queue, FailureKind::Gone, "a.test", 40).await;
    buries(&queue, FailureKind::Refused, "b.test", 30).await;
    let begins = storm(reported(&queue, "a", claims(WINDOW)).await.unwrap());
    assert_eq!((begins.state, begins.counts.count), (AlertState::Begins, 70));
    assert_eq!(begins.kinds, [("gone:fetch".to_owned(), 40), ("refused:fetch".to_owned(), 30)]);
    assert_eq!(begins.counts.hosts, [("a.test".to_owned(), 40), ("b.test".to_owned(), 30)]);
    buries(&queue, FailureKind::Gone, "a.test", 5).await;
    assert_eq!(claim(&queue, "a").await, None, "no event of a group, not even by another window");
    let calm = Duration::from_millis(50);
    let mut over = None;
    until("a window is calm", async || {
        over = reported(&queue, "b", claims(calm)).await;
        over.is_some()
    })
    .await;
    let over = storm(over.unwrap());
    assert_eq!((over.state, over.counts.count), (AlertState::Over, 5));
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    assert_eq!(letters(reported(&queue, "b", claims(calm)).await.unwrap()).counts.count, 1);
}

#[tokio::test]
async fn a_wildcard_of_hosts_takes_the_room_of_fifty() {
    let world = World::new().await;
    let queue = world.queue().await;
    for n in 0..55 {
        buries(&queue, FailureKind::Gone, &format!("h{n}.test"), 1).await;
    }
    let group = letters(reported(&queue, "a", claims(WINDOW)).await.unwrap());
    assert_eq!((group.counts.count, group.counts.hosts.len(), group.counts.elsewhere), (55, 50, 5));
}

#[tokio::test]
async fn a_full_redis_lets_workers_agree() {
    let world = World::new().await;
    let queue = world.queue().await;
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    let _: () = world.ask("CONFIG", &["SET", "maxmemory", "1"]).await;
    sees(&queue, "a", ONGOING).await;
    let mut subjects = Vec::new();
    while let Some(subject) = reported(&queue, "a", claims(WINDOW)).await {
        subjects.push(subject);
    }
    assert_eq!(subjects.len(), 2, "{subjects:?}");
}

#[tokio::test]
async fn letters_of_a_group_that_nobody_reported_for_a_week_are_pending_no_more() {
    let world = World::new().await;
    let queue = world.queue().await;
    buries(&queue, FailureKind::Gone, "a.test", 2).await;
    buries(&queue, FailureKind::Refused, "a.test", 1).await;
    let hour = AlertClaim { lease: Duration::from_secs(3600), ..claims(WINDOW) };
    let held = claim_with(&queue, "a", hour).await.unwrap();
    let pending = async || queue.worker.claim_alert(&worker("b"), hour).await.unwrap().pending;
    assert_eq!(pending().await, 3, "claimed, and in a group");
    for group in ["gone:fetch", "refused:fetch"] {
        let _: u64 = world.ask("PEXPIRE", &[&key(&format!("alerts:group:letter:{group}")), "1"]).await;
    }
    let claimed = if letters(held.subject.clone()).kind == "gone" { 2 } else { 1 };
    until("the other group has expired", async || pending().await == claimed).await;
    queue.worker.settle_alert(held.event, AlertOutcome::Accepted).await.unwrap();
    assert_eq!(pending().await, 0);
}

#[tokio::test]
async fn a_clock_that_has_gone_back_delays_no_alert_for_longer_than_a_window() {
    let world = World::new().await;
    let config = Config { lease: Duration::from_millis(300), ..world.config.clone() };
    let queue = Roles::connect(&config).await.unwrap();
    let window = claims(Duration::from_millis(200));
    let day_ahead = (world.now_ms().await + 86_400_000).to_string();
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    // As the times stand once the clock has gone back by a day.
    let _: u64 = world.ask("ZADD", &[&key("alerts:due"), "XX", &day_ahead, "letter:gone:fetch"]).await;
    let mut claimed = None;
    until("it is claimed", async || {
        claimed = claim_with(&queue, "dies", window).await;
        claimed.is_some()
    })
    .await;
    for field in ["until_ms", "set_ms"] {
        let _: u64 = world.ask("HSET", &[&key("alerts:claimed"), field, &day_ahead]).await;
    }
    let again = claim_with(&queue, "lives", window).await;
    assert_eq!(again, claimed, "a claim of the time before holds nobody back");
    queue.worker.settle_alert(again.unwrap().event, AlertOutcome::Accepted).await.unwrap();
    let reported_key = key("alerts:reported:letter:gone:fetch");
    let _: () = world.ask("SET", &[&reported_key, "200", "PX", "86400000"]).await;
    buries(&queue, FailureKind::Gone, "a.test", 1).await;
    until("the next one comes after a window", async || reported(&queue, "a", window).await.is_some()).await;
}

#[tokio::test]
async fn an_event_that_is_refused_is_counted_whoever_sends_it_and_given_up_lets_the_next_one_through() {
    let world = World::new().await;
    let queue = world.queue().await;
    buries(&queue, FailureKind::Gone, "a.test", 2).await;
    buries(&queue, FailureKind::Refused, "a.test", 1).await;
    let first = claim(&queue, "a").await.unwrap();
    let settle = async |outcome| queue.worker.settle_alert(first.event, outcome).await.unwrap();
    for (name, outcome, refusals) in [
        ("b", AlertOutcome::Refused(Duration::ZERO), 1),
        ("c", AlertOutcome::Failed(Duration::ZERO), 1),
        ("d", AlertOutcome::Refused(Duration::ZERO), 2),
        ("e", AlertOutcome::Rejected(Duration::ZERO, 403), 0),
    ] {
        settle(outcome).await;
        let again = claim(&queue, name).await.unwrap();
        assert_eq!((again.event, again.refusals), (first.event, refusals), "{outcome:?}");
    }
    let rejected = async || queue.status().await.unwrap().alerts_rejected;
    assert_eq!(rejected().await.unwrap().status, 403);
    settle(AlertOutcome::GivenUp).await;
    let next = claim(&queue, "a").await.unwrap();
    assert_ne!(next.event, first.event);
    assert!(rejected().await.is_some(), "nothing was accepted yet");
    queue.worker.settle_alert(next.event, AlertOutcome::Accepted).await.unwrap();
    assert_eq!(rejected().await, None);
    assert_eq!(queue.worker.claim_alert(&worker("a"), claims(WINDOW)).await.unwrap().pending, 0);
}
