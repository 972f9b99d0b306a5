//! When something that fills up is to be told of, and when it has room again.
//!
//! Invariant: it is told once each way. It has room again only a good way below the mark: a backlog that is worked off
//! and let in by turns stands at its ceiling, and would else be news every second.

use std::sync::atomic::{AtomicBool, Ordering};

/// The part of the mark below which there is room again.
const ROOM: f64 = 0.9;

/// A mark, as a share of what there is room for.
#[derive(Debug)]
pub(super) struct Brim {
    mark: f64,
    told: AtomicBool,
}

/// What is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has come up to the mark.
    Full,
    /// It has room again.
    Room,
}

impl Brim {
    /// Nothing told yet.
    pub(super) fn at(mark: f64) -> Self {
        Self { mark, told: AtomicBool::new(false) }
    }

    /// What is news now that it is filled so far.
    pub(super) fn turn(&self, filled: f64) -> Option<Turn> {
        if filled >= self.mark {
            (!self.told.swap(true, Ordering::Relaxed)).then_some(Turn::Full)
        } else if filled < self.mark * ROOM {
            self.told.swap(false, Ordering::Relaxed).then_some(Turn::Room)
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
        let brim = Brim::at(0.8);
        let news: Vec<_> =
            [0.0, 0.79, 0.8, 0.9, 0.79, 0.8, 0.73, 0.71, 0.0, 0.79, 1.2].map(|f| brim.turn(f)).into();
        let (full, room) = (Some(Turn::Full), Some(Turn::Room));
        assert_eq!(news, [None, None, full, None, None, None, None, room, None, None, full]);
    }
}
