//! Finds the character encoding that a document declares in its markup, without parsing it.
//!
//! Modelled on the prescan of the HTML standard, with two extensions: the whole document is searched, because browsers
//! also follow a `<meta>` that their parser meets later; and what the parser would read as text (scripts, styles,
//! titles) is passed over, since it may quote one.
//!
//! Invariant: time is linear in the document.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};
use memchr::{memchr, memmem};

/// Number of bytes in which an XML prolog is searched: as in web-monitoring-diff.
const PROLOG_BYTES: usize = 2048;
/// Longest label of an encoding, with room for blanks.
const MAX_LABEL_BYTES: usize = 64;
/// Elements whose content is text, whatever it looks like.
const TEXT_ELEMENTS: [&[u8]; 8] =
    [b"script", b"style", b"title", b"textarea", b"xmp", b"iframe", b"noembed", b"noframes"];

/// The encoding that the document declares: in a `<meta>`, else in its XML prolog.
pub(super) fn declared_encoding(document: &[u8]) -> Option<&'static Encoding> {
    let declared = meta_encoding(document).or_else(|| prolog_encoding(document))?;
    // Corrections from the standard: if the declaration was readable as ASCII, the document cannot be UTF-16.
    Some(match declared {
        utf16 if utf16 == UTF_16LE || utf16 == UTF_16BE => UTF_8,
        user if user == X_USER_DEFINED => WINDOWS_1252,
        other => other,
    })
}

/// Parses an encoding label, with or without quotes and what follows it.
pub(super) fn encoding_for_label(value: &[u8]) -> Option<&'static Encoding> {
    let value = value.trim_ascii_start();
    let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
    let ends = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b';' | b',' | b'>' | b'/');
    let label = &value[..value.iter().position(ends).unwrap_or(value.len())];
    if label.eq_ignore_ascii_case(b"iso-8559-1") {
        return Some(WINDOWS_1252); // frequent typo on government pages
    }
    Encoding::for_label_no_replacement(label)
}

/// Finds `<meta charset=x>` or `<meta http-equiv=content-type content="text/html; charset=x">`.
fn meta_encoding(document: &[u8]) -> Option<&'static Encoding> {
    let mut rest = document;
    while let Some(at) = memchr(b'<', rest) {
        rest = &rest[at..];
        rest = match rest {
            // `<!-->` is a complete comment, so its end may overlap its start.
            [b'<', b'!', b'-', b'-', ..] => after(&rest[2..], b"-->")?,
            [b'<', b'!' | b'?', ..] => after(rest, b">")?,
            [b'<', b'/', letter, ..] if letter.is_ascii_alphabetic() => Tag::read(&rest[2..]).rest,
            [b'<', letter, ..] if letter.is_ascii_alphabetic() => {
                let tag = Tag::read(&rest[1..]);
                match tag.encoding() {
                    Some(encoding) => return Some(encoding),
                    None => tag.after_its_text()?,
                }
            }
            _ => &rest[1..],
        };
    }
    None
}

/// Whether the text begins with a tag of more attributes than `most`.
pub(super) fn has_more_attributes(text: &str, most: usize) -> bool {
    let Some(name) = text.strip_prefix("</").or_else(|| text.strip_prefix('<')) else { return false };
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return false;
    }
    let (_, rest) = split_before(name.as_bytes(), |b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>'));
    let mut tag = Tag { name: b"", charset: None, http_equiv: None, content: None, rest };
    (0..=most).all(|_| tag.next_attribute().is_some())
}

/// What follows the first `end` in the text.
fn after<'d>(text: &'d [u8], end: &[u8]) -> Option<&'d [u8]> {
    memmem::find(text, end).map(|at| &text[at + end.len()..])
}

/// A tag, and the attributes of it that declare an encoding.
struct Tag<'d> {
    name: &'d [u8],
    charset: Option<&'d [u8]>,
    http_equiv: Option<&'d [u8]>,
    content: Option<&'d [u8]>,
    rest: &'d [u8],
}

impl<'d> Tag<'d> {
    /// Reads a tag from its name on.
    fn read(text: &'d [u8]) -> Self {
        let (name, rest) = split_before(text, |b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>'));
        let mut tag = Self { name, charset: None, http_equiv: None, content: None, rest };
        while let Some((name, value)) = tag.next_attribute() {
            let slot = match () {
                () if name.eq_ignore_ascii_case(b"charset") => &mut tag.charset,
                () if name.eq_ignore_ascii_case(b"http-equiv") => &mut tag.http_equiv,
                () if name.eq_ignore_ascii_case(b"content") => &mut tag.content,
                () => continue,
            };
            // Of two attributes with the same name the first one counts.
            slot.get_or_insert(value);
        }
        tag
    }

    /// Takes one attribute; `None` behind the last one.
    fn next_attribute(&mut self) -> Option<(&'d [u8], &'d [u8])> {
        (_, self.rest) = split_before(self.rest, |b| !b.is_ascii_whitespace() && b != b'/');
        match self.rest {
            [] => return None,
            [b'>', rest @ ..] => {
                self.rest = rest;
                return None;
            }
            _ => {}
        }
        let ends = |b: u8| b.is_ascii_whitespace() || matches!(b, b'=' | b'/' | b'>');
        // A name may begin with `=`.
        let (_, behind) = split_before(&self.rest[1..], ends);
        let name = &self.rest[..self.rest.len() - behind.len()];
        let (_, value) = split_before(behind, |b| !b.is_ascii_whitespace());
        let Some(value) = value.strip_prefix(b"=") else {
            self.rest = behind;
            return Some((name, b""));
        };
        let (_, value) = split_before(value, |b| !b.is_ascii_whitespace());
        let value = match value {
            [quote @ (b'"' | b'\''), rest @ ..] => {
                let end = memchr(*quote, rest).unwrap_or(rest.len());
                self.rest = rest.get(end + 1..).unwrap_or_default();
                &rest[..end]
            }
            _ => {
                let (value, rest) = split_before(value, |b| b.is_ascii_whitespace() || b == b'>');
                self.rest = rest;
                value
            }
        };
        Some((name, value))
    }

    fn encoding(&self) -> Option<&'static Encoding> {
        if !self.name.eq_ignore_ascii_case(b"meta") {
            return None;
        }
        let is_content_type =
            self.http_equiv.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"content-type"));
        let in_content = || self.content.filter(|_| is_content_type).and_then(charset_in);
        self.charset.and_then(encoding_for_label).or_else(in_content)
    }

    /// What follows the tag, and its content if that is text only.
    fn after_its_text(&self) -> Option<&'d [u8]> {
        let Some(name) = TEXT_ELEMENTS.into_iter().find(|name| name.eq_ignore_ascii_case(self.name)) else {
            return Some(self.rest);
        };
        let is_end = |at: &usize| {
            let end = self.rest.get(at + 2..at + 2 + name.len());
            end.is_some_and(|end| end.eq_ignore_ascii_case(name))
        };
        memmem::find_iter(self.rest, b"</").find(is_end).map(|at| &self.rest[at..])
    }
}

/// Finds `charset=x` in the content of a `<meta http-equiv=content-type>`.
fn charset_in(content: &[u8]) -> Option<&'static Encoding> {
    let lower = content.to_ascii_lowercase();
    memmem::find_iter(&lower, b"charset").find_map(|at| {
        let value = lower[at + b"charset".len()..].trim_ascii_start().strip_prefix(b"=")?;
        encoding_for_label(&value[..value.len().min(MAX_LABEL_BYTES)])
    })
}

/// Finds `<?xml version="1.0" encoding="x"?>`.
pub(super) fn prolog_encoding(document: &[u8]) -> Option<&'static Encoding> {
    let head = document[..document.len().min(PROLOG_BYTES)].to_ascii_lowercase();
    let prolog = &head[memmem::find(&head, b"<?xml")?..];
    let prolog = &prolog[..memchr(b'>', prolog)?];
    memmem::find_iter(prolog, b"encoding").find_map(|at| {
        let value = prolog[at + b"encoding".len()..].trim_ascii_start().strip_prefix(b"=")?;
        encoding_for_label(value)
    })
}

/// Splits before the first byte for which `ends` is true.
fn split_before(text: &[u8], ends: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|b| ends(*b)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_counts_where_browsers_read_it() {
        let late = format!("<!doctype html>{}<meta charset=koi8-r>", "<link rel=x href=y>\n".repeat(500));
        for (document, encoding) in [
            ("<meta charset=iso-8859-2>", Some("ISO-8859-2")),
            ("<META CHARSET = 'KOI8-R'>", Some("KOI8-R")),
            ("<meta\ncharset=\"gbk\"/>", Some("GBK")),
            ("<meta charset=utf-8 charset=gbk>", Some("UTF-8")),
            (
                "<meta http-equiv=Content-Type content='text/html; charset=windows-1251'>",
                Some("windows-1251"),
            ),
            ("<meta content='text/html; charset=gbk' http-equiv='content-type'>", Some("GBK")),
            ("<meta http-equiv=content-type content='charset is charset = gbk'>", Some("GBK")),
            (late.as_str(), Some("KOI8-R")),
            ("<meta charset=klingon><meta charset=gbk>", Some("GBK")),
            ("<script>'</p>'</script><meta charset=gbk>", Some("GBK")),
            ("<meta charset=utf-16>", Some("UTF-8")),
            ("<meta charset=x-user-defined>", Some("windows-1252")),
            ("<?xml version='1.0' encoding='EUC-JP'?><html>", Some("EUC-JP")),
            ("<?xml version='1.0' encoding='EUC-JP'?><meta charset=gbk>", Some("GBK")),
            // Where they do not.
            ("<meta name=description content='use charset=gbk'>", None),
            ("<meta http-equiv=refresh content='0; url=/?charset=gbk'>", None),
            ("<meta property=x content='text/html; charset=gbk'>", None),
            ("<!-- <meta charset=gbk> -->", None),
            ("<p title='<meta charset=gbk>'>", None),
            ("<script>document.write('<meta charset=gbk>')</script>", None),
            ("<STYLE><meta charset=gbk></STYLE>", None),
            ("<title><meta charset=gbk></title>", None),
            ("<textarea><meta charset=gbk>", None),
            ("<metal charset=gbk>", None),
            ("<meta data-charset=gbk>", None),
            ("</meta charset=gbk>", None),
            ("<!meta charset=gbk>", None),
            ("<!-- never closed <meta charset=gbk>", None),
            ("<", None),
            ("<meta charset", None),
            ("<meta charset=", None),
            ("<meta charset='gbk", Some("GBK")),
        ] {
            let found = declared_encoding(document.as_bytes()).map(Encoding::name);
            assert_eq!(found, encoding, "{document:.80}");
        }
    }

    #[test]
    fn time_is_linear_in_unclosed_tags() {
        for part in ["<a ", "</", "<meta ", "<!--", "<script></", "<p x=\""] {
            assert!(declared_encoding(part.repeat(300_000).as_bytes()).is_none());
        }
    }
}
