//! `/audit`: who did what, and what became of it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use maud::{Markup, html};
use tokio::time::timeout;

use super::gate::Visitor;
use super::page::{self, Section};
use super::{Dashboard, READ_TIME};

/// Rows on the page; the command shows more.
const ROWS: usize = 200;

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Markup {
    let (now_ms, rows) =
        tokio::join!(page::now_ms(&dashboard), timeout(READ_TIME, dashboard.queue.audit_rows(ROWS)));
    let body = html! {
        h1 { "What operators did" }
        @match rows {
            Err(_) => (page::unread("the audit")),
            Ok(Err(error)) => (page::failed(&error)),
            Ok(Ok((rows, _))) if rows.is_empty() => {
                p.empty { "Nothing yet. Each act of each operator, here or on a command line, is listed here." }
            }
            Ok(Ok((rows, count))) => {
                p.dim { (rows.len()) " of " (page::count(count)) ", newest first. " (page::command(&dashboard.queue.command("audit ls"))) }
                section.panel { ul.list { @for row in &rows { li { (page::audit_line(row, now_ms)) } } } }
            }
        }
    };
    page::whole(&dashboard, &visitor, Some(Section::Audit), "Audit", body)
}
