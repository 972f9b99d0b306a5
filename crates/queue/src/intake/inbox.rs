//! Ingest: decodes the payloads that producers push to the inbox, and admits or buries them.
//!
//! Rust reads and decodes the head of the inbox; a script removes a payload only while it is still at the
//! head, and in the same step in which it stores the result. So several workers may ingest at once, and a
//! crash loses nothing.
//!
//! Invariant: a payload leaves the inbox as a job, as a counted duplicate, or as a dead letter with its
//! evidence.

use crate::error::Error;
use crate::evidence::{Buried, RAW_HEAD_BYTES, RawPayload};
use crate::intake::admission::{Admission, AdmitReply, BATCH, Candidate};
use crate::lease::truncate::truncate_reason;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::counts::DeliveryCounts;
use wm_job::failure::{Failure, FailureKind};
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, MAX_PAYLOAD_BYTES};

/// Longest payload read whole, which gets a SHA-256; of a longer one Redis returns the first bytes, and the
/// SHA-1 of its first 1 MiB.
const WHOLE_MAX_BYTES: usize = 1024 * 1024;
/// Most bytes read from the inbox per call, unless the first payload alone has more.
const LOOK_MAX_BYTES: usize = 2 * WHOLE_MAX_BYTES;

/// Results of one call to [`WorkerHandle::ingest`].
#[derive(Debug, Default)]
pub struct Ingested {
    /// Payloads admitted as jobs.
    pub admitted: u64,
    /// Payloads whose pair is live, or whose id is already in the queue.
    pub duplicates: u64,
    /// Payloads whose pair was analysed before.
    pub already_done: u64,
    /// Payloads that are not jobs.
    pub buried: Vec<Buried>,
    /// True when the backlog is at `backlog_max`: payloads stay in the inbox.
    pub full: bool,
    /// True when the inbox had more than one call takes: call again at once.
    pub more: bool,
}

/// A payload at the head of the inbox, decoded.
struct Head {
    raw: RawPayload,
    job: Result<Job, Failure>,
}

impl WorkerHandle {
    /// Ingests at most 100 payloads from the head of the inbox.
    ///
    /// # Errors
    /// Those of Redis; earlier payloads may have been ingested.
    pub async fn ingest(&self) -> Result<Ingested, Error> {
        let (state, heads) = self.peek().await?;
        let mut ingested = Ingested { more: state > heads.len(), ..Ingested::default() };
        for run in heads.chunk_by(|a, b| a.job.is_ok() == b.job.is_ok()) {
            let on = match &run[0].job {
                Ok(_) => self.take_in(run, &mut ingested).await?,
                Err(_) => self.refuse(run, &mut ingested).await?,
            };
            if !on {
                ingested.more = false;
                break;
            }
        }
        Ok(ingested)
    }

    /// The length of the inbox, and its first payloads.
    async fn peek(&self) -> Result<(usize, Vec<Head>), Error> {
        let mut reply = self
            .call(&scripts::PEEK)
            .arg(BATCH)
            .arg(WHOLE_MAX_BYTES)
            .arg(RAW_HEAD_BYTES)
            .arg(LOOK_MAX_BYTES)
            .reply()
            .await?;
        let state = reply.number()?;
        let mut heads = Vec::new();
        while let Some(length) = reply.next() {
            let length: u64 = length.parse().map_err(|_| reply.unexpected(&length))?;
            let bytes = reply.bytes().unwrap_or_default();
            let sha1 = reply.text()?;
            let job = if sha1.is_empty() { Job::decode(&bytes) } else { Err(too_large(length)) };
            let raw = if sha1.is_empty() && job.is_err() {
                RawPayload::of(&bytes)
            } else {
                RawPayload { head: bytes, length, hash: format!("sha1-1MiB:{sha1}") }
            };
            heads.push(Head { raw, job });
        }
        Ok((state, heads))
    }

    /// Admits consecutive jobs; false to stop ingesting.
    async fn take_in(&self, run: &[Head], ingested: &mut Ingested) -> Result<bool, Error> {
        let candidates: Vec<_> = run
            .iter()
            .filter_map(|head| Some(Candidate { job: head.job.as_ref().ok()?, raw: &head.raw.head }))
            .collect();
        for answer in self.admit(&candidates).await? {
            match answer {
                AdmitReply::Admission(Admission::Admitted { .. }) => ingested.admitted += 1,
                AdmitReply::Admission(Admission::Duplicate { .. } | Admission::SameId) => {
                    ingested.duplicates += 1;
                }
                AdmitReply::Admission(Admission::AlreadyDone) => ingested.already_done += 1,
                AdmitReply::Admission(Admission::Full) => {
                    ingested.full = true;
                    return Ok(false);
                }
                AdmitReply::Moved => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Buries consecutive payloads that are not jobs; false to stop ingesting.
    async fn refuse(&self, run: &[Head], ingested: &mut Ingested) -> Result<bool, Error> {
        for head in run {
            let Err(failure) = &head.job else { continue };
            let id = JobId::generate();
            let reason = DeadLetterReason {
                kind: failure.kind,
                stage: failure.kind.stage(),
                failure: failure.clone(),
                counts: DeliveryCounts::default(),
                bodies: Vec::new(),
                worker: String::new(),
                build: crate::BUILD.to_owned(),
            };
            let mut reply = self
                .call(&scripts::REFUSE)
                .key(self.inner.keys.job(&id))
                .key(self.inner.keys.dead_kind(reason.kind))
                .arg(&[id.as_str(), reason.kind.as_str(), &truncate_reason(&reason)])
                .arg(&head.raw.head[..])
                .arg(head.raw.length)
                .arg(&head.raw.hash)
                .reply()
                .await?;
            match reply.text()?.as_str() {
                "buried" => ingested.buried.push(Buried { id, pair: String::new(), reason }),
                "moved" => return Ok(false),
                other => return Err(reply.unexpected(other)),
            }
        }
        Ok(true)
    }
}

fn too_large(length: u64) -> Failure {
    let detail = format!(
        "the payload has {length} bytes and a job at most {MAX_PAYLOAD_BYTES}: send references, not bodies"
    );
    Failure::new(FailureKind::Decode, detail)
}
