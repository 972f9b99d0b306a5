//! Authentication at the db app: the `Authorization` that calls carry, and the headers that a proxy before it wants.
//!
//! Invariant: a secret leaves this room only in a header marked as sensitive.

use std::fmt;
use std::time::Instant;

use reqwest::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};

use super::login::SharedLogin;
use super::{ApiConfigError, Config, LoginMode};
use crate::job::redact::{MARK, Secret};

/// Secrets shorter than this are not scrubbed from texts: they would match everywhere.
const MIN_SCRUBBED_BYTES: usize = 4;

/// Headers that a request has for reasons of its own; `Authorization` is that of `api.token`.
const RESERVED_HEADERS: [HeaderName; 6] =
    [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];

/// Who makes a call: an anonymous caller, or the account of this header.
#[derive(Clone)]
pub(super) struct Identity {
    /// The `Authorization` header.
    pub(super) authorization: Option<HeaderValue>,
    /// When it was made.
    pub(super) since: Instant,
}

impl Identity {
    /// The identity of this `Authorization` header.
    pub(super) fn new(authorization: Option<HeaderValue>) -> Self {
        Self { authorization, since: Instant::now() }
    }
}

/// How calls are authenticated, and the secrets to scrub.
pub(super) struct Auth {
    pub(super) method: AuthMethod,
    headers: HeaderMap,
    secrets: Vec<SecretString>,
}

/// Where the identity of a call comes from.
pub(super) enum AuthMethod {
    /// It is configured.
    Fixed(Identity),
    /// It is a token that the app gives for an email and a password.
    Login(Box<SharedLogin>),
}

impl Auth {
    /// Builds the headers from the configuration; empty strings mean not set.
    pub(super) fn new(config: &Config, client: &Client) -> Result<Self, ApiConfigError> {
        let wrong = |(key, what)| ApiConfigError::Credentials(key, what);
        let (password, token) = (config.password.expose(), config.token.expose());
        let scheme = scheme(config).map_err(wrong)?;
        // reqwest encodes the header; this request itself is never sent.
        let encode = |request: RequestBuilder| -> Result<Option<HeaderValue>, ApiConfigError> {
            Ok(request.build()?.headers().get(AUTHORIZATION).cloned())
        };
        let request = client.get("http://localhost");
        let basic = encode(client.get("http://localhost").basic_auth(&config.email, Some(password)))?;
        let authorization = match scheme {
            AuthScheme::Absent => None,
            AuthScheme::Basic => basic.clone(),
            AuthScheme::Bearer => encode(request.bearer_auth(token))?,
        };
        let written = authorization.as_ref().and_then(|header| header.to_str().ok()).unwrap_or_default();
        let encoded = written.split(' ').next_back().unwrap_or_default();
        let method = match (scheme, config.login) {
            (AuthScheme::Basic, LoginMode::Token) => {
                AuthMethod::Login(Box::new(SharedLogin::new(config, Identity::new(basic))))
            }
            (AuthScheme::Basic, LoginMode::Basic) | (AuthScheme::Absent | AuthScheme::Bearer, _) => {
                AuthMethod::Fixed(Identity::new(authorization.clone()))
            }
        };
        let headers = proxy_headers(&config.headers).map_err(wrong)?;
        let values = headers.values().filter_map(|value| value.to_str().ok());
        let secrets = [password, token, encoded].into_iter().chain(values);
        let secrets = secrets.filter(|secret| secret.len() >= MIN_SCRUBBED_BYTES).map(SecretString::from);
        Ok(Self { method, secrets: secrets.collect(), headers })
    }

    /// Whether credentials are configured.
    pub(super) fn is_set(&self) -> bool {
        match &self.method {
            AuthMethod::Fixed(identity) => identity.authorization.is_some(),
            AuthMethod::Login(_) => true,
        }
    }

    /// All headers of a call that this identity makes.
    pub(super) fn headers(&self, identity: &Identity) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.extend(identity.authorization.clone().map(|header| (AUTHORIZATION, header)));
        headers
    }

    /// Removes our secrets from a text, in case a response repeats them.
    pub(super) fn scrub(&self, text: &str) -> String {
        let text = self
            .secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.expose_secret(), MARK));
        match &self.method {
            AuthMethod::Fixed(_) => text,
            AuthMethod::Login(login) => login.scrub(text),
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "Auth(somebody)" } else { "Auth(nobody)" })
    }
}

/// The authentication scheme that the configuration names.
#[derive(Debug, Clone, Copy)]
enum AuthScheme {
    Absent,
    Basic,
    Bearer,
}

/// Checks the credentials and headers; returns the invalid key and a sentence.
pub(super) fn problem(config: &Config) -> Option<(&'static str, String)> {
    scheme(config).map(drop).and_then(|()| proxy_headers(&config.headers).map(drop)).err()
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

/// The configured headers, `Name: value` each. No error repeats one: a value may be a secret.
fn proxy_headers(lines: &[Secret]) -> Result<HeaderMap, (&'static str, String)> {
    let mut headers = HeaderMap::new();
    for (at, line) in lines.iter().enumerate() {
        let wrong = |what: &str| ("headers", format!("has an entry (number {}) that {what}", at + 1));
        let (name, value) = line.expose().split_once(':').ok_or_else(|| wrong("is not \"Name: value\""))?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong("has no valid header name"))?;
        if RESERVED_HEADERS.contains(&name) {
            return Err(wrong("names a header that cannot be set (Authorization is that of api.token)"));
        }
        let value = HeaderValue::from_str(value.trim());
        let mut value = value.map_err(|_| wrong("has no valid header value"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
