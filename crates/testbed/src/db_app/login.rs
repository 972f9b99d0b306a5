//! Who may ask: passwords with each call, and tokens that are given for one.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{AUTHOR, DbState};
use crate::http::Request;

/// The lifetime of a token in the app.
const WEEK: Duration = Duration::from_secs(7 * 86_400);

impl DbState {
    pub(super) fn is_refused(&self, request: &Request) -> bool {
        self.authorization.is_some() && !self.is_logged_in(request)
    }

    pub(super) fn is_logged_in(&self, request: &Request) -> bool {
        let Some(sent) = request.header("authorization") else { return false };
        let token = sent.strip_prefix("Bearer ").and_then(|token| self.tokens.get(token));
        let is_valid = |(until, of): &(Instant, String)| {
            *until > Instant::now() && self.authorization.as_ref().is_none_or(|asked_for| of == asked_for)
        };
        Some(sent) == self.authorization.as_deref() || token.is_some_and(is_valid)
    }

    pub(super) fn user(&self) -> Value {
        let permissions = if self.may_not_annotate { json!(["view"]) } else { json!(["view", "annotate"]) };
        json!({"id": 1, "email": AUTHOR, "permissions": permissions})
    }

    /// A token for an email and a password that the asked-for `Authorization` is made of, or for any where none is.
    pub(super) fn sign_in(&mut self, body: &[u8]) -> (u16, Value) {
        let body: Value = serde_json::from_slice(body).unwrap();
        let text = |name: &str| body["user"][name].as_str().unwrap().to_owned();
        let sent = BASE64_STANDARD.encode(format!("{}:{}", text("email"), text("password")));
        let sent = format!("Basic {sent}");
        if self.authorization.as_ref().is_some_and(|asked_for| *asked_for != sent) {
            return (401, json!({"error": "Invalid Email or password."}));
        }
        let lifetime = if self.token_lifetime.is_zero() { WEEK } else { self.token_lifetime };
        let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"sub": "User:1", "iat": made, "exp": made + lifetime.as_secs()}).to_string();
        let claims = if self.opaque_tokens { String::new() } else { claims };
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
        let token = format!("e30.{claims}.{}", Uuid::new_v4().simple());
        self.tokens.insert(token.clone(), (Instant::now() + lifetime, sent));
        (200, json!({"user": self.user(), "token": token}))
    }
}
