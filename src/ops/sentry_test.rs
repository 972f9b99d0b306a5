//! `sentry test`: sends one event, waits for Sentry's answer, and tells it.

use super::Exit;
use super::render::{self, GOOD, styled};
use crate::telemetry::sentry::{Config, TestEvent};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// Sends and tells. Ends with [`Exit::Failed`] where Sentry refused the event or did not answer, and with
/// [`Exit::Config`] where there is no Sentry to ask.
pub async fn run(config: &Config, release: &str, json: bool) -> Exit {
    let sent = match TestEvent::send(config, release, &render::operator()).await {
        Ok(Some(sent)) => sent,
        Ok(None) => {
            render::error(
                "sentry.dsn is not set: set it, or SENTRY_DSN or SENTRY_DSN_FILE in the environment",
            );
            return Exit::Config;
        }
        Err(e) => {
            render::error(e);
            return Exit::Failed;
        }
    };
    let TestEvent { id, refusal } = sent;
    if json {
        render::json(
            SCHEMA_VERSION,
            &serde_json::json!({
                "event_id": id.simple().to_string(), "accepted": refusal.is_none(), "refusal": refusal,
            }),
        );
    }
    match refusal {
        None if json => Exit::Ok,
        None => {
            render::line(format!("{} event {}", styled(GOOD, "accepted"), id.simple()));
            render::field("release", release);
            render::field("environment", &config.environment);
            Exit::Ok
        }
        Some(refusal) => {
            render::error(format!("event {} was not accepted: {refusal}", id.simple()));
            Exit::Failed
        }
    }
}
