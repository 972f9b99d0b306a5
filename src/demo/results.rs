//! The reckoning: every job that was sent against every ending that was seen, class by class.
//!
//! Pure: it is fed events and measurements. Invariant: a job has at most one ending; one that has none is
//! *lost*.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, CaseOutcome};
use crate::job::Job;
use crate::job::failure::FailureKind;
use crate::ops::render::{self, BOLD, Column, sanitize, styled};
use crate::queue::Event;

/// The good class's place in the cases.
const GOOD_CASE: usize = 0;

/// What was measured beside the endings.
#[derive(Debug, Clone, Default)]
pub(super) struct DemoMeasurements {
    /// Largest heap of any child, in bytes.
    pub(super) peak_bytes_max: u64,
    /// Longest life of any child, in milliseconds.
    pub(super) wall_ms_max: u64,
    /// What each good pair took, in milliseconds, sorted.
    pub(super) good_ms: Vec<u64>,
    /// Fork-servers that had to be replaced.
    pub(super) fork_servers_respawned: u64,
    /// Alerts that arrived at the ingest.
    pub(super) alerts: u64,
}

/// The events of one job.
#[derive(Debug, Clone, Default)]
struct JobResult {
    class: usize,
    retries: u64,
    ending: Option<CaseOutcome>,
    /// Endings beyond the first: there must be none.
    duplicate_endings: u64,
}

/// The events of all jobs.
pub(super) struct DemoResults {
    cases: Vec<Case>,
    job_results: HashMap<String, JobResult>,
    /// Jobs that the queue names itself, because their payload could not be read: how many of each class are open.
    unidentified: Vec<u64>,
    /// Set when the story is over.
    pub(super) measurements: DemoMeasurements,
}

impl DemoResults {
    /// An account in which everything is open.
    pub(super) fn new(cases: Vec<Case>) -> Self {
        let mut job_results = HashMap::new();
        let mut unidentified = Vec::new();
        for (class, case) in cases.iter().enumerate() {
            let mut unread = 0;
            for payload in &case.jobs {
                match Job::decode(payload) {
                    Ok(job) => {
                        job_results.insert(job.id.to_string(), JobResult { class, ..JobResult::default() });
                    }
                    Err(_) => unread += 1,
                }
            }
            unidentified.push(unread);
        }
        Self { cases, job_results, unidentified, measurements: DemoMeasurements::default() }
    }

    /// Notes one event of the queue.
    pub(super) fn record(&mut self, event: &Event) {
        let ending = match event.what.as_str() {
            "done" => Some(CaseOutcome::Done),
            "skipped" => event.why.parse().ok().map(CaseOutcome::Skipped),
            "buried" => FailureKind::parse(&event.why).map(CaseOutcome::Dead),
            _other => None,
        };
        if let (Some(ending), false) = (ending, self.job_results.contains_key(&event.id)) {
            self.assign_case(&event.id, ending);
        }
        let Some(line) = self.job_results.get_mut(&event.id) else { return };
        if event.what == "retried" {
            line.retries += 1;
        }
        match (ending, line.ending) {
            (Some(CaseOutcome::Done), None) if line.retries > 0 => {
                line.ending = Some(CaseOutcome::DoneAfterRetries)
            }
            (Some(ending), None) => line.ending = Some(ending),
            (Some(_), Some(_)) => line.duplicate_endings += 1,
            (None, _) => {}
        }
    }

    /// Finds the class of a job that the queue named: one that expects this ending, or else any that misses a
    /// job.
    fn assign_case(&mut self, id: &str, ending: CaseOutcome) {
        let expects = |class: &usize| self.cases[*class].expected == ending;
        let mut open = (0..self.unidentified.len()).filter(|class| self.unidentified[*class] > 0);
        if let Some(class) = open.clone().find(expects).or_else(|| open.next()) {
            self.unidentified[class] -= 1;
            self.job_results.insert(id.to_owned(), JobResult { class, ..JobResult::default() });
        }
    }

    /// Number of jobs sent.
    pub(super) fn enqueued(&self) -> u64 {
        self.cases.iter().map(|case| case.jobs.len() as u64).sum()
    }

    /// Jobs that have no ending yet.
    pub(super) fn open(&self) -> u64 {
        self.enqueued() - self.job_results.values().filter(|line| line.ending.is_some()).count() as u64
    }

    /// Number of jobs by outcome.
    pub(super) fn jobs(&self) -> [(&'static str, u64); 6] {
        let ended = |is: fn(&CaseOutcome) -> bool| self.endings().filter(is).count() as u64;
        [
            ("enqueued", self.enqueued()),
            ("done", ended(|e| matches!(e, CaseOutcome::Done | CaseOutcome::DoneAfterRetries))),
            ("skipped", ended(|e| matches!(e, CaseOutcome::Skipped(_)))),
            ("retried", self.job_results.values().map(|line| line.retries).sum()),
            ("dead", ended(|e| matches!(e, CaseOutcome::Dead(_)))),
            ("lost", self.open()),
        ]
    }

    /// The versions of the good pairs.
    pub(super) fn good_pairs(&self) -> Vec<(Uuid, Uuid)> {
        let jobs = self.cases[GOOD_CASE].jobs.iter().filter_map(|payload| Job::decode(payload).ok());
        jobs.filter_map(|job| Some((job.from.given()?.uuid(), job.to.uuid()))).collect()
    }

    fn endings(&self) -> impl Iterator<Item = CaseOutcome> {
        self.job_results.values().filter_map(|line| line.ending)
    }

    /// The results as one JSON object.
    pub(super) fn to_json(&self) -> Value {
        let mut skips = BTreeMap::new();
        let mut dead = BTreeMap::new();
        for ending in self.endings() {
            match ending {
                CaseOutcome::Skipped(reason) => *skips.entry(reason.as_str()).or_insert(0) += 1,
                CaseOutcome::Dead(kind) => *dead.entry(kind.as_str()).or_insert(0) += 1,
                CaseOutcome::Done | CaseOutcome::DoneAfterRetries => {}
            }
        }
        let measurements = &self.measurements;
        json!({
            "jobs": self.jobs().into_iter().collect::<BTreeMap<_, _>>(),
            "skips": skips,
            "dead": dead,
            "child": { "peak_bytes_max": measurements.peak_bytes_max, "wall_ms_max": measurements.wall_ms_max },
            "good_ms": { "p50": percentile(&measurements.good_ms, 0.50), "p99": percentile(&measurements.good_ms, 0.99) },
            "fork_servers_respawned": measurements.fork_servers_respawned,
            "alerts": measurements.alerts,
        })
    }

    /// For people: a line a class.
    pub(super) fn to_table(&self) -> String {
        let rows = self.cases.iter().enumerate().map(|(class, case)| {
            let became = self.outcomes_of(class);
            let right = became.len() == 1 && became.contains_key(&case.expected.to_string());
            let mark = if right { "✓" } else { "✗" }.to_owned();
            let became =
                became.iter().map(|(what, count)| format!("{what} × {count}")).collect::<Vec<_>>().join(", ");
            vec![mark, sanitize(case.title, 80), became]
        });
        let columns = [Column::Word(""), Column::Cut("WHAT WAS SENT"), Column::Cut("WHAT BECAME OF IT")];
        render::table(&columns, rows)
    }

    fn outcomes_of(&self, class: usize) -> BTreeMap<String, u64> {
        let mut became = BTreeMap::new();
        for line in self.job_results.values().filter(|line| line.class == class) {
            let what = line.ending.map_or_else(|| "lost".to_owned(), |ending| ending.to_string());
            *became.entry(what).or_insert(0) += 1;
        }
        became
    }

    /// The lines below the table.
    pub(super) fn to_summary(&self) -> String {
        let m = &self.measurements;
        let jobs = self.jobs().map(|(what, count)| format!("{what} {count}")).join(" · ");
        format!(
            "\n{}  {jobs}\n{}  at most {} of heap and {} ms; fork-servers replaced: {}\n{}  p50 {} ms, p99 {} ms, while the \
             poison ran beside them\n{}  {} for {} dead letters",
            styled(BOLD, "jobs    "),
            styled(BOLD, "children"),
            render::format_bytes(m.peak_bytes_max),
            m.wall_ms_max,
            m.fork_servers_respawned,
            styled(BOLD, "good    "),
            percentile(&m.good_ms, 0.50),
            percentile(&m.good_ms, 0.99),
            styled(BOLD, "alerts  "),
            m.alerts,
            self.jobs()[4].1,
        )
    }

    /// What did not end as it should, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (class, case) in self.cases.iter().enumerate() {
            for (what, count) in self.outcomes_of(class) {
                if what != case.expected.to_string() {
                    problems.push(format!(
                        "{}: {count} became `{what}` instead of `{}`",
                        case.name, case.expected
                    ));
                }
            }
        }
        let duplicate_endings: u64 = self.job_results.values().map(|line| line.duplicate_endings).sum();
        if duplicate_endings > 0 {
            problems.push(format!("{duplicate_endings} endings were told twice"));
        }
        problems
    }
}

/// The value that `share` of the sorted ones do not pass; 0 of none.
fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, VersionRef};

    fn results() -> DemoResults {
        let job = |id: &str| Job {
            id: JobId::parse(id).unwrap(),
            ..Job::new(VersionRef::Uuid(Uuid::from_u128(1)), VersionRef::Uuid(Uuid::from_u128(2)))
        };
        let case = |name, jobs, expected| Case { name, title: name, jobs, expected };
        DemoResults::new(vec![
            case("good", vec![job("g1").encode(), job("g2").encode()], CaseOutcome::Done),
            case("garbage", vec![b"{".to_vec()], CaseOutcome::Dead(FailureKind::Decode)),
        ])
    }

    fn event(id: &str, what: &str, why: &str) -> Event {
        Event { at: String::new(), id: id.to_owned(), what: what.to_owned(), why: why.to_owned() }
    }

    #[test]
    fn what_has_no_ending_is_lost_and_a_problem() {
        let mut results = results();
        results.record(&event("g1", "done", ""));
        results.record(&event("zz", "buried", "decode"));
        assert_eq!(results.open(), 1);
        assert_eq!(results.to_json()["jobs"]["lost"], 1);
        assert_eq!(results.problems(), ["good: 1 became `lost` instead of `done`"]);
    }

    #[test]
    fn an_ending_told_twice_is_a_problem() {
        let mut results = results();
        for (id, what, why) in [("g1", "done", ""), ("g2", "done", ""), ("zz", "buried", "decode")] {
            results.record(&event(id, what, why));
        }
        assert!(results.problems().is_empty());
        results.record(&event("g1", "done", ""));
        assert_eq!(results.problems(), ["1 endings were told twice"]);
    }

    #[test]
    fn a_done_job_that_failed_before_is_done_after_retries() {
        let mut results = results();
        results.record(&event("g1", "retried", "upstream"));
        results.record(&event("g1", "done", ""));
        assert_eq!(results.outcomes_of(0).keys().collect::<Vec<_>>(), ["done after retries", "lost"]);
    }

    #[test]
    fn a_share_is_a_value_that_was_seen() {
        assert_eq!(
            (percentile(&[1, 2, 3, 4], 0.5), percentile(&[1, 2, 3, 4], 0.99), percentile(&[], 0.5)),
            (2, 4, 0)
        );
    }
}
