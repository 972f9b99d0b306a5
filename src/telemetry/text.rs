//! Makes hostile text safe to show on a terminal and to readers: [`sanitize`].
//!
//! It does not escape HTML: that is up to the page that shows the text. Secrets are [`crate::job::redact`]'s.
//!
//! Invariant: `sanitize` returns one line without control, bidi or invisible characters, of at most `max` bytes.

use std::fmt::Write;

use crate::job::invisible::is_control_or_invisible;

/// Appended where text was cut.
const ELLIPSIS: char = '…';

/// `text` on one line, with every character that could affect a terminal or mislead a reader escaped, cut so
/// that the result has at most `max` bytes (ellipsis included; a `max` under 3 leaves no room for one).
pub fn sanitize(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut room = 0; // the longest length so far that leaves room for the ellipsis
    for c in text.chars() {
        if out.len() + ELLIPSIS.len_utf8() <= max {
            room = out.len();
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_control_or_invisible(c) => write!(out, "\\u{{{:x}}}", u32::from(c)).unwrap_or_default(),
            c => out.push(c),
        }
        if out.len() > max {
            out.truncate(room);
            if room + ELLIPSIS.len_utf8() <= max {
                out.push(ELLIPSIS);
            }
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_text_becomes_one_line_that_steers_no_terminal() {
        let cases = [
            ("plain text, ünïcode ✓ 漢", "plain text, ünïcode ✓ 漢"),
            ("a\nb\r\n\tc", "a\\nb\\r\\n\\tc"),
            ("\u{1b}[31mred\u{1b}[0m\u{7}", "\\u{1b}[31mred\\u{1b}[0m\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
            ("a\u{2028}b\u{feff}\0\u{7f}", "a\\u{2028}b\\u{feff}\\u{0}\\u{7f}"),
            ("", ""),
        ];
        for (text, want) in cases {
            assert_eq!(sanitize(text, 1000), want);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters_and_says_so() {
        let cases = [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abc…"),
            ("ééé", 5, "é…"),
            ("ab\u{1b}", 7, "ab…"),
            ("ab\u{1b}", 8, "ab\\u{1b}"),
            ("abc", 2, ""),
            ("abcd", 3, "…"),
        ];
        for (text, max, want) in cases {
            assert_eq!(sanitize(text, max), want, "{text:?} in {max}");
        }
    }

    proptest! {
        #[test]
        fn plain_never_passes_its_bound_nor_lets_a_control_through(text in ".{0,80}|\\PC{0,80}", max in 0_usize..100) {
            let shown = sanitize(&text, max);
            prop_assert!(shown.len() <= max);
            prop_assert!(!shown.chars().any(is_control_or_invisible));
        }
    }
}
