//! Compares two sequences of tokens: a longest common subsequence where it can be afforded, a shorter one
//! elsewhere.
//!
//! Common ends and tokens without a counterpart are left out first. What remains is solved part by part:
//!
//! - up to [`ALWAYS_CELLS`] cells by bit-vectors ([`rows`]);
//! - above, split in the middle of a shortest path ([`middle`]), if it is found for an eighth of the work of
//!   bit-vectors; else by bit-vectors;
//! - where neither can be afforded, split at tokens that stand once on each side ([`anchors`]);
//! - where there are none, split behind every [`WALK_EDITS`] edits. What is found is then no longest
//!   subsequence, and the result says so; if no work is left, the rest is a replacement.
//!
//! At last, changes are made fewer by sliding them ([`compact`]).
//!
//! Invariant: the changes ascend, between two of them there are equal tokens, and without them both sides are
//! equal. They and the work that they take are a function of the tokens.
//!
//! # Why
//! `similar` has most of these algorithms, but only deadlines to bound them, so what it finds depends on the
//! machine. Its Myers takes 15.6 ms for 4,096 random characters and is not exact; bit-vectors take 0.4 ms and
//! are. On 51 real pairs this took a fourth of the time, and left 2 % less of the text and 6 % less of the
//! source as changed. Above the limit Myers is worth a try, because it takes 17 ms for 100,000 words with 5 %
//! edits, where bit-vectors take 267; a banded variant of these was not worth its code.

mod anchors;
mod compact;
mod middle;
mod rows;

use std::ops::Range;

use self::anchors::AnchorSearch;
use self::middle::MiddleSearch;
use self::rows::{BitRows, Run};
use super::work::Work;

/// Parts of so many cells are always solved by bit-vectors: their rows take 2 MiB, and 0.3 ms.
const ALWAYS_CELLS: u64 = 1 << 24;
/// A search for a middle takes at most an eighth of the work of bit-vectors before these take over. On real
/// pages a fourth found no more middles that were worth it.
const SEARCH_OF_ROWS: u64 = 8;
/// A search for a middle takes at most a fourth of the work that is left: it may be in vain.
const SEARCH_OF_LEFT: u64 = 4;
/// Bit-vectors leave a fourth of the work that is left, for the parts behind this one.
const KEPT_OF_LEFT: u64 = 4;
/// Edits of one walk: enough to get past a changed line, and few enough that a walk through nothing but
/// changes costs 64 points for a token.
const WALK_EDITS: i32 = 128;

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Split at anchors, then solve exactly between them as far as it can be afforded.
    AnchorsFirst,
    /// Solve exactly as far as it can be afforded.
    ExactFirst,
    /// Solve exactly or not at all.
    ExactOnly,
}

/// Tokens `old` of the old side that were replaced by tokens `new` of the new side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenChange {
    pub(super) old: Range<u32>,
    pub(super) new: Range<u32>,
}

/// Result of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) changes: Vec<TokenChange>,
    /// False if for some part there was not enough work left.
    pub(super) complete: bool,
}

/// Buffers of the searches, used again by the next comparison.
#[derive(Debug, Default)]
pub(super) struct Comparer {
    rows: BitRows,
    middle: MiddleSearch,
    anchors: AnchorSearch,
    runs: Vec<Run>,
    /// Whether a token stands on the old side (1), on the new side (2), on both (3).
    sides: Vec<u8>,
}

impl Comparer {
    /// Compares two sequences; `None` if that must be exact and cannot be afforded.
    pub(super) fn compare(
        &mut self,
        old: &[u32],
        new: &[u32],
        method: Method,
        work: &mut Work,
    ) -> Option<Comparison> {
        let [old_at, new_at] = self.with_counterpart(old, new);
        let tokens = |all: &[u32], at: &[u32]| at.iter().map(|at| all[*at as usize]).collect::<Vec<u32>>();
        let (a, b) = (tokens(old, &old_at), tokens(new, &new_at));
        let gaps = Gaps { old_at: &old_at, new_at: &new_at, old_end: 0, new_end: 0, changes: Vec::new() };
        let mut search =
            PartSearch { a: &a, b: &b, comparer: self, work, parts: Vec::new(), gaps, complete: true };
        search.parts.push(Part::Open(Stretch { old: 0..a.len(), new: 0..b.len() }));
        let mut is_first = true;
        while let Some(part) = search.parts.pop() {
            let (stretch, walk) = match part {
                Part::Open(stretch) => (stretch, false),
                Part::Walk(stretch) => (stretch, true),
                Part::Equal { old, new, len } => {
                    search.gaps.equal(old, new, len);
                    continue;
                }
            };
            let Some(stretch) = search.strip(stretch) else { continue };
            let anchors_first = std::mem::take(&mut is_first) && method == Method::AnchorsFirst;
            if anchors_first && search.split_at_anchors(&stretch) {
                continue;
            }
            if (!walk || stretch.is_small()) && search.solve(&stretch) {
                continue;
            }
            if method == Method::ExactOnly {
                return None;
            }
            if !walk && search.split_at_anchors(&stretch) {
                continue;
            }
            search.complete = false;
            search.walk(&stretch);
        }
        let complete = search.complete;
        let changes = compact::compact(old, new, search.gaps.finish(old.len(), new.len()));
        Some(Comparison { changes, complete })
    }

    /// Positions of the tokens of each side that stand on the other side too.
    fn with_counterpart(&mut self, old: &[u32], new: &[u32]) -> [Vec<u32>; 2] {
        let most = old.iter().chain(new).copied().max().map_or(0, |most| most as usize + 1);
        if self.sides.len() < most {
            self.sides.resize(most, 0);
        }
        old.iter().for_each(|token| self.sides[*token as usize] = 1);
        new.iter().for_each(|token| self.sides[*token as usize] |= 2);
        let both = |tokens: &[u32]| {
            let positions = tokens.iter().enumerate();
            positions
                .filter(|(_, token)| self.sides[**token as usize] == 3)
                .map(|(at, _)| at as u32)
                .collect()
        };
        let positions = [both(old), both(new)];
        old.iter().chain(new).for_each(|token| self.sides[*token as usize] = 0);
        positions
    }
}

/// A stretch of each side.
#[derive(Debug, Clone)]
struct Stretch {
    old: Range<usize>,
    new: Range<usize>,
}

impl Stretch {
    fn is_small(&self) -> bool {
        self.old.len() as u64 * self.new.len() as u64 <= ALWAYS_CELLS
    }

    /// What stands before and behind a point, which is counted from the beginning of the stretch.
    fn split(&self, (old, new): (usize, usize)) -> [Self; 2] {
        let (old, new) = (self.old.start + old, self.new.start + new);
        [
            Self { old: self.old.start..old, new: self.new.start..new },
            Self { old: old..self.old.end, new: new..self.new.end },
        ]
    }
}

/// What is still to be done, the next part last.
#[derive(Debug)]
enum Part {
    Open(Stretch),
    /// Too large for an exact search, and without anchors.
    Walk(Stretch),
    Equal {
        old: usize,
        new: usize,
        len: usize,
    },
}

/// One comparison, of tokens that all stand on both sides.
struct PartSearch<'s> {
    a: &'s [u32],
    b: &'s [u32],
    comparer: &'s mut Comparer,
    work: &'s mut Work,
    parts: Vec<Part>,
    gaps: Gaps<'s>,
    complete: bool,
}

impl PartSearch<'_> {
    /// Strips equal ends from a stretch; `None` if one side is empty then.
    fn strip(&mut self, stretch: Stretch) -> Option<Stretch> {
        let Stretch { old, new } = stretch;
        let (x, y) = (&self.a[old.clone()], &self.b[new.clone()]);
        let head = x.iter().zip(y).take_while(|(a, b)| a == b).count();
        let tail = x[head..].iter().rev().zip(y[head..].iter().rev()).take_while(|(a, b)| a == b).count();
        self.gaps.equal(old.start, new.start, head);
        let (old, new) = (old.start + head..old.end - tail, new.start + head..new.end - tail);
        if old.is_empty() || new.is_empty() {
            self.gaps.equal(old.end, new.end, tail);
            return None;
        }
        self.parts.push(Part::Equal { old: old.end, new: new.end, len: tail });
        Some(Stretch { old, new })
    }

    /// Splits a stretch at its anchors; false if it has none, or no work is left.
    fn split_at_anchors(&mut self, stretch: &Stretch) -> bool {
        let (x, y) = (&self.a[stretch.old.clone()], &self.b[stretch.new.clone()]);
        if !self.work.take((x.len() + y.len()) as u64) {
            return false;
        }
        let chain = self.comparer.anchors.search(x, y);
        let (mut old_end, mut new_end) = (stretch.old.end, stretch.new.end);
        for (x, y) in chain.iter().rev() {
            let (old, new) = (stretch.old.start + *x as usize, stretch.new.start + *y as usize);
            self.parts.push(Part::Open(Stretch { old: old + 1..old_end, new: new + 1..new_end }));
            self.parts.push(Part::Equal { old, new, len: 1 });
            (old_end, new_end) = (old, new);
        }
        if !chain.is_empty() {
            let first = Stretch { old: stretch.old.start..old_end, new: stretch.new.start..new_end };
            self.parts.push(Part::Open(first));
        }
        !chain.is_empty()
    }

    /// Solves a stretch, or splits it on a shortest path; false if there is not enough work left.
    fn solve(&mut self, stretch: &Stretch) -> bool {
        let (x, y) = (&self.a[stretch.old.clone()], &self.b[stretch.new.clone()]);
        let steps = rows::steps(x.len(), y.len());
        if !stretch.is_small() {
            let allowance = (steps / SEARCH_OF_ROWS).min(self.work.left() / SEARCH_OF_LEFT);
            let split = self.comparer.middle.split(x, y, allowance);
            self.work.spend(split.steps);
            if let Some(point) = split.at {
                let [before, behind] = stretch.split(point);
                self.parts.extend([Part::Open(behind), Part::Open(before)]);
                return true;
            }
        }
        if steps > self.work.left() - self.work.left() / KEPT_OF_LEFT || !self.work.take(steps) {
            return false;
        }
        let runs = &mut self.comparer.runs;
        runs.clear();
        let old_is_longer = x.len() >= y.len();
        let (columns, rows) = if old_is_longer { (x, y) } else { (y, x) };
        self.comparer.rows.search(columns, rows, runs);
        for run in runs.iter().rev() {
            let (column, row) = (run.column as usize, run.row as usize);
            let (old, new) = if old_is_longer { (column, row) } else { (row, column) };
            self.gaps.equal(stretch.old.start + old, stretch.new.start + new, run.len as usize);
        }
        true
    }

    /// Splits a stretch that is not small where [`WALK_EDITS`] edits lead from its beginning.
    fn walk(&mut self, stretch: &Stretch) {
        if stretch.is_small() {
            return;
        }
        let (x, y) = (&self.a[stretch.old.clone()], &self.b[stretch.new.clone()]);
        let walk = self.comparer.middle.furthest(x, y, WALK_EDITS);
        if let Some(point) = walk.at
            && self.work.take(walk.steps)
        {
            let [before, behind] = stretch.split(point);
            self.parts.extend([Part::Walk(behind), Part::Open(before)]);
        }
    }
}

/// Collects what stands between equal tokens, which come in ascending order.
struct Gaps<'p> {
    /// Positions, in the whole sequences, of the tokens that are compared.
    old_at: &'p [u32],
    new_at: &'p [u32],
    /// Ends of the last equal tokens, in the whole sequences.
    old_end: u32,
    new_end: u32,
    changes: Vec<TokenChange>,
}

impl Gaps<'_> {
    /// The next run of equal tokens.
    fn equal(&mut self, old: usize, new: usize, len: usize) {
        for (old, new) in self.old_at[old..old + len].iter().zip(&self.new_at[new..new + len]) {
            self.gap(*old, *new);
            (self.old_end, self.new_end) = (old + 1, new + 1);
        }
    }

    /// What stands before these equal tokens.
    fn gap(&mut self, old: u32, new: u32) {
        if (old, new) != (self.old_end, self.new_end) {
            self.changes.push(TokenChange { old: self.old_end..old, new: self.new_end..new });
        }
    }

    fn finish(mut self, old_len: usize, new_len: usize) -> Vec<TokenChange> {
        self.gap(old_len as u32, new_len as u32);
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLENTY: u64 = u64::MAX / 2;

    fn compared(old: &[u32], new: &[u32], method: Method, work: u64) -> Comparison {
        Comparer::default().compare(old, new, method, &mut Work::of(work)).unwrap()
    }

    /// Length of a longest common subsequence, by dynamic programming.
    fn lcs_len(old: &[u32], new: &[u32]) -> usize {
        let mut row = vec![0; new.len() + 1];
        for a in old {
            let mut diagonal = 0;
            for (at, b) in new.iter().enumerate() {
                let above = row[at + 1];
                row[at + 1] = if a == b { diagonal + 1 } else { above.max(row[at]) };
                diagonal = above;
            }
        }
        row[new.len()]
    }

    /// Checks that the changes ascend with equal tokens between them, and that nothing else differs; returns
    /// the number of equal tokens.
    fn checked(old: &[u32], new: &[u32], changes: &[TokenChange]) -> usize {
        let (mut old_end, mut new_end, mut equal) = (0, 0, 0);
        for (at, change) in changes.iter().enumerate() {
            let (a, b) = (&old[old_end..change.old.start as usize], &new[new_end..change.new.start as usize]);
            assert_eq!(a, b);
            assert!(at == 0 || !a.is_empty(), "{changes:?}");
            assert!(!change.old.is_empty() || !change.new.is_empty());
            (old_end, new_end) = (change.old.end as usize, change.new.end as usize);
            equal += a.len();
        }
        assert_eq!(old[old_end..], new[new_end..]);
        equal + old[old_end..].len()
    }

    /// The length that bit-vectors find, and the bytes of their rows.
    fn by_rows(columns: &[u32], rows: &[u32], mut search: BitRows) -> (usize, usize) {
        let mut runs = Vec::new();
        search.search(columns, rows, &mut runs);
        runs.windows(2).for_each(|pair| {
            assert!(
                pair[1].column + pair[1].len <= pair[0].column && pair[1].row + pair[1].len <= pair[0].row
            );
        });
        for run in &runs {
            let (column, row, len) = (run.column as usize, run.row as usize, run.len as usize);
            assert_eq!(columns[column..column + len], rows[row..row + len]);
        }
        (runs.iter().map(|run| run.len as usize).sum(), search.row_bytes())
    }

    /// Splits down to single tokens by middles alone.
    fn by_middles(old: &[u32], new: &[u32]) -> usize {
        let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let (old, new) = (&old[head..], &new[head..]);
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
        let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
        if old.is_empty() || new.is_empty() {
            return head + tail;
        }
        let (x, y) = MiddleSearch::default().split(old, new, PLENTY).at.unwrap();
        assert!(x + y > 0 && x + y < old.len() + new.len());
        head + tail + by_middles(&old[..x], &new[..y]) + by_middles(&old[x..], &new[y..])
    }

    /// Tokens below `of`, the same ones for the same seed.
    fn random(seed: u64, count: usize, of: u64) -> Vec<u32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        (0..count).map(|_| (next() % of) as u32).collect()
    }

    #[test]
    fn rows_and_masks_of_large_parts_are_bounded() {
        let classes = [2, 26, 3000, 100_000];
        for of in classes {
            let (columns, rows) = (random(1, 60_000, of), random(2, 30_000, of));
            let mut search = BitRows::default();
            search.search(&columns, &rows, &mut Vec::new());
            // Twice the square root of 30,000 rows, of 938 words each.
            assert!(search.row_bytes() <= 2 * 174 * 938 * 8, "{of}: {}", search.row_bytes());
            // A class with a mask has a position in every fourth word, so there are at most 256 masks.
            assert!(search.mask_bytes() <= 256 * 938 * 8 + 60_000 * 4, "{of}: {}", search.mask_bytes());
        }
        let (columns, rows) = (random(1, 4096, 26), random(2, 4096, 26));
        let (_, bytes) = by_rows(&columns, &rows, BitRows::default());
        assert!(bytes <= rows::MAX_ROW_BYTES, "{bytes}");
    }

    #[test]
    fn few_edits_in_many_tokens_cost_little_work_and_unrelated_ones_little_more_than_their_cells() {
        let old = random(1, 100_000, 20_000);
        let mut new = old.clone();
        (0..100_000).step_by(1000).for_each(|at| new[at] = 20_001);
        let mut work = Work::of(PLENTY);
        let found = Comparer::default().compare(&old, &new, Method::ExactOnly, &mut work).unwrap();
        assert_eq!(found.changes.len(), 100);
        let (took, cells) = (PLENTY - work.left(), rows::steps(100_000, 100_000));
        assert!(took < cells / 50, "{took} of {cells}");

        let (old, new) = (random(1, 20_000, 300), random(2, 20_000, 300));
        let mut work = Work::of(PLENTY);
        let found = Comparer::default().compare(&old, &new, Method::ExactOnly, &mut work).unwrap();
        assert_eq!(checked(&old, &new, &found.changes), lcs_len(&old, &new));
        let most = rows::steps(20_000, 20_000) * 5 / 4 + 100_000;
        assert!(PLENTY - work.left() <= most, "{} > {most}", PLENTY - work.left());
    }

    #[test]
    fn without_work_what_must_be_exact_is_refused_and_the_rest_is_coarse() {
        let old: Vec<u32> = (0..100).collect();
        let new: Vec<u32> = (40..100).chain(0..40).collect();
        let refused = |work| Comparer::default().compare(&old, &new, Method::ExactOnly, &mut Work::of(work));
        assert_eq!((refused(0), refused(450)), (None, None));
        let nothing = compared(&old, &new, Method::ExactFirst, 0);
        assert_eq!((checked(&old, &new, &nothing.changes), nothing.complete), (0, false));
        // Enough for the anchors, which all of them are, not for bit-vectors.
        for method in [Method::ExactFirst, Method::AnchorsFirst] {
            let found = compared(&old, &new, method, 450);
            assert_eq!((checked(&old, &new, &found.changes), found.complete), (60, true), "{method:?}");
        }
        assert!(compared(&old, &[200, 201], Method::ExactOnly, 0).complete, "nothing is common");
    }

    #[test]
    fn what_is_too_large_for_an_exact_search_and_has_no_anchors_is_walked_through() {
        let old = random(1, 50_000, 2);
        let mut new = old.clone();
        (0..50_000).step_by(50).for_each(|at| new[at] = 1 - new[at]);
        let found = compared(&old, &new, Method::ExactFirst, 20_000_000);
        assert!(!found.complete);
        let equal = checked(&old, &new, &found.changes);
        assert!(equal >= 49_000, "{equal}");
    }

    /// Changes of one kind that can slide up to each other become one.
    #[test]
    fn changes_slide_together() {
        let change = |old: Range<u32>, new: Range<u32>| TokenChange { old, new };
        let old = [9, 5, 6, 5, 6, 7];
        let found = compact::compact(&old, &[8, 5, 6, 7], vec![change(0..1, 0..1), change(3..5, 3..3)]);
        assert_eq!(found, [change(0..3, 0..1)]);
        let old = [7, 5, 6, 5, 6, 9];
        let found = compact::compact(&old, &[7, 5, 6, 8], vec![change(1..3, 1..1), change(5..6, 3..4)]);
        assert_eq!(found, [change(3..6, 3..4)]);
    }

    fn tokens(of: u32, most: usize) -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0..of, 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_comparison_is_never_longer_than_the_shortest(
            (old, new) in (1_u32..40).prop_flat_map(|of| (tokens(of, 300), tokens(of, 300))),
        ) {
            let optimum = lcs_len(&old, &new);
            for method in [Method::ExactFirst, Method::ExactOnly] {
                let found = compared(&old, &new, method, PLENTY);
                prop_assert!(found.complete);
                prop_assert_eq!(checked(&old, &new, &found.changes), optimum);
            }
            prop_assert_eq!(by_middles(&old, &new), optimum);
        }

        #[test]
        fn rows_kept_and_rows_computed_again_find_the_same_length(
            (columns, rows) in (1_u32..90).prop_flat_map(|of| (tokens(of, 700), tokens(of, 700))),
        ) {
            let (kept, _) = by_rows(&columns, &rows, BitRows::default());
            let (again, bytes) = by_rows(&columns, &rows, BitRows::with_row_bytes(0));
            prop_assert_eq!(kept, again);
            prop_assert_eq!(kept, lcs_len(&columns, &rows));
            prop_assert!(bytes <= (2 * rows.len().isqrt() + 3) * columns.len().div_ceil(64) * 8);
        }

        #[test]
        fn with_any_amount_of_work_the_changes_fit(
            (old, new) in (1_u32..40).prop_flat_map(|of| (tokens(of, 300), tokens(of, 300))),
            work in 0_u64..2000,
        ) {
            let found = compared(&old, &new, Method::ExactFirst, work);
            checked(&old, &new, &found.changes);
        }

        #[test]
        fn a_middle_within_an_allowance_is_on_a_shortest_path_or_none(
            (old, new) in (1_u32..20).prop_flat_map(|of| (tokens(of, 200), tokens(of, 200))),
            allowance in 0_u64..3000,
        ) {
            if !old.is_empty() && !new.is_empty() && old[0] != new[0] && old.last() != new.last() {
                let split = MiddleSearch::default().split(&old, &new, allowance);
                if let Some((x, y)) = split.at {
                    let halves = lcs_len(&old[..x], &new[..y]) + lcs_len(&old[x..], &new[y..]);
                    prop_assert_eq!(halves, lcs_len(&old, &new));
                }
            }
        }
    }
}
