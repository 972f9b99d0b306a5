//! Identifiers of workers and leases.

use serde::Serialize;
use uuid::Uuid;
use wm_job::JobId;

/// The name of one worker process, never reused: 1 to 100 of `A-Z a-z 0-9 . _ : -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct WorkerId(String);

impl WorkerId {
    /// A new name: host, process id and four random bytes, because host names and process ids are reused.
    pub fn fresh(host: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let host: String = host.chars().filter(|&c| plain(c)).take(60).collect();
        let random = Uuid::new_v4().simple().to_string();
        Self(format!("{host}:{}:{}", std::process::id(), &random[..8]))
    }

    /// Parses a worker's name.
    ///
    /// # Errors
    /// A sentence with the allowed length and characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if (1..=100).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a worker's name is 1 to 100 of A-Z a-z 0-9 . _ : -".to_owned())
        }
    }

    /// The name, `<host>:<pid>:<random>` unless parsed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies the lease of one [`Delivery`](crate::Delivery), which itself cannot be cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRef {
    /// Id of the leased job.
    pub id: JobId,
    pub(crate) token: String,
}
