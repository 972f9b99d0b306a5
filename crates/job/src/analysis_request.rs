//! The protocol of the sandbox: what the worker sends the child about two bodies, and what the child answers.
//!
//! The child sees this and the bytes, nothing else: neither the pair's ids nor its addresses. Its answer is
//! untrusted. The worker parses only the [`AnalysisReply`], whose every part is bounded while it is read, and
//! passes the whole result on without looking into it.
//!
//! # Why
//! A child that a page took over may answer anything. `flatten`, untagged enums and unknown fields make serde keep
//! what it reads as a tree of values first: 16 MiB of nested lists once took a gigabyte. None is used here. What the
//! worker knows itself (ids, addresses, versions, declared types, sizes and hashes as received) is not part of a reply.

use serde::{Deserialize, Serialize};

use super::bounded;
use super::failure::FailureKind;
use super::hunk::STEP_MAX_BYTES;
use super::page::Side;
use super::report::{
    Annotation, BodyNote, Changes, LinksNumbers, MAX_BODY_NOTES, MissingDiff, Report, SourceNumbers,
    TextNumbers,
};
use super::skip::{SkipReason, SniffedTypes};

/// The request to a child; the two bodies are sent separately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalysisRequest {
    /// The older version's body.
    pub from: BodyInput,
    /// The newer version's body.
    pub to: BodyInput,
    /// Decompression limit per body, in bytes.
    pub max_decoded_bytes: u64,
    /// Limit on the whole result in bytes, compressed; 0 asks for none.
    pub max_result_bytes: u64,
}

/// Metadata of one body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyInput {
    /// The `Content-Type` header, verbatim: its charset is used.
    pub content_type: Option<String>,
    /// The media type declared by the db app; takes precedence over the header, which is the archive's.
    pub media_type: Option<String>,
    /// The `Content-Encoding` header, verbatim.
    pub content_encoding: Option<String>,
    /// Expected SHA-256 of the decoded body, in hex; `None` skips the check.
    pub body_hash: Option<String>,
    /// SHA-256 of the body as it was received, in lower-case hex, if the caller knows it: then it is not hashed again.
    pub wire_sha256: Option<String>,
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

/// Longest sentence from a child, in bytes.
const DETAIL_MAX_BYTES: usize = 1000;

/// The child's answer to an [`AnalysisRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnalysisReply {
    /// The pair was analysed.
    Analysed(Box<AnalysisSummary>),
    /// The bytes are nothing to compare.
    Skipped {
        /// Why.
        reason: ChildSkip,
        /// Why, in a sentence. May hold hostile text.
        #[serde(deserialize_with = "bounded::string::<_, DETAIL_MAX_BYTES>")]
        detail: String,
        /// The version that caused it, if only one did.
        side: Option<Side>,
        /// What the two bodies are, if that is why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sniffed: Option<SniffedTypes>,
    },
    /// The bytes cannot be analysed.
    Failed {
        /// Why.
        kind: ChildFailure,
        /// Why, in a sentence. May hold hostile text.
        #[serde(deserialize_with = "bounded::string::<_, DETAIL_MAX_BYTES>")]
        detail: String,
        /// The version that caused it.
        side: Side,
    },
}

impl AnalysisReply {
    /// Reads a child's answer.
    ///
    /// # Errors
    /// A sentence about what is wrong with it, which may quote a little of it.
    pub fn read(answer: &[u8]) -> Result<Self, String> {
        // serde quotes a whole string in an error about it.
        if has_long_string(answer) {
            return Err(format!("a string has more than {STRING_MAX_BYTES} bytes"));
        }
        serde_json::from_slice(answer).map_err(|e| e.to_string())
    }
}

/// Longest string of a reply in bytes of JSON: that of a step whose every byte is escaped.
const STRING_MAX_BYTES: usize = 6 * STEP_MAX_BYTES;

/// Whether JSON has a longer string than any reply has.
fn has_long_string(json: &[u8]) -> bool {
    let mut inside: Option<usize> = None;
    let mut at = 0;
    while at < json.len() {
        match (json[at], inside) {
            (b'\\', Some(_)) => at += 1,
            (b'"', Some(_)) => inside = None,
            (b'"', None) => inside = Some(at),
            (_, Some(begin)) if at - begin > STRING_MAX_BYTES => return true,
            (_, _) => {}
        }
        at += 1;
    }
    false
}

/// Why a child may skip a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildSkip {
    /// See [`SkipReason::Content`].
    Content,
    /// See [`SkipReason::UnlikeContent`].
    UnlikeContent,
    /// See [`SkipReason::Undecodable`].
    Undecodable,
}

/// How a child may fail; other failures are what the worker sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildFailure {
    /// See [`FailureKind::DecompressionBomb`].
    DecompressionBomb,
    /// See [`FailureKind::HashMismatch`].
    HashMismatch,
}

/// What a child found: the only thing that the worker parses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalysisSummary {
    /// Measures of the visible-text diff; absent if it could not be computed.
    pub text: Option<DiffNumbers>,
    /// Measures of the source diff.
    pub source: Option<DiffNumbers>,
    /// Measures of the links diff.
    pub links: Option<DiffNumbers>,
    /// How much attention the change deserves.
    #[serde(deserialize_with = "priority")]
    pub priority: f64,
    /// What changed.
    pub changes: Changes,
    /// True if any of the diffs is approximate.
    pub approximate: bool,
    /// Diffs that could not be computed, and why.
    #[serde(deserialize_with = "bounded::list::<_, _, 3>")]
    pub missing: Vec<MissingDiff>,
    /// What the two bodies were decoded as, older first.
    pub bodies: [DecodedBody; 2],
    /// The whole result was requested and is above its limit, so it was dropped.
    pub result_too_large: bool,
}

/// The highest priority there is: 0.4 for text and 0.25 for links.
pub const MAX_PRIORITY: f64 = 0.65;

fn priority<'de, D: serde::Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
    let priority = f64::deserialize(input)?;
    let possible = (0.0..=MAX_PRIORITY).contains(&priority);
    if possible { Ok(priority) } else { Err(serde::de::Error::custom("a priority is from 0 to 0.65")) }
}

/// Measures of one diff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffNumbers {
    /// SHA-256 in hex of the compact JSON of the changed steps.
    #[serde(deserialize_with = "bounded::sha256")]
    pub hash: String,
    /// Number of steps that are changes.
    #[serde(deserialize_with = "bounded::count")]
    pub count: u64,
    /// Length of those steps: code points of text, keys of links.
    #[serde(deserialize_with = "bounded::count")]
    pub length: u64,
    /// Changed length divided by total length, to 4 decimals.
    #[serde(deserialize_with = "bounded::ratio")]
    pub ratio: f64,
}

/// What one body was decoded as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodedBody {
    /// Size in bytes after content encodings were removed.
    #[serde(deserialize_with = "bounded::count")]
    pub bytes: u64,
    /// Media type detected from the bytes.
    #[serde(deserialize_with = "bounded::string::<_, 127>")]
    pub sniffed: String,
    /// Character encoding used to decode it, e.g. `utf-8`.
    #[serde(deserialize_with = "bounded::string::<_, 40>")]
    pub encoding: String,
    /// What is unusual about how it was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "bounded::list::<_, _, MAX_BODY_NOTES>")]
    pub notes: Vec<BodyNote>,
}

impl AnalysisSummary {
    /// Adds what the child found to a report, whose ids and bodies, older first, are the worker's own.
    pub fn add_to(self, report: &mut Report) {
        report.annotation = Annotation {
            text: self.text.map(|numbers| TextNumbers {
                text_diff_hash: numbers.hash,
                text_diff_count: numbers.count,
                text_diff_length: numbers.length,
                text_diff_ratio: numbers.ratio,
            }),
            source: self.source.map(|numbers| SourceNumbers {
                source_diff_hash: numbers.hash,
                source_diff_count: numbers.count,
                source_diff_length: numbers.length,
                source_diff_ratio: numbers.ratio,
            }),
            links: self.links.map(|numbers| LinksNumbers {
                links_diff_hash: numbers.hash,
                links_diff_count: numbers.count,
                links_diff_ratio: numbers.ratio,
            }),
            priority: self.priority,
        };
        report.changes = self.changes;
        report.approximate = self.approximate;
        report.missing = self.missing;
        report.omitted.extend(self.result_too_large.then(|| "result".to_owned()));
        for (facts, decoded) in report.bodies.iter_mut().zip(self.bodies) {
            facts.decoded_bytes = Some(decoded.bytes);
            facts.sniffed = Some(decoded.sniffed);
            facts.encoding = Some(decoded.encoding);
            facts.notes = decoded.notes;
        }
    }
}

impl From<ChildFailure> for FailureKind {
    fn from(kind: ChildFailure) -> Self {
        match kind {
            ChildFailure::DecompressionBomb => Self::DecompressionBomb,
            ChildFailure::HashMismatch => Self::HashMismatch,
        }
    }
}

impl From<ChildSkip> for SkipReason {
    fn from(reason: ChildSkip) -> Self {
        match reason {
            ChildSkip::Content => Self::Content,
            ChildSkip::UnlikeContent => Self::UnlikeContent,
            ChildSkip::Undecodable => Self::Undecodable,
        }
    }
}
