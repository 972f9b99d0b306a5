//! What a dead letter keeps of a job or of a payload that is not one.

use serde::Serialize;
use wm_job::JobId;
use wm_job::text::sha256_hex;
use wm_job::verdict::DeadLetterReason;

/// Bytes kept of a payload that is not a job: enough to identify it, and little enough that a flood of them
/// leaves room for other evidence.
pub(crate) const RAW_HEAD_BYTES: usize = 2 * 1024;

/// Evidence of a payload that is not a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RawPayload {
    /// Its first 2 KiB.
    pub head: Vec<u8>,
    /// Its full length in bytes.
    pub length: u64,
    /// `sha256:<hex>` of the whole payload or, over 1 MiB, `sha1-1MiB:<hex>` of its first 1 MiB.
    pub hash: String,
}

impl RawPayload {
    /// The evidence of a payload that was read whole.
    pub(crate) fn of(payload: &[u8]) -> Self {
        Self {
            head: payload[..payload.len().min(RAW_HEAD_BYTES)].to_vec(),
            length: payload.len() as u64,
            hash: format!("sha256:{}", sha256_hex(payload)),
        }
    }
}

/// A job that the queue itself buried, for alerting.
#[derive(Debug, Clone, PartialEq)]
pub struct Buried {
    /// Id of the dead letter.
    pub id: JobId,
    /// `<from>..<to>`; empty when the payload was not a job.
    pub pair: String,
    /// The evidence stored with the letter.
    pub reason: DeadLetterReason,
}
