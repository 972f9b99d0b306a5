//! The queue's state machine in plain Rust: what there is. What may happen to it is `moves.rs`.
//!
//! ```text
//! enqueue -> Ready | Scheduled       claim -> Leased       promote, called from a line -> Ready | Exclusive
//! Leased  -> gone (done, skipped) | Scheduled (retried, put off, in a host's line) | Ready | Exclusive (handed back) | Dead
//!            and by a crash in a child -> Exclusive, by one more -> Dead; by a crash before -> Ready | Exclusive | Dead
//! Dead    -> Ready | Exclusive (replayed) | gone (discarded)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use wm_analyzer::job::counts::DeliveryCounts;
use wm_analyzer::job::skip::SkipReason;
use wm_analyzer::job::{JobId, Priority};

/// Few, so that jobs for the same pair meet.
pub const PAIRS: usize = 9;
pub const HOSTS: [&str; 2] = ["a.test", "b.test"];
/// What there is to compare: hosts in the order in which permits are taken. Pair `n` has content `n % 3`, so that each
/// content is known by three names.
pub const CONTENTS: [&[&str]; 3] = [&[HOSTS[0]], &HOSTS, &[HOSTS[1]]];
pub const CRASHES_MAX: u32 = 2;
pub const RELEASES_SOLO: u32 = 3;
/// So often a worker vanished while it fetched a job that the job runs alone.
pub const FETCH_CRASHES_ALONE: u32 = 5;
pub const LEASE_MS: u64 = 90_000;
/// What a job is put off by where nothing but a test makes its time come.
pub const LATER_MS: u64 = 3_600_000;

/// The ceilings; 0 is any number, except of the backlog.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub backlog: usize,
    pub in_flight: usize,
    pub at_host: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Scheduled { due: bool },
    Leased { by: usize },
    Exclusive,
    Dead,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled { .. } => "scheduled",
            Self::Leased { .. } => "in_flight",
            Self::Exclusive => "exclusive",
            Self::Dead => "dead",
        }
    }
}

#[derive(Debug)]
pub struct Mine {
    pub pair: usize,
    pub state: State,
    pub counts: DeliveryCounts,
    pub cancelled: bool,
    pub expired: bool,
    /// Was told, when it asked to go in, that its content killed before.
    pub suspect: bool,
    /// The host that it waits for.
    pub line: Option<&'static str>,
    /// Its place in the order, and by how much of it its priority sets it back.
    pub place: u64,
    pub set_back: u64,
    /// It failed or was postponed, and gets a new place once its time has come.
    pub behind: bool,
    /// It has said what it compares.
    pub known: bool,
    /// Whom it asked to visit, and whether this delivery is in a child.
    pub hosts: &'static [&'static str],
    pub entered: bool,
}

impl Mine {
    /// How many like it run at a time, with nothing beside them; None: any number.
    pub fn group_max(&self) -> Option<usize> {
        match self.counts {
            DeliveryCounts { crashes: 1.., .. } | DeliveryCounts { fetch_crashes: 5.., .. } => Some(1),
            DeliveryCounts { releases: RELEASES_SOLO.., .. } => Some(1),
            _ if self.suspect => Some(1),
            DeliveryCounts { fetch_crashes: 4, .. } => Some(2),
            DeliveryCounts { fetch_crashes: 3, .. } => Some(8),
            _ => None,
        }
    }
}

/// What a claim answers.
#[derive(Debug)]
pub enum Expected {
    Paused,
    Full,
    Exclusive,
    Empty,
    /// Suspects of one kind, with nothing beside them.
    Group {
        most: usize,
    },
    Jobs(Vec<JobId>),
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy)]
pub enum How {
    Done,
    Skip(SkipReason),
    /// An attempt at the target was spent.
    Retry,
    /// A child died, and whose fault it was is in doubt.
    Doubt,
    Postpone,
    /// Postponed, and counted against nothing; so is the next.
    BreakerOpen,
    Starved,
    WaitAlone,
    WaitFor(&'static str),
    Die,
    Release,
    /// Handed back while it was fetched: that counts for nothing.
    ReleaseWhileFetching,
}

#[derive(Debug)]
pub struct Machine {
    pub limits: Limits,
    pub jobs: BTreeMap<JobId, Mine>,
    pub done: [bool; PAIRS],
    /// Contents that crashed a worker, and whether by a build that is older than ours.
    pub suspects: BTreeMap<usize, bool>,
    /// Who has a permit for which host.
    pub inside: BTreeMap<&'static str, BTreeSet<JobId>>,
    /// Who has the turn to run suspects, and which ones run, in the order in which they were claimed.
    pub turn: Option<(usize, Vec<JobId>)>,
    /// After a suspect ran, the others have their time.
    pub rest: bool,
    pub paused: bool,
    /// Whoever has nothing to do was told that there may be something now.
    pub woken: bool,
    pub places: u64,
    pub tallies: BTreeMap<String, u64>,
}

impl Machine {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: BTreeMap::new(),
            done: [false; PAIRS],
            suspects: BTreeMap::new(),
            inside: BTreeMap::new(),
            turn: None,
            rest: false,
            paused: false,
            woken: false,
            places: 0,
            tallies: BTreeMap::new(),
        }
    }

    pub fn in_state(&self, wanted: impl Fn(State) -> bool) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, mine)| wanted(mine.state)).map(|(id, _)| id.clone()).collect()
    }

    pub fn held_by(&self, who: usize) -> Vec<JobId> {
        self.in_state(|state| state == State::Leased { by: who })
    }

    /// Those that wait for the same thing, in their order.
    fn in_order(&self, wanted: impl Fn(&Mine) -> bool) -> Vec<JobId> {
        let mut ids: Vec<_> = self.jobs.iter().filter(|(_, mine)| wanted(mine)).collect();
        ids.sort_by_key(|(id, mine)| (mine.place, *id));
        ids.into_iter().map(|(id, _)| id.clone()).collect()
    }

    pub fn ready(&self) -> Vec<JobId> {
        self.in_order(|mine| mine.state == State::Ready)
    }

    pub fn line(&self, host: &str) -> Vec<JobId> {
        self.in_order(|mine| mine.line == Some(host))
    }

    /// The live job of a pair: it holds the pair's lock.
    pub fn holder(&self, pair: usize) -> Option<JobId> {
        let live = |mine: &Mine| mine.pair == pair && mine.state != State::Dead;
        self.jobs.iter().find(|(_, mine)| live(mine)).map(|(id, _)| id.clone())
    }

    pub fn mine(&mut self, id: &JobId) -> &mut Mine {
        self.jobs.get_mut(id).expect("a job that there is")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Never,
    Past,
    Later,
}

/// What a producer asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub pair: usize,
    pub again: bool,
    pub priority: Priority,
    pub run_at: When,
    pub expires_at: When,
}
