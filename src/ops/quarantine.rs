//! `quarantine ls | lift`: hosts whose jobs are held because their pages keep killing children.

use serde_json::json;

use super::Exit;
use super::render::{self, sanitize};
use crate::job::text::{host_filter, shell_word};
use crate::queue::{Error, HostName, HostResumed, OperatorHandle};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// A subcommand of `quarantine`.
#[derive(Debug, Clone)]
pub enum QuarantineAction {
    /// List the hosts.
    Ls,
    /// Let the jobs of one go on.
    Lift(HostName),
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: QuarantineAction, json: bool) -> Result<Exit, Error> {
    match action {
        QuarantineAction::Ls => ls(queue, json).await,
        QuarantineAction::Lift(host) => print_lift(queue, &host, json).await,
    }
}

async fn ls(queue: &OperatorHandle, json: bool) -> Result<Exit, Error> {
    let hosts = queue.held_hosts().await?;
    if json {
        render::json(SCHEMA_VERSION, &json!({ "hosts": hosts }));
    } else if hosts.is_empty() {
        render::note("no host is held");
    }
    if !json {
        for held in &hosts {
            render::line(sanitize(&held.to_string(), 300));
        }
        if let Some(first) = hosts.first() {
            let host = sanitize(&first.host, 300);
            if let Some(filter) = host_filter(&host) {
                render::command("look: ", &queue.command(&format!("dead ls {filter} --limit 5")));
            }
            let lift = format!("quarantine lift {}", shell_word(&host));
            render::command("lift: ", &queue.command(&lift));
        }
    }
    Ok(if hosts.is_empty() { Exit::NothingMatched } else { Exit::Ok })
}

/// Lets the jobs of a held host go on; false where it is not held.
///
/// # Errors
/// Those of Redis.
pub async fn lift(queue: &OperatorHandle, host: &HostName, by: &str) -> Result<bool, Error> {
    // A rest that an operator ordered, or a breaker that failures opened, is not for this.
    let is_held = queue.held_hosts().await?.iter().any(|held| held.host == host.as_str());
    Ok(is_held
        && match queue.resume_host(host, by).await? {
            HostResumed::Resumed(_) => true,
            HostResumed::NotResting => false,
        })
}

async fn print_lift(queue: &OperatorHandle, host: &HostName, json: bool) -> Result<Exit, Error> {
    let lifted = lift(queue, host, &render::operator()).await?;
    if json {
        render::json(SCHEMA_VERSION, &json!({ "host": host.as_str(), "lifted": lifted }));
    } else if lifted {
        render::note(format!("the jobs of {host} go on; ten more kills hold it again"));
        let undo = format!("queue pause {} --for 15m", shell_word(host.as_str()));
        render::command("Undo:", &queue.command(&undo));
    } else {
        render::error(format!("{host} is not held; nothing changed"));
    }
    Ok(if lifted { Exit::Ok } else { Exit::NothingMatched })
}
