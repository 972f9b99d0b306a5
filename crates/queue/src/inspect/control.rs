//! Operators' commands on the queue (pause, resume, cancel), and two reads: whether it is idle, and the
//! report on a pair.

use std::collections::BTreeMap;

use redis::Pipeline;
use serde::Serialize;

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use wm_job::JobId;

/// Approximate number of operators' actions kept.
const AUDIT_MAX: u64 = 10_000;

pub(crate) type Fields = BTreeMap<String, String>;

/// Who paused a queue, why and when. Jobs in flight continue, no others are claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// The operator who paused it.
    pub by: String,
    /// The operator's reason, as given.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

impl Queue {
    /// Sends commands in one round trip and reads their replies.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Error> {
        let mut connection = self.connection().await?;
        Ok(pipe.query_async(&mut connection).await?)
    }

    /// True when no job is in flight at any worker: a paused queue that is idle is drained.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn is_idle(&self) -> Result<bool, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZCARD").arg(self.inner.keys.lease());
        let (in_flight,): (u64,) = self.ask(&pipe).await?;
        Ok(in_flight == 0)
    }

    /// The stored report on a pair, as JSON.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn report(&self, from: uuid::Uuid, to: uuid::Uuid) -> Result<Option<String>, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(self.inner.keys.report(&format!("{from}..{to}")));
        let (report,): (Option<String>,) = self.ask(&pipe).await?;
        Ok(report)
    }
}

impl OperatorHandle {
    /// Stops all claims until the queue is resumed. Jobs in flight continue.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn pause(&self, by: &str, reason: &str) -> Result<(), Error> {
        let key = self.inner.keys.paused();
        let (seconds, _): (u64, u64) = {
            let mut connection = self.connection().await?;
            redis::cmd("TIME").query_async(&mut connection).await?
        };
        let since = (seconds * 1000).to_string();
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("DEL").arg(&key).ignore();
        pipe.cmd("HSET").arg(&key).arg(&["by", by, "reason", reason, "since_ms", &since]).ignore();
        self.audit(&mut pipe, "pause", by, reason);
        self.ask(&pipe).await
    }

    /// Allows claims again; returns the pause that it ended, None when the queue was not paused.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn resume(&self, by: &str) -> Result<Option<Paused>, Error> {
        let keys = &self.inner.keys;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HGETALL").arg(keys.paused()).cmd("DEL").arg(keys.paused()).ignore();
        pipe.cmd("RPUSH").arg(keys.wake()).arg("1").ignore();
        pipe.cmd("LTRIM").arg(keys.wake()).arg(&["0", "0"]).ignore();
        self.audit(&mut pipe, "resume", by, "");
        let (paused,): (Fields,) = self.ask(&pipe).await?;
        Ok(paused_of(paused))
    }

    /// Appends an action on the whole queue to the audit stream.
    fn audit(&self, pipe: &mut Pipeline, what: &str, by: &str, why: &str) {
        pipe.cmd("XADD").arg(self.inner.keys.audit()).arg(&["MAXLEN", "~"]).arg(AUDIT_MAX);
        pipe.arg(&["*", "what", what, "by", by, "why", why]).ignore();
    }

    /// Cancels a job, in flight or waiting. A waiting job is settled as a skip when it is claimed, one in
    /// flight when its worker's next heartbeat returns it. False when no such job is live.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn cancel(&self, id: &JobId) -> Result<bool, Error> {
        let call = self.call(&scripts::CANCEL).key(self.inner.keys.job(id)).arg(id.as_str());
        Ok(call.reply().await?.text()? == "marked")
    }
}

pub(crate) fn paused_of(fields: Fields) -> Option<Paused> {
    let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let since_ms = text("since_ms").parse().unwrap_or(0);
    (!fields.is_empty()).then(|| Paused { by: text("by"), reason: text("reason"), since_ms })
}
