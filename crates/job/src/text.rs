//! Helpers for messages: truncating hostile text, formatting hashes and error chains.

use std::error::Error;
use std::io;

use sha2::{Digest, Sha256};

use crate::redact::scrub;

/// The longest piece of hostile text quoted in a message, in characters.
pub(crate) const QUOTE_MAX_CHARS: usize = 80;

/// At most `max` characters of `text`, with `…` appended if it was cut.
pub fn clip(text: &str, max: usize) -> String {
    let mut short: String = text.chars().take(max).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// [`clip`] at `QUOTE_MAX_CHARS`: makes hostile text short enough for a message. Scrubbed before: of an address that
/// was cut it cannot be seen where its password ends.
pub fn quote(text: &str) -> String {
    clip(&scrub(text), QUOTE_MAX_CHARS)
}

/// The last char boundary of `text` that is at or before `at`. Stands in for `str::floor_char_boundary`, which is newer
/// than the minimum supported Rust version.
pub fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// A media type without its parameters, in lower case.
pub fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error and its causes, outermost first.
pub fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // The `source()` of an I/O error skips the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// The innermost cause of an error: outer ones are often as vague as `error sending request`.
pub fn innermost_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_marked_and_falls_between_characters() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöü", 2), "äö…");
    }

    #[test]
    fn a_hash_is_written_in_lower_case_hex() {
        assert!(sha256_hex(b"abc").starts_with("ba7816bf8f01cfea"));
    }
}
