//! Recognises UTF-16, for the sniffer and for the decoder.

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};

/// Number of bytes that are looked at: as many as the sniffer examines.
const HEAD_BYTES: usize = 8 * 1024;
/// Fewest units by which a body without markup is recognised.
const MIN_UNITS: usize = 4;

/// The encoding of a body in UTF-16, by its byte order mark, its units or what its header declares; `None` if
/// it is in another one.
///
/// A header alone is not believed: what begins with a tag in ASCII or can be read as UTF-8 is not UTF-16, nor is what has
/// a lone surrogate; and where most units are ASCII in the other order of bytes, that is the order.
pub(super) fn encoding_of(body: &[u8], declared: Option<&'static Encoding>) -> Option<&'static Encoding> {
    match body {
        [0xFF, 0xFE, ..] => return Some(UTF_16LE),
        [0xFE, 0xFF, ..] => return Some(UTF_16BE),
        [0xEF, 0xBB, 0xBF, ..] => return None,
        _ => {}
    }
    let head = &body[..body.len().min(HEAD_BYTES) & !1];
    let orders = [(UTF_16LE, UnitCounts::of(head, 0)), (UTF_16BE, UnitCounts::of(head, 1))];
    let by_units = orders.iter().find(|(_, counts)| counts.begins_with_markup || counts.is_mostly_ascii());
    if let Some((encoding, _)) = by_units {
        return Some(encoding);
    }
    let declared = declared.filter(|declared| *declared == UTF_16LE || *declared == UTF_16BE)?;
    let is_text = declared.decode_without_bom_handling_and_without_replacement(head).is_some()
        || (head.len() < body.len()
            && declared
                .decode_without_bom_handling_and_without_replacement(&head[..head.len() - 2])
                .is_some());
    (is_text && !begins_with_tag(head) && !is_plain(head)).then_some(declared)
}

/// How many units of two bytes are ASCII, where the lower halves are at an offset.
struct UnitCounts {
    units: usize,
    ascii: usize,
    /// NULs in the lower halves: none in text.
    nuls: usize,
    begins_with_markup: bool,
}

impl UnitCounts {
    fn of(head: &[u8], low: usize) -> Self {
        let is_text = |byte: u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        let unit = |unit: &[u8]| (unit[low], unit[1 - low]);
        let units = || head.chunks_exact(2).map(unit);
        let plain = units().map_while(|(byte, high)| (high == 0 && is_text(byte)).then_some(byte));
        let mut first = plain.skip_while(u8::is_ascii_whitespace);
        Self {
            units: units().count(),
            ascii: units().filter(|(byte, high)| *high == 0 && is_text(*byte)).count(),
            nuls: units().filter(|(byte, _)| *byte == 0).count(),
            begins_with_markup: first.next() == Some(b'<') && first.next().is_some(),
        }
    }

    fn is_mostly_ascii(&self) -> bool {
        self.units >= MIN_UNITS && 2 * self.ascii > self.units && self.nuls == 0
    }
}

/// Whether the text begins with a tag of one byte a character, after white space.
fn begins_with_tag(head: &[u8]) -> bool {
    matches!(head.trim_ascii_start(), [b'<', next, ..] if next.is_ascii_alphabetic() || b"!?/".contains(next))
}

/// Whether bytes can be read as text in ASCII or UTF-8.
fn is_plain(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.contains(|c: char| c.is_control() && !c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_is_told_by_its_units_and_its_header_is_doubted() {
        let le = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let be = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        let (little, big) = (Some(UTF_16LE), Some(UTF_16BE));
        let japanese = "\u{6708}\u{66dc}\u{65e5}、東京。";
        for (body, declared, expected) in [
            (le("<h>"), None, little),
            (be("<h>"), None, big),
            (le("\r\n <meta charset=utf-16>"), None, little),
            (be("<\u{3042}"), big, big),
            (le("<p>\u{3042}"), None, little),
            (le("<!--"), None, little),
            (le("{\"a\": [1, 2, 3, 4]}"), None, little),
            (be("Service is not available"), None, big),
            (le("due"), None, None),
            (le("due 4"), None, little),
            (le("\u{dc}bersicht \u{fc}ber vier Dinge"), None, little),
            (be("\u{6708}\u{66dc}\u{65e5} <html><body>"), None, big),
            (le("\u{3000}\u{4e00}\u{822c}\u{793e}\u{56e3}\u{6cd5}\u{4eba}\u{3000}\u{4e00}"), little, little),
            (be("\u{3000}\u{4e00}\u{822c}\u{793e}\u{56e3}\u{6cd5}\u{4eba}\u{3000}\u{4e00}"), big, big),
            (b"<!doctype html><p>\xC4\xE0 4".to_vec(), little, None),
            (b"%PDF-1.4\n%\xE2\xE3\xCF\xD3\n\xD9\x00\xD9\x00".to_vec(), little, None),
            (le("due"), little, little),
            (le("short"), big, little),
            (be("short"), little, big),
            (le(japanese), little, little),
            (be(japanese), big, big),
            (le(japanese), None, None),
            (b"<p>plain".to_vec(), little, None),
            ("<p>caf\u{e9}".as_bytes().to_vec(), big, None),
            (b"\xEF\xBB\xBFx".to_vec(), little, None),
            (b"\xFF\xFEx\0".to_vec(), None, little),
            (b"".to_vec(), little, None),
            (b"\0\0\0\0".to_vec(), None, None),
        ] {
            assert_eq!(encoding_of(&body, declared), expected, "{body:?} declared {declared:?}");
        }
    }
}
