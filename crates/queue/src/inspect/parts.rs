//! Reads many keys in one round trip, each by itself: one key that cannot be read never hides the others.

use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value};
use serde::Serialize;

use crate::Queue;
use crate::error::Error;

/// Something that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct UnreadableKey {
    /// The key.
    pub key: String,
    /// The error of Redis.
    pub error: String,
}

/// Commands to send together, each with the key that it reads.
#[derive(Default)]
pub(crate) struct Reads {
    pipe: Pipeline,
    keys: Vec<String>,
}

/// Their replies, taken in the order of the commands.
pub(crate) struct Replies {
    values: std::vec::IntoIter<(String, RedisResult<Value>)>,
    /// What could not be read so far.
    pub(crate) unreadable: Vec<UnreadableKey>,
}

impl Reads {
    /// Adds `command key args...`.
    pub(crate) fn add(&mut self, command: &[&str], key: &str, args: &[&str]) {
        let mut words = command.iter();
        self.pipe.cmd(words.next().copied().unwrap_or_default());
        words.for_each(|word| {
            self.pipe.arg(word);
        });
        self.pipe.arg(key).arg(args);
        self.keys.push(key.to_owned());
    }

    /// Adds a command without a key.
    pub(crate) fn add_plain(&mut self, command: &str) {
        self.pipe.cmd(command);
        self.keys.push(command.to_owned());
    }
}

impl Replies {
    /// The next reply; the default where it is absent or could not be read.
    pub(crate) fn next<T: FromRedisValue + Default>(&mut self) -> T {
        let Some((key, value)) = self.values.next() else { return T::default() };
        let read = value.and_then(|value| match value {
            Value::Nil => Ok(T::default()),
            value => T::from_redis_value(value).map_err(RedisError::from),
        });
        read.unwrap_or_else(|error| {
            self.unreadable.push(UnreadableKey { key, error: error.to_string() });
            T::default()
        })
    }
}

impl Queue {
    /// Sends the commands in one round trip.
    ///
    /// # Errors
    /// Those of the connection, and the error that all commands have in common.
    pub(crate) async fn read(&self, mut reads: Reads) -> Result<Replies, Error> {
        if reads.keys.is_empty() {
            return Ok(Replies { values: Vec::new().into_iter(), unreadable: Vec::new() });
        }
        let mut connection = self.connection().await?;
        let values: Vec<RedisResult<Value>> = reads.pipe.ignore_errors().query_async(&mut connection).await?;
        // LOADING, MOVED, BUSY and the like concern the whole; so does what every command was answered.
        let all_failed = values.iter().all(Result::is_err);
        for error in values.iter().filter_map(|value| value.as_ref().err()) {
            let error = Error::from(error.clone());
            if all_failed || error.is_transient() {
                return Err(error);
            }
        }
        Ok(Replies {
            values: reads.keys.into_iter().zip(values).collect::<Vec<_>>().into_iter(),
            unreadable: Vec::new(),
        })
    }
}
