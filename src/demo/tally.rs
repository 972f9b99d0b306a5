//! The reckoning: every job that was sent against every ending that was seen, class by class.
//!
//! Pure: it is fed events and measures. Invariant: a job has at most one ending; one that has none is *lost*.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, Ending};
use crate::job::Job;
use crate::job::failure::Kind;
use crate::job::skip::SkipReason;
use crate::ops::render::{self, BOLD, plain, styled};
use crate::queue::Event;

/// The good class's place in the cast.
const GOOD_CLASS: usize = 0;

/// What was measured beside the endings.
#[derive(Debug, Clone, Default)]
pub(super) struct Measures {
    /// Largest heap of any child, in bytes.
    pub(super) peak_bytes_max: u64,
    /// Longest life of any child, in milliseconds.
    pub(super) wall_ms_max: u64,
    /// What each good pair took, in milliseconds, sorted.
    pub(super) good_ms: Vec<u64>,
    /// Fork-servers that had to be replaced.
    pub(super) children_respawned: u64,
    /// Alerts that arrived at the ingest.
    pub(super) alerts: u64,
}

/// One job's account.
#[derive(Debug, Clone, Default)]
struct Line {
    class: usize,
    retries: u64,
    ending: Option<Ending>,
    /// Endings beyond the first: there must be none.
    again: u64,
}

/// The account of all jobs.
pub(super) struct Tally {
    cast: Vec<Case>,
    lines: HashMap<String, Line>,
    /// Jobs that the queue names itself, because their payload could not be read: the class, and how many are open.
    nameless: Vec<(usize, u64)>,
    /// Set when the story is over.
    pub(super) measures: Measures,
}

impl Tally {
    /// An account in which everything is open.
    pub(super) fn new(cast: Vec<Case>) -> Self {
        let mut lines = HashMap::new();
        let mut nameless = Vec::new();
        for (class, case) in cast.iter().enumerate() {
            let mut unread = 0;
            for payload in &case.jobs {
                match Job::decode(payload) {
                    Ok(job) => {
                        lines.insert(job.id.to_string(), Line { class, ..Line::default() });
                    }
                    Err(_) => unread += 1,
                }
            }
            nameless.push((class, unread));
        }
        Self { cast, lines, nameless, measures: Measures::default() }
    }

    /// Notes one event of the queue.
    pub(super) fn note(&mut self, event: &Event) {
        let ending = match event.what.as_str() {
            "done" => Some(Ending::Done),
            "skipped" => reason(&event.why).map(Ending::Skipped),
            "buried" => Kind::parse(&event.why).map(Ending::Dead),
            _other => None,
        };
        if let (Some(ending), false) = (ending, self.lines.contains_key(&event.id)) {
            self.adopt(&event.id, ending);
        }
        let Some(line) = self.lines.get_mut(&event.id) else { return };
        if event.what == "retried" {
            line.retries += 1;
        }
        match (ending, line.ending) {
            (Some(Ending::Done), None) if line.retries > 0 => line.ending = Some(Ending::DoneAfterRetries),
            (Some(ending), None) => line.ending = Some(ending),
            (Some(_), Some(_)) => line.again += 1,
            (None, _) => {}
        }
    }

    /// Finds the class of a job that the queue named: one that expects this ending, or else any that misses a job.
    fn adopt(&mut self, id: &str, ending: Ending) {
        let expects = |class: usize| self.cast[class].expected == ending;
        let open = |n: &usize| self.nameless[*n].1 > 0;
        let all = 0..self.nameless.len();
        let found =
            all.clone().find(|n| open(n) && expects(self.nameless[*n].0)).or_else(|| all.clone().find(open));
        if let Some(n) = found {
            self.nameless[n].1 -= 1;
            self.lines.insert(id.to_owned(), Line { class: self.nameless[n].0, ..Line::default() });
        }
    }

    /// Jobs that were sent.
    pub(super) fn enqueued(&self) -> u64 {
        self.cast.iter().map(|case| case.jobs.len() as u64).sum()
    }

    /// Jobs that have no ending yet.
    pub(super) fn open(&self) -> u64 {
        self.enqueued() - self.lines.values().filter(|line| line.ending.is_some()).count() as u64
    }

    /// The totals.
    pub(super) fn jobs(&self) -> [(&'static str, u64); 6] {
        let ended = |is: fn(&Ending) -> bool| self.endings().filter(is).count() as u64;
        [
            ("enqueued", self.enqueued()),
            ("done", ended(|e| matches!(e, Ending::Done | Ending::DoneAfterRetries))),
            ("skipped", ended(|e| matches!(e, Ending::Skipped(_)))),
            ("retried", self.lines.values().map(|line| line.retries).sum()),
            ("dead", ended(|e| matches!(e, Ending::Dead(_)))),
            ("lost", self.open()),
        ]
    }

    /// The versions of the good pairs.
    pub(super) fn good_pairs(&self) -> Vec<(Uuid, Uuid)> {
        let jobs = self.cast[GOOD_CLASS].jobs.iter().filter_map(|payload| Job::decode(payload).ok());
        jobs.filter_map(|job| Some((job.from.given()?.uuid(), job.to.uuid()))).collect()
    }

    fn endings(&self) -> impl Iterator<Item = Ending> {
        self.lines.values().filter_map(|line| line.ending)
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let mut skips = BTreeMap::new();
        let mut dead = BTreeMap::new();
        for ending in self.endings() {
            match ending {
                Ending::Skipped(reason) => *skips.entry(reason.as_str()).or_insert(0) += 1,
                Ending::Dead(kind) => *dead.entry(kind.as_str()).or_insert(0) += 1,
                Ending::Done | Ending::DoneAfterRetries => {}
            }
        }
        let measures = &self.measures;
        json!({
            "jobs": self.jobs().into_iter().collect::<BTreeMap<_, _>>(),
            "skips": skips,
            "dead": dead,
            "child": { "peak_bytes_max": measures.peak_bytes_max, "wall_ms_max": measures.wall_ms_max },
            "good_ms": { "p50": share(&measures.good_ms, 0.50), "p99": share(&measures.good_ms, 0.99) },
            "children_respawned": measures.children_respawned,
            "alerts": measures.alerts,
        })
    }

    /// For people: a line a class.
    pub(super) fn to_table(&self) -> String {
        let rows = self.cast.iter().enumerate().map(|(class, case)| {
            let became = self.became(class);
            let right = became.len() == 1 && became.contains_key(&case.expected.to_string());
            let mark = if right { "✓" } else { "✗" }.to_owned();
            let became =
                became.iter().map(|(what, count)| format!("{what} × {count}")).collect::<Vec<_>>().join(", ");
            vec![mark, plain(case.title, 80), became]
        });
        render::table(&["", "WHAT WAS SENT", "WHAT BECAME OF IT"], &[], rows)
    }

    fn became(&self, class: usize) -> BTreeMap<String, u64> {
        let mut became = BTreeMap::new();
        for line in self.lines.values().filter(|line| line.class == class) {
            let what = line.ending.map_or_else(|| "lost".to_owned(), |ending| ending.to_string());
            *became.entry(what).or_insert(0) += 1;
        }
        became
    }

    /// For people: the sums.
    pub(super) fn to_summary(&self) -> String {
        let m = &self.measures;
        let jobs = self.jobs().map(|(what, count)| format!("{what} {count}")).join(" · ");
        format!(
            "\n{}  {jobs}\n{}  at most {} of heap and {} ms; fork-servers replaced: {}\n{}  p50 {} ms, p99 {} ms, while the \
             poison ran beside them\n{}  {} for {} dead letters",
            styled(BOLD, "jobs    "),
            styled(BOLD, "children"),
            render::bytes(m.peak_bytes_max),
            m.wall_ms_max,
            m.children_respawned,
            styled(BOLD, "good    "),
            share(&m.good_ms, 0.50),
            share(&m.good_ms, 0.99),
            styled(BOLD, "alerts  "),
            m.alerts,
            self.jobs()[4].1,
        )
    }

    /// What did not end as it should, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (class, case) in self.cast.iter().enumerate() {
            for (what, count) in self.became(class) {
                if what != case.expected.to_string() {
                    problems.push(format!(
                        "{}: {count} became `{what}` instead of `{}`",
                        case.name, case.expected
                    ));
                }
            }
        }
        let again: u64 = self.lines.values().map(|line| line.again).sum();
        if again > 0 {
            problems.push(format!("{again} endings were told twice"));
        }
        problems
    }
}

fn reason(label: &str) -> Option<SkipReason> {
    SkipReason::ALL.iter().copied().find(|reason| reason.as_str() == label)
}

/// The value that `share` of the sorted ones do not pass; 0 of none.
fn share(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, VersionRef};

    fn tally() -> Tally {
        let job = |id: &str| Job {
            id: JobId::parse(id).unwrap(),
            ..Job::new(VersionRef::Uuid(Uuid::from_u128(1)), VersionRef::Uuid(Uuid::from_u128(2)))
        };
        let case = |name, jobs, expected| Case { name, title: name, jobs, expected };
        Tally::new(vec![
            case("good", vec![job("g1").encode(), job("g2").encode()], Ending::Done),
            case("garbage", vec![b"{".to_vec()], Ending::Dead(Kind::Decode)),
        ])
    }

    fn event(id: &str, what: &str, why: &str) -> Event {
        Event { at: String::new(), id: id.to_owned(), what: what.to_owned(), why: why.to_owned() }
    }

    #[test]
    fn what_has_no_ending_is_lost_and_a_problem() {
        let mut tally = tally();
        tally.note(&event("g1", "done", ""));
        tally.note(&event("zz", "buried", "decode"));
        assert_eq!(tally.open(), 1);
        assert_eq!(tally.to_json()["jobs"]["lost"], 1);
        assert_eq!(tally.problems(), ["good: 1 became `lost` instead of `done`"]);
    }

    #[test]
    fn an_ending_told_twice_is_a_problem() {
        let mut tally = tally();
        for (id, what, why) in [("g1", "done", ""), ("g2", "done", ""), ("zz", "buried", "decode")] {
            tally.note(&event(id, what, why));
        }
        assert!(tally.problems().is_empty());
        tally.note(&event("g1", "done", ""));
        assert_eq!(tally.problems(), ["1 endings were told twice"]);
    }

    #[test]
    fn a_done_job_that_failed_before_is_done_after_retries() {
        let mut tally = tally();
        tally.note(&event("g1", "retried", "upstream"));
        tally.note(&event("g1", "done", ""));
        assert_eq!(tally.became(0).keys().collect::<Vec<_>>(), ["done after retries", "lost"]);
    }

    #[test]
    fn a_share_is_a_value_that_was_seen() {
        assert_eq!((share(&[1, 2, 3, 4], 0.5), share(&[1, 2, 3, 4], 0.99), share(&[], 0.5)), (2, 4, 0));
    }
}
