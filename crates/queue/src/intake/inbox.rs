//! Ingest: decodes the payloads that producers push to the inbox, and admits or buries them.
//!
//! Rust reads and decodes the head of the inbox; a script removes a payload only while it is still at the
//! head, and in the same step in which it stores the result. So several workers may ingest at once, and a
//! crash loses nothing.
//!
//! Invariant: a payload leaves the inbox as a job, as a counted duplicate, or as a dead letter with its
//! evidence.

use crate::error::Error;
use crate::evidence::{Buried, RAW_HEAD_BYTES};
use crate::intake::admission::{Admission, AdmitReply, BATCH, Candidate};
use crate::intake::identity::Identity;
use crate::lease::result::death_report;
use crate::lease::truncate::{group_sentence, truncate_reason};
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::counts::DeliveryCounts;
use wm_job::failure::{Failure, FailureKind};
use wm_job::text::sha256_hex;
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, MAX_PAYLOAD_BYTES};

/// Longest payload read whole, which gets a SHA-256; of a longer one Redis returns the first bytes, and the
/// SHA-1 of its first 1 MiB.
const WHOLE_MAX_BYTES: usize = 1024 * 1024;
/// Bytes read of a longer one: what may name its id and its pair.
const CUT_BYTES: usize = 64 * 1024;
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
    /// True when nothing more is admitted now, because the backlog is at `backlog_max` or Redis near
    /// `maxmemory`: payloads stay in the inbox.
    pub full: bool,
    /// Payloads that stay in the inbox.
    pub left: u64,
    /// True when the inbox had more than one call takes: call again at once.
    pub more: bool,
}

/// A payload at the head of the inbox, decoded.
struct Head {
    /// The whole payload, or the first bytes of one that is too long.
    bytes: Vec<u8>,
    length: u64,
    hash: String,
    job: Result<Job, Failure>,
}

impl WorkerHandle {
    /// Ingests at most 100 payloads from the head of the inbox.
    ///
    /// # Errors
    /// Those of Redis; earlier payloads may have been ingested.
    pub async fn ingest(&self) -> Result<Ingested, Error> {
        let (length, heads) = self.peek().await?;
        let mut ingested = Ingested { more: length > heads.len(), ..Ingested::default() };
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
        let taken =
            ingested.admitted + ingested.duplicates + ingested.already_done + ingested.buried.len() as u64;
        ingested.left = (length as u64).saturating_sub(taken);
        Ok(ingested)
    }

    /// The length of the inbox, and its first payloads.
    async fn peek(&self) -> Result<(usize, Vec<Head>), Error> {
        let mut reply = self
            .call(&scripts::PEEK)
            .arg(BATCH)
            .arg(WHOLE_MAX_BYTES)
            .arg(CUT_BYTES)
            .arg(LOOK_MAX_BYTES)
            .reply()
            .await?;
        let length = reply.number()?;
        let mut heads = Vec::new();
        while let Some(length) = reply.next() {
            let length: u64 = length.parse().map_err(|_| reply.unexpected(&length))?;
            let bytes = reply.bytes().unwrap_or_default();
            let sha1 = reply.text()?;
            let job = if sha1.is_empty() { Job::decode(&bytes) } else { Err(too_large(length)) };
            let hash = match (sha1.is_empty(), &job) {
                (true, Err(_)) => format!("sha256:{}", sha256_hex(&bytes)),
                (true, Ok(_)) | (false, _) => format!("sha1-1MiB:{sha1}"),
            };
            heads.push(Head { bytes, length, hash, job });
        }
        Ok((length, heads))
    }

    /// Admits consecutive jobs; false to stop ingesting.
    async fn take_in(&self, run: &[Head], ingested: &mut Ingested) -> Result<bool, Error> {
        let candidates: Vec<_> = run
            .iter()
            .filter_map(|head| Some(Candidate { job: head.job.as_ref().ok()?, raw: &head.bytes }))
            .collect();
        for answer in self.admit(&candidates).await? {
            match answer {
                AdmitReply::Admission(Admission::Admitted { .. }) => ingested.admitted += 1,
                AdmitReply::Admission(Admission::Duplicate { .. } | Admission::SameId) => {
                    ingested.duplicates += 1;
                }
                AdmitReply::Admission(Admission::AlreadyDone) => ingested.already_done += 1,
                AdmitReply::Admission(Admission::Full | Admission::NoMemory) => {
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
            let known = Identity::read(&head.bytes);
            let spare = JobId::generate();
            let own = known.id.unwrap_or_else(|| spare.clone());
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
                .key(self.inner.keys.job(&own))
                .key(self.inner.keys.job(&spare))
                .key(self.inner.keys.dead_kind(reason.kind))
                .arg(&[own.as_str(), spare.as_str(), reason.kind.as_str(), &truncate_reason(&reason)])
                .arg(&head.bytes[..head.bytes.len().min(RAW_HEAD_BYTES)])
                .arg(head.length)
                .arg(&head.hash)
                .arg(&head.bytes[..])
                .arg(&known.pair)
                .arg(death_report(&own, &reason))
                .arg(group_sentence(&reason.failure.detail))
                .arg(&reason.build)
                .reply()
                .await?;
            match reply.text()?.as_str() {
                "buried" => {
                    let id = JobId::parse(&reply.text()?).map_err(|e| reply.unexpected(&e))?;
                    ingested.buried.push(Buried { id, pair: known.pair, reason });
                }
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
