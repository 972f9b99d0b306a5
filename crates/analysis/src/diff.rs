//! Diffs two texts, first coarsely, then more finely where they differ.
//!
//! Common ends are stripped and the rest is compared as chunks (Patience). Differing stretches are compared
//! as words (Myers), via phrases if there are too many words, and small differing stretches as characters
//! (Myers). A linear clean-up makes the result readable.
//!
//! Invariant: applying the steps of an [`EditScript`] to the old text yields the new text,
//! even if the deadline passed.
//!
//! # Why
//! On 266 real pairs this took a fortieth of the CPU time of the old service's diff-match-patch, with
//! smaller edits in total, because diff-match-patch gave up on large pages after two seconds. Diffing
//! whole pages by characters or words with `similar` was four to eighteen times slower and gave worse
//! results. `imara-diff` is faster, but has no deadline and hung on seven of twelve adversarial pairs.
//! Every level is bounded: a stretch with too many tokens is left as one replacement, and so is whatever
//! remains at the deadline; `approximate` reports both.

use std::hash::Hash;
use std::ops::Range;
use std::time::Instant;

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};
use wm_job::hunk::StepKind;

use super::change::{Change, slice, trim};
use super::cleanup;
use super::tokens::{Granularity, TextPair};

/// Maximum number of tokens of both texts in one comparison. With the working memory of `similar` this
/// is at most about 70 MiB of heap, which fits into the child's default budget beside two bodies of 10
/// MiB that tripled in decoding.
const MAX_TOKENS: usize = 400_000;
/// Maximum number of changes in a script; further ones are merged into the last.
const MAX_CHANGES: usize = 500_000;
/// Largest stretch on either side that is compared by characters. Beyond it, Myers finds accidental matches,
/// and its cost is quadratic.
const MAX_CHAR_BYTES: u32 = 4 * 1024;

/// Maximum length of changes that are joined before the finer comparison. Joining lets words be compared
/// across a line break or tag that happens to match. Longer ones gained nothing on 51 real pairs.
const MAX_JOINED_CHARS: u32 = 16 * 1024;

/// All changes between two texts, in order; between any two changes there is equal text.
#[derive(Debug)]
pub(super) struct EditScript<'t> {
    /// Text of the older page.
    pub(super) old: &'t str,
    /// Text of the newer page.
    pub(super) new: &'t str,
    /// Changes as byte ranges of both texts.
    pub(super) changes: Vec<Change>,
    /// True if a bound or the deadline made the script coarser than possible.
    pub(super) approximate: bool,
}

impl<'t> EditScript<'t> {
    /// The steps in the order of web-monitoring-diff: equal text, then removed text, then added text.
    pub(super) fn steps(&self) -> impl Iterator<Item = (StepKind, &'t str)> {
        let (old, new) = (self.old, self.new);
        let ends = Change { old: old.len() as u32..0, new: 0..0 };
        let mut at = 0;
        let changes = self.changes.iter().cloned().chain(std::iter::once(ends));
        changes
            .flat_map(move |change| {
                let equal = slice(old, at..change.old.start);
                at = change.old.end;
                [
                    (StepKind::Same, equal),
                    (StepKind::Removed, slice(old, change.old)),
                    (StepKind::Added, slice(new, change.new)),
                ]
            })
            .filter(|(_, text)| !text.is_empty())
    }
}

/// Diffs two texts, at most until the deadline.
pub(super) fn diff<'t>(old: &'t str, new: &'t str, deadline: Instant) -> EditScript<'t> {
    let mut search = DiffSearch {
        texts: TextPair::new(old, new, deadline),
        deadline,
        changes: Vec::new(),
        approximate: false,
    };
    let whole = Change { old: 0..old.len() as u32, new: 0..new.len() as u32 };
    search.refine(whole, DiffLevel::Chunks);
    let approximate = search.approximate;
    let changes = cleanup::semantic(old, new, search.changes);
    EditScript { old, new, changes, approximate }
}

#[derive(Debug, Clone, Copy)]
enum DiffLevel {
    Chunks,
    Words,
    /// For a stretch with too many words.
    Phrases,
    /// For differences between phrases; a stretch with too many words is not refined further.
    WordsOfPhrases,
    Chars,
}

struct DiffSearch<'t> {
    texts: TextPair<'t>,
    deadline: Instant,
    changes: Vec<Change>,
    approximate: bool,
}

impl DiffSearch<'_> {
    /// Finds the changes within a stretch at this level and the levels below.
    fn refine(&mut self, stretch: Change, level: DiffLevel) {
        let change = trim(self.texts.old, self.texts.new, stretch);
        if change.old.is_empty() || change.new.is_empty() {
            return self.push(change);
        }
        if Instant::now() >= self.deadline {
            self.approximate = true;
            return self.push(change);
        }
        let (granularity, algorithm, below, otherwise) = match level {
            DiffLevel::Chunks => {
                (Granularity::Chunks, Algorithm::Patience, DiffLevel::Words, Some(DiffLevel::Words))
            }
            DiffLevel::Words => {
                (Granularity::Words, Algorithm::Myers, DiffLevel::Chars, Some(DiffLevel::Phrases))
            }
            DiffLevel::Phrases => {
                (Granularity::Phrases, Algorithm::Patience, DiffLevel::WordsOfPhrases, None)
            }
            DiffLevel::WordsOfPhrases => (Granularity::Words, Algorithm::Myers, DiffLevel::Chars, None),
            DiffLevel::Chars => return self.compare_chars(change),
        };
        let Some(tokenized) =
            self.texts.tokenize(granularity, change.old.clone(), change.new.clone(), MAX_TOKENS)
        else {
            if let Some(level) = otherwise {
                return self.refine(change, level); // checks the deadline first
            }
            self.approximate = true;
            return self.push(change);
        };
        let part = |op: DiffOp| Change {
            old: tokenized.old.bytes(op.old_range()),
            new: tokenized.new.bytes(op.new_range()),
        };
        let parts =
            self.compare(algorithm, &tokenized.old.ids, &tokenized.new.ids).into_iter().map(part).collect();
        drop(tokenized);
        let longest = match below {
            DiffLevel::Chars => MAX_CHAR_BYTES,
            DiffLevel::Chunks | DiffLevel::Words | DiffLevel::Phrases | DiffLevel::WordsOfPhrases => {
                MAX_JOINED_CHARS
            }
        };
        for part in cleanup::join_over_small_equalities(self.texts.old, self.texts.new, parts, longest) {
            self.refine(part, below);
        }
    }

    fn compare_chars(&mut self, change: Change) {
        let (old, new) =
            (slice(self.texts.old, change.old.clone()), slice(self.texts.new, change.new.clone()));
        if change.old.len() > MAX_CHAR_BYTES as usize || change.new.len() > MAX_CHAR_BYTES as usize {
            return self.push(change);
        }
        let (old, new) = (CharOffsets::new(old), CharOffsets::new(new));
        for op in self.compare(Algorithm::Myers, &old.chars, &new.chars) {
            let (old, new) = (old.bytes(op.old_range()), new.bytes(op.new_range()));
            self.push(Change {
                old: change.old.start + old.start..change.old.start + old.end,
                new: change.new.start + new.start..change.new.start + new.end,
            });
        }
    }

    /// Differences between two sequences. At the deadline `similar` leaves the rest as one replacement
    /// without reporting it, so the clock is checked afterwards.
    fn compare<T: Hash + Eq>(&mut self, algorithm: Algorithm, old: &[T], new: &[T]) -> Vec<DiffOp> {
        let mut ops = capture_diff_slices_deadline(algorithm, old, new, Some(self.deadline));
        ops.retain(|op| !matches!(op, DiffOp::Equal { .. }));
        self.approximate |= Instant::now() >= self.deadline;
        ops
    }

    /// Appends a change; merges it with the last one if they are adjacent or
    /// [`MAX_CHANGES`] has been reached.
    fn push(&mut self, change: Change) {
        if change.old.is_empty() && change.new.is_empty() {
            return;
        }
        let full = self.changes.len() >= MAX_CHANGES;
        match self.changes.last_mut() {
            Some(last) if full || (last.old.end, last.new.end) == (change.old.start, change.new.start) => {
                self.approximate |= full;
                last.old.end = change.old.end;
                last.new.end = change.new.end;
            }
            Some(_) | None => self.changes.push(change),
        }
    }
}

/// The characters of a short text and the byte offset of each.
struct CharOffsets {
    chars: Vec<char>,
    starts: Vec<u32>,
}

impl CharOffsets {
    fn new(text: &str) -> Self {
        let (mut starts, chars): (Vec<_>, Vec<_>) = text.char_indices().map(|(at, c)| (at as u32, c)).unzip();
        starts.push(text.len() as u32);
        Self { chars, starts }
    }

    fn bytes(&self, chars: Range<usize>) -> Range<u32> {
        self.starts[chars.start]..self.starts[chars.end]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn far_deadline() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn steps(old: &str, new: &str) -> Vec<(i8, String)> {
        diff(old, new, far_deadline()).steps().map(|(kind, text)| (kind.code(), text.to_owned())).collect()
    }

    /// Rebuilds both texts from the steps.
    fn rebuilt(script: &EditScript<'_>) -> (String, String) {
        let side = |left_out: StepKind| {
            script.steps().filter(|(kind, _)| *kind != left_out).map(|(_, text)| text).collect()
        };
        (side(StepKind::Added), side(StepKind::Removed))
    }

    /// Checks the invariant, and that no two adjacent steps have the same code.
    fn assert_rebuilds(script: &EditScript<'_>) {
        let (old, new) = rebuilt(script);
        assert!(old == script.old && new == script.new, "the steps do not rebuild both texts");
        let codes: Vec<i8> = script.steps().map(|(kind, _)| kind.code()).collect();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]), "{codes:?}");
    }

    #[test]
    fn steps_read_as_a_person_would_say_it() {
        type DiffCase = (&'static str, &'static str, &'static [(i8, &'static str)]);
        let table: [DiffCase; 11] = [
            ("", "", &[]),
            ("same", "same", &[(0, "same")]),
            ("", "new", &[(1, "new")]),
            ("old", "", &[(-1, "old")]),
            ("Deleted Unchanged", "Added Unchanged", &[(-1, "Delet"), (1, "Add"), (0, "ed Unchanged")]),
            ("The cat sat.", "The cat quickly sat.", &[(0, "The cat "), (1, "quickly "), (0, "sat.")]),
            ("one two three", "one three", &[(0, "one "), (-1, "two "), (0, "three")]),
            ("a\nb\nc\n", "a\nx\nc\n", &[(0, "a\n"), (-1, "b"), (1, "x"), (0, "\nc\n")]),
            ("mouse", "sofas", &[(-1, "mouse"), (1, "sofas")]),
            ("abcxxx", "xxxdef", &[(-1, "abc"), (0, "xxx"), (1, "def")]),
            ("naïve café", "naive café", &[(0, "na"), (-1, "ï"), (1, "i"), (0, "ve café")]),
        ];
        for (old, new, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(code, text)| (*code, (*text).to_owned())).collect();
            assert_eq!(steps(old, new), expected, "{old} / {new}");
        }
    }

    #[test]
    fn characters_that_share_bytes_are_never_cut() {
        // é is C3 A9, è is C3 A8; 🎉 and 🎊 differ in their last byte, й and и+breve in
        // the number of characters.
        for (old, new) in
            [("é", "è"), ("a🎉b", "a🎊b"), ("й", "и\u{306}"), ("x\u{3bb}", "\u{2bb}"), ("日本", "日木")]
        {
            let script = diff(old, new, far_deadline());
            assert_rebuilds(&script);
        }
    }

    #[test]
    fn a_passed_deadline_leaves_one_replacement_and_says_so() {
        let script = diff("begin one two end", "begin 1 2 end", Instant::now());
        assert!(script.approximate);
        assert_eq!(script.changes.len(), 1);
        assert_rebuilds(&script);
        assert!(!diff("begin one two end", "begin 1 2 end", far_deadline()).approximate);
        assert!(!diff("same", "same", Instant::now()).approximate);
        assert!(!diff("a", "a longer one", Instant::now()).approximate, "an insertion needs no search");
    }

    #[test]
    fn too_many_words_are_one_replacement_and_said_to_be() {
        let (old, new) = ("! ".repeat(300_000), "? ".repeat(300_000));
        let script = diff(&old, &new, far_deadline());
        assert!(script.approximate);
        assert_eq!(script.changes.len(), 1);
        assert_rebuilds(&script);
    }

    #[test]
    fn a_line_of_too_many_words_is_compared_as_phrases_first() {
        let line =
            |edit: usize| -> String {
                (0..700_000)
                    .map(|i| {
                        if i > 0 && i % edit == 0 {
                            format!("new{i}=1;")
                        } else {
                            format!("w{}=1;", i % 9973)
                        }
                    })
                    .collect()
            };
        let (old, new) = (line(usize::MAX), line(35_000));
        let script = diff(&old, &new, far_deadline());
        assert_rebuilds(&script);
        assert_eq!(script.changes.len(), 19);
        assert!(!script.approximate);
    }

    #[test]
    fn few_changes_in_a_long_line_are_found_one_by_one() {
        let words: Vec<String> = (0..200_000).map(|i| format!("w{}", i * 7919 % 10_007)).collect();
        let mut changed = words.clone();
        for at in (500..200_000).step_by(10_000) {
            changed[at] = "changed".to_owned();
        }
        let (old, new) = (words.join(" "), changed.join(" "));
        let script = diff(&old, &new, far_deadline());
        assert_rebuilds(&script);
        assert_eq!(script.changes.len(), 20);
        assert!(!script.approximate);
    }

    #[test]
    fn poison_returns_before_the_deadline_is_long_past() {
        let salad = |seed: u64, n: u64| -> String {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            (0..n)
                .map(|_| format!("{}{}", next() % 1000, if next() % 9 == 0 { ".\n" } else { " " }))
                .collect()
        };
        let lines =
            |step: usize| -> String { (0..200_000).map(|i| format!("line {}\n", i * step % 7)).collect() };
        let pairs: [(&str, String, String); 8] = [
            ("word salad", salad(1, 400_000), salad(2, 400_000)),
            ("few lines, shuffled", lines(3), lines(5)),
            (
                "repeated tokens",
                "<td>0</td>".repeat(200_000),
                "<td>0</td>".repeat(199_990) + &"<td>1</td>".repeat(10),
            ),
            ("one letter", "a".repeat(2_000_000), "a".repeat(1_900_000) + "b"),
            (
                "dna",
                salad(1, 100_000).replace([' ', '\n', '.'], ""),
                salad(2, 100_000).replace([' ', '\n', '.'], ""),
            ),
            ("two-letter words", "ab ".repeat(600_000), "ba ".repeat(600_000)),
            ("blank lines", "\n".repeat(1_000_000), "\n \n".repeat(400_000)),
            ("cjk", "日本語".repeat(300_000), "語本日".repeat(300_000)),
        ];
        for (name, old, new) in &pairs {
            let deadline = Instant::now() + Duration::from_millis(300);
            let script = diff(old, new, deadline);
            assert_rebuilds(&script);
            if Instant::now() < deadline {
                continue; // may still be approximate because of another bound
            }
            let late = deadline.elapsed();
            assert!(late < Duration::from_secs(5), "{name} came {late:?} late");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn steps_rebuild_both_sides_of_any_two_strings(old in any::<String>(), new in any::<String>()) {
            assert_rebuilds(&diff(&old, &new, far_deadline()));
        }

        #[test]
        fn steps_rebuild_both_sides_of_similar_strings(old in "[ab \n.>éè🎉🎊日]{0,200}", new in "[ab \n.>éè🎉🎊日]{0,200}") {
            assert_rebuilds(&diff(&old, &new, far_deadline()));
            assert_rebuilds(&diff(&old, &new, Instant::now()));
        }

        #[test]
        fn steps_rebuild_both_sides_of_edited_pages(
            words in proptest::collection::vec("[a-zé]{1,6}[ \n.>]{1,2}", 0..300),
            edits in proptest::collection::vec((any::<proptest::sample::Index>(), "[a-zè ]{0,9}"), 0..12),
        ) {
            let mut edited = words.clone();
            for (at, text) in &edits {
                if !edited.is_empty() {
                    let at = at.index(edited.len());
                    edited[at].clone_from(text);
                }
            }
            let (old, new) = (words.concat(), edited.concat());
            let script = diff(&old, &new, far_deadline());
            assert_rebuilds(&script);
            prop_assert!(!script.approximate);
        }
    }
}
