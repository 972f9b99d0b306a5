//! `queue pause | resume | drain | cancel | set | settings | show | export | import`: what holds for a whole queue and
//! changes it, and jobs that are no longer wanted.

mod acts;
mod hosts;
mod show;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::acts::{ResumeOutcome, pause, rest_host, resume, set};
use super::job::stopped_by_redis;
use super::render::{self, Column, sanitize};
use super::{Exit, transfer};
use crate::job::JobId;
use crate::job::duration::millis;
use crate::queue::{
    Actor, AuditEntry, DEFAULT_PAUSE, Error, HostName, OperatorHandle, PauseName, Paused, Resumed, Setting,
    SettingChange, SettingValue,
};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Polling interval of `queue drain`.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often a drain that waits says so.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What to do with the queue.
pub enum QueueAction {
    /// Stop claims.
    Pause {
        /// Name of the pause, by which it is lifted.
        name: PauseName,
        /// For how long; `None` until it is lifted.
        time: Option<Duration>,
        /// Reason, stored with the pause.
        reason: String,
    },
    /// Lift a pause, or end the rest of a host.
    Resume {
        /// The name of the pause, or a host; none is the only pause in force.
        what: Option<String>,
    },
    /// Let nothing visit a host for a time.
    RestHost {
        /// The host.
        host: HostName,
        /// For how long.
        time: Duration,
        /// Reason, stored with it.
        reason: String,
    },
    /// Pause, and wait until nothing runs.
    Drain {
        /// Name of the pause.
        name: PauseName,
        /// Reason, stored with the pause.
        reason: String,
        /// Give up waiting after this long.
        timeout: Duration,
    },
    /// Mark jobs as not wanted any more.
    Cancel {
        /// Ids of the jobs.
        ids: Vec<JobId>,
    },
    /// Change settings of the queue.
    Set {
        /// Settings and their values, as stored; empty: all as configured.
        values: Vec<(Setting, String)>,
    },
    /// Show the settings in force.
    Settings,
    /// Show what holds for the whole queue.
    Show,
    /// Print all waiting work.
    Export,
    /// Take in what was exported.
    Import {
        /// Of which file; `-` is standard input.
        file: PathBuf,
        /// Read and check, take in nothing.
        dry_run: bool,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: QueueAction, json: bool) -> Result<Exit, Error> {
    match action {
        QueueAction::Pause { name, time, reason } => print_pause(queue, &name, time, &reason, json).await,
        QueueAction::Resume { what } => hosts::print_resume(queue, what.as_deref(), json).await,
        QueueAction::RestHost { host, time, reason } => {
            hosts::print_rest(queue, &host, time, &reason, json).await
        }
        QueueAction::Drain { name, reason, timeout } => {
            match print_pause(queue, &name, None, &reason, false).await? {
                Exit::Ok => drain(queue, &name, timeout, json).await,
                not_paused => Ok(not_paused),
            }
        }
        QueueAction::Cancel { ids } => cancel(queue, &ids, json).await,
        QueueAction::Set { values } => print_set(queue, &values, json).await,
        QueueAction::Settings => settings(queue, json).await,
        QueueAction::Show => show::run(queue, json).await,
        QueueAction::Export => transfer::export(queue).await,
        QueueAction::Import { file, dry_run } => match open(&file) {
            Ok(lines) => transfer::import(queue, lines, dry_run, json).await,
            Err(what) => {
                render::error(what);
                Ok(Exit::Failed)
            }
        },
    }
}

fn open(file: &Path) -> Result<Box<dyn BufRead>, String> {
    if file == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let opened = File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(Box::new(BufReader::new(opened)))
}

async fn print_pause(
    queue: &OperatorHandle,
    name: &PauseName,
    time: Option<Duration>,
    reason: &str,
    json: bool,
) -> Result<Exit, Error> {
    let status = match pause(queue, name, time, &render::operator(), reason).await? {
        Ok(status) => status,
        Err(why) => {
            render::error(why);
            return Ok(Exit::Failed);
        }
    };
    if json {
        render::json(
            SCHEMA_VERSION,
            &serde_json::json!({
                "paused": true, "name": name.as_str(), "for_ms": time.map(millis),
                "in_flight": status.in_flight, "ready": status.ready
            }),
        );
    } else {
        render::note(format!(
            "paused {}{}{} ({}): {} in flight finish, {} ready wait",
            queue.name(),
            named(name, " as "),
            time.map_or_else(String::new, |time| format!(" for {}", humantime::format_duration(time))),
            sanitize(reason, 200),
            status.in_flight,
            status.ready,
        ));
        render::command("Undo:", &queue.command(&format!("queue resume{}", named(name, " "))));
    }
    Ok(Exit::Ok)
}

/// Prints what became of a pause that was to be lifted; `others` are still in force.
fn print_lifted(queue: &OperatorHandle, resumed: &Resumed, others: &[Paused], json: bool) -> Exit {
    let (exit, lifted) = match resumed {
        Resumed::Resumed(was) => (Exit::Ok, Some(was)),
        Resumed::NotPaused => (Exit::Ok, None),
        Resumed::Several(_) => (Exit::Failed, None),
        Resumed::Unknown(_) => (Exit::NothingMatched, None),
    };
    if json {
        render::json(
            SCHEMA_VERSION,
            &serde_json::json!({
                "paused": !others.is_empty(), "previous_pause": lifted, "pauses": others
            }),
        );
        return exit;
    }
    match (lifted, exit) {
        (Some(Paused { name, by, reason, since_ms: _, until_ms: _ }), _) => {
            let [name, by, reason] =
                [(name, 40), (by, 100), (reason, 200)].map(|(text, most)| sanitize(text, most));
            let (done, flag) = match (name.as_str(), others.is_empty()) {
                (DEFAULT_PAUSE, true) => (format!("resumed {}", queue.name()), String::new()),
                (_, true) => (
                    format!("lifted the pause {name}, {} is running again", queue.name()),
                    format!(" --name {name}"),
                ),
                (_, false) => {
                    (format!("lifted the pause {name} of {}", queue.name()), format!(" --name {name}"))
                }
            };
            render::note(format!("{done} (paused by {by}: {reason})"));
            render::command("Undo:", &queue.command(&format!("queue pause{flag} --reason ...")));
        }
        (None, Exit::Ok) => render::note(format!("{} was not paused: nothing changed", queue.name())),
        (None, Exit::NothingMatched) => render::error("no pause has this name; nothing changed"),
        (None, _) => render::error("several pauses are in force: name the one to lift; nothing changed"),
    }
    for pause in others {
        render::note(format!("still paused: {}", describe(pause)));
    }
    exit
}

/// The name behind `before`; nothing for the pause that was given none.
fn named(name: &PauseName, before: &str) -> String {
    match name.as_str() {
        DEFAULT_PAUSE => String::new(),
        name => format!("{before}{name}"),
    }
}

/// `, ends in 12m 0s`; nothing for a pause that lasts until it is lifted.
pub(crate) fn ends_in(pause: &Paused, now_ms: u64) -> String {
    let left = |until_ms: u64| Duration::from_millis(until_ms.saturating_sub(now_ms));
    pause.until_ms.map_or_else(String::new, |end| format!(", ends in {}", render::format_duration(left(end))))
}

fn describe(pause: &Paused) -> String {
    let Paused { name, by, reason, since_ms: _, until_ms: _ } = pause;
    format!("{} (by {}: {})", sanitize(name, 40), sanitize(by, 100), sanitize(reason, 200))
}

async fn drain(
    queue: &OperatorHandle,
    name: &PauseName,
    timeout: Duration,
    json: bool,
) -> Result<Exit, Error> {
    let start = Instant::now();
    let mut last_printed = start;
    loop {
        let (paused, in_flight) = queue.drained_by(name).await?;
        if !paused {
            render::error(format!(
                "the pause {} was lifted while this waited: {in_flight} in flight, and jobs are claimed again",
                name.as_str()
            ));
            return Ok(Exit::Failed);
        }
        if in_flight == 0 {
            if json {
                let waited_ms = millis(start.elapsed());
                render::json(SCHEMA_VERSION, &serde_json::json!({ "drained": true, "waited_ms": waited_ms }));
            } else {
                let waited = render::format_duration(start.elapsed());
                render::note(format!("drained after {waited}: nothing runs"));
                render::command("Undo:", &queue.command(&format!("queue resume{}", named(name, " "))));
            }
            return Ok(Exit::Ok);
        }
        if start.elapsed() > timeout {
            render::error(format!("{in_flight} still in flight after {timeout:?}; the queue stays paused"));
            return Ok(Exit::Failed);
        }
        if last_printed.elapsed() > PROGRESS_INTERVAL {
            last_printed = Instant::now();
            render::note(format!(
                "{in_flight} in flight, waiting up to {}",
                render::format_duration(timeout.saturating_sub(start.elapsed()))
            ));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn cancel(queue: &OperatorHandle, ids: &[JobId], json: bool) -> Result<Exit, Error> {
    let (mut cancelled, mut unknown, by) = (Vec::new(), Vec::new(), render::operator());
    let mut failed = None;
    for id in ids {
        match queue.cancel(id, Actor { by: &by, operation: None }).await {
            Ok(true) => cancelled.push(id),
            Ok(false) => unknown.push(id),
            Err(error) => {
                failed = Some((id, error));
                break;
            }
        }
    }
    let mut audited = Ok(());
    if !cancelled.is_empty() {
        let names: Vec<&str> = cancelled.iter().map(|id: &&JobId| id.as_str()).collect();
        let (what, selection, count) = ("cancel".to_owned(), names.join(" "), Some(names.len() as u64));
        audited = queue.audit(&AuditEntry { what, by, selection, count, ..AuditEntry::default() }).await;
    }
    if json {
        render::json(SCHEMA_VERSION, &serde_json::json!({ "cancelled": cancelled, "not_found": unknown }));
    } else {
        for id in &unknown {
            render::note(format!("{id} is not in {}, or not alive any more", queue.name()));
        }
        render::note(format!(
            "cancelled {} of {}: a running one is stopped within a heartbeat, a waiting one is skipped when its turn comes. \
             Undo: enqueue it again",
            cancelled.len(),
            ids.len()
        ));
    }
    if let Some((id, error)) = failed {
        render::error(stopped_by_redis(id, "cancelled", ids.len() - cancelled.len() - unknown.len()));
        return Err(error);
    }
    audited?;
    Ok(match (cancelled.is_empty(), unknown.is_empty()) {
        (true, _) => Exit::NothingMatched,
        (false, true) => Exit::Ok,
        (false, false) => Exit::PartlyDone,
    })
}

async fn print_set(queue: &OperatorHandle, values: &[(Setting, String)], json: bool) -> Result<Exit, Error> {
    let changed = set(queue, values, &render::operator()).await?;
    if json {
        render::json(SCHEMA_VERSION, &serde_json::json!({ "set": changed }));
        return Ok(Exit::Ok);
    }
    for SettingChange { setting, before, value } in &changed {
        let name = setting.as_str();
        let was = before.as_deref().unwrap_or("not stored");
        render::note(format!("{name} is {value} now (was {was})"));
        if let Some(before) = before {
            render::command("Undo:", &queue.command(&format!("queue set {name}={before:?}")));
        }
    }
    if changed.is_empty() {
        render::note("nothing changed: these values were in force already");
    }
    Ok(Exit::Ok)
}

async fn settings(queue: &OperatorHandle, json: bool) -> Result<Exit, Error> {
    let settings = queue.settings().await?;
    if json {
        render::json(SCHEMA_VERSION, &serde_json::json!({ "settings": settings }));
        return Ok(Exit::Ok);
    }
    render::line(settings_table(&settings));
    Ok(Exit::Ok)
}

fn settings_table(settings: &[SettingValue]) -> String {
    let rows = settings.iter().map(|one| {
        let note = match (&one.configured, one.stored) {
            (Some(configured), _) => format!("this configuration: {configured}"),
            (None, true) => String::new(),
            (None, false) => "not stored yet: this configuration".to_owned(),
        };
        vec![one.setting.as_str().to_owned(), one.value.clone(), note]
    });
    render::table(&[Column::Word("SETTING"), Column::Cut("VALUE"), Column::Cut("")], rows)
}
