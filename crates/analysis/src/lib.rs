//! Two pages in, a report out: the three diffs of web-monitoring-diff and the annotation made of them.
//!
//! Pure: bytes and a deadline in, values out. Nothing is fetched, decompressed or written, and nothing is known of
//! jobs, queues or processes; whether the bytes are worth analysing was decided before.
//!
//! Invariant: memory and time are bounded by the sizes of the pages and by the deadline, never by what is in them;
//! where a bound made a result coarser, `approximate` says so.
//!
//! # Why
//! The three diffs share one budget of time: each gets at most two seconds, and at most an even share of what is
//! left, so that a page on which the first runs out of time still gets its other two. They are made one after the
//! other, smallest first, so that what one needed is free again before the next begins.

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

/// The longest that one diff may take; the old service's number. Real pages need a tenth of it.
const MAX_DIFF_TIME: Duration = Duration::from_secs(2);
/// The share of all time that is not for searching but for what is linear and knows no deadline: cleaning up, hashing,
/// writing down.
const FINISHING_SHARE: u32 = 6;
/// The largest page: places in its text are kept as 32 bits, and decoding may make it three times as long.
pub const MAX_PAGE_BYTES: usize = 256 * 1024 * 1024;

/// The most passages of one report, so that they fit into what is stored of it.
pub const MAX_PASSAGES: u16 = 100;

/// What reports quote.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Changed passages that are quoted, at most [`MAX_PASSAGES`].
    pub passages: u16,
}

/// One page, as the analysis sees it.
#[derive(Debug, Clone, Copy)]
pub struct PageInput<'a> {
    /// Its body, with content encodings undone.
    pub bytes: &'a [u8],
    /// Its `Content-Type`, parameters included.
    pub content_type: Option<&'a str>,
    /// The HTTP status it was captured with.
    pub status: Option<u16>,
    /// Can visible text and links be taken from it?
    pub html_like: bool,
}

/// How far an analysis may go.
#[derive(Debug, Clone, Copy)]
pub struct AnalysisOptions {
    /// When it has to be done; past it, what is left is done coarsely.
    pub soft_deadline: Instant,
    /// Steps of a diff that are larger than this, as JSON, are left out; counts and hashes are not.
    pub max_ops_bytes: usize,
    /// Changed passages that are quoted.
    pub max_passages: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisResult {
    /// The 12 fields.
    pub annotation: Annotation,
    /// The diffs.
    pub diffs: Diffs,
    /// True when any of them is.
    pub approximate: bool,
    /// Diffs that two such pages have not.
    pub missing: Vec<MissingDiff>,
    /// The first passages that changed, of the visible text, or of the source where there is no text.
    pub passages: Vec<Passage>,
    /// What was left out for its size, e.g. `html_source_dmp.diff`.
    pub omitted: Vec<String>,
    /// The character encodings that were used, older first.
    pub encodings: [String; 2],
}

/// Compares two pages. `phase` is told what is being done, for whoever watches from outside.
///
/// # Errors
/// [`SkipReason::Undecodable`] where a body is not text.
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

/// What has been found so far.
struct Findings {
    max_ops_bytes: usize,
    max_passages: usize,
    search_deadline: Instant,
    stats: PageDiffStats,
    diffs: Diffs,
    approximate: bool,
    missing: Vec<MissingDiff>,
    /// `None` until the first text was compared, which is the one that is quoted.
    passages: Option<Vec<Passage>>,
    omitted: Vec<String>,
}

impl Findings {
    fn new(options: &AnalysisOptions, search_deadline: Instant) -> Self {
        Self {
            max_ops_bytes: options.max_ops_bytes,
            max_passages: options.max_passages,
            search_deadline,
            stats: PageDiffStats::default(),
            diffs: Diffs::default(),
            approximate: false,
            missing: Vec::new(),
            passages: None,
            omitted: Vec::new(),
        }
    }

    /// When the next diff has to be done, with so many left, itself included.
    fn deadline(&self, diffs_left: u32) -> Instant {
        let now = Instant::now();
        let left = self.search_deadline.saturating_duration_since(now);
        now + MAX_DIFF_TIME.min(left / diffs_left)
    }

    fn add_missing(&mut self, diff: &str) {
        let skip = Skip::new(SkipReason::Content, "neither body is HTML, so only the sources were compared");
        self.missing.push(MissingDiff { diff: diff.to_owned(), skip });
    }

    /// Links and text; true where one of the pages is an error page by what it says.
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

    /// Quotes what changed, where that is asked for and nothing was quoted yet.
    fn add_passages(&mut self, script: &EditScript<'_>) {
        if self.max_passages == 0 || self.passages.is_some() {
            return;
        }
        let (passages, more) = passages::passages(script, self.max_passages);
        if more {
            self.omitted.push("passages".to_owned());
        }
        self.passages = Some(passages);
    }

    /// Measures a script, and keeps its steps if they are not too large.
    fn measure(&mut self, script: &EditScript<'_>, name: &str, simplified: bool) -> (DiffStats, Diff<Op>) {
        let mut builder = DiffStatsBuilder::new();
        let mut size = JsonSize::new(self.max_ops_bytes);
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
        let mut size = JsonSize::new(self.max_ops_bytes);
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

/// A link whose text or target changed; true where its diffs are approximate.
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
