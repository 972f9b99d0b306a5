//! The login that all calls of a process share: a token for an email and a password.
//!
//! Invariants: one task logs in at a time, and those that wait for it share how it ended; a refused token is replaced
//! once for each call that it was refused to.
//!
//! # Why
//! - The app checks a password with bcrypt, a quarter of a second of its CPU for each call, and a token in a
//!   millisecond.
//! - A token's lifetime is the span that it states, counted on our clock from its arrival: a clock that is days off
//!   would otherwise log in for each call, or never again.
//! - An app that gives no tokens is called with the password. That is tried again after a while, because it may be
//!   updated.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, HeaderValue};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Config;
use super::auth::{AuthMethod, Identity};
use super::client::{ApiClient, error_titles};
use crate::job::failure::{Failure, FailureKind};
use crate::job::redact::{MARK, Secret};

/// Where a token is had, relative to the API: today's apps have both, older ones the second.
const LOGIN_PATHS: [&str; 2] = ["users/sign_in", "../../users/sign_in.json"];
/// How long an app that gives no tokens is called with the password.
const BASIC_FOR: Duration = Duration::from_secs(3_600);

/// An email and a password, and what the app gave for them.
pub(super) struct SharedLogin {
    email: String,
    password: Secret,
    /// What is used where the app gives no tokens.
    basic: Identity,
    /// Held by the task that logs in.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<LoginState>,
}

#[derive(Default)]
struct LoginState {
    identity: Option<Identity>,
    renew_at: Option<Instant>,
    /// When the last login failed, and why.
    failed: Option<(Instant, Failure)>,
}

/// What the app gave.
struct Granted {
    identity: Identity,
    /// After what time it is to be replaced; never, where the token states no lifetime.
    renew_after: Option<Duration>,
}

impl SharedLogin {
    /// Not logged in yet.
    pub(super) fn new(config: &Config, basic: Identity) -> Self {
        Self {
            email: config.email.clone(),
            password: config.password.clone(),
            basic,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// The identity in use, unless it is about to expire or is the one that was `refused`.
    fn current(&self, refused: Option<&Identity>) -> Option<Identity> {
        let state = self.state.lock();
        let identity = state.identity.as_ref()?;
        let is_refused = refused.is_some_and(|refused| refused.since == identity.since);
        let expires = state.renew_at.is_some_and(|at| Instant::now() >= at);
        (!is_refused && !expires).then(|| identity.clone())
    }

    /// Why the last login failed, if it ended after `began`.
    fn failed_since(&self, began: Instant) -> Option<Failure> {
        let state = self.state.lock();
        state.failed.as_ref().filter(|(at, _)| *at >= began).map(|(_, failure)| failure.clone())
    }

    fn record(&self, ended: &Result<Granted, Failure>) {
        let mut state = self.state.lock();
        *state = match ended {
            Ok(Granted { identity, renew_after }) => LoginState {
                identity: Some(identity.clone()),
                renew_at: renew_after.map(|after| identity.since + after),
                failed: None,
            },
            Err(failure) => {
                LoginState { failed: Some((Instant::now(), failure.clone())), ..LoginState::default() }
            }
        };
    }

    /// Removes the token from a text.
    pub(super) fn scrub(&self, text: String) -> String {
        let state = self.state.lock();
        let header = state.identity.as_ref().and_then(|identity| identity.authorization.as_ref());
        let header = header.and_then(|header| header.to_str().ok()).unwrap_or_default();
        match header.split(' ').next_back() {
            Some(token) if !token.is_empty() => text.replace(token, MARK),
            Some(_) | None => text,
        }
    }
}

impl ApiClient {
    /// Who makes a call that began then. Logs in if there was no login, where the token is about to expire, and where it was
    /// `refused`; a login that failed since then is not repeated.
    ///
    /// # Errors
    /// `api_refused` where the app does not take the email and the password, or `api_unavailable`.
    pub(super) async fn identity(
        &self,
        began: Instant,
        refused: Option<&Identity>,
    ) -> Result<Identity, Failure> {
        let login = match &self.auth.method {
            AuthMethod::Fixed(identity) => return Ok(identity.clone()),
            AuthMethod::Login(login) => login,
        };
        if let Some(current) = login.current(refused) {
            return Ok(current);
        }
        let _turn = login.turn.lock().await;
        if let Some(current) = login.current(refused) {
            return Ok(current);
        }
        if let Some(failure) = login.failed_since(began) {
            return Err(failure);
        }
        let ended = self.log_in(login).await;
        login.record(&ended);
        ended.map(|granted| granted.identity)
    }

    /// True where a refused call may be made again under another identity: not with one that is younger than the
    /// call, or the app would be asked for tokens in a loop.
    pub(super) fn can_renew(&self, refused: &Identity, call_began: Instant) -> bool {
        matches!(self.auth.method, AuthMethod::Login(_)) && refused.since < call_began
    }

    async fn log_in(&self, login: &SharedLogin) -> Result<Granted, Failure> {
        for path in LOGIN_PATHS {
            if let Some(granted) = self.ask_for_token(path, login).await? {
                return Ok(granted);
            }
        }
        let identity = Identity::new(login.basic.authorization.clone());
        Ok(Granted { identity, renew_after: Some(BASIC_FOR) })
    }

    /// Asks for a token at this path; `None` where none is given there.
    async fn ask_for_token(&self, path: &str, login: &SharedLogin) -> Result<Option<Granted>, Failure> {
        let body = json!({ "user": { "email": login.email, "password": login.password.expose() } });
        let request = self.client.post(self.url(path)?).header(ACCEPT, "application/json").json(&body);
        let request = request.headers(self.auth.headers(&Identity::new(None)));
        let (status, body) = self.timed(self.send(request)).await?;
        let words = login_error(&body).map(|words| format!(": {words}")).unwrap_or_default();
        match status.as_u16() {
            200..=299 => {
                let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
                self.observed.lock().is_user(&answer["user"]);
                Ok(granted(&answer))
            }
            401 | 403 => {
                let detail = format!("the db app refuses api.email and api.password ({status}{words})");
                Err(self.failure(FailureKind::ApiRefused, &detail))
            }
            408 | 409 | 423 | 425 | 429 | 500..=599 => {
                let way_out = match status {
                    StatusCode::INTERNAL_SERVER_ERROR => "; api.login = \"basic\" asks for no token",
                    _ => "",
                };
                let detail = format!("the db app could not log us in ({status}{words}){way_out}");
                Err(self.failure(FailureKind::ApiUnavailable, &detail))
            }
            _ => Ok(None),
        }
    }
}

/// What the app says of a refused login: Devise has a form of its own, `{"error": "..."}`.
fn login_error(body: &[u8]) -> Option<String> {
    let own = || {
        let answer: Value = serde_json::from_slice(body).ok()?;
        let words = crate::job::redact::scrub(answer.get("error")?.as_str()?);
        Some(crate::job::text::clip(&words, super::client::MAX_TITLE_CHARS))
    };
    error_titles(body).or_else(own)
}

/// The token of an answer to a login.
fn granted(answer: &Value) -> Option<Granted> {
    let token = answer.get("token")?.as_str().filter(|token| !token.is_empty())?;
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    let lifetime = lifetime(token, OffsetDateTime::now_utc().unix_timestamp());
    // A tenth of it is left for the calls that are under way.
    Some(Granted { identity: Identity::new(Some(header)), renew_after: lifetime.map(|span| span * 9 / 10) })
}

/// How long a token is valid from when it was made, as it says itself. Nothing is verified: that is the app's part.
fn lifetime(token: &str, now: i64) -> Option<Duration> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let made = claims["iat"].as_i64().unwrap_or(now);
    let span = u64::try_from(claims["exp"].as_i64()?.checked_sub(made)?).ok()?;
    (span > 0).then(|| Duration::from_secs(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_tokens_lifetime_is_the_span_that_it_states_whatever_our_clock_says() {
        for (claims, seconds) in [
            (r#"{"exp":1700604800,"iat":1700000000}"#, Some(604_800)),
            (r#"{"exp":1060,"iat":1000}"#, Some(60)),
            (r#"{"exp":1060}"#, Some(60)),
            (r#"{"exp":999}"#, None),
            (r#"{"exp":1000,"iat":2000}"#, None),
            (r#"{"exp":"soon"}"#, None),
            (r#"{"exp":9223372036854775807,"iat":-5}"#, None),
            ("no JSON", None),
        ] {
            assert_eq!(lifetime(&token(claims), 1000), seconds.map(Duration::from_secs), "{claims}");
        }
        for opaque in ["", "opaque", "a.b", "a.!!.c"] {
            assert_eq!(lifetime(opaque, 1000), None, "{opaque}");
        }
    }
}
