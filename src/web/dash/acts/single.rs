//! One switch at a time: pauses, the rests of hosts, workers, settings.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::{Markup, html};
use serde::Deserialize;

use super::{reason_field, refused};
use crate::ops::queue::ResumeOutcome;
use crate::ops::{self, values};
use crate::queue::{self, HostName, OperatorHandle, PauseName, Resumed, WorkerId, WorkerRequest};
use crate::web::dash::Dashboard;
use crate::web::dash::gate::Visitor;
use crate::web::dash::page;

/// How long a host rests where no other time is typed.
const REST: &str = "15m";

/// The switches, as their pages are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, strum::IntoStaticStr, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(in crate::web::dash) enum Switch {
    Pause,
    Resume,
    RestHost,
    ResumeHost,
    LiftQuarantine,
    QuietWorker,
    StopWorker,
    Set,
}

/// What was typed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::web::dash) struct SwitchForm {
    /// Of a pause, or of a setting.
    name: String,
    host: String,
    /// Of a worker.
    id: String,
    time: String,
    value: String,
    reason: String,
}

impl Switch {
    fn title(self) -> &'static str {
        match self {
            Self::Pause => "Pause the queue",
            Self::Resume => "Resume the queue",
            Self::RestHost => "Rest a host",
            Self::ResumeHost => "End the rest of a host",
            Self::LiftQuarantine => "Let a held host go on",
            Self::QuietWorker => "Quiet a worker",
            Self::StopWorker => "Stop a worker",
            Self::Set => "Change a setting",
        }
    }

    /// What it does, and how it is taken back.
    fn explained(self) -> &'static str {
        match self {
            Self::Pause => {
                "No worker claims anything until this pause is lifted or its time is over; jobs in flight go on. Undo: resume."
            }
            Self::Resume => "Lifts this pause; others stay. Undo: pause again.",
            Self::RestHost => {
                "No job visits this host for so long; its jobs wait, and count no attempt. Undo: end its rest."
            }
            Self::ResumeHost => "The jobs that wait for it can be claimed at once. Undo: rest it again.",
            Self::LiftQuarantine => {
                "The jobs of a host whose pages kept killing children can be claimed at once; ten more kills hold it again. Undo: rest it."
            }
            Self::QuietWorker => {
                "It claims nothing more, finishes what it has and goes on running. Undo: start it anew."
            }
            Self::StopWorker => {
                "It finishes what it has by its drain deadline and exits; what it does not finish is put back. Undo: start it anew."
            }
            Self::Set => {
                "Holds for all workers within seconds. Undo: set what it was before, which the audit keeps."
            }
        }
    }

    /// Where its outcome is seen.
    fn page(self) -> &'static str {
        match self {
            Self::Pause | Self::Resume => "/",
            Self::RestHost | Self::ResumeHost | Self::LiftQuarantine => "/hosts",
            Self::QuietWorker | Self::StopWorker => "/workers",
            Self::Set => "/settings",
        }
    }
}

/// Why it was not done.
enum NotDone {
    Refused(String),
    Redis(queue::Error),
}

impl From<queue::Error> for NotDone {
    fn from(error: queue::Error) -> Self {
        Self::Redis(error)
    }
}

impl From<&str> for NotDone {
    fn from(what: &str) -> Self {
        Self::Refused(what.to_owned())
    }
}

impl From<String> for NotDone {
    fn from(what: String) -> Self {
        Self::Refused(what)
    }
}

pub(in crate::web::dash) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Path(switch): Path<Switch>,
    Query(typed): Query<SwitchForm>,
) -> Markup {
    page::whole(&dashboard, &visitor, None, switch.title(), form(switch, &typed, &visitor, None))
}

pub(in crate::web::dash) async fn act(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Path(switch): Path<Switch>,
    Form(typed): Form<SwitchForm>,
) -> Response {
    match done(switch, &typed, &dashboard.queue, &visitor.name).await {
        Ok(()) => {
            dashboard.live.forget();
            Redirect::to(switch.page()).into_response()
        }
        Err(why) => {
            let why = match why {
                NotDone::Refused(what) => refused(&what),
                NotDone::Redis(error) => page::failed(&error),
            };
            page::whole(&dashboard, &visitor, None, switch.title(), form(switch, &typed, &visitor, Some(why)))
                .into_response()
        }
    }
}

async fn done(switch: Switch, typed: &SwitchForm, queue: &OperatorHandle, by: &str) -> Result<(), NotDone> {
    let host = || HostName::parse(typed.host.trim());
    let worker = || WorkerId::parse(typed.id.trim());
    let time = |text: &str| values::pause_time(text).map_err(|what| format!("time {text:?}: {what}"));
    match switch {
        Switch::Pause => {
            let name =
                if typed.name.is_empty() { PauseName::default() } else { PauseName::parse(&typed.name)? };
            let lasts: Option<Duration> = match typed.time.trim() {
                "" => None,
                text => Some(time(text)?),
            };
            ops::queue::pause(queue, &name, lasts, by, &typed.reason).await??;
            Ok(())
        }
        Switch::Resume => {
            let name = Some(typed.name.as_str()).filter(|name| !name.is_empty());
            resumed(ops::queue::resume(queue, name, by).await?)
        }
        Switch::RestHost => {
            let lasts = if typed.time.trim().is_empty() { REST } else { typed.time.trim() };
            ops::queue::rest_host(queue, &host()?, time(lasts)?, by, &typed.reason).await??;
            Ok(())
        }
        Switch::ResumeHost => resumed(ops::queue::resume(queue, Some(host()?.as_str()), by).await?),
        Switch::LiftQuarantine => {
            let host = host()?;
            match ops::quarantine::lift(queue, &host, by).await? {
                true => Ok(()),
                false => Err(format!("{host} is not held").into()),
            }
        }
        Switch::QuietWorker | Switch::StopWorker => {
            let request =
                if switch == Switch::StopWorker { WorkerRequest::Stop } else { WorkerRequest::Quiet };
            match queue.ask_worker(&worker()?, request, by, &typed.reason).await? {
                true => Ok(()),
                false => Err("this worker is gone".to_owned().into()),
            }
        }
        Switch::Set => {
            let setting = values::setting(&format!("{}={}", typed.name, typed.value))?;
            ops::queue::set(queue, &[setting], by).await?;
            Ok(())
        }
    }
}

/// A pause was lifted, or a host rests no more; or why not.
fn resumed(outcome: ResumeOutcome) -> Result<(), NotDone> {
    let why = match outcome {
        ResumeOutcome::Pause(Resumed::Resumed(_), _) | ResumeOutcome::Host(..) => return Ok(()),
        ResumeOutcome::Pause(Resumed::NotPaused, _) => "the queue is not paused".to_owned(),
        ResumeOutcome::Pause(Resumed::Several(_), _) => "there are several pauses: name one".to_owned(),
        ResumeOutcome::Pause(Resumed::Unknown(_), _) => "there is no such pause any more".to_owned(),
        ResumeOutcome::NotResting(host) => format!("{host} does not rest"),
        ResumeOutcome::Unreadable(why) => why,
    };
    Err(why.into())
}

fn form(switch: Switch, typed: &SwitchForm, visitor: &Visitor, wrong: Option<Markup>) -> Markup {
    html! {
        form.panel.narrow method="post" action={ "/switch/" (switch) } {
            h1 { (switch.title()) }
            @if let Some(wrong) = wrong { (wrong) }
            p { (switch.explained()) }
            @match switch {
                Switch::Pause => {
                    label { "Name" input name="name" value=(typed.name) placeholder="default" maxlength="40"; }
                    label { "For how long; empty until it is lifted" input name="time" value=(typed.time) placeholder="30m"; }
                }
                Switch::Resume => label { "Name of the pause" input name="name" value=(typed.name) maxlength="40"; },
                Switch::RestHost => {
                    label { "Host" input name="host" value=(typed.host) required maxlength="260"; }
                    label { "For how long" input name="time" value=(if typed.time.is_empty() { REST } else { &typed.time }); }
                }
                Switch::ResumeHost | Switch::LiftQuarantine => label { "Host" input name="host" value=(typed.host) required maxlength="260"; },
                Switch::QuietWorker | Switch::StopWorker => label { "Worker" input name="id" value=(typed.id) required maxlength="300"; },
                Switch::Set => {
                    label { "Setting" input name="name" value=(typed.name) required maxlength="60"; }
                    label { "Value" input name="value" value=(typed.value) required maxlength="200"; }
                }
            }
            @if takes_reason(switch) { (reason_field(&typed.reason)) }
            @if visitor.may_operate() {
                p { button.primary type="submit" { (switch.title()) } " " a href=(switch.page()) { "Leave it" } }
            } @else {
                p.dim { "Your role is view: somebody with dash.operate_token can do this." }
            }
        }
    }
}

/// Whether the audit keeps a reason of it.
fn takes_reason(switch: Switch) -> bool {
    match switch {
        Switch::Pause | Switch::RestHost | Switch::QuietWorker | Switch::StopWorker => true,
        Switch::Resume | Switch::ResumeHost | Switch::LiftQuarantine | Switch::Set => false,
    }
}
