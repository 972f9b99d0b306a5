//! Maps network errors to failures: a kind, and one sentence that describes it.
//!
//! It decides by the types of the underlying errors, never by their text. The judge decides what follows from
//! a kind.
//!
//! Invariant: no sentence contains more of a URL than [`page_url`] shows.

use std::error::Error;
use std::io;

use url::Url;

use super::Config;
use super::clock::{Overdue, RATE_WINDOW};
use super::guard::ForbiddenAddress;
use crate::job::failure::{Failure, FailureKind};
use crate::job::redact::page_url;
use crate::job::text::{causes, clip, innermost_cause};

/// Limit on a URL shown in a message, in characters.
const MAX_URL_CHARS: usize = 200;

/// An invalid configuration of the fetcher.
#[derive(Debug, thiserror::Error)]
pub enum FetchConfigError {
    /// The user agent contains characters that a header cannot hold.
    #[error("fetch.user_agent is {0:?}: a header holds visible ASCII characters only")]
    UserAgent(String),
    /// The HTTP client could not be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// Progress of one fetch, for the message on a timeout.
#[derive(Debug)]
pub(super) struct FetchProgress {
    here: Url,
    read: Option<usize>,
}

impl FetchProgress {
    /// Progress at the beginning of a hop.
    pub(super) fn at(here: &Url) -> Self {
        Self { here: here.clone(), read: None }
    }

    /// Records the number of body bytes received so far.
    pub(super) fn read(&mut self, bytes: usize) {
        self.read = Some(bytes);
    }

    /// The current hop's address, safe for a message.
    pub(super) fn display_url(&self) -> String {
        display_url(&self.here)
    }

    /// The failure for an expired time limit.
    fn overdue(&self, overdue: Overdue, config: &Config) -> Failure {
        let within = humantime::format_duration;
        let what = match (overdue, self.read) {
            (Overdue::Total, None) => format!("sent no body within {}", within(config.total_timeout)),
            (Overdue::Total, Some(bytes)) => {
                format!("sent {bytes} bytes and did not finish within {}", within(config.total_timeout))
            }
            (Overdue::Header, _) => format!("sent no header within {}", within(config.header_timeout)),
            (Overdue::Rate { received }, _) => format!(
                "trickles: {received} bytes within {}, and fetch.min_rate is {} a second",
                within(RATE_WINDOW),
                config.min_rate
            ),
        };
        Failure::new(FailureKind::Timeout, format!("{} {what}", self.display_url()))
    }
}

/// Why a body was not fetched, before it is known where.
#[derive(Debug)]
pub(super) enum FetchError {
    /// A failure of the peer or of its answer.
    Failed(Failure),
    /// A time limit.
    Overdue(Overdue),
}

impl FetchError {
    /// The failure, with the host of the hop that failed.
    pub(super) fn at(self, progress: &FetchProgress, config: &Config) -> Failure {
        let failure = match self {
            Self::Failed(failure) => failure,
            Self::Overdue(overdue) => progress.overdue(overdue, config),
        };
        Failure { host: progress.here.host_str().map(str::to_owned), ..failure }
    }
}

impl From<Failure> for FetchError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Overdue> for FetchError {
    fn from(overdue: Overdue) -> Self {
        Self::Overdue(overdue)
    }
}

/// The failure for a request without a response.
pub(super) fn request_failure(error: &reqwest::Error, here: &Url, has_roots: bool) -> Failure {
    if let Some(forbidden) = find::<ForbiddenAddress>(error) {
        let host = here.host_str().unwrap_or_default();
        return Failure::new(
            FailureKind::ForbiddenAddress,
            format!("{host} resolves to a forbidden address: {forbidden}"),
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
        (FailureKind::Upstream, "the response is not HTTP")
    };
    Failure::new(kind, format!("{}: {what} ({})", display_url(here), innermost_cause(error)))
}

/// The failure for a body that ended early: too short, a broken chunk, a reset.
pub(super) fn body_failure(error: &reqwest::Error, progress: &FetchProgress) -> Failure {
    let bytes = progress.read.unwrap_or(0);
    let detail =
        format!("{} broke off after {bytes} bytes ({})", progress.display_url(), innermost_cause(error));
    Failure::new(FailureKind::Truncated, detail)
}

/// True if TLS itself failed.
pub(super) fn is_tls(error: &reqwest::Error) -> bool {
    find::<rustls::Error>(error).is_some()
}

/// True if the peer closed the connection early; while connecting, that means during the handshake.
fn closed_early(error: &reqwest::Error) -> bool {
    let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.map(io::Error::kind).any(|kind| kind == io::ErrorKind::UnexpectedEof)
}

/// The first error of type `E` in the chain of causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// A URL for messages: without its secrets, truncated.
pub(super) fn display_url(url: &Url) -> String {
    clip(&page_url(url), MAX_URL_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_secrets_and_a_bound() {
        let shown = |url: &str| display_url(&Url::parse(url).unwrap());
        assert_eq!(
            shown("https://u:p@a.test:8443/b?X-Signature=s#f"),
            "https://***@a.test:8443/b?X-Signature=***#***"
        );
        assert_eq!(shown("http://a.test/\x1b[31m\n"), "http://a.test/%1B[31m");
        let long = shown(&format!("http://a.test/{}", "x".repeat(9_000)));
        assert_eq!(long.chars().count(), MAX_URL_CHARS + 1);
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
