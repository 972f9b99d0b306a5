//! Admits jobs, and derives the names of a pair: `unique` while a job for it is live, `done` afterwards.
//!
//! Of a job whose older version is given only as a position in the page's history, `done` knows here no more than
//! that its newer version is skipped for good: its pair is known only once resolved, and [`WorkerHandle::is_done`]
//! checks it then.

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::{ProducerHandle, WorkerHandle};
use wm_job::page::PagePair;
use wm_job::report::ANALYSIS_VERSION;
use wm_job::text::sha256_hex;
use wm_job::{Job, JobId, Priority};

/// Most jobs admitted in one call.
pub(crate) const BATCH: usize = 100;

/// The result of admitting one job.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The job is in the queue.
    Admitted {
        /// Id of the admitted job.
        id: JobId,
    },
    /// Another job for the same pair is live.
    Duplicate {
        /// Id of the live job.
        holder: JobId,
    },
    /// The same pair was analysed before, and the job does not ask for `again`.
    AlreadyDone,
    /// A job with this id exists, live or dead, so enqueuing a job twice admits it once.
    SameId,
    /// The backlog is at `backlog_max`; later jobs were not tried.
    Full,
    /// Redis is near `maxmemory`; later jobs were not tried.
    NoMemory,
}

/// A job to admit; `raw` is its payload at the head of the inbox, empty when it does not come from there.
pub(crate) struct Candidate<'a> {
    pub(crate) job: &'a Job,
    pub(crate) raw: &'a [u8],
}

/// The result of `admit.lua` for one candidate.
pub(crate) enum AdmitReply {
    Admission(Admission),
    /// Another payload is at the head of the inbox by now.
    Moved,
}

impl ProducerHandle {
    /// Admits jobs, in order, 100 per call to Redis; the results are in the same order. After
    /// [`Admission::Full`] or [`Admission::NoMemory`] the rest is not tried and gets the same result.
    ///
    /// # Errors
    /// Those of Redis; jobs of earlier batches may be admitted. Retrying is safe: [`Admission::SameId`].
    pub async fn enqueue(&self, jobs: &[Job]) -> Result<Vec<Admission>, Error> {
        let mut admissions = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(BATCH) {
            let candidates: Vec<_> = batch.iter().map(|job| Candidate { job, raw: b"" }).collect();
            for answer in self.admit(&candidates).await? {
                if let AdmitReply::Admission(admission) = answer {
                    admissions.push(admission);
                }
            }
            if let Some(stop @ (Admission::Full | Admission::NoMemory)) = admissions.last().cloned() {
                admissions.resize(jobs.len(), stop);
                break;
            }
        }
        Ok(admissions)
    }
}

impl Queue {
    /// Admits at most [`BATCH`] candidates.
    pub(crate) async fn admit(&self, candidates: &[Candidate<'_>]) -> Result<Vec<AdmitReply>, Error> {
        let mut call = self.call(&scripts::ADMIT).arg(candidates.len());
        for Candidate { job, raw } in candidates {
            let pair = job.pair();
            let next = job.follow_up();
            let done = if job.again { Vec::new() } else { self.done_name(&pair, ANALYSIS_VERSION) };
            call = call
                .key(self.inner.keys.job(&job.id))
                .key(self.inner.keys.unique(&unique_name(&pair)))
                .arg(*raw)
                .arg(job.id.as_str())
                .arg(job.encode())
                .arg(priority_offset(job.priority))
                .arg(millis_of(job.run_at))
                .arg(millis_of(job.expires_at))
                .arg(done)
                .arg(pair)
                .arg(next.as_ref().map(Job::encode).unwrap_or_default())
                .arg(next.map(|next| unique_name(&next.pair())).unwrap_or_default());
        }
        let mut reply = call.reply().await?;
        let mut answers = Vec::with_capacity(candidates.len());
        for Candidate { job, .. } in candidates {
            let Some(verdict) = reply.next() else { break };
            let holder = reply.text()?;
            answers.push(match verdict.as_str() {
                "admitted" => AdmitReply::Admission(Admission::Admitted { id: job.id.clone() }),
                "duplicate" => {
                    let holder = JobId::parse(&holder).map_err(|e| reply.unexpected(&e))?;
                    AdmitReply::Admission(Admission::Duplicate { holder })
                }
                "already_done" => AdmitReply::Admission(Admission::AlreadyDone),
                "same_id" => AdmitReply::Admission(Admission::SameId),
                "full" => AdmitReply::Admission(Admission::Full),
                "no_memory" => AdmitReply::Admission(Admission::NoMemory),
                "moved" => AdmitReply::Moved,
                other => return Err(reply.unexpected(other)),
            });
        }
        Ok(answers)
    }

    /// The name of `pair` in `done`, which is specific to the analysis version and the sink: 10 bytes of a
    /// SHA-256, so that a million pairs keep apart and a mark costs Redis 16 bytes.
    pub(crate) fn done_name(&self, pair: &str, analysis_version: u32) -> Vec<u8> {
        let text = format!("{pair}\n{analysis_version}\n{}", self.inner.sink);
        Sha256::digest(text.as_bytes())[..10].to_vec()
    }
}

impl WorkerHandle {
    /// True when this pair was analysed before. For a job that gave a position in a page's history, once it
    /// is resolved: admission could not check it. Does not check the lease; settling the resulting skip does.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn is_done(&self, pair: &PagePair) -> Result<bool, Error> {
        let pair = format!("{}..{}", pair.from.uuid, pair.to.uuid);
        let call = self.call(&scripts::IS_DONE).arg(self.done_name(&pair, ANALYSIS_VERSION)).arg(pair);
        Ok(call.reply().await?.text()? == "1")
    }
}

/// SHA-256 for the `unique` key of `pair`, its lock while a job is live.
fn unique_name(pair: &str) -> String {
    sha256_hex(format!("{pair}\n{ANALYSIS_VERSION}").as_bytes())
}

/// How many places behind the newest job a job is queued. So a bounded number of later jobs can overtake it,
/// and no priority starves another.
pub(crate) fn priority_offset(priority: Priority) -> u32 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 10_000,
        Priority::Low => 100_000,
    }
}

/// Milliseconds since 1970, at least 1; empty for `None`.
fn millis_of(moment: Option<OffsetDateTime>) -> String {
    moment.map(|m| (m.unix_timestamp_nanos() / 1_000_000).max(1).to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_highs_and_low_never_starves() {
        assert!(priority_offset(Priority::High) < priority_offset(Priority::Normal));
        assert!(priority_offset(Priority::Normal) < priority_offset(Priority::Low));
        assert!(priority_offset(Priority::Low) <= 100_000, "low waits for at most so many others");
    }

    #[test]
    fn names_are_hashes_of_what_they_stand_for() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_ne!(unique_name("a..b"), unique_name("b..a"));
    }
}
