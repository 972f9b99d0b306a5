//! Sentences without secrets, for text whose parts come from elsewhere: errors, answers, payloads.
//!
//! Invariant: no user-info, query value or fragment of an address, and no value after a name like `password`, is left,
//! but for what [`page_address`](super::page_address()) shows.
//!
//! # Why
//! Recognizing patterns is the second line of defence: code that puts an address into a sentence shows it by
//! [`page_url`](super::page_url). It hides too much rather than too little, because the whole is in the job. Written by
//! hand with linear cost, so that a hostile sentence costs no more than its length.

use super::page_address::write_place;
use super::{MARK, SECRET_NAMES};

/// How an address goes on after its scheme, also within JSON that escapes slashes.
const AFTER_SCHEME: [&str; 2] = ["://", ":\\/\\/"];

/// `text` without anything that looks like a secret: what addresses may not show, values of `password=` and similar
/// names, and the credentials after `Basic` and `Bearer`.
pub fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut token_begins = true;
    while let Some(first) = rest.chars().next() {
        if token_begins && !ends_address(rest) {
            token_begins = false;
            let token = address_at(rest);
            if is_place(token) {
                write_place(token, &mut out);
                rest = &rest[token.len()..];
                continue;
            }
        }
        rest = if let Some(marker) = AFTER_SCHEME.into_iter().find(|marker| rest.starts_with(marker)) {
            out.push_str(marker);
            let address = address_at(&rest[marker.len()..]);
            write_place(address, &mut out);
            &rest[marker.len() + address.len()..]
        } else if first.is_ascii_alphanumeric() {
            scrub_word(rest, &mut out)
        } else {
            token_begins = ends_address(rest);
            out.push(first);
            &rest[first.len_utf8()..]
        };
    }
    out
}

/// The address at the start of a text: up to white space or a quote.
fn address_at(text: &str) -> &str {
    let end = text.char_indices().find(|(at, _)| ends_address(&text[*at..]));
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

/// True where an address ends. A single quote may be part of one; where nothing of an address follows it, it is not.
fn ends_address(text: &str) -> bool {
    let mut chars = text.chars();
    match chars.next() {
        None => true,
        Some('\'') => !chars.next().is_some_and(|c| c.is_alphanumeric() || "/?&=%._~-".contains(c)),
        Some(c) => c.is_whitespace() || matches!(c, '"' | '`' | '<' | '>'),
    }
}

/// True for an address without a scheme that has a query or a password.
fn is_place(token: &str) -> bool {
    if AFTER_SCHEME.iter().any(|marker| token.contains(marker)) {
        return false;
    }
    let query = token.split_once('?').is_some_and(|(_, query)| query.contains('='));
    query || token.rsplit_once('@').is_some_and(|(before, _)| before.contains(':'))
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
    fn secrets_are_hidden_in_every_form_that_carries_them() {
        let cases = [
            (
                "connect redis://:hunter2@cache-1:6379/0: refused",
                "connect redis://***@cache-1:6379/0: refused",
            ),
            ("redis://user:hun/ter2@h/0", "redis://***@h/0"),
            ("redis://:a@hunter2@h/0", "redis://***@h/0"),
            ("cut at redis://user:hunter2", "cut at redis://***"),
            ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
            (
                "https://a.test/p?X-Amz-Signature=hunter2&b=2 done",
                "https://a.test/p?X-Amz-Signature=***&b=2 done",
            ),
            ("(https://a.test/p#access=hunter2)", "(https://a.test/p#***"),
            ("'https://a.test/it's?sig=hunter2', not", "'https://a.test/it's?sig=***', not"),
            (
                r#"{"u":"https:\/\/u:hunter2@a.test\/x?s=hunter2"}"#,
                r#"{"u":"https:\/\/***@a.test\/x?s=***"}"#,
            ),
            (r#"{"u":"https://a.test/x?a=1\u0026s=hunter2"}"#, r#"{"u":"https://a.test/x?a=***"}"#),
            (r#"string "u:hunter2@a.test/x", expected"#, r#"string "***@a.test/x", expected"#),
            ("a.test/x?page=1&s=hunter2 has no scheme", "a.test/x?page=1&s=*** has no scheme"),
            (
                "https://web.test/2018/http://u:hunter2@b.test/?q=hunter2",
                "https://web.test/2018/http://***@b.test/?q=***",
            ),
            ("https://web.test/?u=http://b.test/hunter2", "https://web.test/?u=***"),
            ("https://medium.test/@user/x", "https://medium.test/@user/x"),
            ("password=hunter2 next", "password=*** next"),
            (r#"{"api_key": "hunter2", "n": 1}"#, r#"{"api_key": "***", "n": 1}"#),
            ("DB_PASSWORD: 'hunter2'", "DB_PASSWORD: '***'"),
            ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic ***"),
            ("sent bearer eyJhbGciOiJ9.e30 to it", "sent bearer *** to it"),
            ("basic authentication is required", "basic authentication is required"),
            ("unexpected token at line 3", "unexpected token at line 3"),
            ("what? a question: who@home", "what? a question: who@home"),
            ("://", "://"),
            ("://@", "://***@"),
            ("x?y#z", "x?y#z"),
        ];
        for (text, want) in cases {
            assert_eq!(scrub(text), want);
            assert!(!scrub(text).contains("hunter2"), "{text}");
            assert_eq!(scrub(want), want, "scrubbed twice");
        }
    }

    proptest! {
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
