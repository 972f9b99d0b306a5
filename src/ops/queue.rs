//! `queue pause | resume | drain | cancel`: what changes a whole queue, and jobs that are no longer wanted.

use std::time::{Duration, Instant};

use super::Exit;
use super::render::{self, sanitize};
use crate::job::JobId;
use crate::job::duration::millis;
use crate::queue::{Error, OperatorHandle};

/// Polling interval of `queue drain`.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often a drain that waits says so.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What to do with the queue.
pub enum QueueAction {
    /// Stop claims.
    Pause {
        /// Reason, stored with the pause.
        reason: String,
    },
    /// Allow claims again.
    Resume,
    /// Pause, and wait until nothing runs.
    Drain {
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
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: QueueAction, json: bool) -> Result<Exit, Error> {
    match action {
        QueueAction::Pause { reason } => pause(queue, &reason, json).await,
        QueueAction::Resume => resume(queue, json).await,
        QueueAction::Drain { reason, timeout } => {
            pause(queue, &reason, false).await?;
            drain(queue, timeout, json).await
        }
        QueueAction::Cancel { ids } => cancel(queue, &ids, json).await,
    }
}

async fn pause(queue: &OperatorHandle, reason: &str, json: bool) -> Result<Exit, Error> {
    queue.pause(&render::operator(), reason).await?;
    let status = queue.status().await?;
    if json {
        render::json(
            &serde_json::json!({ "paused": true, "in_flight": status.in_flight, "ready": status.ready }),
        );
    } else {
        let name = queue.name();
        render::note(format!(
            "paused {name} ({}): {} in flight finish, {} ready wait. Undo: {}",
            sanitize(reason, 200),
            status.in_flight,
            status.ready,
            queue.command("queue resume")
        ));
    }
    Ok(Exit::Ok)
}

async fn resume(queue: &OperatorHandle, json: bool) -> Result<Exit, Error> {
    let was = queue.resume(&render::operator()).await?;
    if json {
        render::json(&serde_json::json!({ "paused": false, "previous_pause": was }));
        return Ok(Exit::Ok);
    }
    match was {
        Some(was) => render::note(format!(
            "resumed {} (paused by {}: {}). Undo: {}",
            queue.name(),
            sanitize(&was.by, 100),
            sanitize(&was.reason, 200),
            queue.command("queue pause --reason ...")
        )),
        None => render::note(format!("{} was not paused: nothing changed", queue.name())),
    }
    Ok(Exit::Ok)
}

async fn drain(queue: &OperatorHandle, timeout: Duration, json: bool) -> Result<Exit, Error> {
    let start = Instant::now();
    let mut last_printed = start;
    loop {
        let status = queue.status().await?;
        if status.in_flight == 0 {
            if json {
                render::json(&serde_json::json!({ "drained": true, "waited_ms": millis(start.elapsed()) }));
            } else {
                let (waited, undo) =
                    (render::format_duration(start.elapsed()), queue.command("queue resume"));
                render::note(format!("drained after {waited}: nothing runs. Undo: {undo}"));
            }
            return Ok(Exit::Ok);
        }
        if start.elapsed() > timeout {
            render::error(format!(
                "{} still in flight after {timeout:?}; the queue stays paused",
                status.in_flight
            ));
            return Ok(Exit::Failed);
        }
        if last_printed.elapsed() > PROGRESS_INTERVAL {
            last_printed = Instant::now();
            render::note(format!(
                "{} in flight, waiting up to {}",
                status.in_flight,
                render::format_duration(timeout.saturating_sub(start.elapsed()))
            ));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn cancel(queue: &OperatorHandle, ids: &[JobId], json: bool) -> Result<Exit, Error> {
    let (mut cancelled, mut unknown) = (Vec::new(), Vec::new());
    for id in ids {
        match queue.cancel(id).await? {
            true => cancelled.push(id),
            false => unknown.push(id),
        }
    }
    if json {
        render::json(&serde_json::json!({ "cancelled": cancelled, "not_found": unknown }));
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
    Ok(if cancelled.is_empty() { Exit::NothingMatched } else { Exit::Ok })
}
