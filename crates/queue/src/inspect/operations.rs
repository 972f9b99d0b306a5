//! Operators' bulk actions: what each acts on is fixed before it acts, and what became of every job can be asked later.
//!
//! Invariant: the jobs of an operation are recorded before it touches the first one, so an operation that is interrupted
//! goes on with the same jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;
use wm_job::JobId;
use wm_job::duration::millis;

use crate::Queue;
use crate::error::Error;
use crate::inspect::audit::AuditEntry;
use crate::inspect::control::Fields;
use crate::inspect::jobs::StoredJob;
use crate::inspect::parts::{Reads, UnreadableKey};
use crate::redis::scripts;
use crate::role::OperatorHandle;
use crate::settings::AUDIT_MAX;

/// Most jobs of one operation.
///
/// # Why
/// As many as there may be dead letters by default: 8 MB while the operation is remembered.
pub const OPERATION_JOBS_MAX: usize = 100_000;
/// Most jobs of all operations together, beyond which the oldest operations forget theirs.
const JOBS_KEPT: usize = 2 * OPERATION_JOBS_MAX;
/// Most operations that are remembered: what people did in a bad night.
const KEPT: u64 = 100;
/// How long an operation that has not come to all of its jobs is kept against younger ones, counted from the last job
/// that was recorded: what broke off in the night is gone on with in the morning.
const OPEN_LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long an operation is remembered after it has begun: as long as the results of its jobs.
const LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Jobs recorded in one call.
const RECORD_BATCH: usize = 500;
/// Jobs read in one call.
const READ_BATCH: usize = 1000;

/// The name of an operation: `<what>-<8 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationId(String);

impl OperationId {
    /// A new name.
    pub fn fresh(what: &str) -> Self {
        Self(format!("{what}-{}", &Uuid::new_v4().simple().to_string()[..8]))
    }

    /// Parses a name.
    ///
    /// # Errors
    /// A sentence with the allowed characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (3..=40).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not an operation: audit ls lists them, like replay-1f3a9c2e"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for OperationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// A job of an operation as it was when the operation began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Its id.
    pub id: JobId,
    /// When it died; 0 for one that was no dead letter.
    pub died_ms: u64,
}

impl Selected {
    /// This job.
    pub fn of(job: &StoredJob) -> Self {
        Self { id: job.id.clone(), died_ms: job.died_ms }
    }

    /// The death that an act on it means; `None`, any, where its time is not known.
    pub(crate) fn death(&self) -> Option<u64> {
        Some(self.died_ms).filter(|ms| *ms > 0)
    }
}

/// What became of a job of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// It was not come to; when it died.
    Selected(u64),
    /// What became of it: `replayed` while it runs or waits, then `done`, `skipped:<reason>` or `dead:<kind>`;
    /// `discarded`, `restored`, `cancelled`, `undone`, or why it was left alone.
    Ended(String),
}

impl JobOutcome {
    fn parse(text: &str) -> Self {
        match text.strip_prefix("selected:") {
            Some(died_ms) => Self::Selected(died_ms.parse().unwrap_or(0)),
            None => Self::Ended(text.to_owned()),
        }
    }

    /// Its label.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Selected(_) => "selected",
            Self::Ended(what) => what,
        }
    }
}

/// What an operation did so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// Who began it, when, on what and why.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// How it is done (JSON), for the command that goes on with it.
    #[serde(skip)]
    pub options: String,
    /// What became of its jobs; empty once that is forgotten.
    pub jobs: BTreeMap<String, JobOutcome>,
}

impl Operation {
    /// How many jobs came to each outcome.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for outcome in self.jobs.values() {
            *counts.entry(outcome.as_str()).or_default() += 1;
        }
        counts
    }

    /// False once its jobs have given way to those of younger operations.
    pub fn keeps_jobs(&self) -> bool {
        !self.jobs.is_empty() || self.entry.count == Some(0)
    }

    /// The jobs that were not come to.
    pub fn left(&self) -> Vec<Selected> {
        let left = self.jobs.iter().filter_map(|(id, outcome)| match outcome {
            JobOutcome::Selected(died_ms) => Some(Selected { id: JobId::parse(id).ok()?, died_ms: *died_ms }),
            JobOutcome::Ended(_) => None,
        });
        left.collect()
    }
}

impl OperatorHandle {
    /// Begins an operation on `jobs` and records it for the audit; `options` are for the command that resumes it.
    ///
    /// # Errors
    /// [`Error::TooManyOperations`], and those of Redis; nothing has been acted on.
    pub async fn begin_operation(
        &self,
        id: &OperationId,
        entry: &AuditEntry,
        options: &str,
        jobs: &[Selected],
    ) -> Result<(), Error> {
        let AuditEntry { what, by, .. } = entry;
        let [why, selection] = entry.stored_texts();
        let (keys, mut what) = (&self.inner.keys, what.as_str());
        let mut batches = jobs.chunks(RECORD_BATCH);
        let mut batch = batches.next().unwrap_or_default();
        loop {
            let mut call = self
                .call(&scripts::OPERATION)
                .key(keys.audit())
                .key(keys.operations())
                .key(keys.operation(id.as_str()))
                .key(keys.operation_jobs(id.as_str()))
                .arg(&[id.as_str(), what, by, &selection, &why])
                .arg(jobs.len())
                .arg(AUDIT_MAX)
                .arg(KEPT)
                .arg(JOBS_KEPT)
                .arg(millis(LIFE))
                .arg(options)
                .arg(millis(OPEN_LIFE));
            for Selected { id, died_ms } in batch {
                call = call.arg(id.as_str()).arg(format!("selected:{died_ms}"));
            }
            let mut reply = call.reply().await?;
            match reply.text()?.as_str() {
                "begun" | "added" => {}
                "busy" => {
                    let (oldest, jobs) = (reply.text()?, reply.number()?);
                    return Err(self.no_room(&oldest, jobs));
                }
                other => return Err(reply.unexpected(other)),
            }
            what = "";
            match batches.next() {
                Some(next) => batch = next,
                None => return Ok(()),
            }
        }
    }
}

impl OperatorHandle {
    /// The error of an operation that has no room beside those that are not through, and how to make some.
    fn no_room(&self, oldest: &str, jobs: u64) -> Error {
        let what = if oldest.starts_with("replay-") { "dead replay --resume" } else { "audit show" };
        let (command, hours) = (self.command(&format!("{what} {oldest}")), OPEN_LIFE.as_secs() / 3600);
        Error::TooManyOperations { jobs, jobs_max: JOBS_KEPT, operations_max: KEPT, command, hours }
    }
}

impl Queue {
    /// Bytes of what the operations know of their jobs. Asked and not counted: each job changes it, and they expire.
    pub(crate) async fn operations_bytes(&self, unreadable: &mut Vec<UnreadableKey>) -> Result<u64, Error> {
        let keys = &self.inner.keys;
        let mut reads = Reads::default();
        reads.add(&["ZREVRANGE"], &keys.operations(), &["0", &(KEPT - 1).to_string()]);
        let mut replies = self.read(reads).await?;
        let ids: Vec<String> = replies.next();
        unreadable.append(&mut replies.unreadable);
        let mut reads = Reads::default();
        for key in ids.iter().flat_map(|id| [keys.operation(id), keys.operation_jobs(id)]) {
            reads.add(&["MEMORY", "USAGE"], &key, &[]);
        }
        let mut replies = self.read(reads).await?;
        let bytes = ids.iter().map(|_| replies.next::<u64>() + replies.next::<u64>()).sum();
        unreadable.append(&mut replies.unreadable);
        Ok(bytes)
    }

    /// What became of `ids` in an operation, in the same order; `None` for those that are not its own.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn outcomes(
        &self,
        operation: &OperationId,
        ids: &[JobId],
    ) -> Result<Vec<Option<JobOutcome>>, Error> {
        let key = self.inner.keys.operation_jobs(operation.as_str());
        let mut outcomes = Vec::with_capacity(ids.len());
        for page in ids.chunks(READ_BATCH) {
            let mut pipe = redis::pipe();
            pipe.cmd("HMGET").arg(&key).arg(page.iter().map(JobId::as_str).collect::<Vec<_>>());
            let (texts,): (Vec<Option<String>>,) = self.ask(&pipe).await?;
            outcomes.extend(texts.into_iter().map(|text| text.as_deref().map(JobOutcome::parse)));
        }
        Ok(outcomes)
    }

    /// What an operation did; `None` once it is forgotten.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn operation(&self, id: &OperationId) -> Result<Option<Operation>, Error> {
        let keys = &self.inner.keys;
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(keys.operation(id.as_str()));
        let (fields,): (Fields,) = self.ask(&pipe).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let entry = AuditEntry::of(&fields, Some(id.clone()));
        let options = fields.get("options").cloned().unwrap_or_default();
        let (mut jobs, mut cursor) = (BTreeMap::new(), 0_u64);
        loop {
            let mut pipe = redis::pipe();
            pipe.cmd("HSCAN").arg(keys.operation_jobs(id.as_str())).arg(cursor).arg("COUNT").arg(READ_BATCH);
            let ((next, page),): ((u64, Vec<(String, String)>),) = self.ask(&pipe).await?;
            jobs.extend(page.into_iter().map(|(id, text)| (id, JobOutcome::parse(&text))));
            cursor = next;
            if cursor == 0 {
                return Ok(Some(Operation { id: id.clone(), entry, options, jobs }));
            }
        }
    }
}
