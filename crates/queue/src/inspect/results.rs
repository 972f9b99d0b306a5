//! Results: how jobs ended, by id and by pair; and freeing the oldest.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Queue;
use crate::error::Error;
use crate::inspect::jobs::LogEntry;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use wm_job::JobId;

/// Most results freed in one call.
const FREE_BATCH: u64 = 100;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Id of the job.
    pub id: String,
    /// `<from>..<to>`.
    pub pair: String,
    /// `done`, `skipped` or `dead`.
    pub state: String,
    /// Skip reason or kind of failure; empty when done.
    pub why: String,
    /// When it was stored, in milliseconds since 1970 by the clock of Redis; 0 where that is not known.
    #[serde(default)]
    pub at_ms: u64,
    /// The worker that ended it.
    #[serde(default)]
    pub worker: String,
    /// When it was admitted; 0 where that is not known.
    #[serde(default)]
    pub enqueued_ms: u64,
    /// When its last delivery began.
    #[serde(default)]
    pub claimed_ms: u64,
    /// Its history before that, oldest first.
    #[serde(default)]
    pub log: Vec<LogEntry>,
    /// Older entries that are not kept.
    #[serde(default)]
    pub log_cut: u64,
}

/// What [`OperatorHandle::free_results`] deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Results deleted.
    pub results: u64,
    /// Bytes that they took up.
    pub bytes: u64,
    /// True when there are more of those asked for.
    pub more: bool,
}

impl Queue {
    /// The stored report on a pair, as JSON.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn report(&self, from: Uuid, to: Uuid) -> Result<Option<String>, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(self.inner.keys.report(&format!("{from}..{to}")));
        let (report,): (Option<String>,) = self.ask(&pipe).await?;
        Ok(report)
    }

    /// How the job `id` ended; None while it is live, and once its result is forgotten.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn ended(&self, id: &JobId) -> Result<Option<Ended>, Error> {
        Ok(self.ended_of(&[(id.to_string(), 0)]).await?.pop())
    }

    /// How those of `ids` ended that have ended since a time of Redis in milliseconds, as far as it is remembered.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn ended_since(&self, ids: &[JobId], since_ms: u64) -> Result<Vec<Ended>, Error> {
        let mut ended = Vec::new();
        for page in ids.chunks(100) {
            let mut pipe = redis::pipe();
            pipe.cmd("ZMSCORE").arg(self.inner.keys.results());
            for id in page {
                pipe.arg(id.as_str());
            }
            let (times,): (Vec<Option<u64>>,) = self.ask(&pipe).await?;
            let times = page.iter().zip(times).filter_map(|(id, at_ms)| Some((id.to_string(), at_ms?)));
            let recent: Vec<_> = times.filter(|(_, at_ms)| *at_ms >= since_ms).collect();
            ended.extend(self.ended_of(&recent).await?);
        }
        Ok(ended)
    }

    /// The time of Redis in milliseconds since 1970.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn server_time_ms(&self) -> Result<u64, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("TIME");
        let ((seconds, micros),): ((u64, u64),) = self.ask(&pipe).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// The results kept, oldest first: `limit` of them, and how many there are.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn results(&self, limit: usize) -> Result<(Vec<Ended>, u64), Error> {
        self.results_by(limit, &[]).await
    }

    /// The same, newest first.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn newest_results(&self, limit: usize) -> Result<(Vec<Ended>, u64), Error> {
        self.results_by(limit, &["REV"]).await
    }

    async fn results_by(&self, limit: usize, order: &[&str]) -> Result<(Vec<Ended>, u64), Error> {
        let mut pipe = redis::pipe();
        let index = self.inner.keys.results();
        pipe.cmd("ZRANGE").arg(&index).arg(0).arg(limit.saturating_sub(1)).arg(order).arg("WITHSCORES");
        pipe.cmd("ZCARD").arg(&index);
        let (ids, count): (Vec<(String, u64)>, u64) = self.ask(&pipe).await?;
        Ok((self.ended_of(&ids[..ids.len().min(limit)]).await?, count))
    }

    async fn ended_of(&self, ids: &[(String, u64)]) -> Result<Vec<Ended>, Error> {
        let mut found = Vec::new();
        for page in ids.chunks(100) {
            let mut pipe = redis::pipe();
            pipe.cmd("MGET");
            for (id, _) in page {
                pipe.arg(self.inner.keys.ended(id));
            }
            let (texts,): (Vec<Option<String>>,) = self.ask(&pipe).await?;
            let read = page.iter().zip(texts).filter_map(|((_, at_ms), text)| {
                let ended: Ended = serde_json::from_str(&text?).ok()?;
                Some(Ended { at_ms: *at_ms, ..ended })
            });
            found.extend(read);
        }
        Ok(found)
    }
}

impl OperatorHandle {
    /// Deletes at most `most` of the oldest results, of those stored before `before_ms` if that is given.
    ///
    /// # Errors
    /// Those of Redis; earlier batches may be deleted.
    pub async fn free_results(&self, most: u64, before_ms: Option<u64>) -> Result<Freed, Error> {
        let before = before_ms.map_or(String::new(), |ms| ms.to_string());
        let mut freed = Freed { more: true, ..Freed::default() };
        while freed.more && freed.results < most {
            let call =
                self.call(&scripts::FREE_RESULTS).arg(FREE_BATCH.min(most - freed.results)).arg(&before);
            let mut reply = call.reply().await?;
            freed.results += reply.number::<u64>()?;
            freed.bytes += reply.number::<u64>()?;
            freed.more = reply.number::<u8>()? == 1;
        }
        Ok(freed)
    }
}
