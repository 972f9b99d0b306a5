//! Turning what went wrong on a socket into a failure: which kind it is, and one sentence that says so.
//!
//! It decides by the types of the errors underneath, never by their text. What follows from a kind is the judge's.
//!
//! Invariant: no sentence holds a URL's credentials or its query, where signed URLs keep their secrets.

use std::error::Error;
use std::io;
use std::time::Duration;

use url::Url;

use super::guard::ForbiddenAddress;
use crate::job::failure::{Failure, FailureKind};
use crate::job::text::causes;
use crate::job::text::innermost_cause;

/// Characters of a URL that are shown.
const MAX_URL_CHARS: usize = 200;

/// A configuration that cannot be put into force.
#[derive(Debug, thiserror::Error)]
pub enum FetchConfigError {
    /// The user agent cannot stand in a header.
    #[error("fetch.user_agent is {0:?}: a header holds visible ASCII characters only")]
    UserAgent(String),
    /// The client refuses to be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// How far one fetch has come; what is said of it when the time is up.
#[derive(Debug)]
pub(super) struct FetchProgress {
    here: Url,
    read: Option<usize>,
}

impl FetchProgress {
    /// At the beginning of a hop.
    pub(super) fn at(here: &Url) -> Self {
        Self { here: here.clone(), read: None }
    }

    /// This many bytes of the body are there.
    pub(super) fn read(&mut self, bytes: usize) {
        self.read = Some(bytes);
    }

    /// The host of this hop.
    pub(super) fn host(&self) -> Option<&str> {
        self.here.host_str()
    }

    /// This hop's address, for a message.
    pub(super) fn display_url(&self) -> String {
        display_url(&self.here)
    }

    /// The time is up.
    pub(super) fn timed_out(&self, limit: Duration) -> Failure {
        let what = match self.read {
            None => "sent no body".to_owned(),
            Some(bytes) => format!("sent {bytes} bytes and no end"),
        };
        let limit = humantime::format_duration(limit);
        Failure::new(FailureKind::Timeout, format!("{} {what} within {limit}", self.display_url()))
    }
}

/// A request that was not answered.
pub(super) fn request_failure(error: &reqwest::Error, here: &Url, has_roots: bool) -> Failure {
    if let Some(forbidden) = find::<ForbiddenAddress>(error) {
        let host = here.host_str().unwrap_or_default();
        return Failure::new(
            FailureKind::ForbiddenAddress,
            format!("{host} resolves to what is not public: {forbidden}"),
        );
    }
    let (kind, what) = if error.is_dns() {
        (FailureKind::Dns, "the name does not resolve")
    } else if is_tls(error) || (here.scheme() == "https" && error.is_connect() && closed_early(error)) {
        (
            FailureKind::Tls,
            if has_roots { "no TLS" } else { "no TLS: install this machine's ca-certificates" },
        )
    } else if error.is_connect() {
        (FailureKind::Connect, "no connection")
    } else {
        (FailureKind::Upstream, "no answer that is HTTP")
    };
    Failure::new(kind, format!("{}: {what} ({})", display_url(here), innermost_cause(error)))
}

/// A body that ended before its end: a short one, a broken chunk, a reset.
pub(super) fn body_failure(error: &reqwest::Error, progress: &FetchProgress) -> Failure {
    let bytes = progress.read.unwrap_or(0);
    let detail =
        format!("{} broke off after {bytes} bytes ({})", progress.display_url(), innermost_cause(error));
    Failure::new(FailureKind::Truncated, detail)
}

/// True when TLS itself is what failed.
pub(super) fn is_tls(error: &reqwest::Error) -> bool {
    find::<rustls::Error>(error).is_some()
}

/// True when the other side closed a connection in the middle of something: while connecting, of the handshake.
fn closed_early(error: &reqwest::Error) -> bool {
    let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.map(io::Error::kind).any(|kind| kind == io::ErrorKind::UnexpectedEof)
}

/// The first error of this type among an error and its causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// A URL for people: without credentials, query and fragment, clipped.
pub(super) fn display_url(url: &Url) -> String {
    let mut plain = url.clone();
    // Both refuse only for URLs that cannot have credentials.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.set_query(url.query().map(|_| "..."));
    plain.set_fragment(None);
    plain.as_str().chars().take(MAX_URL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_keeps_its_place_and_loses_its_secrets() {
        for (url, expected) in [
            ("https://u:p@a.test:8443/b/c?X-Signature=s#f", "https://a.test:8443/b/c?..."),
            ("http://a.test", "http://a.test/"),
            ("data:text/html,x", "data:text/html,x"),
            ("http://a.test/\x1b[31m\n", "http://a.test/%1B[31m"),
        ] {
            assert_eq!(display_url(&Url::parse(url).unwrap()), expected);
        }
        assert_eq!(
            display_url(&Url::parse(&format!("http://a.test/{}", "x".repeat(9_000))).unwrap()).len(),
            MAX_URL_CHARS
        );
    }

    #[test]
    fn a_cause_is_found_inside_an_io_error() {
        let forbidden = ForbiddenAddress { address: [127, 0, 0, 1].into(), class: "loopback" };
        let wrapped = io::Error::other(io::Error::other(forbidden.clone()));
        assert_eq!(find::<ForbiddenAddress>(&wrapped), Some(&forbidden));
        assert_eq!(innermost_cause(&wrapped), forbidden.to_string());
        assert!(find::<rustls::Error>(&wrapped).is_none());
    }
}
