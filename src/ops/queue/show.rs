//! `queue show`: what holds for a whole queue, and what is in it.

use serde_json::json;

use super::super::Exit;
use super::super::render::{self, BOLD, Column, format_bytes, sanitize, styled};
use super::{SCHEMA_VERSION, describe, ends_in, settings_table};
use crate::queue::{Error, OperatorHandle, Purpose, Status};

/// Prints it.
pub(super) async fn run(queue: &OperatorHandle, json: bool) -> Result<Exit, Error> {
    let (status, settings) = (queue.status().await?, queue.settings().await?);
    if json {
        let sizes: serde_json::Map<_, _> =
            sizes(&status).into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        render::json(
            SCHEMA_VERSION,
            &json!({
                "queue": queue.name(), "pauses": status.pauses,
                "resting": status.resting, "sizes": sizes, "memory": status.memory, "settings": settings,
                "unreadable": status.unreadable
            }),
        );
        return Ok(Exit::Ok);
    }
    let state = if status.pauses.is_empty() { "not paused" } else { "paused" };
    render::line(format!("{}  {state}", styled(BOLD, queue.name())));
    for pause in &status.pauses {
        render::line(format!("pause   {}{}", describe(pause), ends_in(pause, status.at_ms)));
    }
    for host in &status.resting.most_waited_for {
        let why = host.by_hand.as_ref().map_or_else(
            || "after failures".to_owned(),
            |rest| format!("by {}: {}", sanitize(&rest.by, 60), sanitize(&rest.reason, 100)),
        );
        render::line(format!("rests   {} {why}", sanitize(&host.host, 100)));
    }
    let sizes = sizes(&status).map(|(name, count)| vec![name.to_owned(), count.to_string()]);
    render::line(render::table(&[Column::Word("STATE"), Column::Number("JOBS")], sizes));
    let memory = Purpose::ALL
        .iter()
        .map(|purpose| vec![purpose.as_str().to_owned(), format_bytes(status.memory.of(*purpose))]);
    render::line(render::table(&[Column::Word("MEMORY"), Column::Number("BYTES")], memory));
    render::line(settings_table(&settings));
    for part in &status.unreadable {
        render::error(format!("cannot read {}: {}", part.key, sanitize(&part.error, 200)));
    }
    Ok(Exit::Ok)
}

fn sizes(status: &Status) -> [(&'static str, u64); 6] {
    [
        ("inbox", status.inbox),
        ("ready", status.ready),
        ("scheduled", status.scheduled),
        ("exclusive", status.exclusive),
        ("in_flight", status.in_flight),
        ("dead", status.dead),
    ]
}
