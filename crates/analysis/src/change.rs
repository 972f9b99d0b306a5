//! One change between two texts: a range of bytes on each side.

use std::ops::Range;

/// Bytes compared at a time: wide enough to be fast, small enough to keep the remainder short.
const STRIDE: usize = 64;

/// Bytes `old` of the old text that were replaced by bytes `new` of the new text; at most one
/// of the ranges is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) old: Range<u32>,
    pub(super) new: Range<u32>,
}

/// Text of a range; empty if the range is reversed, like the end marker of `EditScript::steps`.
pub(super) fn slice(text: &str, range: Range<u32>) -> &str {
    text.get(range.start as usize..range.end as usize).unwrap_or_default()
}

/// Strips the common prefix and suffix of both sides of a change, in whole characters.
pub(super) fn trim(old_text: &str, new_text: &str, change: Change) -> Change {
    let (old, new) = (slice(old_text, change.old.clone()), slice(new_text, change.new.clone()));
    let mut prefix = common_prefix(old.as_bytes(), new.as_bytes());
    while !old.is_char_boundary(prefix) || !new.is_char_boundary(prefix) {
        prefix -= 1;
    }
    let (old, new) = (&old[prefix..], &new[prefix..]);
    let mut suffix = common_suffix(old.as_bytes(), new.as_bytes());
    while !old.is_char_boundary(old.len() - suffix) || !new.is_char_boundary(new.len() - suffix) {
        suffix -= 1;
    }
    let (prefix, suffix) = (prefix as u32, suffix as u32);
    Change {
        old: change.old.start + prefix..change.old.end - suffix,
        new: change.new.start + prefix..change.new.end - suffix,
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let strides =
        a.chunks_exact(STRIDE).zip(b.chunks_exact(STRIDE)).take_while(|(a, b)| a == b).count() * STRIDE;
    strides + a[strides..].iter().zip(&b[strides..]).take_while(|(a, b)| a == b).count()
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let strides =
        a.rchunks_exact(STRIDE).zip(b.rchunks_exact(STRIDE)).take_while(|(a, b)| a == b).count() * STRIDE;
    let (a, b) = (&a[..a.len() - strides], &b[..b.len() - strides]);
    strides + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}
