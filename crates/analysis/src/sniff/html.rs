//! Recognises markup by its first tag, and other text by its structure.
//!
//! The rules follow the WHATWG MIME sniffing standard where it accepts HTML, and extend it as 580 real pages
//! required: a byte order mark, NULs, comments, processing instructions and front matter may precede the
//! first tag, any element may be the first one, and its name may be followed by any white space, `/` or `>`.

use std::borrow::Cow;

use encoding_rs::Encoding;
use memchr::memmem::find;
use serde::de::IgnoredAny;

use super::{ContentFamily, HEAD_BYTES, Sniffed};
use crate::utf16;

/// Elements that make a document HTML if they are its first tag.
const ELEMENTS: &str = "\
    a abbr acronym address applet area article aside audio b base basefont bdi bdo bgsound big blink \
    blockquote body br button canvas caption center cite code col colgroup data datalist dd del details \
    dfn dialog dir div dl dt em embed fieldset figcaption figure font footer form frame frameset h1 h2 \
    h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li link main map mark \
    marquee menu meta meter nav nobr noframes noscript object ol optgroup option output p param picture \
    plaintext pre progress q rp rt ruby s samp script search section select slot small source span \
    strike strong style sub summary sup table tbody td template textarea tfoot th thead time title tr tt \
    u ul video";

/// Converts the head of a body to ASCII-compatible bytes: strips a byte order
/// mark, transcodes UTF-16 to UTF-8.
pub(super) fn to_ascii_compatible<'h>(head: &'h [u8], declared: Option<&'static Encoding>) -> Cow<'h, [u8]> {
    match utf16::encoding_of(head, declared) {
        Some(utf16) => Cow::Owned(utf16.decode_with_bom_removal(head).0.into_owned().into_bytes()),
        None => Cow::Borrowed(head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head)),
    }
}

/// Classifies markup by its first tag; `None` if the text does not begin with markup.
pub(super) fn sniff_markup(text: &[u8]) -> Option<Sniffed> {
    let mut rest = skip_front_matter(text);
    let mut xml = false;
    let mut comment = false;
    loop {
        rest = trim_blank(rest);
        if rest.starts_with(b"<!--") {
            comment = true;
            // `<!-->` is a complete comment, so its end may overlap its start.
            match find(&rest[2..], b"-->") {
                Some(at) => rest = &rest[2 + at + 3..],
                None => return Some(sniffed_html(xml)),
            }
        } else if rest.starts_with(b"<?") {
            xml |= starts_with_ignoring_case(rest, b"<?xml");
            match find(rest, b">") {
                Some(at) => rest = &rest[at + 1..],
                None => break,
            }
        } else if starts_with_ignoring_case(rest, b"<!doctype") {
            let name = trim_blank(&rest[b"<!doctype".len()..]);
            if name.is_empty() || name[0] == b'>' || starts_with_ignoring_case(name, b"html") {
                return Some(sniffed_html(xml || find(name, b"XHTML").is_some()));
            }
            match find(name, b">") {
                Some(at) => rest = &name[at + 1..],
                None => break,
            }
        } else {
            break;
        }
    }
    match first_tag(rest) {
        Some(name) => sniff_root(&name, text, xml),
        None if xml => Some(Sniffed::new(ContentFamily::Xml, "text/xml")),
        None => comment.then(|| sniffed_html(xml)),
    }
}

/// Classifies markup by its root element.
fn sniff_root(name: &str, text: &[u8], xml: bool) -> Option<Sniffed> {
    match name {
        "svg" | "svg:svg" => Some(Sniffed::new(ContentFamily::Svg, "image/svg+xml")),
        "rss" => Some(Sniffed::new(ContentFamily::Feed, "application/rss+xml")),
        "feed" => Some(Sniffed::new(ContentFamily::Feed, "application/atom+xml")),
        "rdf:rdf" => Some(Sniffed::new(ContentFamily::Feed, "application/rdf+xml")),
        "html" => Some(sniffed_html(xml)),
        // After an XML prolog, `<map>`, `<data>` or `<menu>` usually belongs to another vocabulary.
        _ if !xml && (ELEMENTS.split(' ').any(|element| element == name) || name.contains('-')) => {
            Some(sniffed_html(false))
        }
        _ if find(text, b"http://www.w3.org/1999/xhtml").is_some() => Some(sniffed_html(true)),
        _ => xml.then(|| Sniffed::new(ContentFamily::Xml, "text/xml")),
    }
}

/// Classifies text that does not begin with a tag: JSON, HTML that begins with a sentence, or plain text.
pub(super) fn sniff_plain_text(text: &[u8], whole: &[u8]) -> Sniffed {
    if is_json(trim_blank(text), whole.len() > HEAD_BYTES) {
        return Sniffed::new(ContentFamily::Json, "application/json");
    }
    let tags = text.iter().enumerate().filter(|&(_, &b)| b == b'<');
    let page = tags
        .map(|(at, _)| first_tag(&text[at..]))
        .any(|name| matches!(name.as_deref(), Some("html" | "head" | "body")));
    if page { sniffed_html(false) } else { Sniffed::new(ContentFamily::Text, "text/plain") }
}

/// Whether the text is a JSON object or array; a truncated one (`cut`) only has to be valid up to its end.
fn is_json(text: &[u8], cut: bool) -> bool {
    matches!(text.first(), Some(b'{' | b'['))
        && match serde_json::from_slice::<IgnoredAny>(text) {
            Ok(_) => true,
            Err(error) => cut && error.is_eof(),
        }
}

fn sniffed_html(xml: bool) -> Sniffed {
    Sniffed::new(ContentFamily::Html, if xml { "application/xhtml+xml" } else { "text/html" })
}

/// Lower-case name of the opening or closing tag at the start of the text.
fn first_tag(text: &[u8]) -> Option<String> {
    let name = text.strip_prefix(b"</").or_else(|| text.strip_prefix(b"<"))?;
    let end = name.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>'))?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b'_' | b'.');
    let named = (1..=64).contains(&end) && name[0].is_ascii_alphabetic() && name[..end].iter().all(plain);
    named.then(|| String::from_utf8_lossy(&name[..end]).to_ascii_lowercase())
}

/// Skips the `---` block of a static site generator at the start of the text.
fn skip_front_matter(text: &[u8]) -> &[u8] {
    let begins = text.starts_with(b"---\n") || text.starts_with(b"---\r\n");
    match begins.then(|| find(&text[3..], b"\n---")).flatten() {
        Some(at) => &text[3 + at + 4..],
        None => text,
    }
}

/// The text without leading blanks and NULs.
pub(super) fn trim_blank(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !b.is_ascii_whitespace() && *b != 0).unwrap_or(text.len());
    &text[start..]
}

fn starts_with_ignoring_case(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}
