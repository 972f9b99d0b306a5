//! Operators' commands on the queue: pause, resume, cancel.
//!
//! Invariant: each is one script that begins with a write that Redis allows at `maxmemory`, so the emergency switches
//! work on a full Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Pipeline;
use serde::{Deserialize, Serialize};

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::OperatorHandle;
use crate::settings::AUDIT_MAX;
use wm_job::duration::millis;

pub(crate) type Fields = BTreeMap<String, String>;

/// The name of a pause that was given none.
pub const DEFAULT_PAUSE: &str = "default";
/// Most pauses in force at a time: as many reasons as people can hold in mind.
const PAUSES_MAX: u64 = 20;
/// Longest reason that is stored, in characters.
pub(crate) const REASON_MAX_CHARS: usize = 500;

/// The name of a pause: 1 to 40 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseName(String);

impl PauseName {
    /// Parses a name.
    ///
    /// # Errors
    /// A sentence with the allowed length and characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let reserved = ["by", "reason", "since_ms"].contains(&text);
        if (1..=40).contains(&text.len()) && text.bytes().all(plain) && !reserved {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a pause's name: 1 to 40 of A-Z a-z 0-9 . _ -"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PauseName {
    fn default() -> Self {
        Self(DEFAULT_PAUSE.to_owned())
    }
}

/// A pause: who paused a queue, why and when. Jobs in flight continue, no others are claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Its name, by which it is lifted.
    #[serde(default)]
    pub name: String,
    /// The operator who paused it.
    #[serde(default)]
    pub by: String,
    /// The operator's reason, as given.
    #[serde(default)]
    pub reason: String,
    /// Since when, in milliseconds since 1970 by the clock of Redis.
    #[serde(default)]
    pub since_ms: u64,
    /// When it ends by itself, in milliseconds since 1970 by the clock of Redis; `None` until it is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// The result of lifting a pause.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// It was lifted; the queue may still be paused by others.
    Resumed(Paused),
    /// No pause was in force.
    NotPaused,
    /// Several are in force and none was named: nothing changed.
    Several(Vec<Paused>),
    /// None of those in force has this name: nothing changed.
    Unknown(Vec<Paused>),
}

impl Queue {
    /// Sends commands in one round trip and reads their replies.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Error> {
        let mut connection = self.connection().await?;
        Ok(pipe.query_async(&mut connection).await?)
    }

    /// Whether the pause `name` is in force and how many jobs are in flight, at one moment.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn drained_by(&self, name: &PauseName) -> Result<(bool, u64), Error> {
        let mut reply = self.call(&scripts::DRAINED).arg(name.as_str()).reply().await?;
        Ok((reply.number::<u8>()? == 1, reply.number()?))
    }

    /// True when the queue has any key: a worker, a producer or an operator has used it.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn exists(&self) -> Result<bool, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS");
        for (key, _) in self.inner.keys.fixed() {
            pipe.arg(key);
        }
        let (known,): (u64,) = self.ask(&pipe).await?;
        Ok(known > 0)
    }
}

impl OperatorHandle {
    /// Stops all claims until this pause is lifted, or, given a time, for as long: then the looker lifts it. Jobs in
    /// flight continue. False when there are too many pauses already.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn pause(
        &self,
        name: &PauseName,
        time: Option<Duration>,
        by: &str,
        reason: &str,
    ) -> Result<bool, Error> {
        let reason: String = reason.chars().take(REASON_MAX_CHARS).collect();
        let call = self.call(&scripts::PAUSE).key(self.inner.keys.audit());
        let call = call.arg(&[name.as_str(), by, &reason]).arg(PAUSES_MAX).arg(AUDIT_MAX);
        let call = call.arg(time.map_or_else(String::new, |time| millis(time).to_string()));
        Ok(call.reply().await?.text()? == "paused")
    }

    /// Lifts the pause `name`, or the only one in force.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn resume(&self, name: Option<&PauseName>, by: &str) -> Result<Resumed, Error> {
        let call = self.call(&scripts::RESUME).key(self.inner.keys.audit());
        let name = name.map_or("", PauseName::as_str);
        let mut reply = call.arg(&[name, by]).arg(AUDIT_MAX).reply().await?;
        let state = reply.text()?;
        let mut fields = Fields::new();
        while let Some(field) = reply.next() {
            fields.insert(field, reply.text()?);
        }
        let mut pauses = pauses_of(fields);
        match state.as_str() {
            "resumed" => Ok(pauses.pop().map_or(Resumed::NotPaused, Resumed::Resumed)),
            "not_paused" => Ok(Resumed::NotPaused),
            "several" => Ok(Resumed::Several(pauses)),
            "unknown" => Ok(Resumed::Unknown(pauses)),
            other => Err(reply.unexpected(other)),
        }
    }
}

/// The pauses in force, longest first. One of schema 2 had no name, and its parts as fields.
pub(crate) fn pauses_of(fields: Fields) -> Vec<Paused> {
    if let Some(since) = fields.get("since_ms") {
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let (name, since_ms) = (DEFAULT_PAUSE.to_owned(), since.parse().unwrap_or(0));
        return vec![Paused { name, by: text("by"), reason: text("reason"), since_ms, until_ms: None }];
    }
    let one = |(name, value): (String, String)| {
        let read = serde_json::from_str(&value);
        let unknown = || Paused {
            name: String::new(),
            by: String::new(),
            reason: value.clone(),
            since_ms: 0,
            until_ms: None,
        };
        Paused { name, ..read.unwrap_or_else(|_| unknown()) }
    };
    let mut pauses: Vec<_> = fields.into_iter().map(one).collect();
    pauses.sort_by_key(|pause| pause.since_ms);
    pauses
}
