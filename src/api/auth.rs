//! Who we are at the db app: one `Authorization` header, made once, and kept out of everything that is shown.
//!
//! Invariant: a secret leaves this file only inside a header marked as sensitive.

use std::fmt;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::job::redact::MARK;

use super::{ApiConfigError, Config};

/// Secrets shorter than this are not looked for in texts: they would be found everywhere.
const MIN_SCRUBBED_BYTES: usize = 4;

/// Our `Authorization`, if any.
pub(super) struct Auth {
    header: Option<HeaderValue>,
    secrets: Vec<SecretString>,
}

impl Auth {
    /// Reads the credentials; empty ones are none.
    pub(super) fn new(config: &Config, client: &Client) -> Result<Self, ApiConfigError> {
        let (password, token) = (config.password.expose_secret(), config.token.expose_secret());
        // reqwest writes the header; this request itself is never sent.
        let request = client.get("http://localhost");
        let request = match (config.email.is_empty(), password.is_empty(), token.is_empty()) {
            (true, true, true) => request,
            (false, false, true) => request.basic_auth(&config.email, Some(password)),
            (true, true, false) => request.bearer_auth(token),
            (true, false, true) => return Err(ApiConfigError::Credentials("password", "api.email is not")),
            (false, true, true) => return Err(ApiConfigError::Credentials("email", "api.password is not")),
            (_, _, false) => {
                return Err(ApiConfigError::Credentials("token", "so are api.email or api.password"));
            }
        };
        // Basic encodes what it is given; a token stands there as it is.
        let request = request.build();
        let request =
            request.map_err(|_| ApiConfigError::Credentials("token", "holds what no header can"))?;
        let header = request.headers().get(AUTHORIZATION).cloned();
        let written = header.as_ref().and_then(|header| header.to_str().ok()).unwrap_or_default();
        let encoded = written.split(' ').next_back().unwrap_or_default();
        let secrets =
            [password, token, encoded].into_iter().filter(|secret| secret.len() >= MIN_SCRUBBED_BYTES);
        Ok(Self { secrets: secrets.map(SecretString::from).collect(), header })
    }

    /// Are we anybody?
    pub(super) fn is_set(&self) -> bool {
        self.header.is_some()
    }

    /// Puts our header on a request.
    pub(super) fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.header {
            Some(header) => request.header(AUTHORIZATION, header),
            None => request,
        }
    }

    /// A text without our secrets, should an answer have repeated them.
    pub(super) fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose_secret(), MARK))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.header.is_some() { "Auth(somebody)" } else { "Auth(nobody)" })
    }
}

/// An optional address that is written as an empty text where there is none, so that its key can stand in a file.
pub(super) mod blank_is_none {
    use super::Url;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the address, or nothing.
    pub(in crate::api) fn serialize<S: Serializer>(
        url: &Option<Url>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(url.as_ref().map(Url::as_str).unwrap_or_default())
    }

    /// Reads an address, or nothing.
    pub(in crate::api) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Url>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.trim() {
            "" => Ok(None),
            text => Url::parse(text)
                .map(Some)
                .map_err(|e| D::Error::custom(format!("{text:?} is no address: {e}"))),
        }
    }
}
