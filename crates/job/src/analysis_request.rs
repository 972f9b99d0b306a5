//! The protocol of the sandbox: what the worker sends the child about two bodies, and what the child replies.
//!
//! The child sees this and the bytes, nothing else. Its reply is untrusted: the reader validates it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outcome::Outcome;

/// The request to a child; the two bodies are sent separately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalysisRequest {
    /// Uuid of the page both versions belong to, if known.
    pub page: Option<Uuid>,
    /// The older version's body.
    pub from: BodyInput,
    /// The newer version's body.
    pub to: BodyInput,
    /// Decompression limit per body, in bytes.
    pub max_decoded_bytes: u64,
    /// Limit on the steps of one diff, in bytes of JSON; a larger list is left out of the report.
    pub max_ops_bytes: u64,
    /// Limit on the number of quoted passages; 0 quotes none.
    pub max_passages: u16,
}

/// Metadata of one body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyInput {
    /// Uuid of the body's version.
    pub uuid: Uuid,
    /// The address the body was fetched from, as [`page_url`](super::redact::page_url) shows it.
    pub url: String,
    /// The `Content-Type` header, verbatim: its charset is used.
    pub content_type: Option<String>,
    /// The media type declared by the db app; takes precedence over the header, which is the archive's.
    pub media_type: Option<String>,
    /// The `Content-Encoding` header, verbatim.
    pub content_encoding: Option<String>,
    /// Expected SHA-256 of the decoded body, in hex; `None` skips the check.
    pub body_hash: Option<String>,
    /// The worst HTTP status recorded for the capture.
    pub status: Option<u16>,
}

impl BodyInput {
    /// The declared media type: the db app's, else the header's.
    pub fn declared(&self) -> Option<&str> {
        self.media_type.as_deref().or(self.content_type.as_deref())
    }

    /// The header value to read a charset from: `Content-Type`, else the declared media type.
    pub fn charset_source(&self) -> Option<&str> {
        self.content_type.as_deref().or(self.media_type.as_deref())
    }
}

/// The child's reply to an [`AnalysisRequest`]. Of failures only `decompression_bomb` and `hash_mismatch` are accepted
/// from a child.
pub type AnalysisReply = Outcome;
