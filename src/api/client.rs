//! One call to the db app: limited, timed, bounded in size, and classified by its status.
//!
//! It handles paths and JSON only, not versions or annotations.
//!
//! Invariants: calls go to the configured origin only (redirects are not followed); each request of a call ends within
//! `timeout`; the description of a failed call contains no secret.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect, retry};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use super::auth::{Auth, Identity};
use super::examine::ObservedApp;
use super::{ApiConfigError, Config};
use crate::job::duration::retry_after;
use crate::job::failure::{Failure, FailureKind};
use crate::job::redact::scrub;
use crate::job::text::{clip, innermost_cause};

/// Limit on the app's error titles, in characters.
pub(super) const MAX_TITLE_CHARS: usize = 500;

/// The purpose of a call: the same status can mean different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallPurpose {
    Lookup,
    Post,
}

/// Client for one db app, with a limit on concurrent calls.
#[derive(Debug)]
pub(super) struct ApiClient {
    pub(super) client: Client,
    base: Url,
    pub(super) auth: Auth,
    pub(super) observed: Mutex<ObservedApp>,
    permits: Semaphore,
    timeout: Duration,
    max_response: usize,
    max_retry_after: Duration,
}

impl ApiClient {
    /// A client for this base address.
    pub(super) fn new(base: Url, config: &Config) -> Result<Self, ApiConfigError> {
        // The crypto provider is process-wide; if one is already installed, it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .http1_only();
        if base.scheme() == "http" {
            // TLS is not used here, so a machine without root certificates must not be refused.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build()?;
        Ok(Self {
            auth: Auth::new(config, &client)?,
            observed: Mutex::default(),
            client,
            base,
            permits: Semaphore::new(config.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)),
            timeout: config.timeout,
            max_response: usize::try_from(config.max_response.as_u64()).unwrap_or(usize::MAX),
            max_retry_after: config.max_retry_after,
        })
    }

    /// The base address of all paths, ending in `/`.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Whether calls carry credentials.
    pub(super) fn has_credentials(&self) -> bool {
        self.auth.is_set()
    }

    /// Makes a lookup and returns the parsed response.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let url = self.url(path)?;
        let answer = self.call(self.client.get(url), CallPurpose::Lookup).await?;
        self.parse_answer(&answer, path)
    }

    /// Posts `body` as JSON.
    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        let url = self.url(path)?;
        let answer = self.call(self.client.post(url).json(body), CallPurpose::Post).await?;
        // A login page also returns 200: only a response in the app's format confirms that it has the
        // annotation.
        self.parse_answer(&answer, path).map(drop)
    }

    /// Parses a response in the app's format, which always has `data`.
    fn parse_answer(&self, answer: &[u8], path: &str) -> Result<Value, Failure> {
        let answer: Option<Value> = serde_json::from_slice(answer).ok();
        answer.filter(|answer| answer.get("data").is_some()).ok_or_else(|| self.malformed_answer(path))
    }

    /// The failure for a response in an unexpected format.
    pub(super) fn malformed_answer(&self, path: &str) -> Failure {
        self.unavailable(format!("the db app's answer to {path} is not in its API's format: check api.url"))
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base.join(path).map_err(|e| self.unavailable(format!("{path} is not a valid path: {e}")))
    }

    /// Makes a call; once more under a new identity where the app refuses the one that was in use before.
    pub(super) async fn call(
        &self,
        request: RequestBuilder,
        purpose: CallPurpose,
    ) -> Result<Vec<u8>, Failure> {
        let (began, repeat) = (Instant::now(), request.try_clone());
        let _permit = self.permits.acquire().await;
        let identity = self.identity(began, None).await?;
        let ended = self.timed(self.exchange(request, &identity, purpose)).await;
        match (&ended, repeat) {
            (Err(failure), Some(request))
                if failure.kind == FailureKind::ApiRefused && self.can_renew(&identity, began) =>
            {
                let renewed = self.identity(Instant::now(), Some(&identity)).await?;
                self.timed(self.exchange(request, &renewed, purpose)).await
            }
            (Err(_) | Ok(_), _) => ended,
        }
    }

    /// Ends with a failure after `timeout`.
    pub(super) async fn timed<T>(
        &self,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(self.timeout);
            Err(self.unavailable(format!("the db app did not answer within {limit}")))
        })
    }

    /// Sends a request as it is and reads the whole answer.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), Failure> {
        let response = request.send().await.map_err(|e| self.connection_failure(&e))?;
        let status = response.status();
        Ok((status, self.read(response).await?))
    }

    async fn exchange(
        &self,
        request: RequestBuilder,
        identity: &Identity,
        purpose: CallPurpose,
    ) -> Result<Vec<u8>, Failure> {
        let request = request.headers(self.auth.headers(identity));
        let response = request.send().await.map_err(|e| self.connection_failure(&e))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read(response).await?;
        if purpose == CallPurpose::Post && (status.is_success() || status == StatusCode::LOCKED) {
            self.observed.lock().read_only = status == StatusCode::LOCKED;
        }
        let words = error_titles(&body);
        let Some(kind) = classify_status(status, purpose, words.is_some()) else { return Ok(body) };
        let mut detail = format!("the db app answered {status}");
        if let Some(words) = words {
            detail = format!("{detail}: {words}");
        } else if let Some(location) = headers.get(LOCATION) {
            let location = String::from_utf8_lossy(location.as_bytes());
            detail = format!(
                "{detail}, which points to {}: set api.url to that address",
                clip(&scrub(&location), MAX_TITLE_CHARS)
            );
        } else if kind == FailureKind::ApiUnavailable && status.is_client_error() {
            detail = format!("{detail} and the body is not in its API's format: check api.url");
        }
        let mut failure = self.failure(kind, &detail);
        if kind == FailureKind::ApiUnavailable {
            let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let wait = asked.and_then(|value| retry_after(value, SystemTime::now()));
            failure.retry_after = wait.map(|wait| wait.min(self.max_retry_after));
        }
        Err(failure)
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.connection_failure(&e))? {
            if chunk.len() > self.max_response - body.len() {
                let detail = format!("the db app's answer has more than {} bytes", self.max_response);
                return Err(self.unavailable(detail));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn connection_failure(&self, error: &reqwest::Error) -> Failure {
        self.unavailable(format!("the db app cannot be reached ({})", innermost_cause(error)))
    }

    fn unavailable(&self, detail: String) -> Failure {
        self.failure(FailureKind::ApiUnavailable, &detail)
    }

    pub(super) fn failure(&self, kind: FailureKind, detail: &str) -> Failure {
        Failure::new(kind, self.auth.scrub(detail)).at_host(self.base.host_str().unwrap_or_default())
    }
}

/// The kind of failure for a status; `None` for success. `own` means that the body is an error in the app's
/// format: otherwise the response may come from anywhere, and no job is blamed for it.
fn classify_status(status: StatusCode, purpose: CallPurpose, own: bool) -> Option<FailureKind> {
    match (status.as_u16(), purpose) {
        (200..=299, _) => None,
        (401 | 403, _) => Some(FailureKind::ApiRefused),
        // An exception in the app: it may be about what was asked for alone.
        (500, CallPurpose::Lookup) if own => Some(FailureKind::VersionUnreadable),
        // 423: the app is temporarily read-only. 409: a concurrent write.
        (408 | 409 | 423 | 425 | 429 | 500..=599, _) => Some(FailureKind::ApiUnavailable),
        (404 | 410, _) if own => Some(FailureKind::VersionMissing),
        (400..=499, CallPurpose::Lookup) if own => Some(FailureKind::BadReference),
        (400..=499, CallPurpose::Post) if own => Some(FailureKind::Rejected),
        _ => Some(FailureKind::ApiUnavailable),
    }
}

/// The app's error titles, from `{"errors": [{"status": 404, "title": "…"}]}`.
pub(super) fn error_titles(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let errors = answer.get("errors")?.as_array()?;
    let titles: Vec<&str> = errors.iter().filter_map(|error| error.get("title")?.as_str()).collect();
    (!errors.is_empty()).then(|| clip(&scrub(&titles.join("; ")), MAX_TITLE_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_judged_by_its_purpose_and_its_words() {
        use CallPurpose::{Lookup, Post};
        for (status, purpose, own, expected) in [
            (200, Lookup, false, None),
            (201, Post, false, None),
            (301, Lookup, false, Some(FailureKind::ApiUnavailable)),
            (400, Lookup, true, Some(FailureKind::BadReference)),
            (400, Post, true, Some(FailureKind::Rejected)),
            (400, Post, false, Some(FailureKind::ApiUnavailable)),
            (401, Lookup, false, Some(FailureKind::ApiRefused)),
            (401, Post, true, Some(FailureKind::ApiRefused)),
            (403, Post, false, Some(FailureKind::ApiRefused)),
            (404, Lookup, true, Some(FailureKind::VersionMissing)),
            (404, Lookup, false, Some(FailureKind::ApiUnavailable)),
            (404, Post, true, Some(FailureKind::VersionMissing)),
            (405, Post, false, Some(FailureKind::ApiUnavailable)),
            (408, Lookup, true, Some(FailureKind::ApiUnavailable)),
            (409, Post, true, Some(FailureKind::ApiUnavailable)),
            (410, Lookup, true, Some(FailureKind::VersionMissing)),
            (422, Post, true, Some(FailureKind::Rejected)),
            (422, Lookup, true, Some(FailureKind::BadReference)),
            (422, Post, false, Some(FailureKind::ApiUnavailable)),
            (423, Post, true, Some(FailureKind::ApiUnavailable)),
            (429, Lookup, false, Some(FailureKind::ApiUnavailable)),
            (500, Post, true, Some(FailureKind::ApiUnavailable)),
            (500, Lookup, true, Some(FailureKind::VersionUnreadable)),
            (500, Lookup, false, Some(FailureKind::ApiUnavailable)),
            (501, Lookup, true, Some(FailureKind::ApiUnavailable)),
            (503, Lookup, false, Some(FailureKind::ApiUnavailable)),
            (600, Lookup, true, Some(FailureKind::ApiUnavailable)),
        ] {
            let judged = classify_status(StatusCode::from_u16(status).unwrap(), purpose, own);
            assert_eq!(judged, expected, "{status} {purpose:?} {own}");
        }
    }

    #[test]
    fn only_the_apps_own_form_of_an_error_is_its_words() {
        for (body, expected) in [
            (r#"{"errors":[{"status":422,"title":"Priority is too high"}]}"#, Some("Priority is too high")),
            (r#"{"errors":[{"title":"a"},{"title":"b"},{"status":1}]}"#, Some("a; b")),
            (r#"{"errors":[{"status":404}]}"#, Some("")),
            (r#"{"errors":[]}"#, None),
            (r#"{"error":"not found"}"#, None),
            ("<html>not found</html>", None),
            ("", None),
        ] {
            assert_eq!(error_titles(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }
}
