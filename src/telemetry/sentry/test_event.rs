//! One event on request, and what Sentry answered to it: whether alerts would arrive is only known by sending one.

use reqwest::Response;
use serde_json::Value;
use uuid::Uuid;

use super::event::{Alert, Severity, sanitize_detail};
use super::sender::Sender;
use super::{AlertSource, Config, Error};
use crate::job::text::innermost_cause;

/// How much of a refusal is read; Sentry's are a few hundred bytes.
const MAX_REFUSAL_BYTES: usize = 4096;

/// What became of a test event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestEvent {
    /// Its id, by which it is found in Sentry.
    pub id: Uuid,
    /// Why Sentry did not take it; None where it did.
    pub refusal: Option<String>,
}

impl TestEvent {
    /// Sends an event that says who sent it, and waits for the answer, within the time limit of any alert. None where
    /// no DSN is set.
    ///
    /// # Errors
    /// When there is no client to send with.
    pub async fn send(config: &Config, release: &str, by: &str) -> Result<Option<Self>, Error> {
        let Some(dsn) = &config.dsn else { return Ok(None) };
        let sender = Sender::new(dsn.to_sdk(), release, &config.environment, AlertSource::default())?;
        let text = format!("test: {by} asked whether alerts of wm-analyzer arrive, and they do");
        let alert = Alert {
            id: Uuid::new_v4(),
            severity: Severity::Info,
            fingerprint: vec!["test".to_owned()],
            lines: vec![text],
            commands: Vec::new(),
            tags: Vec::new(),
            job: Vec::new(),
            traceparent: None,
            count: 1,
        };
        let id = alert.id;
        let refusal = match sender.alert_request(&alert) {
            None => Some("the event cannot be serialized".to_owned()),
            Some(request) => match request.send().await {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => Some(refusal(response).await),
                Err(e) => Some(innermost_cause(&e.without_url())),
            },
        };
        Ok(Some(Self { id, refusal }))
    }
}

/// `Sentry answered 403 Forbidden: event submission rejected with_reason: ProjectId`
async fn refusal(mut response: Response) -> String {
    let status = response.status();
    let mut body = Vec::new();
    while body.len() < MAX_REFUSAL_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL_BYTES - body.len())]);
    }
    let json: Option<Value> = serde_json::from_slice(&body).ok();
    let detail = json.and_then(|json| Some(json.get("detail")?.as_str()?.to_owned()));
    match detail.map(|detail| sanitize_detail(&detail)).filter(|detail| !detail.is_empty()) {
        Some(detail) => format!("Sentry answered {status}: {detail}"),
        None => format!("Sentry answered {status}"),
    }
}
