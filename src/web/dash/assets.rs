//! The files that pages load.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

/// Path of the style sheet, with its build, so that an upgrade is seen at once.
pub(super) const STYLE: &str = concat!("/style-", env!("CARGO_PKG_VERSION"), ".css");
/// Path of the script.
pub(super) const SCRIPT: &str = concat!("/live-", env!("CARGO_PKG_VERSION"), ".js");

/// Path of the icon, which browsers ask for on every page, also where none is named.
pub(super) const ICON: &str = "/favicon.ico";

/// True for what anybody may load.
pub(super) fn is_asset(path: &str) -> bool {
    [STYLE, SCRIPT, ICON].contains(&path)
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("style.css"))
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("live.js"))
}

pub(super) async fn icon() -> Response {
    file("image/svg+xml", include_str!("icon.svg"))
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type), (CACHE_CONTROL, "private, max-age=300")], text).into_response()
}
