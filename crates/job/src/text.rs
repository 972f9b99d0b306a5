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

/// A word of a command that is printed to be pasted: in single quotes where a shell would read anything into it.
pub fn shell_word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/@%+=-".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// `host:<host>` as a word of a filter in a command; `None` for a host that the filter would read as several.
pub fn host_filter(host: &str) -> Option<String> {
    (!host.contains(',')).then(|| shell_word(&format!("host:{host}")))
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
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
    fn a_word_of_a_command_is_one_word_to_a_shell() {
        for word in ["kind:timeout", "web.example.gov", "2001-02-03T04:05:06Z"] {
            assert_eq!(shell_word(word), word);
        }
        for hostile in ["$(reboot).test", "a;b", "a b", "`x`", "it's", "[::1]", "", "é"] {
            let quoted = shell_word(hostile);
            let echo = format!("printf %s {quoted}");
            let said = std::process::Command::new("sh").args(["-c", &echo]).output().unwrap();
            assert_eq!(said.stdout, hostile.as_bytes(), "{quoted}");
        }
    }

    #[test]
    fn a_host_that_a_filter_would_read_as_two_is_not_named() {
        assert_eq!(host_filter("a.test").as_deref(), Some("host:a.test"));
        assert_eq!(host_filter("a.test,b.test"), None);
    }

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
