//! `doctor`: what would go wrong here, found before it does: Redis, limits, isolation.
//!
//! Each finding says what is, and what to do about it. It changes nothing.

use serde::Serialize;

use super::Exit;
use super::render::{self, BAD, GOOD, WARN, plain, styled};
use crate::job::failure::Failure;
use crate::policy::admission::Sizes;
use crate::queue::{Error, Queue, Server};
use crate::sandbox::Limits;

/// The oldest Redis that every script was tested on.
const REDIS_FLOOR: (u32, u32) = (7, 0);
/// A clock this far off makes people misread times, though no deadline depends on it.
const CLOCK_OFF_MS: i64 = 5_000;
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
    about: &'static str,
    what: String,
}

/// What the doctor is given to look at.
pub struct Patient {
    /// The queue, or why there is none.
    pub queue: Result<Queue, Error>,
    /// Slots, or why there are none.
    pub slots: Result<u32, String>,
    /// The sum they are computed from, and where the memory limit was read.
    pub sizes: (Sizes, &'static str),
    /// How far an operator may raise limits.
    pub ceiling: Limits,
    /// Isolation in force, or why no child starts.
    pub isolation: Result<Vec<String>, Failure>,
}

/// Looks and tells.
pub async fn run(patient: &Patient, json: bool) -> Exit {
    let mut findings = redis(&patient.queue).await;
    findings.push(memory(patient));
    findings.extend(grants(patient));
    findings.extend(isolation(&patient.isolation));
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if json {
        render::json(&serde_json::json!({ "worst": worst, "findings": findings }));
    } else {
        findings.iter().for_each(tell);
    }
    if worst == Level::Fail { Exit::Failed } else { Exit::Ok }
}

fn tell(finding: &Finding) {
    let word = match finding.level {
        Level::Ok => styled(GOOD, "ok  "),
        Level::Warn => styled(WARN, "warn"),
        Level::Fail => styled(BAD, "FAIL"),
    };
    render::line(format!("{word}  {:<10} {}", finding.about, plain(&finding.what, 500)));
}

fn finding(level: Level, about: &'static str, what: impl Into<String>) -> Finding {
    Finding { level, about, what: what.into() }
}

async fn redis(queue: &Result<Queue, Error>) -> Vec<Finding> {
    let queue = match queue {
        Ok(queue) => queue,
        Err(e) => return vec![finding(Level::Fail, "redis", e.to_string())],
    };
    match queue.preflight().await {
        Ok(server) => server_findings(&server, queue.weight_at_ceilings()),
        Err(e) => vec![finding(Level::Fail, "redis", e.to_string())],
    }
}

fn server_findings(server: &Server, (weight, sum): (u64, String)) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |level, what: String| findings.push(finding(level, "redis", what));
    let name = format!("{} {}", server.flavour, server.version);
    match version(&server.version) >= Some(REDIS_FLOOR) {
        true => say(Level::Ok, format!("{name}, {}", server.role)),
        false => say(Level::Warn, format!("{name}: tested from 7.0 on, please update")),
    }
    match server.fit_for_work() {
        Ok(()) => say(Level::Ok, "maxmemory-policy noeviction".to_owned()),
        Err(e) => say(Level::Fail, e.to_string()),
    }
    match server.maxmemory_bytes {
        0 => say(
            Level::Warn,
            "maxmemory is not set: a full machine kills Redis; set it below the machine's memory".to_owned(),
        ),
        limit if limit < weight => say(
            Level::Warn,
            format!(
                "maxmemory {} is less than {sum} = {}: a backlog at its ceiling fills Redis, which stops all producers; \
                 raise the one or lower the others",
                render::bytes(limit),
                render::bytes(weight)
            ),
        ),
        limit => say(
            Level::Ok,
            format!("maxmemory {}, at the ceilings {}", render::bytes(limit), render::bytes(weight)),
        ),
    }
    match server.aof {
        true => say(Level::Ok, "append-only file on".to_owned()),
        false => say(Level::Warn, "no append-only file: a restart loses jobs; set appendonly yes".to_owned()),
    }
    if server.role != "master" {
        say(Level::Fail, format!("this is a {}: jobs can only be taken from the master", server.role));
    }
    if server.clock_ahead_ms.abs() > CLOCK_OFF_MS {
        say(
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

fn memory(patient: &Patient) -> Finding {
    let (sizes, origin) = &patient.sizes;
    match &patient.slots {
        Ok(slots) => finding(Level::Ok, "memory", format!("{} ({origin})", sizes.arithmetic(*slots))),
        Err(what) => finding(Level::Fail, "memory", format!("{what} ({origin})")),
    }
}

/// Whether the most that a replay may be granted has room here at all.
fn grants(patient: &Patient) -> Option<Finding> {
    let room = patient.sizes.0.room(*patient.slots.as_ref().ok()?);
    let fence = patient.ceiling.fence_bytes();
    let [heap, fence_said, room_said] = [patient.ceiling.heap_bytes, fence, room].map(render::bytes);
    (fence > room).then(|| {
        let what = format!(
            "a replay may be granted sandbox.max_heap {heap}, a fence of {fence_said}, and there is room for {room_said} \
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_by_number() {
        assert!(version("7.0.15") >= Some(REDIS_FLOOR));
        assert!(version("10.2.1") >= Some(REDIS_FLOOR));
        assert!(version("6.2.14") < Some(REDIS_FLOOR));
        assert!(version("unstable") < Some(REDIS_FLOOR));
    }
}
