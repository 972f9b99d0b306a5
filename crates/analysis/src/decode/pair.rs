//! Decodes both bodies of a pair, and doubts a guessed encoding where the other capture of the page has another one.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use encoding_rs::{Encoding, UTF_8};

use wm_job::page::Side;
use wm_job::report::BodyNote;
use wm_job::skip::Skip;

use super::{Charset, DecodedText, Evidence, Utf8Counts, choose_charset, decode_as, detect};

/// Decodes both bodies, each with its `Content-Type`.
///
/// # Errors
/// [`wm_job::skip::SkipReason::Undecodable`] if one of them is not text.
pub(in super::super) fn decode_pair<'a>(
    bodies: [&'a [u8]; 2],
    content_types: [Option<&str>; 2],
) -> Result<[DecodedText<'a>; 2], Skip> {
    let chosen = [0, 1].map(|i| choose_charset(bodies[i], content_types[i]));
    let encodings = reconciled(bodies, chosen);
    let decode = |i: usize, side: Side| {
        let encoding = encodings[i];
        let note = (encoding != chosen[i].encoding).then_some(BodyNote::CharsetOfBoth);
        let text = decode_as(bodies[i], encoding).map_err(|skip| skip.on(side))?;
        Ok(DecodedText { text, encoding: encoding.name(), note })
    };
    Ok([decode(0, Side::From)?, decode(1, Side::To)?])
}

/// The encodings of both bodies. Where they differ, at least one was guessed and the bytes mostly agree, it is one that
/// suits both.
fn reconciled(bodies: [&[u8]; 2], chosen: [Charset; 2]) -> [&'static Encoding; 2] {
    let as_chosen = chosen.map(|charset| charset.encoding);
    let [old, new] = chosen;
    if old.encoding == new.encoding {
        return as_chosen;
    }
    let candidate = match (old.evidence, new.evidence) {
        (Evidence::Detected, Evidence::Detected) => detect(&bodies),
        (Evidence::Detected, Evidence::Declared | Evidence::WellFormed) => new.encoding,
        (Evidence::Declared | Evidence::WellFormed, Evidence::Detected) => old.encoding,
        // Well-formed UTF-8 is no guess, and ASCII reads alike in both.
        (Evidence::Declared | Evidence::WellFormed | Evidence::Ascii, _) | (_, Evidence::Ascii) => {
            return as_chosen;
        }
    };
    let suits = [0, 1].into_iter().all(|i| chosen[i].encoding == candidate || suits(candidate, bodies[i]));
    if suits && mostly_agree(bodies) { [candidate; 2] } else { as_chosen }
}

/// Whether a body that is not known to be in an encoding can be read in it.
fn suits(encoding: &'static Encoding, bytes: &[u8]) -> bool {
    if encoding == UTF_8 {
        let Utf8Counts { sequences, errors } = Utf8Counts::of(bytes);
        return sequences > 0 && sequences >= errors;
    }
    encoding.decode_without_bom_handling_and_without_replacement(bytes).is_some()
}

/// Whether at least half of the longer body is in stretches, each from one `<` to the next, that both bodies have.
fn mostly_agree([old, new]: [&[u8]; 2]) -> bool {
    let hasher = RandomState::new();
    let stretches = |body| <[u8]>::split(body, |b| *b == b'<').filter(|stretch| !stretch.is_empty());
    let known: HashSet<u64> = stretches(old).map(|stretch| hasher.hash_one(stretch)).collect();
    let shared = stretches(new).filter(|stretch| known.contains(&hasher.hash_one(stretch)));
    // With each stretch its `<`.
    let shared_bytes: usize = shared.map(|stretch| stretch.len() + 1).sum();
    2 * shared_bytes >= old.len().max(new.len())
}

#[cfg(test)]
mod tests {
    use encoding_rs::{GBK, KOI8_U, WINDOWS_1251, WINDOWS_1252};

    use super::*;

    fn encoded(encoding: &'static Encoding, text: &str) -> Vec<u8> {
        encoding.encode(text).0.into_owned()
    }

    fn encodings(old: &[u8], new: &[u8], content_types: [Option<&str>; 2]) -> [(&'static str, bool); 2] {
        let decoded = decode_pair([old, new], content_types).unwrap();
        decoded.map(|text| (text.encoding, text.note.is_some()))
    }

    const PAGE: &str =
        "<html><body><h1>News</h1><p>All that happened</p><ul><li>first</li><li>second</li></ul>";

    #[test]
    fn a_guess_gives_way_to_what_the_other_capture_of_the_page_shows() {
        let russian = format!("{PAGE}<p>Страница о погоде в городе</p>");
        let short = format!("{PAGE}<p>\u{414}\u{430}</p>");
        let declared = Some("text/html; charset=windows-1251");
        // Declared on one side only, and too short to be guessed on the other.
        let [old, new] =
            encodings(&encoded(WINDOWS_1251, &russian), &encoded(WINDOWS_1251, &short), [declared, None]);
        assert_eq!((old, new.0), (("windows-1251", false), "windows-1251"));
        // UTF-8 on one side, and as many errors as sequences on the other.
        let broken = [PAGE.as_bytes(), "<p>caf\u{e9}s \u{e9}t\u{e9}".as_bytes(), b"\x96\x96"].concat();
        let whole = format!("{PAGE}<p>caf\u{e9}s \u{e9}t\u{e9}");
        assert_eq!(encodings(whole.as_bytes(), &broken, [None, None]), [("UTF-8", false), ("UTF-8", true)]);
        assert_eq!(encodings(&broken, whole.as_bytes(), [None, None]), [("UTF-8", true), ("UTF-8", false)]);
        // Both guessed: together they show more than each alone.
        let [old, new] = encodings(&encoded(KOI8_U, &russian), &encoded(KOI8_U, &short), [None, None]);
        assert_eq!((old.0, new.0), ("KOI8-U", "KOI8-U"));
    }

    #[test]
    fn what_is_no_guess_or_another_page_is_left_alone() {
        let page = format!("{PAGE}<p>caf\u{e9}");
        let utf8 = page.as_bytes();
        let latin = encoded(WINDOWS_1252, &page);
        // A site that went from one encoding to the other: neither suits both.
        assert_eq!(encodings(&latin, utf8, [None, None]), [("windows-1252", false), ("UTF-8", false)]);
        let gbk = Some("text/html; charset=gbk");
        assert_eq!(encodings(utf8, &encoded(GBK, PAGE), [None, gbk]), [("UTF-8", false), ("GBK", false)]);
        // Bytes that do not agree.
        let other = encoded(WINDOWS_1251, "<p>Да");
        let declared = Some("text/html; charset=windows-1251");
        let [_, new] = encodings(&encoded(WINDOWS_1251, &page), &other, [declared, None]);
        assert!(!new.1, "{new:?}");
    }
}
