//! How much work the three diffs of a pair may do, counted in steps while they are done.
//!
//! Invariant: what is left is a function of the texts alone, so a diff that becomes coarser because nothing
//! is left becomes so on every machine, whatever else runs there.
//!
//! # Why
//! A deadline would make counts, hashes and `approximate` of a pair depend on the load of the machine. The
//! shares are fixed, so that a page whose links or text take all of theirs still gets the other diffs.

/// Steps that a diff may still take. One step is a word of 64 cells of bit-parallel LCS or one comparison of
/// two tokens, each about a nanosecond.
#[derive(Debug)]
pub(super) struct Work {
    left: u64,
}

impl Work {
    /// Share of the diff of the visible text. An exact comparison of 100,000 tokens with 100,000 others takes
    /// 234 million, and may take three fourths of what is left.
    pub(super) fn of_text() -> Self {
        Self { left: 320_000_000 }
    }

    /// Share of the diff of the source, which is longer. With it, the largest allowed pairs of the worst shapes
    /// take up to 3 s in all, a second of which is this work.
    pub(super) fn of_source() -> Self {
        Self { left: 380_000_000 }
    }

    /// Share of the diffs of all changed links, which are short.
    pub(super) fn of_links() -> Self {
        Self { left: 50_000_000 }
    }

    /// Takes so many steps; false, and takes none, if fewer are left.
    pub(super) fn take(&mut self, steps: u64) -> bool {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Counts steps that were made before it was known how many they are.
    pub(super) fn spend(&mut self, steps: u64) {
        self.left = self.left.saturating_sub(steps);
    }

    /// Number of steps that are left.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Sets at most so many steps aside, for one comparison.
    pub(super) fn set_aside(&mut self, steps: u64) -> Self {
        let left = steps.min(self.left);
        self.left -= left;
        Self { left }
    }

    /// Takes back what was set aside and not used.
    pub(super) fn take_back(&mut self, aside: Self) {
        self.left += aside.left;
    }

    /// So many steps.
    #[cfg(test)]
    pub(super) fn of(steps: u64) -> Self {
        Self { left: steps }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_diff_reads_a_clock() {
        let sources = [
            include_str!("change.rs"),
            include_str!("cleanup.rs"),
            include_str!("diff.rs"),
            include_str!("hunks.rs"),
            include_str!("lcs.rs"),
            include_str!("lcs/anchors.rs"),
            include_str!("lcs/compact.rs"),
            include_str!("lcs/middle.rs"),
            include_str!("lcs/rows.rs"),
            include_str!("score.rs"),
            include_str!("tokens.rs"),
        ];
        for source in sources {
            assert!(!source.contains("std::time") && !source.contains("::now()"), "{}", &source[..80]);
        }
    }
}
