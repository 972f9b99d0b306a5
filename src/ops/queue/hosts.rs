//! `queue pause HOST`, `queue resume HOST`: a host rests by hand.

use std::time::Duration;

use super::super::Exit;
use super::super::render::{self, sanitize};
use super::{ResumeOutcome, SCHEMA_VERSION, print_lifted, rest_host, resume};
use crate::job::duration::millis;
use crate::job::text::shell_word;
use crate::queue::{Error, HostName, OperatorHandle};

/// Makes a host rest.
pub(super) async fn print_rest(
    queue: &OperatorHandle,
    host: &HostName,
    time: Duration,
    reason: &str,
    json: bool,
) -> Result<Exit, Error> {
    if let Err(why) = rest_host(queue, host, time, &render::operator(), reason).await? {
        render::error(why);
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

/// Lifts a pause or ends the rest of a host.
pub(super) async fn print_resume(
    queue: &OperatorHandle,
    what: Option<&str>,
    json: bool,
) -> Result<Exit, Error> {
    Ok(match resume(queue, what, &render::operator()).await? {
        ResumeOutcome::Pause(resumed, others) => print_lifted(queue, &resumed, &others, json),
        ResumeOutcome::Host(host, by_hand) => {
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
            Exit::Ok
        }
        ResumeOutcome::NotResting(host) => {
            render::error(format!("{host} does not rest; nothing changed"));
            Exit::NothingMatched
        }
        ResumeOutcome::Unreadable(why) => {
            render::error(why);
            Exit::Usage
        }
    })
}
