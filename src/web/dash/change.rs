//! `/change`: what changed between two versions of a page, and why it has its priority.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::timeout;
use uuid::Uuid;

use super::gate::Visitor;
use super::job::body_facts;
use super::page::{self, fact};
use super::{Dashboard, READ_TIME, every_step};
use crate::analysis::PriorityTerms;
use crate::job::hunk::{Hunk, SOURCE_CONTEXT_CHARS, TEXT_CONTEXT_CHARS};
use crate::job::report::{LinkChanges, PageLink, Report, TextChanges};
use crate::ops::changes::{self, ChangesView, Part, change_texts};
use crate::ops::report;

/// Everything that a report has; it is at most 64 KiB.
const WHOLE: ChangesView = ChangesView { width: None, all: true };

/// Which pair, and how its hunks are drawn.
#[derive(Debug, Deserialize)]
pub(super) struct ChangeQuery {
    from: Uuid,
    to: Uuid,
    #[serde(default)]
    view: HunkView,
    /// `1` where every step is wanted, from the results store.
    #[serde(default)]
    whole: String,
}

impl ChangeQuery {
    /// The address of this page, with one of its choices made otherwise.
    fn path(&self, view: HunkView, whole: &str) -> String {
        let (from, to) = (self.from.to_string(), self.to.to_string());
        let pairs = [("from", from.as_str()), ("to", &to), ("view", view.into()), ("whole", whole)];
        let given = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
        format!("/change?{}", page::query(&given))
    }

    /// The words of the command that shows the same.
    fn words(&self) -> String {
        let whole = if self.whole.is_empty() { "" } else { " --whole > whole.json" };
        format!("report show {}..{}{whole}", self.from, self.to)
    }
}

/// How hunks are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum HunkView {
    /// Both texts in one.
    #[default]
    Unified,
    /// The older one beside the newer one.
    Side,
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(pair): Query<ChangeQuery>,
) -> Markup {
    let read = timeout(READ_TIME, report::read(&dashboard.queue, (pair.from, pair.to))).await;
    let report = match &read {
        Ok(Ok(Some(value))) => Report::deserialize(value).ok(),
        Ok(Ok(None) | Err(_)) | Err(_) => None,
    };
    let every_step = match report.as_ref().filter(|_| !pair.whole.is_empty()) {
        Some(report) => Some(every_step::drawn(&dashboard, report, pair.view).await),
        None => None,
    };
    let body = html! {
        h1 { "What changed" }
        p.dim { "from " span.id { (pair.from) } " to " span.id { (pair.to) } }
        @match read {
            Err(_) => (page::unread("the changes")),
            Ok(Err(error)) => (page::failed(&error)),
            Ok(Ok(None)) => p.empty { "No report of this pair: it was not analysed, or its report is forgotten." },
            Ok(Ok(Some(value))) => @match &report {
                Some(report) => (whole(report, &pair, every_step)),
                None => {
                    p { "This pair was not analysed, or another build wrote this:" }
                    pre tabindex="0" { (crate::telemetry::sanitize(&value.to_string(), 20_000)) }
                }
            },
        }
        p { "The same by command: " (page::command(&dashboard.queue.command(&pair.words()))) }
    };
    page::whole(&dashboard, &visitor, None, "What changed", body)
}

fn whole(report: &Report, pair: &ChangeQuery, every_step: Option<Markup>) -> Markup {
    let other = |view: HunkView, name: &str| {
        let is_current = (pair.view == view).then_some("true");
        html! { a.button href=(pair.path(view, &pair.whole)) aria-current=[is_current] { (name) } }
    };
    let changes = &report.changes;
    let text_changed = report.annotation.text.as_ref().is_some_and(|text| text.text_diff_count > 0);
    let source_context = if text_changed { SOURCE_CONTEXT_CHARS } else { TEXT_CONTEXT_CHARS };
    html! {
        (priority(report))
        section.panel { h2 { "The two versions" } dl.facts {
            @for body in &report.bodies { (fact(body.side.as_str(), body_facts(body))) }
            @if let Some(page) = report.page { (fact("page", html! { span.id { (page) } })) }
        } }
        p.views { (other(HunkView::Unified, "Unified")) " " (other(HunkView::Side, "Side by side"))
            " " span.dim { "↵ is a line's end; what cannot be seen is written as \\u{…}" } }
        @for missing in &report.missing {
            p.banner.warn { (missing.diff) " is missing: " (page::text(&missing.detail)) }
        }
        @match every_step {
            Some(every_step) => { (metadata(report)) (every_step) }
            None => {
                (texts("Text", changes.html_text_dmp.as_ref(), TEXT_CONTEXT_CHARS, pair.view))
                (links(changes.links_json.as_ref()))
                (metadata(report))
                (texts("Source", changes.html_source_dmp.as_ref(), source_context, pair.view))
            }
        }
        @if let Some(result) = &report.result {
            section.panel { h2 { "Every step" } p { "The results store has the whole diff, " (page::bytes(result.bytes)) " compressed: "
                (page::address(&result.url)) "." }
                @if pair.whole.is_empty() { p { a.button href=(pair.path(pair.view, "1")) { "Show the whole diff" } } }
                @else { p { a.button href=(pair.path(pair.view, "")) { "Show what the report has" } } }
            }
        }
    }
}

fn metadata(report: &Report) -> Markup {
    let changes = &report.changes;
    html! {
        @if !changes.metadata.is_empty() {
            section.panel.scroll tabindex="0" role="region" aria-label="Metadata" { h2 { "Metadata" } table {
                thead { tr { th { "Name" } th { "Older" } th { "Newer" } } }
                tbody { @for change in &changes.metadata {
                    @let [from, to] = change_texts(change.from.as_deref().unwrap_or_default(), change.to.as_deref().unwrap_or_default(), WHOLE);
                    tr { th scope="row" { (page::text(&change.name)) }
                        td { @if !from.is_empty() { del { (from) } } } td { @if !to.is_empty() { ins { (to) } } } }
                } }
            }
            (left_out(changes.metadata_left_out)) }
        }
    }
}

/// The priority, term by term.
fn priority(report: &Report) -> Markup {
    let annotation = &report.annotation;
    let text = annotation.text.as_ref().map(|n| (n.text_diff_count, n.text_diff_ratio));
    let source = annotation.source.as_ref().map(|n| (n.source_diff_count, n.source_diff_ratio));
    let links = annotation.links.as_ref().map(|n| (n.links_diff_count, n.links_diff_ratio));
    let terms = PriorityTerms::of(text, source, links);
    let sum = terms.text + terms.source + terms.links;
    let row = |name: &str, diff: Option<(u64, f64)>, formula: &str, term: f64| {
        html! { tr {
            th scope="row" { (name) }
            @match diff {
                None => td colspan="2" { "missing" },
                Some((count, ratio)) => { td.number { (page::count(count)) } td.number { (format!("{ratio:.4}")) } }
            }
            td { code { (formula) } }
            td.number { (format!("{term:.4}")) }
        } }
    };
    html! {
        section.panel.scroll tabindex="0" role="region" aria-label="Priority" {
            h2 { "Priority " strong { (format!("{:.4}", annotation.priority)) }
                @if report.approximate { " " span.warn { "(approximate)" } } }
            table {
                thead { tr { th { "Diff" } th.number { "Changes" } th.number { "Ratio r" } th { "Term" } th.number { "Adds" } } }
                tbody {
                    (row("text", text, "0.1 + 0.3 ln(1 + (e − 1) r), if it changed", terms.text))
                    (row("source", source, "0.1 ln(1 + (e − 1) r), if the text did not change", terms.source))
                    (row("links", links, "0.05 + 0.2 ln(1 + (e − 1) r), if they changed", terms.links))
                }
            }
            @if sum - annotation.priority > 0.0001 {
                p.warn { "One of the two is an error page, so the sum of " (format!("{sum:.4}")) " is capped." }
            }
        }
    }
}

fn texts(name: &str, changes: Option<&TextChanges>, context: usize, view: HunkView) -> Markup {
    let Some(changes) = changes else { return html! {} };
    html! {
        section.panel {
            h2 { (name) " · " (page::count(changes.change_count)) " changes" @if changes.approximate { " " span.warn { "(approximate)" } } }
            @if changes.hunks.is_empty() { p.empty { "Nothing changed." } }
            @for hunk in &changes.hunks { (drawn(hunk, context, view)) }
            (left_out(changes.left_out))
        }
    }
}

fn left_out(count: u64) -> Markup {
    html! { @if count > 0 { p.dim { (page::count(count)) " more that a report has no room for; a results store keeps all." } } }
}

/// A hunk that has so much unchanged text on either side.
pub(super) fn drawn(hunk: &Hunk, context: usize, view: HunkView) -> Markup {
    let parts = changes::parts(hunk, context);
    let is_blank = parts.iter().all(Part::is_blank);
    let side = |older: bool| html! { @for part in &parts { (one_side(part, older)) } };
    html! {
        @match view {
            HunkView::Unified => p.hunk.dim[is_blank] { @for part in &parts { (unified(part)) } },
            HunkView::Side => div.sides.dim[is_blank] {
                p.hunk aria-label="older" { (side(true)) }
                p.hunk aria-label="newer" { (side(false)) }
            },
        }
        @if is_blank { p.dim.note { "white space only" } }
    }
}

fn unified(part: &Part) -> Markup {
    html! {
        @match part {
            Part::Same(text) => (page::long_text(text)),
            Part::Change { removed, added, left_out } => {
                @let [old, new] = change_texts(removed, added, WHOLE);
                @if !old.is_empty() { del { (old) (cut(left_out[0])) } }
                @if !new.is_empty() { ins { (new) (cut(left_out[1])) } }
            }
        }
    }
}

fn one_side(part: &Part, older: bool) -> Markup {
    html! {
        @match part {
            Part::Same(text) => (page::long_text(text)),
            Part::Change { removed, added, left_out } => {
                @let [old, new] = change_texts(removed, added, WHOLE);
                @if older && !old.is_empty() { del { (old) (cut(left_out[0])) } }
                @if !older && !new.is_empty() { ins { (new) (cut(left_out[1])) } }
            }
        }
    }
}

fn cut(left_out: u32) -> String {
    if left_out == 0 { String::new() } else { format!("… {left_out} more characters") }
}

fn links(changes: Option<&LinkChanges>) -> Markup {
    let Some(changes) = changes else { return html! {} };
    let link = |link: &PageLink| html! { (page::text(&link.text)) br; (page::address(&link.href)) };
    html! {
        section.panel.scroll tabindex="0" role="region" aria-label="Links" {
            h2 { "Links · " (page::count(changes.change_count)) " changes" }
            @if changes.changes.is_empty() { p.empty { "Nothing changed." } } @else {
                table {
                    thead { tr { th { "Older" } th { "Newer" } } }
                    tbody { @for change in &changes.changes { tr {
                        td { @match &change.from { Some(from) => del { (link(from)) }, None => span.dim { "–" } } }
                        td { @match &change.to { Some(to) => ins { (link(to)) }, None => span.dim { "–" } } }
                    } } }
                }
            }
            (left_out(changes.left_out))
        }
    }
}
