//! Two hours without a db app, in a second: the real judge, the real breakers, the real scripts on a real Redis; only
//! the clock, the dice and the db app are the test's. (Two days and ten thousand jobs, without Redis, are in
//! `policy/breaker.rs`.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::outcome::Outcome;
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::policy::Config;
use wm_analyzer::policy::breaker::{BreakerSet, ClaimLimit, Dependency, failed_dependency};
use wm_analyzer::policy::judge::{DeadLetterContext, OpenState, judge};
use wm_analyzer::queue::Delivery;
use wm_testbed::roles::Roles;

use crate::world::*;

const JOBS: usize = 500;
const OUTAGE: Duration = Duration::from_secs(2 * 3600);
const SLOTS: usize = 4;

/// As `config/default.toml` has it, but for the postponements: fewer than the times that a job is tried here.
const POLICY: Config = Config {
    attempts: 5,
    backoff_base: Duration::from_secs(30),
    backoff_max: Duration::from_secs(3600),
    postponements: 3,
    postponed_max: Duration::from_secs(22 * 3600),
    probe_base: Duration::from_secs(1),
    probe_max: Duration::from_secs(60),
};

/// A worker with a clock of its own.
struct Simulation {
    world: World,
    queue: Roles,
    breakers: BreakerSet,
    now: Instant,
    rng: fastrand::Rng,
    /// What is put off, and until when by that clock.
    due: BTreeMap<JobId, Instant>,
    /// All that were ever tried.
    touched: BTreeSet<JobId>,
}

impl Simulation {
    /// Brings back what is due, as the real upkeep does once its time has come.
    async fn upkeep(&mut self) {
        let due: Vec<JobId> =
            self.due.iter().filter(|(_, due)| **due <= self.now).map(|(id, _)| id.clone()).collect();
        let mut args = vec![key("scheduled"), "XX".to_owned()];
        args.extend(due.iter().flat_map(|id| ["1".to_owned(), id.to_string()]));
        self.due.retain(|_, due| *due > self.now);
        if !due.is_empty() {
            let _: u64 = self.world.ask("ZADD", &args).await;
            self.queue.worker.upkeep().await.unwrap();
        }
    }

    /// A delivery fails for our sake; returns how all breakers stood.
    async fn fails(&mut self, delivery: Delivery, kind: FailureKind, begun: Instant) -> OpenState {
        let house = self.breakers.open_state();
        let chance = self.rng.f64();
        let thing = failed_dependency(kind).unwrap();
        let _ = self.breakers.record_failure(
            thing,
            begun,
            self.now,
            Duration::ZERO,
            POLICY.probe_pauses(),
            chance,
        );
        let outcome = Outcome::Failed(Failure::new(kind, "down"));
        let verdict =
            judge(outcome, &delivery.counts, house, DeadLetterContext::default(), &POLICY, self.rng.f64());
        let id = delivery.job.id.clone();
        let Verdict::Postpone { after, .. } = verdict else { panic!("{id} died: {verdict:?}") };
        let _ = self.queue.worker.settle(delivery, verdict).await.unwrap();
        self.due.insert(id.clone(), self.now + after);
        self.touched.insert(id);
        house
    }
}

#[tokio::test]
async fn hours_without_a_db_app_cost_no_stored_job_a_count_or_its_life() {
    let world = World::new().await;
    let queue = world.queue().await;
    let jobs: Vec<Job> = (0..JOBS).map(|_| job()).collect();
    for batch in jobs.chunks(500) {
        let _ = queue.producer.enqueue(batch).await.unwrap();
    }
    let (start, rng) = (Instant::now(), fastrand::Rng::with_seed(7));
    let mut worker = Simulation {
        world,
        queue,
        breakers: BreakerSet::default(),
        now: start,
        rng,
        due: BTreeMap::new(),
        touched: BTreeSet::new(),
    };

    // The breaker opens with all slots busy; of several that fail at once, one finds them all closed.
    let mut hands = Vec::new();
    for _ in 0..SLOTS {
        hands.push(claimed(&worker.queue, "w").await);
    }
    let mut counted = 0;
    for delivery in hands {
        counted += u32::from(
            worker.fails(delivery, FailureKind::ApiUnavailable, start).await == OpenState::AllClosed,
        );
    }
    assert_eq!(counted, 1);

    let (mut probes, mut most_tried) = (0, 0);
    while worker.now - start < OUTAGE {
        match worker.breakers.claim_limit(worker.now) {
            ClaimLimit::PausedFor(pause) => worker.now += pause,
            ClaimLimit::OneAtATime => {
                worker.upkeep().await;
                let delivery = claimed(&worker.queue, "w").await;
                most_tried = most_tried.max(delivery.counts.deliveries);
                probes += 1;
                // A child that cannot be started while the app is down is put off for the fire like any other.
                let kind =
                    if probes % 100 == 0 { FailureKind::CannotSpawn } else { FailureKind::ApiUnavailable };
                let begun = worker.now;
                let house = worker.fails(delivery, kind, begun).await;
                assert_eq!(house, OpenState::SomeOpen);
                if kind == FailureKind::CannotSpawn {
                    worker.now += POLICY.probe_max;
                    assert!(worker.breakers.record_success(Dependency::Spawn, worker.now));
                }
            }
            ClaimLimit::Unlimited => panic!("the app is still down"),
        }
    }
    // A pause is half a minute on average.
    assert!((120..450).contains(&probes), "{probes} probes");
    assert_eq!(most_tried, 1, "each probe is another job: what was postponed goes behind the others");
    let status = worker.queue.status().await.unwrap();
    assert_eq!((status.ready + status.scheduled, status.in_flight, status.dead), (JOBS as u64, 0, 0));
    let mut postponements = 0;
    for id in &worker.touched {
        let count = worker.world.field(id, "postponements").await;
        postponements += count.map_or(0, |count| count.parse::<u32>().unwrap());
    }
    assert_eq!(postponements, 1, "that of the failure that opened the breaker");

    // It is back: the next probe goes through, and then as many as there are slots.
    while let ClaimLimit::PausedFor(pause) = worker.breakers.claim_limit(worker.now) {
        worker.now += pause;
    }
    worker.now += POLICY.backoff_max;
    worker.upkeep().await;
    let delivery = claimed(&worker.queue, "w").await;
    let verdict = done(&delivery.job);
    let _ = worker.queue.worker.settle(delivery, verdict).await.unwrap();
    assert!(worker.breakers.record_success(Dependency::Api, worker.now));
    assert_eq!(worker.breakers.claim_limit(worker.now), ClaimLimit::Unlimited);
}
