//! `/groups`: why jobs die, where and when; from counters, never by a scan.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::timeout;

use super::gate::Visitor;
use super::overview::host_name;
use super::page::{self, Section};
use super::{Dashboard, READ_TIME, chart};
use crate::ops::job::groups::words_of;
use crate::queue::{Group, ReplayOutcomes, Window};
use crate::telemetry::sanitize;

/// Rows of a page; the filters above find the others, and their number is said.
const ROWS: usize = 200;

/// What is shown of them.
#[derive(Debug, Deserialize)]
pub(super) struct GroupsQuery {
    /// The window by which they are sorted and counted first.
    #[serde(default)]
    window: String,
    /// Only those of this kind.
    #[serde(default)]
    kind: String,
    /// Only those whose host has this in its name.
    #[serde(default)]
    host: String,
}

impl GroupsQuery {
    fn window(&self) -> Window {
        self.window.parse().unwrap_or(Window::Day)
    }

    fn takes(&self, group: &Group) -> bool {
        let kind = group.kind.map_or("", |kind| kind.as_str());
        (self.kind.is_empty() || kind == self.kind) && group.host.contains(&self.host.to_lowercase())
    }
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(filter): Query<GroupsQuery>,
) -> Markup {
    let (now_ms, groups) =
        tokio::join!(page::now_ms(&dashboard), timeout(READ_TIME, dashboard.queue.groups()));
    let body = html! {
        h1 { "Why jobs die" }
        @match groups {
            Err(_) => (page::unread("the groups of dead letters")),
            Ok(Err(error)) => (page::failed(&error)),
            Ok(Ok((groups, letters))) => (grid(groups, letters, &filter, now_ms, &visitor)),
        }
        p { "The same by command: " (page::command(&dashboard.queue.command("dead groups"))) }
    };
    page::whole(&dashboard, &visitor, Some(Section::Groups), "Groups", body)
}

fn grid(
    mut groups: Vec<Group>,
    letters: u64,
    filter: &GroupsQuery,
    now_ms: u64,
    visitor: &Visitor,
) -> Markup {
    let window = filter.window();
    let kinds: std::collections::BTreeSet<&str> =
        groups.iter().filter_map(|group| group.kind.map(|kind| kind.as_str())).collect();
    let form = html! {
        form.fields method="get" {
            label { "Kind" select name="kind" {
                option value="" { "all" }
                @for kind in &kinds { option value=(kind) selected[filter.kind == *kind] { (kind) } }
            } }
            label { "Host contains" input name="host" value=(page::text(&filter.host)); }
            label { "Sorted by" select name="window" {
                @for each in Window::ALL { option value=(each.as_str()) selected[*each == window] { "deaths in " (each.as_str()) } }
            } }
            button type="submit" { "Show" }
        }
    };
    let (all, dead): (usize, u64) = (groups.len(), groups.iter().map(|group| group.dead).sum());
    groups.retain(|group| filter.takes(group));
    let matching = groups.len();
    groups.sort_by_key(|group| std::cmp::Reverse((group.deaths.get(window.as_str()).copied(), group.dead)));
    html! {
        (form)
        p.dim {
            (page::count(dead)) " of " (page::count(letters)) " dead letters in " (all) " groups"
            @if letters > dead { ", " (page::count(letters - dead)) " were buried by an earlier build, which counted no groups" }
            ". " (matching.min(ROWS)) " of the " (matching) " groups that match are shown."
        }
        @if matching == 0 {
            p.empty { "No job died in the last week, or none of this kind and host. Each group is a kind of failure at a host." }
        } @else {
            section.panel.scroll tabindex="0" role="region" aria-label="Groups" { table {
                thead { tr {
                    th { "Kind" } th { "Host" } th.number { "Dead" }
                    @for each in Window::ALL { th.number { (each.as_str()) } }
                    th { "Last hour" } th { "First" } th { "Last" } th { "Replayed" }
                    @if visitor.may_operate() { th { "Act" } }
                } }
                tbody { @for group in groups.iter().take(ROWS) { (row(group, now_ms, visitor)) } }
            } }
        }
    }
}

fn row(group: &Group, now_ms: u64, visitor: &Visitor) -> Markup {
    let words = words_of(group);
    let (words, dead) = (words.trim(), format!("state:dead {words}"));
    html! {
        tr {
            th scope="row" {
                a.bad[group.dead > 0] href=(page::jobs_path(dead.trim())) {
                    @match group.kind { Some(kind) => (kind), None => "written by a newer build" }
                }
                p.sentence { (sanitize(&group.sentence, 300)) }
                p.sentence { "last " (page::job_link(&group.last_id)) " by " (page::text(&group.build)) }
            }
            td { (host_name(&group.host)) }
            td.number { (page::count(group.dead)) }
            @for window in Window::ALL {
                @let deaths = group.deaths.get(window.as_str()).copied().unwrap_or(0);
                td.number {
                    @if deaths > 0 && group.dead > 0 {
                        a href=(page::jobs_path(&format!("{} since:{}", dead.trim(), window.as_str()))) { (page::count(deaths)) }
                    } @else { (page::count(deaths)) }
                }
            }
            td { (chart::bars(&group.trend, &format!("{} deaths in the last hour", group.trend.iter().sum::<u64>()))) }
            td { (page::ago(now_ms, group.first_ms)) }
            td { (page::ago(now_ms, group.last_ms)) }
            td { (replayed(group.replays)) }
            @if visitor.may_operate() {
                td { @if group.dead > 0 { (acts(words)) } }
            }
        }
    }
}

/// What can be done about dead letters that these words select.
pub(super) fn acts(words: &str) -> Markup {
    let path = |act: &str, more: &[(&str, &str)]| {
        let pairs: Vec<(&str, &str)> = [("q", words)].into_iter().chain(more.iter().copied()).collect();
        format!("/acts/{act}?{}", page::query(&pairs))
    };
    html! {
        span.acts {
            a.button href=(path("replay", &[("canary", "5"), ("only", "canaries")])) { "Try 5…" }
            a.button href=(path("replay", &[("canary", "5")])) { "Replay…" }
            a.button href=(path("discard", &[])) { "Discard…" }
        }
    }
}

fn replayed(outcomes: ReplayOutcomes) -> Markup {
    html! {
        @if outcomes.replayed == 0 { span.dim { "never" } } @else {
            (outcomes.replayed) " → " span.good { (outcomes.done) " done" }
            @if outcomes.skipped > 0 { ", " (outcomes.skipped) " skipped" }
            @if outcomes.died > 0 { ", " span.bad { (outcomes.died) " died again" } }
            @if outcomes.open() > 0 { ", " (outcomes.open()) " open" }
        }
    }
}
