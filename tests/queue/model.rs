//! A model of the state machine, in plain Rust, and the scripts beside it: any operations in any order, and after each
//! of them both hold the same jobs in the same states with the same counts.
//!
//! One server for all cases, emptied between them. A failing case is shrunk to a short list of operations.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestCaseError, TestRunner};
use wm_analyzer::demo::redis::{Options, PrivateRedis};
use wm_analyzer::job::failure::Kind;
use wm_analyzer::job::outcome::{Skip, SkipReason};
use wm_analyzer::job::verdict::{Holdup, Verdict};
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Admission, Claim, Delivery, Queue, Replayed, Settled};

use crate::world::*;

const WORKERS: [&str; 2] = ["ada", "bob"];
/// Few, so that jobs for the same pair meet.
const PAIRS: usize = 3;
/// Longer than any case: what is put off comes back when the case says so.
const LATER: Duration = Duration::from_secs(3600);

/// What may happen. A `usize` chooses among what there is, modulo its number.
#[derive(Debug, Clone)]
enum Op {
    Enqueue { pair: usize, again: bool },
    Claim { who: usize, most: usize },
    Settle { who: usize, which: usize, how: How },
    SettleTooLate,
    Beat { who: usize },
    Crash { who: usize },
    Due,
    Replay(usize),
    Discard(usize),
    Cancel(usize),
    Pause,
    Resume,
    FlushScripts,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Done,
    Skip,
    Retry,
    Postpone,
    Die,
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..WORKERS.len();
    let how = prop_oneof![
        Just(How::Done),
        Just(How::Skip),
        Just(How::Retry),
        Just(How::Postpone),
        Just(How::Die),
        Just(How::Release)
    ];
    prop_oneof![
        6 => (0..PAIRS, any::<bool>()).prop_map(|(pair, again)| Op::Enqueue { pair, again }),
        6 => (who.clone(), 1..4_usize).prop_map(|(who, most)| Op::Claim { who, most }),
        6 => (who.clone(), any::<usize>(), how).prop_map(|(who, which, how)| Op::Settle { who, which, how }),
        1 => Just(Op::SettleTooLate),
        1 => who.clone().prop_map(|who| Op::Beat { who }),
        3 => who.prop_map(|who| Op::Crash { who }),
        2 => Just(Op::Due),
        2 => any::<usize>().prop_map(Op::Replay),
        1 => any::<usize>().prop_map(Op::Discard),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::FlushScripts),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Scheduled { due: bool },
    Leased,
    Solo,
    Dead,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled { .. } => "scheduled",
            Self::Leased => "leased",
            Self::Solo => "solo",
            Self::Dead => "dead",
        }
    }
}

/// A job as the model has it.
#[derive(Debug, Clone)]
struct Mine {
    pair: usize,
    state: State,
    place: u64,
    cancelled: bool,
    deliveries: i64,
    failures: i64,
    postponements: i64,
    crashes: i64,
    releases: i64,
    replays: i64,
}

impl Mine {
    /// Where it waits: a suspect for its turn alone, everything else at its old place.
    fn park(&mut self) {
        self.state = if self.crashes > 0 { State::Solo } else { State::Ready };
    }
}

/// The model, and the real thing beside it.
struct Case<'w> {
    world: &'w World,
    queues: Vec<Queue>,
    pairs: Vec<Job>,
    hands: Vec<Vec<Delivery>>,
    /// Deliveries that somebody still believes in, whose leases are gone.
    ghosts: Vec<Delivery>,
    jobs: BTreeMap<JobId, Mine>,
    done: [bool; PAIRS],
    places: u64,
    paused: bool,
    /// Who has the turn to run a suspect, and which one runs.
    turn: Option<(usize, Option<JobId>)>,
}

#[test]
fn the_scripts_do_what_the_model_does_whatever_happens_in_whatever_order() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(async {
        let redis = PrivateRedis::start(Options::default()).unwrap();
        let url = redis.url();
        World::at(redis, &url).await
    });
    let cases = Cases { cases: 128, max_shrink_iters: 300, failure_persistence: None, ..Cases::default() };
    let mut runner = TestRunner::new(cases);
    let outcome = runner.run(&proptest::collection::vec(op(), 1..60), |ops| {
        runtime.block_on(async {
            let mut case = Case::begin(&world).await;
            for (step, op) in ops.iter().enumerate() {
                case.step(op).await;
                case.agree()
                    .await
                    .map_err(|e| TestCaseError::fail(format!("after step {step}, {op:?}: {e}")))?;
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

impl<'w> Case<'w> {
    async fn begin(world: &'w World) -> Self {
        world.ask::<()>("FLUSHDB", &[""; 0]).await;
        let queues = vec![world.queue().await, world.queue().await];
        Self {
            world,
            queues,
            pairs: (0..PAIRS).map(|_| job()).collect(),
            hands: vec![Vec::new(), Vec::new()],
            ghosts: Vec::new(),
            jobs: BTreeMap::new(),
            done: [false; PAIRS],
            places: 0,
            paused: false,
            turn: None,
        }
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::Enqueue { pair, again } => self.enqueue(pair, again).await,
            Op::Claim { who, most } => self.claim(who, most).await,
            Op::Settle { who, which, how } => self.settle(who, which, how).await,
            Op::SettleTooLate => self.settle_too_late().await,
            Op::Beat { who } => {
                let leases: Vec<_> = self.hands[who].iter().map(Delivery::lease).collect();
                let beat = self.queues[who].beat(&info(WORKERS[who]), &leases).await.unwrap();
                let cancelled = self.hands[who].iter().filter(|d| self.jobs[&d.job.id].cancelled);
                assert_eq!((beat.lost.len(), beat.cancelled.len()), (0, cancelled.count()));
            }
            Op::Crash { who } => self.crash(who).await,
            Op::Due => {
                for id in self.in_state(|state| matches!(state, State::Scheduled { .. })) {
                    self.jobs.get_mut(&id).unwrap().state = State::Scheduled { due: true };
                    let _: u64 = self.world.ask("ZADD", &[&key("scheduled"), "XX", "1", id.as_str()]).await;
                }
                self.upkeep().await;
            }
            Op::Replay(which) => self.replay(which).await,
            Op::Discard(which) => {
                if let Some(id) = pick(self.in_state(|state| state == State::Dead), which) {
                    assert_eq!(self.queues[0].discard(std::slice::from_ref(&id)).await.unwrap(), 1);
                    self.jobs.remove(&id);
                }
            }
            Op::Cancel(which) => {
                if let Some(id) = pick(self.in_state(|state| state != State::Dead), which) {
                    self.queues[0].cancel(&id).await.unwrap();
                    let mine = self.jobs.get_mut(&id).unwrap();
                    mine.cancelled = true;
                    if matches!(mine.state, State::Scheduled { .. }) {
                        mine.state = State::Scheduled { due: true };
                    }
                }
            }
            Op::Pause => {
                self.queues[0].pause("ada", "to see").await.unwrap();
                self.paused = true;
            }
            Op::Resume => {
                let _ = self.queues[0].resume("ada").await.unwrap();
                self.paused = false;
            }
            Op::FlushScripts => self.world.ask::<()>("SCRIPT", "FLUSH").await,
        }
    }

    fn in_state(&self, wanted: impl Fn(State) -> bool) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, mine)| wanted(mine.state)).map(|(id, _)| id.clone()).collect()
    }

    /// The live job of a pair.
    fn holder(&self, pair: usize) -> Option<&JobId> {
        self.jobs.iter().find(|(_, mine)| mine.pair == pair && mine.state != State::Dead).map(|(id, _)| id)
    }

    async fn enqueue(&mut self, pair: usize, again: bool) {
        let job = Job { again, ..twin(&self.pairs[pair]) };
        let told = self.queues[0].enqueue(std::slice::from_ref(&job)).await.unwrap().pop().unwrap();
        if self.done[pair] && !again {
            assert_eq!(told, Admission::AlreadyDone);
        } else if let Some(holder) = self.holder(pair) {
            assert_eq!(told, Admission::Duplicate { holder: holder.clone() });
        } else {
            assert_eq!(told, Admission::Admitted { id: job.id.clone() });
            self.places += 1;
            let (state, place) = (State::Ready, self.places);
            let (deliveries, failures, postponements, crashes, releases, replays) = (0, 0, 0, 0, 0, 0);
            let mine = Mine {
                pair,
                state,
                place,
                cancelled: false,
                deliveries,
                failures,
                postponements,
                crashes,
                releases,
                replays,
            };
            self.jobs.insert(job.id, mine);
        }
    }

    async fn claim(&mut self, who: usize, most: usize) {
        // A worker owes the others some time after a suspect; here it does not.
        let _: u64 = self.world.ask("HDEL", &[&key("meta"), "solo_rest_ms"]).await;
        let claims = self.queues[who].claim_many(&worker(WORKERS[who]), most).await.unwrap();
        if self.paused {
            return assert!(matches!(claims[..], [Claim::Paused]), "{claims:?}");
        }
        match self.turn.clone() {
            Some((holder, Some(_))) if holder == who => {
                return assert!(matches!(claims[..], [Claim::Solo]), "{claims:?}");
            }
            Some((holder, _)) if holder != who => {}
            Some(_) | None if self.in_state(|state| state == State::Solo).is_empty() => self.turn = None,
            Some(_) | None if self.hands[who].is_empty() => {
                let id = self.takes(who, claims, true).remove(0);
                self.turn = Some((who, Some(id)));
                return;
            }
            Some(_) | None => {
                self.turn = Some((who, None));
                return assert!(matches!(claims[..], [Claim::Solo]), "{claims:?}");
            }
        }
        let mut ready = self.in_state(|state| state == State::Ready);
        ready.sort_by_key(|id| self.jobs[id].place);
        ready.truncate(most);
        if ready.is_empty() {
            return assert!(matches!(claims[..], [Claim::Empty]), "{claims:?}");
        }
        assert_eq!(self.takes(who, claims, false), ready, "in their order");
    }

    /// Takes what was claimed into the hand; answers the ids.
    fn takes(&mut self, who: usize, claims: Vec<Claim>, alone: bool) -> Vec<JobId> {
        let mut ids = Vec::new();
        for claim in claims {
            let (delivery, cancelled) = match claim {
                Claim::Delivery(delivery) => (delivery, false),
                Claim::Foregone(delivery, _) => (delivery, true),
                other => panic!("{other:?}"),
            };
            let mine = self.jobs.get_mut(&delivery.job.id).expect("a job that there is");
            assert_eq!(mine.state, if alone { State::Solo } else { State::Ready });
            assert_eq!((delivery.is_solo(), cancelled), (alone, mine.cancelled));
            mine.state = State::Leased;
            mine.deliveries += 1;
            ids.push(delivery.job.id.clone());
            self.hands[who].push(*delivery);
        }
        ids
    }

    async fn settle(&mut self, who: usize, which: usize, how: How) {
        if self.hands[who].is_empty() {
            return;
        }
        let at = which % self.hands[who].len();
        let delivery = self.hands[who].swap_remove(at);
        let (id, queue) = (delivery.job.id.clone(), &self.queues[who]);
        let settled = match verdict(how, &delivery.job) {
            Some(verdict) => queue.settle(delivery, verdict).await.unwrap(),
            None => queue.release(delivery).await.unwrap(),
        };
        assert_eq!(settled, Settled::Settled);
        if self.turn == Some((who, Some(id.clone()))) {
            self.turn = None;
        }
        let mine = self.jobs.get_mut(&id).unwrap();
        match how {
            How::Done => {
                self.done[mine.pair] = true;
                self.jobs.remove(&id);
            }
            How::Skip => drop(self.jobs.remove(&id)),
            How::Die => mine.state = State::Dead,
            How::Release => {
                mine.deliveries -= 1;
                mine.releases += 1;
                mine.park();
            }
            How::Retry => {
                mine.state = State::Scheduled { due: false };
                mine.failures += 1;
            }
            How::Postpone => {
                mine.state = State::Scheduled { due: false };
                mine.postponements += 1;
            }
        }
    }

    async fn settle_too_late(&mut self) {
        if let Some(ghost) = self.ghosts.pop() {
            let verdict = done(&ghost.job);
            assert_eq!(self.queues[0].settle(ghost, verdict).await.unwrap(), Settled::Superseded);
        }
    }

    /// All leases of a worker run out, and its turn; whoever it was may still believe in them.
    async fn crash(&mut self, who: usize) {
        if self.turn.as_ref().is_some_and(|(holder, _)| *holder == who) {
            let _: u64 = self.world.ask("DEL", key("solo_turn")).await;
            self.turn = None;
        }
        for delivery in std::mem::take(&mut self.hands[who]) {
            self.world.expire(&delivery.job.id).await;
            let mine = self.jobs.get_mut(&delivery.job.id).unwrap();
            mine.crashes += 1;
            if mine.crashes >= i64::from(self.world.config.crashes_max) {
                mine.state = State::Dead;
            } else {
                mine.state = State::Solo;
            }
            self.ghosts.push(delivery);
        }
        // A new process: its hands are empty.
        self.queues[who] = self.world.queue().await;
        self.upkeep().await;
    }

    async fn upkeep(&mut self) {
        self.queues[0].upkeep().await.unwrap();
        for mine in self.jobs.values_mut().filter(|mine| mine.state == (State::Scheduled { due: true })) {
            mine.park();
        }
    }

    async fn replay(&mut self, which: usize) {
        let Some(id) = pick(self.in_state(|state| state == State::Dead), which) else { return };
        let (_, told) = self.queues[0].replay(std::slice::from_ref(&id)).await.unwrap().pop().unwrap();
        if let Some(holder) = self.holder(self.jobs[&id].pair) {
            assert_eq!(told, Replayed::Duplicate { holder: holder.clone() });
            return;
        }
        assert_eq!(told, Replayed::Replayed);
        self.places += 1;
        let mine = self.jobs.get_mut(&id).unwrap();
        *mine = Mine {
            place: self.places,
            cancelled: false,
            failures: 0,
            postponements: 0,
            releases: 0,
            crashes: mine.crashes.min(1),
            replays: mine.replays + 1,
            ..mine.clone()
        };
        mine.park();
    }

    /// Both hold the same jobs in the same states with the same counts; and the key space is whole.
    async fn agree(&self) -> Result<(), String> {
        let theirs = self.world.take_stock().await;
        let ours: BTreeMap<String, String> =
            self.jobs.iter().map(|(id, mine)| (id.to_string(), mine.state.name().to_owned())).collect();
        if theirs != ours {
            return Err(format!("the model has {ours:?}, Redis {theirs:?}"));
        }
        for (id, mine) in &self.jobs {
            let names = ["deliveries", "failures", "postponements", "crashes", "releases", "replays"];
            let counts: Vec<Option<i64>> = self
                .world
                .ask("HMGET", [&[key(&format!("job:{id}"))][..], &names.map(str::to_owned)].concat())
                .await;
            let counts: Vec<i64> = counts.into_iter().map(Option::unwrap_or_default).collect();
            let want = [
                mine.deliveries,
                mine.failures,
                mine.postponements,
                mine.crashes,
                mine.releases,
                mine.replays,
            ];
            if counts != want {
                return Err(format!("{id}: {names:?} are {want:?} in the model, {counts:?} in Redis"));
            }
        }
        let turn: Option<String> = self.world.ask("GET", key("solo_turn")).await;
        let want = self.turn.as_ref().map(|(who, id)| match id {
            Some(id) => format!("{}|{id}", WORKERS[*who]),
            None => WORKERS[*who].to_owned(),
        });
        if turn == want {
            Ok(())
        } else {
            Err(format!("the turn is {want:?} in the model, {turn:?} in Redis"))
        }
    }
}

fn pick(ids: Vec<JobId>, which: usize) -> Option<JobId> {
    if ids.is_empty() { None } else { ids.get(which % ids.len()).cloned() }
}

/// The verdict, unless it is handed back.
fn verdict(how: How, job: &Job) -> Option<Verdict> {
    Some(match how {
        How::Done => done(job),
        How::Skip => Verdict::Skip(Skip::new(SkipReason::Content, "a PDF")),
        How::Retry => retry(LATER),
        How::Postpone => Verdict::Postpone { after: LATER, because: Holdup::Ours(failure()) },
        How::Die => death(Kind::Gone, "a.test"),
        How::Release => return None,
    })
}
