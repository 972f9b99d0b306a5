//! What all pages have around them, and how they write times, bytes and addresses.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::timeout;
use url::Url;
use url::form_urlencoded::Serializer;

use super::gate::Visitor;
use super::{Dashboard, READ_TIME, assets, login};
use crate::job::redact;
use crate::job::text::shell_word;
use crate::ops::render;
use crate::queue::{self, AuditEntry};
use crate::telemetry::sanitize;

/// Longest untrusted text on a page, in bytes.
const TEXT_MAX_BYTES: usize = 2_000;

/// The pages that the navigation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub(super) enum Section {
    Overview,
    Groups,
    Jobs,
    Results,
    Hosts,
    Workers,
    Audit,
    Settings,
}

impl Section {
    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Groups => "/groups",
            Self::Jobs => "/jobs",
            Self::Results => "/results",
            Self::Hosts => "/hosts",
            Self::Workers => "/workers",
            Self::Audit => "/audit",
            Self::Settings => "/settings",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Groups => "Groups",
            Self::Jobs => "Jobs",
            Self::Results => "Results",
            Self::Hosts => "Hosts",
            Self::Workers => "Workers",
            Self::Audit => "Audit",
            Self::Settings => "Settings",
        }
    }
}

/// A page for somebody.
pub(super) fn whole(
    dashboard: &Dashboard,
    visitor: &Visitor,
    section: Option<Section>,
    title: &str,
    body: Markup,
) -> Markup {
    let name = dashboard.queue.name();
    document(
        dashboard,
        title,
        html! {
            a.skip href="#main" { "Skip to the content" }
            header.top {
                (environment(&dashboard.environment))
                a.queue href="/" { strong { (name) } " @ " (redis_name(dashboard)) }
                form.find action="/find" role="search" {
                    input name="q" type="search" aria-label="Find a job, a version, a page or an address"
                        placeholder="id, uuid or address" maxlength="2000";
                    button type="submit" { "Find" }
                }
            }
            nav aria-label="Pages" {
                @for each in <Section as strum::VariantArray>::VARIANTS {
                    a href=(each.path()) aria-current=[(section == Some(*each)).then_some("page")] { (each.name()) }
                }
            }
            main #main tabindex="-1" { (body) }
            footer {
                span { (visitor.name) " · " (visitor.role) }
                @if visitor.logged_in {
                    form method="post" action=(login::LOGOUT) { button.link type="submit" { "Log out" } }
                }
                span.dim { "wm-analyzer " (dashboard.version) " · this dashboard holds " (bytes(resident_bytes())) }
                span.dim #liveness role="status" {}
            }
        },
    )
}

/// A page without navigation, for a visitor who has not logged in.
pub(super) fn bare(dashboard: &Dashboard, title: &str, body: Markup) -> Markup {
    document(dashboard, title, html! { main #main { (body) } })
}

fn document(dashboard: &Dashboard, title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (dashboard.queue.name()) " · wm-analyzer" }
                link rel="icon" type="image/svg+xml" href=(assets::ICON);
                link rel="stylesheet" href=(assets::STYLE);
                script src=(assets::SCRIPT) defer {}
            }
            body { (body) }
        }
    }
}

/// The environment; red where it is production.
fn environment(name: &str) -> Markup {
    let is_production = name.to_ascii_lowercase().starts_with("prod");
    html! {
        span.environment.production[is_production] { (sanitize(name, 40)) }
    }
}

/// Host and database of Redis, without its credentials.
fn redis_name(dashboard: &Dashboard) -> String {
    let shown = redact::url(&dashboard.queue_config.url.to_string());
    let place = shown.split_once("://").map_or(shown.as_str(), |(_, place)| place);
    sanitize(place.trim_start_matches(redact::MARK).trim_start_matches('@'), 80)
}

/// What this process holds in memory.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

pub(super) async fn not_found(
    State(dashboard): State<Arc<Dashboard>>,
    axum::Extension(visitor): axum::Extension<Visitor>,
) -> Response {
    let body = html! {
        h1 { "There is no such page" }
        p { "Look for a job, a version or an address in the field above, or go to the " a href="/" { "overview" } "." }
    };
    (StatusCode::NOT_FOUND, whole(&dashboard, &visitor, None, "Not found", body)).into_response()
}

/// The part behind `?` of an address.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A moment as the time since, and exactly in its title.
pub(super) fn ago(now_ms: u64, ms: u64) -> Markup {
    html! {
        time datetime=(exact(ms, true)) title=(exact(ms, false)) {
            (duration_ms(now_ms.saturating_sub(ms))) " ago"
        }
    }
}

/// A moment, exactly.
pub(super) fn at(ms: u64) -> Markup {
    html! { time datetime=(exact(ms, true)) { (exact(ms, false)) } }
}

/// `2026-11-27 20:49:03 UTC`, or as programs read it.
fn exact(ms: u64, for_programs: bool) -> String {
    let at = i128::from(ms) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = match for_programs {
        true => format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"),
        false => format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC"),
    };
    at.format(format).unwrap_or_default()
}

pub(super) fn duration_ms(ms: u64) -> String {
    render::format_duration(Duration::from_millis(ms))
}

pub(super) fn bytes(count: u64) -> String {
    render::format_bytes(count)
}

/// The time by the clock of Redis, or of this machine where Redis does not tell.
pub(super) async fn now_ms(dashboard: &Dashboard) -> u64 {
    let asked = timeout(READ_TIME, dashboard.queue.server_time_ms()).await;
    let own = || u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    asked.ok().and_then(Result::ok).unwrap_or_else(own)
}

/// What stands in place of something that was not read in time.
pub(super) fn unread(what: &str) -> Markup {
    html! { p.banner.bad role="alert" { "Redis did not answer in time: " (what) " are unknown. Reload the page." } }
}

/// What stands in place of something that Redis refused.
pub(super) fn failed(error: &queue::Error) -> Markup {
    html! { p.banner.bad role="alert" { (text(&error.to_string())) } }
}

/// A count with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Untrusted text on one line, without invisible characters, at most 2,000 bytes.
pub(super) fn text(text: &str) -> String {
    sanitize(text, TEXT_MAX_BYTES)
}

/// Text of a page, which a report bounds, with the ends of its lines.
pub(super) fn long_text(text: &str) -> String {
    sanitize(&text.replace('\n', "↵"), usize::MAX)
}

/// A link to the page of a job.
pub(super) fn job_link(id: &str) -> Markup {
    html! { a.id href=(job_path(id)) { (text(id)) } }
}

pub(super) fn job_path(id: &str) -> String {
    format!("/job?{}", query(&[("id", id)]))
}

/// The jobs that these words select.
pub(super) fn jobs_path(words: &str) -> String {
    format!("/jobs?{}", query(&[("q", words)]))
}

/// A command and what was typed for it, each word as a shell takes it: who copies it runs nothing else.
pub(super) fn with_typed(command: &str, typed: &[String]) -> String {
    let typed = typed.iter().map(|word| shell_word(&text(word)));
    [command.to_owned()].into_iter().chain(typed).collect::<Vec<_>>().join(" ")
}

/// A command to copy.
pub(super) fn command(words: &str) -> Markup {
    html! { code.command tabindex="0" { (words) } }
}

/// `5m ago op@bastion replayed 5 of kind:timeout: "bad deploy"`.
pub(super) fn audit_line(row: &AuditEntry, now_ms: u64) -> Markup {
    html! {
        (ago(now_ms, row.at_ms)) " " strong { (text(&row.by)) } " " (text(&row.what))
        @if let Some(jobs) = row.count { " " (count(jobs)) }
        @if !row.selection.is_empty() { " " code { (text(&row.selection)) } }
        @if !row.why.is_empty() { ": " q { (text(&row.why)) } }
        @if let Some(id) = &row.operation {
            " " a href={ "/operation?" (query(&[("id", id.as_str())])) } { "what became of it" }
        }
    }
}

/// A moment to come.
pub(super) fn in_future(now_ms: u64, ms: u64) -> Markup {
    html! {
        time datetime=(exact(ms, true)) title=(exact(ms, false)) { "in " (duration_ms(ms.saturating_sub(now_ms))) }
    }
}

/// An untrusted address: a link, without a referrer, where it is http or https and holds no secret; otherwise text without
/// its secrets.
pub(super) fn address(url: &str) -> Markup {
    let shown = redact::page_address(url);
    let is_web = Url::parse(&shown).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
    html! {
        @if is_web && shown == url {
            a.url href=(shown) rel="noopener noreferrer nofollow" target="_blank" { (text(&shown)) }
        } @else {
            span.url { (text(&shown)) }
        }
    }
}

/// A label and what it is, as one entry of a list.
pub(super) fn fact(name: &str, value: Markup) -> Markup {
    html! { div.fact { dt { (name) } dd { (value) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        let counts = [0, 999, 1000, 13_646, 1_000_000].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "13,646", "1,000,000"]);
    }

    #[test]
    fn what_was_typed_into_a_command_is_read_by_no_shell() {
        let typed = ["state:dead", "text:a b", "x;reboot", "$(reboot)", "it's\nreboot"].map(str::to_owned);
        let command = with_typed("job ls", &typed);
        assert_eq!(command, r"job ls state:dead 'text:a b' 'x;reboot' '$(reboot)' 'it'\''s\nreboot'");
    }

    #[test]
    fn only_web_addresses_without_secrets_are_links() {
        for (url, is_link) in [
            ("https://web.example.gov/a?b=1", true),
            ("javascript:alert(1)", false),
            ("data:text/html,x", false),
            ("https://user:geheim@web.example.gov/", false),
            ("//evil.test", false),
        ] {
            let drawn = address(url).into_string();
            assert_eq!(drawn.contains("<a "), is_link, "{drawn}");
            assert!(!drawn.contains("geheim"), "{drawn}");
        }
    }
}
