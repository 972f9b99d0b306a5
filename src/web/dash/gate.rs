//! Access control: what a request must look like before a page handles it.
//!
//! Invariants:
//! - A request for a host name that is not configured is refused (421), which stops DNS rebinding.
//! - A request that another site embeds or fetches is refused, so that it causes no reads; links from other sites work.
//! - A request that changes something comes from a page of this dashboard, by `Sec-Fetch-Site` and `Origin`, or bears a
//!   token; without either it is refused.
//! - Pages need a role, and acts the role `operate`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use tokio::time::timeout;

use super::access::{Config, Role};
use super::session::Sessions;
use super::{Dashboard, REQUEST_TIME, assets, login};
use crate::ops::render;
use crate::telemetry::sanitize;
use crate::web::listener::PeerAddress;

/// Scripts, styles, forms and events of this origin only, and no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Longest name of a user that is shown and recorded, in bytes.
const NAME_MAX_BYTES: usize = 60;

/// An authenticated visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visitor {
    /// What they may do.
    pub(super) role: Role,
    /// Who they are, as the audit records it.
    pub(super) name: String,
    /// True for who logged in with a token, and can log out.
    pub(super) logged_in: bool,
}

impl Visitor {
    pub(super) fn may_operate(&self) -> bool {
        self.role >= Role::Operate
    }

    /// Somebody who is known by the name that they gave.
    pub(super) fn named(role: Role, name: &str, logged_in: bool) -> Self {
        let name = sanitize(name.trim(), NAME_MAX_BYTES);
        let name = if name.is_empty() { "dashboard".to_owned() } else { name };
        Self { role, name, logged_in }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
enum GateRefusal {
    /// Its host name is not one of this dashboard.
    OtherHost,
    /// It would change something, and was not sent by a page of this dashboard.
    OtherPage,
    /// It is a person's, who can log in on this page.
    LogIn(String),
    /// It is a program's, without a token.
    NoToken,
    /// It would change something, and the role is view.
    MayOnlyLook,
}

impl IntoResponse for GateRefusal {
    fn into_response(self) -> Response {
        let (status, what) = match self {
            Self::OtherHost => {
                (StatusCode::MISDIRECTED_REQUEST, "this host name is not ours: add it to dash.hosts")
            }
            Self::OtherPage => {
                (StatusCode::FORBIDDEN, "refused: this does not come from a page of this dashboard")
            }
            Self::LogIn(page) => return Redirect::to(&page).into_response(),
            Self::NoToken => {
                let challenge = [(WWW_AUTHENTICATE, "Bearer")];
                return (StatusCode::UNAUTHORIZED, challenge, "a token is needed: see dash.view_token")
                    .into_response();
            }
            Self::MayOnlyLook => {
                (StatusCode::FORBIDDEN, "refused: your role is view; acts need dash.operate_token")
            }
        };
        (status, what).into_response()
    }
}

/// Lets a request in, as somebody, or refuses it; and adds to each response what a browser must know.
pub(super) async fn pass(
    State(dashboard): State<Arc<Dashboard>>,
    ConnectInfo(PeerAddress(peer)): ConnectInfo<PeerAddress>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_act = is_act(&request);
    let answer = async {
        match admit(&dashboard, peer, &request) {
            Ok(visitor) => {
                visitor.map(|visitor| request.extensions_mut().insert(visitor));
                next.run(request).await
            }
            Err(refusal) => refusal.into_response(),
        }
    };
    // Events begin at once and go on: the limit is on the beginning.
    let response = timeout(REQUEST_TIME, answer).await.unwrap_or_else(|_| {
        let what = match is_act {
            true => {
                "no answer in time: it may be done or not; see the page of the audit before you repeat it"
            }
            false => "the page was not ready in time: Redis or this machine is too busy; reload it",
        };
        (StatusCode::SERVICE_UNAVAILABLE, what).into_response()
    });
    with_headers(response)
}

/// Identifies the sender. The login page and the assets need no identity.
fn admit(dashboard: &Dashboard, peer: SocketAddr, request: &Request) -> Result<Option<Visitor>, GateRefusal> {
    let (config, headers, path) = (&dashboard.config, request.headers(), request.uri().path());
    if !is_own_host(config, headers) {
        return Err(GateRefusal::OtherHost);
    }
    let is_act = is_act(request);
    if is_embedded_elsewhere(headers) || is_act && !is_from_our_page(headers) {
        return Err(GateRefusal::OtherPage);
    }
    if path == login::PATH || assets::is_asset(path) {
        return Ok(None);
    }
    let Some(visitor) = visitor(config, &dashboard.sessions, peer, headers) else {
        return Err(unknown(request));
    };
    if is_act && path != login::LOGOUT && !visitor.may_operate() {
        return Err(GateRefusal::MayOnlyLook);
    }
    Ok(Some(visitor))
}

fn is_act(request: &Request) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD)
}

/// Identifies the visitor by the proxy's header, a session or a bearer token; where none of these is configured, every
/// local user may come.
fn visitor(config: &Config, sessions: &Sessions, peer: SocketAddr, headers: &HeaderMap) -> Option<Visitor> {
    let header = config.user_header.as_ref().filter(|_| config.is_proxy(peer.ip()));
    if let Some(user) = header.and_then(|header| named_user(headers, &header.0)) {
        return Some(Visitor::named(config.role, user, false));
    }
    if let Some(visitor) = cookie(headers).and_then(|id| sessions.find(id)) {
        return Some(visitor);
    }
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Some(role) = bearer.and_then(|token| login::role_of(config, token)) {
        return Some(Visitor::named(role, "bearer of a token", false));
    }
    let is_open = !config.requires_login() && peer.ip().to_canonical().is_loopback();
    is_open.then(|| Visitor::named(config.role, &format!("{} (dashboard)", render::operator()), false))
}

/// The user that a proxy names. Of two, one may be what the client sent: a proxy that adds its own must not leave it.
fn named_user<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut users = headers.get_all(name).iter();
    let (Some(user), None) = (users.next(), users.next()) else { return None };
    std::str::from_utf8(user.as_bytes()).ok().filter(|user| !user.trim().is_empty())
}

/// The session that the browser sent.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(login::COOKIE_PREFIX))
}

/// True where `Host` is one of the configured names; ports are ignored.
fn is_own_host(config: &Config, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = without_port(host).to_ascii_lowercase();
    let own = match config.bind {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    ["localhost", "127.0.0.1", "[::1]", &own].contains(&name.as_str())
        || config.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(&name))
}

/// The name in a `Host`.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        Some(_) | None => host,
    }
}

/// True where a browser says that a page of another site asks for it, and not to go there.
fn is_embedded_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name, value: &str| {
        headers.get(name).is_some_and(|sent: &HeaderValue| sent.as_bytes() == value.as_bytes())
    };
    let is_elsewhere = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    is_elsewhere && !(is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document"))
}

/// True where a browser says that one of our pages sent it, or where no browser sent it and it has a token.
fn is_from_our_page(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text(HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| site != "same-origin") {
        return false;
    }
    match (text(ORIGIN), text(HOST)) {
        (Some(origin), Some(host)) => {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
        (None, _) => site.is_some() || headers.contains_key(AUTHORIZATION),
    }
}

/// To the login, or for a program the status that says so.
fn unknown(request: &Request) -> GateRefusal {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match accept.contains("text/html") && request.method() == Method::GET {
        true => GateRefusal::LogIn(login::page_for(request.uri())),
        false => GateRefusal::NoToken,
    }
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let all = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // With no-referrer browsers would send `Origin: null` from our own forms.
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CONNECTION, "close"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let named =
            |(name, value): &(&str, &str)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?));
        pairs.iter().filter_map(named).collect()
    }

    #[test]
    fn an_act_comes_from_one_of_our_pages_or_from_a_program_with_a_token() {
        let host = ("host", "localhost:8090");
        for (sent, allowed) in [
            (&[host, ("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8090")][..], true),
            (&[host, ("sec-fetch-site", "same-origin")], true),
            (&[host, ("origin", "http://localhost:8090")], true),
            (&[host, ("authorization", "Bearer x")], true),
            (&[host], false),
            (&[host, ("sec-fetch-site", "none")], false),
            (&[host, ("sec-fetch-site", "same-site")], false),
            (&[host, ("sec-fetch-site", "cross-site"), ("origin", "http://localhost:8090")], false),
            (&[host, ("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8091")], false),
            (
                &[host, ("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8090.evil.test")],
                false,
            ),
            (&[host, ("origin", "null")], false),
            (&[host, ("origin", "null"), ("authorization", "Bearer x")], false),
            (&[("origin", "http://localhost:8090")], false),
        ] {
            assert_eq!(is_from_our_page(&headers(sent)), allowed, "{sent:?}");
        }
    }

    #[test]
    fn other_sites_link_to_pages_and_embed_and_fetch_none() {
        for (site, mode, dest, is_refused) in [
            ("cross-site", "no-cors", "image", true),
            ("cross-site", "cors", "empty", true),
            ("cross-site", "navigate", "iframe", true),
            ("same-site", "no-cors", "script", true),
            ("cross-site", "navigate", "document", false),
            ("same-site", "navigate", "document", false),
            ("same-origin", "cors", "empty", false),
            ("none", "navigate", "document", false),
        ] {
            let sent = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            assert_eq!(is_embedded_elsewhere(&headers(&sent)), is_refused, "{sent:?}");
        }
        assert!(!is_embedded_elsewhere(&headers(&[])), "no browser");
        assert!(is_embedded_elsewhere(&headers(&[("sec-fetch-site", "cross-site")])));
    }

    #[test]
    fn a_proxy_names_one_user_or_none() {
        let name = HeaderName::from_static("x-forwarded-user");
        for (sent, user) in [
            (&[("x-forwarded-user", "ada")][..], Some("ada")),
            (&[("x-forwarded-user", "josé")], Some("josé")),
            (&[("x-forwarded-user", " ")], None),
            (&[], None),
        ] {
            assert_eq!(named_user(&headers(sent), &name), user, "{sent:?}");
        }
        let mut two = headers(&[("x-forwarded-user", "root")]);
        two.append(&name, HeaderValue::from_static("ada"));
        assert_eq!(named_user(&two, &name), None);
    }

    #[test]
    fn a_host_is_compared_without_its_port() {
        for (host, name) in [
            ("localhost:8090", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:8090", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
