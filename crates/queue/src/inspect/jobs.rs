//! Jobs as the queue stores them, in any state: read one by one, or selected page by page.
//!
//! Invariant: a listing reads at most [`PAGE`] jobs at a time, whatever it selects.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use wm_job::failure::{Failure, FailureKind};
use wm_job::page::Version;
use wm_job::redact::page_url;
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, VersionRef};

use crate::error::Error;
use crate::evidence::RawPayload;
use crate::inspect::index_pages::{Direction, IndexPages, ReadIds};
use crate::inspect::selection::{JobState, Selection};
use crate::redis::keys::Keys;
use crate::role::OperatorHandle;

/// Most jobs read in one round trip.
const PAGE: usize = 100;
/// Fields read of each job.
const FIELDS: [&str; 20] = [
    "state",
    "payload",
    "died_ms",
    "reason",
    "replays",
    "raw",
    "raw_length",
    "raw_hash",
    "enqueued_ms",
    "claimed_ms",
    "worker",
    "build",
    "deliveries",
    "last_failure",
    "waits_for_host",
    "run_at_ms",
    "operation",
    "log",
    "log_cut",
    "cancel",
];

/// What a job was sent as.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A job, which can be replayed.
    Job(Box<Job>),
    /// A payload that this build cannot decode as a job.
    Raw(RawPayload),
}

/// A line of a job's history: a delivery that did not end it, or what a person did with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When, in milliseconds since 1970 by the clock of Redis.
    pub at_ms: u64,
    /// `retried`, `postponed`, `released`, `vanished`, `dead`, `replayed`, `discarded`, ...
    pub what: String,
    /// Why: kind of failure and its sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The worker that had it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker: String,
    /// How long that worker had it, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The bulk action that the operator began.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operation: String,
}

/// A job or a payload that the queue holds, in whatever state.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredJob {
    /// Its id; generated for a payload that is not a job.
    pub id: JobId,
    /// Where it is.
    pub state: JobState,
    /// The job or raw payload.
    pub content: Content,
    /// When it was buried, in milliseconds since 1970 by the clock of Redis; 0 where it is no dead letter.
    pub died_ms: u64,
    /// The evidence of a dead letter; `None` when this build cannot read what a newer one wrote.
    pub reason: Option<DeadLetterReason>,
    /// How often it was replayed.
    pub replays: u32,
    /// When it was admitted.
    pub enqueued_ms: u64,
    /// When it was claimed last; 0 where it never was.
    pub claimed_ms: u64,
    /// When it is due, while it is scheduled; `None` where it waits for its host, which has a time of its own.
    pub due_ms: Option<u64>,
    /// The worker that had it last.
    pub worker: Option<String>,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Its last failure, after a retry.
    pub last_failure: Option<Failure>,
    /// The host that it waits for.
    pub waits_for_host: Option<String>,
    /// True once it is cancelled.
    pub is_cancelled: bool,
    /// The bulk action that replayed it last.
    pub operation: Option<String>,
    /// Its history, oldest first.
    pub log: Vec<LogEntry>,
    /// Older entries that are not kept.
    pub log_cut: u64,
    /// The build that ran it last, where it did not die.
    ran_by: Option<String>,
}

impl StoredJob {
    /// The job; `None` for a payload that is not one.
    pub fn job(&self) -> Option<&Job> {
        match &self.content {
            Content::Job(job) => Some(job),
            Content::Raw(_) => None,
        }
    }

    /// The host that caused its failure or that it waits for or, failing that, the host of its newer version.
    pub fn host(&self) -> Option<String> {
        let failed = self.reason.as_ref().and_then(DeadLetterReason::host);
        failed.or_else(|| self.waits_for_host.clone()).or_else(|| match &self.job()?.to {
            VersionRef::Inline(version) => host_of(version),
            VersionRef::Uuid(_) => None,
        })
    }

    /// What it died of, or failed of last.
    pub fn kind(&self) -> Option<FailureKind> {
        let last = self.last_failure.as_ref().map(|failure| failure.kind);
        self.reason.as_ref().map(|reason| reason.kind).or(last)
    }

    /// The failure that it died of, or its last one.
    pub fn failure(&self) -> Option<&Failure> {
        self.reason.as_ref().map(|reason| &reason.failure).or(self.last_failure.as_ref())
    }

    /// The build that ran it last.
    pub fn build(&self) -> Option<&str> {
        self.reason.as_ref().map(|reason| reason.build.as_str()).or(self.ran_by.as_deref())
    }

    /// Since when it is where it is: its death, its claim or its admission.
    pub fn since_ms(&self) -> u64 {
        match self.state {
            JobState::Dead | JobState::Trash => self.died_ms,
            JobState::InFlight => self.claimed_ms,
            JobState::Ready | JobState::Scheduled | JobState::Exclusive => self.enqueued_ms,
        }
    }

    /// True where its failure, its id or an address holds `text`, which is in lower case.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        let has = |of: &str| of.to_lowercase().contains(text);
        let inline = |version: &VersionRef| match version {
            VersionRef::Inline(version) => {
                has(&page_url(&version.body_url)) || version.url.as_deref().is_some_and(has)
            }
            VersionRef::Uuid(uuid) => has(&uuid.to_string()),
        };
        has(self.id.as_str())
            || self.failure().is_some_and(|failure| has(&failure.detail))
            || match &self.content {
                Content::Job(job) => inline(&job.to) || job.from.given().is_some_and(inline),
                Content::Raw(raw) => has(&String::from_utf8_lossy(&raw.head)),
            }
    }
}

fn host_of(version: &Version) -> Option<String> {
    version.body_url.host_str().map(str::to_owned)
}

/// Selected jobs, a page at a time: dead letters newest first, the others oldest first, in their states' order.
///
/// A job that stays where it is while the pages are read is listed once. One that moves on meanwhile is listed once,
/// where it was found first (up to a bound), or not at all if it moves back or ends.
#[derive(Debug)]
pub struct JobPages<'q> {
    queue: &'q OperatorHandle,
    selection: Selection,
    /// Ids that were named and have not been read yet.
    named: Option<Vec<JobId>>,
    /// States that have not been read to their end; the last one is next.
    states: Vec<JobState>,
    /// The index of the last one, once it is being read.
    index: Option<IndexPages>,
    seen: ReadIds,
}

impl JobPages<'_> {
    /// The next jobs that are selected; empty at the end.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn next(&mut self) -> Result<Vec<StoredJob>, Error> {
        loop {
            let ids = match &mut self.named {
                Some(named) if named.is_empty() => return Ok(Vec::new()),
                Some(named) => named.drain(..named.len().min(PAGE)).collect(),
                None => match self.states.last() {
                    Some(&state) => self.next_ids(state).await?,
                    None => return Ok(Vec::new()),
                },
            };
            let mut jobs = self.queue.stored_jobs(&ids).await?;
            jobs.retain(|job| self.selection.takes(job));
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
    }

    /// The next ids of the index of a state; moves on to the next state at its end.
    async fn next_ids(&mut self, state: JobState) -> Result<Vec<JobId>, Error> {
        let pages = self.index.get_or_insert_with(|| {
            let index = index_of(&self.queue.inner.keys, state);
            match state {
                // Its index is by the time of its death.
                JobState::Dead => IndexPages::of(index, Direction::Down)
                    .within(self.selection.since_ms, self.selection.until_ms),
                JobState::Trash => IndexPages::of(index, Direction::Down),
                JobState::Ready | JobState::Scheduled | JobState::Exclusive | JobState::InFlight => {
                    IndexPages::of(index, Direction::Up)
                }
            }
        });
        let page = pages.next(self.queue, PAGE).await?;
        if page.is_empty() {
            self.states.pop();
            self.index = None;
        }
        Ok(page.into_iter().map(|(id, _)| id).filter(|id| self.seen.is_first(id)).collect())
    }
}

/// The index of a state.
pub(crate) fn index_of(keys: &Keys, state: JobState) -> String {
    match state {
        JobState::Ready => keys.ready(),
        JobState::Scheduled => keys.scheduled(),
        JobState::Exclusive => keys.exclusive(),
        JobState::InFlight => keys.lease(),
        JobState::Dead => keys.dead(),
        JobState::Trash => keys.trash(),
    }
}

impl OperatorHandle {
    /// The jobs that `selection` takes, page by page: those that stand in its states while they are read.
    pub fn job_pages(&self, selection: &Selection) -> JobPages<'_> {
        let mut named = HashSet::new();
        let named =
            selection.ids.iter().filter(|id| named.insert((*id).clone())).cloned().collect::<Vec<_>>();
        let mut states = match selection.states.is_empty() {
            true => JobState::ALL.to_vec(),
            false => selection.states.clone(),
        };
        states.reverse();
        let named = Some(named).filter(|named| !named.is_empty());
        JobPages {
            queue: self,
            selection: selection.clone(),
            named,
            states,
            index: None,
            seen: ReadIds::default(),
        }
    }

    /// The first `limit` jobs that `selection` takes.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn jobs(&self, selection: &Selection, limit: usize) -> Result<Vec<StoredJob>, Error> {
        let (mut pages, mut found) = (self.job_pages(selection), Vec::new());
        while found.len() < limit {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The dead letters that `selection` takes, newest first (with ids: in their order), at most `limit`.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn dead(&self, selection: &Selection, limit: usize) -> Result<Vec<StoredJob>, Error> {
        self.jobs(&Selection { states: vec![JobState::Dead], ..selection.clone() }, limit).await
    }

    /// The job with this id, in whatever state; `None` once it has ended.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn stored_job(&self, id: &JobId) -> Result<Option<StoredJob>, Error> {
        Ok(self.stored_jobs(std::slice::from_ref(id)).await?.pop())
    }

    /// Those of `ids` that the queue holds, in that order.
    pub(crate) async fn stored_jobs(&self, ids: &[JobId]) -> Result<Vec<StoredJob>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.inner.keys.job(id)).arg(&FIELDS);
        }
        let mut connection = self.connection().await?;
        let rows: Vec<Vec<Option<Vec<u8>>>> = pipe.query_async(&mut connection).await?;
        Ok(ids.iter().zip(rows).filter_map(|(id, row)| stored_job(id, row)).collect())
    }
}

/// Reads the fields of a job; `None` when there is no such job.
fn stored_job(id: &JobId, row: Vec<Option<Vec<u8>>>) -> Option<StoredJob> {
    let mut row = row.into_iter();
    let mut field = || row.next().flatten();
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    let number = |bytes| text(bytes).parse::<u64>().unwrap_or(0);
    let state: JobState = text(field()).parse().ok()?;
    let payload = field();
    let died_ms = number(field());
    let reason = serde_json::from_slice(&field().unwrap_or_default()).ok();
    let replays = text(field()).parse().unwrap_or(0);
    let raw = RawPayload { head: field().unwrap_or_default(), length: number(field()), hash: text(field()) };
    let content = match payload.map(|payload| Job::restore(&payload).map_err(|_| payload)) {
        Some(Ok(job)) => Content::Job(Box::new(job)),
        Some(Err(payload)) => Content::Raw(RawPayload::of(&payload)),
        None => Content::Raw(raw),
    };
    let is_letter = matches!(state, JobState::Dead | JobState::Trash);
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let [enqueued_ms, claimed_ms] = std::array::from_fn(|_| number(field()));
    let [worker, ran_by] = std::array::from_fn(|_| some(text(field())));
    let deliveries = text(field()).parse().unwrap_or(0);
    let last_failure = serde_json::from_slice(&field().unwrap_or_default()).ok();
    let waits_for_host = some(text(field()));
    let waits_for_its_time = state == JobState::Scheduled && waits_for_host.is_none();
    let due_ms = Some(number(field())).filter(|_| waits_for_its_time);
    let operation = some(text(field()));
    let log = text(field()).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (log_cut, is_cancelled) = (number(field()), field().is_some());
    Some(StoredJob {
        id: id.clone(),
        state,
        content,
        // A replayed job keeps the evidence of its death until it dies again or ends.
        died_ms: if is_letter { died_ms } else { 0 },
        reason: reason.filter(|_| is_letter),
        replays,
        enqueued_ms,
        claimed_ms,
        due_ms,
        worker,
        deliveries,
        last_failure,
        waits_for_host,
        is_cancelled,
        operation,
        log,
        log_cut,
        ran_by,
    })
}
