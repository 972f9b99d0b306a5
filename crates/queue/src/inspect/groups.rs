//! Dead letters in groups: a kind of failure at a host, counted when they die, never by a scan.

use std::collections::BTreeMap;

use serde::Serialize;
use wm_job::failure::FailureKind;

use crate::Queue;
use crate::error::Error;
use crate::inspect::control::Fields;
use crate::inspect::parts::Reads;

/// Most groups that are read: all that `common.lua` tells apart, and one for the other hosts of each kind.
const GROUPS_MAX: usize = 600;
/// Lengths of the two buckets of deaths, as in `common.lua`.
const MINUTES_MS: u64 = 600_000;
const HOUR_MS: u64 = 3_600_000;
/// Points of a trend: ten minutes each.
pub const TREND_POINTS: usize = 6;

/// A span of time over which deaths are counted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, strum::EnumString, strum::IntoStaticStr, strum::VariantArray,
)]
pub enum Window {
    /// The last hour, in steps of ten minutes.
    #[strum(serialize = "1h")]
    Hour,
    /// The last three hours, in steps of ten minutes.
    #[strum(serialize = "3h")]
    ThreeHours,
    /// The last day, in hours.
    #[default]
    #[strum(serialize = "24h")]
    Day,
    /// The last three days, in hours.
    #[strum(serialize = "3d")]
    ThreeDays,
    /// The last week, in hours.
    #[strum(serialize = "7d")]
    Week,
}

impl Window {
    /// All of them, shortest first.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Its label.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The letter of its buckets, their length, and how many make it up.
    fn buckets(self) -> (char, u64, u64) {
        match self {
            Self::Hour => ('m', MINUTES_MS, 6),
            Self::ThreeHours => ('m', MINUTES_MS, 18),
            Self::Day => ('h', HOUR_MS, 24),
            Self::ThreeDays => ('h', HOUR_MS, 72),
            Self::Week => ('h', HOUR_MS, 168),
        }
    }
}

/// What became of the letters of a group that were replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplayOutcomes {
    /// How many were replayed.
    pub replayed: u64,
    /// Of these, analysed.
    pub done: u64,
    /// Skipped.
    pub skipped: u64,
    /// Died again, of whatever.
    pub died: u64,
}

impl ReplayOutcomes {
    /// Those that still wait or run.
    pub fn open(&self) -> u64 {
        self.replayed.saturating_sub(self.done + self.skipped + self.died)
    }
}

/// The dead letters of one kind at one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Their kind; `None` for one that a newer build wrote.
    pub kind: Option<FailureKind>,
    /// Their host; `-` where there is none, `*` for the hosts that are counted together.
    pub host: String,
    /// Dead letters now.
    pub dead: u64,
    /// Deaths since the group was first seen.
    pub total: u64,
    /// Deaths within each window, by its label.
    pub deaths: BTreeMap<&'static str, u64>,
    /// Deaths of the last hour, oldest ten minutes first.
    pub trend: [u64; TREND_POINTS],
    /// The first death, in milliseconds since 1970.
    pub first_ms: u64,
    /// The last one.
    pub last_ms: u64,
    /// The job that died last.
    pub last_id: String,
    /// What that one died of, in a sentence.
    pub sentence: String,
    /// The build that buried it.
    pub build: String,
    /// What became of those that were replayed.
    pub replays: ReplayOutcomes,
}

impl Group {
    fn of(name: &str, fields: &Fields, now_ms: u64) -> Self {
        let (kind, host) = name.split_once(' ').unwrap_or((name, "-"));
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        // A count may be a little below zero after a hand has changed its keys.
        let number = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let bucket = |letter: char, at: u64| number(&format!("{letter}{at}"));
        let deaths = Window::ALL.iter().map(|window| {
            let (letter, length_ms, count) = window.buckets();
            let newest = now_ms / length_ms;
            let sum = (newest.saturating_sub(count - 1)..=newest).map(|at| bucket(letter, at)).sum();
            (window.as_str(), sum)
        });
        let deaths = deaths.collect();
        let newest = now_ms / MINUTES_MS;
        let trend =
            std::array::from_fn(|at| bucket('m', newest.saturating_sub((TREND_POINTS - 1 - at) as u64)));
        Self {
            kind: FailureKind::parse(kind),
            host: host.to_owned(),
            dead: number("dead"),
            total: number("total"),
            deaths,
            trend,
            first_ms: number("first_ms"),
            last_ms: number("last_ms"),
            last_id: text("last_id"),
            sentence: text("sentence"),
            build: text("build"),
            replays: ReplayOutcomes {
                replayed: number("replayed"),
                done: number("re:done"),
                skipped: number("re:skipped"),
                died: number("re:dead"),
            },
        }
    }
}

impl Queue {
    /// The groups with dead letters or with deaths in the last week, those with most letters first; and the number of
    /// all letters, of which those of an earlier build are in no group.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn groups(&self) -> Result<(Vec<Group>, u64), Error> {
        let keys = &self.inner.keys;
        let mut reads = Reads::default();
        reads.add_plain("TIME");
        reads.add(&["ZREVRANGE"], &keys.dead_groups(), &["0", &(GROUPS_MAX - 1).to_string()]);
        reads.add(&["ZCARD"], &keys.dead(), &[]);
        let mut replies = self.read(reads).await?;
        let (seconds, micros): (u64, u64) = replies.next();
        let names: Vec<String> = replies.next();
        let letters: u64 = replies.next();
        let mut reads = Reads::default();
        for name in &names {
            reads.add(&["HGETALL"], &keys.dead_group(name), &[]);
        }
        let (mut replies, now_ms) = (self.read(reads).await?, seconds * 1000 + micros / 1000);
        let mut groups: Vec<Group> =
            names.iter().map(|name| Group::of(name, &replies.next::<Fields>(), now_ms)).collect();
        groups.retain(|group| group.total > 0);
        groups.sort_by_key(|group| std::cmp::Reverse((group.dead, group.last_ms)));
        Ok((groups, letters))
    }
}
