//! What operators tell a queue: pause, resume, cancel; and two short questions, is it idle and what was reported.

use std::collections::BTreeMap;

use redis::Pipeline;
use serde::Serialize;

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use wm_job::JobId;

/// Deeds of operators that are remembered, roughly.
const AUDIT_MAX: u64 = 10_000;

/// The fields of a HASH.
pub(crate) type Fields = BTreeMap<String, String>;

/// That a queue in_flight out nothing, who wanted it so, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

impl Queue {
    /// Sends commands together and reads their answers.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Error> {
        let mut connection = self.connection().await?;
        Ok(pipe.query_async(&mut connection).await?)
    }

    /// True when nothing is in any worker's in_flight: a paused queue that is idle is drained.
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
    /// Stops the queue from handing out anything, until it is resumed. What is in hand goes on.
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

    /// Lets the queue hand out jobs again; answers what it was paused for.
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

    /// Remembers who did what to the whole queue.
    fn audit(&self, pipe: &mut Pipeline, what: &str, by: &str, why: &str) {
        pipe.cmd("XADD").arg(self.inner.keys.audit()).arg(&["MAXLEN", "~"]).arg(AUDIT_MAX);
        pipe.arg(&["*", "what", what, "by", by, "why", why]).ignore();
    }

    /// Marks a live job as not wanted any more. One that waits is settled as a skip when its generation comes, one that is
    /// running is named by its worker's next heartbeat. Answers whether there was such a job.
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
