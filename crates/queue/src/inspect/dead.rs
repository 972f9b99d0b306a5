//! Dead letters: listing, replaying and discarding them.
//!
//! Invariant: a letter is either dead or back in the queue, never both and never neither.

use time::OffsetDateTime;

use crate::error::Error;
use crate::evidence::RawPayload;
use crate::intake::admission::priority_offset;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use wm_job::failure::FailureKind;
use wm_job::page::Version;
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, LimitsRequest, VersionRef};

/// Most letters read in one round trip.
const PAGE: usize = 100;
/// Fields read of each letter.
const FIELDS: [&str; 8] =
    ["state", "payload", "died_ms", "reason", "replays", "raw", "raw_length", "raw_hash"];

/// The payload of a dead letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A job, which can be replayed.
    Job(Box<Job>),
    /// A payload that this build cannot decode as a job.
    Raw(RawPayload),
}

/// A buried job or payload, with its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Id of the job; generated for a payload that is not a job.
    pub id: JobId,
    /// When it was buried, in milliseconds since 1970 by the clock of Redis.
    pub died_ms: u64,
    /// The evidence; `None` when this build cannot read what a newer one wrote.
    pub reason: Option<DeadLetterReason>,
    /// The job or raw payload.
    pub content: Content,
    /// How often it was replayed before.
    pub replays: u32,
}

impl DeadLetter {
    /// The host that caused its failure or, failing that, the host of its newer version.
    pub fn host(&self) -> Option<String> {
        let failed = self.reason.as_ref().and_then(DeadLetterReason::host);
        failed.or_else(|| match &self.content {
            Content::Job(job) => match &job.to {
                VersionRef::Inline(version) => host_of(version),
                VersionRef::Uuid(_) => None,
            },
            Content::Raw(_) => None,
        })
    }

    /// The death that an act on this letter means; `None`, any, where its time cannot be read.
    fn death(&self) -> Option<u64> {
        Some(self.died_ms).filter(|ms| *ms > 0)
    }
}

fn host_of(version: &Version) -> Option<String> {
    version.body_url.host_str().map(str::to_owned)
}

/// Selects dead letters; an empty list matches all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeadFilter {
    /// Kinds of failure to match.
    pub kinds: Vec<FailureKind>,
    /// Hosts to match, as [`DeadLetter::host`] returns them.
    pub hosts: Vec<String>,
    /// Earliest time of burial, inclusive.
    pub since: Option<OffsetDateTime>,
    /// Ids of the letters to match.
    pub ids: Vec<JobId>,
}

impl DeadFilter {
    /// True if kind, host and time match; ids are not looked at.
    pub fn takes(&self, letter: &DeadLetter) -> bool {
        let kind = letter.reason.as_ref().map(|reason| reason.kind);
        let any_kind = self.kinds.is_empty() || kind.is_some_and(|kind| self.kinds.contains(&kind));
        let any_host = self.hosts.is_empty() || letter.host().is_some_and(|host| self.hosts.contains(&host));
        any_kind && any_host && letter.died_ms >= self.since_ms()
    }

    fn since_ms(&self) -> u64 {
        self.since.map_or(0, |t| u64::try_from(t.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
    }
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

/// What became of the dead letters that were to be discarded.
#[must_use]
#[derive(Debug, Default)]
pub struct Discards {
    /// How many were deleted.
    pub discarded: usize,
    /// Those that were no dead letters any more.
    pub missing: Vec<JobId>,
    /// Those that were replayed and died anew since they were listed; these letters stay.
    pub died_anew: Vec<JobId>,
    /// The letter at which Redis failed, and how: whether it is deleted is not known. Those after it stay.
    pub failed: Option<(JobId, Error)>,
}

/// What `discard.lua` answers.
enum DiscardReply {
    Deleted,
    Missing,
    DiedAnew,
}

impl OperatorHandle {
    /// The dead letters that `filter` matches, newest first (with `ids`: in their order), at most `limit`.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let mut found = Vec::new();
        if !filter.ids.is_empty() {
            for page in filter.ids.chunks(PAGE) {
                found.extend(self.letters(page).await?.into_iter().filter(|letter| filter.takes(letter)));
            }
            found.truncate(limit);
            return Ok(found);
        }
        let index = match filter.kinds[..] {
            [kind] => self.inner.keys.dead_kind(kind),
            _ => self.inner.keys.dead(),
        };
        let mut offset = 0;
        while found.len() < limit {
            let ids = self.page(&index, filter.since_ms(), offset).await?;
            if ids.is_empty() {
                break;
            }
            offset += ids.len();
            found.extend(self.letters(&ids).await?.into_iter().filter(|letter| filter.takes(letter)));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The dead letter with this id.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn dead_letter(&self, id: &JobId) -> Result<Option<DeadLetter>, Error> {
        Ok(self.letters(std::slice::from_ref(id)).await?.pop())
    }

    /// The job with this id, whatever its state; `None` once it has ended, and where it cannot be decoded.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn job(&self, id: &JobId) -> Result<Option<Job>, Error> {
        let mut connection = self.connection().await?;
        let payload: Option<Vec<u8>> = redis::cmd("HGET")
            .arg(&[self.inner.keys.job(id).as_str(), "payload"])
            .query_async(&mut connection)
            .await?;
        Ok(payload.and_then(|payload| Job::restore(&payload).ok()))
    }

    /// The time of Redis in milliseconds since 1970: the clock of [`DeadLetter::died_ms`].
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn server_time_ms(&self) -> Result<u64, Error> {
        let mut connection = self.connection().await?;
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    async fn page(&self, index: &str, since_ms: u64, offset: usize) -> Result<Vec<JobId>, Error> {
        let mut connection = self.connection().await?;
        let ids: Vec<String> = redis::cmd("ZREVRANGEBYSCORE")
            .arg(&[index, "+inf", &since_ms.to_string(), "LIMIT"])
            .arg(offset)
            .arg(PAGE)
            .query_async(&mut connection)
            .await?;
        Ok(ids.iter().filter_map(|id| JobId::parse(id).ok()).collect())
    }

    /// Those of `ids` that are dead letters, in that order.
    async fn letters(&self, ids: &[JobId]) -> Result<Vec<DeadLetter>, Error> {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.inner.keys.job(id)).arg(&FIELDS);
        }
        let mut connection = self.connection().await?;
        let rows: Vec<Vec<Option<Vec<u8>>>> = pipe.query_async(&mut connection).await?;
        Ok(ids.iter().zip(rows).filter_map(|(id, row)| letter(id, row)).collect())
    }

    /// Replays dead letters, each independently; the results are in the same order.
    ///
    /// # Errors
    /// Those of Redis; earlier letters may be replayed.
    pub async fn replay(&self, ids: &[JobId]) -> Result<Vec<(JobId, Replayed)>, Error> {
        self.replay_granting(ids, LimitsRequest::default()).await
    }

    /// Replays dead letters with `granted` limits; the worker that runs a job checks them.
    ///
    /// # Errors
    /// Those of Redis; earlier letters may be replayed.
    pub async fn replay_granting(
        &self,
        ids: &[JobId],
        granted: LimitsRequest,
    ) -> Result<Vec<(JobId, Replayed)>, Error> {
        let mut answers = Vec::with_capacity(ids.len());
        for page in ids.chunks(PAGE) {
            let letters = self.letters(page).await?;
            for id in page {
                let answer = match letters.iter().find(|letter| letter.id == *id).map(|l| &l.content) {
                    Some(Content::Job(job)) => self.replay_job(job, id, None, granted).await?,
                    Some(Content::Raw(_)) => Replayed::Undecodable,
                    None => Replayed::Missing,
                };
                answers.push((id.clone(), answer));
            }
        }
        Ok(answers)
    }

    /// Replays a letter that was listed before, with `granted` limits, unless it died anew since.
    ///
    /// # Errors
    /// Those of Redis; the letter may be replayed.
    pub async fn replay_letter(
        &self,
        letter: &DeadLetter,
        granted: LimitsRequest,
    ) -> Result<Replayed, Error> {
        match &letter.content {
            Content::Job(job) => self.replay_job(job, &letter.id, letter.death(), granted).await,
            Content::Raw(_) => Ok(Replayed::Undecodable),
        }
    }

    async fn replay_job(
        &self,
        job: &Job,
        id: &JobId,
        died_ms: Option<u64>,
        granted: LimitsRequest,
    ) -> Result<Replayed, Error> {
        let word = |limit: Option<u64>| limit.map_or(String::new(), |limit| limit.to_string());
        let mut reply = self
            .call(&scripts::REPLAY)
            .key(self.inner.keys.job(id))
            .arg(id.as_str())
            .arg(self.inner.config.backlog_max)
            .arg(job.pair())
            .arg(priority_offset(job.priority))
            .arg(&[word(granted.wall_ms), word(granted.heap_bytes), word(died_ms)])
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

    /// Deletes dead letters for good, whenever they died; returns how many existed.
    ///
    /// # Errors
    /// Those of Redis; earlier letters may be deleted.
    pub async fn discard(&self, ids: &[JobId]) -> Result<u64, Error> {
        let mut discarded = 0;
        for id in ids {
            discarded += match self.discard_one(id, None).await? {
                DiscardReply::Deleted => 1,
                DiscardReply::Missing | DiscardReply::DiedAnew => 0,
            };
        }
        Ok(discarded)
    }

    /// Deletes letters that were listed before for good, in order, except those that died anew since. It ends
    /// at the first failure of Redis.
    pub async fn discard_letters(&self, letters: &[DeadLetter]) -> Discards {
        let mut discards = Discards::default();
        for letter in letters {
            match self.discard_one(&letter.id, letter.death()).await {
                Ok(DiscardReply::Deleted) => discards.discarded += 1,
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

    async fn discard_one(&self, id: &JobId, died_ms: Option<u64>) -> Result<DiscardReply, Error> {
        let died_ms = died_ms.map_or(String::new(), |ms| ms.to_string());
        let call = self.call(&scripts::DISCARD).key(self.inner.keys.job(id)).arg(id.as_str()).arg(died_ms);
        let mut reply = call.reply().await?;
        match reply.text()?.as_str() {
            "discarded" => Ok(DiscardReply::Deleted),
            "missing" => Ok(DiscardReply::Missing),
            "died_anew" => Ok(DiscardReply::DiedAnew),
            other => Err(reply.unexpected(other)),
        }
    }
}

fn letter(id: &JobId, row: Vec<Option<Vec<u8>>>) -> Option<DeadLetter> {
    let mut row = row.into_iter();
    let mut field = || row.next().flatten();
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    if text(field()) != "dead" {
        return None;
    }
    let payload = field();
    let died_ms = text(field()).parse().unwrap_or(0);
    let reason = serde_json::from_slice(&field().unwrap_or_default()).ok();
    let replays = text(field()).parse().unwrap_or(0);
    let content = match payload {
        Some(payload) => match Job::restore(&payload) {
            Ok(job) => Content::Job(Box::new(job)),
            Err(_) => Content::Raw(RawPayload::of(&payload)),
        },
        None => Content::Raw(RawPayload {
            head: field().unwrap_or_default(),
            length: text(field()).parse().unwrap_or(0),
            hash: text(field()),
        }),
    };
    Some(DeadLetter { id: id.clone(), died_ms, reason, content, replays })
}
