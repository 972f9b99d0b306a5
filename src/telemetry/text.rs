//! Makes hostile or secret text safe to show: [`sanitize`] for terminals and readers, `scrub` for secrets.
//!
//! Neither escapes HTML: that is up to the page that shows the text.
//!
//! Invariant: `sanitize` returns one line without control, bidi or invisible characters, of at most `max`
//! bytes; `scrub` returns no user-info, query or fragment of a URL and no value after a name like `password`.
//!
//! # Why
//! A scrubber that recognizes patterns is the second line of defence, not the first: callers keep secrets out
//! of their sentences. It hides too much rather than too little, because the full address is in the dead
//! letter, which `dead show` prints. Written by hand with linear cost, so that a hostile sentence costs no
//! more than its length.

use std::fmt::Write;

use crate::job::redact::MARK;

/// Appended where text was cut.
const ELLIPSIS: char = '…';
/// A name that contains one of these (in any case) has a secret value.
const SECRET_NAMES: [&str; 11] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "authorization",
    "credential",
    "signature",
    "cookie",
];

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
            c if is_unsafe_char(c) => write!(out, "\\u{{{:x}}}", u32::from(c)).unwrap_or_default(),
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

/// Control characters (C0, DEL, C1), line separators, and the invisible ones that reorder or join text.
fn is_unsafe_char(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` without anything that looks like a secret: user-info, query and fragment of URLs, values of
/// `password=` and similar names, and the credentials after `Basic` and `Bearer`.
pub(crate) fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = if let Some(url) = rest.strip_prefix("://") {
            out.push_str("://");
            scrub_url(url, &mut out)
        } else if first.is_ascii_alphanumeric() {
            scrub_word(rest, &mut out)
        } else {
            out.push(first);
            &rest[first.len_utf8()..]
        };
    }
    out
}

/// Writes a URL (from after its `://`) without its secrets; returns the rest of the text.
fn scrub_url<'a>(text: &'a str, out: &mut String) -> &'a str {
    let whole = prefix_until(text, |c| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>'));
    let mut url = whole;
    let authority = prefix_until(url, |c| matches!(c, '/' | '?' | '#' | '\\'));
    // `redis://:pa/ss@host`: if the port is not a number, the authority extends to the last `@`.
    let (_, port) = authority.rsplit_once(':').unwrap_or_default();
    let odd = !port.ends_with(']') && !port.bytes().all(|b| b.is_ascii_digit());
    if let Some(at) = if odd { url.rfind('@') } else { authority.rfind('@') } {
        out.push_str(MARK);
        url = &url[at..];
    }
    let path = prefix_until(url, |c| matches!(c, '?' | '#'));
    if let Some(nested) = path.find("://") {
        // An archive's address that contains another one: the inner one is scrubbed next.
        out.push_str(&path[..nested]);
        return &text[whole.len() - url.len() + nested..];
    }
    out.push_str(path);
    if url.len() > path.len() + 1 {
        out.push_str(&url[path.len()..=path.len()]);
        out.push_str(MARK);
    }
    &text[whole.len()..]
}

/// Writes one word and, if it names a secret, hides the value after it; returns the rest of the text.
fn scrub_word<'a>(text: &'a str, out: &mut String) -> &'a str {
    let word = prefix_until(text, |c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')));
    let after = &text[word.len()..];
    out.push_str(word);
    let Some(value) = secret_value(&word.to_ascii_lowercase(), after) else { return after };
    out.push_str(&after[..after.len() - value.len()]);
    let secret = prefix_until(value, ends_value);
    if !secret.is_empty() {
        out.push_str(MARK);
    }
    &value[secret.len()..]
}

/// The text from the secret on, if the lower-case `word` announces one in `after`.
fn secret_value<'a>(word: &str, after: &'a str) -> Option<&'a str> {
    if SECRET_NAMES.iter().any(|name| word.contains(name)) {
        // `name = "value"`, `"name": "value"`, `name: Basic value`
        let rest = after.strip_prefix(['"', '\'']).unwrap_or(after).trim_start_matches(' ');
        let value = rest.strip_prefix(['=', ':'])?.trim_start_matches([' ', '"', '\'']);
        let first = prefix_until(value, |c| c == ' ');
        let scheme = ["basic", "bearer"].iter().any(|scheme| first.eq_ignore_ascii_case(scheme));
        return Some(if scheme { value[first.len()..].trim_start_matches(' ') } else { value });
    }
    let value = after.strip_prefix(' ')?.trim_start_matches(' ');
    let credentials = prefix_until(value, ends_value);
    // "basic authentication" is ordinary prose.
    let prose = credentials.len() < 8 || credentials.bytes().all(|b| b.is_ascii_lowercase());
    (matches!(word, "basic" | "bearer") && !prose).then_some(value)
}

fn ends_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '&' | ',' | ';' | '<' | '>' | '(' | ')' | '{' | '}')
}

/// The start of `text` up to the first character for which `ends` is true.
fn prefix_until(text: &str, ends: impl FnMut(char) -> bool) -> &str {
    &text[..text.find(ends).unwrap_or(text.len())]
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

    #[test]
    fn secrets_are_hidden_in_every_form_that_carries_them() {
        let cases = [
            (
                "connect redis://:hunter2@cache-1:6379/0: refused",
                "connect redis://***@cache-1:6379/0: refused",
            ),
            ("redis://user:hun/ter2@h/0", "redis://***@h/0"),
            ("redis://:a@hunter2@h/0", "redis://***@h/0"),
            ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
            ("https://a.test/p?X-Amz-Signature=hunter2&b=c done", "https://a.test/p?*** done"),
            ("(https://a.test/p#access=hunter2)", "(https://a.test/p#***"),
            (
                "https://web.test/2018/http://u:hunter2@b.test/?q=hunter2",
                "https://web.test/2018/http://***@b.test/?***",
            ),
            ("https://web.test/?u=http://b.test/hunter2", "https://web.test/?***"),
            ("https://medium.test/@user/x", "https://medium.test/@user/x"),
            ("password=hunter2 next", "password=*** next"),
            (r#"{"api_key": "hunter2", "n": 1}"#, r#"{"api_key": "***", "n": 1}"#),
            ("DB_PASSWORD: 'hunter2'", "DB_PASSWORD: '***'"),
            ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic ***"),
            ("sent bearer eyJhbGciOiJ9.e30 to it", "sent bearer *** to it"),
            ("basic authentication is required", "basic authentication is required"),
            ("unexpected token at line 3", "unexpected token at line 3"),
            ("://", "://"),
            ("://@", "://***@"),
            ("x?y#z", "x?y#z"),
        ];
        for (text, want) in cases {
            assert_eq!(scrub(text), want);
            assert!(!scrub(text).contains("hunter2"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn plain_never_passes_its_bound_nor_lets_a_control_through(text in ".{0,80}|\\PC{0,80}", max in 0_usize..100) {
            let shown = sanitize(&text, max);
            prop_assert!(shown.len() <= max);
            prop_assert!(!shown.chars().any(is_unsafe_char));
        }

        #[test]
        fn no_text_around_a_secret_brings_it_to_light(
            before in r#"(https?://|token=|basic |[a-z@:/?#=" ü]){0,12}"#,
            within in r#"[a-z:/?#=@ü]{0,8}"#,
        ) {
            let text = format!("{before} redis://:s3cr3t@h/0?{within} password=s3cr3t http://u:s3cr3t@h/{within}?q=s3cr3t");
            prop_assert!(!scrub(&text).contains("s3cr3t"), "{} became {}", text, scrub(&text));
        }
    }
}
