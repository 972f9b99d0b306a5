//! `/find`: by a job's id, by the uuid of a version or a page, or by an address.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;
use tokio::time::timeout;
use uuid::Uuid;

use super::gate::Visitor;
use super::page;
use super::{Dashboard, READ_TIME};
use crate::job::JobId;
use crate::job::text::shell_word;
use crate::queue::{self, Ended};

/// Newest results that are looked at for a version.
const RESULTS_LOOK: usize = 2_000;
/// Results of a version that are listed.
const ROWS: usize = 50;

/// What is looked for.
#[derive(Debug, Deserialize)]
pub(super) struct FindQuery {
    #[serde(default)]
    q: String,
}

/// Where it was found.
enum FoundWhere {
    Job(JobId),
    /// Analysed pairs that it is a part of.
    Version(Uuid, PairsFound),
    Nothing,
}

/// The newest of those that were found, and among how many.
struct PairsFound {
    newest: Vec<Ended>,
    found: usize,
    looked_at: usize,
    kept: u64,
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(FindQuery { q }): Query<FindQuery>,
) -> Response {
    let sought = q.trim();
    let body = match timeout(READ_TIME, find(&dashboard, sought)).await {
        Err(_) => page::unread("the places where it may be"),
        Ok(Err(error)) => page::failed(&error),
        Ok(Ok(FoundWhere::Job(id))) => return Redirect::to(&page::job_path(id.as_str())).into_response(),
        Ok(Ok(FoundWhere::Version(uuid, pairs))) => html! {
            p { "Jobs that wait, run or died: "
                a href=(page::jobs_path(&format!("page:{uuid}"))) { "of the page " span.id { (uuid) } } ", "
                a href=(page::jobs_path(&format!("text:{uuid}"))) { "with the version " span.id { (uuid) } } "." }
            section.panel {
                h2 { "Results with this version" }
                @if pairs.newest.is_empty() { p.empty { "None." } }
                ul.list { @for ended in &pairs.newest { li {
                    (page::job_link(&ended.id)) " " (page::text(&ended.state)) " " (page::text(&ended.why)) " "
                    @if let Some((from, to)) = ended.pair.split_once("..") {
                        a href={ "/change?" (page::query(&[("from", from), ("to", to)])) } { (page::text(&ended.pair)) }
                    }
                } } }
                p.dim {
                    (pairs.newest.len()) " of " (pairs.found) " found are listed; the newest " (page::count(pairs.looked_at as u64)) " of "
                    (page::count(pairs.kept)) " results were looked at."
                }
            }
        },
        Ok(Ok(FoundWhere::Nothing)) => html! {
            p { "No job has this id. "
                a href=(page::jobs_path(&format!("text:{}", shell_word(sought)))) { "Look for it in the ids, addresses and failures of all jobs" } "." }
        },
    };
    let body = html! { h1 { "Find " q { (page::text(sought)) } } (body) };
    page::whole(&dashboard, &visitor, None, "Find", body).into_response()
}

async fn find(dashboard: &Dashboard, sought: &str) -> Result<FoundWhere, queue::Error> {
    let queue = &dashboard.queue;
    if let Ok(id) = JobId::parse(sought)
        && (queue.stored_job(&id).await?.is_some() || queue.ended(&id).await?.is_some())
    {
        return Ok(FoundWhere::Job(id));
    }
    let Ok(uuid) = sought.parse::<Uuid>() else { return Ok(FoundWhere::Nothing) };
    let (mut newest, kept) = queue.newest_results(RESULTS_LOOK).await?;
    let looked_at = newest.len();
    let text = uuid.to_string();
    newest.retain(|ended| ended.pair.contains(&text));
    let found = newest.len();
    newest.truncate(ROWS);
    Ok(FoundWhere::Version(uuid, PairsFound { newest, found, looked_at, kept }))
}
