//! Limits the log lines of a flood: the first ones of a kind in a minute are written, the others counted.
//!
//! Invariant: nothing is lost without being counted; the count stands in the next line of that kind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines of one kind that are written within a window.
const LINES: u64 = 20;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);

/// The lines of each kind.
#[derive(Debug, Default)]
pub(super) struct LogGate(Mutex<HashMap<&'static str, Lines>>);

#[derive(Debug)]
struct Lines {
    since: Instant,
    written: u64,
    suppressed: u64,
}

impl LogGate {
    /// Whether to write a line of this kind: then how many were suppressed before it.
    pub(super) fn pass(&self, kind: &'static str) -> Option<u64> {
        self.pass_at(kind, Instant::now())
    }

    fn pass_at(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock();
        let lines = kinds.entry(kind).or_insert(Lines { since: now, written: 0, suppressed: 0 });
        if now.saturating_duration_since(lines.since) >= WINDOW {
            (lines.since, lines.written) = (now, 0);
        }
        if lines.written >= LINES {
            lines.suppressed += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_a_kind_pass_and_the_next_window_says_how_many_did_not() {
        let (gate, start) = (LogGate::default(), Instant::now());
        let passed = (0..1000).filter(|_| gate.pass_at("decode", start).is_some()).count();
        assert_eq!(passed, 20);
        assert_eq!(gate.pass_at("gone", start), Some(0), "another kind has its own");
        assert_eq!(gate.pass_at("decode", start + WINDOW), Some(980));
        assert_eq!(gate.pass_at("decode", start + WINDOW), Some(0));
    }
}
