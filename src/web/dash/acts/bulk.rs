//! Replay, discard, restore, cancel, and taking these back: the plan, and the act.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::plans::ShownPlan;
use super::{reason_field, refused};
use crate::job::LimitsRequest;
use crate::ops::job::{
    BulkAction, DiscardPlan, Edit, Filter, Plan, ReplayPlan, most_first, prepare, unknown_sentence,
};
use crate::ops::render;
use crate::ops::values;
use crate::queue::OperationId;
use crate::sandbox::Limits;
use crate::web::dash::Dashboard;
use crate::web::dash::gate::Visitor;
use crate::web::dash::page;

/// How long canaries may take, as by default on the command line.
const CANARY_WAIT: Duration = Duration::from_secs(300);
/// How often a page asks whether its plan is read, in seconds.
const EVERY: &str = "1";
/// Most edits of one payload.
const EDITS_MAX: usize = 20;

/// The kinds of act, as their pages are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, strum::IntoStaticStr, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(in crate::web::dash) enum BulkPage {
    Replay,
    Edit,
    Discard,
    Restore,
    Cancel,
    Resume,
    Undo,
    RestoreAll,
}

/// What was typed. Numbers are text here: what is no number is answered on the page.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::web::dash) struct BulkForm {
    /// Words that select.
    q: String,
    /// The operation that it follows, or the job that is edited.
    id: String,
    rate: String,
    canary: String,
    /// `canaries`, where the rest is to wait.
    only: String,
    limits: String,
    /// A line for each field.
    edits: String,
    reason: String,
    /// The moment of the plan that was shown.
    at_ms: String,
    /// The plan that was shown.
    plan: String,
}

impl BulkPage {
    fn title(self) -> &'static str {
        match self {
            Self::Replay => "Replay dead letters",
            Self::Edit => "Edit a field and retry",
            Self::Discard => "Discard dead letters",
            Self::Restore | Self::RestoreAll => "Restore from the trash",
            Self::Cancel => "Cancel jobs",
            Self::Resume => "Replay the rest",
            Self::Undo => "Undo a replay",
        }
    }

    /// How it is undone.
    fn undo(self) -> &'static str {
        match self {
            Self::Replay | Self::Edit | Self::Resume => {
                "Its page has [Undo]: what still waits goes back among the dead letters."
            }
            Self::Discard => "Its page has [Restore all], for 24 h.",
            Self::Restore | Self::RestoreAll => "Discard them again.",
            Self::Cancel => "A cancelled job can be enqueued again.",
            Self::Undo => "Replay them again.",
        }
    }

    /// Whether the selection is typed, and what it follows is not.
    fn selects(self) -> bool {
        match self {
            Self::Replay | Self::Discard | Self::Restore | Self::Cancel => true,
            Self::Edit | Self::Resume | Self::Undo | Self::RestoreAll => false,
        }
    }
}

impl BulkForm {
    /// What is not empty, as a form or an address bears it; without the plan and its moment.
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let Self { q, id, rate, canary, only, limits, edits, reason, at_ms: _, plan: _ } = self.clone();
        let all = [
            ("q", q),
            ("id", id),
            ("rate", rate),
            ("canary", canary),
            ("only", only),
            ("limits", limits),
            ("edits", edits),
            ("reason", reason),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    fn rate(&self) -> Result<f64, String> {
        match self.rate.trim() {
            "" => Ok(20.0),
            text => values::per_second(text).map_err(|what| format!("rate {text:?}: {what}")),
        }
    }

    fn canary(&self) -> Result<usize, String> {
        match self.canary.trim() {
            "" => Ok(0),
            text => text.parse().map_err(|_| format!("canaries {text:?}: write a number, or leave it empty")),
        }
    }

    fn edits(&self) -> Result<Vec<Edit>, String> {
        let lines = || self.edits.lines().map(str::trim).filter(|line| !line.is_empty());
        let count = lines().count();
        if count > EDITS_MAX {
            return Err(format!("{count} fields: at most {EDITS_MAX} are changed at once"));
        }
        lines().map(Edit::parse).collect()
    }

    fn granted(&self, dashboard: &Dashboard) -> Result<LimitsRequest, String> {
        let granted = values::limits(self.limits.trim())?;
        let sandbox = &dashboard.sandbox;
        Limits::from_config(sandbox).granted(granted, &Limits::ceiling(sandbox))?;
        Ok(granted)
    }

    fn filter(&self, act: BulkPage) -> Result<Filter, String> {
        let words = match act {
            BulkPage::Edit => vec![self.id.clone()],
            BulkPage::Replay
            | BulkPage::Discard
            | BulkPage::Restore
            | BulkPage::Cancel
            | BulkPage::Resume
            | BulkPage::Undo
            | BulkPage::RestoreAll => {
                shlex::split(&self.q).ok_or_else(|| "a quote is not closed".to_owned())?
            }
        };
        let filter = match act {
            BulkPage::Restore => Filter::trash(words),
            BulkPage::Cancel => Filter::live(words),
            BulkPage::Replay
            | BulkPage::Edit
            | BulkPage::Discard
            | BulkPage::Resume
            | BulkPage::Undo
            | BulkPage::RestoreAll => Filter::dead(words),
        };
        Ok(Filter { at_ms: self.at_ms.parse().ok(), ..filter })
    }

    /// The action that was typed; the error is a sentence.
    fn action(&self, act: BulkPage, dashboard: &Dashboard) -> Result<BulkAction, String> {
        let operation = || OperationId::parse(&self.id);
        Ok(match act {
            BulkPage::Replay | BulkPage::Edit => {
                let plan = ReplayPlan {
                    canary: self.canary()?,
                    canary_only: self.only == "canaries",
                    canary_wait: CANARY_WAIT,
                    granted: self.granted(dashboard)?,
                    edits: self.edits()?,
                    watch: false,
                };
                BulkAction::Replay(self.filter(act)?, plan)
            }
            BulkPage::Discard => {
                BulkAction::Discard(self.filter(act)?, DiscardPlan { now: false, copy: false })
            }
            BulkPage::Restore => BulkAction::Restore(self.filter(act)?),
            BulkPage::Cancel => BulkAction::Cancel(self.filter(act)?),
            BulkPage::Resume => BulkAction::ResumeReplay(operation()?, CANARY_WAIT),
            BulkPage::Undo => BulkAction::UndoReplay(operation()?),
            BulkPage::RestoreAll => BulkAction::RestoreAll(operation()?),
        })
    }
}

/// The plan that a form bears, or else a new one.
async fn planned(
    act: BulkPage,
    typed: &BulkForm,
    dashboard: &Dashboard,
) -> Result<(Uuid, ShownPlan), String> {
    if let Ok(name) = typed.plan.parse::<Uuid>() {
        match dashboard.plans.shown(act, name).await {
            ShownPlan::Unknown => {}
            shown => return Ok((name, shown)),
        }
    }
    let (action, rate) = (typed.action(act, dashboard)?, typed.rate()?);
    let queue = dashboard.queue.clone();
    let name = dashboard.plans.ask(act, async move {
        let prepared = prepare(&queue, &action, rate).await.map_err(|error| error.to_string())?;
        prepared.map_err(|refusal| refusal.to_string())
    });
    Ok((name, dashboard.plans.shown(act, name).await))
}

pub(in crate::web::dash) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Path(act): Path<BulkPage>,
    Query(typed): Query<BulkForm>,
) -> Response {
    let mut every = None;
    let shown = match act == BulkPage::Edit && typed.edits.trim().is_empty() {
        true => html! { p.empty { "Write the fields to change, one on a line, and see the plan." } },
        false => match planned(act, &typed, &dashboard).await {
            Err(what) => refused(&what),
            Ok((_, ShownPlan::Begun(id))) => {
                return Redirect::to(&super::operation::path(&id)).into_response();
            }
            // So that reloading it, or asking anew, is about the same plan.
            Ok((name, ShownPlan::Waits(_))) if typed.plan != name.to_string() => {
                return Redirect::to(&path_of(act, &typed, name)).into_response();
            }
            Ok((_, ShownPlan::Waits(since))) => {
                every = Some(EVERY);
                waits(since)
            }
            Ok((_, ShownPlan::Refused(why))) => refused(&why),
            Ok((_, ShownPlan::Unknown)) => refused("this plan gave way to others: show it again"),
            Ok((name, ShownPlan::Ready(ready))) => plan(act, &typed, name, &ready, &visitor),
        },
    };
    let body = html! { h1 { (act.title()) } (form(act, &typed)) div #live data-every=[every] { (shown) } };
    page::whole(&dashboard, &visitor, None, act.title(), body).into_response()
}

pub(in crate::web::dash) async fn act(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Path(act): Path<BulkPage>,
    Form(typed): Form<BulkForm>,
) -> Response {
    match begin(act, &typed, &dashboard, &visitor).await {
        Ok(path) => Redirect::to(&path).into_response(),
        Err(why) => {
            let body = html! { h1 { (act.title()) } (refused(&why)) (form(act, &typed)) };
            page::whole(&dashboard, &visitor, None, act.title(), body).into_response()
        }
    }
}

/// Begins it; returns where that is seen. The error is a sentence.
async fn begin(
    act: BulkPage,
    typed: &BulkForm,
    dashboard: &Dashboard,
    visitor: &Visitor,
) -> Result<String, String> {
    let (name, shown) = planned(act, typed, dashboard).await?;
    match shown {
        ShownPlan::Begun(id) => return Ok(super::operation::path(&id)),
        ShownPlan::Waits(_) | ShownPlan::Unknown => return Ok(path_of(act, typed, name)),
        ShownPlan::Refused(why) => return Err(why),
        ShownPlan::Ready(plan) if plan.deletes => {
            let words = page::with_typed("dead discard", &shlex::split(&typed.q).unwrap_or_default());
            let command = dashboard.queue.command(&format!("{words} --now > copies.jsonl"));
            let what = "these would be deleted for good, and their copies are for a command to keep";
            return Err(format!("{what}: {command}"));
        }
        ShownPlan::Ready(_) => {}
    }
    let room = dashboard
        .running
        .room()
        .ok_or("this dashboard carries out as many actions as it can: wait for one, or use the command")?;
    let (queue, place) = (dashboard.queue.clone(), (dashboard.running.clone(), room));
    dashboard.plans.begin(name, queue, place, visitor.name.clone(), typed.reason.clone());
    match dashboard.plans.shown(act, name).await {
        ShownPlan::Begun(id) => Ok(super::operation::path(&id)),
        ShownPlan::Refused(why) => Err(why),
        ShownPlan::Waits(_) | ShownPlan::Ready(_) | ShownPlan::Unknown => Ok(path_of(act, typed, name)),
    }
}

/// The page of a plan.
fn path_of(act: BulkPage, typed: &BulkForm, name: Uuid) -> String {
    let (pairs, name) = (typed.pairs(), name.to_string());
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    format!("/acts/{act}?{}", page::query(&[&pairs[..], &[("plan", &name)]].concat()))
}

fn waits(since: Duration) -> Markup {
    html! {
        section.panel {
            p role="status" { "Reading or recording the jobs that this selects, since " (render::format_duration(since)) "." }
            p.dim { "Nothing is acted on before it is confirmed. Without scripts: reload this page." }
        }
    }
}

/// What can be changed of the plan; it shows the plan anew.
fn form(act: BulkPage, typed: &BulkForm) -> Markup {
    html! {
        form.panel method="get" action={ "/acts/" (act) } {
            div.fields {
                @if act.selects() {
                    label.wide { "Which" input name="q" value=(typed.q) maxlength="2000"; }
                } @else {
                    input type="hidden" name="id" value=(typed.id);
                    p { @if act == BulkPage::Edit { "Job " } @else { "Operation " } code { (page::text(&typed.id)) } }
                }
                label { "Jobs a second" input name="rate" value=(typed.rate) placeholder="20" inputmode="decimal" size="6"; }
                @if matches!(act, BulkPage::Replay) {
                    label { "Canaries first" input name="canary" value=(typed.canary) placeholder="0" inputmode="numeric" size="6"; }
                    label { "Then" select name="only" {
                        option value="" { "the rest, if they lived" }
                        option value="canaries" selected[typed.only == "canaries"] { "stop, and let me look" }
                    } }
                }
                @if matches!(act, BulkPage::Replay | BulkPage::Edit) {
                    label { "Limits" input name="limits" value=(typed.limits) placeholder="wall=60s,heap=512MiB"; }
                }
            }
            @if act == BulkPage::Edit {
                label { "Fields to change, one on a line" textarea name="edits" placeholder="to.media_type=text/html" { (typed.edits) } }
            }
            button type="submit" { "Show the plan" }
        }
    }
}

/// What it will touch, and the button that does it.
fn plan(act: BulkPage, typed: &BulkForm, name: Uuid, plan: &Plan, visitor: &Visitor) -> Markup {
    html! {
        section.panel {
            h2 { "The plan" }
            p.verdict { (plan.summary) }
            dl.facts {
                (page::fact("selected", html! { code { (plan.selection) } @if plan.takes_all { strong.warn { " ALL " (plan.noun) "s" } } }))
                (page::fact("by kind", html! { (most_first(&plan.kinds)) }))
                (page::fact("by host", html! { (most_first(&plan.hosts)) }))
                @for sample in &plan.sample { (page::fact("one of them", html! { (page::text(sample)) })) }
            }
            @if plan.matching > plan.count {
                p.warn { "One action takes " (page::count(plan.count as u64)) " of the " (page::count(plan.matching as u64)) " that match: repeat it for the others." }
            }
            @for id in &plan.unknown { p.warn { (unknown_sentence(id, plan.unknown_noun)) } }
            @for warning in &plan.warnings {
                p.warn { (warning.said) @if let Some((label, command)) = &warning.command { " " (label) " " (page::command(command)) } }
            }
            @if plan.deletes {
                p.banner.bad { "These would be deleted for good. A page does not: the command keeps a copy of each." }
            } @else if visitor.may_operate() {
                form method="post" action={ "/acts/" (act) } {
                    @for (name, value) in typed.pairs().into_iter().filter(|(name, _)| *name != "reason") {
                        input type="hidden" name=(name) value=(value);
                    }
                    @if act.selects() { input type="hidden" name="at_ms" value=(plan.at_ms); }
                    input type="hidden" name="plan" value=(name);
                    div.fields { (reason_field(&typed.reason)) }
                    p { button.primary type="submit" { (capitalized(plan.question.trim_end_matches('?'))) } " " span.dim { (act.undo()) } }
                }
            } @else {
                p.dim { "Your role is view: somebody with dash.operate_token can do this." }
            }
        }
    }
}

/// As a button is written.
fn capitalized(words: &str) -> String {
    let (first, rest) = words.split_at_checked(1).unwrap_or_default();
    first.to_ascii_uppercase() + rest
}
