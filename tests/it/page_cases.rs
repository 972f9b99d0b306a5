//! Pages as archives and servers hand them out: lost labels, cut streams, mixed encodings, vanished pages. Each is
//! served over HTTP and compared by the real command.

use std::collections::BTreeMap;
use std::io::Write as _;

use encoding_rs::{EUC_JP, Encoding, GBK, ISO_2022_JP, KOI8_R, SHIFT_JIS, WINDOWS_1251, WINDOWS_1252};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use wm_testbed::body::Body;
use wm_testbed::site::Site;

use crate::harness::{env_var_name, run};

/// One body and its headers.
#[derive(Clone)]
struct Served {
    bytes: Vec<u8>,
    headers: Vec<(&'static str, &'static str)>,
}

fn served(bytes: impl Into<Vec<u8>>, content_type: &'static str) -> Served {
    let headers = if content_type.is_empty() { vec![] } else { vec![("content-type", content_type)] };
    Served { bytes: bytes.into(), headers }
}

impl Served {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn body(&self) -> Body {
        let body = Body::raw(self.bytes.clone());
        self.headers.iter().fold(body, |body, (name, value)| body.header(name, value))
    }
}

fn html(bytes: impl Into<Vec<u8>>) -> Served {
    served(bytes, "text/html; charset=utf-8")
}

/// What the JSON of `diff` must have: pointers and values.
type Expected = Vec<(&'static str, Value)>;

/// A site, and the command that compares what it serves.
struct Archive(Site);

impl Archive {
    async fn new() -> Self {
        Self(Site::start().await.unwrap())
    }

    async fn diff(&self, from: &Served, to: &Served) -> Value {
        let urls = [self.0.put("/from", from.body()), self.0.put("/to", to.body())];
        let environment = BTreeMap::from([(env_var_name("fetch.allow_networks"), "127.0.0.0/8".to_owned())]);
        run(&["diff", urls[0].as_str(), urls[1].as_str(), "-o", "json"], &environment, b"").await.json()
    }

    async fn expect(&self, name: &str, from: &Served, to: &Served, expected: &Expected) {
        let found = self.diff(from, to).await;
        for (pointer, value) in expected {
            assert_eq!(
                found.pointer(pointer).unwrap_or(&Value::Null),
                value,
                "{name} at {pointer}: {found:#}"
            );
        }
    }
}

const TEXT: &str = "/report/annotation/text_diff_count";
const SOURCE: &str = "/report/annotation/source_diff_count";
const LINKS: &str = "/report/annotation/links_diff_count";
const FROM_NOTES: &str = "/report/bodies/0/notes";
const TO_NOTES: &str = "/report/bodies/1/notes";
const FROM_ENCODING: &str = "/report/bodies/0/encoding";
const TO_ENCODING: &str = "/report/bodies/1/encoding";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// zstd without compression: one raw block.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let block = (u32::try_from(bytes.len()).unwrap() << 3) | 1;
    [b"\x28\xB5\x2F\xFD\x00\x58".as_slice(), &block.to_le_bytes()[..3], bytes].concat()
}

/// brotli without compression: one stored block and an empty last one.
fn brotli(bytes: &[u8]) -> Vec<u8> {
    let header = ((u32::try_from(bytes.len()).unwrap() - 1) << 4) | (1 << 20);
    [&header.to_le_bytes()[..3], bytes, &[3]].concat()
}

fn encoded(encoding: &'static Encoding, text: &str) -> Vec<u8> {
    encoding.encode(text).0.into_owned()
}

fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn utf16be(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn fixture(name: &str, content_type: &'static str) -> [Served; 2] {
    ["from", "to"].map(|side| {
        let path = format!("{}/tests/fixtures/cases/{name}.{side}", env!("CARGO_MANIFEST_DIR"));
        served(std::fs::read(path).unwrap(), content_type)
    })
}

#[tokio::test]
async fn every_recorded_case_comes_out_right() {
    const HTML: &str = "text/html; charset=utf-8";
    let archive = Archive::new().await;
    let gzipped = |[from, to]: [Served; 2]| [from.header("content-encoding", "gzip"), to];
    let cases: Vec<(&str, [Served; 2], Expected)> = vec![
        (
            "gzip-blank-label",
            fixture("gzip-blank-label", HTML).map(|side| side.header("content-encoding", "")),
            vec![(TEXT, json!(2)), (FROM_NOTES, json!(["undeclared_compression"]))],
        ),
        (
            "gzip-no-label-one-side",
            fixture("gzip-no-label-one-side", HTML),
            vec![(TEXT, json!(2)), (FROM_NOTES, json!(null)), (TO_NOTES, json!(["undeclared_compression"]))],
        ),
        (
            "gzip-without-trailer",
            gzipped(fixture("gzip-without-trailer", HTML)),
            vec![("/report/bodies/0/decoded_bytes", json!(143)), (FROM_NOTES, json!(["cut_short"]))],
        ),
        (
            "gzip-ended-by-sync-flush",
            gzipped(fixture("gzip-ended-by-sync-flush", HTML)),
            vec![(TEXT, json!(2)), (FROM_NOTES, json!(["cut_short"]))],
        ),
        (
            "stray-byte-russian",
            fixture("stray-byte-russian", "text/html"),
            vec![(TEXT, json!(3)), (FROM_ENCODING, json!("UTF-8")), (TO_ENCODING, json!("UTF-8"))],
        ),
        (
            "utf8-declared-late-and-stray-byte",
            fixture("utf8-declared-late-and-stray-byte", "text/html"),
            vec![(TEXT, json!(3)), (FROM_ENCODING, json!("UTF-8")), (TO_ENCODING, json!("UTF-8"))],
        ),
        (
            "iso-2022-jp-undeclared",
            fixture("iso-2022-jp-undeclared", "text/html"),
            vec![(TEXT, json!(2)), (FROM_ENCODING, json!("ISO-2022-JP"))],
        ),
        (
            "xhtml-empty-script",
            fixture("xhtml-empty-script", "application/xhtml+xml"),
            vec![(TEXT, json!(4)), (LINKS, json!(0)), (FROM_NOTES, json!(null))],
        ),
        (
            "xhtml-empty-title",
            fixture("xhtml-empty-title", "application/xhtml+xml"),
            vec![(TEXT, json!(4)), (LINKS, json!(0))],
        ),
        (
            "text-plain-gets-an-html-example",
            fixture("text-plain-gets-an-html-example", "text/plain"),
            vec![(SOURCE, json!(1)), (TEXT, json!(null))],
        ),
        ("json-with-nan", fixture("json-with-nan", "application/json"), vec![(SOURCE, json!(2))]),
        ("links-in-a-shadow-root", fixture("links-in-a-shadow-root", HTML), vec![(LINKS, json!(2))]),
        (
            "utf16le-no-mark-meta-first",
            fixture("utf16le-no-mark-meta-first", "text/html"),
            vec![(TEXT, json!(4)), (FROM_ENCODING, json!("UTF-16LE"))],
        ),
        (
            "description-mentions-charset",
            fixture("description-mentions-charset", "text/html"),
            vec![(TEXT, json!(3)), (FROM_ENCODING, json!("UTF-8"))],
        ),
        ("nul-padding", fixture("nul-padding", HTML), vec![(TEXT, json!(2))]),
        (
            "moved-paragraph",
            fixture("moved-paragraph", HTML),
            vec![(TEXT, json!(2)), ("/report/annotation/text_diff_length", json!(66))],
        ),
        (
            "pdf-behind-a-php-notice",
            fixture("pdf-behind-a-php-notice", "text/html"),
            vec![
                ("/outcome", json!("skipped")),
                ("/skip/reason", json!("content")),
                ("/skip/sniffed", json!({ "from": "text/html", "to": "application/pdf" })),
            ],
        ),
    ];
    for (name, [from, to], expected) in cases {
        archive.expect(name, &from, &to, &expected).await;
    }
}

const OLD: &str = "<!doctype html><title>x</title><p>The agency proposed the rule on 4 May.</p>";
const NEW: &str = "<!doctype html><title>x</title><p>The agency withdrew the rule on 4 May.</p>";

#[tokio::test]
async fn a_compression_is_undone_whatever_its_label_says() {
    let archive = Archive::new().await;
    let undone: Expected = vec![(TEXT, json!(2)), (FROM_NOTES, json!(["undeclared_compression"]))];
    let old = OLD.as_bytes();
    for (name, bytes) in [
        ("gzip", gzip(old)),
        ("zlib", zlib(old)),
        ("raw deflate", deflate(old)),
        ("zstd", zstd(old)),
        ("gzip twice", gzip(&gzip(old))),
        ("gzip of two members", [gzip(&old[..30]), gzip(&old[30..])].concat()),
    ] {
        for label in [None, Some(""), Some("identity"), Some("none"), Some("unheard-of")] {
            let from = html(bytes.clone());
            let from = label.map_or(from.clone(), |label| from.header("content-encoding", label));
            archive.expect(&format!("{name} as {label:?}"), &from, &html(NEW), &undone).await;
        }
    }
    // Without a signature: stored brotli begins with control characters from a certain length on.
    let [from, to] = [OLD, NEW].map(|page| page.repeat(3));
    archive.expect("brotli", &html(brotli(from.as_bytes())), &html(to), &undone[1..].to_vec()).await;
    let wrong = html(gzip(old)).header("content-encoding", "br");
    archive.expect("gzip as br", &wrong, &html(NEW), &undone).await;
    let half = html(gzip(&gzip(old))).header("content-encoding", "gzip");
    archive.expect("one of two layers", &half, &html(NEW), &undone).await;
    let image = html(gzip(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"));
    let skipped: Expected = vec![("/skip/reason", json!("content"))];
    archive.expect("an archive of no page", &image, &html(NEW), &skipped).await;
}

#[tokio::test]
async fn a_stale_label_and_chance_make_no_stream_of_a_body() {
    let archive = Archive::new().await;
    let page = |day: &str| format!("{day} <html><body><p>A page of the agency.</p></body></html>");
    let plain: Expected = vec![(TEXT, json!(2)), (FROM_NOTES, json!(null)), (TO_NOTES, json!(null))];
    for label in ["br", "deflate", "gzip", "zstd"] {
        let [from, to] = ["5", "7"].map(|day| html(page(day)).header("content-encoding", label));
        archive.expect(label, &from, &to, &plain).await;
        let sources: Expected = vec![(SOURCE, json!(2)), (FROM_NOTES, json!(null))];
        for [old, new] in
            [["[{\"id\":1}]", "[{\"id\":2}]"], ["Some words here", "More words here"], ["{}", "[]"]]
        {
            let [from, to] =
                [old, new].map(|text| served(text, "application/json").header("content-encoding", label));
            archive.expect(old, &from, &to, &sources).await;
        }
    }
    let utf16: Expected =
        vec![(SOURCE, json!(2)), (FROM_ENCODING, json!("UTF-16LE")), (FROM_NOTES, json!(null))];
    let [from, to] = ["{\"a\":4}", "{\"a\":5}"].map(|text| served(utf16le(text), "application/json"));
    archive.expect("UTF-16 is no stream", &from, &to, &utf16).await;
    let skipped: Expected = vec![("/skip/reason", json!("content"))];
    let image = [b"\x4B\x04\x00\x89PNG\r\n\x1A\n\0\0\0\rIHDR".as_slice(), &[7; 500]].concat();
    archive.expect("a picture behind a few bytes", &html(image), &html(NEW), &skipped).await;
    let pdf = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n";
    for charset in ["text/html; charset=utf-16", "text/html; charset=utf-16be"] {
        archive.expect(charset, &served(pdf, charset), &html(NEW), &skipped).await;
    }
}

#[tokio::test]
async fn a_stream_without_its_end_is_used_and_a_damaged_one_is_not() {
    let archive = Archive::new().await;
    let old = OLD.as_bytes();
    let without = |bytes: Vec<u8>, end: usize| bytes[..bytes.len() - end].to_vec();
    let cut: Expected = vec![(TEXT, json!(2)), (FROM_NOTES, json!(["cut_short"]))];
    for (name, bytes, label) in [
        ("gzip without checksum and length", without(gzip(old), 8), "gzip"),
        ("gzip without its last byte", without(gzip(old), 1), "gzip"),
        ("zlib without checksum", without(zlib(old), 4), "deflate"),
        ("zlib without its last byte", without(zlib(old), 1), "deflate"),
        ("brotli without its last block", without(brotli(old), 1), "br"),
        ("gzip in gzip, the inner one cut", gzip(&without(gzip(old), 8)), "gzip, gzip"),
    ] {
        archive.expect(name, &html(bytes).header("content-encoding", label), &html(NEW), &cut).await;
    }
    let numbers: String = (0..5_000).map(|n| format!("<p>{n}")).collect();
    let mut damaged = gzip(numbers.as_bytes());
    let middle = damaged.len() / 2;
    damaged[middle..middle + 30].fill(0xFF);
    let broken: Expected = vec![("/skip/reason", json!("undecodable")), ("/skip/side", json!("from"))];
    let damaged = html(damaged).header("content-encoding", "gzip");
    archive.expect("a damaged middle", &damaged, &html(NEW), &broken).await;
}

#[tokio::test]
async fn an_encoding_is_weighed_and_both_captures_count() {
    let archive = Archive::new().await;
    let russian = |day: &str| format!("<p>Страница о погоде в городе, день {day}</p>").repeat(3);
    let page =
        "<h1>News of the town</h1><p>All that happened there</p><ul><li>first</li><li>second</li></ul>";
    let plain = "text/html";
    let [stray, cut] = [b"\x96".as_slice(), "я".as_bytes()[..1].as_ref()]
        .map(|end| served([russian("5").as_bytes(), end].concat(), plain));
    let utf8: Expected = vec![(FROM_ENCODING, json!("UTF-8")), (TO_ENCODING, json!("UTF-8"))];
    for (name, to) in [("a stray byte", stray), ("cut inside a character", cut)] {
        archive.expect(name, &served(russian("4"), plain), &to, &utf8).await;
    }
    let late = |text: &str| {
        let head = format!("<!doctype html><html><head>{}", "<link rel=x href=y>\n".repeat(300));
        [format!("{head}<meta charset=koi8-r>").into_bytes(), encoded(KOI8_R, text)].concat()
    };
    let quoted = |quote: &str, text: &str| encoded(WINDOWS_1252, &format!("{quote}<p>caf\u{e9} {text}"));
    let both = |name: &'static str, old: Vec<u8>, new: Vec<u8>, content_type, encoding: &str| {
        let expected =
            vec![(FROM_ENCODING, json!(encoding)), (TO_ENCODING, json!(encoding)), (TEXT, json!(2))];
        (name, served(old, content_type), served(new, content_type), expected)
    };
    let japanese = |day: &str| format!("<p>新しい水質規則の意見は{day}日まで</p>");
    let cases: Vec<(&str, Served, Served, Expected)> = vec![
        both("a late meta", late("день 4"), late("день 5"), plain, "KOI8-R"),
        both(
            "a meta in a script",
            quoted("<script>'<meta charset=utf-8>'</script>", "4"),
            quoted("<script>'<meta charset=utf-8>'</script>", "5"),
            plain,
            "windows-1252",
        ),
        both(
            "a keyword",
            [b"<meta name=keywords content='charset=gbk'>", japanese("4").as_bytes()].concat(),
            [b"<meta name=keywords content='charset=gbk'>", japanese("5").as_bytes()].concat(),
            plain,
            "UTF-8",
        ),
        both(
            "ISO-2022-JP",
            encoded(ISO_2022_JP, &japanese("4")),
            encoded(ISO_2022_JP, &japanese("5")),
            "",
            "ISO-2022-JP",
        ),
        both(
            "Shift_JIS",
            encoded(SHIFT_JIS, &japanese("4").repeat(2)),
            encoded(SHIFT_JIS, &(japanese("4") + &japanese("5"))),
            plain,
            "Shift_JIS",
        ),
        both("EUC-JP", encoded(EUC_JP, &japanese("4")), encoded(EUC_JP, &japanese("5")), plain, "EUC-JP"),
        both("UTF-16LE", utf16le("<div>4 June</div>"), utf16le("<div>5 June</div>"), plain, "UTF-16LE"),
        both("UTF-16BE", utf16be("\n<!-- x --><p>4"), utf16be("\n<!-- x --><p>5"), plain, "UTF-16BE"),
        both(
            "UTF-16 by its header",
            utf16le("<p>\u{6708}4"),
            utf16le("<p>\u{6708}5"),
            "text/html; charset=utf-16",
            "UTF-16LE",
        ),
        both(
            "UTF-16 that is none",
            b"<p>4 caf\xC3\xA9".to_vec(),
            b"<p>5 caf\xC3\xA9".to_vec(),
            "text/html; charset=utf-16",
            "UTF-8",
        ),
        (
            "declared on one side only",
            served(encoded(WINDOWS_1251, &format!("{page}<p>Да 4")), "text/html; charset=windows-1251"),
            served(encoded(WINDOWS_1251, &format!("{page}<p>Да 5")), plain),
            vec![
                (TEXT, json!(2)),
                (TO_ENCODING, json!("windows-1251")),
                (TO_NOTES, json!(["charset_of_both"])),
            ],
        ),
        (
            "as many errors as characters",
            served(format!("{page}<p>4 caf\u{e9}s"), plain),
            served([page.as_bytes(), b"<p>5 caf\xC3\xA9s\x96"].concat(), plain),
            vec![(TO_ENCODING, json!("UTF-8")), (TO_NOTES, json!(["charset_of_both"]))],
        ),
        (
            "GBK that lost its declaration",
            served(encoded(GBK, &format!("{page}<p>中文 4")), "text/html; charset=gbk"),
            served(encoded(GBK, &format!("{page}<p>中文 5")), plain),
            vec![(TEXT, json!(2)), (TO_ENCODING, json!("GBK"))],
        ),
        (
            "padding of NULs",
            served([page.as_bytes(), &[0; 3_000], b"<p>4"].concat(), plain),
            served([page.as_bytes(), &[0; 1_000], b"<p>5"].concat(), plain),
            vec![(TEXT, json!(2)), (SOURCE, json!(2))],
        ),
        (
            "padding before the first tag",
            served([b"Notice: x".as_slice(), &[0; 64], b"<html><body>4"].concat(), plain),
            served([b"Notice: x".as_slice(), &[0; 32], b"<html><body>5"].concat(), plain),
            vec![(TEXT, json!(2))],
        ),
    ];
    for (name, from, to, expected) in cases {
        archive.expect(name, &from, &to, &expected).await;
    }
}

#[tokio::test]
async fn kinds_are_told_by_both_sides_and_a_vanished_page_is_news() {
    let archive = Archive::new().await;
    let gone: Expected = vec![
        ("/outcome", json!("analysed")),
        ("/report/bodies/0/sniffed", json!("text/html")),
        ("/report/bodies/1/sniffed", json!("text/plain")),
        ("/report/missing", json!(null)),
    ];
    let page = "<!doctype html><title>Dockets</title><p>The dockets of <a href=/2017>2017</a>, open for comments.</p>";
    for notice in ["404 page not found\n", "Not Found", "no such page: <dockets>", "This site has moved."] {
        for content_type in ["text/plain; charset=utf-8", "text/plain", "text/x-error"] {
            archive.expect(notice, &html(page), &served(notice, content_type), &gone).await;
        }
    }
    let found = archive.diff(&html(page), &served("404 page not found\n", "text/plain")).await;
    assert!(found["report"]["annotation"]["priority"].as_f64().unwrap() >= 0.6, "{found:#}");
    let back: Expected = vec![("/outcome", json!("analysed")), (LINKS, json!(1))];
    archive.expect("it came back", &served("Not Found", "text/plain"), &html(page), &back).await;

    let sources: Expected = vec![(TEXT, json!(null)), ("/report/missing/0/diff", json!("html_text_dmp"))];
    for (name, content_type, old, new) in [
        ("an example in a text", "text/plain", "Save it.\n", "Save it.\n<html><body>x\n"),
        ("a template in a script", "text/javascript", "var a = 1\n", "var a = '<html><body>'\n"),
        ("a trailing comma", "application/json", "{\"a\": 1}", "{\"a\": 1,}"),
        ("a comment in JSON", "application/ld+json", "[1]", "// x\n[1]"),
        ("a table", "text/csv", "a,b\n", "<b>a</b>,b\n"),
        ("a style sheet", "text/css", "b { }", "<!-- b { } -->"),
    ] {
        archive.expect(name, &served(old, content_type), &served(new, content_type), &sources).await;
    }
    for (content_type, old, new) in [
        ("text/css", "<!-- b {color: red} -->", "<!-- b {color: blue} -->"),
        ("application/x-yaml", "a: 1\n", "<b>: 1\n"),
        ("text/plain", "%PDF-1.4\nGIF89a\n", "%!PS-Adobe\nGIF89a\n"),
        ("text/markdown", "<p>x</p>\n# y", "<p>x</p>\n# z"),
    ] {
        archive.expect(old, &served(old, content_type), &served(new, content_type), &sources).await;
    }

    let pdf = b"\n%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n";
    let skipped: Expected = vec![
        ("/skip/reason", json!("content")),
        ("/skip/sniffed", json!({ "from": "text/html", "to": "application/pdf" })),
    ];
    for before in ["", "<br />\n<b>Notice</b>: x\n", "<!-- cached -->\n", "Warning: x\n", "<p>x\n<p>y\n"] {
        let to = served([before.as_bytes(), pdf].concat(), "text/html");
        archive.expect(before, &html(page), &to, &skipped).await;
    }
}

#[tokio::test]
async fn xhtml_is_read_as_xml_unless_it_is_not_well_formed() {
    let archive = Archive::new().await;
    let xhtml = |body: String| served(body, "application/xhtml+xml");
    let page = |empty: &str, day: &str| {
        format!(
            "<html xmlns=\"http://www.w3.org/1999/xhtml\"><head>{empty}<title>t</title></head>\
            <body>{empty}<p>Comments close {day}</p><p><a href=\"/d\">Docket</a></p></body></html>"
        )
    };
    let right: Expected =
        vec![(TEXT, json!(2)), (LINKS, json!(0)), (FROM_NOTES, json!(null)), (TO_NOTES, json!(null))];
    for empty in [
        "<title/>",
        "<script src=\"x\"/>",
        "<style/>",
        "<iframe/>",
        "<textarea/>",
        "<noscript/>",
        "<select/>",
    ] {
        let [old, new] = ["4", "5"].map(|day| xhtml(page(empty, day)));
        archive.expect(empty, &old, &new, &right).await;
        // By its bytes, where nothing is declared.
        let undeclared = |day| {
            served(format!("<?xml version=\"1.0\"?>\n{}", page(empty, day)), "application/octet-stream")
        };
        archive.expect(empty, &undeclared("4"), &undeclared("5"), &right).await;
    }
    for broken in ["<br>", "fish & chips", "&unknown;", "<b>x</p>", "<img alt=x>"] {
        let to = xhtml(page("", "5").replace("<p>Comments", &format!("<p>{broken} Comments")));
        let told: Expected = vec![(FROM_NOTES, json!(null)), (TO_NOTES, json!(["not_well_formed"]))];
        archive.expect(broken, &xhtml(page("", "4")), &to, &told).await;
    }
    let swallowed: Expected = vec![
        (TEXT, json!(2)),
        (FROM_NOTES, json!(["not_well_formed"])),
        (TO_NOTES, json!(["not_well_formed"])),
    ];
    for empty in ["<script src=\"x\"/>", "<title/>", "<style/>", "<textarea/>", "<iframe/>"] {
        let [old, new] = ["4", "5"].map(|day| xhtml(page(empty, &format!("fish & {day} chips"))));
        archive.expect(empty, &old, &new, &swallowed).await;
    }
    let entity = "<!DOCTYPE html [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>";
    let never: Expected = vec![(TO_NOTES, json!(["not_well_formed"]))];
    let to = xhtml(format!("{entity}{}", page("", "&b;")));
    archive.expect("entities", &xhtml(page("", "4")), &to, &never).await;
}

#[tokio::test]
async fn links_keep_their_text_wherever_they_are() {
    let archive = Archive::new().await;
    for around in [
        ["<template shadowrootmode=open>", "</template>"],
        ["<svg>", "</svg>"],
        ["<svg><g>", "</g></svg>"],
        ["<math><mtext>", "</mtext></math>"],
        ["<div><template>", "</template></div>"],
        ["<svg><foreignObject>", "</foreignObject></svg>"],
    ] {
        let page =
            |target: &str| html(format!("<p>x</p>{}<a href={target}>Dockets</a>{}", around[0], around[1]));
        let found = archive.diff(&page("/a"), &page("/b")).await;
        let change = &found["report"]["changes"]["links_json"]["changes"][0];
        assert_eq!(change["to"], json!({ "text": "Dockets", "href": "/b" }), "{around:?} {found:#}");
    }
    let page = |text: &str| html(format!("<a href=/a>Dockets<svg><text>{text}</text></svg></a>"));
    archive.expect("muted inside", &page("x"), &page("y"), &vec![(LINKS, json!(0))]).await;
}

#[tokio::test]
async fn a_content_type_is_read_as_browsers_read_it() {
    let archive = Archive::new().await;
    let [old, new] = ["4", "5"].map(|day| encoded(WINDOWS_1251, &format!("<p>Да {day}")));
    let right: Expected = vec![(TEXT, json!(2)), (FROM_ENCODING, json!("windows-1251"))];
    for content_type in [
        "text/html, text/html; charset=windows-1251",
        "text/html; charset=windows-1251, text/html",
        "text/html;;charset=\"windows-1251\"",
        "text/html; x=\"charset=utf-8\"; charset=windows-1251",
        "text/html; CHARSET=windows-1251; charset=utf-8",
        "text/plain, text/html; charset=windows-1251",
    ] {
        let [from, to] = [&old, &new].map(|bytes| served(bytes.clone(), content_type));
        archive.expect(content_type, &from, &to, &right).await;
    }
    let repeated =
        |bytes: &[u8]| served(bytes, "text/plain").header("content-type", "text/html; charset=windows-1251");
    archive.expect("repeated", &repeated(&old), &repeated(&new), &right).await;
}
