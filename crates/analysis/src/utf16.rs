//! Recognises UTF-16, for the sniffer and for the decoder.

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};

/// Number of units that must be ASCII where no markup begins the text.
const PLAIN_UNITS: usize = 16;
/// Number of bytes whose NULs are counted: as many as the sniffer examines.
const HEAD_BYTES: usize = 8 * 1024;

/// The encoding of a body in UTF-16, by its byte order mark, its first units or what its header declares; `None` if
/// it is in another one.
///
/// A header alone is not believed: text without any NUL that is valid UTF-8 is not UTF-16, and where the NULs are
/// tells the order of the bytes.
pub(super) fn encoding_of(body: &[u8], declared: Option<&'static Encoding>) -> Option<&'static Encoding> {
    match body {
        [0xFF, 0xFE, ..] => return Some(UTF_16LE),
        [0xFE, 0xFF, ..] => return Some(UTF_16BE),
        [0xEF, 0xBB, 0xBF, ..] => return None,
        _ => {}
    }
    let by_units = [(UTF_16LE, 0), (UTF_16BE, 1)].into_iter().find(|(_, low)| begins_as_ascii(body, *low));
    if let Some((encoding, _)) = by_units {
        return Some(encoding);
    }
    let declared = declared.filter(|declared| *declared == UTF_16LE || *declared == UTF_16BE)?;
    let head = &body[..body.len().min(HEAD_BYTES)];
    let nuls = |offset: usize| head.iter().skip(offset).step_by(2).filter(|byte| **byte == 0).count();
    match (nuls(0), nuls(1)) {
        (0, 0) if is_plain(head) => None,
        (high, low) if high > low => Some(UTF_16BE),
        (high, low) if high < low => Some(UTF_16LE),
        (_, _) => Some(declared),
    }
}

/// Whether the text begins with ASCII in units of two bytes, the `low`er halves of which are at that offset: markup,
/// after any white space, or enough of any text.
fn begins_as_ascii(body: &[u8], low: usize) -> bool {
    let mut plain = body.chunks_exact(2).map_while(|unit| {
        let (byte, high) = (unit[low], unit[1 - low]);
        (high == 0 && (byte.is_ascii_graphic() || byte.is_ascii_whitespace())).then_some(byte)
    });
    let Some((blanks, first)) = plain.by_ref().enumerate().find(|(_, byte)| !byte.is_ascii_whitespace())
    else {
        return false;
    };
    match plain.next() {
        Some(_) if first == b'<' => true,
        Some(_) => blanks + 2 + plain.take(PLAIN_UNITS).count() >= PLAIN_UNITS,
        None => false,
    }
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
            (le("short"), None, None),
            (le("short"), little, little),
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
