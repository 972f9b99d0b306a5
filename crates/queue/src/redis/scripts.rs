//! The Lua scripts, and how they are called.
//!
//! Each script is what it uses of `lua/common.lua` followed by its own file; every call passes the queue's fixed keys
//! first, then the script's own. The header of each file is its contract.
//!
//! # Why
//! EVALSHA by [`redis::Script`], not FUNCTION: a script cache that is flushed or lost in a failover is
//! refilled on demand; and during a rolling deploy two builds each run their own version, where FUNCTION LOAD
//! would switch both.

use std::sync::LazyLock;

use crate::Queue;
use crate::error::Error;
use crate::redis::prelude::link;
use redis::{FromRedisValue, Script, ScriptInvocation, ToRedisArgs};
use wm_job::duration::millis;
use wm_job::text::quote;

/// A script, with its file name for errors.
pub(crate) struct NamedScript {
    name: &'static str,
    script: Script,
}

macro_rules! scripts {
    ($($ident:ident = $file:literal;)*) => {
        $(
            #[doc = concat!("`lua/", $file, ".lua`; its header is the contract.")]
            pub(crate) static $ident: LazyLock<NamedScript> = LazyLock::new(|| NamedScript {
                name: $file,
                script: Script::new(&link(include_str!(concat!("../lua/", $file, ".lua")))),
            });
        )*

        /// The text of every script, as Redis gets it.
        pub fn script_texts() -> Vec<String> {
            vec![$(link(include_str!(concat!("../lua/", $file, ".lua")))),*]
        }
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
    HOST_FAILED = "host_failed";
    REST_HOST = "rest_host";
    RESUME_HOST = "resume_host";
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
    UNDO_REPLAY = "undo_replay";
    DISCARD = "discard";
    RESTORE = "restore";
    OPERATION = "operation";
    AUDIT = "audit";
    CANCEL = "cancel";
    OUTAGE = "outage";
    CLAIM_ALERT = "claim_alert";
    SETTLE_ALERT = "settle_alert";
    IS_DONE = "is_done";
    ASK_WORKER = "ask_worker";
    IMPORT = "import";
    PAUSE = "pause";
    RESUME = "resume";
    SET = "set";
    FREE_RESULTS = "free_results";
    REFILE = "refile";
    ORPHANS = "orphans";
    SCHEMA = "schema";
    DRAINED = "drained";
    PUBLISH = "publish";
    PAGE = "page";
}

/// One call of one script, with the queue's fixed keys and limits filled in.
pub(crate) struct Call<'q> {
    queue: &'q Queue,
    name: &'static str,
    invocation: ScriptInvocation<'static>,
}

impl Queue {
    /// Starts building a call, with the fixed keys and the arguments that `common.lua` expects.
    pub(crate) fn call(&self, named: &'static NamedScript) -> Call<'_> {
        let mut invocation = named.script.prepare_invoke();
        for (key, _) in self.inner.keys.fixed() {
            invocation.key(key);
        }
        invocation
            .arg(self.inner.keys.prefix())
            .arg(millis(self.inner.config.lease))
            .arg(&self.inner.fallback_settings);
        Call { queue: self, name: named.name, invocation }
    }
}

impl Call<'_> {
    /// Adds one of the script's own keys.
    pub(crate) fn key(mut self, key: impl ToRedisArgs) -> Self {
        self.invocation.key(key);
        self
    }

    /// Adds one of the script's own arguments.
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.invocation.arg(arg);
        self
    }

    /// Runs the script and converts its reply.
    pub(crate) async fn run<T: FromRedisValue>(self) -> Result<T, Error> {
        let Self { queue, name, invocation } = self;
        let mut connection = queue.connection().await?;
        let failed = match invocation.invoke_async(&mut connection).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        drop(connection);
        let wrong_type = failed.to_string().contains("WRONGTYPE");
        match Error::from(failed) {
            Error::Refused(what) if wrong_type => {
                let keys = queue.wrong_types().await.unwrap_or_default().join("; ");
                Err(Error::Refused(format!("script {name}: {what} {keys}")))
            }
            Error::Refused(what) => Err(Error::Refused(format!("script {name}: {what}"))),
            Error::Full(what) => Err(Error::Full(format!("script {name}: {what}"))),
            other => Err(other),
        }
    }

    /// Runs a script that returns a flat list of strings.
    pub(crate) async fn reply(self) -> Result<ScriptReply, Error> {
        let script = self.name;
        let parts: Vec<Vec<u8>> = self.run().await?;
        Ok(ScriptReply { script, parts: parts.into_iter() })
    }
}

/// The reply of a script: a flat list of strings, read from the front.
pub(crate) struct ScriptReply {
    script: &'static str,
    parts: std::vec::IntoIter<Vec<u8>>,
}

impl ScriptReply {
    /// The next string as raw bytes; None at the end.
    pub(crate) fn bytes(&mut self) -> Option<Vec<u8>> {
        self.parts.next()
    }

    /// The next string as UTF-8, lossily; None at the end.
    pub(crate) fn next(&mut self) -> Option<String> {
        let lossy = |e: std::string::FromUtf8Error| String::from_utf8_lossy(e.as_bytes()).into_owned();
        self.bytes().map(|bytes| String::from_utf8(bytes).unwrap_or_else(lossy))
    }

    /// The next string; an error at the end.
    pub(crate) fn text(&mut self) -> Result<String, Error> {
        self.next().ok_or_else(|| self.unexpected("the end of the reply"))
    }

    /// The next string as a number; an absent field counts as 0.
    pub(crate) fn number<N: std::str::FromStr + Default>(&mut self) -> Result<N, Error> {
        match self.text()?.as_str() {
            "" => Ok(N::default()),
            text => text.parse().map_err(|_| self.unexpected(text)),
        }
    }

    /// The next string as a granted limit; None for an absent field.
    pub(crate) fn granted(&mut self) -> Result<Option<u64>, Error> {
        self.number().map(|limit| Some(limit).filter(|limit| *limit > 0))
    }

    /// The error for a reply that does not have the expected form.
    pub(crate) fn unexpected(&self, part: &str) -> Error {
        Error::Reply { script: self.script, reply: quote(part) }
    }
}
