//! The queue in Redis: inbox -> ready -> in flight -> done, scheduled or dead. Only this crate uses Redis.
//!
//! A [`Queue`] gives out at most one [`Delivery`] of a job at a time, under a lease and a fencing token; a
//! worker that has lost the lease can no longer write. The outcome of a delivery is a
//! [`Verdict`](wm_job::verdict::Verdict), made elsewhere; the queue only carries it out. It does not alert,
//! log or export metrics either: it returns facts.
//!
//! Invariants: a live job is in exactly one of `ready`, `scheduled`, `lease`, `exclusive`; each script that
//! removes a job from `lease` updates its counters in the same step; every deadline uses the clock of Redis.
//!
//! # Why
//! Leases with fenced Lua scripts, not Redis Streams: delayed retry, priority, uniqueness and un-counting a
//! delivery need their own structures anyway, and Streams lose the delivery count when an entry is added
//! again. Not a list moved by a blocking command either: a client that times out could own a job without
//! knowing it. So the only blocking command waits for a hint, and a script claims the job.

mod config;
mod error;
mod evidence;
mod fleet;
mod ids;
mod inspect;
mod intake;
mod lease;
mod redis;
mod role;
mod settings;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

pub use self::config::{Config, DEFAULT_NAME, QueueName, ReportsWhenFull};
pub use self::error::Error;
pub use self::evidence::{Buried, RawPayload};
pub use self::fleet::alerts::{
    AlertClaim, AlertOutcome, AlertState, AlertSubject, AlertsRejected, ClaimedAlert, LetterCounts,
    LetterGroup, SharedAlert, SharedOutage, Storm,
};
pub use self::fleet::outage_reports::OutageReport;
pub use self::fleet::presence::{Heap, Heartbeat, Presence, RunningJob, WorkerRequest};
pub use self::fleet::progress::SettledLately;
pub use self::ids::LeaseRef;
pub use self::ids::WorkerId;
pub use self::inspect::acts::{Actor, DiscardTo, Discards, ReplayOptions, ReplayUndone, Replayed};
pub use self::inspect::audit::AuditEntry;
pub use self::inspect::ceilings::{Ceilings, HostWaiters};
pub use self::inspect::control::{DEFAULT_PAUSE, PauseName, Paused, Resumed};
pub use self::inspect::events::Event;
pub use self::inspect::groups::{Group, ReplayOutcomes, TREND_POINTS, Window};
pub use self::inspect::host_loads::HostLoad;
pub use self::inspect::hosts::{HostName, HostResumed, RestByHand, RestingHost, RestingHosts};
pub use self::inspect::jobs::{Content, JobPages, LogEntry, StoredJob};
pub use self::inspect::memory::{Memory, Purpose};
pub use self::inspect::operations::{JobOutcome, OPERATION_JOBS_MAX, Operation, OperationId, Selected};
pub use self::inspect::rates::Rates;
pub use self::inspect::results::{Ended, Freed};
pub use self::inspect::selection::{JobState, ReplayCount, Selection};
pub use self::inspect::status::{NEARLY_FULL, Status, UnreadableKey, WorkerStatus};
pub use self::inspect::transfer::{
    ExportPage, ExportPages, ExportedJob, ImportOutcome, Imported, TRANSFER_BATCH,
};
pub use self::intake::admission::Admission;
pub use self::intake::adopt::{Adopted, Adopter, ListState};
pub use self::intake::foreign_list::ForeignList;
pub use self::intake::inbox::Ingested;
pub use self::lease::delivery::{CLAIM_MOST, Claim, Delivery, NoRoom};
pub use self::lease::orphans::Orphans;
pub use self::lease::settle::{ReleaseKind, Unreleased, Unsettled};
pub use self::lease::settled::Settled;
pub use self::lease::start::StartPermit;
pub use self::lease::truncate::REPORT_MAX_BYTES;
pub use self::lease::upkeep::{Evicted, Looked, Upkeep};
pub use self::redis::address::RedisAddress;
pub use self::redis::scripts::script_texts;
pub use self::redis::server::{Server, WriteHealth};
pub use self::role::{OperatorHandle, ProducerHandle, WorkerHandle};
pub use self::settings::{REDIS_SINK, Setting, SettingChange, SettingValue};

use self::lease::batch::Batcher;
use self::lease::slot::SlotCall;
use self::lease::start::StartCall;
use self::redis::keys::Keys;
use self::redis::pool::{Connection, RedisPool};

/// This build's version, as stored in dead letters.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// One queue. Cheap to clone; all clones share connections and their count of deliveries in flight.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    keys: Keys,
    /// Where reports go; part of the name of a `done` mark, so each sink gets its own report on a pair.
    sink: String,
    /// The settings of `config`, as the scripts read them while the queue has none stored.
    fallback_settings: String,
    redis: RedisPool,
    schema: OnceCell<()>,
    /// Whether this user may leave out a reply, without which the inbox is not waited for.
    may_skip_reply: OnceCell<bool>,
    /// Each delivery in flight holds a clone and so is counted: a suspect is claimed only at zero.
    in_flight: Arc<()>,
    /// Tokens of claims whose reply was lost; the next claim repeats one to get the same jobs.
    unanswered: Mutex<Vec<String>>,
    /// Where the search for orphans is, while there is one.
    orphan_search: tokio::sync::Mutex<lease::orphans::Search>,
    /// Jobs that are about to enter a child or are done, and wait for a call.
    slot_calls: Batcher<SlotCall>,
    /// Most jobs at new hosts that this worker has in flight; 0 is any number.
    new_hosts: AtomicU32,
    /// Jobs that wait for their start permits.
    start_calls: Batcher<StartCall>,
}

/// As [`Queue::command`], for a queue that is not open; `flags` as in [`Config::command_flags`].
pub fn command(queue: &str, flags: &str, words: &str) -> String {
    match queue {
        DEFAULT_NAME => format!("wm-analyzer {words}{flags}"),
        name => format!("wm-analyzer {words} -Q {name}{flags}"),
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("prefix", &self.inner.keys.prefix()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens a queue read-only; [`ProducerHandle`], [`WorkerHandle`] and [`OperatorHandle`] can change it.
    ///
    /// # Errors
    /// The same as of [`WorkerHandle::connect`].
    pub async fn connect(config: &Config, sink: &str) -> Result<Self, Error> {
        let keys = Keys::new(&config.name);
        let queue = Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                keys,
                sink: sink.to_owned(),
                fallback_settings: settings::fallback(config, sink),
                redis: RedisPool::new(config)?,
                schema: OnceCell::new(),
                may_skip_reply: OnceCell::new(),
                in_flight: Arc::new(()),
                unanswered: Mutex::new(Vec::new()),
                orphan_search: tokio::sync::Mutex::default(),
                slot_calls: Batcher::default(),
                new_hosts: AtomicU32::new(0),
                start_calls: Batcher::default(),
            }),
        };
        match queue.connection().await {
            Err(error) if !error.is_transient() => Err(error),
            Ok(_) | Err(_) => Ok(queue),
        }
    }

    /// The queue's name, as configured (`queue.name`).
    pub fn name(&self) -> &str {
        self.inner.config.name.as_str()
    }

    /// A `wm-analyzer` command line for this queue; adds `-Q <name>` unless the queue has the default name.
    pub fn command(&self, words: &str) -> String {
        command(self.name(), &self.inner.config.command_flags, words)
    }

    /// True when lists of another job system are emptied into the inbox: these cannot be waited for.
    pub fn adopts(&self) -> bool {
        !self.inner.config.adopt.is_empty()
    }

    /// Lease length: how long a delivery stays claimed without a heartbeat.
    pub fn lease(&self) -> Duration {
        self.inner.config.lease
    }

    /// A pooled connection; the first call checks that this build supports the key space's schema.
    async fn connection(&self) -> Result<Connection<'_>, Error> {
        let mut connection = self.inner.redis.get().await?;
        self.inner
            .schema
            .get_or_try_init(async || self.check_schema(&mut connection).await.map(drop))
            .await?;
        Ok(connection)
    }
}
