//! When starvation begins and when it is over, for one alert: children that got so little CPU time that they
//! were given up.
//!
//! # Why
//! On a machine at its limit some jobs finish and some do not; an alert for each turn would say nothing new.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// So many jobs must finish in a row, none starved in between, until it is over.
const OVER_AFTER: u32 = 10;

/// Jobs that must still finish before starvation is over; 0 while there is none.
#[derive(Debug, Default)]
pub(super) struct Starvation(AtomicU32);

impl Starvation {
    /// A job was starved; true if this is the first one.
    pub(super) fn began(&self) -> bool {
        self.0.swap(OVER_AFTER, Relaxed) == 0
    }

    /// A job finished; true if starvation is over with it.
    pub(super) fn job_finished(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_after_enough_jobs_in_a_row_and_is_said_once() {
        let starvation = Starvation::default();
        assert!(!starvation.job_finished(), "there was none");
        assert!(starvation.began());
        assert!(!(1..OVER_AFTER).any(|_| starvation.job_finished()));
        assert!(!starvation.began(), "it still goes on");
        assert!(!(1..OVER_AFTER).any(|_| starvation.job_finished()));
        assert!(starvation.job_finished());
        assert!(!starvation.job_finished(), "said once");
        assert!(starvation.began(), "anew");
    }
}
