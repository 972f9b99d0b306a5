//! Authentication at the db app: one `Authorization` header, built once and never shown.
//!
//! Invariant: a secret leaves this file only in a header marked as sensitive.

use std::fmt;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};

use crate::job::redact::MARK;

use super::{ApiConfigError, Config};

/// Secrets shorter than this are not scrubbed from texts: they would match everywhere.
const MIN_SCRUBBED_BYTES: usize = 4;

/// The `Authorization` header to send, if any, and the secrets to scrub.
pub(super) struct Auth {
    header: Option<HeaderValue>,
    secrets: Vec<SecretString>,
}

impl Auth {
    /// Builds the header from the credentials; empty strings mean not set.
    pub(super) fn new(config: &Config, client: &Client) -> Result<Self, ApiConfigError> {
        let (password, token) = (config.password.expose(), config.token.expose());
        let scheme = scheme(config).map_err(|(key, what)| ApiConfigError::Credentials(key, what))?;
        // reqwest encodes the header; this request itself is never sent.
        let request = client.get("http://localhost");
        let request = match scheme {
            AuthScheme::Absent => request,
            AuthScheme::Basic => request.basic_auth(&config.email, Some(password)),
            AuthScheme::Bearer => request.bearer_auth(token),
        };
        let header = request.build()?.headers().get(AUTHORIZATION).cloned();
        let written = header.as_ref().and_then(|header| header.to_str().ok()).unwrap_or_default();
        let encoded = written.split(' ').next_back().unwrap_or_default();
        let secrets =
            [password, token, encoded].into_iter().filter(|secret| secret.len() >= MIN_SCRUBBED_BYTES);
        Ok(Self { secrets: secrets.map(SecretString::from).collect(), header })
    }

    /// Whether credentials are configured.
    pub(super) fn is_set(&self) -> bool {
        self.header.is_some()
    }

    /// Adds the header to a request.
    pub(super) fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.header {
            Some(header) => request.header(AUTHORIZATION, header),
            None => request,
        }
    }

    /// Removes our secrets from a text, in case a response repeats them.
    pub(super) fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose_secret(), MARK))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.header.is_some() { "Auth(somebody)" } else { "Auth(nobody)" })
    }
}

/// The authentication scheme of all calls.
enum AuthScheme {
    Absent,
    Basic,
    Bearer,
}

/// Checks the credentials; returns the invalid key and a sentence.
pub(super) fn problem(config: &Config) -> Option<(&'static str, String)> {
    scheme(config).err()
}

fn scheme(config: &Config) -> Result<AuthScheme, (&'static str, String)> {
    let (email, password, token) = (&config.email, config.password.expose(), config.token.expose());
    let wrong = |key, what: &str| Err((key, what.to_owned()));
    match (email.is_empty(), password.is_empty(), token.is_empty()) {
        (true, true, true) => Ok(AuthScheme::Absent),
        (false, false, true) => Ok(AuthScheme::Basic),
        (true, true, false) if HeaderValue::from_str(token).is_err() => {
            wrong("token", "is not a valid header value: write visible ASCII characters only")
        }
        (true, true, false) => Ok(AuthScheme::Bearer),
        (true, false, true) => wrong("password", "is set and api.email is not: set both, or neither"),
        (false, true, true) => wrong("email", "is set and api.password is not: set both, or neither"),
        (_, _, false) => wrong("token", "is set and so are api.email or api.password: set one of the two"),
    }
}
