//! The Lua scripts, and the one way to call them.
//!
//! Each script is `lua/common.lua` and its own page behind it; every call declares the queue's fixed keys first, then
//! the script's own. What a script promises stands at its head.
//!
//! # Why
//! EVALSHA by [`redis::Script`], not FUNCTION: the script cache may be flushed or gone after a failover, and is filled
//! again on the spot; and during a rolling deploy two builds each run their own version, where FUNCTION LOAD would
//! switch both.

use std::sync::LazyLock;

use redis::{FromRedisValue, Script, ScriptInvocation, ToRedisArgs};
use time::OffsetDateTime;

use crate::Queue;
use crate::error::Error;
use wm_job::duration::millis;
use wm_job::text::quote;

/// A script with its name, for errors.
pub(crate) struct NamedScript {
    name: &'static str,
    script: Script,
}

macro_rules! scripts {
    ($($ident:ident = $file:literal;)*) => {
        $(
            #[doc = concat!("`lua/", $file, ".lua`; its contract stands at its head.")]
            pub(crate) static $ident: LazyLock<NamedScript> = LazyLock::new(|| NamedScript {
                name: $file,
                script: Script::new(concat!(
                    include_str!("../lua/common.lua"),
                    include_str!(concat!("../lua/", $file, ".lua"))
                )),
            });
        )*
    };
}

scripts! {
    ADMIT = "admit";
    ADOPT = "adopt";
    PEEK = "peek";
    REFUSE = "refuse";
    CLAIM = "claim";
    START = "start";
    WAIT_FOR_HOST = "wait_for_host";
    HEARTBEAT = "heartbeat";
    CONFIRM = "confirm";
    SETTLE = "settle";
    SCHEDULE = "schedule";
    BURY = "bury";
    RELEASE = "release";
    PROMOTE = "promote";
    RECLAIM = "reclaim";
    TRIM = "trim";
    REPLAY = "replay";
    DISCARD = "discard";
    CANCEL = "cancel";
    OUTAGE = "outage";
}

/// One call of one script, with the queue's fixed keys and limits filled in.
pub(crate) struct Call<'q> {
    queue: &'q Queue,
    name: &'static str,
    invocation: ScriptInvocation<'static>,
}

impl Queue {
    /// Begins a call.
    pub(crate) fn call(&self, named: &'static NamedScript) -> Call<'_> {
        let config = &self.inner.config;
        let mut invocation = named.script.prepare_invoke();
        for key in self.inner.keys.fixed(OffsetDateTime::now_utc()) {
            invocation.key(key);
        }
        invocation
            .arg(self.inner.keys.prefix())
            .arg(config.events_max)
            .arg(millis(config.lease))
            .arg(config.releases_exclusive)
            .arg(config.host_in_flight_max);
        Call { queue: self, name: named.name, invocation }
    }
}

impl Call<'_> {
    /// Declares a key of the script's own.
    pub(crate) fn key(mut self, key: impl ToRedisArgs) -> Self {
        self.invocation.key(key);
        self
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.invocation.arg(arg);
        self
    }

    /// Runs the script.
    pub(crate) async fn run<T: FromRedisValue>(self) -> Result<T, Error> {
        let mut connection = self.queue.connection().await?;
        Ok(self.invocation.invoke_async(&mut connection).await?)
    }

    /// Runs a script that answers with reply.
    pub(crate) async fn reply(self) -> Result<ScriptReply, Error> {
        let script = self.name;
        let parts: Vec<Vec<u8>> = self.run().await?;
        Ok(ScriptReply { script, parts: parts.into_iter() })
    }
}

/// The answer of a script: a flat list of words, read from the front.
pub(crate) struct ScriptReply {
    script: &'static str,
    parts: std::vec::IntoIter<Vec<u8>>,
}

impl ScriptReply {
    /// The next word as it is, if there is one.
    pub(crate) fn bytes(&mut self) -> Option<Vec<u8>> {
        self.parts.next()
    }

    /// The next word as text, if there is one.
    pub(crate) fn next(&mut self) -> Option<String> {
        let lossy = |e: std::string::FromUtf8Error| String::from_utf8_lossy(e.as_bytes()).into_owned();
        self.bytes().map(|bytes| String::from_utf8(bytes).unwrap_or_else(lossy))
    }

    /// The next word, which must be there.
    pub(crate) fn text(&mut self) -> Result<String, Error> {
        self.next().ok_or_else(|| self.unexpected("an end too early"))
    }

    /// The next word as a number; an absent field counts as zero.
    pub(crate) fn number<N: std::str::FromStr + Default>(&mut self) -> Result<N, Error> {
        match self.text()?.as_str() {
            "" => Ok(N::default()),
            text => text.parse().map_err(|_| self.unexpected(text)),
        }
    }

    /// The next word as a limit; an absent field grants none.
    pub(crate) fn granted(&mut self) -> Result<Option<u64>, Error> {
        self.number().map(|limit| Some(limit).filter(|limit| *limit > 0))
    }

    /// The error for an answer that this build does not understand.
    pub(crate) fn unexpected(&self, part: &str) -> Error {
        Error::Reply { script: self.script, reply: quote(part) }
    }
}
