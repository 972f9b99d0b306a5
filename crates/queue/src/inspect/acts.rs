//! What operators do with jobs, one by one: replay, undo that, discard, restore, cancel.
//!
//! Invariant: a letter is either dead or back in the queue, never both and never neither; what became of it is recorded
//! in its operation in the same step.

use crate::error::Error;
use crate::inspect::jobs::StoredJob;
use crate::inspect::operations::{OperationId, Selected};
use crate::intake::admission::priority_offset;
use crate::redis::scripts::{self, Call};
use crate::role::OperatorHandle;
use wm_job::{Job, JobId, LimitsRequest};

/// Most letters read in one round trip.
const PAGE: usize = 100;

/// Who acts, and in which bulk action.
#[derive(Debug, Clone, Copy, Default)]
pub struct Actor<'a> {
    /// The operator.
    pub by: &'a str,
    /// The bulk action that records what becomes of the jobs.
    pub operation: Option<&'a OperationId>,
}

impl Actor<'_> {
    fn operation(&self) -> &str {
        self.operation.map_or("", OperationId::as_str)
    }
}

/// How a letter is replayed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplayOptions<'a> {
    /// Limits granted to it; the worker that runs the job checks them.
    pub granted: LimitsRequest,
    /// Another payload for the same pair, instead of the stored one.
    pub edited: Option<&'a Job>,
}

/// The result of replaying one letter.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It is back in the queue, with a new retry budget and one more replay counted.
    Replayed,
    /// Another job for the same pair is live; the letter stays.
    Duplicate {
        /// Id of the live job.
        holder: JobId,
    },
    /// There is no dead letter with this id.
    Missing,
    /// It was replayed by somebody else and died anew since it was listed; the letter stays.
    DiedAnew,
    /// It is not a job; the letter stays.
    Undecodable,
    /// The backlog is at `backlog_max`; the letter stays.
    Full,
}

/// The result of undoing the replay of one job.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayUndone {
    /// It is a dead letter again, as it died.
    Undone,
    /// A worker has it: it was left alone.
    InFlight,
    /// It has ended, or another operation replayed it.
    Missing,
}

/// Where a discarded letter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardTo {
    /// To the trash, from which it can be restored for a day.
    Trash,
    /// Nowhere: it is deleted for good.
    Nowhere,
}

/// What became of the dead letters that were to be discarded.
#[must_use]
#[derive(Debug, Default)]
pub struct Discards {
    /// How many were discarded.
    pub discarded: usize,
    /// Those that were no dead letters any more.
    pub missing: Vec<JobId>,
    /// Those that were replayed and died anew since they were listed; these letters stay.
    pub died_anew: Vec<JobId>,
    /// The letter at which Redis failed, and how: whether it is discarded is not known. Those after it stay.
    pub failed: Option<(JobId, Error)>,
}

impl OperatorHandle {
    /// Replays dead letters, each independently; the results are in the same order.
    ///
    /// # Errors
    /// Those of Redis; earlier letters may be replayed.
    pub async fn replay(&self, ids: &[JobId]) -> Result<Vec<(JobId, Replayed)>, Error> {
        let mut answers = Vec::with_capacity(ids.len());
        for page in ids.chunks(PAGE) {
            let letters = self.stored_jobs(page).await?;
            for id in page {
                let letter = letters.iter().find(|letter| letter.id == *id);
                let any_death = Selected { id: id.clone(), died_ms: 0 };
                let options = ReplayOptions::default();
                let answer = self.replay_selected(&any_death, letter, options, Actor::default()).await?;
                answers.push((id.clone(), answer));
            }
        }
        Ok(answers)
    }

    /// Replays a letter, as it was read before, unless it died anew since it was selected.
    ///
    /// # Errors
    /// Those of Redis; the letter may be replayed.
    pub async fn replay_selected(
        &self,
        selected: &Selected,
        letter: Option<&StoredJob>,
        ReplayOptions { granted, edited }: ReplayOptions<'_>,
        actor: Actor<'_>,
    ) -> Result<Replayed, Error> {
        let stored = letter.and_then(StoredJob::job);
        let word = |limit: Option<u64>| limit.map_or(String::new(), |limit| limit.to_string());
        let payload = edited.map(Job::encode).unwrap_or_default();
        let died_ms = selected.death();
        let mut reply = self
            .call(&scripts::REPLAY)
            .key(self.inner.keys.job(&selected.id))
            .arg(selected.id.as_str())
            .arg(self.inner.config.backlog_max)
            .arg(stored.map_or_else(String::new, Job::pair))
            .arg(edited.or(stored).map_or(0, |job| priority_offset(job.priority)))
            .arg(&[word(granted.wall_ms), word(granted.heap_bytes), word(died_ms)])
            .arg(&[actor.operation(), actor.by])
            .arg(payload)
            .reply()
            .await?;
        match reply.text()?.as_str() {
            "replayed" => Ok(Replayed::Replayed),
            "missing" => Ok(Replayed::Missing),
            "died_anew" => Ok(Replayed::DiedAnew),
            "undecodable" => Ok(Replayed::Undecodable),
            "full" => Ok(Replayed::Full),
            "duplicate" => {
                let holder = JobId::parse(&reply.text()?).map_err(|e| reply.unexpected(&e))?;
                Ok(Replayed::Duplicate { holder })
            }
            other => Err(reply.unexpected(other)),
        }
    }

    /// Puts a job that `operation` replayed, and that still waits, back among the dead letters.
    ///
    /// # Errors
    /// Those of Redis; it may be undone.
    pub async fn undo_replay(
        &self,
        id: &JobId,
        operation: &OperationId,
        by: &str,
    ) -> Result<ReplayUndone, Error> {
        let call = self.call(&scripts::UNDO_REPLAY).key(self.inner.keys.job(id));
        let mut reply = call.arg(&[id.as_str(), operation.as_str(), "", by]).reply().await?;
        match reply.text()?.as_str() {
            "undone" => Ok(ReplayUndone::Undone),
            "in_flight" => Ok(ReplayUndone::InFlight),
            "missing" => Ok(ReplayUndone::Missing),
            other => Err(reply.unexpected(other)),
        }
    }

    /// Deletes dead letters for good, whenever they died; returns how many existed.
    ///
    /// # Errors
    /// Those of Redis; earlier letters may be deleted.
    pub async fn discard(&self, ids: &[JobId]) -> Result<u64, Error> {
        let mut discarded = 0;
        for id in ids {
            let reply = self.discard_one(id, None, DiscardTo::Nowhere, Actor::default()).await?;
            discarded += u64::from(reply == DiscardReply::Discarded);
        }
        Ok(discarded)
    }

    /// Discards letters in order, except those that died anew since they were selected. It ends at the first failure
    /// of Redis.
    pub async fn discard_selected(&self, letters: &[Selected], to: DiscardTo, actor: Actor<'_>) -> Discards {
        let mut discards = Discards::default();
        for letter in letters {
            match self.discard_one(&letter.id, letter.death(), to, actor).await {
                Ok(DiscardReply::Discarded) => discards.discarded += 1,
                Ok(DiscardReply::Missing) => discards.missing.push(letter.id.clone()),
                Ok(DiscardReply::DiedAnew) => discards.died_anew.push(letter.id.clone()),
                Err(error) => {
                    discards.failed = Some((letter.id.clone(), error));
                    break;
                }
            }
        }
        discards
    }

    async fn discard_one(
        &self,
        id: &JobId,
        died_ms: Option<u64>,
        to: DiscardTo,
        actor: Actor<'_>,
    ) -> Result<DiscardReply, Error> {
        let died_ms = died_ms.map_or(String::new(), |ms| ms.to_string());
        let to = match to {
            DiscardTo::Trash => "trash",
            DiscardTo::Nowhere => "now",
        };
        let call = self.call(&scripts::DISCARD).key(self.inner.keys.job(id)).arg(id.as_str()).arg(died_ms);
        let mut reply = call.arg(&[to, actor.operation(), actor.by]).reply().await?;
        match reply.text()?.as_str() {
            "discarded" => Ok(DiscardReply::Discarded),
            "missing" => Ok(DiscardReply::Missing),
            "died_anew" => Ok(DiscardReply::DiedAnew),
            other => Err(reply.unexpected(other)),
        }
    }

    /// Takes a letter out of the trash; false when it is not there.
    ///
    /// # Errors
    /// Those of Redis; it may be restored.
    pub async fn restore(&self, id: &JobId, actor: Actor<'_>) -> Result<bool, Error> {
        let call: Call<'_> = self.call(&scripts::RESTORE).key(self.inner.keys.job(id));
        Ok(call.arg(&[id.as_str(), actor.operation(), actor.by]).reply().await?.text()? == "restored")
    }

    /// Cancels a job, in flight or waiting. A waiting job is settled as a skip when it is claimed, one in
    /// flight when its worker's next heartbeat returns it. False when no such job is live.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn cancel(&self, id: &JobId, actor: Actor<'_>) -> Result<bool, Error> {
        let call = self.call(&scripts::CANCEL).key(self.inner.keys.job(id));
        Ok(call.arg(&[id.as_str(), actor.operation(), actor.by]).reply().await?.text()? == "marked")
    }
}

/// What `discard.lua` answers.
#[derive(PartialEq, Eq)]
enum DiscardReply {
    Discarded,
    Missing,
    DiedAnew,
}
