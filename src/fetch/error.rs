//! Turning what went wrong on a socket into a failure: which kind it is, and one sentence that says so.
//!
//! It decides by the types of the errors underneath, never by their text. What follows from a kind is the judge's.
//!
//! Invariant: no sentence holds a URL's credentials or its query, where signed URLs keep their secrets.

use std::error::Error;
use std::io;
use std::time::Duration;

use url::Url;

use super::guard::Forbidden;
use crate::job::failure::{Failure, Kind};
use crate::job::text::causes;
use crate::job::text::innermost_cause;

/// Characters of a URL that are shown.
const MAX_SHOWN: usize = 200;

/// A configuration that cannot be put into force.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The user agent cannot stand in a header.
    #[error("fetch.user_agent is {0:?}: a header holds visible ASCII characters only")]
    UserAgent(String),
    /// The client refuses to be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// How far one fetch has come; what is said of it when the time is up.
#[derive(Debug)]
pub(super) struct Progress {
    here: Url,
    read: Option<usize>,
}

impl Progress {
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
    pub(super) fn shown(&self) -> String {
        shown(&self.here)
    }

    /// The time is up.
    pub(super) fn timed_out(&self, limit: Duration) -> Failure {
        let what = match self.read {
            None => "sent no body".to_owned(),
            Some(bytes) => format!("sent {bytes} bytes and no end"),
        };
        let limit = humantime::format_duration(limit);
        Failure::new(Kind::Timeout, format!("{} {what} within {limit}", self.shown()))
    }
}

/// A request that was not answered.
pub(super) fn unanswered(error: &reqwest::Error, here: &Url, has_roots: bool) -> Failure {
    if let Some(forbidden) = find::<Forbidden>(error) {
        let host = here.host_str().unwrap_or_default();
        return Failure::new(
            Kind::ForbiddenAddress,
            format!("{host} resolves to what is not public: {forbidden}"),
        );
    }
    let (kind, what) = if error.is_dns() {
        (Kind::Dns, "the name does not resolve")
    } else if is_tls(error) || (here.scheme() == "https" && error.is_connect() && hung_up(error)) {
        (Kind::Tls, if has_roots { "no TLS" } else { "no TLS: install this machine's ca-certificates" })
    } else if error.is_connect() {
        (Kind::Connect, "no connection")
    } else {
        (Kind::Upstream, "no answer that is HTTP")
    };
    Failure::new(kind, format!("{}: {what} ({})", shown(here), innermost_cause(error)))
}

/// A body that ended before its end: a short one, a broken chunk, a reset.
pub(super) fn broken_off(error: &reqwest::Error, progress: &Progress) -> Failure {
    let bytes = progress.read.unwrap_or(0);
    let detail = format!("{} broke off after {bytes} bytes ({})", progress.shown(), innermost_cause(error));
    Failure::new(Kind::Truncated, detail)
}

/// True when TLS itself is what failed.
pub(super) fn is_tls(error: &reqwest::Error) -> bool {
    find::<rustls::Error>(error).is_some()
}

/// True when the other side closed a connection in the middle of something: while connecting, of the handshake.
fn hung_up(error: &reqwest::Error) -> bool {
    let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.map(io::Error::kind).any(|kind| kind == io::ErrorKind::UnexpectedEof)
}

/// The first error of this type among an error and its causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// A URL for people: without credentials, query and fragment, clipped.
pub(super) fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    // Both refuse only for URLs that cannot have credentials.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.set_query(url.query().map(|_| "..."));
    plain.set_fragment(None);
    plain.as_str().chars().take(MAX_SHOWN).collect()
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
            assert_eq!(shown(&Url::parse(url).unwrap()), expected);
        }
        assert_eq!(
            shown(&Url::parse(&format!("http://a.test/{}", "x".repeat(9_000))).unwrap()).len(),
            MAX_SHOWN
        );
    }

    #[test]
    fn a_cause_is_found_inside_an_io_error() {
        let forbidden = Forbidden { address: [127, 0, 0, 1].into(), class: "loopback" };
        let wrapped = io::Error::other(io::Error::other(forbidden.clone()));
        assert_eq!(find::<Forbidden>(&wrapped), Some(&forbidden));
        assert_eq!(innermost_cause(&wrapped), forbidden.to_string());
        assert!(find::<rustls::Error>(&wrapped).is_none());
    }
}
