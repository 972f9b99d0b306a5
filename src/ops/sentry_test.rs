//! `sentry test`: sends one event, waits for Sentry's answer, and tells it.

use super::Exit;
use super::render::{self, GOOD, styled};
use crate::telemetry::sentry::{Config, TestEvent};

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
        render::json(&serde_json::json!({
            "schema_version": 1, "event_id": id.simple().to_string(), "accepted": refusal.is_none(), "refusal": refusal,
        }));
    }
    match refusal {
        None if json => Exit::Ok,
        None => {
            let environment = &config.environment;
            render::line(format!(
                "{} event {} for environment {environment:?}, release {release}",
                styled(GOOD, "accepted"),
                id.simple()
            ));
            Exit::Ok
        }
        Some(refusal) => {
            render::error(format!("event {} was not accepted: {refusal}", id.simple()));
            Exit::Failed
        }
    }
}
