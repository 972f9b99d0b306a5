//! Filters bodies by their content, whatever the headers declare.
//!
//! [`classify`] examines one body, [`filter_by_content`] a pair. Neither decodes a body: only the first few
//! kilobytes are examined. Whether the text is readable is checked by the decoder.
//!
//! Invariant: a body with a binary byte in its head is never classified as text, and only our own
//! rules can accept a body.
//!
//! # Why
//! In the incident of 2018 a PDF was diffed against a page. On 142 real files no crate separated all pages
//! from all other files: `infer` classified 49 of 580 pages as unknown and prose that begins with "BM" as a
//! bitmap, `mimesniff` found no HTML at all. So the accepting rules are our own (`html`), modelled on the
//! WHATWG MIME sniffing standard; `infer` can only reject, and only if there is also a binary byte.

mod html;
mod magic;

use wm_job::page::Side;
use wm_job::skip::{Skip, SkipReason};
use wm_job::text::essence;

/// Number of bytes that are examined; magic numbers, prologs and first tags all lie within it.
const HEAD_BYTES: usize = 8 * 1024;

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

/// Classification of one body by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// Kind of content, as far as it matters for a diff.
    pub family: ContentFamily,
    /// Detected media type, e.g. `application/pdf`.
    pub media_type: &'static str,
    /// True if visible text and links can be extracted from it.
    pub html_like: bool,
}

impl Sniffed {
    fn new(family: ContentFamily, media_type: &'static str) -> Self {
        Self { family, media_type, html_like: matches!(family, ContentFamily::Html | ContentFamily::Empty) }
    }

    /// Refines the classification with the declared media type. Plain text and generic XML count as
    /// HTML if declared as HTML; plain text also if nothing specific is declared, because an error page
    /// is often a bare sentence.
    fn declared_as(mut self, declared: Option<&str>) -> Self {
        let html_declared = declared.is_some_and(|d| HTML_TYPES.contains(&essence(d).as_str()));
        self.html_like = match self.family {
            ContentFamily::Html | ContentFamily::Empty => true,
            ContentFamily::Text => {
                html_declared || declared.is_none_or(|d| GENERIC_TYPES.contains(&essence(d).as_str()))
            }
            ContentFamily::Xml => html_declared,
            ContentFamily::Feed | ContentFamily::Svg | ContentFamily::Json | ContentFamily::Binary => false,
        };
        self
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

/// Classifies a body by its bytes alone.
pub fn classify(bytes: &[u8]) -> Sniffed {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    let text = html::to_ascii_compatible(head);
    if let Some(media_type) = magic::document_type(&text) {
        return Sniffed::new(ContentFamily::Binary, media_type);
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

/// Classifies both bodies of a pair, or rejects the pair.
///
/// # Errors
/// [`SkipReason::Content`] if a body is not text, [`SkipReason::UnlikeContent`] if the two are different
/// kinds of text. The detail names the detected and declared types, of both sides if both matter.
pub fn filter_by_content(from: &[u8], to: &[u8], declared: [Option<&str>; 2]) -> Result<[Sniffed; 2], Skip> {
    let mut found = [classify(from).declared_as(declared[0]), classify(to).declared_as(declared[1])];
    let sides = [Side::From, Side::To];
    let describe =
        |i: usize| format!("{} is {} ({})", sides[i], found[i].media_type, declared_text(declared[i]));

    let binary = found.map(|sniffed| sniffed.family == ContentFamily::Binary);
    match binary {
        [true, true] => {
            return Err(Skip::new(SkipReason::Content, format!("{}, {}", describe(0), describe(1))));
        }
        [true, false] => return Err(Skip::new(SkipReason::Content, describe(0)).on(Side::From)),
        [false, true] => return Err(Skip::new(SkipReason::Content, describe(1)).on(Side::To)),
        [false, false] => {}
    }
    // An empty body matches any kind: a page may become empty, and so may a feed.
    let empty = found.map(|sniffed| sniffed.family == ContentFamily::Empty);
    match empty {
        [true, false] => found[0].html_like = found[1].html_like,
        [false, true] => found[1].html_like = found[0].html_like,
        [true, true] => {}
        [false, false] => {
            let html_like = found[0].html_like && found[1].html_like;
            if !html_like && found[0].family != found[1].family {
                return Err(Skip::new(
                    SkipReason::UnlikeContent,
                    format!("{}, {}", describe(0), describe(1)),
                ));
            }
            found = found.map(|sniffed| Sniffed { html_like, ..sniffed });
        }
    }
    Ok(found)
}

/// The declared media type as a clause for the detail.
fn declared_text(declared: Option<&str>) -> String {
    declared.map_or_else(|| "nothing declared".to_owned(), |media_type| format!("declared {media_type}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(
                found.html_like,
                "{:?} is {found:?}",
                String::from_utf8_lossy(&page[..page.len().min(40)])
            );
            assert_eq!(found.media_type, "text/html");
        }
        for page in [utf16le("<html><p>x", true), utf16le("<!doctype html>", false), utf16be("<html>")] {
            assert!(classify(&page).html_like, "{page:?}");
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
            assert_eq!(found.html_like, family == ContentFamily::Html, "{text}");
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
        let skip = filter_by_content(PDF, html, [Some("text/html; charset=iso-8859-1"), None]).unwrap_err();
        assert_eq!(skip.reason, SkipReason::Content);
        assert_eq!(skip.side, Some(Side::From));
        assert_eq!(skip.detail, "from is application/pdf (declared text/html; charset=iso-8859-1)");
        let skip = filter_by_content(html, PNG, [None, None]).unwrap_err();
        assert_eq!((skip.side, skip.detail.as_str()), (Some(Side::To), "to is image/png (nothing declared)"));
        let skip = filter_by_content(PDF, PNG, [None, Some("text/html")]).unwrap_err();
        assert_eq!(skip.side, None);
        assert_eq!(
            skip.detail,
            "from is application/pdf (nothing declared), to is image/png (declared text/html)"
        );
    }

    #[test]
    fn pairs_are_judged_by_both_sides() {
        const HTML: Option<&str> = Some("Text/HTML; charset=utf-8");
        const PLAIN: Option<&str> = Some("text/plain");
        // from, to, declared media types; Some(html_like), or None for a skip with UnlikeContent
        type PairCase = (&'static str, &'static str, [Option<&'static str>; 2], Option<bool>);
        let table: [PairCase; 16] = [
            ("<p>x", "<html>y", [None, None], Some(true)),
            ("<p>x", "{\"a\":1}", [HTML, HTML], None),
            ("{\"a\":1}", "[2]", [None, HTML], Some(false)),
            ("<rss>", "<feed>", [None, None], Some(false)),
            ("<svg/>", "<svg>", [None, None], Some(false)),
            ("<p>x", "<?xml version=\"1.0\"?><a/>", [None, None], None),
            ("<p>x", "<?xml version=\"1.0\"?><a/>", [None, Some("application/xml")], Some(true)),
            ("<p>x", "Service unavailable", [HTML, HTML], Some(true)),
            ("<p>x", "Service unavailable", [HTML, None], Some(true)),
            ("<p>x", "Service unavailable", [HTML, PLAIN], None),
            ("one", "two", [PLAIN, PLAIN], Some(false)),
            ("one", "two", [HTML, PLAIN], Some(false)),
            ("", "<p>x", [None, PLAIN], Some(true)),
            ("<p>x", " \n", [None, PLAIN], Some(true)),
            ("", "{}", [None, None], Some(false)),
            ("", "", [PLAIN, PLAIN], Some(true)),
        ];
        for (from, to, declared, expected) in table {
            match filter_by_content(from.as_bytes(), to.as_bytes(), declared) {
                Ok(found) => {
                    assert_eq!(found.map(|sniffed| Some(sniffed.html_like)), [expected; 2], "{from} / {to}");
                }
                Err(skip) => {
                    assert_eq!(skip.reason, SkipReason::UnlikeContent, "{from} / {to}: {skip:?}");
                    assert_eq!(None, expected, "{from} / {to}: {skip:?}");
                }
            }
        }
    }
}
