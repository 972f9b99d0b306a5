//! When to report that something is almost full, and when that it has room again.
//!
//! Invariant: each crossing is reported once. There is room again only well below the threshold: a backlog
//! that drains and refills stays at its ceiling, and would otherwise be reported every second.

use std::sync::atomic::{AtomicBool, Ordering};

/// The fraction of the threshold below which there is room again.
const HYSTERESIS: f64 = 0.9;

/// A threshold, as a fraction of the capacity.
#[derive(Debug)]
pub(super) struct ThresholdAlarm {
    threshold: f64,
    reported: AtomicBool,
}

/// A crossing to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    /// The fill level reached the threshold.
    Above,
    /// There is room again.
    Below,
}

impl ThresholdAlarm {
    /// An alarm for `threshold`, not raised.
    pub(super) fn at(threshold: f64) -> Self {
        Self { threshold, reported: AtomicBool::new(false) }
    }

    /// The crossing to report at this fill level, if any.
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
