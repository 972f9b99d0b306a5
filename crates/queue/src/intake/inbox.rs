//! Ingest: from the inbox, where any producer pushes anything, into the queue, where only jobs are.
//!
//! Rust reads the heads and decodes; a script takes a payload out only while it still stands at the head, and only
//! together with what becomes of it. So several workers may ingest at once, and none needs to be trusted to finish.
//!
//! Invariant: a payload leaves the inbox as a job, as a duplicate that is counted, or as a dead letter with its evidence.

use crate::error::Error;
use crate::inspect::dead::{RAW_HEAD_BYTES, RawPayload};
use crate::intake::admission::{Admission, Answer, BATCH, Candidate};
use crate::lease::truncate::truncate_reason;
use crate::lease::upkeep::Buried;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::counts::DeliveryCounts;
use wm_job::failure::{Failure, FailureKind};
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, MAX_PAYLOAD_BYTES};

/// The longest payload that is read whole, to give its SHA-256; of a longer one Redis gives the first bytes, and the
/// SHA-1 of this many.
const WHOLE_MAX_BYTES: usize = 1024 * 1024;
/// Bytes that one look at the inbox may touch, unless the first payload alone has more.
const LOOK_MAX_BYTES: usize = 2 * WHOLE_MAX_BYTES;

/// What one look at the inbox led to.
#[derive(Debug, Default)]
pub struct Ingested {
    /// Jobs that are in the queue now.
    pub admitted: u64,
    /// Payloads whose pair, or whose id, is known already.
    pub duplicates: u64,
    /// Payloads whose pair was analysed before.
    pub already_done: u64,
    /// Payloads that are no jobs.
    pub buried: Vec<Buried>,
    /// True when the backlog is at its ceiling: the inbox waits.
    pub full: bool,
    /// True when more stood in the inbox than one look takes: look again at once.
    pub more: bool,
}

/// One payload at the head of the inbox.
struct Head {
    raw: RawPayload,
    job: Result<Job, Failure>,
}

impl WorkerHandle {
    /// Takes in what stands at the head of the inbox, at most a hundred payloads.
    ///
    /// # Errors
    /// Those of Redis; what was taken in before is in.
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

    /// How many payloads stand in the inbox, and the first of them.
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

    /// Admits a run of jobs; false when to stop.
    async fn take_in(&self, run: &[Head], ingested: &mut Ingested) -> Result<bool, Error> {
        let candidates: Vec<_> = run
            .iter()
            .filter_map(|head| Some(Candidate { job: head.job.as_ref().ok()?, raw: &head.raw.head }))
            .collect();
        for answer in self.admit(&candidates).await? {
            match answer {
                Answer::Admission(Admission::Admitted { .. }) => ingested.admitted += 1,
                Answer::Admission(Admission::Duplicate { .. } | Admission::SameId) => {
                    ingested.duplicates += 1;
                }
                Answer::Admission(Admission::AlreadyDone) => ingested.already_done += 1,
                Answer::Admission(Admission::Full) => {
                    ingested.full = true;
                    return Ok(false);
                }
                Answer::Moved => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Buries a run of payloads that are no jobs; false when to stop.
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
