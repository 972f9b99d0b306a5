//! Decisions about jobs: pure functions over facts.
//!
//! Nothing here reads a clock, draws a random number or does I/O: time and chance are arguments.

pub mod admission;
pub mod backoff;
pub mod breaker;
pub mod claim_ahead;
pub mod judge;
pub mod load;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Numbers of attempts, and the delays between them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Attempts for a target's failures before the job is dead-lettered as `exhausted`.
    pub attempts: u32,
    /// Ceiling of the delay before the second attempt; doubles with each one.
    #[serde(with = "crate::job::duration")]
    pub backoff_base: Duration,
    /// Ceiling of the delay between attempts; also the longest `Retry-After` that is honoured.
    #[serde(with = "crate::job::duration")]
    pub backoff_max: Duration,
    /// Infrastructure postponements before the job is dead-lettered as `stranded`.
    pub postponements: u32,
    /// Total delay by those postponements before the job is dead-lettered as `stranded`.
    #[serde(with = "crate::job::duration")]
    pub postponed_max: Duration,
    /// Ceiling of the first pause after an infrastructure failure, before a probe; doubles with each failed
    /// probe.
    #[serde(with = "crate::job::duration")]
    pub probe_base: Duration,
    /// Ceiling of every such pause.
    #[serde(with = "crate::job::duration")]
    pub probe_max: Duration,
}

impl Config {
    /// What is wrong although every value could be read: the key, and a sentence.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        if self.attempts == 0 { vec![("attempts", "must be at least 1".to_owned())] } else { Vec::new() }
    }

    /// The bounds of a breaker's pauses.
    pub fn probe_pauses(&self) -> breaker::PauseBounds {
        breaker::PauseBounds { base: self.probe_base, max: self.probe_max }
    }
}
