//! What is known of the app itself: who we are there, and whether it takes annotations.

use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::CallPurpose;
use super::{Api, SOME_VERSIONS};
use crate::job::failure::{Failure, FailureKind};

/// Where the app says who is logged in: today's apps have both, older ones the second.
const SESSION_PATHS: [&str; 2] = ["users/session", "../../users/session"];
/// The permission that annotating needs.
const ANNOTATE: &str = "annotate";

/// What this process has seen of the app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedApp {
    /// Who is logged in; `None` where the app has not said it.
    pub account: Option<String>,
    /// Whether they may annotate, where that is known.
    pub may_annotate: Option<bool>,
    /// Whether the app refused the last write because it is read-only.
    pub read_only: bool,
}

impl ObservedApp {
    /// Takes over what the app says of a user.
    pub(super) fn is_user(&mut self, user: &Value) {
        if let Some(email) = user["email"].as_str() {
            self.account = Some(email.to_owned());
        }
        if let Some(permissions) = user["permissions"].as_array() {
            self.may_annotate = Some(permissions.iter().any(|permission| permission == ANNOTATE));
        }
    }
}

impl Api {
    /// The app's host.
    pub fn host(&self) -> &str {
        self.client.base().host_str().unwrap_or_default()
    }

    /// What was seen of the app so far.
    pub fn observed(&self) -> ObservedApp {
        self.client.observed.lock().clone()
    }

    /// Asks the app who we are and, where annotations are posted, whether it would take one: an empty one of no change,
    /// which it refuses after it has looked whether it may be written.
    ///
    /// # Errors
    /// Why the app cannot be used at all.
    pub async fn examine(&self) -> Result<ObservedApp, Failure> {
        self.client.get(SOME_VERSIONS).await?;
        for path in SESSION_PATHS {
            let request = self.client.client.get(self.client.url(path)?).header(ACCEPT, "application/json");
            let Ok(answer) = self.client.call(request, CallPurpose::Lookup).await else { continue };
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            self.client.observed.lock().is_user(&answer["user"]);
            break;
        }
        if self.posts() {
            let nil = Uuid::nil();
            let path = format!("pages/{nil}/changes/{nil}..{nil}/annotations");
            let ended = self.client.post(&path, &json!({})).await;
            let may_annotate = match ended.map_err(|failure| failure.kind) {
                Err(FailureKind::ApiRefused) => Some(false),
                Ok(()) | Err(FailureKind::Rejected | FailureKind::VersionMissing) => Some(true),
                Err(_) => self.observed().may_annotate,
            };
            self.client.observed.lock().may_annotate = may_annotate;
        }
        Ok(self.observed())
    }
}
