//! What the worker tells the child about two bodies, and what the child answers: the words of both ends of the sandbox.
//!
//! The child sees this and the bytes, nothing else. Its answer is a claim: what may be believed is decided by the reader.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::failure::Failure;
use super::report::Report;
use super::skip::Skip;

/// What the child is asked for; the two bodies come beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalysisRequest {
    /// The page both versions belong to, where known.
    pub page: Option<Uuid>,
    /// The older version.
    pub from: BodyInput,
    /// The newer version.
    pub to: BodyInput,
    /// The most bytes that a body may decompress to.
    pub max_decoded_bytes: u64,
    /// Steps of a diff that are larger than this, as JSON, are left out of the report.
    pub max_ops_bytes: u64,
    /// Changed passages that are quoted.
    pub max_passages: u16,
}

/// What is known of one body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyInput {
    /// The version.
    pub uuid: Uuid,
    /// Where the body came from.
    pub url: String,
    /// The `Content-Type` header, as it came: its charset counts.
    pub content_type: Option<String>,
    /// The media type that the db app declares; counts more than the header, which is the archive's.
    pub media_type: Option<String>,
    /// The `Content-Encoding` header, as it came.
    pub content_encoding: Option<String>,
    /// SHA-256 in hex of the body, decoded; not checked where it is not known.
    pub body_hash: Option<String>,
    /// The worst HTTP status that is told of its capture.
    pub status: Option<u16>,
}

impl BodyInput {
    /// What the body is declared to be.
    pub fn declared(&self) -> Option<&str> {
        self.media_type.as_deref().or(self.content_type.as_deref())
    }

    /// Where a charset may be named: the header, else what is declared.
    pub fn charset_source(&self) -> Option<&str> {
        self.content_type.as_deref().or(self.media_type.as_deref())
    }
}

/// What the child answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnalysisReply {
    /// It was analysed.
    Reported(Box<Report>),
    /// It is not to be analysed.
    Skipped(Skip),
    /// It cannot be: only `decompression_bomb` or `hash_mismatch`.
    Failed(Failure),
}
