//! `/job`: one job, wherever it is: its time line, its limits, its bodies, and why it died.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::gate::Visitor;
use super::page::{self, Section, fact};
use super::{Dashboard, READ_TIME, chart};
use crate::job::measured::ChildUsage;
use crate::job::report::{BodyFacts, Report};
use crate::job::skip::Skip;
use crate::job::verdict::DeadLetterReason;
use crate::job::{JobId, VersionRef};
use crate::ops::job::{FoundJob, detail, find, host, kind, payload, reproduce_command};
use crate::ops::report;
use crate::queue::{self, Content, Ended, JobState, LogEntry, StoredJob};

/// Longest payload that is shown, in bytes; the command exports it whole.
const PAYLOAD_MAX_BYTES: usize = 20_000;

/// Which.
#[derive(Debug, Deserialize)]
pub(super) struct JobQuery {
    id: String,
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(JobQuery { id }): Query<JobQuery>,
) -> Markup {
    let body = match JobId::parse(&id) {
        Err(what) => html! { p.banner.bad role="alert" { (page::text(&what)) } },
        Ok(id) => {
            let found = timeout(READ_TIME, find(&dashboard.queue, &id));
            match tokio::join!(page::now_ms(&dashboard), found) {
                (_, Err(_)) => page::unread("this job and its history"),
                (_, Ok(Err(error))) => page::failed(&error),
                (now_ms, Ok(Ok(Some(FoundJob::Stored(job))))) => stored(&dashboard, &job, now_ms, &visitor),
                (now_ms, Ok(Ok(Some(FoundJob::Ended(job))))) => {
                    let result = timeout(READ_TIME, result(&dashboard, &job)).await;
                    ended(&job, result.ok().and_then(Result::ok).flatten().as_ref(), now_ms)
                }
                (_, Ok(Ok(None))) => html! {
                    p.empty { "It is unknown here, or ended so long ago that its result is forgotten." }
                },
            }
        }
    };
    let body = html! {
        h1 { "Job " span.id { (page::text(&id)) } }
        (body)
        (in_sentry(&dashboard, &id))
        p { "The same by command: " (page::command(&dashboard.queue.command(&format!("job show {}", crate::job::text::shell_word(&id))))) }
    };
    page::whole(&dashboard, &visitor, Some(Section::Jobs), &page::text(&id), body)
}

/// A link to the alert that names this job first.
fn in_sentry(dashboard: &Dashboard, id: &str) -> Markup {
    let search = dashboard.config.sentry.as_ref().zip(JobId::parse(id).ok());
    html! {
        @if let Some((search, id)) = search {
            p { a href=(search.of(&id)) rel="noopener noreferrer" target="_blank" { "Its alert in Sentry" }
                ", if it was the first of those that the alert stands for" }
        }
    }
}

fn stored(dashboard: &Dashboard, job: &StoredJob, now_ms: u64, visitor: &Visitor) -> Markup {
    let is_dead = job.state == JobState::Dead;
    let because = detail(job, 1_000);
    html! {
        section.panel.bad[is_dead] {
            p.verdict {
                strong.bad[is_dead] { (job.state) @if job.kind().is_some() { " · " (kind(job)) } }
                @if job.is_cancelled { " · cancelled" }
            }
            @if !because.is_empty() { p.because { (because) } }
            @if let (true, Some(group)) = (is_dead, group_words(job)) {
                p { a href=(page::jobs_path(&group)) { "those that died of the same at the same host" } }
            }
            @if visitor.may_operate() { p { (acts(job)) } }
        }
        (time_line(job, now_ms))
        @if let Some(measured) = job.failure().and_then(|failure| failure.measured.as_deref()) { (limits(measured)) }
        @if let Some(reason) = &job.reason { (evidence(reason)) }
        @match &job.content {
            Content::Job(parsed) => section.panel {
                h2 { "What it asks" }
                dl.facts {
                    @if let Some(from) = parsed.from.given() { (fact("older version", version(from))) }
                    (fact("newer version", version(&parsed.to)))
                    @if let Some(trace) = &parsed.traceparent { (fact("traceparent", html! { code { (page::text(trace)) } })) }
                }
                pre tabindex="0" { (crate::telemetry::sanitize(&payload(job), PAYLOAD_MAX_BYTES)) }
                @if is_dead && visitor.may_operate() {
                    p { a.button href={ "/acts/edit?" (page::query(&[("id", job.id.as_str())])) } { "Edit a field and retry…" } }
                }
            },
            Content::Raw(raw) => section.panel {
                h2 { "What was sent" }
                p { (page::bytes(raw.length)) ", " (page::text(&raw.hash)) ", which is no job. It begins with" }
                pre tabindex="0" { (crate::telemetry::sanitize(&payload(job), PAYLOAD_MAX_BYTES)) }
            },
        }
        @if let Some(command) = reproduce_command(&dashboard.queue, job) {
            section.panel { h2 { "Reproduce it here" } p { (page::command(&command)) } }
        }
    }
}

/// The words that select its like.
fn group_words(job: &StoredJob) -> Option<String> {
    let kind = job.kind()?;
    let host = job.host().and_then(|host| crate::job::text::host_filter(&host));
    Some(format!("state:dead kind:{kind} {}", host.unwrap_or_default()).trim().to_owned())
}

fn acts(job: &StoredJob) -> Markup {
    let query = page::query(&[("q", job.id.as_str())]);
    html! {
        @match job.state {
            JobState::Dead => {
                a.button href={ "/acts/replay?" (query) } { "Replay…" } " "
                a.button href={ "/acts/discard?" (query) } { "Discard…" }
            }
            JobState::Trash => a.button href={ "/acts/restore?" (query) } { "Restore…" },
            JobState::Ready | JobState::Scheduled | JobState::Exclusive | JobState::InFlight => {
                a.button href={ "/acts/cancel?" (query) } { "Cancel…" }
            }
        }
    }
}

/// Everything that happened to it, oldest first.
fn time_line(job: &StoredJob, now_ms: u64) -> Markup {
    html! {
        section.panel {
            h2 { "Time line" }
            ol.list {
                @if job.enqueued_ms > 0 { li { (page::ago(now_ms, job.enqueued_ms)) " enqueued" } }
                (entries(&job.log, job.log_cut, now_ms))
                @match job.state {
                    JobState::InFlight => li {
                        (page::ago(now_ms, job.claimed_ms)) " claimed by " (page::text(job.worker.as_deref().unwrap_or("?"))) ", runs"
                    },
                    JobState::Dead | JobState::Trash if job.log.is_empty() => li.bad { (page::ago(now_ms, job.died_ms)) " died" },
                    JobState::Scheduled => {
                        @if let Some(due) = job.due_ms { li { "due " (page::in_future(now_ms, due)) } }
                        @if let Some(host) = &job.waits_for_host { li.warn { "waits for " (page::text(host)) } }
                    }
                    JobState::Dead | JobState::Trash | JobState::Ready | JobState::Exclusive => {}
                }
            }
            p.dim { (job.deliveries) " deliveries, " (job.replays) " replays, host " (host(job)) }
        }
    }
}

fn entries(log: &[LogEntry], cut: u64, now_ms: u64) -> Markup {
    html! {
        @if cut > 0 { li.dim { (cut) " older entries are not kept" } }
        @for entry in log {
            li {
                (page::ago(now_ms, entry.at_ms)) " " strong.bad[entry.what == "dead"] { (page::text(&entry.what)) }
                @if let Some(ms) = entry.took_ms { " after " (page::duration_ms(ms)) }
                @if !entry.worker.is_empty() { " at " (page::text(&entry.worker)) }
                @if !entry.by.is_empty() { " by " (page::text(&entry.by)) }
                @if !entry.operation.is_empty() {
                    " in " a href={ "/operation?" (page::query(&[("id", &entry.operation)])) } { (page::text(&entry.operation)) }
                }
                @if !entry.why.is_empty() { ": " (page::text(&entry.why)) }
            }
        }
    }
}

fn evidence(reason: &DeadLetterReason) -> Markup {
    let counts = &reason.counts;
    html! {
        section.panel {
            h2 { "Evidence" }
            dl.facts {
                (fact("stage", html! { (reason.stage) }))
                (fact("worker", html! { (page::text(&reason.worker)) " · " (page::text(&reason.build)) }))
                (fact("counts", html! {
                    (counts.deliveries) " deliveries, " (counts.failures) " failures, " (counts.crashes) " crashes, "
                    (counts.ambiguous_exits) " ambiguous exits, " (counts.fetch_crashes) " while fetching, "
                    (counts.postponements) " postponements, " (counts.releases) " releases, " (counts.replays) " replays"
                }))
                @for body in &reason.bodies { (fact(body.side.as_str(), body_facts(body))) }
            }
        }
    }
}

/// What is known of a body.
pub(super) fn body_facts(body: &BodyFacts) -> Markup {
    html! {
        (page::address(&body.url)) br;
        (page::bytes(body.wire_bytes)) " received"
        @if let Some(decoded) = body.decoded_bytes { ", " (page::bytes(decoded)) " decoded" }
        @if let Some(declared) = &body.declared { " · declared " code { (page::text(declared)) } }
        @if let Some(sniffed) = &body.sniffed { " · sniffed " code { (page::text(sniffed)) } }
        @if let Some(encoding) = &body.encoding { " · " (page::text(encoding)) }
        @if let Some(hash) = &body.wire_sha256 { br; "sha256 " code { (page::text(hash)) } }
        @for note in &body.notes { br; span.warn { "it " (note.sentence()) } }
    }
}

/// What its child used of what it was given.
fn limits(measured: &ChildUsage) -> Markup {
    let given = measured.limits;
    let time = |used: u64, limit: Option<u64>, name: &str| {
        html! { @match limit {
            Some(limit) => { (used) " of " (limit) " ms" (chart::meter(used, limit, name)) }
            None => { (used) " ms" }
        } }
    };
    html! {
        section.panel {
            h2 { "Limits" }
            dl.facts {
                (fact("wall", time(measured.wall_ms, given.map(|limits| limits.wall_ms), "wall time of its limit")))
                (fact("cpu", time(measured.cpu_ms, given.map(|limits| limits.cpu_ms), "CPU time of its limit")))
                (fact("heap", html! {
                    (page::bytes(measured.peak_heap_bytes))
                    @if let Some(limits) = given {
                        " of " (page::bytes(limits.heap_bytes))
                        (chart::meter(measured.peak_heap_bytes, limits.heap_bytes, "heap of its limit"))
                    }
                }))
                @if let Some(phase) = &measured.phase { (fact("last in", html! { (page::text(phase)) })) }
                @if let Some(signal) = measured.signal { (fact("ended by", html! { "signal " (signal) })) }
                @if let Some(code) = measured.exit { (fact("exit", html! { (code) })) }
                (fact("isolation", html! { (measured.isolation.join(" + ")) }))
                @if let Some(words) = &measured.stderr { (fact("stderr", html! { pre tabindex="0" { (page::text(words)) } })) }
            }
        }
    }
}

fn version(version: &VersionRef) -> Markup {
    html! {
        @match version {
            VersionRef::Uuid(uuid) => a.id href={ "/find?" (page::query(&[("q", &uuid.to_string())])) } { (uuid) },
            VersionRef::Inline(version) => (page::address(version.body_url.as_str())),
        }
    }
}

/// What is stored of its pair, where that is of this job.
async fn result(dashboard: &Dashboard, job: &Ended) -> Result<Option<Value>, queue::Error> {
    match job.pair.split_once("..").map(|(from, to)| (from.parse(), to.parse())) {
        Some((Ok(from), Ok(to))) => report::read(&dashboard.queue, (from, to)).await,
        Some(_) | None => Ok(None),
    }
}

/// What its bodies were and what it cost, of one that was analysed; why not, of one that was skipped.
fn found_in(result: &Value) -> Markup {
    html! {
        @if let Ok(report) = Report::deserialize(result) {
            section.panel { h2 { "The two bodies" } dl.facts {
                @for body in &report.bodies { (fact(body.side.as_str(), body_facts(body))) }
                @if let Some(took) = report.timings {
                    (fact("took", html! {
                        (page::duration_ms(took.resolve_ms)) " to resolve, " (page::duration_ms(took.fetch_ms)) " to fetch, "
                        (page::duration_ms(took.analyse_ms)) " to analyse"
                    }))
                }
            } }
            @if let Some(measured) = &report.measured { (limits(measured)) }
        } @else if let Ok(skip) = Skip::deserialize(&result["skipped"]) {
            section.panel { h2 { "Why it was not analysed" } dl.facts {
                (fact("reason", html! { (skip.reason) }))
                (fact("because", html! { (page::text(&skip.detail)) }))
                @if let Some(sniffed) = &skip.sniffed {
                    (fact("sniffed", html! { code { (page::text(&sniffed.from)) } " that became " code { (page::text(&sniffed.to)) } }))
                }
            } }
            @if let Some(measured) = skip.measured.as_deref() { (limits(measured)) }
        }
    }
}

fn ended(job: &Ended, result: Option<&Value>, now_ms: u64) -> Markup {
    let pair = job.pair.split_once("..");
    html! {
        section.panel {
            p.verdict { strong.good[job.state == "done"].bad[job.state == "dead"] { (page::text(&job.state)) } " " (page::text(&job.why)) }
            @if let (Some((from, to)), "done") = (pair, job.state.as_str()) {
                p { a.button href={ "/change?" (page::query(&[("from", from), ("to", to)])) } { "What changed" } }
            }
        }
        section.panel {
            h2 { "Time line" }
            ol.list {
                @if job.enqueued_ms > 0 { li { (page::ago(now_ms, job.enqueued_ms)) " enqueued" } }
                (entries(&job.log, job.log_cut, now_ms))
                @if job.claimed_ms > 0 { li { (page::ago(now_ms, job.claimed_ms)) " claimed by " (page::text(&job.worker)) } }
                @if job.at_ms > 0 {
                    li { (page::ago(now_ms, job.at_ms)) " " strong { (page::text(&job.state)) }
                        @if job.claimed_ms > 0 { " after " (page::duration_ms(job.at_ms.saturating_sub(job.claimed_ms))) } }
                }
            }
            p.dim { "pair " span.id { (page::text(&job.pair)) } }
        }
        @if let Some(result) = result { (found_in(result)) }
    }
}
