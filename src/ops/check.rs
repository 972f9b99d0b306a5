//! `check`: whether somebody should look, as a monitoring system asks: one line or one object, and an exit code of 0 to
//! 3.
//!
//! What `status` shows is judged here against the caller's limits. A limit that is passed is a warning; critical is
//! what will not get better by itself: jobs wait and nothing works on them, Redis refuses writes, workers are missing.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tokio::time::timeout;

use super::Exit;
use super::render::{self, format_duration, sanitize};
use crate::queue::{DEFAULT_NAME, Error, Queue, Status, WriteHealth};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// A plugin of Nagios is killed after 10 s by default, and then says nothing.
const DEADLINE: Duration = Duration::from_secs(8);
/// What is shown of one finding: with a few of them it is still one line.
const MAX_MESSAGE: usize = 200;

/// What is still well.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Age of the oldest waiting job, and of a pause.
    pub max_age: Duration,
    /// Number of dead letters.
    pub max_dead: u64,
    /// Number of ready jobs, if there is a limit.
    pub max_ready: Option<u64>,
    /// Number of workers that are alive.
    pub min_workers: u64,
    /// The output format.
    pub format: CheckFormat,
}

/// The output format of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// One line with performance data, as plugins of Nagios, Icinga and others.
    Nagios,
    /// One JSON object.
    Json,
    /// Metrics, for the textfile collector of Prometheus' node exporter.
    Prometheus,
}

/// How bad it is; the order is that of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "UPPERCASE")]
enum CheckState {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl CheckState {
    fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Ok,
            Self::Warning => Exit::Warning,
            Self::Critical => Exit::Critical,
            Self::Unknown => Exit::Unknown,
        }
    }
}

/// One thing that is not well.
#[derive(Debug, PartialEq, Serialize)]
struct CheckFinding {
    state: CheckState,
    check: &'static str,
    message: String,
}

/// The numbers that are printed beside the state.
#[derive(Debug, Default, Serialize)]
struct CheckNumbers {
    ready: u64,
    oldest_seconds: f64,
    dead: u64,
    workers: u64,
}

/// Asks the queue and tells. `connecting` opens it.
pub async fn run(
    name: &str,
    connecting: impl Future<Output = Result<Queue, Error>>,
    options: &CheckOptions,
) -> Exit {
    let read = timeout(DEADLINE, read(connecting)).await;
    let read = read.unwrap_or_else(|_| Err(format!("no answer within {}", format_duration(DEADLINE))));
    let (findings, numbers) = match &read {
        Ok(status) => (judge(status, options), Some(numbers(status))),
        Err(message) => (vec![finding(CheckState::Unknown, "redis", message)], None),
    };
    let state = findings.iter().map(|finding| finding.state).max().unwrap_or(CheckState::Ok);
    match options.format {
        CheckFormat::Nagios => render::line(nagios(name, state, &findings, numbers.as_ref(), options)),
        CheckFormat::Json => render::json(
            SCHEMA_VERSION,
            &serde_json::json!({
                "queue": name, "state": state, "findings": findings, "numbers": numbers,
            }),
        ),
        CheckFormat::Prometheus => render::text(prometheus(name, state, numbers.as_ref())),
    }
    state.exit()
}

/// The status, or a sentence that says why it is missing.
async fn read(connecting: impl Future<Output = Result<Queue, Error>>) -> Result<Status, String> {
    let queue = connecting.await.map_err(|e| e.to_string())?;
    if queue.name() != DEFAULT_NAME && !queue.exists().await.map_err(|e| e.to_string())? {
        return Err("there is no such queue in this Redis: no worker and no producer has used it".to_owned());
    }
    queue.status().await.map_err(|e| e.to_string())
}

fn numbers(status: &Status) -> CheckNumbers {
    CheckNumbers {
        ready: status.ready,
        oldest_seconds: status.oldest_waiting().unwrap_or_default().as_secs_f64(),
        dead: status.dead,
        workers: status.workers.iter().filter(|worker| !worker.silent).count() as u64,
    }
}

fn finding(state: CheckState, check: &'static str, message: &str) -> CheckFinding {
    // `|` begins the performance data.
    CheckFinding { state, check, message: sanitize(message, MAX_MESSAGE).replace('|', "/") }
}

/// What is not well.
fn judge(status: &Status, limits: &CheckOptions) -> Vec<CheckFinding> {
    let CheckNumbers { ready, dead, workers, .. } = numbers(status);
    let max_age = limits.max_age;
    let mut found = Vec::new();
    if let Some(stalled) = status.stalled() {
        found.push(finding(CheckState::Critical, "stalled", &stalled));
    }
    if workers < limits.min_workers {
        let text = format!("workers alive {workers} < {}", limits.min_workers);
        found.push(finding(CheckState::Critical, "workers", &text));
    }
    let refuses = status.server.as_ref().is_some_and(|server| server.write != WriteHealth::Ok);
    let state = if refuses { CheckState::Critical } else { CheckState::Warning };
    found.extend(status.problems().iter().map(|problem| finding(state, "redis", problem)));
    for part in &status.unreadable {
        found.push(finding(
            CheckState::Warning,
            "redis",
            &format!("cannot read {}: {}", part.key, part.error),
        ));
    }
    match status.pauses.first() {
        // While it is paused jobs get old, as the pause intends.
        Some(pause) => {
            let lasts = Duration::from_millis(status.at_ms.saturating_sub(pause.since_ms));
            if lasts > max_age {
                let (lasts, max_age) = (format_duration(lasts), format_duration(max_age));
                let text = format!("paused {lasts} > {max_age} by {}: {}", pause.by, pause.reason);
                found.push(finding(CheckState::Warning, "paused", &text));
            }
        }
        None => {
            if let Some(age) = status.oldest_waiting().filter(|age| *age > max_age) {
                let text = format!("oldest {} > {}", format_duration(age), format_duration(max_age));
                found.push(finding(CheckState::Warning, "age", &text));
            }
        }
    }
    if dead > limits.max_dead {
        found.push(finding(CheckState::Warning, "dead", &format!("{dead} dead > {}", limits.max_dead)));
    }
    if let Some(max_ready) = limits.max_ready.filter(|most| ready > *most) {
        found.push(finding(CheckState::Warning, "ready", &format!("{ready} ready > {max_ready}")));
    }
    found
}

/// `WARNING analysis: oldest 16m 2s > 15m 0s | analysis_ready=1204 analysis_age=962s;900 analysis_dead=37;50
/// analysis_workers=2;;1:`
fn nagios(
    name: &str,
    state: CheckState,
    findings: &[CheckFinding],
    numbers: Option<&CheckNumbers>,
    limits: &CheckOptions,
) -> String {
    let word: &str = state.into();
    let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
    let Some(CheckNumbers { ready, oldest_seconds, dead, workers }) = numbers else {
        return format!("{word} {name}: {}", messages.join("; "));
    };
    let text = match messages.is_empty() {
        true => format!("{ready} ready, oldest {oldest_seconds:.0} s, {dead} dead, workers alive {workers}"),
        false => messages.join("; "),
    };
    let max_ready = limits.max_ready.map_or_else(String::new, |most| format!(";{most}"));
    let CheckOptions { max_age, max_dead, min_workers, .. } = limits;
    let max_age = max_age.as_secs();
    format!(
        "{word} {name}: {text} | {name}_ready={ready}{max_ready} {name}_age={oldest_seconds:.0}s;{max_age} \
         {name}_dead={dead};{max_dead} {name}_workers={workers};;{min_workers}:"
    )
}

/// The state and the numbers as metrics; of what is unknown there is no sample.
fn prometheus(name: &str, state: CheckState, numbers: Option<&CheckNumbers>) -> String {
    let mut samples =
        vec![("state", "0 ok, 1 warning, 2 critical, 3 unknown", f64::from(state.exit().code()))];
    if let Some(CheckNumbers { ready, oldest_seconds, dead, workers }) = numbers {
        samples.extend([
            ("ready_jobs", "Jobs that could be claimed", *ready as f64),
            ("oldest_age_seconds", "How long the oldest waiting job has waited", *oldest_seconds),
            ("dead_letters", "Dead letters", *dead as f64),
            ("live_workers", "Workers that are not silent", *workers as f64),
        ]);
    }
    let metric = |(metric, help, value): (&str, &str, f64)| {
        let metric = format!("wm_check_{metric}");
        format!("# HELP {metric} {help}\n# TYPE {metric} gauge\n{metric}{{queue=\"{name}\"}} {value}\n")
    };
    samples.into_iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Paused;

    const LIMITS: CheckOptions = CheckOptions {
        max_age: Duration::from_secs(900),
        max_dead: 50,
        max_ready: Some(1000),
        min_workers: 0,
        format: CheckFormat::Nagios,
    };

    fn judged(status: &Status) -> Vec<(CheckState, &'static str)> {
        judge(status, &LIMITS).into_iter().map(|finding| (finding.state, finding.check)).collect()
    }

    #[test]
    fn a_limit_is_still_well_and_one_more_is_a_warning() {
        let well = Status { dead: 50, oldest_ready_ms: Some(900_000), ..Status::default() };
        assert_eq!(judged(&well), []);
        let old = Status { oldest_ready_ms: Some(900_001), ..Status::default() };
        assert_eq!(judged(&old), [(CheckState::Warning, "age")]);
        let dead = Status { dead: 51, ..Status::default() };
        assert_eq!(judged(&dead), [(CheckState::Warning, "dead")]);
    }

    #[test]
    fn a_pause_excuses_old_jobs_until_it_is_itself_too_old() {
        let pause = |since_ms| Paused {
            name: "default".to_owned(),
            by: "ana@host".to_owned(),
            reason: "S3 | 5xx".to_owned(),
            since_ms,
            until_ms: None,
        };
        let mut status = Status { at_ms: 10_000_000, oldest_ready_ms: Some(5_000_000), ..Status::default() };
        status.pauses = vec![pause(9_200_000)];
        status.paused = status.pauses.first().cloned();
        assert_eq!(judged(&status), []);
        status.pauses = vec![pause(9_000_000)];
        let findings = judge(&status, &LIMITS);
        assert_eq!(findings[0].message, "paused 16m 40s > 15m 0s by ana@host: S3 / 5xx");
    }

    #[test]
    fn work_that_nobody_does_is_critical_whatever_the_limits() {
        let status = Status { ready: 3, dead: 51, ..Status::default() };
        assert_eq!(judged(&status), [(CheckState::Critical, "stalled"), (CheckState::Warning, "dead")]);
        let line =
            nagios("a", CheckState::Critical, &judge(&status, &LIMITS), Some(&numbers(&status)), &LIMITS);
        let want = "CRITICAL a: 3 jobs wait and no worker lives; 51 dead > 50 \
                    | a_ready=3;1000 a_age=0s;900 a_dead=51;50 a_workers=0;;0:";
        assert_eq!(line, want);
    }
}
