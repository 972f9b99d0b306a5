//! Filters bodies by their content, whatever the headers declare.
//!
//! [`classify`] examines one body, [`filter_by_content`] a pair. Neither decodes a body: only the first few
//! kilobytes are examined. Whether the text is readable is checked by the decoder.
//!
//! Invariant: a body with a binary byte in its head is never classified as text, but for NULs that are padding, and only our
//! own rules can accept a body.
//!
//! # Why
//! In the incident of 2018 a PDF was diffed against a page. On 142 real files no crate separated all pages
//! from all other files: `infer` classified 49 of 580 pages as unknown and prose that begins with "BM" as a
//! bitmap, `mimesniff` found no HTML at all. So the accepting rules are our own (`html`), modelled on the
//! WHATWG MIME sniffing standard; `infer` can only reject, and only if there is also a binary byte.

mod html;
mod magic;

use wm_job::media_type::MediaType;
use wm_job::page::Side;
use wm_job::skip::{Skip, SkipReason, SniffedTypes};

use super::decode::header_encoding;
use super::utf16;

/// Number of bytes that are examined; magic numbers, prologs and first tags all lie within it.
const HEAD_BYTES: usize = 8 * 1024;
/// Fewest NULs at the beginning of a body that are padding.
const MIN_PADDING_BYTES: usize = 16;
/// Largest plain text that is compared with a page: what a server says in place of one is short.
const MAX_NOTICE_BYTES: usize = 8 * 1024;

/// Kind of content, as far as it matters for a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentFamily {
    /// Empty, or white space only.
    Empty,
    /// HTML or XHTML markup.
    Html,
    /// An RSS, Atom or RDF feed.
    Feed,
    /// An SVG image, standalone or with an XML prolog.
    Svg,
    /// XML of any other vocabulary.
    Xml,
    /// A JSON object or array.
    Json,
    /// Text of no recognised kind.
    Text,
    /// Binary content of any media type.
    Binary,
}

/// How visible text and links are read from a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markup {
    /// As browsers read HTML.
    Html,
    /// As XML, if it is well-formed.
    Xhtml,
    /// All of it is visible text.
    PlainText,
}

/// Classification of one body by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// Kind of content, as far as it matters for a diff.
    pub family: ContentFamily,
    /// Detected media type, e.g. `application/pdf`.
    pub media_type: &'static str,
    /// Nothing but a signature makes it binary: all of its head is text.
    textual: bool,
}

/// A body to classify, and what is said of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SniffInput<'a> {
    /// The body, with its content encodings decoded.
    pub bytes: &'a [u8],
    /// The declared media type.
    pub declared: Option<&'a str>,
    /// The `Content-Type` whose charset counts.
    pub content_type: Option<&'a str>,
    /// HTTP status of the capture.
    pub status: Option<u16>,
}

/// Two bodies that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SniffedPair {
    /// What each body is, older first.
    pub sniffed: [Sniffed; 2],
    /// How both are read; `None` if only their sources can be compared.
    pub markup: Option<[Markup; 2]>,
}

impl Sniffed {
    const fn new(family: ContentFamily, media_type: &'static str) -> Self {
        Self { family, media_type, textual: false }
    }
}

/// Media types that mean HTML, as listed by web-monitoring-diff.
const HTML_TYPES: [&str; 10] = [
    "text/html",
    "application/xhtml+xml",
    "application/html",
    "application/xhtml",
    "application/xml",
    "application/xml+html",
    "application/xml+xhtml",
    "text/webviewhtml",
    "text/x-server-parsed-html",
    "text/xhtml",
];

/// Media types that carry no information.
const GENERIC_TYPES: [&str; 4] =
    ["", "application/octet-stream", "binary/octet-stream", "application/x-download"];

/// Media types of text that is no page, besides `text/*` and those that end in `+json` or `+xml`.
const OTHER_TEXT_TYPES: [&str; 17] = [
    "application/ecmascript",
    "application/graphql",
    "application/json",
    "application/json5",
    "application/ndjson",
    "application/rtf",
    "application/sql",
    "application/toml",
    "application/typescript",
    "application/x-ecmascript",
    "application/x-httpd-php",
    "application/x-json",
    "application/x-ndjson",
    "application/x-sh",
    "application/x-subrip",
    "application/x-yaml",
    "application/yaml",
];

/// Whether a media type names text that is no page.
fn is_other_text(canonical: &str) -> bool {
    let is_text = canonical.starts_with("text/")
        || canonical.ends_with("+json")
        || canonical.ends_with("+xml")
        || canonical == "application/xml-dtd"
        || OTHER_TEXT_TYPES.contains(&canonical);
    is_text && !HTML_TYPES.contains(&canonical)
}

/// Classifies a body by its bytes; of the `Content-Type` only the charset is used, for UTF-16.
pub fn classify(bytes: &[u8], content_type: Option<&str>) -> Sniffed {
    let bytes = without_padding(bytes);
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    let text = html::to_ascii_compatible(head, header_encoding(content_type));
    let signed = |media_type| Sniffed {
        textual: magic::is_plain_text(head),
        ..Sniffed::new(ContentFamily::Binary, media_type)
    };
    // A header that names UTF-16 hides no document.
    if let Some(media_type) = magic::document_type(&text).or_else(|| magic::document_type(head)) {
        return signed(media_type);
    }
    if magic::is_pdf_behind_markup(&text, bytes) {
        return signed(magic::PDF);
    }
    if let Some(found) = html::sniff_markup(&text) {
        return found;
    }
    if let Some(media_type) = magic::binary_type(head, &text) {
        return Sniffed::new(ContentFamily::Binary, media_type);
    }
    if text.iter().all(|b| b.is_ascii_whitespace()) && bytes.len() <= HEAD_BYTES {
        return Sniffed::new(ContentFamily::Empty, "text/plain");
    }
    html::sniff_plain_text(&text, bytes)
}

/// What follows the NULs that a body begins with, if these are more than a format begins with.
fn without_padding(bytes: &[u8]) -> &[u8] {
    let nuls = bytes.iter().take_while(|b| **b == 0).count();
    if nuls < MIN_PADDING_BYTES || nuls == bytes.len() {
        return bytes;
    }
    // The last one of an odd number may be half a unit of UTF-16.
    let even = &bytes[nuls & !1..];
    if utf16::encoding_of(even, None).is_some() { even } else { &bytes[nuls..] }
}

/// Classifies both bodies of a pair, or rejects the pair.
///
/// # Errors
/// [`SkipReason::Content`] if a body is not text, [`SkipReason::UnlikeContent`] if the two are different
/// kinds of text. The detail names the detected and declared types, of both sides if both matter.
pub fn filter_by_content(pair: [SniffInput<'_>; 2]) -> Result<SniffedPair, Skip> {
    let sniffed = pair.map(|body| classify(body.bytes, body.content_type));
    let sides = [Side::From, Side::To];
    let describe =
        |i: usize| format!("{} is {} ({})", sides[i], sniffed[i].media_type, declared_text(pair[i].declared));
    let both = || format!("{}, {}", describe(0), describe(1));
    let skip = |reason, detail: String| {
        let [from, to] = sniffed.map(|sniffed| sniffed.media_type.to_owned());
        Skip { sniffed: Some(SniffedTypes { from, to }), ..Skip::new(reason, detail) }
    };
    let types = pair.map(|body| body.declared.map(MediaType::parse));
    let agreed = match &types {
        [Some(old), Some(new)] => old.canonical() == new.canonical() && is_other_text(old.canonical()),
        [_, _] => false,
    };
    // Text that both sides declare as text may begin as a document does.
    match sniffed.map(|sniffed| sniffed.family == ContentFamily::Binary && !(agreed && sniffed.textual)) {
        [true, true] => return Err(skip(SkipReason::Content, both())),
        [true, false] => return Err(skip(SkipReason::Content, describe(0)).on(Side::From)),
        [false, true] => return Err(skip(SkipReason::Content, describe(1)).on(Side::To)),
        [false, false] => {}
    }
    match markup_of_pair(pair, sniffed, &types, agreed) {
        Some(markup) => Ok(SniffedPair { sniffed, markup }),
        None => Err(skip(SkipReason::UnlikeContent, both())),
    }
}

/// How two bodies of text are read; `None` if they are not of the same kind. What both sides declare counts (`agreed`)
/// for more than a tag in one of them, or JSON that does not parse.
fn markup_of_pair(
    pair: [SniffInput<'_>; 2],
    sniffed: [Sniffed; 2],
    types: &[Option<MediaType>; 2],
    agreed: bool,
) -> Option<Option<[Markup; 2]>> {
    let markup = [0, 1].map(|i| markup_of(sniffed[i], types[i].as_ref()));
    // An empty body matches any kind: a page may become empty, and so may a feed.
    match [0, 1].map(|i| sniffed[i].family == ContentFamily::Empty) {
        [true, true] => return Some(Some([Markup::Html; 2])),
        [_, _] if agreed => return Some(None),
        [true, false] => return Some(markup[1].map(|markup| [markup; 2])),
        [false, true] => return Some(markup[0].map(|markup| [markup; 2])),
        [false, false] => {}
    }
    match markup {
        [Some(old), Some(new)] => return Some(Some([old, new])),
        [Some(old), None] if is_page(sniffed[0]) && is_notice(pair[1], sniffed[1], types[1].as_ref()) => {
            return Some(Some([old, Markup::PlainText]));
        }
        [None, Some(new)] if is_page(sniffed[1]) && is_notice(pair[0], sniffed[0], types[0].as_ref()) => {
            return Some(Some([Markup::PlainText, new]));
        }
        [_, _] => {}
    }
    (sniffed[0].family == sniffed[1].family).then_some(None)
}

fn is_page(sniffed: Sniffed) -> bool {
    sniffed.family == ContentFamily::Html
}

/// Whether a body may be what a server says in place of a page that is gone: a short plain text, by its bytes or as it is
/// declared, or with an error status a short text of any kind.
fn is_notice(body: SniffInput<'_>, sniffed: Sniffed, declared: Option<&MediaType>) -> bool {
    let is_error = body.status.is_some_and(|status| status >= 400)
        || declared.is_some_and(|declared| declared.canonical() == "text/plain");
    let kind = match sniffed.family {
        ContentFamily::Text => true,
        ContentFamily::Json | ContentFamily::Xml => is_error,
        ContentFamily::Empty
        | ContentFamily::Html
        | ContentFamily::Feed
        | ContentFamily::Svg
        | ContentFamily::Binary => false,
    };
    kind && body.bytes.len() <= MAX_NOTICE_BYTES
}

/// How one body is read as a page; `None` if it is none. Plain text and generic XML count as HTML if declared as HTML;
/// plain text also if nothing specific is declared, because an error page is often a bare sentence.
fn markup_of(sniffed: Sniffed, declared: Option<&MediaType>) -> Option<Markup> {
    const XHTML: &str = "application/xhtml+xml";
    let declared = declared.filter(|declared| !GENERIC_TYPES.contains(&&*declared.essence));
    let html_declared = declared.is_some_and(|declared| HTML_TYPES.contains(&&*declared.essence));
    // A browser chooses its parser by the declared type; a doctype of XHTML means nothing in a `text/html` page.
    let is_xhtml = match declared {
        Some(declared) => matches!(declared.canonical(), XHTML | "application/xml" | "text/xml"),
        None => sniffed.media_type == XHTML,
    };
    let html = if is_xhtml { Markup::Xhtml } else { Markup::Html };
    match sniffed.family {
        ContentFamily::Html | ContentFamily::Empty => Some(html),
        ContentFamily::Text => (html_declared || declared.is_none()).then_some(Markup::Html),
        ContentFamily::Xml => html_declared.then_some(html),
        ContentFamily::Feed | ContentFamily::Svg | ContentFamily::Json | ContentFamily::Binary => None,
    }
}

/// The declared media type as a clause for the detail.
fn declared_text(declared: Option<&str>) -> String {
    declared.map_or_else(|| "nothing declared".to_owned(), |media_type| format!("declared {media_type}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(bytes: &[u8]) -> Sniffed {
        super::classify(bytes, None)
    }

    fn is_html(bytes: &[u8]) -> bool {
        classify(bytes).family == ContentFamily::Html
    }

    fn filter(from: &[u8], to: &[u8], declared: [Option<&str>; 2]) -> Result<SniffedPair, Skip> {
        let input = |bytes, declared| SniffInput { bytes, declared, ..SniffInput::default() };
        filter_by_content([input(from, declared[0]), input(to, declared[1])])
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const PDF: &[u8] = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n";

    fn utf16le(text: &str, bom: bool) -> Vec<u8> {
        let units = bom.then_some(0xFEFF).into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    }

    fn utf16be(text: &str) -> Vec<u8> {
        std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn every_page_is_told_however_it_begins() {
        let long_comment = format!("<!-- {} --><p>x", "licence ".repeat(2000));
        let pages: [&[u8]; 32] = [
            b"<!DOCTYPE html><title>x</title>",
            b"<!doctype HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\">",
            b"<!DOCTYPE\nhtml>",
            b"<!doctype>",
            b"<html\n lang=en>",
            b"<html\tlang=en>",
            b"  \r\n\t<HTML>",
            b"\xef\xbb\xbf<html>",
            b"\xef\xbb\xbf\n<!-- x --><div>",
            b"<!--[if IE]><html class=ie><![endif]-->",
            b"<!----><p>x",
            b"<!--><p>x",
            b"<!-- only a comment -->",
            long_comment.as_bytes(),
            b"<span>x</span>",
            b"<ul><li>x",
            b"<main>",
            b"<meta charset=utf-8>",
            b"<link rel=stylesheet href=x>",
            b"<h2>x</h2>",
            b"<nav/>",
            b"<ins>x",
            b"<center>",
            b"<br>",
            b"</div>the tail of a page",
            b"<my-app></my-app>",
            b"---\ntitle: x\n---\n<p>x",
            b"\0\0<html>",
            b"<?php echo 1 ?><p>x",
            b"Warning: mysql_connect() failed\n<html><body>",
            b"<script>var x = 1</script>",
            b"<p>a\n                     b</p>",
        ];
        for page in pages {
            let found = classify(page);
            let seen = String::from_utf8_lossy(&page[..page.len().min(40)]);
            assert_eq!((found.family, found.media_type), (ContentFamily::Html, "text/html"), "{seen:?}");
        }
        for page in [utf16le("<html><p>x", true), utf16le("<!doctype html>", false), utf16be("<html>")] {
            assert!(is_html(&page), "{page:?}");
        }
    }

    #[test]
    fn xhtml_feeds_images_and_other_xml_are_told_apart() {
        let table: [(&str, ContentFamily, &str); 9] = [
            ("<?xml version=\"1.0\"?><!DOCTYPE html><html>", ContentFamily::Html, "application/xhtml+xml"),
            (
                "<?xml version=\"1.0\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\">",
                ContentFamily::Html,
                "application/xhtml+xml",
            ),
            (
                "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0\">",
                ContentFamily::Html,
                "application/xhtml+xml",
            ),
            ("<?xml version=\"1.0\"?><rss version=\"2.0\">", ContentFamily::Feed, "application/rss+xml"),
            ("<feed xmlns=\"http://www.w3.org/2005/Atom\">", ContentFamily::Feed, "application/atom+xml"),
            ("<?xml version=\"1.0\"?><rdf:RDF>", ContentFamily::Feed, "application/rdf+xml"),
            ("<?xml version=\"1.0\"?><!DOCTYPE svg PUBLIC \"x\"><svg>", ContentFamily::Svg, "image/svg+xml"),
            ("<svg viewBox=\"0 0 1 1\"/>", ContentFamily::Svg, "image/svg+xml"),
            ("<?xml version=\"1.0\"?><catalog>", ContentFamily::Xml, "text/xml"),
        ];
        for (text, family, media_type) in table {
            let found = classify(text.as_bytes());
            assert_eq!((found.family, found.media_type), (family, media_type), "{text}");
        }
    }

    #[test]
    fn what_is_not_text_is_told_by_its_bytes() {
        let ole = [b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1".as_slice(), &[0; 600]].concat();
        let mut tar = vec![0_u8; 600];
        tar[..4].copy_from_slice(b"file");
        tar[257..262].copy_from_slice(b"ustar");
        let table: [(&[u8], &str); 22] = [
            (PDF, "application/pdf"),
            (b"\r\n  %PDF-1.7\r\n", "application/pdf"),
            (b"\xef\xbb\xbf%PDF-1.4\n", "application/pdf"),
            (b"HTTP junk\n%PDF-1.3\n1 0 obj", "application/pdf"),
            (b"%PDF-1.4 1 0 obj<</Type/Catalog>>endobj", "application/pdf"),
            (b"%!PS-Adobe-3.0\n%%Title: x", "application/postscript"),
            (b"{\\rtf1\\ansi hello}", "application/rtf"),
            (PNG, "image/png"),
            (b"\xFF\xD8\xFF\xE0\0\x10JFIF\0\x01", "image/jpeg"),
            (b"GIF89a\x01\0\x01\0\x80\0\0", "image/gif"),
            (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "image/bmp"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
            (b"PK\x03\x04\x14\0\0\0\x08\0", "application/zip"),
            (&ole, "application/x-ole-storage"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "application/gzip"),
            (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "application/x-executable"),
            (b"ID3\x04\0\0\0\0\0\x23TSSE", "audio/mpeg"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4"),
            (b"wOFF\0\x01\0\0\0\0", "application/font-woff"),
            (b"\0asm\x01\0\0\0", "application/wasm"),
            (&tar, "application/x-tar"),
            (b"\x01\x02\x03nothing known", "application/octet-stream"),
        ];
        for (bytes, media_type) in table {
            let found = classify(bytes);
            let seen = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]);
            assert_eq!((found.family, found.media_type), (ContentFamily::Binary, media_type), "{seen:?}");
        }
    }

    #[test]
    fn prose_that_begins_like_a_binary_is_text() {
        for prose in [
            "BM is short for British Museum.",
            "MZ are the initials of Mark Zbikowski.",
            "ID3 is a tag format.",
            "GIF87a was followed by GIF89a.",
            "%PDF- begins every PDF.",
            "%PDF-1.4 is what the first line says.",
            "The first line is\n%PDF-1.4 or so",
            "BMI calculator",
            "PK is a country code",
            "OTTO and RIFF are magic words",
            "fLaC, OggS",
            "1 < 2 and <3",
            "<john@example.org> wrote:",
            "[1] A footnote",
            "{not json}",
            "body { color: red }",
        ] {
            let found = classify(prose.as_bytes());
            assert_eq!((found.family, found.media_type), (ContentFamily::Text, "text/plain"), "{prose}");
        }
    }

    #[test]
    fn json_is_parsed_to_be_believed() {
        let long = format!("[{}1]", "1,".repeat(20_000));
        for json in ["{}", " [1, 2]", "{\"a\": {\"b\": null}}", &long] {
            assert_eq!(classify(json.as_bytes()).family, ContentFamily::Json, "{json:.20}");
        }
        let long = format!("[{}", "x".repeat(20_000));
        assert_eq!(classify(long.as_bytes()).family, ContentFamily::Text);
        assert_eq!(classify("[".repeat(200_000).as_bytes()).family, ContentFamily::Json);
    }

    #[test]
    fn a_binary_on_either_side_skips_and_is_named_with_what_was_declared() {
        let html = b"<html>".as_slice();
        let skip = filter(PDF, html, [Some("text/html; charset=iso-8859-1"), None]).unwrap_err();
        assert_eq!(skip.reason, SkipReason::Content);
        assert_eq!(skip.side, Some(Side::From));
        assert_eq!(skip.detail, "from is application/pdf (declared text/html; charset=iso-8859-1)");
        let skip = filter(html, PNG, [None, None]).unwrap_err();
        assert_eq!((skip.side, skip.detail.as_str()), (Some(Side::To), "to is image/png (nothing declared)"));
        let skip = filter(PDF, PNG, [None, Some("text/html")]).unwrap_err();
        assert_eq!(skip.side, None);
        assert_eq!(
            skip.detail,
            "from is application/pdf (nothing declared), to is image/png (declared text/html)"
        );
    }

    #[test]
    fn a_page_that_became_a_document_says_so_in_a_field() {
        let skip = filter(b"<html>", PDF, [None, None]).unwrap_err();
        let SniffedTypes { from, to } = skip.sniffed.unwrap();
        assert_eq!((from.as_str(), to.as_str()), ("text/html", "application/pdf"));
    }

    #[test]
    fn pairs_are_judged_by_both_sides() {
        const HTML: Option<&str> = Some("Text/HTML; charset=utf-8");
        const PLAIN: Option<&str> = Some("text/plain");
        const XHTML: Option<&str> = Some("application/xhtml+xml");
        const JSON: Option<&str> = Some("application/json");
        const PAGES: Option<Option<[Markup; 2]>> = Some(Some([Markup::Html; 2]));
        const SOURCES: Option<Option<[Markup; 2]>> = Some(None);
        const UNLIKE: Option<Option<[Markup; 2]>> = None;
        let with_notice = Some(Some([Markup::Html, Markup::PlainText]));
        let long_text = "a line of text\n".repeat(1000);
        // from, to, declared media types, how they are compared
        type PairCase<'a> = (&'a str, &'a str, [Option<&'static str>; 2], Option<Option<[Markup; 2]>>);
        let table: [PairCase<'_>; 43] = [
            ("<p>x", "<html>y", [None, None], PAGES),
            ("<p>x", "{\"a\":1}", [HTML, HTML], UNLIKE),
            ("{\"a\":1}", "[2]", [None, HTML], SOURCES),
            ("<rss>", "<feed>", [None, None], SOURCES),
            ("<svg/>", "<svg>", [None, None], SOURCES),
            ("<p>x", "<?xml version=\"1.0\"?><a/>", [None, None], UNLIKE),
            (
                "<p>x",
                "<?xml version=\"1.0\"?><a/>",
                [None, Some("application/xml")],
                Some(Some([Markup::Html, Markup::Xhtml])),
            ),
            ("<p>x", "Service unavailable", [HTML, HTML], PAGES),
            ("<p>x", "Service unavailable", [HTML, None], PAGES),
            ("one", "two", [PLAIN, PLAIN], SOURCES),
            ("one", "two", [HTML, PLAIN], SOURCES),
            ("", "<p>x", [None, PLAIN], PAGES),
            ("<p>x", " \n", [None, PLAIN], PAGES),
            ("", "{}", [None, None], SOURCES),
            ("", "", [PLAIN, PLAIN], PAGES),
            // A page that vanished.
            ("<p>x", "404 page not found", [HTML, PLAIN], with_notice),
            ("<p>x", "404 page not found", [None, Some("text/plain; charset=utf-8")], with_notice),
            ("Not found", "<p>x", [PLAIN, HTML], Some(Some([Markup::PlainText, Markup::Html]))),
            ("<p>x", "1 < 2 and <3", [HTML, Some("text/x-notice")], with_notice),
            ("<p>x", &long_text, [HTML, PLAIN], UNLIKE),
            ("<rss>", "404 page not found", [None, PLAIN], UNLIKE),
            // What both sides declare.
            ("a tag", "a tag, as <html> is", [PLAIN, PLAIN], SOURCES),
            ("a <body> tag", "a <html> tag", [PLAIN, PLAIN], SOURCES),
            ("{\"a\":1}", "{\"a\":NaN}", [JSON, JSON], SOURCES),
            ("{\"a\":1}", "{\"a\":NaN}", [JSON, Some("text/json; charset=utf-8")], SOURCES),
            ("{\"a\":1}", "{\"a\":", [Some("application/ld+json"); 2], SOURCES),
            ("var a", "[1]", [Some("text/javascript"), Some("application/javascript")], SOURCES),
            ("a,b", "<b>,c", [Some("text/csv"); 2], SOURCES),
            ("<rss>", "<!-- x --><rss>", [Some("application/rss+xml"); 2], SOURCES),
            ("<svg>", "<g>", [Some("image/svg+xml"); 2], SOURCES),
            ("<html>", "<html>", [PLAIN, PLAIN], SOURCES),
            ("<!-- b { } -->", "<!-- b { color: red } -->", [Some("text/css"); 2], SOURCES),
            ("%PDF-1.4\n", "%!PS-Adobe\n", [PLAIN, PLAIN], SOURCES),
            ("a: 1", "<b>: 1", [Some("application/x-yaml"); 2], SOURCES),
            ("", "<p>x", [PLAIN, PLAIN], SOURCES),
            ("<p>x", "{\"error\":\"not found\"}", [HTML, PLAIN], with_notice),
            ("{\"a\":1}", "{\"a\":NaN}", [None, None], UNLIKE),
            ("{\"a\":1}", "no", [JSON, PLAIN], UNLIKE),
            // XHTML, as served or by its bytes.
            ("<html>", "<html>", [XHTML, XHTML], Some(Some([Markup::Xhtml; 2]))),
            ("<p>x", "<html>", [HTML, XHTML], Some(Some([Markup::Html, Markup::Xhtml]))),
            (
                "<?xml version=\"1.0\"?><html>",
                "<html>",
                [None, None],
                Some(Some([Markup::Xhtml, Markup::Html])),
            ),
            ("<?xml version=\"1.0\"?><html>", "<html>", [HTML, HTML], PAGES),
            ("<html>", "gone", [Some("application/xhtml+xml, text/html"), XHTML], PAGES),
        ];
        for (from, to, declared, expected) in table {
            let judged = filter(from.as_bytes(), to.as_bytes(), declared);
            if let Err(skip) = &judged {
                assert_eq!(skip.reason, SkipReason::UnlikeContent, "{from} / {to}: {skip:?}");
            }
            assert_eq!(judged.ok().map(|pair| pair.markup), expected, "{from:.60} / {to:.60} {declared:?}");
        }
    }

    #[test]
    fn an_error_status_makes_short_json_or_xml_a_notice() {
        let page = SniffInput { bytes: b"<p>x", ..SniffInput::default() };
        for notice in ["{\"error\":\"gone\"}", "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>"]
        {
            for (status, compared) in
                [(Some(404), true), (Some(503), true), (Some(200), false), (None, false)]
            {
                let notice = SniffInput { bytes: notice.as_bytes(), status, ..SniffInput::default() };
                assert_eq!(filter_by_content([page, notice]).is_ok(), compared, "{status:?}");
                assert_eq!(filter_by_content([notice, page]).is_ok(), compared, "{status:?}");
            }
        }
    }

    #[test]
    fn a_pdf_is_one_behind_whatever_a_server_wrote_before_it() {
        let pdf = "\n%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n".as_bytes();
        for before in [
            "<br />\n<b>Notice</b>:  Undefined index in <b>/var/www/x.php</b> on line <b>3</b><br />",
            "<!-- generated -->",
            "<?xml version='1.0'?>",
            "Warning: x",
            "<p>x</p>\r\n<p>y</p>\r",
            "<html><body>",
            "<!-- cached -->\t",
        ] {
            for pdf in [
                pdf,
                &PDF.iter().copied().fold(b"\n".to_vec(), |mut all, b| {
                    all.push(b);
                    all
                }),
            ] {
                let found = classify(&[before.as_bytes(), pdf].concat());
                assert_eq!(found.media_type, "application/pdf", "{before}");
            }
        }
        let ascii =
            b"<b>Notice</b>: x\n%PDF-1.4\n1 0 obj\nstream\n9jqo^Blb</D-Bl>eB1\nendstream\nendobj\n%%EOF\n";
        assert_eq!(classify(ascii).media_type, "application/pdf");
        // Pages about PDF.
        for page in [
            "<p>It begins with</p><pre>\n%PDF-1.4\n1 0 obj\nendobj\n</pre>",
            "<p>It begins with</p><pre>\n%PDF-1.4\n</pre>",
            "<!doctype html><p>caf\u{e9}<pre>\n%PDF-1.7\n3 0 obj</pre>",
            "<HTML><BODY><PRE>\n%PDF-1.4\n1 0 obj\nendobj\n</PRE></BODY>",
            "<table><tr><td>\n%PDF-1.4\n1 0 obj\n</td></table>",
        ] {
            assert!(is_html(page.as_bytes()), "{page}");
            let (latin, ..) = encoding_rs::WINDOWS_1252.encode(page);
            assert!(is_html(&latin), "{page}");
        }
    }

    #[test]
    fn padding_of_nuls_is_no_evidence_of_a_binary() {
        for (body, family) in [
            ([b"A page of text".as_slice(), &[0; 900], b" and more"].concat(), ContentFamily::Text),
            ([b"<p>x".as_slice(), &[0; 900]].concat(), ContentFamily::Html),
            ([&[0; 900], b"<p>x".as_slice()].concat(), ContentFamily::Html),
            (vec![0; 900], ContentFamily::Binary),
            ([&[0; 10_000], b"<p>x".as_slice()].concat(), ContentFamily::Html),
            ([&[0; 2_049], b"Some text".as_slice()].concat(), ContentFamily::Text),
            ([b"one\0of these".as_slice()].concat(), ContentFamily::Binary),
            ([b"text".as_slice(), &[0; 9], b"\x01"].concat(), ContentFamily::Binary),
        ] {
            assert_eq!(classify(&body).family, family, "{} bytes", body.len());
        }
    }

    #[test]
    fn utf16_is_sniffed_as_it_is_decoded() {
        for (text, family) in [
            ("<h1>x</h1>", ContentFamily::Html),
            ("\r\n<meta charset=utf-16>", ContentFamily::Html),
            ("{\"list\": [1, 2, 3]}", ContentFamily::Json),
            ("Only a few words of text", ContentFamily::Text),
        ] {
            assert_eq!(classify(&utf16le(text, false)).family, family, "{text}");
        }
        let short = utf16le("a\u{e9}", false);
        let declared = super::classify(&short, Some("text/plain; charset=utf-16le"));
        assert_eq!((classify(&short).family, declared.family), (ContentFamily::Binary, ContentFamily::Text));
    }
}
