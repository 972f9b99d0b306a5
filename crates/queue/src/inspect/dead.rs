//! Dead letters: looking at them, putting them back to work, forgetting them.
//!
//! Invariant: a letter is either among the dead or back in the queue, never both and never neither.

use serde::Serialize;
use time::OffsetDateTime;

use crate::error::Error;
use crate::intake::admission::priority_offset;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use wm_job::failure::FailureKind;
use wm_job::page::Version;
use wm_job::text::sha256_hex;
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, LimitsRequest, VersionRef};

/// What is kept of a payload that is no job: enough to see what it was.
pub(crate) const RAW_HEAD_BYTES: usize = 64 * 1024;
/// Letters that are read in one round trip.
const PAGE: usize = 100;
/// What is read of each.
const FIELDS: [&str; 8] =
    ["state", "payload", "died_ms", "reason", "replays", "raw", "raw_length", "raw_hash"];

/// A payload that is no job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RawPayload {
    /// Its first 64 KiB.
    pub head: Vec<u8>,
    /// Its whole length in bytes.
    pub length: u64,
    /// `sha256:` and the hash of the whole in hex or, over 1 MiB, `sha1-1MiB:` and the SHA-1 of the first 1 MiB.
    pub hash: String,
}

impl RawPayload {
    /// What is kept of a payload that was read whole.
    pub(crate) fn of(payload: &[u8]) -> Self {
        Self {
            head: payload[..payload.len().min(RAW_HEAD_BYTES)].to_vec(),
            length: payload.len() as u64,
            hash: format!("sha256:{}", sha256_hex(payload)),
        }
    }
}

/// What a dead letter holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The job.
    Job(Box<Job>),
    /// Something that this build cannot read as a job.
    Raw(RawPayload),
}

/// A buried job.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its id.
    pub id: JobId,
    /// When it was buried, in milliseconds since 1970 by the clock of Redis.
    pub died_ms: u64,
    /// Why; `None` where a newer build wrote what this one cannot read.
    pub reason: Option<DeadLetterReason>,
    /// What it holds.
    pub content: Content,
    /// How often it was put back before.
    pub replays: u32,
}

impl DeadLetter {
    /// The host that it died of, or else the one its newer version is fetched from.
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
}

fn host_of(version: &Version) -> Option<String> {
    version.body_url.host_str().map(str::to_owned)
}

/// Which letters; an empty list means any.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeadFilter {
    /// Only these kinds.
    pub kinds: Vec<FailureKind>,
    /// Only these hosts.
    pub hosts: Vec<String>,
    /// Only what was buried since.
    pub since: Option<OffsetDateTime>,
    /// Only these.
    pub ids: Vec<JobId>,
}

impl DeadFilter {
    fn takes(&self, letter: &DeadLetter) -> bool {
        let kind = letter.reason.as_ref().map(|reason| reason.kind);
        let any_kind = self.kinds.is_empty() || kind.is_some_and(|kind| self.kinds.contains(&kind));
        let any_host = self.hosts.is_empty() || letter.host().is_some_and(|host| self.hosts.contains(&host));
        any_kind && any_host && letter.died_ms >= self.since_ms()
    }

    fn since_ms(&self) -> u64 {
        self.since.map_or(0, |t| u64::try_from(t.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
    }
}

/// What became of a letter that was to be put back.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It is back in the queue, with a new budget and one replay more.
    Replayed,
    /// The same pair is live under another id; the letter stays.
    Duplicate {
        /// That id.
        holder: JobId,
    },
    /// There is no such letter.
    Missing,
    /// It holds no job; the letter stays.
    Undecodable,
    /// The backlog is at its ceiling; the letter stays.
    Full,
}

impl OperatorHandle {
    /// The dead letters that `filter` takes, the newest first, at most `limit`.
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

    /// One dead letter.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn dead_letter(&self, id: &JobId) -> Result<Option<DeadLetter>, Error> {
        Ok(self.letters(std::slice::from_ref(id)).await?.pop())
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

    /// The letters among `ids`, in that order.
    async fn letters(&self, ids: &[JobId]) -> Result<Vec<DeadLetter>, Error> {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.inner.keys.job(id)).arg(&FIELDS);
        }
        let mut connection = self.connection().await?;
        let rows: Vec<Vec<Option<Vec<u8>>>> = pipe.query_async(&mut connection).await?;
        Ok(ids.iter().zip(rows).filter_map(|(id, row)| letter(id, row)).collect())
    }

    /// Puts dead letters back to work, each for itself; the answers are in the same order.
    ///
    /// # Errors
    /// Those of Redis; letters before may be back.
    pub async fn replay(&self, ids: &[JobId]) -> Result<Vec<(JobId, Replayed)>, Error> {
        self.replay_granting(ids, LimitsRequest::default()).await
    }

    /// The same under other limits than the configured ones, which the worker is told and judges for itself.
    ///
    /// # Errors
    /// Those of Redis; letters before may be back.
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
                    Some(Content::Job(job)) => self.replay_job(id, job, granted).await?,
                    Some(Content::Raw(_)) => Replayed::Undecodable,
                    None => Replayed::Missing,
                };
                answers.push((id.clone(), answer));
            }
        }
        Ok(answers)
    }

    async fn replay_job(&self, id: &JobId, job: &Job, granted: LimitsRequest) -> Result<Replayed, Error> {
        let word = |limit: Option<u64>| limit.map_or(String::new(), |limit| limit.to_string());
        let mut reply = self
            .call(&scripts::REPLAY)
            .key(self.inner.keys.job(id))
            .arg(id.as_str())
            .arg(self.inner.config.backlog_max)
            .arg(job.pair())
            .arg(priority_offset(job.priority))
            .arg(&[word(granted.wall_ms), word(granted.heap_bytes)])
            .reply()
            .await?;
        match reply.text()?.as_str() {
            "replayed" => Ok(Replayed::Replayed),
            "missing" => Ok(Replayed::Missing),
            "undecodable" => Ok(Replayed::Undecodable),
            "full" => Ok(Replayed::Full),
            "duplicate" => {
                let holder = JobId::parse(&reply.text()?).map_err(|e| reply.unexpected(&e))?;
                Ok(Replayed::Duplicate { holder })
            }
            other => Err(reply.unexpected(other)),
        }
    }

    /// Forgets dead letters for good; answers how many there were.
    ///
    /// # Errors
    /// Those of Redis; letters before may be gone.
    pub async fn discard(&self, ids: &[JobId]) -> Result<u64, Error> {
        let mut discarded = 0;
        for id in ids {
            let mut reply =
                self.call(&scripts::DISCARD).key(self.inner.keys.job(id)).arg(id.as_str()).reply().await?;
            discarded += u64::from(reply.text()? == "discarded");
        }
        Ok(discarded)
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
