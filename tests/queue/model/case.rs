//! One case: each operation is carried out on the model and on the real thing, and both must answer alike.

use std::time::Duration;

use time::OffsetDateTime;
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::page::PagePair;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::job::{Job, JobId, Priority};
use wm_analyzer::queue::{Actor, Claim, Config, Delivery, PauseName, ReleaseKind, Settled, StartPermit};
use wm_testbed::roles::Roles;

use super::Op;
use super::machine::*;
use crate::world::*;

pub const WORKERS: [&str; 2] = ["ada", "bob"];
const LATER: Duration = Duration::from_millis(LATER_MS);
/// So many places are given to jobs that are none of this case's.
const OTHERS: u64 = 60_000;

/// The model, and the real thing beside it.
pub struct Case<'w> {
    pub world: &'w World,
    pub model: Machine,
    pub config: Config,
    pub queues: Vec<Roles>,
    jobs: Vec<Job>,
    addresses: [[String; 2]; CONTENTS.len()],
    /// What the queue calls each content, once it was told of it.
    pub names: [Option<String>; CONTENTS.len()],
    pub hands: Vec<Vec<Delivery>>,
    /// Deliveries that somebody still believes in, whose leases are gone.
    ghosts: Vec<(usize, Delivery)>,
}

impl<'w> Case<'w> {
    pub async fn begin(world: &'w World, limits: Limits) -> Self {
        world.ask::<()>("FLUSHDB", &[""; 0]).await;
        let config = Config {
            backlog_max: limits.backlog as u64,
            in_flight_max: limits.in_flight as u32,
            host_in_flight_max: limits.at_host as u32,
            crashes_max: CRASHES_MAX,
            releases_exclusive: RELEASES_SOLO,
            lease: Duration::from_millis(LEASE_MS),
            ..world.config.clone()
        };
        let mut queues = Vec::new();
        for _ in WORKERS {
            queues.push(Roles::connect(&config).await.unwrap());
        }
        let address = |host: Option<&&str>| format!("http://{}/{}", host.unwrap(), uuid::Uuid::new_v4());
        Self {
            world,
            model: Machine::new(limits),
            config,
            queues,
            jobs: (0..PAIRS).map(|_| job()).collect(),
            addresses: CONTENTS.map(|hosts| [address(hosts.first()), address(hosts.last())]),
            names: Default::default(),
            hands: WORKERS.map(|_| Vec::new()).into(),
            ghosts: Vec::new(),
        }
    }

    pub async fn step(&mut self, op: &Op) {
        match *op {
            Op::Enqueue(ask) => self.enqueue(JobId::generate(), ask).await,
            Op::SendAgain(which) => {
                if let Some(id) = pick(self.model.in_state(|_| true), which) {
                    let pair = self.model.jobs[&id].pair;
                    let (priority, never) = (Priority::Normal, When::Never);
                    let ask = Ask { pair, again: false, priority, run_at: never, expires_at: never };
                    self.enqueue(id, ask).await;
                }
            }
            Op::OthersCameAndWent => {
                self.model.places += OTHERS;
                let _: u64 = self.world.ask("INCRBY", &[&key("seq"), &OTHERS.to_string()]).await;
            }
            Op::Claim { who, most } => self.claim(who, most).await,
            Op::Enter(who) => {
                for id in self.model.held_by(who) {
                    self.start(who, &id).await;
                }
            }
            Op::EnterChild(which) => {
                if let Some((who, id)) = self.pick_held(which) {
                    self.world.expire(&id).await;
                    let lease = self.held(who, &id).lease();
                    assert!(self.queues[who].worker.enter_child(&lease).await.unwrap());
                    self.model.enter_child(&id);
                }
            }
            Op::Heartbeat(who) => self.heartbeat(who).await,
            Op::Confirm(which) => {
                if let Some((who, id)) = self.pick_held(which) {
                    self.world.expire(&id).await;
                    assert!(self.queues[who].worker.confirm(&self.held(who, &id).lease()).await.unwrap());
                }
            }
            Op::Settle { which, how } => {
                if let Some((who, id)) = self.pick_held(which) {
                    self.settle(who, &id, how).await;
                }
            }
            Op::Stale { which, how } => self.stale(which, how).await,
            Op::Crash(who) => self.crash(who).await,
            Op::FetchCrashes(which) => {
                if let Some(id) = pick(self.model.in_state(|state| state == State::Ready), which) {
                    self.model.mine(&id).counts.fetch_crashes = 2;
                    let _: u64 =
                        self.world.ask("HSET", &[&key(&format!("job:{id}")), "fetch_crashes", "2"]).await;
                }
            }
            Op::TurnRunsOut => {
                self.model.turn = None;
                let _: u64 = self.world.ask("DEL", key("exclusive_lock")).await;
            }
            Op::Rested => {
                self.model.rest = false;
                let _: u64 = self.world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
            }
            Op::Due => {
                for id in self.model.in_state(|state| matches!(state, State::Scheduled { .. })) {
                    self.model.mine(&id).state = State::Scheduled { due: true };
                    let _: u64 = self.world.ask("ZADD", &[&key("scheduled"), "XX", "1", id.as_str()]).await;
                }
                self.upkeep(&[]).await;
            }
            Op::NewBuild => {
                self.model.suspects.values_mut().for_each(|older| *older = true);
                for suspect in self.world.ask::<Vec<String>>("KEYS", key("suspect:*")).await {
                    self.world.ask::<()>("SET", &[&suspect, "0.0.1"]).await;
                }
            }
            Op::Cancel(which) => {
                if let Some(id) = pick(self.model.in_state(|_| true), which) {
                    assert_eq!(
                        self.queues[0].operator.cancel(&id, Actor::default()).await.unwrap(),
                        self.model.cancel(&id)
                    );
                }
            }
            Op::Replay(which) => {
                if let Some(id) = pick(self.model.in_state(|state| state == State::Dead), which) {
                    let told = self.queues[0].operator.replay(std::slice::from_ref(&id)).await.unwrap();
                    assert_eq!(told, [(id.clone(), self.model.replay(&id))]);
                }
            }
            Op::Discard(which) => {
                if let Some(id) = pick(self.model.in_state(|state| state == State::Dead), which) {
                    self.model.discard(&id);
                    assert_eq!(self.queues[0].operator.discard(&[id]).await.unwrap(), 1);
                }
            }
            Op::Pause => {
                self.model.paused = true;
                self.queues[0].operator.pause(&PauseName::default(), None, "ada", "to see").await.unwrap();
            }
            Op::Resume => {
                self.model.woken |= self.model.paused;
                self.model.paused = false;
                let _ = self.queues[0].operator.resume(None, "ada").await.unwrap();
            }
            Op::FlushScripts => self.world.ask::<()>("SCRIPT", "FLUSH").await,
        }
    }

    fn pick_held(&self, which: usize) -> Option<(usize, JobId)> {
        let held =
            (0..WORKERS.len()).flat_map(|who| self.model.held_by(who).into_iter().map(move |id| (who, id)));
        pick(held.collect(), which)
    }

    fn held(&self, who: usize, id: &JobId) -> &Delivery {
        self.hands[who].iter().find(|delivery| delivery.job.id == *id).expect("in hand")
    }

    async fn enqueue(&mut self, id: JobId, ask: Ask) {
        let moment = |when| match when {
            When::Never => None,
            When::Past => Some(OffsetDateTime::now_utc() - LATER),
            When::Later => Some(OffsetDateTime::now_utc() + LATER),
        };
        let job = Job {
            id: id.clone(),
            again: ask.again,
            priority: ask.priority,
            run_at: moment(ask.run_at),
            expires_at: moment(ask.expires_at),
            ..self.jobs[ask.pair].clone()
        };
        assert_eq!(self.queues[0].producer.enqueue(&[job]).await.unwrap(), [self.model.enqueue(&id, ask)]);
    }

    pub async fn claim(&mut self, who: usize, most: usize) {
        let claims = self.queues[who].worker.claim_many(&worker(WORKERS[who]), most).await.unwrap();
        let told = self.model.claim(who, most);
        match (&told, &claims[..]) {
            (Expected::Paused, [Claim::Paused])
            | (Expected::Full, [Claim::Full])
            | (Expected::Exclusive, [Claim::Exclusive])
            | (Expected::Empty, [Claim::Empty]) => {}
            (Expected::Jobs(expected), _) => {
                let mut ids = Vec::new();
                for claim in claims {
                    ids.push(self.takes(who, claim, false).await);
                }
                assert_eq!(&ids, expected, "in their order");
            }
            (Expected::Group { most }, [first, ..]) => {
                let kind = self.model.jobs[&id_of(first)].group_max();
                let waits = |mine: &&Mine| mine.state == State::Exclusive && mine.group_max() == kind;
                let group = self.model.jobs.values().filter(waits).count();
                assert_eq!(claims.len(), group.min(*most).min(kind.unwrap()), "suspects at a time");
                self.model.turn = None;
                for claim in claims {
                    assert_eq!(self.model.jobs[&id_of(&claim)].group_max(), kind, "all of one kind");
                    self.takes(who, claim, true).await;
                }
            }
            _ => panic!("{told:?}, but {claims:?}"),
        }
    }

    /// Takes what was claimed into the hand; answers its id.
    async fn takes(&mut self, who: usize, claim: Claim, alone: bool) -> JobId {
        let (delivery, foregone) = match claim {
            Claim::Delivery(delivery) => (delivery, None),
            Claim::NotNeeded(delivery, skip) => (delivery, Some(skip.reason)),
            other => panic!("{other:?}"),
        };
        let id = delivery.job.id.clone();
        if alone {
            assert_eq!(self.model.jobs[&id].state, State::Exclusive);
            self.model.took(&id, who);
            // As if it ran for long: what its worker owes the others afterwards is then more than a moment.
            let _: u64 = self.world.ask("HSET", &[&key(&format!("job:{id}")), "claimed_ms", "1"]).await;
        }
        let mine = &self.model.jobs[&id];
        let unwanted = if mine.cancelled {
            Some(SkipReason::Cancelled)
        } else {
            mine.expired.then_some(SkipReason::Expired)
        };
        assert_eq!((delivery.is_exclusive(), foregone), (alone, unwanted), "{id}");
        assert_eq!(delivery.counts, mine.counts, "{id}");
        self.hands[who].push(*delivery);
        id
    }

    /// What is compared, under uuids that it never had before.
    fn content(&self, content: usize) -> PagePair {
        let [from, to] = &self.addresses[content];
        at(from, to)
    }

    /// Asks to go in, and waits where that is refused.
    async fn start(&mut self, who: usize, id: &JobId) {
        self.world.expire(id).await;
        let content = self.model.jobs[id].pair % CONTENTS.len();
        let lease = self.held(who, id).lease();
        let told = self.queues[who].worker.start(&lease, &self.content(content)).await.unwrap();
        assert_eq!(told, self.model.start(id));
        let name = self.world.field(id, "content").await.expect("it stands there before it runs");
        assert_eq!(*self.names[content].get_or_insert(name.clone()), name, "one name for one content");
        if told != StartPermit::Granted {
            self.assert_agrees().await;
        }
        match told {
            StartPermit::Granted => {}
            StartPermit::Suspect => self.settle(who, id, How::WaitAlone).await,
            StartPermit::HostFull { host } => {
                let host = HOSTS.iter().find(|known| **known == host).expect("a host of ours");
                self.settle(who, id, How::WaitFor(host)).await;
            }
            StartPermit::HostFails { .. } => panic!("no host fails here"),
            StartPermit::Lost => panic!("{id} is held"),
        }
    }

    async fn heartbeat(&mut self, who: usize) {
        let mut leases = Vec::new();
        for delivery in &self.hands[who] {
            self.world.expire(&delivery.job.id).await;
            leases.push(delivery.lease());
        }
        let ghosts = self.ghosts.iter().filter(|(by, _)| *by == who).map(|(_, ghost)| ghost.lease());
        let ghosts: Vec<_> = ghosts.collect();
        leases.extend_from_slice(&ghosts);
        let _: u64 = self.world.ask("PEXPIRE", &[&key("exclusive_lock"), "45000"]).await;
        let heartbeat = self.queues[who].worker.heartbeat(&info(WORKERS[who]), &leases).await.unwrap();
        assert_eq!(heartbeat.lost, ghosts.into_iter().map(|lease| lease.id).collect::<Vec<_>>());
        let cancelled = self.hands[who].iter().map(|delivery| &delivery.job.id);
        let cancelled: Vec<_> = cancelled.filter(|id| self.model.jobs[*id].cancelled).cloned().collect();
        assert_eq!(heartbeat.cancelled, cancelled);
        let turn_lasts: i64 = self.world.ask("PTTL", key("exclusive_lock")).await;
        let runs = matches!(&self.model.turn, Some((by, run)) if *by == who && !run.is_empty());
        assert_eq!(turn_lasts > 45_000, runs, "as long as the lease of the suspect that it is for");
    }

    pub async fn settle(&mut self, who: usize, id: &JobId, how: How) {
        let at = self.hands[who].iter().position(|delivery| delivery.job.id == *id).expect("in hand");
        let delivery = self.hands[who].swap_remove(at);
        assert_eq!(carry_out(&self.queues[who], delivery, how).await, Settled::Settled);
        self.model.settle(id, how);
    }

    /// Somebody whose lease is gone does not know it. Nothing that it tries changes anything.
    async fn stale(&mut self, which: usize, how: How) {
        if self.ghosts.is_empty() {
            return;
        }
        let (who, ghost) = self.ghosts.swap_remove(which % self.ghosts.len());
        let (queue, lease) = (&self.queues[who], ghost.lease());
        assert!(!queue.worker.confirm(&lease).await.unwrap());
        assert!(!queue.worker.enter_child(&lease).await.unwrap());
        assert_eq!(queue.worker.start(&lease, &self.content(0)).await.unwrap(), StartPermit::Lost);
        assert_eq!(carry_out(queue, ghost, how).await, Settled::Superseded);
    }

    /// A worker vanishes, and another process takes its name. Whoever it was may still believe in its leases.
    async fn crash(&mut self, who: usize) {
        let held = std::mem::take(&mut self.hands[who]);
        let ids: Vec<_> = held.iter().map(|delivery| delivery.job.id.clone()).collect();
        for id in &ids {
            self.world.expire(id).await;
        }
        self.ghosts.extend(held.into_iter().map(|delivery| (who, delivery)));
        self.queues[who] = Roles::connect(&self.config).await.unwrap();
        self.upkeep(&ids).await;
    }

    /// Takes over what these leases held, in the order in which the script finds them, and promotes what is due.
    pub async fn upkeep(&mut self, ran_out: &[JobId]) {
        let mut ran_out = ran_out.to_vec();
        ran_out.sort();
        let reclaimed = ran_out.len() as u64;
        ran_out.retain(|id| self.model.reclaim(id));
        // Those that are due are promoted in the order of their ids, not in that in which they were cancelled.
        for id in self.model.in_state(|state| state == State::Scheduled { due: true }) {
            let _: u64 = self.world.ask("ZADD", &[&key("scheduled"), "XX", "1", id.as_str()]).await;
        }
        let promoted = self.model.promote();
        let upkeep = self.queues[0].worker.upkeep().await.unwrap();
        let buried: Vec<_> = upkeep.buried.into_iter().map(|buried| buried.id).collect();
        assert_eq!((upkeep.reclaimed, buried, upkeep.promoted), (reclaimed, ran_out, promoted));
    }
}

fn id_of(claim: &Claim) -> JobId {
    match claim {
        Claim::Delivery(delivery) | Claim::NotNeeded(delivery, _) => delivery.job.id.clone(),
        other => panic!("{other:?}"),
    }
}

fn pick<T>(mut among: Vec<T>, which: usize) -> Option<T> {
    (!among.is_empty()).then(|| among.swap_remove(which % among.len()))
}

async fn carry_out(queue: &Roles, delivery: Delivery, how: How) -> Settled {
    let postpone = |because| Verdict::Postpone { after: LATER, because };
    let verdict = match how {
        How::Done => done(&delivery.job),
        How::Skip(reason) => Verdict::Skip(Skip::new(reason, "")),
        How::Retry => retry(LATER),
        How::Doubt => {
            Verdict::Retry { after: LATER, failure: Failure::new(FailureKind::Crashed, "by another signal") }
        }
        How::Postpone => postpone(PostponeReason::Infrastructure(failure())),
        How::BreakerOpen => postpone(PostponeReason::BreakerOpen(failure())),
        How::Starved => postpone(PostponeReason::Starved(Failure::new(FailureKind::Starved, "no CPU"))),
        How::WaitAlone => postpone(PostponeReason::Suspect),
        How::WaitFor(host) => postpone(PostponeReason::HostFull { host: host.to_owned() }),
        How::Die => death(FailureKind::Gone, "a.test"),
        How::Release => return queue.worker.release(delivery, ReleaseKind::Counted).await.unwrap(),
        How::ReleaseWhileFetching => {
            return queue.worker.release(delivery, ReleaseKind::WhileFetching).await.unwrap();
        }
    };
    queue.worker.settle(delivery, verdict).await.unwrap()
}
