//! What a queue's keys take up in Redis, by purpose.
//!
//! Keys of which there are many are counted by the scripts that write them (`<purpose>_bytes` in `meta`); the indexes
//! and streams are asked by `MEMORY USAGE`, which samples.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::inspect::parts::{Reads, Replies};
use crate::redis::keys::Keys;

/// Shares of `maxmemory` that results and dead letters may take at most; the same numbers as in `lua/common.lua`.
pub(crate) const REPORTS_SHARE: f64 = 0.4;
pub(crate) const DEAD_SHARE: f64 = 0.15;

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Purpose {
    /// Payloads as producers pushed them.
    Inbox,
    /// Jobs waiting or in flight, with their locks and indexes.
    Jobs,
    /// Reports and how jobs ended, with their index.
    Reports,
    /// Dead letters and the trash, with their indexes.
    Dead,
    /// Pairs remembered as analysed.
    Done,
    /// Contents that a worker vanished with.
    Suspects,
    /// Events, counters, groups of dead letters, operators' actions, settings.
    History,
}

impl Purpose {
    /// All of them, in the order in which they are shown.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Its label.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What a queue takes up, and what it may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Bytes of each purpose, in the order of [`Purpose::ALL`].
    pub inbox_bytes: u64,
    /// Waiting and running jobs.
    pub jobs_bytes: u64,
    /// Results.
    pub reports_bytes: u64,
    /// Dead letters.
    pub dead_bytes: u64,
    /// Discarded letters that can be restored; they give way to dead letters.
    pub trash_bytes: u64,
    /// Marks of analysed pairs.
    pub done_bytes: u64,
    /// Suspects.
    pub suspects_bytes: u64,
    /// Events, counters, operators' actions, settings.
    pub history_bytes: u64,
    /// Pairs remembered as analysed.
    pub done_count: u64,
    /// Pairs above which the oldest are forgotten.
    pub done_max_count: u64,
    /// Suspects remembered.
    pub suspects_count: u64,
    /// Suspects above which the oldest are forgotten.
    pub suspects_max_count: u64,
    /// Results kept.
    pub results_count: u64,
    /// Cap on results in force: `reports_max_bytes`, or 40 % of `maxmemory`.
    pub reports_cap_bytes: u64,
    /// Cap on dead letters in force: `dead_max_bytes`, or 15 % of `maxmemory`.
    pub dead_cap_bytes: u64,
    /// True where the oldest results are evicted at their cap; otherwise claims wait.
    pub reports_evict: bool,
    /// Time until Redis is at `maxmemory`, in milliseconds, if it goes on as in the last minute.
    pub full_in_ms: Option<u64>,
}

impl Memory {
    /// Bytes of one purpose.
    pub fn of(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Inbox => self.inbox_bytes,
            Purpose::Jobs => self.jobs_bytes,
            Purpose::Reports => self.reports_bytes,
            Purpose::Dead => self.dead_bytes + self.trash_bytes,
            Purpose::Done => self.done_bytes,
            Purpose::Suspects => self.suspects_bytes,
            Purpose::History => self.history_bytes,
        }
    }

    /// Bytes of all purposes together.
    pub fn total(&self) -> u64 {
        Purpose::ALL.iter().map(|&purpose| self.of(purpose)).sum()
    }

    /// Pairs remembered as a share of their cap.
    pub fn done_filled(&self) -> f64 {
        self.done_count as f64 / self.done_max_count.max(1) as f64
    }

    /// Suspects as a share of their cap.
    pub fn suspects_filled(&self) -> f64 {
        self.suspects_count as f64 / self.suspects_max_count.max(1) as f64
    }

    /// Results as a share of their cap.
    pub fn reports_filled(&self) -> f64 {
        self.reports_bytes as f64 / self.reports_cap_bytes.max(1) as f64
    }
}

/// A cap in bytes: the setting, or its share of `maxmemory` where that is less.
pub(crate) fn cap(setting: u64, max: u64, share: f64) -> u64 {
    if max == 0 { setting } else { setting.min((max as f64 * share) as u64) }
}

/// Fields of `meta` that [`take`] reads.
const COUNTED: [&str; 12] = [
    "jobs_bytes",
    "reports_bytes",
    "dead_bytes",
    "done_bytes",
    "suspects_bytes",
    "done_count",
    "reports_max_bytes",
    "dead_max_bytes",
    "done_max_count",
    "suspects_max_count",
    "trash_bytes",
    "groups_bytes",
];

/// Adds the commands that read a queue's memory.
pub(crate) fn ask(reads: &mut Reads, keys: &Keys) {
    for key in sampled(keys).into_iter().flatten() {
        reads.add(&["MEMORY", "USAGE"], &key, &[]);
    }
    reads.add(&["HMGET"], &keys.meta(), &COUNTED);
    reads.add(&["ZCARD"], &keys.results(), &[]);
    reads.add(&["ZCARD"], &keys.suspects(), &[]);
}

/// Reads their replies. `max` is `maxmemory`, 0 where there is none; what the queue has not stored is taken from `own`.
pub(crate) fn take(replies: &mut Replies, keys: &Keys, max: u64, own: &Config) -> Memory {
    let [inbox, jobs, reports, dead, done, suspects, history] =
        sampled(keys).map(|keys| keys.iter().map(|_| replies.next::<u64>()).sum::<u64>());
    let counted: Vec<Option<i64>> = replies.next();
    let number = |at: usize| counted.get(at).copied().flatten();
    // A counter may be a little below zero after keys of an older build have gone.
    let bytes = |at: usize| u64::try_from(number(at).unwrap_or(0)).unwrap_or(0);
    let setting = |at: usize, else_: u64| number(at).and_then(|n| u64::try_from(n).ok()).unwrap_or(else_);
    Memory {
        inbox_bytes: inbox,
        jobs_bytes: jobs + bytes(0),
        reports_bytes: reports + bytes(1),
        dead_bytes: dead + bytes(2),
        trash_bytes: bytes(10),
        done_bytes: done + bytes(3),
        suspects_bytes: suspects + bytes(4),
        history_bytes: history + bytes(11),
        done_count: bytes(5),
        done_max_count: setting(8, own.done_max_count),
        results_count: replies.next(),
        suspects_count: replies.next(),
        suspects_max_count: setting(9, own.suspects_max_count),
        reports_cap_bytes: cap(setting(6, own.reports_max_bytes.as_u64()), max, REPORTS_SHARE),
        dead_cap_bytes: cap(setting(7, own.dead_max_bytes.as_u64()), max, DEAD_SHARE),
        reports_evict: false,
        full_in_ms: None,
    }
}

/// The keys that are asked by `MEMORY USAGE`, by purpose in the order of [`Purpose::ALL`].
fn sampled(keys: &Keys) -> [Vec<String>; 7] {
    [
        vec![keys.inbox()],
        vec![keys.ready(), keys.scheduled(), keys.lease(), keys.exclusive(), keys.waiting()],
        vec![keys.results()],
        vec![keys.dead()],
        vec![keys.done_segments()],
        vec![keys.suspects()],
        vec![
            keys.events(),
            keys.audit(),
            keys.meta(),
            keys.workers(),
            keys.dead_groups(),
            keys.operations(),
            keys.trash(),
        ],
    ]
}
