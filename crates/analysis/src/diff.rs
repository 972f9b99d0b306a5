//! Diffs two texts, first coarsely, then more finely where they differ.
//!
//! Common ends are stripped and the rest is compared as chunks. Differing stretches are compared as words,
//! via phrases if there are too many words for an exact comparison, and what differs then as characters. A
//! linear clean-up makes the result readable.
//!
//! Invariant: applying the steps of an [`EditScript`] to the old text yields the new text, whatever was left
//! of the work; and the script is a function of the texts and the work.
//!
//! # Why
//! On 51 real pairs this left a third of the characters as changed that web-monitoring-diff left, because
//! diff-match-patch gives up on large pages after two seconds, and no pair more than 5 % more. Chunks are
//! compared in two ways, and the one that leaves fewer bytes is taken: the longest common subsequence prefers
//! many short chunks to a long one, and chunks that stand once may have moved; either alone left up to twice
//! as much on some pages. Comparing whole pages by characters or words was four to eighteen times slower and
//! gave worse results. `imara-diff` is faster, but has no bound and hung on seven of twelve adversarial
//! pairs. Every level is bounded by the work, and a stretch that nothing is left for is one replacement;
//! `approximate` reports it.

use std::ops::Range;

use wm_job::hunk::StepKind;

use super::change::{Change, slice, trim};
use super::cleanup;
use super::lcs::{Comparer, Method, TokenChange};
use super::tokens::{Granularity, TextPair, TokenizedPair};
use super::work::Work;

/// Maximum number of tokens of both texts in one comparison, which take some 50 bytes each, or 50 MiB of
/// heap: that fits into the child's default budget beside two bodies of 10 MiB that tripled in decoding.
const MAX_TOKENS: usize = 1_000_000;
/// Maximum number of changes in a script; further ones are merged into the last.
const MAX_CHANGES: usize = 500_000;
/// Maximum length of changes that are joined before they are compared by characters, which may then be exact
/// for any of them. Longer ones gained nothing on 51 real pairs.
const MAX_JOINED_FOR_CHARS: u32 = 16 * 1024;
/// Maximum length of changes that are joined before the finer comparison by tokens. Joining lets words be
/// compared across a line break or tag that happens to match. Beyond it, time grew and text did not get
/// smaller on 51 real pairs.
const MAX_JOINED: u32 = 64 * 1024;
/// Steps for each character of a stretch that is longer than those that are joined: a single long word, like
/// an image in the source. Enough for an edit in every fifty characters, which the old service finds too.
const STEPS_PER_CHAR: u64 = 128;

/// All changes between two texts, in order; between any two changes there is equal text.
#[derive(Debug)]
pub(super) struct EditScript<'t> {
    /// Text of the older page.
    pub(super) old: &'t str,
    /// Text of the newer page.
    pub(super) new: &'t str,
    /// Changes as byte ranges of both texts.
    pub(super) changes: Vec<Change>,
    /// True if a bound made the script coarser than possible.
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

/// Diffs two texts, as finely as the work that is left allows.
pub(super) fn diff<'t>(old: &'t str, new: &'t str, work: &mut Work) -> EditScript<'t> {
    diff_with(&mut Comparer::default(), old, new, work)
}

/// The same for one of many pairs of short texts, which share the buffers of a comparer.
pub(super) fn diff_with<'t>(
    comparer: &mut Comparer,
    old: &'t str,
    new: &'t str,
    work: &mut Work,
) -> EditScript<'t> {
    let mut search = DiffSearch {
        texts: TextPair::new(old, new),
        comparer,
        work,
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
    /// For a stretch with too many words, or too many for the work that is left.
    Phrases,
    /// For differences between phrases.
    WordsOfPhrases,
    Chars,
}

struct DiffSearch<'t, 'w> {
    texts: TextPair<'t>,
    comparer: &'w mut Comparer,
    work: &'w mut Work,
    changes: Vec<Change>,
    approximate: bool,
}

impl DiffSearch<'_, '_> {
    /// Finds the changes within a stretch at this level and the levels below.
    fn refine(&mut self, stretch: Change, level: DiffLevel) {
        let change = trim(self.texts.old, self.texts.new, stretch);
        if change.old.is_empty() || change.new.is_empty() {
            return self.push(change);
        }
        // To cut it into tokens, or into characters.
        if !self.work.take((change.old.len() + change.new.len()) as u64) {
            self.approximate = true;
            return self.push(change);
        }
        const BOTH: &[Method] = &[Method::AnchorsFirst, Method::ExactFirst];
        let (granularity, methods, below, otherwise) = match level {
            DiffLevel::Chunks => (Granularity::Chunks, BOTH, DiffLevel::Words, Some(DiffLevel::Words)),
            DiffLevel::Words => {
                (Granularity::Words, &[Method::ExactOnly][..], DiffLevel::Chars, Some(DiffLevel::Phrases))
            }
            DiffLevel::Phrases => (Granularity::Phrases, BOTH, DiffLevel::WordsOfPhrases, None),
            DiffLevel::WordsOfPhrases => {
                (Granularity::Words, &[Method::ExactFirst][..], DiffLevel::Chars, None)
            }
            DiffLevel::Chars => return self.compare_chars(change),
        };
        match (self.compare(granularity, methods, &change), otherwise) {
            (Some(parts), _) => {
                for part in self.joined(parts, below) {
                    self.refine(part, below);
                }
            }
            (None, Some(level)) => self.refine(change, level),
            (None, None) => {
                self.approximate = true;
                self.push(change);
            }
        }
    }

    /// Differences between the tokens of a stretch, by that of the methods that leaves the fewest bytes;
    /// `None` if there are too many tokens, or too many for the work that is left.
    fn compare(
        &mut self,
        granularity: Granularity,
        methods: &[Method],
        stretch: &Change,
    ) -> Option<Vec<Change>> {
        // Different ones, as the stretch is trimmed. Most changes of links end here, without a table of tokens.
        if self.texts.is_one_token_each(granularity, stretch.old.clone(), stretch.new.clone()) {
            return Some(vec![stretch.clone()]);
        }
        let TokenizedPair { old, new } =
            self.texts.tokenize(granularity, stretch.old.clone(), stretch.new.clone(), MAX_TOKENS)?;
        let part = |change: TokenChange| Change { old: old.bytes(change.old), new: new.bytes(change.new) };
        let mut best: Option<(u64, bool, Vec<Change>)> = None;
        for method in methods {
            let Some(found) = self.comparer.compare(&old.ids, &new.ids, *method, self.work) else { continue };
            let parts: Vec<Change> = found.changes.into_iter().map(part).collect();
            let bytes = parts.iter().map(|part| (part.old.len() + part.new.len()) as u64).sum();
            if best.as_ref().is_none_or(|(least, ..)| bytes < *least) {
                best = Some((bytes, found.complete, parts));
            }
        }
        let (_, complete, parts) = best?;
        self.approximate |= !complete;
        Some(parts)
    }

    /// Joins parts that are close to each other, so that the level below compares them together. They are
    /// trimmed before, since a part that is mostly equal ends would be joined for their length: a moved
    /// paragraph would become many changes.
    fn joined(&self, mut parts: Vec<Change>, below: DiffLevel) -> Vec<Change> {
        let (old, new) = (self.texts.old, self.texts.new);
        for part in &mut parts {
            *part = trim(old, new, part.clone());
        }
        let longest = match below {
            DiffLevel::Chars => MAX_JOINED_FOR_CHARS,
            DiffLevel::Chunks | DiffLevel::Words | DiffLevel::Phrases | DiffLevel::WordsOfPhrases => {
                MAX_JOINED
            }
        };
        cleanup::join_over_small_equalities(old, new, parts, longest)
    }

    fn compare_chars(&mut self, change: Change) {
        let bytes = change.old.len() + change.new.len();
        if bytes > MAX_TOKENS {
            self.approximate = true;
            return self.push(change);
        }
        let old = CharOffsets::new(slice(self.texts.old, change.old.clone()));
        let new = CharOffsets::new(slice(self.texts.new, change.new.clone()));
        let is_long = old.chars.len().max(new.chars.len()) > MAX_JOINED_FOR_CHARS as usize;
        let (method, steps) = match is_long {
            true => (Method::ExactFirst, STEPS_PER_CHAR * bytes as u64),
            false => (Method::ExactOnly, u64::MAX),
        };
        let mut work = self.work.set_aside(steps);
        let found = self.comparer.compare(&old.chars, &new.chars, method, &mut work);
        self.work.take_back(work);
        let Some(found) = found else {
            self.approximate = true;
            return self.push(change);
        };
        self.approximate |= !found.complete;
        for part in found.changes {
            let (old, new) = (old.bytes(part.old), new.bytes(part.new));
            self.push(Change {
                old: change.old.start + old.start..change.old.start + old.end,
                new: change.new.start + new.start..change.new.start + new.end,
            });
        }
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

/// The characters of a text and the byte offset of each.
struct CharOffsets {
    chars: Vec<u32>,
    starts: Vec<u32>,
}

impl CharOffsets {
    fn new(text: &str) -> Self {
        let (mut starts, chars): (Vec<_>, Vec<_>) =
            text.char_indices().map(|(at, c)| (at as u32, u32::from(c))).unzip();
        starts.push(text.len() as u32);
        Self { chars, starts }
    }

    fn bytes(&self, chars: Range<u32>) -> Range<u32> {
        self.starts[chars.start as usize]..self.starts[chars.end as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn diffed<'t>(old: &'t str, new: &'t str) -> EditScript<'t> {
        diff(old, new, &mut Work::of_source())
    }

    fn steps(old: &str, new: &str) -> Vec<(i8, String)> {
        diffed(old, new).steps().map(|(kind, text)| (kind.code(), text.to_owned())).collect()
    }

    /// Number of characters in changes.
    fn edited(script: &EditScript<'_>) -> usize {
        let changed = script.steps().filter(|(kind, _)| *kind != StepKind::Same);
        changed.map(|(_, text)| text.chars().count()).sum()
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
            let script = diffed(old, new);
            assert_rebuilds(&script);
        }
    }

    #[test]
    fn without_work_there_is_one_replacement_and_it_is_said() {
        let none = |old: &str, new: &str| diff(old, new, &mut Work::of(0)).approximate;
        let (old, new) = ("begin one two end", "begin 1 2 end");
        let script = diff(old, new, &mut Work::of(0));
        assert!(script.approximate);
        assert_eq!(script.changes.len(), 1);
        assert_rebuilds(&script);
        assert!(!diffed(old, new).approximate);
        assert!(!none("same", "same"));
        assert!(!none("a", "a longer one"), "an insertion needs no search");
    }

    #[test]
    fn a_moved_paragraph_is_removed_once_and_added_once() {
        let [a, b, c, d] = [
            "A. First sentence stays here.",
            "B. Second one about water moves.",
            "C. Third about air.",
            "D. Fourth about soil.",
        ];
        let script = |separator: &str| {
            let (old, new) = ([a, b, c, d].join(separator), [a, c, d, b].join(separator));
            let script = diffed(&old, &new);
            assert_rebuilds(&script);
            (script.changes.len(), edited(&script))
        };
        assert_eq!(script(" "), (2, 2 * 33));
        assert_eq!(script("</p><p>"), (2, 2 * 39));
    }

    #[test]
    fn of_repeated_tokens_those_that_changed_are_found_one_by_one() {
        let page = |changed: &dyn Fn(u32) -> bool| -> String {
            (0..200_000).map(|at| if changed(at) { "<td>1</td>" } else { "<td>0</td>" }).collect()
        };
        let (old, new) = (page(&|_| false), page(&|at| at.wrapping_mul(2_654_435_761) >> 24 < 12));
        let script = diffed(&old, &new);
        assert_rebuilds(&script);
        let changed = new.matches("1</td>").count();
        assert!(changed > 9000 && script.approximate);
        assert!(edited(&script) <= 21 * changed / 10, "{} of {changed}", edited(&script));
    }

    #[test]
    fn edits_within_one_long_word_are_found() {
        let word = |edited: bool| -> String {
            let letter = |at: u32| char::from(b'a' + (at.wrapping_mul(2_654_435_761) >> 28) as u8);
            (0..100_000).map(|at| if edited && at % 100 == 50 { 'z' } else { letter(at) }).collect()
        };
        let (old, new) = (word(false), word(true));
        let script = diffed(&old, &new);
        assert_rebuilds(&script);
        assert_eq!(edited(&script), 2000);
    }

    #[test]
    fn too_many_words_are_one_replacement_and_said_to_be() {
        let (old, new) = ("! ".repeat(600_000), "? ".repeat(600_000));
        let script = diffed(&old, &new);
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
        let script = diffed(&old, &new);
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
        let script = diffed(&old, &new);
        assert_rebuilds(&script);
        assert_eq!(script.changes.len(), 20);
        assert!(!script.approximate);
    }

    #[test]
    fn poison_takes_no_more_work_than_there_is_and_the_same_each_time() {
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
            let mut work = Work::of_text();
            let script = diff(old, new, &mut work);
            assert_rebuilds(&script);
            let mut again = Work::of_text();
            assert_eq!(diff(old, new, &mut again).changes, script.changes, "{name}");
            assert_eq!(work.left(), again.left(), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn steps_rebuild_both_sides_of_any_two_strings(old in any::<String>(), new in any::<String>()) {
            assert_rebuilds(&diffed(&old, &new));
        }

        #[test]
        fn steps_rebuild_both_sides_of_similar_strings(
            old in "[ab \n.>éè🎉🎊日]{0,200}",
            new in "[ab \n.>éè🎉🎊日]{0,200}",
            work in 0_u64..4000,
        ) {
            assert_rebuilds(&diffed(&old, &new));
            assert_rebuilds(&diff(&old, &new, &mut Work::of(work)));
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
            let script = diffed(&old, &new);
            assert_rebuilds(&script);
            prop_assert!(!script.approximate);
        }
    }
}
