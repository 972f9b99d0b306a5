//! Admitting jobs, and the names by which a pair is known: `unique` while it is live, `done` afterwards.
//!
//! A pair whose older version is only a place in the page's history has no `done` here: which pair it is only
//! resolving tells, and then [`Queue::is_done`] is asked.

use time::OffsetDateTime;

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::{ProducerHandle, WorkerHandle};
use wm_job::page::PagePair;
use wm_job::report::ANALYSIS_VERSION;
use wm_job::text::sha256_hex;
use wm_job::{Job, JobId, Priority};

/// Jobs that one script admits.
pub(crate) const BATCH: usize = 100;

/// What became of a job that was to be admitted.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is in the queue.
    Admitted {
        /// Its id.
        id: JobId,
    },
    /// The same pair is live under another id.
    Duplicate {
        /// That id.
        holder: JobId,
    },
    /// The same pair was analysed before, and the job does not ask for `again`.
    AlreadyDone,
    /// A job with this id is known, live or dead: what was sent twice is in once.
    SameId,
    /// The backlog is at its ceiling; nothing after this job was looked at.
    Full,
}

/// A job on its way in, with the payload it came as where that stands at the head of the inbox.
pub(crate) struct Candidate<'a> {
    pub(crate) job: &'a Job,
    pub(crate) raw: &'a [u8],
}

/// What the script said of one candidate.
pub(crate) enum Answer {
    Admission(Admission),
    /// Something else stands at the head of the inbox by now.
    Moved,
}

impl ProducerHandle {
    /// Admits jobs, in order, a hundred at a time; the answers are in the same order. After [`Admission::Full`] the
    /// rest is not looked at and has the same answer.
    ///
    /// # Errors
    /// Those of Redis; jobs of earlier batches may be in. Asking again is safe: those answer [`Admission::SameId`].
    pub async fn enqueue(&self, jobs: &[Job]) -> Result<Vec<Admission>, Error> {
        let mut admissions = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(BATCH) {
            let candidates: Vec<_> = batch.iter().map(|job| Candidate { job, raw: b"" }).collect();
            for answer in self.admit(&candidates).await? {
                if let Answer::Admission(admission) = answer {
                    admissions.push(admission);
                }
            }
            if admissions.last() == Some(&Admission::Full) {
                break;
            }
        }
        admissions.resize(jobs.len(), Admission::Full);
        Ok(admissions)
    }
}

impl Queue {
    /// Admits at most [`BATCH`] candidates.
    pub(crate) async fn admit(&self, candidates: &[Candidate<'_>]) -> Result<Vec<Answer>, Error> {
        let mut call = self.call(&scripts::ADMIT).arg(self.inner.config.backlog_max).arg(candidates.len());
        for Candidate { job, raw } in candidates {
            let pair = job.pair();
            let next = job.follow_up();
            let done_counts = job.from.given().is_some() && !job.again;
            call = call
                .key(self.inner.keys.job(&job.id))
                .key(self.inner.keys.unique(&unique_name(&pair)))
                .key(self.inner.keys.done(&self.done_name(&pair, ANALYSIS_VERSION)))
                .arg(*raw)
                .arg(job.id.as_str())
                .arg(job.encode())
                .arg(priority_offset(job.priority))
                .arg(millis_of(job.run_at))
                .arg(millis_of(job.expires_at))
                .arg(u8::from(done_counts))
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
                "admitted" => Answer::Admission(Admission::Admitted { id: job.id.clone() }),
                "duplicate" => {
                    let holder = JobId::parse(&holder).map_err(|e| reply.unexpected(&e))?;
                    Answer::Admission(Admission::Duplicate { holder })
                }
                "already_done" => Answer::Admission(Admission::AlreadyDone),
                "same_id" => Answer::Admission(Admission::SameId),
                "full" => Answer::Admission(Admission::Full),
                "moved" => Answer::Moved,
                other => return Err(reply.unexpected(other)),
            });
        }
        Ok(answers)
    }

    /// The name of a finished analysis of `pair`: another version of the analysis, or another sink, is not the same.
    pub(crate) fn done_name(&self, pair: &str, analysis_version: u32) -> String {
        sha256_hex(format!("{pair}\n{analysis_version}\n{}", self.inner.sink).as_bytes())
    }
}

impl WorkerHandle {
    /// Was this pair analysed before? To be asked once a job is resolved that named a place in a page's history, because
    /// admitting it could not tell. It takes no lease: who is told so settles a skip, and that takes one.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn is_done(&self, pair: &PagePair) -> Result<bool, Error> {
        let done = self.done_name(&format!("{}..{}", pair.from.uuid, pair.to.uuid), ANALYSIS_VERSION);
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(self.inner.keys.done(&done));
        let (is_done,): (bool,) = self.ask(&pipe).await?;
        Ok(is_done)
    }
}

/// The name of the live job of `pair`.
fn unique_name(pair: &str) -> String {
    sha256_hex(format!("{pair}\n{ANALYSIS_VERSION}").as_bytes())
}

/// How many places behind the newest a job enters: an order in which everything comes up after a bounded number of
/// others, so that no class of jobs can starve another.
pub(crate) fn priority_offset(priority: Priority) -> u32 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 10_000,
        Priority::Low => 100_000,
    }
}

/// Milliseconds since 1970, or nothing; a moment before 1970 is long ago.
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
