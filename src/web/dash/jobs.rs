//! `/jobs`: what a selection takes, counted, never cut without saying so.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::timeout;

use super::Dashboard;
use super::gate::Visitor;
use super::groups::acts;
use super::page::{self, Section};
use crate::ops::job::{self, JobListing, detail, host, kind, most_first, unknown_sentence};
use crate::ops::selection;
use crate::queue::{JobState, StoredJob};

/// Rows of a page.
const ROWS: usize = 100;
/// Time for counting all that match, some hundred commands to Redis: the rest of the request's time is for the page.
const COUNT_TIME: Duration = Duration::from_millis(1_200);

/// The words, and which of what they select.
#[derive(Debug, Deserialize)]
pub(super) struct JobsQuery {
    #[serde(default)]
    q: String,
    /// How many are passed over.
    #[serde(default)]
    skip: usize,
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(filter): Query<JobsQuery>,
) -> Markup {
    let words = shlex::split(&filter.q);
    let command = dashboard.queue.command(&page::with_typed("job ls", words.as_deref().unwrap_or_default()));
    let read = match words {
        None => html! { p.banner.bad role="alert" { "a quote is not closed" } },
        Some(words) => {
            let selected = job::Filter::any(words.clone());
            let (mut listing, mut jobs) = (JobListing::default(), Vec::new());
            let (mut passed, most) = (0, filter.skip.saturating_add(ROWS));
            let show = |job| {
                passed += 1;
                if passed > filter.skip {
                    jobs.push(job);
                }
            };
            let reading = timeout(COUNT_TIME, listing.read(&dashboard.queue, &selected, most, show));
            let (now_ms, read) = tokio::join!(page::now_ms(&dashboard), reading);
            match read {
                Ok(Err(error)) => page::failed(&error),
                Ok(Ok(Err(what))) => html! { p.banner.bad role="alert" { (page::text(&what)) } },
                Err(_) if listing.total == 0 => html! {
                    p.banner.bad role="alert" {
                        "Redis did not answer in time for all jobs to be looked at, and none that was looked at matches. "
                        "The command below looks at all."
                    }
                },
                // Where counting was stopped it says so.
                Err(_) | Ok(Ok(Ok(()))) => {
                    let states = selection::parse(&words, now_ms).map(|read| read.states).unwrap_or_default();
                    found(&listing, &jobs, &states, &filter, now_ms, &visitor)
                }
            }
        }
    };
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

fn found(
    listing: &JobListing,
    jobs: &[StoredJob],
    asked: &[JobState],
    filter: &JobsQuery,
    now_ms: u64,
    visitor: &Visitor,
) -> Markup {
    let JobListing { total, states, kinds, unknown, is_whole } = listing;
    let next = filter.skip.saturating_add(jobs.len());
    let page_of =
        |skip: usize| format!("/jobs?{}", page::query(&[("q", &filter.q), ("skip", &skip.to_string())]));
    html! {
        @for id in unknown { p.warn { (unknown_sentence(id, "job")) } }
        @if *total == 0 {
            p.empty { "No job matches. Jobs that have ended are found by their id, in the field at the top." }
        } @else if jobs.is_empty() {
            p.empty {
                @if !is_whole { "At least " } (page::count(*total as u64)) " match, and none was found behind the first "
                (page::count(filter.skip as u64)) ". " a href=(page_of(0)) { "The first " (ROWS) }
            }
        } @else {
            p {
                strong { (filter.skip + 1) "–" (next) } " of " strong { @if !is_whole { "at least " } (page::count(*total as u64)) }
                @if !is_whole { " (counting stopped; the command below counts all)" }
                " · " (most_first(states)) " · " (most_first(kinds))
            }
            @if visitor.may_operate() { p { (acts_for(asked, &filter.q)) } }
            section.panel.scroll tabindex="0" role="region" aria-label="Jobs" { table {
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
                @if next < *total || !is_whole { a href=(page_of(next)) { "the next " (ROWS) " →" } }
            }
        }
    }
}

/// What can be done about all that match, by the states that were asked for.
fn acts_for(states: &[JobState], words: &str) -> Markup {
    let only = |state: JobState| states == [state];
    let path = |act: &str| format!("/acts/{act}?{}", page::query(&[("q", words)]));
    html! {
        @if only(JobState::Dead) {
            (acts(words))
        } @else if only(JobState::Trash) {
            a.button href=(path("restore")) { "Restore…" }
        } @else if !states.is_empty() && !states.iter().any(|state| [JobState::Dead, JobState::Trash].contains(state)) {
            a.button href=(path("cancel")) { "Cancel…" }
        }
    }
}
