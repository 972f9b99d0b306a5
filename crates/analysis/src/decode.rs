//! Decodes bytes to text: determines the character encoding and checks that the result is text.
//!
//! The encoding comes from, in this order: byte order mark or UTF-16 units, `Content-Type`, `<meta>` or XML prolog,
//! the share of well-formed UTF-8, detection. Content encodings are not handled here.
//!
//! Invariant: the text contains no NUL, and its shares of control characters and of
//! U+FFFD are within the limits.
//!
//! # Why
//! Detection never rejects input: a PDF or an ELF file decodes as windows-1252 with hardly any U+FFFD. So the
//! share of control characters is checked too: 12 to 38 % on real binaries, none on 564 real pages. Checking
//! the *whole* body for UTF-8 before guessing fixes the ten of those pages that the old service misread because
//! their first umlaut was beyond its detection window. One stray byte, or a page that was cut inside a character, does
//! not make a page that is UTF-8 otherwise another one: sequences that are well-formed by chance are rare.

mod pair;

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE};
use memchr::memmem;

use wm_job::media_type::MediaType;
use wm_job::report::BodyNote;
use wm_job::skip::{Skip, SkipReason};

use super::{prescan, utf16};

pub(super) use self::pair::decode_pair;

/// Number of bytes the detector reads.
const DETECT_BYTES: usize = 64 * 1024;
/// How many well-formed UTF-8 sequences outweigh one malformed: in text of other encodings there are fewer than errors.
const SEQUENCES_PER_ERROR: usize = 4;
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
    /// What a reader should know about the choice of the encoding.
    pub(super) note: Option<BodyNote>,
}

/// A chosen encoding, and what speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Charset {
    encoding: &'static Encoding,
    evidence: Evidence,
}

/// What speaks for an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// A byte order mark, the units of UTF-16, a header or the document itself.
    Declared,
    /// Nothing but ASCII, which reads alike in nearly every encoding.
    Ascii,
    /// Well-formed UTF-8, or so much of it that the errors are strays.
    WellFormed,
    /// A statistical guess.
    Detected,
}

/// The encoding that a `Content-Type` declares.
pub(super) fn header_encoding(content_type: Option<&str>) -> Option<&'static Encoding> {
    let charset = MediaType::parse(content_type?).charset?;
    prescan::encoding_for_label(charset.as_bytes())
}

/// Selects the encoding from the first source that names one.
fn choose_charset(bytes: &[u8], content_type: Option<&str>) -> Charset {
    let header = header_encoding(content_type);
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Charset { encoding: UTF_8, evidence: Evidence::Declared };
    }
    let is_utf16 = |encoding: &&'static Encoding| *encoding == UTF_16LE || *encoding == UTF_16BE;
    // A header that names UTF-16 has been weighed by the units.
    let declared =
        utf16::encoding_of(bytes, header).or(header.filter(|header| !is_utf16(header))).or_else(|| {
            match is_xml(content_type) {
                true => prescan::prolog_encoding(bytes),
                false => prescan::declared_encoding(bytes),
            }
        });
    match declared {
        Some(encoding) => Charset { encoding, evidence: Evidence::Declared },
        None => guess(bytes),
    }
}

/// Whether a body is served as XHTML, where a `<meta>` declares nothing.
fn is_xml(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|header| MediaType::parse(header).canonical() == "application/xhtml+xml")
}

/// The encoding of a body that nothing declares.
fn guess(bytes: &[u8]) -> Charset {
    if is_iso_2022_jp(bytes) {
        return Charset { encoding: ISO_2022_JP, evidence: Evidence::WellFormed };
    }
    if bytes.is_ascii() {
        return Charset { encoding: UTF_8, evidence: Evidence::Ascii };
    }
    let counts = Utf8Counts::of(bytes);
    if counts.sequences > 0 && counts.sequences >= SEQUENCES_PER_ERROR * counts.errors {
        return Charset { encoding: UTF_8, evidence: Evidence::WellFormed };
    }
    Charset { encoding: detect(&[bytes]), evidence: Evidence::Detected }
}

/// Whether a body switches between character sets as ISO-2022-JP does, and has no more bytes that do not belong there.
fn is_iso_2022_jp(bytes: &[u8]) -> bool {
    let (mut designations, mut others, mut has_japanese) = (0_usize, 0_usize, false);
    for at in memchr::memchr_iter(0x1B, bytes) {
        match bytes.get(at + 1..at + 3) {
            Some(b"$@" | b"$B" | b"(I") => {
                designations += 1;
                has_japanese = true;
            }
            Some(b"(B" | b"(J") => designations += 1,
            Some(_) => others += 1,
            // The end of the body cut it.
            None => {}
        }
    }
    has_japanese && designations >= others + bytes.iter().filter(|b| !b.is_ascii()).count()
}

/// How much of a body is UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Utf8Counts {
    /// Well-formed sequences of several bytes.
    sequences: usize,
    /// Malformed ones; not one that the end of the body cut.
    errors: usize,
}

impl Utf8Counts {
    fn of(bytes: &[u8]) -> Self {
        let mut counts = Self { sequences: 0, errors: 0 };
        for chunk in bytes.utf8_chunks() {
            counts.sequences += chunk.valid().bytes().filter(|byte| *byte >= 0xC0).count();
            counts.errors += usize::from(!chunk.invalid().is_empty());
        }
        let last = bytes.utf8_chunks().last().map(|chunk| chunk.invalid()).unwrap_or_default();
        let is_cut = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
        counts.errors -= usize::from(is_cut);
        counts
    }
}

/// Statistical detection as a last resort, over bodies that are in one encoding, each from near its first non-ASCII
/// character.
fn detect(bodies: &[&[u8]]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    for (index, bytes) in bodies.iter().enumerate() {
        let first = bytes.iter().position(|b| !b.is_ascii()).unwrap_or_default();
        // Some preceding text helps to recognise the language.
        let rest = &bytes[first.saturating_sub(1024)..];
        let is_last = index + 1 == bodies.len() && rest.len() <= DETECT_BYTES;
        detector.feed(&rest[..rest.len().min(DETECT_BYTES)], is_last);
    }
    detector.guess(None, Utf8Detection::Allow)
}

/// Decodes a body in an encoding.
///
/// # Errors
/// [`SkipReason::Undecodable`] if the result is not text.
fn decode_as<'a>(bytes: &'a [u8], encoding: &'static Encoding) -> Result<Cow<'a, str>, Skip> {
    let (text, _) = encoding.decode_with_bom_removal(bytes);
    check_is_text(text, encoding)
}

/// Checks the shares of control and undecodable characters. A single NUL becomes U+FFFD; runs of NUL are padding,
/// which browsers drop, and are no part of the text.
fn check_is_text<'a>(text: Cow<'a, str>, encoding: &'static Encoding) -> Result<Cow<'a, str>, Skip> {
    let text = match memmem::find(text.as_bytes(), b"\0\0") {
        Some(_) => Cow::Owned(without_nul_runs(&text)),
        None => text,
    };
    let bytes = text.as_bytes();
    let (chars, nuls) = (text.chars().count(), memchr::memchr_iter(0, bytes).count());
    let is_ascii_control = |b: &u8| matches!(b, 0x01..=0x08 | 0x0B | 0x0E..=0x1A | 0x1C..=0x1F | 0x7F);
    // By bytes, each a count of at most 255, which vectors hold more of than of larger ones.
    let ascii_controls = bytes
        .chunks(255)
        .map(|part| usize::from(part.iter().map(|b| u8::from(is_ascii_control(b))).sum::<u8>()));
    // U+0080 to U+009F begin with this byte.
    let others = memchr::memchr_iter(0xC2, bytes).filter(|at| matches!(bytes.get(at + 1), Some(0x80..=0x9F)));
    let controls = ascii_controls.sum::<usize>() + others.count();
    let replaced = memmem::find_iter(bytes, "\u{FFFD}").count();
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

/// The text without its runs of two or more NULs.
fn without_nul_runs(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memmem::find(rest.as_bytes(), b"\0\0") {
        kept.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches('\0');
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use encoding_rs::WINDOWS_1252;

    use super::*;

    fn decode<'a>(bytes: &'a [u8], content_type: Option<&str>) -> Result<DecodedText<'a>, Skip> {
        decode_pair([bytes, bytes], [content_type; 2]).map(|[first, _]| first)
    }

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
                b"<meta http-equiv=content-type content='text/html; charset=windows-1251'>\xE0",
                None,
                "windows-1251",
                "<meta http-equiv=content-type content='text/html; charset=windows-1251'>а",
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
        let with = |bad: &str, count: usize| {
            format!("{}{}", format!("{bad}x").repeat(count), "x".repeat(100 - 2 * count))
        };
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
    fn one_bad_byte_does_not_decide() {
        let page = "<p>Страница о погоде в городе, каждый день</p>".repeat(3);
        let stray = [page.as_bytes(), b"\x96 2018"].concat();
        let decoded = decode(&stray, None).unwrap();
        assert_eq!((decoded.encoding, &*decoded.text), ("UTF-8", format!("{page}\u{FFFD} 2018").as_str()));
        let cut = &page.as_bytes()[..page.rfind('ь').unwrap() + 1];
        let decoded = decode(cut, None).unwrap();
        assert_eq!(decoded.encoding, "UTF-8");
        assert!(decoded.text.ends_with("\u{FFFD}") && decoded.text.matches('\u{FFFD}').count() == 1);
        for page in ["<p>東京都", "<p>東京😀"] {
            for cut in 1..3 {
                assert_eq!(decode(&page.as_bytes()[..page.len() - cut], None).unwrap().encoding, "UTF-8");
            }
        }
        // As many errors as sequences: no UTF-8.
        assert_eq!(decode(b"caf\xE9 \xC3\xA9 \xE9t\xE9 no\xEBl", None).unwrap().encoding, "windows-1252");
        // A character at the end that may be cut, and nothing else that speaks for UTF-8.
        assert_eq!(decode(b"a caf\xE9", None).unwrap().text, "a caf\u{e9}");
    }

    #[test]
    fn undeclared_iso_2022_jp_is_not_taken_for_ascii() {
        let page = "<p>6月4日の天気</p>";
        let (bytes, ..) = encoding_rs::ISO_2022_JP.encode(page);
        let decoded = decode(&bytes, None).unwrap();
        assert_eq!((decoded.encoding, &*decoded.text), ("ISO-2022-JP", page));
        for (damage, encoding) in
            [(b"\xA0".as_slice(), "ISO-2022-JP"), (b"\x1B", "ISO-2022-JP"), (b"\x1B[0m", "ISO-2022-JP")]
        {
            assert_eq!(decode(&[&bytes, damage].concat(), None).unwrap().encoding, encoding, "{damage:?}");
        }
        assert_eq!(decode(&bytes[..8], None).unwrap().encoding, "ISO-2022-JP", "cut inside a character");
        assert_eq!(decode(b"\x1B(I1EJ\x1B(B", None).unwrap().encoding, "ISO-2022-JP", "half-width kana");
        assert_eq!(decode(b"price \x1B$ 5", None).unwrap().encoding, "UTF-8");
    }

    #[test]
    fn in_xhtml_a_meta_declares_nothing() {
        let page = "<?xml version='1.0' encoding='iso-8859-1'?><meta charset='utf-8'/><p>caf\u{e9}</p>";
        let (latin, ..) = WINDOWS_1252.encode(page);
        let xhtml = Some("application/xhtml+xml");
        assert_eq!(decode(&latin, xhtml).unwrap().text, page);
        let page = "<meta charset='windows-1251'/><p>caf\u{e9}</p>";
        assert_eq!(decode(page.as_bytes(), xhtml).unwrap().text, page);
    }

    #[test]
    fn padding_of_nuls_is_dropped_and_no_evidence_against_text() {
        let padded = [b"<p>a page".as_slice(), &[0; 4000], b" with padding", &[0; 3]].concat();
        assert_eq!(decode(&padded, None).unwrap().text, "<p>a page with padding");
        let scattered = "a\0b".repeat(40);
        assert_eq!(decode(scattered.as_bytes(), None).unwrap_err().reason, SkipReason::Undecodable);
    }

    #[test]
    fn text_that_is_utf8_already_is_not_copied() {
        assert!(matches!(decode("café".as_bytes(), None).unwrap().text, Cow::Borrowed(_)));
    }
}
