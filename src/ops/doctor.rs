//! `doctor`: what would go wrong here, found before it does: Redis, limits, isolation, the db app, the results store.
//!
//! Each finding says what is, and what to do about it. It changes nothing but one object in the results store, which is
//! always the same: whether one may write there is only known by writing. The db app is sent an annotation that it refuses.

use serde::Serialize;

use super::Exit;
use super::render::{self, BAD, GOOD, WARN, sanitize, styled};
use crate::api::{Api, ObservedApp};
use crate::job::failure::Failure;
use crate::policy::admission::MemoryBudget;
use crate::queue::{Error, NEARLY_FULL, Queue, Server, UnreadableKey, WriteHealth};
use crate::results::ResultStore;
use crate::sandbox::Limits;

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// The oldest Redis that every script was tested on.
const MIN_REDIS_VERSION: (u32, u32) = (7, 0);
/// A clock this far off makes people misread times, though no deadline depends on it.
const MAX_CLOCK_SKEW_MS: i64 = 5_000;
/// Isolation that a job must not be without on Linux.
const EXPECTED_ISOLATION: [&str; 2] = ["seccomp", "landlock"];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not at a bad hour.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    level: Level,
    check: &'static str,
    message: String,
}

/// What the doctor is given to look at.
pub struct DoctorInput {
    /// The queue, or the error that opening it ended with.
    pub queue: Result<Queue, Error>,
    /// Slots, or why there are none.
    pub slots: Result<u32, String>,
    /// The sum they are computed from, and where the memory limit was read.
    pub sizes: (MemoryBudget, &'static str),
    /// How far an operator may raise limits.
    pub ceiling: Limits,
    /// Isolation in force, or why no child starts.
    pub isolation: Result<Vec<String>, Failure>,
    /// The db app, if one is configured, or why it cannot be called.
    pub app: Result<Option<Api>, String>,
    /// The results store, if one is configured, or why it cannot be opened.
    pub results: Result<Option<ResultStore>, String>,
}

/// Looks and tells.
pub async fn run(input: &DoctorInput, json: bool) -> Exit {
    let mut findings = redis(&input.queue).await;
    findings.push(memory(input));
    findings.extend(grant_ceiling(input));
    findings.extend(isolation(&input.isolation));
    findings.extend(db_app(&input.app).await);
    findings.extend(results_store(&input.results).await);
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if json {
        render::json(SCHEMA_VERSION, &serde_json::json!({ "worst": worst, "findings": findings }));
    } else {
        findings.iter().for_each(print_finding);
    }
    if worst == Level::Fail { Exit::Failed } else { Exit::Ok }
}

fn print_finding(finding: &Finding) {
    let word = match finding.level {
        Level::Ok => styled(GOOD, "ok  "),
        Level::Warn => styled(WARN, "warn"),
        Level::Fail => styled(BAD, "FAIL"),
    };
    const INDENT: usize = 17;
    let text = format!("{word}  {:<10} {}", finding.check, sanitize(&finding.message, 500));
    render::sentence(&text, INDENT);
}

fn finding(level: Level, check: &'static str, message: impl Into<String>) -> Finding {
    Finding { level, check, message: message.into() }
}

async fn redis(queue: &Result<Queue, Error>) -> Vec<Finding> {
    let queue = match queue {
        Ok(queue) => queue,
        Err(e) => return vec![finding(Level::Fail, "redis", e.to_string())],
    };
    let server = match queue.preflight().await {
        Ok(server) => server,
        Err(e) => return vec![finding(Level::Fail, "redis", e.to_string())],
    };
    let mut findings = match queue.weight_at_ceilings(server.maxmemory_bytes).await {
        Ok(weight) => server_findings(&server, weight),
        Err(e) => vec![finding(Level::Fail, "redis", e.to_string())],
    };
    findings.extend(queue_findings(queue).await);
    findings
}

/// What is wrong with the queue's keys, and with the queue: the troubles that alerts name.
async fn queue_findings(queue: &Queue) -> Vec<Finding> {
    let status = match queue.status().await {
        Ok(status) => status,
        Err(e) => return vec![finding(Level::Fail, "queue", e.to_string())],
    };
    let mut findings = Vec::new();
    let mut add = |level, what: String| findings.push(finding(level, "queue", what));
    for what in &status.wrong_types {
        add(Level::Fail, what.clone());
    }
    for UnreadableKey { key, error } in &status.unreadable {
        add(Level::Fail, format!("cannot read {key}: {error}"));
    }
    match queue.orphans().await {
        Ok(0) => {}
        Ok(orphans) => add(
            Level::Warn,
            format!(
                "{orphans} jobs stand in no index, or index entries have no job: upkeep files them within minutes"
            ),
        ),
        Err(e) => add(Level::Fail, e.to_string()),
    }
    for worker in &status.workers {
        for (dependency, why) in &worker.info.breaker_reasons {
            add(
                Level::Fail,
                format!("worker {} claims nothing, breaker {dependency}: {why}", worker.info.id),
            );
        }
    }
    if let Some(stalled) = status.stalled() {
        add(Level::Fail, format!("{stalled} (status shows the workers)"));
    }
    for (what, filled, way_out) in [
        ("the backlog is", status.backlog_filled(), "more workers, or queue set backlog_max=..."),
        ("the dead letters are", status.dead_filled(), "dead ls, then replay or discard some"),
        (
            "results are",
            if status.memory.reports_evict { 0.0 } else { status.memory.reports_filled() },
            "at the cap nothing is claimed: results free, or queue set reports_max_bytes=...",
        ),
    ] {
        if filled >= NEARLY_FULL {
            add(Level::Warn, format!("{what} at {:.0} % of the cap: {way_out}", filled * 100.0));
        }
    }
    let [total, dead, results] =
        [status.memory.total(), status.memory.dead_bytes, status.memory.reports_bytes]
            .map(render::format_bytes);
    add(Level::Ok, format!("its keys take up {total}: results {results}, dead letters {dead}"));
    findings
}

fn server_findings(server: &Server, (weight, sum): (u64, String)) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |level, what: String| findings.push(finding(level, "redis", what));
    let name = format!("{} {}", server.flavour, server.version);
    match version(&server.version) >= Some(MIN_REDIS_VERSION) {
        true => add(Level::Ok, format!("{name}, {}", server.role)),
        false => add(Level::Warn, format!("{name}: tested from 7.0 on, please update")),
    }
    if server.fit_for_work().is_ok() {
        add(Level::Ok, "maxmemory-policy noeviction".to_owned());
    }
    for problem in server.problems() {
        let level = if server.write == WriteHealth::Ok && server.fit_for_work().is_ok() {
            Level::Warn
        } else {
            Level::Fail
        };
        add(level, problem);
    }
    match server.maxmemory_bytes {
        0 => add(
            Level::Warn,
            format!(
                "maxmemory is not set: what fills the machine kills Redis, and no budget is measured against it; \
                 set it below the machine's memory (everything at its cap: {sum} = {})",
                render::format_bytes(weight)
            ),
        ),
        limit if limit < weight => add(
            Level::Warn,
            format!(
                "maxmemory {} is less than {sum} = {}: a backlog at its ceiling fills Redis, which stops all producers; \
                 raise the one or lower the others",
                render::format_bytes(limit),
                render::format_bytes(weight)
            ),
        ),
        limit => add(
            Level::Ok,
            format!(
                "maxmemory {}, at the ceilings {}",
                render::format_bytes(limit),
                render::format_bytes(weight)
            ),
        ),
    }
    match server.aof {
        true => add(Level::Ok, "append-only file on".to_owned()),
        false => add(Level::Warn, "no append-only file: a restart loses jobs; set appendonly yes".to_owned()),
    }
    if server.clock_ahead_ms.abs() > MAX_CLOCK_SKEW_MS {
        add(
            Level::Warn,
            format!(
                "its clock is {} ms ahead of ours: deadlines are by its clock, logs by ours",
                server.clock_ahead_ms
            ),
        );
    }
    findings
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn memory(input: &DoctorInput) -> Finding {
    let (sizes, origin) = &input.sizes;
    match &input.slots {
        Ok(slots) => finding(Level::Ok, "memory", format!("{} ({origin})", sizes.arithmetic(*slots))),
        Err(what) => finding(Level::Fail, "memory", format!("{what} ({origin})")),
    }
}

/// Whether the most that a replay may be granted has room here at all.
fn grant_ceiling(input: &DoctorInput) -> Option<Finding> {
    let room = input.sizes.0.children_limit_bytes(*input.slots.as_ref().ok()?);
    let limit = input.ceiling.address_space_limit_bytes();
    let [heap, limit_text, room_text] = [input.ceiling.heap_bytes, limit, room].map(render::format_bytes);
    (limit > room).then(|| {
        let what = format!(
            "a replay may be granted sandbox.max_heap {heap}, an address space limit of {limit_text}, and there is room for {room_text} \
             here: a job that is granted more than fits is buried"
        );
        finding(Level::Warn, "memory", what)
    })
}

fn isolation(found: &Result<Vec<String>, Failure>) -> Vec<Finding> {
    let features = match found {
        Ok(features) => features,
        Err(failure) => return vec![finding(Level::Fail, "isolation", failure.to_string())],
    };
    let missing = |name: &&str| !features.iter().any(|feature| feature.starts_with(*name));
    let lacking: Vec<&str> = EXPECTED_ISOLATION.into_iter().filter(|name| missing(name)).collect();
    let all = features.join(", ");
    match lacking.as_slice() {
        [] => vec![finding(Level::Ok, "isolation", all)],
        some => vec![finding(
            Level::Warn,
            "isolation",
            format!("this kernel gives a child no {}: in force are {all}", some.join(" and no ")),
        )],
    }
}

/// Whether the db app answers, who we are there, and whether it takes our annotations.
async fn db_app(opened: &Result<Option<Api>, String>) -> Option<Finding> {
    let app = match opened {
        Ok(app) => app.as_ref()?,
        Err(what) => return Some(finding(Level::Fail, "db app", what)),
    };
    let ObservedApp { account, may_annotate, read_only } = match app.examine().await {
        Ok(seen) => seen,
        Err(failure) => return Some(finding(Level::Fail, "db app", failure.to_string())),
    };
    let who = account.map_or_else(|| "logged in as nobody".to_owned(), |who| format!("logged in as {who}"));
    let at = format!("{} answers, {who}", app.host());
    Some(match (app.posts(), may_annotate, read_only) {
        (true, _, true) => finding(
            Level::Fail,
            "db app",
            format!("{at}, and is read-only: it takes no annotation (API_READ_ONLY there)"),
        ),
        (true, Some(false), false) => finding(
            Level::Fail,
            "db app",
            format!("{at}, who may not annotate: give them that permission there"),
        ),
        (true, Some(true), false) => finding(Level::Ok, "db app", format!("{at}, who may annotate")),
        (true, None, false) => {
            finding(Level::Warn, "db app", format!("{at}; whether they may annotate could not be found out"))
        }
        (false, ..) => finding(Level::Ok, "db app", format!("{at}; annotations are not posted (api.post)")),
    })
}

/// Whether results can be written to the results store and read from it.
async fn results_store(opened: &Result<Option<ResultStore>, String>) -> Option<Finding> {
    let store = match opened {
        Ok(store) => store.as_ref()?,
        Err(what) => return Some(finding(Level::Fail, "results", what)),
    };
    Some(match store.probe().await {
        Ok(()) => finding(Level::Ok, "results", format!("{} takes and gives results", store.place())),
        Err(failure) => finding(Level::Fail, "results", failure.detail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_by_number() {
        assert!(version("7.0.15") >= Some(MIN_REDIS_VERSION));
        assert!(version("10.2.1") >= Some(MIN_REDIS_VERSION));
        assert!(version("6.2.14") < Some(MIN_REDIS_VERSION));
        assert!(version("unstable") < Some(MIN_REDIS_VERSION));
    }
}
