//! `queue pause HOST`, `queue resume HOST`: a host rests by hand.

use std::time::Duration;

use super::super::Exit;
use super::super::render::{self, sanitize};
use super::SCHEMA_VERSION;
use crate::job::duration::millis;
use crate::job::text::shell_word;
use crate::queue::{Error, HostName, HostResumed, OperatorHandle, PauseName};

/// Makes a host rest.
pub(super) async fn rest(
    queue: &OperatorHandle,
    host: &HostName,
    time: Duration,
    reason: &str,
    json: bool,
) -> Result<Exit, Error> {
    if !queue.rest_host(host, time, &render::operator(), reason).await? {
        render::error("100 hosts rest by hand already: end a rest first (status lists them)");
        return Ok(Exit::Failed);
    }
    if json {
        let rests_ms = millis(time);
        render::json(SCHEMA_VERSION, &serde_json::json!({ "host": host.as_str(), "rests_ms": rests_ms }));
        return Ok(Exit::Ok);
    }
    let time = humantime::format_duration(time);
    render::note(format!("{host} rests for {time}: what is in flight there finishes, its other jobs wait"));
    render::command("Undo:", &queue.command(&format!("queue resume {}", shell_word(host.as_str()))));
    Ok(Exit::Ok)
}

/// Lifts the pause of this name, where one is in force; otherwise ends the rest of the host. So a name that is both
/// needs two calls, and each says what it did.
pub(super) async fn resume_either(
    queue: &OperatorHandle,
    what: Option<&str>,
    json: bool,
) -> Result<Exit, Error> {
    let name = what.and_then(|what| PauseName::parse(what).ok());
    let Some(what) = what else { return super::resume(queue, None, json).await };
    let is_pause = match &name {
        Some(name) => queue.drained_by(name).await?.0,
        None => false,
    };
    let host = match (is_pause, HostName::parse(what)) {
        (false, Ok(host)) => host,
        (true, _) => return super::resume(queue, name.as_ref(), json).await,
        (false, Err(_)) if name.is_some() => return super::resume(queue, name.as_ref(), json).await,
        (false, Err(why)) => {
            render::error(why);
            return Ok(Exit::Usage);
        }
    };
    match queue.resume_host(&host, &render::operator()).await? {
        HostResumed::Resumed(by_hand) => {
            if json {
                render::json(
                    SCHEMA_VERSION,
                    &serde_json::json!({ "host": host.as_str(), "resumed": true, "previous_rest": by_hand }),
                );
                return Ok(Exit::Ok);
            }
            let rest = by_hand.map_or_else(
                || "it rested after failures".to_owned(),
                |rest| format!("paused by {}: {}", sanitize(&rest.by, 100), sanitize(&rest.reason, 200)),
            );
            render::note(format!("{host} is visited again ({rest})"));
            let undo = format!("queue pause {} --for 15m", shell_word(host.as_str()));
            render::command("Undo:", &queue.command(&undo));
            Ok(Exit::Ok)
        }
        // What is neither is most likely a pause's name, as before hosts could rest.
        HostResumed::NotResting if name.is_some() => super::resume(queue, name.as_ref(), json).await,
        HostResumed::NotResting => {
            render::error(format!("{host} does not rest; nothing changed"));
            Ok(Exit::NothingMatched)
        }
    }
}
