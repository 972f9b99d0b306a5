//! The two decisions per hop: whether this address may be requested, and what its response means.
//!
//! It reads a status and headers, never a body, and sends nothing.
//!
//! Invariant: no response can make an address allowed that would have been refused as the first one.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use url::{Host, Url};

use super::error::display_url;
use super::guard::AddressGuard;
use crate::job::duration::retry_after;
use crate::job::failure::{Failure, FailureKind};

/// What to do with a response that is not a failure.
#[derive(Debug)]
pub(super) enum ResponseAction {
    /// Read the body: it is the one that was asked for.
    Content,
    /// Follow to this address, if it is allowed.
    Redirect(Url),
}

/// Checks a URL before it is requested. Host names are checked when they are resolved; this checks everything
/// else.
pub(super) fn check_url(url: &Url, guard: &AddressGuard) -> Result<(), Failure> {
    let forbidden = |what: String| Err(Failure::new(FailureKind::ForbiddenAddress, what));
    if !matches!(url.scheme(), "http" | "https") {
        return forbidden(format!("{} is neither http nor https", display_url(url)));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return forbidden(format!("{} carries credentials in its URL", display_url(url)));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) => return Ok(()),
        None => return forbidden(format!("{} has no host", display_url(url))),
    };
    guard.check(literal).or_else(|e| forbidden(e.to_string()))
}

/// Classifies a response by its status and headers.
///
/// A response with `Memento-Datetime` (RFC 7089) is the capture, whatever its status: pages that returned 404
/// are versions too. Only a captured redirect is followed, as every other client of the archives does.
pub(super) fn classify(
    response: &Response,
    here: &Url,
    max_retry_after: Duration,
) -> Result<ResponseAction, Failure> {
    let (status, headers) = (response.status(), response.headers());
    if let Some(next) = redirect(status, headers, here)? {
        return Ok(ResponseAction::Redirect(next));
    }
    if headers.contains_key("memento-datetime") {
        return Ok(ResponseAction::Content);
    }
    let kind = match status.as_u16() {
        // No range was requested, so a partial response does not contain the whole body.
        206 => FailureKind::Truncated,
        200..=299 => return Ok(ResponseAction::Content),
        404 | 410 => FailureKind::Gone,
        429 | 500..=599 => FailureKind::Upstream,
        _ => FailureKind::Refused,
    };
    let mut failure = Failure::new(kind, format!("{} answered {status}", display_url(here)));
    if kind == FailureKind::Upstream {
        let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = asked.and_then(|value| retry_after(value, SystemTime::now()));
        failure.retry_after = wait.map(|wait| wait.min(max_retry_after));
    }
    Err(failure)
}

fn redirect(status: StatusCode, headers: &HeaderMap, here: &Url) -> Result<Option<Url>, Failure> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = headers.get(LOCATION) else { return Ok(None) };
    let next = here.join(&String::from_utf8_lossy(location.as_bytes()));
    next.map(Some).map_err(|e| {
        let detail = format!("{} redirects to an invalid address ({e})", display_url(here));
        Failure::new(FailureKind::ForbiddenAddress, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_without_credentials_may_be_asked() {
        let guard = AddressGuard::new(&[]);
        for (url, permitted) in [
            ("http://archive.test/a", true),
            ("https://8.8.8.8:8443/a", true),
            ("http://[2606:4700::1111]/", true),
            ("ftp://archive.test/a", false),
            ("file:///etc/passwd", false),
            ("data:text/html,x", false),
            ("http://user@archive.test/", false),
            ("http://:secret@archive.test/", false),
            ("http://127.0.0.1/", false),
            ("http://[::1]/", false),
        ] {
            let judged = check_url(&Url::parse(url).unwrap(), &guard);
            assert_eq!(judged.is_ok(), permitted, "{url}");
            let failure = judged.err();
            assert!(
                failure
                    .iter()
                    .all(|f| f.kind == FailureKind::ForbiddenAddress && !f.detail.contains("secret"))
            );
        }
    }
}
