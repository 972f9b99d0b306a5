//! Compares two pages: computes the three diffs of web-monitoring-diff and the annotation derived from them.
//!
//! Pure: bytes and a deadline in, values out. It does not fetch, decompress or write anything and is
//! independent of jobs, queues and processes. Whether the bytes are worth analysing has been decided before.
//!
//! Invariant: memory and time are bounded by the sizes of the pages and by the deadline, never by their
//! content; if a bound made a result coarser, `approximate` is set.
//!
//! # Why
//! The three diffs share one time budget: each gets at most two seconds and at most an even share of the
//! remaining time, so that a page on which the first diff times out still gets the other two. They run one
//! after the other, smallest first, so that the memory of one is free again before the next starts.

mod arena;
mod change;
pub mod child;
mod cleanup;
mod collect;
mod decode;
mod decompress;
mod diff;
mod json_size;
mod linear;
mod links;
mod passages;
mod score;
pub mod sniff;
mod text;
mod tokens;
mod tree;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use wm_job::page::Side;
use wm_job::report::{Annotation, ChangedLink, Diff, Diffs, Link, LinkOp, MissingDiff, Op, Passage};
use wm_job::skip::{Skip, SkipReason};

use self::decode::DecodedText;
use self::diff::EditScript;
use self::json_size::JsonSize;
use self::links::{LinkRef, LinkStep, Links};
use self::score::{DiffStats, DiffStatsBuilder, PageDiffStats};
use self::text::PageContent;

/// Longest time for one diff, as in the old service. Real pages need a tenth of it.
const MAX_DIFF_TIME: Duration = Duration::from_secs(2);
/// Fraction (one sixth) of the time budget reserved for linear steps that do not check
/// the deadline: clean-up, hashing, serialisation.
const FINISHING_SHARE: u32 = 6;
/// Largest decoded page: offsets into its text are 32 bits, and decoding may triple its length.
pub(crate) const MAX_PAGE_BYTES: usize = 256 * 1024 * 1024;

/// Highest configurable number of passages per report, so that they fit into the stored summary.
pub const MAX_PASSAGES: u16 = 100;

/// The analysis section of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Number of changed passages to quote, at most [`MAX_PASSAGES`].
    pub passages: u16,
}

impl Config {
    /// Semantic errors in the configuration: the key, and a sentence about it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let above = self.passages > MAX_PASSAGES;
        if above { vec![("passages", format!("is above {MAX_PASSAGES}"))] } else { Vec::new() }
    }
}

/// One page as input of the analysis.
#[derive(Debug, Clone, Copy)]
pub struct PageInput<'a> {
    /// The body, with its content encodings decoded.
    pub bytes: &'a [u8],
    /// The `Content-Type` header, including parameters.
    pub content_type: Option<&'a str>,
    /// HTTP status of the capture.
    pub status: Option<u16>,
    /// Whether visible text and links can be extracted from it.
    pub html_like: bool,
}

/// Bounds of one analysis.
#[derive(Debug, Clone, Copy)]
pub struct AnalysisOptions {
    /// When the analysis should end; diffs that are unfinished by then become coarse.
    pub soft_deadline: Instant,
    /// Limit on the JSON size of the steps of a diff; larger step lists are omitted,
    /// but still counted and hashed.
    pub max_ops_bytes: usize,
    /// Number of changed passages to quote.
    pub max_passages: usize,
}

/// Result of an analysis.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisResult {
    /// The 12 fields of the annotation.
    pub annotation: Annotation,
    /// Steps and change counts of the three diffs.
    pub diffs: Diffs,
    /// True if any of the diffs is approximate.
    pub approximate: bool,
    /// Diffs that do not apply to this pair of pages.
    pub missing: Vec<MissingDiff>,
    /// The first changed passages of the visible text, or of the source if the pages have no visible text.
    pub passages: Vec<Passage>,
    /// Parts omitted because of their size, e.g. `html_source_dmp.diff`.
    pub omitted: Vec<String>,
    /// Character encodings that were used, older page first.
    pub encodings: [String; 2],
}

/// Compares two pages. `phase` is called with the name of each phase as it begins, for monitoring.
///
/// # Errors
/// [`SkipReason::Undecodable`] if a body is not text or larger than 256 MiB.
pub fn analyse(
    from: PageInput<'_>,
    to: PageInput<'_>,
    options: &AnalysisOptions,
    phase: fn(&'static str),
) -> Result<AnalysisResult, Skip> {
    phase("decode");
    let old = decoded(from, Side::From)?;
    let new = decoded(to, Side::To)?;
    let encodings = [old.encoding.to_owned(), new.encoding.to_owned()];

    let budget = options.soft_deadline.saturating_duration_since(Instant::now());
    let search_deadline = options.soft_deadline - budget / FINISHING_SHARE;
    let mut findings = Findings::new(options, search_deadline);
    let mut error_page = [from.status, to.status].into_iter().flatten().any(|status| status >= 500);
    if from.html_like && to.html_like {
        phase("text");
        let ([old, new], simplified) = text::read_pair(&old.text, &new.text, search_deadline);
        findings.approximate = simplified;
        error_page |= findings.compare_content(old, new, phase);
    } else {
        findings.add_missing("html_text_dmp");
        findings.add_missing("links_json");
    }
    phase("diff");
    let script = diff::diff(&old.text, &new.text, findings.deadline(1));
    findings.add_passages(&script);
    let (stats, diff) = findings.measure(&script, "html_source_dmp", false);
    (findings.stats.source, findings.diffs.html_source_dmp) = (Some(stats), Some(diff));

    phase("score");
    Ok(AnalysisResult {
        annotation: score::annotate(findings.stats, error_page),
        diffs: findings.diffs,
        approximate: findings.approximate,
        missing: findings.missing,
        passages: findings.passages.unwrap_or_default(),
        omitted: findings.omitted,
        encodings,
    })
}

fn decoded(page: PageInput<'_>, side: Side) -> Result<DecodedText<'_>, Skip> {
    if page.bytes.len() > MAX_PAGE_BYTES {
        let detail = format!("{} bytes; {MAX_PAGE_BYTES} at most", page.bytes.len());
        return Err(Skip::new(SkipReason::Undecodable, detail).on(side));
    }
    decode::decode(page.bytes, page.content_type).map_err(|skip| skip.on(side))
}

/// Results accumulated so far.
struct Findings {
    options: AnalysisOptions,
    search_deadline: Instant,
    stats: PageDiffStats,
    diffs: Diffs,
    approximate: bool,
    missing: Vec<MissingDiff>,
    /// `None` until the first text has been compared; only that text is quoted.
    passages: Option<Vec<Passage>>,
    omitted: Vec<String>,
}

impl Findings {
    fn new(options: &AnalysisOptions, search_deadline: Instant) -> Self {
        Self {
            options: *options,
            search_deadline,
            stats: PageDiffStats::default(),
            diffs: Diffs::default(),
            approximate: false,
            missing: Vec::new(),
            passages: None,
            omitted: Vec::new(),
        }
    }

    /// Deadline of the next diff; `diffs_left` includes it.
    fn deadline(&self, diffs_left: u32) -> Instant {
        let now = Instant::now();
        let left = self.search_deadline.saturating_duration_since(now);
        now + MAX_DIFF_TIME.min(left / diffs_left)
    }

    fn add_missing(&mut self, diff: &str) {
        let skip = Skip::new(SkipReason::Content, "neither body is HTML, so only the sources were compared");
        self.missing.push(MissingDiff { diff: diff.to_owned(), skip });
    }

    /// Compares links and text; returns true if the text of one page looks like an error page.
    fn compare_content(&mut self, old: PageContent, new: PageContent, phase: fn(&'static str)) -> bool {
        let simplified = self.approximate;
        phase("links");
        let (stats, diff) = self.compare_links(old.links, new.links, simplified);
        (self.stats.links, self.diffs.links_json) = (Some(stats), Some(diff));

        phase("diff");
        let script = diff::diff(&old.text, &new.text, self.deadline(2));
        self.add_passages(&script);
        let (stats, diff) = self.measure(&script, "html_text_dmp", simplified);
        let error_page = score::looks_like_error(&stats, &old.text, &new.text);
        (self.stats.text, self.diffs.html_text_dmp) = (Some(stats), Some(diff));
        error_page
    }

    /// Quotes changed passages, if requested and not done yet.
    fn add_passages(&mut self, script: &EditScript<'_>) {
        if self.options.max_passages == 0 || self.passages.is_some() {
            return;
        }
        let (passages, more) = passages::passages(script, self.options.max_passages);
        if more {
            self.omitted.push("passages".to_owned());
        }
        self.passages = Some(passages);
    }

    /// Measures a script, and keeps its steps unless they exceed the size limit.
    fn measure(&mut self, script: &EditScript<'_>, name: &str, simplified: bool) -> (DiffStats, Diff<Op>) {
        let mut builder = DiffStatsBuilder::new();
        let mut size = JsonSize::new(self.options.max_ops_bytes);
        for (code, text) in script.steps() {
            builder.add_text(code, text);
            size.add_op(text);
        }
        let steps = || script.steps().map(|(code, text)| Op(code, text.to_owned())).collect();
        let diff = size.fits().then(steps);
        self.finish_diff(name, builder.finish(), diff, simplified || script.approximate)
    }

    fn compare_links(&mut self, old: Links, new: Links, simplified: bool) -> (DiffStats, Diff<LinkOp>) {
        let deadline = self.deadline(3);
        let mut builder = DiffStatsBuilder::new();
        let mut size = JsonSize::new(self.options.max_ops_bytes);
        let mut ops = Vec::new();
        let mut approximate = simplified;
        for step in links::compare(&old, &new) {
            let op = match step {
                LinkStep::Same(at) => LinkOp::Plain(0, to_link(new.get(at))),
                LinkStep::Removed(at) => LinkOp::Plain(-1, to_link(old.get(at))),
                LinkStep::Added(at) => LinkOp::Plain(1, to_link(new.get(at))),
                LinkStep::Changed(a, b) => {
                    let (link, coarse) = diff_link(old.get(a), new.get(b), deadline);
                    approximate |= coarse;
                    LinkOp::Changed(100, link)
                }
            };
            builder.add_link(&op);
            size.add_link(&op);
            if size.fits() {
                ops.push(op);
            } else {
                ops = Vec::new();
            }
        }
        let diff = size.fits().then_some(ops);
        self.finish_diff("links_json", builder.finish(), diff, approximate)
    }

    fn finish_diff<T>(
        &mut self,
        name: &str,
        stats: DiffStats,
        diff: Option<Vec<T>>,
        approximate: bool,
    ) -> (DiffStats, Diff<T>) {
        if diff.is_none() {
            self.omitted.push(format!("{name}.diff"));
        }
        self.approximate |= approximate;
        let change_count = stats.count;
        (stats, Diff { change_count, diff, approximate })
    }
}

fn to_link(link: LinkRef<'_>) -> Link {
    Link { text: link.text.to_owned(), href: link.href.to_owned() }
}

/// Diffs text and target of a changed link; the flag is true if one of the diffs is approximate.
fn diff_link(old: LinkRef<'_>, new: LinkRef<'_>, deadline: Instant) -> (ChangedLink, bool) {
    let text = diff::diff(old.text, new.text, deadline);
    let href = diff::diff(old.href, new.href, deadline);
    let steps =
        |script: &EditScript<'_>| script.steps().map(|(code, text)| Op(code, text.to_owned())).collect();
    let approximate = text.approximate || href.approximate;
    let hrefs = [old.href.to_owned(), new.href.to_owned()];
    (ChangedLink { text: steps(&text), href: steps(&href), hrefs }, approximate)
}

#[cfg(test)]
mod tests;
