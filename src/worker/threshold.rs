//! When something that fills up is to be reported of, and when it has room again.
//!
//! Invariant: it is reported once each way. It has room again only a good way below the threshold: a backlog that is worked off
//! and let in by turns stands at its ceiling, and would else be news every second.

use std::sync::atomic::{AtomicBool, Ordering};

/// The part of the threshold below which there is room again.
const HYSTERESIS: f64 = 0.9;

/// A threshold, as a share of what there is room for.
#[derive(Debug)]
pub(super) struct ThresholdAlarm {
    threshold: f64,
    reported: AtomicBool,
}

/// What is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    /// It has come up to the threshold.
    Above,
    /// It has room again.
    Below,
}

impl ThresholdAlarm {
    /// Nothing reported yet.
    pub(super) fn at(threshold: f64) -> Self {
        Self { threshold, reported: AtomicBool::new(false) }
    }

    /// What is news now that it is filled so far.
    pub(super) fn crossing(&self, filled: f64) -> Option<Crossing> {
        if filled >= self.threshold {
            (!self.reported.swap(true, Ordering::Relaxed)).then_some(Crossing::Above)
        } else if filled < self.threshold * HYSTERESIS {
            self.reported.swap(false, Ordering::Relaxed).then_some(Crossing::Below)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_told_once_and_to_and_fro_at_the_mark_is_no_news() {
        let alarm = ThresholdAlarm::at(0.8);
        let news: Vec<_> =
            [0.0, 0.79, 0.8, 0.9, 0.79, 0.8, 0.73, 0.71, 0.0, 0.79, 1.2].map(|f| alarm.crossing(f)).into();
        let (full, room) = (Some(Crossing::Above), Some(Crossing::Below));
        assert_eq!(news, [None, None, full, None, None, None, None, room, None, None, full]);
    }
}
