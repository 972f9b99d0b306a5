//! Decodes bytes to text: determines the character encoding and checks that the result is text.
//!
//! The encoding comes from, in this order: byte order mark, `Content-Type`, `<meta>` or XML prolog, validity
//! as UTF-8, detection. Content encodings are not handled here.
//!
//! Invariant: the text contains no NUL, and its shares of control characters and of
//! U+FFFD are within the limits.
//!
//! # Why
//! Detection never rejects input: a PDF or an ELF file decodes as windows-1252 with hardly any U+FFFD. So the
//! share of control characters is checked too: 12 to 38 % on real binaries, none on 564 real pages. Checking
//! whether the *whole* body is valid UTF-8 before guessing fixes the ten of those pages that the old service
//! misread because their first umlaut was beyond its detection window.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};
use memchr::memmem;

use wm_job::skip::{Skip, SkipReason};

/// Number of bytes searched for a `<meta>` or prolog: as in web-monitoring-diff, twice the standard's number.
const PRESCAN_BYTES: usize = 2048;
/// Number of bytes the detector reads.
const DETECT_BYTES: usize = 64 * 1024;
/// Largest allowed share of control characters, in percent.
const MAX_CONTROL_PERCENT: usize = 5;
/// Largest allowed share of undecodable characters, in percent, as in web-monitoring-diff.
const MAX_REPLACED_PERCENT: usize = 25;

/// A body decoded to text.
#[derive(Debug)]
pub(super) struct DecodedText<'a> {
    /// Text of the body; borrowed if the bytes are valid UTF-8.
    pub(super) text: Cow<'a, str>,
    /// Name of the encoding, e.g. `windows-1252`.
    pub(super) encoding: &'static str,
}

/// Decodes a body to text.
///
/// # Errors
/// [`SkipReason::Undecodable`] if the result is not text.
pub(super) fn decode<'a>(bytes: &'a [u8], content_type: Option<&str>) -> Result<DecodedText<'a>, Skip> {
    let encoding = choose_encoding(bytes, content_type);
    let (text, _) = encoding.decode_with_bom_removal(bytes);
    let text = check_is_text(text, encoding)?;
    Ok(DecodedText { text, encoding: encoding.name() })
}

/// Selects the encoding from the first source that names one.
fn choose_encoding(bytes: &[u8], content_type: Option<&str>) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    content_type
        .and_then(charset_of)
        .or_else(|| declared_encoding(&bytes[..bytes.len().min(PRESCAN_BYTES)]))
        .or_else(|| std::str::from_utf8(bytes).is_ok().then_some(UTF_8))
        .unwrap_or_else(|| detect(bytes))
}

/// Reads the `charset` of a `Content-Type`: the last one, as in the old service.
fn charset_of(content_type: &str) -> Option<&'static Encoding> {
    let lower = content_type.to_ascii_lowercase();
    let (_, value) = lower.rsplit_once("charset=")?;
    encoding_for_label(value.as_bytes())
}

/// Reads the encoding that the document declares.
fn declared_encoding(head: &[u8]) -> Option<&'static Encoding> {
    match head {
        [b'<', 0, b'?' | b'!' | b'h' | b'H', 0, ..] => return Some(UTF_16LE),
        [0, b'<', 0, b'?' | b'!' | b'h' | b'H', ..] => return Some(UTF_16BE),
        _ => {}
    }
    let lower = head.to_ascii_lowercase();
    let inside = meta_charset(&lower).or_else(|| prolog_encoding(&lower))?;
    // Corrections from the standard: if the declaration was readable as ASCII, the document cannot be UTF-16.
    Some(match inside {
        utf16 if utf16 == UTF_16LE || utf16 == UTF_16BE => UTF_8,
        user if user == X_USER_DEFINED => WINDOWS_1252,
        other => other,
    })
}

/// Finds the encoding in `<meta charset=x>` or in
/// `<meta http-equiv=content-type content="text/html; charset=x">`, outside comments.
fn meta_charset(mut head: &[u8]) -> Option<&'static Encoding> {
    while let Some(at) = memchr::memchr(b'<', head) {
        head = &head[at..];
        if head.starts_with(b"<!--") {
            head = &head[2 + memmem::find(&head[2..], b"-->")?..];
        } else if head.starts_with(b"<meta") {
            let tag = &head[..memchr::memchr(b'>', head).unwrap_or(head.len())];
            if let Some(found) = attribute(tag, b"charset").and_then(encoding_for_label) {
                return Some(found);
            }
        }
        head = &head[1..];
    }
    None
}

/// Finds `<?xml version="1.0" encoding="x"?>`.
fn prolog_encoding(head: &[u8]) -> Option<&'static Encoding> {
    let at = memmem::find(head, b"<?xml")?;
    let prolog = &head[at..];
    attribute(&prolog[..memchr::memchr(b'>', prolog)?], b"encoding").and_then(encoding_for_label)
}

/// Returns the text after `name`, optional white space and `=`.
fn attribute<'a>(tag: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    memmem::find_iter(tag, name).find_map(|at| {
        let rest = tag[at + name.len()..].trim_ascii_start().strip_prefix(b"=")?;
        Some(rest.trim_ascii_start())
    })
}

/// Parses an encoding label at the start of `value`, with or without quotes.
fn encoding_for_label(value: &[u8]) -> Option<&'static Encoding> {
    let value = value.trim_ascii_start();
    let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
    let ends = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b';' | b',' | b'>' | b'/');
    let label = &value[..value.iter().position(ends).unwrap_or(value.len())];
    if label.eq_ignore_ascii_case(b"iso-8559-1") {
        return Some(WINDOWS_1252); // frequent typo on government pages
    }
    Encoding::for_label_no_replacement(label)
}

/// Statistical detection as a last resort, starting near the first non-ASCII character.
fn detect(bytes: &[u8]) -> &'static Encoding {
    let first = bytes.iter().position(|b| !b.is_ascii()).unwrap_or_default();
    // Some preceding text helps to recognise the language.
    let rest = &bytes[first.saturating_sub(1024)..];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(&rest[..rest.len().min(DETECT_BYTES)], rest.len() <= DETECT_BYTES);
    detector.guess(None, Utf8Detection::Allow)
}

/// Checks the shares of control and undecodable characters, and replaces NUL with U+FFFD.
fn check_is_text<'a>(text: Cow<'a, str>, encoding: &'static Encoding) -> Result<Cow<'a, str>, Skip> {
    let (mut chars, mut controls, mut replaced, mut nuls) = (0_usize, 0_usize, 0_usize, 0_usize);
    for c in text.chars() {
        chars += 1;
        match c {
            '\u{FFFD}' => replaced += 1,
            '\0' => nuls += 1,
            '\t' | '\n' | '\u{c}' | '\r' | '\u{1b}' => {}
            _ if c.is_control() => controls += 1,
            _ => {}
        }
    }
    for (count, bound, what) in [
        (controls + nuls, MAX_CONTROL_PERCENT, "control characters"),
        (replaced + nuls, MAX_REPLACED_PERCENT, "undecodable"),
    ] {
        if count * 100 > bound * chars {
            let share = count * 100 / chars;
            let detail = format!("read as {}, {share} % of it is {what}; {bound} % at most", encoding.name());
            return Err(Skip::new(SkipReason::Undecodable, detail));
        }
    }
    Ok(if nuls > 0 { Cow::Owned(text.replace('\0', "\u{FFFD}")) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_that_names_an_encoding_decides() {
        // body, Content-Type, encoding, text
        type DecodeCase<'a> = (&'a [u8], Option<&'a str>, &'a str, &'a str);
        let table: [DecodeCase<'_>; 24] = [
            (b"", None, "UTF-8", ""),
            (b"plain", None, "UTF-8", "plain"),
            (b"\xEF\xBB\xBFx", Some("text/html; charset=windows-1252"), "UTF-8", "x"),
            (b"\xFF\xFEx\0", Some("text/html; charset=utf-8"), "UTF-16LE", "x"),
            (b"\xFE\xFF\0x", None, "UTF-16BE", "x"),
            (b"<\0h\0>\0", None, "UTF-16LE", "<h>"),
            (b"\0<\0h\0>", None, "UTF-16BE", "<h>"),
            (b"caf\xE9", Some("text/html; charset=ISO-8859-1"), "windows-1252", "café"),
            (b"\x93\x94", Some("text/html;charset=\"iso-8859-1\""), "windows-1252", "“”"),
            (b"caf\xE9", Some("text/html; charset=iso-8559-1"), "windows-1252", "café"),
            (b"\x82\xA0", Some("TEXT/HTML; CHARSET=Shift_JIS"), "Shift_JIS", "あ"),
            (b"caf\xC3\xA9", Some("text/html; charset=klingon"), "UTF-8", "café"),
            (b"caf\xC3\xA9", Some("text/html; charset=iso-2022-kr"), "UTF-8", "café"),
            (b"<meta charset=iso-8859-2>\xB1", None, "ISO-8859-2", "<meta charset=iso-8859-2>ą"),
            (b"<META CHARSET = 'KOI8-R'>\xC1", None, "KOI8-R", "<META CHARSET = 'KOI8-R'>а"),
            (
                b"<meta http-equiv=x content='text/html; charset=windows-1251'>\xE0",
                None,
                "windows-1251",
                "<meta http-equiv=x content='text/html; charset=windows-1251'>а",
            ),
            (
                b"<!-- <meta charset=koi8-r> -->caf\xC3\xA9",
                None,
                "UTF-8",
                "<!-- <meta charset=koi8-r> -->café",
            ),
            (b"<meta charset=utf-16>caf\xC3\xA9", None, "UTF-8", "<meta charset=utf-16>café"),
            (b"<meta charset=x-user-defined>\x80", None, "windows-1252", "<meta charset=x-user-defined>€"),
            (
                b"<?xml version='1.0' encoding='EUC-JP'?>\xA4\xA2",
                None,
                "EUC-JP",
                "<?xml version='1.0' encoding='EUC-JP'?>あ",
            ),
            (b"<meta name=x content=y><p>\xC3\xA9", None, "UTF-8", "<meta name=x content=y><p>é"),
            (b"<meta charset=utf-8>", Some("text/html; charset=gbk"), "GBK", "<meta charset=utf-8>"),
            (
                b"nul\0 is replaced, and once in a while only",
                None,
                "UTF-8",
                "nul\u{FFFD} is replaced, and once in a while only",
            ),
            (b"broken \xFF utf-8", Some("text/html; charset=utf-8"), "UTF-8", "broken \u{FFFD} utf-8"),
        ];
        for (bytes, content_type, encoding, text) in table {
            let decoded = decode(bytes, content_type).unwrap();
            assert_eq!(
                (decoded.encoding, &*decoded.text),
                (encoding, text),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn an_umlaut_behind_every_window_is_still_utf8() {
        let page = format!("<p>{}Börse", "ascii ".repeat(20_000));
        let decoded = decode(page.as_bytes(), None).unwrap();
        assert_eq!((decoded.encoding, &*decoded.text), ("UTF-8", page.as_str()));
    }

    #[test]
    fn what_names_nothing_and_is_not_utf8_is_guessed() {
        let page = "Это страница на русском языке, которую никто не объявил. ".repeat(20);
        let (bytes, ..) = encoding_rs::WINDOWS_1251.encode(&page);
        let decoded = decode(&bytes, None).unwrap();
        assert_eq!((decoded.encoding, &*decoded.text), ("windows-1251", page.as_str()));
        let late = format!("{}B\u{f6}rse und \u{c4}rger", "ascii ".repeat(20_000));
        let (bytes, ..) = WINDOWS_1252.encode(&late);
        assert_eq!(decode(&bytes, None).unwrap().text, late);
    }

    #[test]
    fn the_bounds_are_where_they_are_said_to_be() {
        let with = |bad: &str, count: usize| format!("{}{}", bad.repeat(count), "x".repeat(100 - count));
        for (bad, most) in [("\u{1}", 5), ("\u{85}", 5), ("\0", 5), ("\u{7f}", 5), ("\u{FFFD}", 25)] {
            assert!(decode(with(bad, most).as_bytes(), None).is_ok(), "{most} of {bad:?}");
            let skip = decode(with(bad, most + 1).as_bytes(), None).unwrap_err();
            assert_eq!(skip.reason, SkipReason::Undecodable);
            assert!(skip.detail.contains(&format!("{} % of it", most + 1)), "{}", skip.detail);
        }
        for fine in ["\t\r\n\u{c}", "\u{1b}"] {
            assert!(decode(fine.repeat(50).as_bytes(), None).is_ok());
        }
    }

    #[test]
    fn text_that_is_utf8_already_is_not_copied() {
        assert!(matches!(decode("café".as_bytes(), None).unwrap().text, Cow::Borrowed(_)));
    }
}
