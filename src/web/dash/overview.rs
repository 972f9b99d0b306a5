//! `/`: what is wrong, and what to do about it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use maud::{Markup, html};

use super::Dashboard;
use super::chart;
use super::gate::Visitor;
use super::live::{LiveLook, Trend};
use super::memory;
use super::page::{self, Section};
use super::results;
use crate::ops::job::groups::words_of;
use crate::ops::status::Look;
use crate::queue::{Group, HostLoad, RestingHost, Status, WorkerStatus};
use crate::telemetry::sanitize;

/// Rows of each list; each says how many there are.
const GROUPS_SHOWN: usize = 8;
const HOSTS_SHOWN: usize = 5;
const WORKERS_SHOWN: usize = 8;

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Markup {
    let seen = dashboard.live.now().await;
    page::whole(
        &dashboard,
        &visitor,
        Some(Section::Overview),
        "Overview",
        html! {
            h1.hidden { "Overview of " (dashboard.queue.name()) }
            div #live data-events=(super::EVENTS) { (content(&seen, &visitor)) }
        },
    )
}

/// What [`show`] shows, anew with each look.
pub(super) async fn events(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let seen = dashboard.live.subscribe();
    let next = move |(mut seen, visitor): (tokio::sync::watch::Receiver<Arc<LiveLook>>, Visitor)| async move {
        seen.changed().await.ok()?;
        let now = Arc::clone(&seen.borrow_and_update());
        let event = Event::default().data(content(&now, &visitor).into_string());
        Some((Ok(event), (seen, visitor)))
    };
    Sse::new(unfold((seen, visitor), next)).keep_alive(KeepAlive::default())
}

fn content(seen: &LiveLook, visitor: &Visitor) -> Markup {
    let look = &seen.look;
    html! {
        (staleness(look))
        @match look.status() {
            None => {
                section.panel.bad {
                    h2 { "The queue is unknown" }
                    p { (look.late().unwrap_or_default()) }
                    p { "This page goes on asking. See what the command says: " (page::command(&look.command("doctor"))) }
                }
            }
            Some(status) => {
                (state(look, status, visitor))
                (hints(look))
                (cards(seen, status))
                (last_hour(look, status))
                div.columns {
                    (groups(look, status, visitor))
                    div {
                        (hosts(look, status, visitor))
                        (memory::panel(status))
                        (workers(look, status))
                    }
                }
            }
        }
        (audit(seen))
    }
}

/// How old the numbers are, and why.
pub(super) fn staleness(look: &Look) -> Markup {
    html! {
        @if let Some(why) = look.late() {
            p.banner.bad role="alert" {
                @if look.current().is_none() && look.status().is_some() {
                    "These numbers are " strong { (page::duration_ms(u64::try_from(look.age().as_millis()).unwrap_or(0))) " old" } ": "
                }
                (why)
            }
        }
    }
}

/// Whether it runs, how fast, and the pauses with their reasons and ends.
fn state(look: &Look, status: &Status, visitor: &Visitor) -> Markup {
    let rates = status.rates;
    let left = status.inbox + status.backlog() + status.in_flight;
    html! {
        section.state aria-label="State" {
            @if status.pauses.is_empty() {
                strong.good { "running" }
            } @else {
                strong.warn { "paused" }
            }
            @if look.is_whole() {
                span { (format!("{:.1}", rates.ended_per_second)) "/s ended" }
                span { (format!("{:.1}", rates.admitted_per_second)) "/s admitted" }
                @match rates.all_ended_in_ms {
                    _ if left == 0 => span.dim { "nothing waits or runs" },
                    Some(ms) => span { (page::count(left)) " left, done in " strong { (page::duration_ms(ms)) } },
                    None => span.warn { (page::count(left)) " left, none ends" },
                }
            }
            @if let Some(oldest) = status.oldest_waiting() {
                span { "oldest waits " (crate::ops::render::format_duration(oldest)) }
            }
            span.dim { "as of " (page::at(status.at_ms)) }
            @if visitor.may_operate() { a.button href="/switch/pause" { "Pause…" } }
        }
        @for pause in &status.pauses {
            p.banner.warn {
                "Paused as " strong { (page::text(&pause.name)) } " by " (page::text(&pause.by)) ", "
                (page::ago(status.at_ms, pause.since_ms)) (crate::ops::queue::ends_in(pause, status.at_ms)) ": "
                q { (page::text(&pause.reason)) }
                @if visitor.may_operate() {
                    " " a.button href={ "/switch/resume?" (page::query(&[("name", &pause.name)])) } { "Resume…" }
                }
            }
        }
    }
}

fn hints(look: &Look) -> Markup {
    html! {
        @for hint in look.hints() {
            p.banner.(<&str>::from(hint.level)) role="alert" {
                (hint.text)
                @if let Some(command) = &hint.command { ": " (page::command(command)) }
            }
        }
    }
}

/// A number for each state, with its last hour.
fn cards(seen: &LiveLook, status: &Status) -> Markup {
    let filter = |words: &str| page::jobs_path(words);
    let cards = [
        ("Waiting", Trend::Waiting, filter("state:ready,exclusive")),
        ("Fetching", Trend::Fetching, filter("state:in_flight")),
        ("Analysing", Trend::Analysing, filter("state:in_flight")),
        ("Wait for hosts", Trend::ForHosts, "/hosts".to_owned()),
        ("Retry", Trend::Retry, filter("state:scheduled")),
    ];
    let deaths: Vec<u64> = match seen.look.groups() {
        Some(groups) => groups.iter().fold(vec![0; crate::queue::TREND_POINTS], |mut sum, group| {
            sum.iter_mut().zip(group.trend).for_each(|(sum, count)| *sum += count);
            sum
        }),
        None => Vec::new(),
    };
    html! {
        section.cards aria-label="Jobs" {
            @for (name, trend, path) in cards {
                a.card href=(path) {
                    span.name { (name) }
                    strong { @match seen.count(trend) { Some(count) => (page::count(count)), None => "?" } }
                    (chart::line(&seen.trend(trend), &format!("{name}: the last hour, since this dashboard runs")))
                }
            }
            a.card.bad[status.dead > 0] href="/groups" {
                span.name { "Dead" }
                strong { (page::count(status.dead)) }
                @if status.rates.died_last_hour > 0 {
                    span.more { "+" (page::count(status.rates.died_last_hour)) " in the last hour" }
                }
                (chart::bars(&deaths, "Deaths of the last hour, ten minutes a bar"))
            }
        }
    }
}

/// What became of the jobs of the last hour: most are done, and a skip is no trouble.
fn last_hour(look: &Look, status: &Status) -> Markup {
    let of = |name: &str| status.last_hour.get(name).copied().unwrap_or(0);
    let skips =
        status.last_hour.iter().filter_map(|(name, count)| Some((name.strip_prefix("skipped:")?, *count)));
    html! {
        @if look.is_whole() {
            p.hour {
                "In the last hour: "
                a.good href=(results::path("done", "")) { (page::count(of("done"))) " done" }
                @for (reason, count) in skips {
                    " · " a href=(results::path("skipped", reason)) { (page::count(count)) " skipped: " (page::text(reason)) }
                }
                @if of("dead") > 0 { " · " a.bad href="/groups" { (page::count(of("dead"))) " died" } }
            }
        }
    }
}

/// Why jobs die.
fn groups(look: &Look, status: &Status, visitor: &Visitor) -> Markup {
    html! {
        section.panel.scroll tabindex="0" role="region" aria-label="Why jobs die" {
            h2 { a href="/groups" { "Why jobs die" } }
            @match look.groups() {
                None => p.bad { "The groups were not read in time." },
                Some(groups) if groups.iter().all(|group| group.dead == 0) => {
                    p.empty { "No job is dead. What dies is listed here by what it died of and where." }
                }
                Some(groups) => {
                    @let dead: Vec<&Group> = groups.iter().filter(|group| group.dead > 0).collect();
                    table {
                        thead { tr { th { "Kind" } th { "Host" } th.number { "Dead" } th { "Last hour" } th { "Last" } @if visitor.may_operate() { th { "Act" } } } }
                        tbody {
                            @for group in dead.iter().take(GROUPS_SHOWN) { (group_row(group, status.at_ms, visitor)) }
                        }
                    }
                    @if dead.len() > GROUPS_SHOWN {
                        p { a href="/groups" { "all " (dead.len()) " groups" } }
                    }
                }
            }
        }
    }
}

fn group_row(group: &Group, now_ms: u64, visitor: &Visitor) -> Markup {
    let words = format!("state:dead {}", words_of(group));
    html! {
        tr {
            th scope="row" {
                a.bad href=(page::jobs_path(words.trim())) {
                    @match group.kind { Some(kind) => (kind), None => "written by a newer build" }
                }
                p.sentence { (sanitize(&group.sentence, 160)) }
            }
            td { (host_name(&group.host)) }
            td.number { (page::count(group.dead)) }
            td { (chart::bars(&group.trend, &format!("{} in the last hour", group.trend.iter().sum::<u64>()))) }
            td { (page::ago(now_ms, group.last_ms)) }
            @if visitor.may_operate() {
                td {
                    a.button href={ "/acts/replay?" (page::query(&[("q", words.trim()), ("canary", "5"), ("only", "canaries")])) } { "Try 5…" }
                }
            }
        }
    }
}

/// A host as a group or a load names it.
pub(super) fn host_name(host: &str) -> Markup {
    html! {
        @match host {
            "-" => span.dim { "no host" },
            "*" => span.dim { "several hosts" },
            host => (page::text(host)),
        }
    }
}

/// The hosts that hold jobs up.
fn hosts(look: &Look, status: &Status, visitor: &Visitor) -> Markup {
    html! {
        section.panel {
            h2 { a href="/hosts" { "Hosts that hold us up" } }
            @if !look.is_whole() {
                p.warn { "Unknown: Redis did not answer in time." }
            } @else if status.hosts.is_empty() {
                p.empty { "No host is slow, down or resting." }
            } @else {
                ul.list {
                    @for load in status.hosts.iter().take(HOSTS_SHOWN) { li { (host_load(load, status, visitor)) } }
                }
                @if status.hosts.len() > HOSTS_SHOWN {
                    p { a href="/hosts" { "all " (status.hosts.len()) " of the list" } }
                }
            }
        }
    }
}

/// `web.down.gov: 4 of 64 in flight, 302 wait, oldest 3m 2s` and what can be done.
pub(super) fn host_load(load: &HostLoad, status: &Status, visitor: &Visitor) -> Markup {
    let by_hand = load.resting.as_ref().and_then(|resting| resting.by_hand.as_ref());
    let host = [("host", load.host.as_str())];
    html! {
        strong.warn[load.hangs() || load.resting.is_some()] { (page::text(&load.host)) }
        " " (load.in_flight)
        @if status.ceilings.host_in_flight_max > 0 { " of " (status.ceilings.host_in_flight_max) }
        " in flight, " (page::count(load.waiting)) " wait"
        @if let Some(ms) = load.oldest_fetch_ms { ", oldest " (page::duration_ms(ms)) }
        @if let Some(resting) = &load.resting {
            ", " (page::text(&resting.state()))
            @if let Some(cause) = resting.cause() { ", " (page::text(&cause)) }
        }
        @if let Some(rest) = by_hand { ", by " (page::text(&rest.by)) ": " q { (page::text(&rest.reason)) } }
        @if visitor.may_operate() {
            " "
            @if load.resting.as_ref().is_some_and(RestingHost::is_held) {
                a.button href={ "/switch/lift-quarantine?" (page::query(&host)) } { "Lift…" }
            } @else if load.resting.is_some() {
                a.button href={ "/switch/resume-host?" (page::query(&host)) } { "End rest…" }
            } @else {
                a.button href={ "/switch/rest-host?" (page::query(&host)) } { "Rest host…" }
            }
        }
    }
}

fn workers(look: &Look, status: &Status) -> Markup {
    let silent_first = |worker: &&WorkerStatus| (!worker.silent, worker.info.breakers.is_empty());
    let mut workers: Vec<&WorkerStatus> = status.workers.iter().collect();
    workers.sort_by_key(silent_first);
    html! {
        section.panel {
            h2 { a href="/workers" { "Workers" } }
            @if !look.is_whole() {
                p.warn { "Unknown: Redis did not answer in time." }
            } @else if workers.is_empty() {
                p.empty { "No worker lives. Start one: " (page::command(&look.command("work"))) }
            } @else {
                ul.list { @for worker in workers.iter().take(WORKERS_SHOWN) { li { (worker_line(worker)) } } }
                @if workers.len() > WORKERS_SHOWN { p { a href="/workers" { "all " (workers.len()) " workers" } } }
            }
        }
    }
}

/// `w1 2 of 2 slots busy`, or that it is silent and where its jobs are.
pub(super) fn worker_line(worker: &WorkerStatus) -> Markup {
    let info = &worker.info;
    html! {
        @if worker.silent {
            strong.bad { (page::text(info.id.as_str())) " SILENT " (page::duration_ms(worker.heartbeat_age_ms)) }
            @for (job, place) in worker.taken_over.iter().take(3) { ", " (page::job_link(job)) " " (page::text(place)) }
            @if worker.taken_over.len() > 3 { ", and " (worker.taken_over.len() - 3) " more jobs" }
        } @else {
            strong { (page::text(info.id.as_str())) } " " (info.busy) " of " (info.slots) " slots busy, "
            (page::text(&info.phase)) ", heartbeat " (page::duration_ms(worker.heartbeat_age_ms)) " ago"
            @if let Some(why) = &info.slots_limited_by {
                span.warn { ", takes " (info.slots_limit) " at a time: " (page::text(why)) }
            }
            @for (dependency, state) in &info.breakers {
                span.bad { ", breaker " (page::text(dependency)) " " (page::text(state))
                    @if let Some(why) = info.breaker_reasons.get(dependency) { ": " (page::text(why)) } }
            }
        }
    }
}

fn audit(seen: &LiveLook) -> Markup {
    html! {
        section.panel {
            h2 { a href="/audit" { "What operators did" } }
            @match &seen.audit {
                None => p.warn { "Not read in time." },
                Some(rows) if rows.is_empty() => p.empty { "Nothing yet. Each act of each operator is listed here." },
                Some(rows) => ul.list {
                    @for row in rows { li { (super::page::audit_line(row, seen.look.at_ms())) } }
                },
            }
        }
    }
}
