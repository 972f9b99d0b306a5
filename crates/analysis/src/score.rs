//! Measures diffs: the numbers and hashes of the annotation, and the priority computed from them.
//!
//! All formulas, constants and roundings are those of web-monitoring-db's `AnalyzeChangeJob`. Of 101 recorded
//! annotations, 98 follow from their ratios alone, and the other three from the cap for error pages.
//!
//! Invariant: a priority is between 0 and 0.65, and a diff without changes does not contribute to it.
//!
//! # Why
//! The hash covers JSON as written by Rails (`&`, `<`, `>`, U+2028 and U+2029 escaped, the rest raw), because
//! hashes of the old job and of this one are stored in the same database. It is fed incrementally: the
//! changes of a large page as one JSON text would be the largest object in memory.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use sha2::{Digest, Sha256};

use wm_job::analysis_request::DiffNumbers;
use wm_job::text::hex;
use wm_job::whole_result::LinkOp;

/// Ratio of changed text from which a page is checked for being an error page.
const ERROR_PAGE_RATIO: f64 = 0.9;
/// Phrases of the proxy's error page, in lower case; both must be present.
const ERROR_PAGE_WORDS: [&str; 2] =
    ["error connecting to apache tomcat instance", "no connection could be made"];
/// Highest priority of a pair with an error page.
const ERROR_PAGE_PRIORITY: f64 = 0.1;

/// Accumulates the measures step by step.
pub(super) struct DiffStatsBuilder {
    json: JsonHasher,
    count: u64,
    length: u64,
    total: u64,
}

impl DiffStatsBuilder {
    pub(super) fn new() -> Self {
        let mut json = JsonHasher::default();
        json.raw("[");
        Self { json, count: 0, length: 0, total: 0 }
    }

    /// Adds a step of a text diff; its length, which is returned, is its number of code points.
    pub(super) fn add_text(&mut self, code: i8, text: &str) -> usize {
        let chars = text.chars().count();
        self.total += chars as u64;
        if code != 0 {
            self.length += chars as u64;
            self.begin_change();
            self.json.value(&(code, text));
        }
        chars
    }

    /// Adds a step of a links diff; its length is its number of keys, as in the old job.
    pub(super) fn add_link(&mut self, op: &LinkOp) {
        let (keys, changed) = match op {
            LinkOp::Plain(code, _) => (2, *code != 0),
            LinkOp::Changed(..) => (3, true),
        };
        self.total += keys;
        if changed {
            self.length += keys;
            self.begin_change();
            self.json.value(op);
        }
    }

    fn begin_change(&mut self) {
        if self.count > 0 {
            self.json.raw(",");
        }
        self.count += 1;
    }

    /// Computes the measures of all added steps.
    pub(super) fn finish(mut self) -> DiffNumbers {
        self.json.raw("]");
        let ratio = if self.total == 0 { 0.0 } else { round(self.length as f64 / self.total as f64) };
        DiffNumbers { hash: hex(&self.json.0.finalize()), count: self.count, length: self.length, ratio }
    }
}

/// Measures of the diffs that could be computed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PageNumbers {
    /// Diff of the visible text.
    pub text: Option<DiffNumbers>,
    /// Diff of the source.
    pub source: Option<DiffNumbers>,
    /// Diff of the links.
    pub links: Option<DiffNumbers>,
}

/// The priority of a pair, rounded. An error page, recognised by status or text, caps it.
pub(super) fn prioritise(page: &PageNumbers, error_page: bool) -> f64 {
    let uncapped = priority(page.text.as_ref(), page.source.as_ref(), page.links.as_ref());
    round(if error_page { uncapped.min(ERROR_PAGE_PRIORITY) } else { uncapped })
}

/// Priority before the cap.
fn priority(text: Option<&DiffNumbers>, source: Option<&DiffNumbers>, links: Option<&DiffNumbers>) -> f64 {
    let [text, source, links] = [text, source, links].map(|numbers| numbers.map(|n| (n.count, n.ratio)));
    let terms = PriorityTerms::of(text, source, links);
    terms.text + terms.source + terms.links
}

/// What each diff adds to a priority, before the cap for error pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PriorityTerms {
    /// 0.1 + 0.3 ln(1 + (e - 1) ratio), where the text changed.
    pub text: f64,
    /// 0.1 ln(1 + (e - 1) ratio), where only the source changed.
    pub source: f64,
    /// 0.05 + 0.2 ln(1 + (e - 1) ratio), where links changed.
    pub links: f64,
}

impl PriorityTerms {
    /// Those of three diffs, each by the number of its changes and its ratio: text counts most, source only if no text
    /// changed, links are added to either.
    pub fn of(text: Option<(u64, f64)>, source: Option<(u64, f64)>, links: Option<(u64, f64)>) -> Self {
        let changed = |diff: Option<(u64, f64)>| diff.filter(|(count, _)| *count > 0).map(|(_, ratio)| ratio);
        let (text, source) = match (changed(text), changed(source)) {
            (Some(text), _) => (0.1 + 0.3 * log_scaled(text), 0.0),
            (None, Some(source)) => (0.0, 0.1 * log_scaled(source)),
            (None, None) => (0.0, 0.0),
        };
        Self { text, source, links: changed(links).map_or(0.0, |links| 0.05 + 0.2 * log_scaled(links)) }
    }
}

/// Logarithmic scaling that emphasises small changes: ln(1 + (e - 1) r).
fn log_scaled(ratio: f64) -> f64 {
    ((std::f64::consts::E - 1.0) * ratio).ln_1p()
}

/// Rounds to 4 decimals, halves away from zero.
fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// Whether one of two mostly different texts is the proxy's error page.
pub(super) fn looks_like_error(text: &DiffNumbers, old: &str, new: &str) -> bool {
    let says = |page: &str| ERROR_PAGE_WORDS.iter().all(|words| contains_ignoring_case(page, words));
    text.ratio >= ERROR_PAGE_RATIO && (says(old) || says(new))
}

fn contains_ignoring_case(text: &str, lower: &str) -> bool {
    let (first, rest) = lower.as_bytes().split_at(1);
    let text = text.as_bytes();
    memchr::memchr2_iter(first[0], first[0].to_ascii_uppercase(), text)
        .any(|at| text[at + 1..].get(..rest.len()).is_some_and(|here| here.eq_ignore_ascii_case(rest)))
}

/// SHA-256 of compact JSON that is hashed piece by piece, never held as a whole.
#[derive(Default)]
struct JsonHasher(Sha256);

impl JsonHasher {
    fn raw(&mut self, text: &str) {
        self.0.update(text);
    }

    fn value(&mut self, value: &impl Serialize) {
        let mut serializer = Serializer::with_formatter(self, RailsFormatter);
        // Neither hashing nor these values can fail.
        value.serialize(&mut serializer).unwrap_or_default();
    }
}

impl Write for JsonHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes strings as Rails does.
struct RailsFormatter;

impl Formatter for RailsFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        // What Rails escapes beyond what JSON requires. Byte by byte, as half of a page's source may be these.
        let may_be = |byte: &u8| matches!(byte, b'&' | b'<' | b'>' | 0xE2);
        let (mut begin, mut next) = (0, 0);
        while let Some(plain) = bytes[next..].iter().position(may_be) {
            let at = next + plain;
            next = at + 1;
            let (escape, length) = match (bytes[at], &bytes[at + 1..]) {
                (b'&', _) => ("\\u0026", 1),
                (b'<', _) => ("\\u003c", 1),
                (b'>', _) => ("\\u003e", 1),
                (0xE2, [0x80, 0xA8, ..]) => ("\\u2028", 3),
                (0xE2, [0x80, 0xA9, ..]) => ("\\u2029", 3),
                _ => continue,
            };
            writer.write_all(&bytes[begin..at])?;
            writer.write_all(escape.as_bytes())?;
            begin = at + length;
            next = begin;
        }
        writer.write_all(&bytes[begin..])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use wm_job::whole_result::{ChangedLink, Link, Op};

    fn measure(steps: &[(i8, &str)]) -> DiffNumbers {
        let mut builder = DiffStatsBuilder::new();
        for (code, text) in steps {
            builder.add_text(*code, text);
        }
        builder.finish()
    }

    fn sha256(text: &str) -> String {
        hex(&Sha256::digest(text.as_bytes()))
    }

    #[test]
    fn recorded_annotations_are_reproduced_to_four_decimals() {
        let rows = include_str!("../../../tests/fixtures/recorded-annotations.json");
        let rows: Vec<serde_json::Map<String, Value>> = serde_json::from_str(rows).unwrap();
        assert_eq!(rows.len(), 30);
        let mut capped = 0;
        for row in &rows {
            let stats = |of: &str| {
                let number = |what: &str| {
                    row.get(&format!("{of}_diff_{what}")).and_then(Value::as_f64).unwrap_or_default()
                };
                let (count, length) = (number("count") as u64, number("length") as u64);
                Some(DiffNumbers { hash: String::new(), count, length, ratio: number("ratio") })
            };
            let page_stats =
                PageNumbers { text: stats("text"), source: stats("source"), links: stats("links") };
            let recorded = row["priority"].as_f64().unwrap();
            // Error pages are not recorded as such; they show as fully changed pages with a low priority.
            let error_page = prioritise(&page_stats, false) == 0.65 && recorded == 0.1;
            capped += u32::from(error_page);
            assert_eq!(prioritise(&page_stats, error_page), recorded, "{row:?}");
        }
        assert_eq!(capped, 1);
    }

    #[test]
    fn nothing_changed_is_the_hash_of_an_empty_list() {
        let stats = measure(&[(0, "same")]);
        assert_eq!(stats.hash, "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945");
        assert_eq!((stats.count, stats.length, stats.ratio), (0, 0, 0.0));
        assert_eq!(measure(&[]).ratio, 0.0);
        assert_eq!(prioritise(&PageNumbers { text: Some(stats), ..PageNumbers::default() }, false), 0.0);
    }

    #[test]
    fn lengths_are_code_points_and_ratios_have_four_decimals() {
        let stats = measure(&[(0, "été "), (-1, "🎉"), (1, "no")]);
        assert_eq!((stats.count, stats.length, stats.ratio), (2, 3, 0.4286));
    }

    #[test]
    fn the_hash_is_over_changes_as_rails_writes_them() {
        let stats = measure(&[
            (0, "x"),
            (-1, "a & <b> \"c\" \\ / é\u{2028}\u{7f}"),
            (1, "\u{8}\t\n\u{c}\r\u{1}\u{1f}"),
        ]);
        let json = concat!(
            r#"[[-1,"a \u0026 \u003cb\u003e \"c\" \\ / é\u2028"#,
            "\u{7f}",
            r#""],[1,"\b\t\n\f\r\u0001\u001f"]]"#
        );
        assert_eq!(stats.hash, sha256(json));
    }

    #[test]
    fn links_weigh_two_keys_and_changed_ones_three() {
        let link = |text: &str| Link { text: text.to_owned(), href: "/".to_owned() };
        let mut builder = DiffStatsBuilder::new();
        builder.add_link(&LinkOp::Plain(0, link("a")));
        builder.add_link(&LinkOp::Plain(-1, link("b")));
        let ops = vec![Op(0, "x".to_owned()), Op(1, "y".to_owned())];
        let hrefs = ["/".to_owned(), "/".to_owned()];
        builder.add_link(&LinkOp::Changed(100, ChangedLink { text: ops, href: Vec::new(), hrefs }));
        let stats = builder.finish();
        assert_eq!((stats.count, stats.length, stats.ratio), (2, 5, 0.7143));
        let json =
            r#"[[-1,{"text":"b","href":"/"}],[100,{"text":[[0,"x"],[1,"y"]],"href":[],"hrefs":["/","/"]}]]"#;
        assert_eq!(stats.hash, sha256(json));
    }

    #[test]
    fn one_changed_link_of_many_has_the_recorded_ratio() {
        let mut builder = DiffStatsBuilder::new();
        let same = LinkOp::Plain(0, Link { text: String::new(), href: String::new() });
        (0..94).for_each(|_| builder.add_link(&same));
        let hrefs = [String::new(), String::new()];
        builder.add_link(&LinkOp::Changed(100, ChangedLink { text: Vec::new(), href: Vec::new(), hrefs }));
        assert_eq!(builder.finish().ratio, 0.0157);
    }

    #[test]
    fn an_error_page_is_told_by_both_phrases_and_little_in_common() {
        let page = "<p>ERROR Connecting to Apache Tomcat instance</p> No connection could be made.";
        let changed = measure(&[(-1, "0123456789")]);
        assert!(looks_like_error(&changed, page, "fine"));
        assert!(looks_like_error(&changed, "fine", page));
        assert!(!looks_like_error(&changed, "Error connecting to Apache Tomcat instance", "fine"));
        assert!(!looks_like_error(&measure(&[(0, "01"), (1, "2")]), page, "fine"));
        let page_stats = || PageNumbers { text: Some(changed.clone()), ..PageNumbers::default() };
        assert_eq!(prioritise(&page_stats(), true), 0.1);
        assert_eq!(prioritise(&page_stats(), false), 0.4);
    }
}
