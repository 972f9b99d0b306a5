//! Redaction of secrets: one marker for configuration, messages, logs and alerts.
//!
//! Three kinds of text: an address of our own configuration ([`url()`]), of which the host is enough; the address of a
//! page ([`page_url`]), of which as much is shown as is harmless; and a sentence that may hold either ([`scrub()`]).
//!
//! Invariant: no text made here holds a secret or part of one, even if the address that contains it is
//! malformed.

mod page_address;
mod scrub;

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};

pub use self::page_address::{page_address, page_url};
pub use self::scrub::scrub;

/// Replaces a secret wherever one would be shown.
pub const MARK: &str = "***";

/// A name that contains one of these (in any case) has a secret value.
const SECRET_NAMES: [&str; 11] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "authorization",
    "credential",
    "signature",
    "cookie",
];

/// A secret from the configuration. `Debug` and `Serialize` show [`MARK`], or the empty string for an empty
/// secret.
#[derive(Clone, Default, Deserialize)]
pub struct Secret(SecretString);

impl Secret {
    /// The plain secret, for the code that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn shown(&self) -> &'static str {
        text(self.expose())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<T: Into<SecretString>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// [`MARK`] for a secret, and nothing for a blank one, so that a reader can see whether it is set.
pub fn text(secret: &str) -> &'static str {
    if secret.trim().is_empty() { "" } else { MARK }
}

/// An address with its credentials and query replaced by [`MARK`], even if it is malformed.
///
/// Everything between `://` and the last `@` counts as credentials, because people paste passwords unencoded.
/// If the host cannot be distinguished from a password, the host is hidden too.
pub fn url(address: &str) -> String {
    let address = address.trim();
    if address.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = address.split_once("://") else { return MARK.to_owned() };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return MARK.to_owned();
    }
    let hidden = || format!("{scheme}://{MARK}");
    let (login, place) = match rest.rsplit_once('@') {
        // An `@` in a query: the text after it may be the end of a password.
        Some((before, _)) if before.contains('?') => return hidden(),
        Some((_, place)) => (format!("{MARK}@"), place),
        None => (String::new(), rest),
    };
    let authority = place.split(['/', '?', '#']).next().unwrap_or_default();
    if !is_authority(authority) {
        return hidden();
    }
    match place.find(['?', '#']) {
        Some(end) if end + 1 < place.len() => {
            format!("{scheme}://{login}{}{MARK}", &place[..=end])
        }
        _ => format!("{scheme}://{login}{place}"),
    }
}

/// Whether this is `host[:port]`, or a comma-separated list of them, and not the start of a password.
fn is_authority(text: &str) -> bool {
    text.split(',').all(|host| {
        let (name, port) = match host.rsplit_once(']') {
            Some((name, port)) => (name.trim_start_matches('['), port.strip_prefix(':').unwrap_or(port)),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b) || !b.is_ascii();
        name.bytes().all(plain) && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_as_the_mark_and_a_blank_one_as_nothing() {
        let secret = Secret::from("hunter2");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?} {:?}", Secret::from(" ")), "\"***\" \"\"");
    }

    #[test]
    fn an_address_is_shown_without_its_credentials_and_its_query() {
        for (address, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://u:geheim@h:1/0", "redis://***@h:1/0"),
            ("redis://:p@ss/w#rd@host", "redis://***@host"),
            ("redis://:p:ss%@host/0", "redis://***@host/0"),
            ("redis://:p?ss@host", "redis://***"),
            ("redis://[::1]:7/0", "redis://[::1]:7/0"),
            ("redis+unix:///run/r.sock", "redis+unix:///run/r.sock"),
            ("redis+unix:///run/r.sock?pass=geheim", "redis+unix:///run/r.sock?***"),
            ("redis+unix:///run/r.sock?pass=ge@heim", "redis+unix://***"),
            ("redis+sentinel://u:ge@heim@h:1,i:2/m", "redis+sentinel://***@h:1,i:2/m"),
            ("redis+sentinel://geheim@h:1/m?sentinel_pass=geheim", "redis+sentinel://***@h:1/m?***"),
            ("rediss://h:1/#insecure", "rediss://h:1/#***"),
            ("https://u:p@db.test/x?y=z", "https://***@db.test/x?***"),
            ("https://db.test", "https://db.test"),
            ("redis://user:geheim", "redis://***"),
            ("redis://user:ge/heim", "redis://***"),
            ("not a url", "***"),
            ("geheim", "***"),
            ("ge heim://h", "***"),
            ("", ""),
        ] {
            assert_eq!(url(address), shown, "{address}");
        }
    }
}
