//! What must hold of any bytes whatever, as functions that panic where it does not: one for each fuzz target.
//!
//! `tests/fuzz.rs` asks the same of every file in `fuzz/seeds`, where an input that once broke something stays.

use wm_analysis::child;
use wm_analysis::sniff::{self, ContentFamily, Markup, SniffInput, SniffedPair};
use wm_analysis::{AnalysisOptions, AnalysisResult, PageInput, Whole, analyse};
use wm_job::analysis_request::{AnalysisReply, AnalysisRequest, BodyInput};
use wm_job::skip::SkipReason;
use wm_job::whole_result::{ChangedLink, LinkOp, Op, WholeResult};

const PAGE: &[u8] = b"<!doctype html><title>x</title><p>Hello <a href='/a'>old</a> world, how are you?";
/// So small that a fuzzer finds what lies beyond it.
const MAX_DECODED: u64 = 64 * 1024;

/// A function that panics where something does not hold of some bytes.
pub type Property = fn(&[u8]);

/// All of them, by the names of their targets.
pub const TARGETS: [(&str, Property); 5] =
    [("decode", decode), ("text", text), ("links", links), ("sniff", sniff), ("diff", diff)];

/// A body of any content encoding and charset becomes an answer, within the cap, that blames only what it may.
///
/// The first three bytes choose the encodings, the `Content-Type` and whether it is the older side.
pub fn decode(bytes: &[u8]) {
    const ENCODINGS: [&str; 8] =
        ["", "gzip", "deflate", "br", "zstd", "gzip, br", "deflate, zstd", "zstd, deflate, gzip"];
    const TYPES: [&str; 8] = [
        "",
        "text/html",
        "text/html; charset=utf-8",
        "text/html; charset=iso-8859-1",
        "text/html; charset=shift_jis",
        "text/html; charset=utf-16le",
        "text/html; charset=iso-2022-jp",
        "text/html; charset=gb18030",
    ];
    let [encoding, media_type, newer, body @ ..] = bytes else { return };
    let chosen =
        |of: [&str; 8], by: u8| Some(of[usize::from(by) % 8].to_owned()).filter(|name| !name.is_empty());
    let side = BodyInput {
        content_encoding: chosen(ENCODINGS, *encoding),
        content_type: chosen(TYPES, *media_type),
        ..BodyInput::default()
    };
    let newer = newer % 2 == 1;
    let [from, to] = if newer { [BodyInput::default(), side] } else { [side, BodyInput::default()] };
    let [a, b] = if newer { [PAGE, body] } else { [body, PAGE] };
    let request = AnalysisRequest { from, to, max_decoded_bytes: MAX_DECODED, max_result_bytes: 1 << 20 };
    let request = serde_json::to_vec(&request).expect("a request is JSON");
    let (reply, _) = child::answer(&request, a.to_vec(), b.to_vec(), |_| {});
    // What the worker reads is checked while it is read: numbers in range, texts within their limits.
    match serde_json::from_slice(&reply).expect("a reply is one") {
        AnalysisReply::Analysed(summary) => {
            assert!(summary.bodies.iter().all(|body| body.bytes <= MAX_DECODED), "{:?}", summary.bodies);
        }
        AnalysisReply::Skipped { .. } | AnalysisReply::Failed { .. } => {}
    }
}

/// Every step of a result.
fn whole(found: &AnalysisResult) -> WholeResult {
    let Whole::Written(gzip) = &found.whole else { panic!("nothing is too large here") };
    serde_json::from_reader(flate2::read::GzDecoder::new(&gzip[..])).expect("a whole result is JSON")
}

/// Two pages, read with a tree or without, say text without runs of blank lines; a page says the same as itself; and
/// what is said of two pages is the same as what is said of each by itself.
pub fn text(bytes: &[u8]) {
    let Some((from, to)) = parse_pair(bytes) else { return };
    let Some([old, new, both]) = analysed_alone_and_together(&from, &to) else { return };
    let [said_by_old, said_by_new, [a, b]] = [&old, &new, &both]
        .map(|found| rebuild_texts(&whole(found).html_text_dmp.expect("both are pages").diff));
    // A page that needs no tree is read without one where its neighbour does.
    if !both.approximate {
        assert!(a == said_by_old[0] && b == said_by_new[0], "{a:?} / {b:?}");
    }
    for text in [a, b] {
        assert_eq!(text.trim(), text);
        let blank = text.split(|c: char| !c.is_whitespace()).filter(|run| run.matches('\n').count() >= 2);
        blank.for_each(|run| assert_eq!(run, "\n\n", "{text:?}"));
    }
}

/// Every link of either page is in exactly one step, and the steps of a changed one rebuild both of its texts.
///
/// Bytes are read as markup, or (by their first bit but one) as texts and targets in turn.
pub fn links(bytes: &[u8]) {
    let Some((from, to)) = parse_pair(bytes) else { return };
    let built = bytes[0] & 2 != 0;
    let [from, to] = [from, to].map(|page| if built { page_of_links(&page) } else { page });
    let Some([old, new, both]) = analysed_alone_and_together(&from, &to) else { return };
    let steps = |found: &AnalysisResult| whole(found).links_json.expect("both are pages").diff;
    let (mut of_old, mut of_new) = (0, 0);
    for step in steps(&both) {
        match step {
            LinkOp::Plain(code, _) => {
                assert!((-1..=1).contains(&code));
                of_old += usize::from(code <= 0);
                of_new += usize::from(code >= 0);
            }
            LinkOp::Changed(code, ChangedLink { text, href, hrefs }) => {
                assert_eq!(code, 100);
                assert_eq!(rebuild_texts(&href), hrefs);
                rebuild_texts(&text);
                of_old += 1;
                of_new += 1;
            }
        }
    }
    if !both.approximate {
        assert_eq!([of_old, of_new], [steps(&old).len(), steps(&new).len()]);
    }
}

fn page_of_links(texts: &str) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let parts: Vec<&str> = texts.split('|').collect();
    let link = |pair: &[&str]| {
        format!("<a href=\"{}\">{}</a>", escaped(pair[0]), escaped(pair.last().unwrap_or(&"")))
    };
    parts.chunks(2).map(link).collect()
}

/// Bytes are taken for the same thing whatever stands on the other side; binary bytes never for text.
pub fn sniff(bytes: &[u8]) {
    let found = sniff::classify(bytes, None);
    let binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0B | 0x0E..=0x1A | 0x1C..=0x1F);
    // UTF-16, and padding.
    let wide =
        matches!(bytes, [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]) || bytes.iter().take(1445).any(|b| *b == 0);
    if matches!(found.family, ContentFamily::Text | ContentFamily::Json | ContentFamily::Empty) && !wide {
        assert!(!bytes.iter().take(1445).any(binary), "{found:?}");
    }
    for declared in [None, Some("text/html"), Some("application/json"), Some("image/png; charset=x")] {
        let body = SniffInput { bytes, declared, ..SniffInput::default() };
        let page = SniffInput { bytes: PAGE, ..SniffInput::default() };
        match sniff::filter_by_content([body; 2]) {
            Ok(both) => {
                assert!(both.sniffed.iter().all(|side| side.family == found.family), "{both:?}, {found:?}")
            }
            Err(skip) => {
                assert_eq!((skip.reason, found.family), (SkipReason::Content, ContentFamily::Binary));
            }
        }
        let judged = |pair| sniff::filter_by_content(pair).map_err(|skip| skip.reason);
        let turned = |pair: SniffedPair| {
            let ([old, new], markup) = (pair.sniffed, pair.markup);
            SniffedPair { sniffed: [new, old], markup: markup.map(|[old, new]| [new, old]) }
        };
        assert_eq!(judged([body, page]), judged([page, body]).map(turned));
    }
}

/// The steps of a diff put together are both texts, whether there was time or not.
pub fn diff(bytes: &[u8]) {
    let Some((from, to)) = parse_pair(bytes) else { return };
    let Ok(found) = analysed(&from, &to, None) else { return };
    let steps = whole(&found).html_source_dmp.expect("it is always made").diff;
    assert!(rebuild_texts(&steps) == [from, to], "the steps do not rebuild both texts");
}

/// Two texts, split where 0xFF stands first, or in the middle.
fn parse_pair(bytes: &[u8]) -> Option<(String, String)> {
    let middle = bytes.iter().position(|byte| *byte == 0xFF).unwrap_or(bytes.len() / 2);
    let (from, to) = bytes.split_at(middle);
    let text =
        |bytes| String::from_utf8_lossy(bytes).replace('\0', "").trim_start_matches('\u{FEFF}').to_owned();
    Some((text(from), text(to.strip_prefix(&[0xFF]).unwrap_or(to))))
}

fn analysed(from: &str, to: &str, markup: Option<Markup>) -> Result<AnalysisResult, ()> {
    let content_type = Some("text/html; charset=utf-8");
    let page = |text| PageInput { bytes: str::as_bytes(text), content_type, status: Some(200), markup };
    let options = AnalysisOptions { max_result_bytes: usize::MAX };
    analyse(page(from), page(to), &options, |_| {}).map_err(|skip| {
        assert_eq!(skip.reason, SkipReason::Undecodable);
    })
}

/// Each page compared with itself, where nothing may have changed; and then both.
fn analysed_alone_and_together(from: &str, to: &str) -> Option<[AnalysisResult; 3]> {
    let alone = |page: &str| {
        let found = analysed(page, page, Some(Markup::Html)).ok()?;
        assert!(found.priority == 0.0, "{:?}", found.numbers);
        Some(found)
    };
    Some([alone(from)?, alone(to)?, analysed(from, to, Some(Markup::Html)).ok()?])
}

/// Both texts, put together from steps; none of those is empty, and no two neighbours are of one kind.
fn rebuild_texts(steps: &[Op]) -> [String; 2] {
    assert!(steps.iter().all(|Op(_, text)| !text.is_empty()));
    assert!(steps.windows(2).all(|pair| pair[0].0 != pair[1].0));
    [1, -1].map(|other| {
        steps.iter().filter(|Op(code, _)| *code != other).map(|Op(_, text)| text.as_str()).collect()
    })
}
