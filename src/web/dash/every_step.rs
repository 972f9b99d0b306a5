//! The whole diff on a page, from the results store.
//!
//! Invariant: a page is at most some MB however large the diff is, few are drawn at once, and what is not drawn is counted.

use std::io::Read as _;
use std::time::Duration;

use flate2::read::GzDecoder;
use maud::{Markup, html};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Dashboard;
use super::change::{HunkView, drawn as drawn_hunk};
use super::page;
use crate::analysis::HunkBuilder;
use crate::job::hunk::StepKind;
use crate::job::report::Report;
use crate::job::whole_result::{Diff, Link, LinkOp, Op, WholeResult};
use crate::ops::report::{NoWhole, whole_gzip};

/// Largest diff that is drawn, decompressed: it holds text and source of pages of several hundred kB. A browser shows
/// larger ones slowly, and the command prints any.
const JSON_MAX_BYTES: u64 = 2 << 20;
/// Most hunks of one text, and most links.
const ROWS_MAX: usize = 1_000;
/// Longest JSON of the hunks of one text, so that the page is not much larger than what was read.
const HUNKS_MAX_BYTES: usize = 512 << 10;
/// Unchanged text around a change, in code points: a line, where a report has a few words.
const CONTEXT_CHARS: usize = 80;
/// Time for the store; with the report it stays within the time of a request.
const STORE_TIME: Duration = Duration::from_millis(1_000);
/// Drawn at once: each holds at most some 20 MB meanwhile.
static TURNS: Semaphore = Semaphore::const_new(4);

/// Why it is not drawn.
enum NotDrawn {
    /// There is none.
    No(NoWhole),
    /// The store or those before it take too long.
    Late,
    /// It is larger than a page.
    TooLarge,
    /// It is not what a child writes.
    Unreadable,
}

impl From<NoWhole> for NotDrawn {
    fn from(why: NoWhole) -> Self {
        Self::No(why)
    }
}

/// Every step, or why not.
pub(super) async fn drawn(dashboard: &Dashboard, report: &Report, view: HunkView) -> Markup {
    match read_and_drawn(dashboard, report, view).await {
        Ok(drawn) => drawn,
        Err(why) => html! {
            p.banner.warn role="alert" {
                @match why {
                    NotDrawn::No(why) => (page::text(&why.to_string())),
                    NotDrawn::Late => "The results store did not answer in time.",
                    NotDrawn::TooLarge => {
                        "The whole diff has more than " (page::bytes(JSON_MAX_BYTES)) ", too much for a page. The command below has it."
                    }
                    NotDrawn::Unreadable => "What the results store has is no diff that this build can read.",
                }
            }
        },
    }
}

async fn read_and_drawn(dashboard: &Dashboard, report: &Report, view: HunkView) -> Result<Markup, NotDrawn> {
    if report.result.as_ref().is_some_and(|result| result.bytes > JSON_MAX_BYTES) {
        return Err(NotDrawn::TooLarge);
    }
    let stored = timeout(STORE_TIME, async {
        let turn = TURNS.acquire().await;
        whole_gzip(dashboard.results.as_ref(), report).await.map(|gzip| (gzip, turn))
    });
    let (gzip, _turn) = stored.await.map_err(|_| NotDrawn::Late)??;
    let mut json = Vec::new();
    let mut unpacked = GzDecoder::new(&gzip[..]).take(JSON_MAX_BYTES + 1);
    unpacked.read_to_end(&mut json).map_err(|_| NotDrawn::Unreadable)?;
    if json.len() as u64 > JSON_MAX_BYTES {
        return Err(NotDrawn::TooLarge);
    }
    let whole: WholeResult = serde_json::from_slice(&json).map_err(|_| NotDrawn::Unreadable)?;
    Ok(html! {
        (text("Text", whole.html_text_dmp.as_ref(), view))
        (links(whole.links_json.as_ref()))
        (text("Source", whole.html_source_dmp.as_ref(), view))
    })
}

fn text(name: &str, diff: Option<&Diff<Op>>, view: HunkView) -> Markup {
    let Some(diff) = diff else { return html! {} };
    let mut hunks = HunkBuilder::new(CONTEXT_CHARS, HUNKS_MAX_BYTES).at_most(ROWS_MAX);
    for Op(code, text) in &diff.diff {
        if let Some(kind) = StepKind::from_code(*code).filter(|_| !text.is_empty()) {
            hunks.add(kind, text, text.chars().count());
        }
    }
    let (hunks, left_out) = hunks.finish();
    html! {
        section.panel {
            (heading(name, diff))
            @for hunk in &hunks { (drawn_hunk(hunk, CONTEXT_CHARS, view)) }
            (shown_of(diff.change_count.saturating_sub(left_out), diff.change_count))
        }
    }
}

fn heading<T>(name: &str, diff: &Diff<T>) -> Markup {
    html! {
        h2 { (name) " · all " (page::count(diff.change_count)) " changes" @if diff.approximate { " " span.warn { "(approximate)" } } }
        @if diff.change_count == 0 { p.empty { "Nothing changed." } }
    }
}

/// What is missing is never left unsaid.
fn shown_of(shown: u64, all: u64) -> Markup {
    html! {
        @if shown < all {
            p.warn { (page::count(shown)) " of " (page::count(all)) " changes are shown; the command below has all." }
        }
    }
}

fn links(diff: Option<&Diff<LinkOp>>) -> Markup {
    let Some(diff) = diff else { return html! {} };
    let is_change = |op: &&LinkOp| !matches!(op, LinkOp::Plain(0, _));
    let rows: Vec<_> = diff.diff.iter().filter(is_change).take(ROWS_MAX).map(sides).collect();
    let side = |link: &Option<Link>| {
        html! {
            @match link {
                Some(link) => { (page::text(&link.text)) br; (page::address(&link.href)) }
                None => span.dim { "–" },
            }
        }
    };
    html! {
        section.panel.scroll {
            (heading("Links", diff))
            @if !rows.is_empty() {
                table {
                    thead { tr { th { "Older" } th { "Newer" } } }
                    tbody { @for [from, to] in &rows { tr { td { (side(from)) } td { (side(to)) } } } }
                }
            }
            (shown_of(rows.len() as u64, diff.change_count))
        }
    }
}

/// A link as it was and as it is.
fn sides(op: &LinkOp) -> [Option<Link>; 2] {
    match op {
        LinkOp::Plain(code, link) => [-1, 1].map(|side| (*code == side).then(|| link.clone())),
        LinkOp::Changed(_, changed) => {
            let of = |ops: &[Op], side: i8| -> String {
                ops.iter()
                    .filter(|Op(code, _)| [0, side].contains(code))
                    .map(|Op(_, text)| text.as_str())
                    .collect()
            };
            let [from, to] = &changed.hrefs;
            [(-1, from), (1, to)]
                .map(|(side, href)| Some(Link { text: of(&changed.text, side), href: href.clone() }))
        }
    }
}
