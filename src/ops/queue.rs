//! `queue pause | resume | drain | cancel`: the shared switch, waiting until nothing runs, and what nobody wants any more.

use std::time::{Duration, Instant};

use super::Exit;
use super::render::{self, plain};
use crate::job::JobId;
use crate::job::duration::millis;
use crate::queue::{Error, OperatorHandle};

/// How often a drain looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a drain that waits says so.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What to do with the queue.
pub enum Action {
    /// Hand out nothing more.
    Pause {
        /// Why.
        reason: String,
    },
    /// Hand out jobs again.
    Resume,
    /// Pause, and wait until nothing runs.
    Drain {
        /// Why.
        reason: String,
        /// Give up waiting after this long.
        timeout: Duration,
    },
    /// Mark jobs as not wanted any more.
    Cancel {
        /// Which.
        ids: Vec<JobId>,
    },
}

/// Carries it out.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: Action, json: bool) -> Result<Exit, Error> {
    match action {
        Action::Pause { reason } => pause(queue, &reason, json).await,
        Action::Resume => resume(queue, json).await,
        Action::Drain { reason, timeout } => {
            pause(queue, &reason, false).await?;
            drain(queue, timeout, json).await
        }
        Action::Cancel { ids } => cancel(queue, &ids, json).await,
    }
}

async fn pause(queue: &OperatorHandle, reason: &str, json: bool) -> Result<Exit, Error> {
    queue.pause(&render::operator(), reason).await?;
    let status = queue.status().await?;
    if json {
        render::json(
            &serde_json::json!({ "paused": true, "running": status.in_flight, "waiting": status.ready }),
        );
    } else {
        let name = queue.name();
        render::note(format!(
            "paused {name} ({}): {} running finish, {} wait. Undo: {}",
            plain(reason, 200),
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
        render::json(&serde_json::json!({ "paused": false, "was": was }));
        return Ok(Exit::Ok);
    }
    match was {
        Some(was) => render::note(format!(
            "resumed {} (paused by {}: {}). Undo: {}",
            queue.name(),
            plain(&was.by, 100),
            plain(&was.reason, 200),
            queue.command("queue pause --reason ...")
        )),
        None => render::note(format!("{} was not paused: nothing changed", queue.name())),
    }
    Ok(Exit::Ok)
}

async fn drain(queue: &OperatorHandle, timeout: Duration, json: bool) -> Result<Exit, Error> {
    let start = Instant::now();
    let mut said = start;
    loop {
        let status = queue.status().await?;
        if status.in_flight == 0 {
            if json {
                render::json(&serde_json::json!({ "drained": true, "waited_ms": millis(start.elapsed()) }));
            } else {
                let (waited, undo) = (render::ago(start.elapsed()), queue.command("queue resume"));
                render::note(format!("drained after {waited}: nothing runs. Undo: {undo}"));
            }
            return Ok(Exit::Ok);
        }
        if start.elapsed() > timeout {
            render::failure(format!(
                "{} still run after {timeout:?}; the queue stays paused",
                status.in_flight
            ));
            return Ok(Exit::Failed);
        }
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            render::note(format!(
                "{} running, waiting up to {}",
                status.in_flight,
                render::ago(timeout.saturating_sub(start.elapsed()))
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
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
        render::json(&serde_json::json!({ "cancelled": cancelled, "not_live": unknown }));
    } else {
        for id in &unknown {
            render::note(format!("{id} is not in {}, or not alive any more", queue.name()));
        }
        render::note(format!(
            "cancelled {} of {}: a running one is stopped within a beat, a waiting one is skipped when its turn comes. \
             Undo: enqueue it again",
            cancelled.len(),
            ids.len()
        ));
    }
    Ok(if cancelled.is_empty() { Exit::NothingMatched } else { Exit::Ok })
}
