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
//! key because page text is hostile, and collisions can be constructed for an unkeyed hash; ids do not depend
//! on it. It is no SipHash, which took a tenth of the time of a diff of short tokens.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// The two texts, and the hasher that assigns ids to their tokens.
pub(super) struct TextPair<'t> {
    /// Text of the older page.
    pub(super) old: &'t str,
    /// Text of the newer page.
    pub(super) new: &'t str,
    keys: [u64; 2],
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
    /// Masks to use in turn until there are few enough tokens. Of `mask + 1` token boundaries one is kept on
    /// average; it is selected by the preceding text, so both texts keep the same ones. Each keeps a part of
    /// what the one before keeps.
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
    pub(super) fn bytes(&self, tokens: Range<u32>) -> Range<u32> {
        let edge = |i: u32| if i == 0 { self.start } else { self.ends[i as usize - 1] };
        edge(tokens.start)..edge(tokens.end)
    }
}

impl<'t> TextPair<'t> {
    /// Prepares two texts for tokenizing.
    pub(super) fn new(old: &'t str, new: &'t str) -> Self {
        let random = RandomState::new();
        Self { old, new, keys: [random.hash_one(0), random.hash_one(1)] }
    }

    /// Whether a stretch of each text, neither of them empty, is one token.
    pub(super) fn is_one_token_each(
        &self,
        granularity: Granularity,
        old: Range<u32>,
        new: Range<u32>,
    ) -> bool {
        let is_one = |text: &str, stretch: Range<u32>| {
            let (start, end) = (stretch.start as usize, stretch.end as usize);
            let first = match granularity {
                Granularity::Chunks => chunk_ends(&text[..end], start).next(),
                Granularity::Words | Granularity::Phrases => word_ends(&text[..end], start).next(),
            };
            first == Some(end)
        };
        is_one(self.old, old) && is_one(self.new, new)
    }

    /// Splits a stretch of each text into at most `cap` tokens in total; `None` if that is impossible.
    pub(super) fn tokenize(
        &self,
        granularity: Granularity,
        old: Range<u32>,
        new: Range<u32>,
        cap: usize,
    ) -> Option<TokenizedPair> {
        let masks = granularity.boundary_masks();
        match granularity {
            Granularity::Chunks => self.cut(masks, chunk_ends, old, new, cap),
            Granularity::Words | Granularity::Phrases => self.cut(masks, word_ends, old, new, cap),
        }
    }

    /// Splits a stretch of each text at some of its boundaries, which are those from an offset to the end of a text,
    /// which is one.
    fn cut<I: Iterator<Item = usize>>(
        &self,
        masks: &[u32],
        boundaries: impl Fn(&'t str, usize) -> I,
        old: Range<u32>,
        new: Range<u32>,
        cap: usize,
    ) -> Option<TokenizedPair> {
        let mut masks = masks.iter().copied();
        let mut mask = masks.next()?;
        let [mut old_ends, mut new_ends] = [Vec::new(), Vec::new()];
        let of_old = &self.old[..old.end as usize];
        for at in boundaries(of_old, old.start as usize) {
            if is_kept(of_old, at, mask) {
                old_ends.push(at as u32);
            }
            while old_ends.len() > cap {
                mask = masks.next()?;
                thin_out(&mut old_ends, of_old, mask);
            }
        }
        let of_new = &self.new[..new.end as usize];
        for at in boundaries(of_new, new.start as usize) {
            if is_kept(of_new, at, mask) {
                new_ends.push(at as u32);
            }
            while old_ends.len() + new_ends.len() > cap {
                mask = masks.next()?;
                thin_out(&mut old_ends, of_old, mask);
                thin_out(&mut new_ends, of_new, mask);
            }
        }
        old_ends.shrink_to_fit();
        new_ends.shrink_to_fit();
        Some(self.assign_ids(old.start, old_ends, new.start, new_ends))
    }

    /// Keyed hash of a token that begins with `head`, eight bytes at a time: each is multiplied to 128 bits, the halves
    /// of which are folded.
    fn hash(&self, text: &[u8], token: Range<usize>, head: u64) -> u64 {
        let [key, other_key] = self.keys;
        let fold = |hash: u64| {
            let product = u128::from(hash) * u128::from(other_key | 1);
            (product >> 64) as u64 ^ product as u64
        };
        let behind_head = (token.start + HEAD_BYTES..token.end).step_by(HEAD_BYTES);
        let length = (token.len() as u64) << 56;
        behind_head
            .map(|at| head_at(text, at..token.end))
            .fold(fold(key ^ length ^ head), |hash, word| fold(hash ^ word))
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
        let mut of_byte = [0_u32; 256];
        let mut distinct: Vec<Distinct> = Vec::new();
        let mut ids_of = |text: &'t str, start: u32, ends: &[u32]| -> Vec<u32> {
            let text = text.as_bytes();
            let of_old = distinct.len();
            let mut from = start as usize;
            let mut id_of = |&end: &u32| {
                let token = from..end as usize;
                from = token.end;
                let head = head_at(text, token.clone());
                let new = Distinct { head, start: token.start as u32, len: token.len() as u32 };
                if token.len() == 1 {
                    let id = &mut of_byte[usize::from(text[token.start])];
                    if *id == 0 {
                        distinct.push(new);
                        *id = distinct.len() as u32;
                    }
                    return *id;
                }
                let mut slot = self.hash(text, token.clone(), head) as usize & (slots - 1);
                loop {
                    let Some(at) = (table[slot] as usize).checked_sub(1) else {
                        distinct.push(new);
                        table[slot] = distinct.len() as u32;
                        return table[slot];
                    };
                    let known = &distinct[at];
                    if (known.head, known.len) == (head, new.len)
                        && (token.len() <= HEAD_BYTES
                            || known.of(if at < of_old { self.old.as_bytes() } else { text })
                                == &text[token.clone()])
                    {
                        return table[slot];
                    }
                    slot = (slot + 1) & (slots - 1);
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

/// Bytes of a token that are compared without looking into the text: most words have no more.
const HEAD_BYTES: usize = 8;

/// A distinct token.
struct Distinct {
    head: u64,
    start: u32,
    len: u32,
}

impl Distinct {
    fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start as usize..][..self.len as usize]
    }
}

/// The first eight bytes of a part of a text, or all of a shorter one and zeros.
fn head_at(text: &[u8], part: Range<usize>) -> u64 {
    let here = &text[part.start..];
    let word = here.first_chunk().copied().unwrap_or_else(|| {
        let mut word = [0; HEAD_BYTES];
        word[..here.len()].copy_from_slice(here);
        word
    });
    match part.len() {
        0 => 0,
        len @ 1..HEAD_BYTES => u64::from_le_bytes(word) & (u64::MAX >> (u64::BITS as usize - 8 * len)),
        _ => u64::from_le_bytes(word),
    }
}

/// Keeps of the ends of tokens those that this mask keeps.
fn thin_out(ends: &mut Vec<u32>, text: &str, mask: u32) {
    ends.retain(|at| is_kept(text, *at as usize, mask));
}

/// Ends of chunks from `start` on. Consecutive line breaks count as one.
fn chunk_ends(text: &str, start: usize) -> impl Iterator<Item = usize> {
    let text = text.as_bytes();
    let breaks = memchr::memchr3_iter(b'\n', b'>', b'.', &text[start..]).filter_map(move |at| {
        let at = start + at;
        let next = text.get(at + 1);
        match text[at] {
            b'.' => (next == Some(&b' ')).then_some(at + 2),
            b'\n' if next == Some(&b'\n') => None,
            _ => Some(at + 1),
        }
    });
    let last = (start < text.len()).then_some(text.len());
    breaks.filter(move |end| *end < text.len()).chain(last)
}

/// Ends of words from `start` on.
fn word_ends(text: &str, start: usize) -> impl Iterator<Item = usize> {
    let mut at = start;
    std::iter::from_fn(move || {
        let length = word_len(&text[at..]);
        at += length;
        (length > 0).then_some(at)
    })
}

/// Whether the boundary at this offset is kept under this mask; the end of the text always is.
fn is_kept(text: &str, at: usize, mask: u32) -> bool {
    mask == 0 || at == text.len() || fingerprint(&text.as_bytes()[..at]) & mask == 0
}

/// Hash of the last 16 bytes. It only selects boundaries, so it need not resist collisions.
fn fingerprint(text: &[u8]) -> u32 {
    let tail = match text.last_chunk::<16>() {
        Some(tail) => *tail,
        None => {
            let mut tail = [0; 16];
            tail[16 - text.len()..].copy_from_slice(text);
            tail
        }
    };
    let hash = u128::from_le_bytes(tail).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    (hash >> 96) as u32
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharClass {
    Word,
    Space,
    Single,
}

/// Classes of the characters below 128, which are most.
const ASCII_CLASSES: [CharClass; 128] = {
    let mut classes = [CharClass::Single; 128];
    let mut at = 0;
    while at < classes.len() {
        classes[at] = match at as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => CharClass::Word,
            b' ' | b'\t' | b'\r' => CharClass::Space,
            _ => CharClass::Single,
        };
        at += 1;
    }
    classes
};

fn class_of(c: char) -> CharClass {
    match c {
        '\0'..='\x7f' => ASCII_CLASSES[c as usize],
        // Quotes, dashes, dots and currency signs: looked up, they would be most of the time for a text of them.
        '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205E}' | '\u{20A0}'..='\u{20CF}' => CharClass::Single,
        // From the CJK radicals on, scripts do not separate words by spaces.
        '\u{2E80}'.. => CharClass::Single,
        _ if c.is_alphanumeric() => CharClass::Word,
        _ if c.is_whitespace() => CharClass::Space,
        _ => CharClass::Single,
    }
}

/// Length in bytes of the first word of `text`; 0 if it is empty.
fn word_len(text: &str) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let kind = class_of(first);
    if kind == CharClass::Single {
        return first.len_utf8();
    }
    let bytes = text.as_bytes();
    let mut at = first.len_utf8();
    loop {
        match bytes.get(at) {
            Some(byte @ 0..=0x7f) if ASCII_CLASSES[usize::from(*byte)] == kind => at += 1,
            None | Some(0..=0x7f) => return at,
            Some(0x80..) => match text[at..].chars().next() {
                Some(c) if class_of(c) == kind => at += c.len_utf8(),
                Some(_) | None => return at,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'t>(old: &'t str, new: &'t str) -> TextPair<'t> {
        TextPair::new(old, new)
    }

    fn token_texts(granularity: Granularity, text: &str) -> Vec<&str> {
        let tokens = texts(text, "").tokenize(granularity, 0..text.len() as u32, 0..0, 1000).unwrap().old;
        (0..tokens.ids.len())
            .map(|i| tokens.bytes(i as u32..i as u32 + 1))
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
    fn a_punctuation_mark_that_is_not_looked_up_is_neither_letter_nor_space() {
        let marks = ('\u{2010}'..='\u{2027}').chain('\u{2030}'..='\u{205E}').chain('\u{20A0}'..='\u{20CF}');
        for c in marks {
            assert!(!c.is_alphanumeric() && !c.is_whitespace(), "{c:?}");
            assert_eq!(class_of(c), CharClass::Single);
        }
    }

    #[test]
    fn equal_tokens_of_both_texts_have_equal_ids() {
        let texts = texts("a b a", "b a");
        let tokenized = texts.tokenize(Granularity::Words, 0..5, 0..3, 100).unwrap();
        assert_eq!(tokenized.old.ids, [1, 2, 3, 2, 1]);
        assert_eq!(tokenized.new.ids, [3, 2, 1]);
    }

    #[test]
    fn tokens_that_begin_alike_or_end_in_nul_are_told_apart() {
        let (old, new) = ("abcdefgh abcdefghi ab", "abcdefghi abcdefghj ab\0 ab");
        let texts = texts(old, new);
        let all = |text: &str| 0..text.len() as u32;
        let tokenized = texts.tokenize(Granularity::Chunks, all(old), all("abcdefghi"), 100).unwrap();
        assert_eq!((tokenized.old.ids, tokenized.new.ids), (vec![1], vec![2]));
        let tokenized = texts.tokenize(Granularity::Words, all(old), all(new), 100).unwrap();
        assert_eq!(
            (tokenized.old.ids, tokenized.new.ids),
            (vec![1, 2, 3, 2, 4], vec![3, 2, 5, 2, 4, 6, 2, 4])
        );
        // Their hashes differ, so they meet in one slot of four under some of the keys only.
        for _ in 0..100 {
            let texts = TextPair::new("ab", "ab\0");
            let tokenized = texts.tokenize(Granularity::Chunks, 0..2, 0..3, 100).unwrap();
            assert_eq!((tokenized.old.ids, tokenized.new.ids), (vec![1], vec![2]));
        }
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
        assert_eq!(tokenized.old.bytes(0..tokenized.old.ids.len() as u32), all);
        assert!(texts.tokenize(Granularity::Words, all.clone(), all.clone(), 5000).is_none());
        let tokenized = texts.tokenize(Granularity::Phrases, all.clone(), all.clone(), 5000).unwrap();
        assert!(
            tokenized.old.ids.len() > 100 && tokenized.old.ids.len() <= 2500,
            "{}",
            tokenized.old.ids.len()
        );
        assert_eq!(tokenized.old.bytes(0..tokenized.old.ids.len() as u32), all);
    }
}
