//! All waiting work out of a queue, and into another one: what `queue export` and `queue import` do.
//!
//! Invariant: exporting only reads. Importing the same twice changes nothing the second time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::inspect::control::Fields;
use crate::inspect::index_pages::{Direction, IndexPages};
use crate::inspect::jobs::{LogEntry, index_of};
use crate::inspect::selection::JobState;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use wm_job::duration::millis;
use wm_job::{Job, JobId};

/// Payloads or jobs read, and imported, in one call: about 50 times 8 KiB and a history of 4 KB.
pub const TRANSFER_BATCH: usize = 50;
/// How long a queue remembers which payloads of an export it has taken into its inbox: an import that was interrupted is
/// gone on with in days.
const MARK_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// The fields of a job that go along: what it is, and what was counted. The others are of one delivery, or of what else
/// the queue holds.
const FIELDS: [&str; 24] = [
    "payload",
    "score",
    "enqueued_ms",
    "expires_ms",
    "unique",
    "next",
    "next_unique",
    "deliveries",
    "failures",
    "ambiguous_exits",
    "crashes",
    "fetch_crashes",
    "postponements",
    "postponed_ms",
    "releases",
    "replays",
    "priority_offset",
    "run_at_ms",
    "last_failure",
    "cancel",
    "granted_wall_ms",
    "granted_heap_bytes",
    "suspect",
    "log",
];
/// Longest history of a job, as `log_line` in `common.lua` keeps it.
const LOG_MAX_BYTES: usize = 4000;
/// Largest number that scripts count with exactly.
const NUMBER_MAX: u64 = 1 << 53;
/// Those that are text; the others are numbers.
const TEXTS: [&str; 8] =
    ["payload", "unique", "next", "next_unique", "last_failure", "cancel", "suspect", "log"];

/// A waiting job as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedJob {
    /// Its id.
    pub id: JobId,
    /// `ready`, `scheduled` or `exclusive`.
    pub state: String,
    /// Its place among the others in this state: a number in its order, or when it is due in ms.
    pub place: String,
    /// Its payload and its counts.
    pub fields: BTreeMap<String, String>,
}

impl ExportedJob {
    /// Whether it can be taken in.
    ///
    /// # Errors
    /// A sentence with what is wrong.
    pub fn check(&self) -> Result<(), String> {
        // As Redis writes them: what is no number would fail the script that counts on with it, long after the import.
        let number = |text: &str| {
            text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok_and(|n| n <= NUMBER_MAX)
        };
        let waits = [JobState::Ready, JobState::Scheduled, JobState::Exclusive];
        if !waits.iter().any(|state| state.as_str() == self.state) {
            return Err(format!("state {:?} is not one that waits", self.state));
        }
        if !number(&self.place) {
            return Err(format!("place {:?} is not a number", self.place));
        }
        for (name, value) in &self.fields {
            match name.as_str() {
                name if !FIELDS.contains(&name) => return Err(format!("{name:?} is no field of a job")),
                name if !TEXTS.contains(&name) && !number(value) => {
                    return Err(format!("{name} {value:?} is not a number"));
                }
                _known => {}
            }
        }
        for needed in ["score", "enqueued_ms"] {
            self.field(needed)?;
        }
        for name in ["unique", "next_unique"] {
            let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if self.fields.get(name).is_some_and(|text| !is_hash(text)) {
                return Err(format!("{name} is not a SHA-256 in hex"));
            }
        }
        self.field("unique")?;
        let log = self.fields.get("log").map_or("", String::as_str);
        if log.len() > LOG_MAX_BYTES
            || log.lines().any(|line| serde_json::from_str::<LogEntry>(line).is_err())
        {
            return Err(format!("log is not a history of at most {LOG_MAX_BYTES} bytes"));
        }
        let job = Job::restore(self.field("payload")?.as_bytes()).map_err(|failure| failure.to_string())?;
        if job.id == self.id { Ok(()) } else { Err(format!("its payload is of {}", job.id)) }
    }

    fn field(&self, name: &str) -> Result<&str, String> {
        self.fields.get(name).map(String::as_str).ok_or_else(|| format!("it has no {name}"))
    }
}

/// Some of what waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportPage {
    /// Payloads of the inbox, as producers pushed them.
    Inbox(Vec<Vec<u8>>),
    /// Jobs.
    Jobs(Vec<ExportedJob>),
}

/// Where an export is. The inbox comes first and what is ready last, because that is the way jobs go: one that moves
/// meanwhile is exported twice and imported once, never left out.
#[derive(Debug)]
pub struct ExportPages<'q> {
    queue: &'q OperatorHandle,
    states: std::slice::Iter<'static, JobState>,
    /// The index that is read; `None` is the inbox.
    state: Option<(JobState, IndexPages)>,
    /// Payloads of the inbox that were read.
    offset: usize,
}

/// What became of a payload or a job that was to be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum ImportOutcome {
    /// It is in this queue now.
    Imported,
    /// It was here already, alive or ended.
    Known,
    /// A letter with its id was discarded here, and can be restored.
    InTrash,
    /// Another job holds the lock of its pair.
    Duplicate,
}

/// The answer to an import of several.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// What became of each, in order: payloads, then jobs.
    Each(Vec<ImportOutcome>),
    /// The backlog has no room for them: nothing was taken in.
    Full,
    /// Redis is near `maxmemory`: nothing was taken in.
    NoMemory,
}

impl OperatorHandle {
    /// All waiting work, page by page.
    pub fn export(&self) -> ExportPages<'_> {
        const STATES: [JobState; 3] = [JobState::Scheduled, JobState::Exclusive, JobState::Ready];
        ExportPages { queue: self, states: STATES.iter(), state: None, offset: 0 }
    }

    /// The number of the job that was admitted last.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn newest_place(&self) -> Result<u64, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(self.inner.keys.seq());
        let (seq,): (Option<u64>,) = self.ask(&pipe).await?;
        Ok(seq.unwrap_or(0))
    }

    /// Takes in what another queue exported: payloads with their numbers, from 1, and jobs that were checked, at most
    /// [`TRANSFER_BATCH`] together. `newest_place` is that of the other queue.
    ///
    /// # Errors
    /// Those of Redis, which takes nothing when it is full.
    pub async fn import(
        &self,
        export: &str,
        newest_place: u64,
        payloads: &[(u64, Vec<u8>)],
        jobs: &[ExportedJob],
    ) -> Result<Imported, Error> {
        let keys = &self.inner.keys;
        let mut call = self.call(&scripts::IMPORT).key(keys.imported(export));
        for job in jobs {
            let unique = job.fields.get("unique").map_or("", String::as_str);
            call = call.key(keys.job(&job.id)).key(keys.unique(unique));
        }
        call = call.arg(newest_place).arg(millis(MARK_LIFE)).arg(payloads.len());
        for (number, payload) in payloads {
            call = call.arg(number).arg(payload);
        }
        call = call.arg(jobs.len());
        for ExportedJob { id, state, place, fields } in jobs {
            call = call.arg(&[id.as_str(), state, place]).arg(fields.len());
            for (name, value) in fields {
                call = call.arg(&[name, value]);
            }
        }
        let mut reply = call.reply().await?;
        match reply.text()?.as_str() {
            "taken" => {}
            "full" => return Ok(Imported::Full),
            "no_memory" => return Ok(Imported::NoMemory),
            other => return Err(reply.unexpected(other)),
        }
        let mut each = Vec::with_capacity(payloads.len() + jobs.len());
        while let Some(outcome) = reply.next() {
            each.push(outcome.parse().map_err(|_| reply.unexpected(&outcome))?);
        }
        Ok(Imported::Each(each))
    }
}

impl ExportPages<'_> {
    /// The next page; `None` at the end.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn next(&mut self) -> Result<Option<ExportPage>, Error> {
        loop {
            let page = match &mut self.state {
                None => {
                    let range = (self.offset, self.offset + TRANSFER_BATCH - 1);
                    ExportPage::Inbox(self.payloads(range).await?)
                }
                Some((state, index)) => {
                    let members = index.next(self.queue, TRANSFER_BATCH).await?;
                    let (state, at_end) = (*state, members.is_empty());
                    let jobs = self.jobs(state, members).await?;
                    if jobs.is_empty() && !at_end {
                        continue; // entries without jobs
                    }
                    ExportPage::Jobs(jobs)
                }
            };
            self.offset += TRANSFER_BATCH;
            match &page {
                ExportPage::Inbox(payloads) if !payloads.is_empty() => return Ok(Some(page)),
                ExportPage::Jobs(jobs) if !jobs.is_empty() => return Ok(Some(page)),
                ExportPage::Inbox(_) | ExportPage::Jobs(_) => {}
            }
            let Some(&next) = self.states.next() else { return Ok(None) };
            let index = index_of(&self.queue.inner.keys, next);
            self.state = Some((next, IndexPages::of(index, Direction::Up)));
        }
    }

    async fn payloads(&self, (from, to): (usize, usize)) -> Result<Vec<Vec<u8>>, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("LRANGE").arg(self.queue.inner.keys.inbox()).arg(from).arg(to);
        let (payloads,): (Vec<Vec<u8>>,) = self.queue.ask(&pipe).await?;
        Ok(payloads)
    }

    async fn jobs(&self, state: JobState, members: Vec<(JobId, String)>) -> Result<Vec<ExportedJob>, Error> {
        let keys = &self.queue.inner.keys;
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for (id, _) in &members {
            pipe.cmd("HGETALL").arg(keys.job(id));
        }
        let stored: Vec<Fields> = self.queue.ask(&pipe).await?;
        let jobs = members.into_iter().zip(stored);
        Ok(jobs.filter_map(|((id, place), fields)| exported(id, state, place, fields)).collect())
    }
}

/// `None` for an index entry without a job. One that waits for a host is ready: the other queue has hosts of its own.
fn exported(id: JobId, state: JobState, place: String, mut fields: Fields) -> Option<ExportedJob> {
    let waits_for_host = fields.contains_key("waits_for_host");
    fields.retain(|name, _| FIELDS.contains(&name.as_str()));
    let score = fields.get("score")?.clone();
    let (state, place) = if waits_for_host { (JobState::Ready, score) } else { (state, place) };
    Some(ExportedJob { id, state: state.as_str().to_owned(), place, fields })
}
