//! Splits texts into tokens and maps them to integers, the input of the diff algorithms.
//!
//! Equal tokens of the two texts have equal ids. A token costs eight bytes (end offset and id), each distinct
//! token sixteen more; no strings are stored.
//!
//! Invariant: the tokens of a stretch are adjacent and cover it, and every token
//! ends on a character boundary.
//!
//! # Why
//! `&str` tokens in a standard map cost 28 to 122 bytes of heap per byte of dense text. The hash has a random
//! key because page text is hostile, and collisions can be constructed for an unkeyed hash.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Instant;

/// Bytes between two checks of the deadline: a few milliseconds of work.
const BYTES_PER_CLOCK_CHECK: usize = 1024 * 1024;

/// The two texts, and the hasher that assigns ids to their tokens.
pub(super) struct TextPair<'t> {
    /// Text of the older page.
    pub(super) old: &'t str,
    /// Text of the newer page.
    pub(super) new: &'t str,
    deadline: Instant,
    hasher: RandomState,
}

/// Unit into which a text is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granularity {
    /// Lines, tags and sentences: up to a line break, a `>`, or a full stop followed by a space.
    Chunks,
    /// Words, runs of white space, and every other character by itself.
    Words,
    /// Several words: for stretches with too many words.
    Phrases,
}

impl Granularity {
    /// Masks to try in turn until there are few enough tokens. Of `mask + 1` token boundaries one is kept on
    /// average; it is selected by the preceding text, so both texts keep the same ones.
    fn boundary_masks(self) -> &'static [u32] {
        match self {
            Self::Chunks => &[0, 1, 3, 7, 15, 31],
            Self::Words => &[0],
            Self::Phrases => &[15, 63, 255],
        }
    }
}

/// The tokens of a stretch of each text.
pub(super) struct TokenizedPair {
    /// Tokens of the older stretch.
    pub(super) old: Tokens,
    /// Tokens of the newer stretch.
    pub(super) new: Tokens,
}

/// Tokens of one stretch.
pub(super) struct Tokens {
    start: u32,
    ends: Vec<u32>,
    /// Id of each token, starting at 1; equal tokens have equal ids.
    pub(super) ids: Vec<u32>,
}

impl Tokens {
    /// Byte range of a range of tokens.
    pub(super) fn bytes(&self, tokens: Range<usize>) -> Range<u32> {
        let edge = |i: usize| if i == 0 { self.start } else { self.ends[i - 1] };
        edge(tokens.start)..edge(tokens.end)
    }
}

impl<'t> TextPair<'t> {
    /// Prepares two texts for tokenizing until the deadline.
    pub(super) fn new(old: &'t str, new: &'t str, deadline: Instant) -> Self {
        Self { old, new, deadline, hasher: RandomState::new() }
    }

    /// Splits a stretch of each text into at most `cap` tokens in total; `None` if that is impossible
    /// or the deadline has passed.
    pub(super) fn tokenize(
        &self,
        granularity: Granularity,
        old: Range<u32>,
        new: Range<u32>,
        cap: usize,
    ) -> Option<TokenizedPair> {
        granularity.boundary_masks().iter().find_map(|&mask| {
            let old_ends = self.token_ends(self.old, old.clone(), granularity, mask, cap)?;
            let new_ends = self.token_ends(self.new, new.clone(), granularity, mask, cap - old_ends.len())?;
            Some(self.assign_ids(old.start, old_ends, new.start, new_ends))
        })
    }

    /// End offsets of the tokens of a stretch; `None` if there are more than `cap`, or
    /// the deadline has passed.
    fn token_ends(
        &self,
        text: &str,
        stretch: Range<u32>,
        granularity: Granularity,
        mask: u32,
        cap: usize,
    ) -> Option<Vec<u32>> {
        let (start, end) = (stretch.start as usize, stretch.end as usize);
        let mut ends = Vec::new();
        let (mut at, mut next_check) = (start, start + BYTES_PER_CLOCK_CHECK);
        while at < end {
            at = match granularity {
                Granularity::Chunks => chunk_end(&text.as_bytes()[..end], at, mask),
                Granularity::Words => at + word_len(&text[at..end]),
                Granularity::Phrases => phrase_end(&text[..end], at, mask),
            };
            let late = at >= next_check && Instant::now() >= self.deadline;
            if late || ends.len() == cap {
                return None;
            }
            next_check = next_check.max(at - at % BYTES_PER_CLOCK_CHECK + BYTES_PER_CLOCK_CHECK);
            ends.push(at as u32);
        }
        ends.shrink_to_fit();
        Some(ends)
    }

    /// Assigns an id to every distinct token, with an open-addressing table that stores only ids.
    fn assign_ids(
        &self,
        old_start: u32,
        old_ends: Vec<u32>,
        new_start: u32,
        new_ends: Vec<u32>,
    ) -> TokenizedPair {
        let slots = (2 * (old_ends.len() + new_ends.len())).next_power_of_two();
        let mut table = vec![0_u32; slots];
        let mut distinct: Vec<&[u8]> = Vec::new();
        let mut ids_of = |text: &'t str, start: u32, ends: &[u32]| -> Vec<u32> {
            let mut from = start as usize;
            let mut id_of = |&end: &u32| {
                let token = &text.as_bytes()[from..end as usize];
                from = end as usize;
                let mut slot = self.hasher.hash_one(token) as usize & (slots - 1);
                loop {
                    match table[slot] {
                        0 => {
                            distinct.push(token);
                            table[slot] = distinct.len() as u32;
                            return table[slot];
                        }
                        id if distinct[id as usize - 1] == token => return id,
                        _ => slot = (slot + 1) & (slots - 1),
                    }
                }
            };
            ends.iter().map(&mut id_of).collect()
        };
        let old_ids = ids_of(self.old, old_start, &old_ends);
        let new_ids = ids_of(self.new, new_start, &new_ends);
        TokenizedPair {
            old: Tokens { start: old_start, ends: old_ends, ids: old_ids },
            new: Tokens { start: new_start, ends: new_ends, ids: new_ids },
        }
    }
}

/// End of the chunk that begins at `start`. Consecutive line breaks count as one.
fn chunk_end(text: &[u8], start: usize, mask: u32) -> usize {
    for at in memchr::memchr3_iter(b'\n', b'>', b'.', &text[start..]).map(|i| start + i) {
        let next = text.get(at + 1);
        let end = match text[at] {
            b'.' if next == Some(&b' ') => at + 2,
            b'.' => continue,
            b'\n' if next == Some(&b'\n') => continue,
            _ => at + 1,
        };
        if is_kept_boundary(&text[..end], mask) {
            return end;
        }
    }
    text.len()
}

/// End of the phrase that begins at `start`.
fn phrase_end(text: &str, start: usize, mask: u32) -> usize {
    let mut end = start;
    while end < text.len() {
        end += word_len(&text[end..]);
        if is_kept_boundary(&text.as_bytes()[..end], mask) {
            break;
        }
    }
    end
}

/// Whether the boundary after `text` is kept under this mask.
fn is_kept_boundary(text: &[u8], mask: u32) -> bool {
    mask == 0 || fingerprint(text) & mask == 0
}

/// Hash of the last 16 bytes. It only selects boundaries, so it need not resist collisions.
fn fingerprint(text: &[u8]) -> u32 {
    let tail = &text[text.len().saturating_sub(16)..];
    tail.iter().fold(0x811C_9DC5_u32, |hash, &b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193)) >> 16
}

/// Length in bytes of the first word of `text`; 0 if it is empty.
fn word_len(text: &str) -> usize {
    #[derive(PartialEq)]
    enum CharClass {
        Word,
        Space,
        Single,
    }
    let class = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => CharClass::Word,
        ' ' | '\t' | '\r' => CharClass::Space,
        '\0'..='\x7f' => CharClass::Single,
        // From the CJK radicals on, scripts do not separate words by spaces.
        '\u{2E80}'.. => CharClass::Single,
        _ if c.is_alphanumeric() => CharClass::Word,
        _ if c.is_whitespace() => CharClass::Space,
        _ => CharClass::Single,
    };
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let kind = class(first);
    if kind == CharClass::Single {
        return first.len_utf8();
    }
    text.find(|c| class(c) != kind).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'t>(old: &'t str, new: &'t str) -> TextPair<'t> {
        TextPair::new(old, new, Instant::now() + std::time::Duration::from_secs(60))
    }

    fn token_texts(granularity: Granularity, text: &str) -> Vec<&str> {
        let tokens = texts(text, "").tokenize(granularity, 0..text.len() as u32, 0..0, 1000).unwrap().old;
        (0..tokens.ids.len())
            .map(|i| tokens.bytes(i..i + 1))
            .map(|r| &text[r.start as usize..r.end as usize])
            .collect()
    }

    #[test]
    fn chunks_end_at_lines_tags_and_sentences() {
        assert_eq!(token_texts(Granularity::Chunks, "a.b. c\n\n\nd<i>e"), ["a.b. ", "c\n\n\n", "d<i>", "e"]);
        assert_eq!(token_texts(Granularity::Chunks, ""), [""; 0]);
    }

    #[test]
    fn words_are_runs_and_all_else_stands_alone() {
        assert_eq!(
            token_texts(Granularity::Words, "naïve  x_1\n<br>"),
            ["naïve", "  ", "x_1", "\n", "<", "br", ">"]
        );
        assert_eq!(token_texts(Granularity::Words, "日本語, да"), ["日", "本", "語", ",", " ", "да"]);
    }

    #[test]
    fn equal_tokens_of_both_texts_have_equal_ids() {
        let texts = texts("a b a", "b a");
        let tokenized = texts.tokenize(Granularity::Words, 0..5, 0..3, 100).unwrap();
        assert_eq!(tokenized.old.ids, [1, 2, 3, 2, 1]);
        assert_eq!(tokenized.new.ids, [3, 2, 1]);
    }

    #[test]
    fn too_many_chunks_become_fewer_and_too_many_words_phrases() {
        let text: String = (0..4000).map(|i| format!("{i}\n")).collect();
        let texts = texts(&text, &text);
        let all = 0..text.len() as u32;
        let tokenized = texts.tokenize(Granularity::Chunks, all.clone(), all.clone(), 5000).unwrap();
        assert!(
            tokenized.old.ids.len() > 100 && tokenized.old.ids.len() <= 2500,
            "{}",
            tokenized.old.ids.len()
        );
        assert_eq!(tokenized.old.ids, tokenized.new.ids);
        assert_eq!(tokenized.old.bytes(0..tokenized.old.ids.len()), all);
        assert!(texts.tokenize(Granularity::Words, all.clone(), all.clone(), 5000).is_none());
        let tokenized = texts.tokenize(Granularity::Phrases, all.clone(), all.clone(), 5000).unwrap();
        assert!(
            tokenized.old.ids.len() > 100 && tokenized.old.ids.len() <= 2500,
            "{}",
            tokenized.old.ids.len()
        );
        assert_eq!(tokenized.old.bytes(0..tokenized.old.ids.len()), all);
    }
    #[test]
    fn a_long_text_is_not_cut_past_the_deadline() {
        let text = "word ".repeat(BYTES_PER_CLOCK_CHECK);
        let all = 0..text.len() as u32;
        let late = TextPair::new(&text, "", Instant::now());
        for granularity in [Granularity::Chunks, Granularity::Words, Granularity::Phrases] {
            let is_tokenized =
                |texts: &TextPair<'_>| texts.tokenize(granularity, all.clone(), 0..0, usize::MAX).is_some();
            assert_eq!(
                (is_tokenized(&late), is_tokenized(&texts(&text, ""))),
                (false, true),
                "{granularity:?}"
            );
        }
    }
}
