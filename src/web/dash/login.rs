//! The login: a token and a name for the audit, for a cookie.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Query, State};
use axum::http::header::{ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::access::{Config, Role};
use super::gate::{self, Visitor};
use super::page;
use super::{Dashboard, session};

/// Where it is.
pub(super) const PATH: &str = "/login";
/// Where a session ends.
pub(super) const LOGOUT: &str = "/logout";
/// The cookie's name and what separates it from its value.
pub(super) const COOKIE_PREFIX: &str = "wm_session=";

/// Where to go after it.
#[derive(Debug, Deserialize)]
pub(super) struct LoginQuery {
    #[serde(default)]
    next: String,
}

/// What was typed.
#[derive(Debug, Deserialize)]
pub(super) struct LoginForm {
    token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    next: String,
}

/// The login that leads to this page.
pub(super) fn page_for(uri: &Uri) -> String {
    let next = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{PATH}?{}", page::query(&[("next", next)]))
}

/// What this token lets do; compared in a time that does not tell how much of it is right.
pub(super) fn role_of(config: &Config, token: &str) -> Option<Role> {
    let tokens = [(&config.operate_token, Role::Operate), (&config.view_token, Role::View)];
    tokens.into_iter().find(|(own, _)| is_same(own.expose(), token)).map(|(_, role)| role)
}

/// An empty one is the same as none.
fn is_same(own: &str, given: &str) -> bool {
    let differs = own.bytes().zip(given.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    !own.is_empty() && own.len() == given.len() && std::hint::black_box(differs) == 0
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Query(LoginQuery { next }): Query<LoginQuery>,
) -> Markup {
    form(&dashboard, &next, "")
}

pub(super) async fn log_in(
    State(dashboard): State<Arc<Dashboard>>,
    headers: HeaderMap,
    Form(typed): Form<LoginForm>,
) -> Response {
    if !dashboard.sessions.may_try() {
        let what = form(&dashboard, &typed.next, "too many tried in the last minute: wait a little");
        return (StatusCode::TOO_MANY_REQUESTS, what).into_response();
    }
    let Some(role) = role_of(&dashboard.config, typed.token.trim()) else {
        let what = form(&dashboard, &typed.next, "this is neither dash.view_token nor dash.operate_token");
        return (StatusCode::FORBIDDEN, what).into_response();
    };
    let id = dashboard.sessions.begin(Visitor::named(role, &typed.name, true));
    let seconds = session::LIFETIME.as_secs();
    // What came by TLS, as a proxy has it, is not sent without.
    let by_tls = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let secure = if by_tls { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_PREFIX}{id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    ([(SET_COOKIE, cookie)], Redirect::to(own_path(&typed.next))).into_response()
}

pub(super) async fn log_out(State(dashboard): State<Arc<Dashboard>>, headers: HeaderMap) -> Response {
    if let Some(id) = gate::cookie(&headers) {
        dashboard.sessions.end(id);
    }
    let cookie = format!("{COOKIE_PREFIX}; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    ([(SET_COOKIE, cookie)], Redirect::to(PATH)).into_response()
}

/// The path, if it leads to this dashboard: `//evil.test` and `/\evil.test` lead elsewhere.
fn own_path(next: &str) -> &str {
    let is_own =
        next.starts_with('/') && !next[1..].starts_with(['/', '\\']) && !next.contains(char::is_control);
    if is_own { next } else { "/" }
}

fn form(dashboard: &Dashboard, next: &str, wrong: &str) -> Markup {
    page::bare(
        dashboard,
        "Log in",
        html! {
            form.panel.narrow method="post" action=(PATH) {
                h1 { "Log in" }
                @if !wrong.is_empty() { p.bad role="alert" { (wrong) } }
                input type="hidden" name="next" value=(own_path(next));
                label for="token" { "Token" }
                input #token name="token" type="password" autocomplete="current-password" required autofocus;
                p.dim { "dash.view_token is for looking, dash.operate_token for acting." }
                label for="name" { "Your name, for the audit" }
                input #name name="name" autocomplete="username" maxlength="60";
                button.primary type="submit" { "Log in" }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_our_own_pages_only() {
        for (next, path) in [
            ("/jobs?q=state%3Adead", "/jobs?q=state%3Adead"),
            ("", "/"),
            ("//evil.test", "/"),
            ("/\\evil.test", "/"),
            ("https://evil.test", "/"),
            ("/\n/evil.test", "/"),
        ] {
            assert_eq!(own_path(next), path);
        }
    }

    #[test]
    fn a_token_is_compared_whole_and_an_empty_one_is_none() {
        assert!(is_same("0123456789abcdef", "0123456789abcdef"));
        for (own, given) in
            [("", ""), ("0123456789abcdef", "0123456789abcdeF"), ("abc", "abcd"), ("abc", "ab"), ("abc", "")]
        {
            assert!(!is_same(own, given), "{own:?} {given:?}");
        }
    }
}
