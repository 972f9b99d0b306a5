//! Compares two pages: computes the three diffs of web-monitoring-diff and the annotation derived from them.
//!
//! Pure: bytes in, values out. It does not fetch, decompress or write anything and is
//! independent of jobs, queues and processes. Whether the bytes are worth analysing has been decided before.
//!
//! Invariant: memory and time are bounded by the sizes of the pages, never by their content; if a bound made
//! a result coarser, `approximate` is set. The diffs read no clock: they are a function of the texts.
//!
//! # Why
//! Each of the three diffs has its own share of work, so that a page on which the first diff uses up all of
//! it still gets the other two. They run one after the other, smallest first, so that the memory of one is
//! free again before the next starts.

mod arena;
mod body;
mod change;
pub mod child;
mod cleanup;
mod collect;
mod decode;
mod decompress;
mod diff;
mod hunks;
mod lcs;
mod linear;
mod links;
mod metadata;
mod prescan;
mod score;
pub mod sniff;
mod text;
mod tokens;
mod tree;
mod utf16;
mod warm_up;
mod whole;
mod work;
mod xml;

use wm_job::analysis_request::DiffNumbers;
use wm_job::hunk::{SOURCE_CONTEXT_CHARS, TEXT_CONTEXT_CHARS};
use wm_job::page::Side;
use wm_job::report::{
    BodyNote, Changes, DiffName, LINK_HREF_MAX_BYTES, LINK_TEXT_MAX_BYTES, LinkChange, LinkChanges,
    MAX_LINK_CHANGES, MissingDiff, PageLink, TextChanges,
};
use wm_job::skip::{Skip, SkipReason};
use wm_job::text::floor_char_boundary;
use wm_job::whole_result::{ChangedLink, Link, LinkOp, Op};

use self::diff::EditScript;
pub use self::hunks::HunkBuilder;
use self::lcs::Comparer;
use self::links::{LinkRef, LinkStep, Links};
use self::score::DiffStatsBuilder;
pub use self::score::{PageNumbers, PriorityTerms};
use self::sniff::Markup;
use self::text::{PageContent, PairContent};
pub use self::warm_up::warm_up;
pub use self::whole::Whole;
use self::whole::WholeWriter;
use self::work::Work;

/// Largest decoded page: offsets into its text are 32 bits, and decoding may triple its length.
pub(crate) const MAX_PAGE_BYTES: usize = 256 * 1024 * 1024;

/// Budgets of what a report shows of each diff, in bytes of JSON. On 51 real pairs the changes of the text are kept
/// whole for 47, and 1 GiB of Redis holds 200,000 such pairs (`cargo bench --bench queue -- --results`).
const TEXT_HUNKS_BYTES: usize = 8 * 1024;
/// Of the source, whose changes repeat those of the text.
const SOURCE_HUNKS_BYTES: usize = 1024;
/// Of the source, where no text changed.
const SOURCE_ALONE_BYTES: usize = 4 * 1024;
/// Of the links.
const LINK_CHANGES_BYTES: usize = 2 * 1024;

/// One page as input of the analysis.
#[derive(Debug, Clone, Copy)]
pub struct PageInput<'a> {
    /// The body, with its content encodings decoded.
    pub bytes: &'a [u8],
    /// The `Content-Type` header, including parameters.
    pub content_type: Option<&'a str>,
    /// HTTP status of the capture.
    pub status: Option<u16>,
    /// How visible text and links are read from it; `None` if it is no page.
    pub markup: Option<Markup>,
}

/// Bounds of one analysis.
#[derive(Debug, Clone, Copy)]
pub struct AnalysisOptions {
    /// Limit on the whole result in bytes, compressed; 0 makes none.
    pub max_result_bytes: usize,
}

/// Result of an analysis.
#[derive(Debug, PartialEq)]
pub struct AnalysisResult {
    /// Measures of the visible-text diff, of the source diff and of the links diff, as far as they exist.
    pub numbers: PageNumbers,
    /// How much attention the change deserves.
    pub priority: f64,
    /// What changed, bounded.
    pub changes: Changes,
    /// True if any of the diffs is approximate.
    pub approximate: bool,
    /// Diffs that do not apply to this pair of pages.
    pub missing: Vec<MissingDiff>,
    /// How the pages were read, older one first.
    pub readings: [Reading; 2],
    /// Every step of the diffs, if asked for.
    pub whole: Whole,
}

/// How a page was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Character encoding, e.g. `windows-1252`.
    pub encoding: String,
    /// What is unusual about it.
    pub notes: Vec<BodyNote>,
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
    check_size(from, Side::From)?;
    check_size(to, Side::To)?;
    let [old, new] = decode::decode_pair([from.bytes, to.bytes], [from.content_type, to.content_type])?;
    let mut readings = [&old, &new]
        .map(|text| Reading { encoding: text.encoding.to_owned(), notes: text.note.into_iter().collect() });

    let mut findings = Findings::new(options);
    let mut error_page = [from.status, to.status].into_iter().flatten().any(|status| status >= 500);
    if let (Some(old_markup), Some(new_markup)) = (from.markup, to.markup) {
        phase("text");
        let pages = [(&*old.text, old_markup), (&*new.text, new_markup)];
        let PairContent { pages: [old, new], simplified, not_well_formed } = text::read_pair(pages);
        for (reading, not_well_formed) in readings.iter_mut().zip(not_well_formed) {
            reading.notes.extend(not_well_formed.then_some(BodyNote::NotWellFormed));
        }
        findings.approximate = simplified;
        error_page |= findings.compare_content(old, new, phase);
    } else {
        findings.add_missing(DiffName::HtmlTextDmp);
        findings.add_missing(DiffName::LinksJson);
    }
    phase("diff");
    let script = diff::diff(&old.text, &new.text, &mut Work::of_source());
    let text_changed = findings.numbers.text.as_ref().is_some_and(|text| text.count > 0);
    let hunks = match text_changed {
        true => HunkBuilder::new(SOURCE_CONTEXT_CHARS, SOURCE_HUNKS_BYTES),
        false => HunkBuilder::new(TEXT_CONTEXT_CHARS, SOURCE_ALONE_BYTES),
    };
    let (numbers, changes) = findings.measure(&script, DiffName::HtmlSourceDmp, hunks, false);
    (findings.numbers.source, findings.changes.html_source_dmp) = (Some(numbers), Some(changes));

    phase("score");
    Ok(AnalysisResult {
        priority: score::prioritise(&findings.numbers, error_page),
        numbers: findings.numbers,
        changes: findings.changes,
        approximate: findings.approximate,
        missing: findings.missing,
        readings,
        whole: findings.whole.finish(),
    })
}

fn check_size(page: PageInput<'_>, side: Side) -> Result<(), Skip> {
    if page.bytes.len() > MAX_PAGE_BYTES {
        let detail = format!("{} bytes; {MAX_PAGE_BYTES} at most", page.bytes.len());
        return Err(Skip::new(SkipReason::Undecodable, detail).on(side));
    }
    Ok(())
}

/// Results accumulated so far.
struct Findings {
    numbers: PageNumbers,
    changes: Changes,
    approximate: bool,
    missing: Vec<MissingDiff>,
    whole: WholeWriter,
}

impl Findings {
    fn new(options: &AnalysisOptions) -> Self {
        Self {
            numbers: PageNumbers::default(),
            changes: Changes::default(),
            approximate: false,
            missing: Vec::new(),
            whole: WholeWriter::new(options.max_result_bytes),
        }
    }

    fn add_missing(&mut self, diff: DiffName) {
        let detail = "neither body is HTML, so only the sources were compared".to_owned();
        self.missing.push(MissingDiff { diff, reason: SkipReason::Content, detail });
    }

    /// Compares links, metadata and text; returns true if the text of one page looks like an error page.
    fn compare_content(&mut self, old: PageContent, new: PageContent, phase: fn(&'static str)) -> bool {
        let simplified = self.approximate;
        phase("links");
        let (numbers, changes) = self.compare_links(old.links, new.links, simplified);
        (self.numbers.links, self.changes.links_json) = (Some(numbers), Some(changes));
        (self.changes.metadata, self.changes.metadata_left_out) =
            metadata::compare(old.metadata, new.metadata);

        phase("diff");
        let script = diff::diff(&old.text, &new.text, &mut Work::of_text());
        let hunks = HunkBuilder::new(TEXT_CONTEXT_CHARS, TEXT_HUNKS_BYTES);
        let (numbers, changes) = self.measure(&script, DiffName::HtmlTextDmp, hunks, simplified);
        let error_page = score::looks_like_error(&numbers, &old.text, &new.text);
        (self.numbers.text, self.changes.html_text_dmp) = (Some(numbers), Some(changes));
        error_page
    }

    /// Measures a script, and collects its first changes as hunks.
    fn measure<'t>(
        &mut self,
        script: &EditScript<'t>,
        name: DiffName,
        mut hunks: HunkBuilder<'t>,
        simplified: bool,
    ) -> (DiffNumbers, TextChanges) {
        let mut builder = DiffStatsBuilder::new();
        self.whole.begin(name);
        for (kind, text) in script.steps() {
            let chars = builder.add_text(kind.code(), text);
            hunks.add(kind, text, chars);
            self.whole.step(&(kind.code(), text));
        }
        let numbers = builder.finish();
        let (hunks, left_out) = hunks.finish();
        let approximate = simplified || script.approximate;
        self.whole.end(numbers.count, approximate);
        self.approximate |= approximate;
        let change_count = numbers.count;
        (numbers, TextChanges { change_count, hunks, left_out, approximate })
    }

    fn compare_links(&mut self, old: Links, new: Links, simplified: bool) -> (DiffNumbers, LinkChanges) {
        let (mut comparer, mut work) = (Comparer::default(), Work::of_links());
        let mut builder = DiffStatsBuilder::new();
        let mut found = LinkChanges { approximate: simplified, ..LinkChanges::default() };
        let mut left_bytes = LINK_CHANGES_BYTES;
        self.whole.begin(DiffName::LinksJson);
        for step in links::compare(&old, &new) {
            let (op, change) = match step {
                LinkStep::Same(at) => (LinkOp::Plain(0, to_link(new.get(at))), None),
                LinkStep::Removed(at) => {
                    let link = old.get(at);
                    (LinkOp::Plain(-1, to_link(link)), Some((Some(link), None)))
                }
                LinkStep::Added(at) => {
                    let link = new.get(at);
                    (LinkOp::Plain(1, to_link(link)), Some((None, Some(link))))
                }
                LinkStep::Changed(a, b) => {
                    let (from, to) = (old.get(a), new.get(b));
                    let (link, coarse) = diff_link(from, to, &mut comparer, &mut work);
                    found.approximate |= coarse;
                    (LinkOp::Changed(100, link), Some((Some(from), Some(to))))
                }
            };
            builder.add_link(&op);
            self.whole.step(&op);
            if let Some((from, to)) = change {
                if found.left_out > 0 || found.changes.len() >= MAX_LINK_CHANGES {
                    found.left_out += 1;
                    continue;
                }
                let change = LinkChange { from: from.map(clip_link), to: to.map(clip_link) };
                let bytes = serde_json::to_vec(&change).map_or(usize::MAX, |json| json.len() + 1);
                match left_bytes.checked_sub(bytes) {
                    Some(left) => {
                        left_bytes = left;
                        found.changes.push(change);
                    }
                    None => found.left_out += 1,
                }
            }
        }
        let numbers = builder.finish();
        found.change_count = numbers.count;
        self.whole.end(numbers.count, found.approximate);
        self.approximate |= found.approximate;
        (numbers, found)
    }
}

/// A link for a report, its parts cut to their limits.
fn clip_link(link: LinkRef<'_>) -> PageLink {
    let clip = |text: &str, most: usize| match floor_char_boundary(text, most) {
        end if end < text.len() => format!("{}…", &text[..floor_char_boundary(text, most - "…".len())]),
        _ => text.to_owned(),
    };
    PageLink { text: clip(link.text, LINK_TEXT_MAX_BYTES), href: clip(link.href, LINK_HREF_MAX_BYTES) }
}

fn to_link(link: LinkRef<'_>) -> Link {
    Link { text: link.text.to_owned(), href: link.href.to_owned() }
}

/// Diffs text and target of a changed link; the flag is true if one of the diffs is approximate.
fn diff_link(
    old: LinkRef<'_>,
    new: LinkRef<'_>,
    comparer: &mut Comparer,
    work: &mut Work,
) -> (ChangedLink, bool) {
    let text = diff::diff_with(comparer, old.text, new.text, work);
    let href = diff::diff_with(comparer, old.href, new.href, work);
    let steps = |script: &EditScript<'_>| {
        script.steps().map(|(kind, text)| Op(kind.code(), text.to_owned())).collect()
    };
    let approximate = text.approximate || href.approximate;
    let hrefs = [old.href.to_owned(), new.href.to_owned()];
    (ChangedLink { text: steps(&text), href: steps(&href), hrefs }, approximate)
}

#[cfg(test)]
mod tests;
