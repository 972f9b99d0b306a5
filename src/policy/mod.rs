//! What follows from what happened: pure functions over facts.
//!
//! Nothing here looks at a clock, rolls a die or talks to anybody: time and chance are arguments.

pub mod admission;
pub mod backoff;
pub mod breaker;
pub mod judge;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often, and how long.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Attempts a target gets before the job is buried as `exhausted`.
    pub attempts: u32,
    /// Delay before the second attempt, at most; doubles with each one.
    #[serde(with = "crate::job::duration")]
    pub backoff_base: Duration,
    /// The longest delay between two attempts, and the longest `Retry-After` that is honoured.
    #[serde(with = "crate::job::duration")]
    pub backoff_max: Duration,
    /// Postponements, for our own sake, before the job is buried as `stranded`.
    pub postponements: u32,
    /// How long those postponements may put a job off, all together, before it is buried as `stranded`.
    #[serde(with = "crate::job::duration")]
    pub postponed_max: Duration,
    /// The pause after a failure of ours before one job is tried, at most; doubles with each that fails.
    #[serde(with = "crate::job::duration")]
    pub probe_base: Duration,
    /// The longest such pause.
    #[serde(with = "crate::job::duration")]
    pub probe_max: Duration,
}

impl Config {
    /// The pauses of a breaker.
    pub fn probe_pauses(&self) -> breaker::PauseBounds {
        breaker::PauseBounds { base: self.probe_base, max: self.probe_max }
    }
}
