//! `/jobs`: what a selection takes, counted, never cut without saying so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::gate::Visitor;
use super::groups::acts;
use super::page::{self, Section};
use super::{Dashboard, READ_TIME};
use crate::ops::job::{detail, host, kind};
use crate::ops::selection;
use crate::queue::{self, JobState, Selection, StoredJob};

/// Rows of a page.
const ROWS: usize = 100;
/// Time for counting all that match: the rest of [`READ_TIME`] is for the first page of them.
const COUNT_TIME: Duration = Duration::from_millis(1_200);
/// Most jobs that are read for one page: some hundred commands to Redis.
const READ_MAX: usize = 20_000;

/// The words, and which of what they select.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    #[serde(default)]
    q: String,
    /// How many are passed over.
    #[serde(default)]
    skip: usize,
}

/// What was read of a selection.
struct Listing {
    jobs: Vec<StoredJob>,
    total: usize,
    /// False where counting was stopped: there are more.
    is_all: bool,
    kinds: BTreeMap<String, usize>,
    states: BTreeMap<String, usize>,
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(filter): Query<Filter>,
) -> Markup {
    let until = Instant::now() + READ_TIME;
    let now_ms = page::now_ms(&dashboard).await;
    let read = match parse(&filter.q, now_ms) {
        Err(what) => html! { p.banner.bad role="alert" { (page::text(&what)) } },
        Ok(mut selection) => {
            if selection.states.is_empty() && selection.ids.is_empty() {
                selection.states.extend(JobState::ALL.iter().filter(|state| **state != JobState::Trash));
            }
            match timeout_at(until, list(&dashboard, &selection, filter.skip)).await {
                Err(_) => page::unread("these jobs"),
                Ok(Err(error)) => page::failed(&error),
                Ok(Ok(listing)) => found(&listing, &selection, &filter, now_ms, &visitor),
            }
        }
    };
    let command = dashboard.queue.command(format!("job ls {}", filter.q).trim_end());
    let body = html! {
        h1 { "Jobs" }
        form.fields method="get" action="/jobs" {
            label.wide { "Which" input name="q" value=(filter.q) maxlength="2000" placeholder="state:dead kind:timeout host:web.example.gov since:2h"; }
            button.primary type="submit" { "Show" }
        }
        details #grammar { summary { "How to select" } pre { (selection::GRAMMAR) } }
        p.quick {
            @for (name, words) in [("all dead", "state:dead"), ("in flight", "state:in_flight"), ("waiting", "state:waiting"), ("in the trash", "state:trash")] {
                a href=(page::jobs_path(words)) { (name) } " "
            }
        }
        (read)
        p { "The same by command: " (page::command(&command)) }
    };
    page::whole(&dashboard, &visitor, Some(Section::Jobs), "Jobs", body)
}

/// The words as a shell would give them to the command: `text:'404 not found'` is one.
pub(super) fn parse(line: &str, now_ms: u64) -> Result<Selection, String> {
    let words = shlex::split(line).ok_or_else(|| "a quote is not closed".to_owned())?;
    selection::parse(&words, now_ms)
}

async fn list(dashboard: &Dashboard, selection: &Selection, skip: usize) -> Result<Listing, queue::Error> {
    let counting_ends = Instant::now() + COUNT_TIME;
    let mut listing =
        Listing { jobs: Vec::new(), total: 0, is_all: true, kinds: BTreeMap::new(), states: BTreeMap::new() };
    let mut pages = dashboard.queue.job_pages(selection);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            return Ok(listing);
        }
        for job in page {
            *listing.kinds.entry(kind(&job)).or_default() += 1;
            *listing.states.entry(job.state.to_string()).or_default() += 1;
            listing.total += 1;
            if listing.total > skip && listing.jobs.len() < ROWS {
                listing.jobs.push(job);
            }
        }
        if listing.total >= READ_MAX || Instant::now() >= counting_ends {
            listing.is_all = false;
            return Ok(listing);
        }
    }
}

fn found(
    listing: &Listing,
    selection: &Selection,
    filter: &Filter,
    now_ms: u64,
    visitor: &Visitor,
) -> Markup {
    let Listing { jobs, total, is_all, kinds, states } = listing;
    let most_first = |counts: &BTreeMap<String, usize>| crate::ops::job::most_first(counts);
    let next = filter.skip + jobs.len();
    let page_of =
        |skip: usize| format!("/jobs?{}", page::query(&[("q", &filter.q), ("skip", &skip.to_string())]));
    html! {
        @if *total == 0 {
            p.empty { "No job matches. Jobs that have ended are found by their id, in the field at the top." }
        } @else {
            p {
                strong { (filter.skip + 1) "–" (next) } " of " strong { @if !is_all { "at least " } (page::count(*total as u64)) }
                @if !is_all { " (counting stopped; the command below counts all)" }
                " · " (most_first(states)) " · " (most_first(kinds))
            }
            @if visitor.may_operate() { p { (acts_for(selection, &filter.q)) } }
            section.panel.scroll { table {
                thead { tr { th { "Job" } th { "State" } th { "Since" } th { "Kind" } th { "Host" } th { "Detail" } } }
                tbody {
                    @for job in jobs {
                        tr {
                            th scope="row" { (page::job_link(job.id.as_str())) }
                            td.bad[job.state == JobState::Dead] { (job.state) }
                            td { (page::ago(now_ms, job.since_ms())) }
                            td { (kind(job)) }
                            td { (host(job)) }
                            td { (detail(job, 200)) }
                        }
                    }
                }
            } }
            p {
                @if filter.skip > 0 { a href=(page_of(filter.skip.saturating_sub(ROWS))) { "← the " (ROWS) " before" } " " }
                @if next < *total || !is_all { a href=(page_of(next)) { "the next " (ROWS) " →" } }
            }
        }
    }
}

/// What can be done about all that match, by the states that were asked for.
fn acts_for(selection: &Selection, words: &str) -> Markup {
    let only = |state: JobState| selection.states == [state];
    let path = |act: &str| format!("/acts/{act}?{}", page::query(&[("q", words)]));
    html! {
        @if only(JobState::Dead) {
            (acts(words))
        } @else if only(JobState::Trash) {
            a.button href=(path("restore")) { "Restore…" }
        } @else if !selection.states.iter().any(|state| [JobState::Dead, JobState::Trash].contains(state)) {
            a.button href=(path("cancel")) { "Cancel…" }
        }
    }
}
