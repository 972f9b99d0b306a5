//! The result of an analysis, in the shapes of web-monitoring-diff, and its 12-field annotation for the db
//! app.
//!
//! Every field and formula follows the analysis job of web-monitoring-db (`AnalyzeChangeJob`) and
//! web-monitoring-diff 0.2.0; the shapes were derived from their behaviour, no code was taken. The `analysis`
//! crate computes the values.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::measured::ChildUsage;
use super::page::Side;
use super::skip::Skip;

/// Version of [`Report`]'s JSON shape.
pub const SCHEMA_VERSION: u32 = 1;

/// Incremented when the same pair would be analysed differently; part of a pair's key in `done`.
pub const ANALYSIS_VERSION: u32 = 1;

/// One step of a text diff: `[-1 | 0 | 1, text]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op(pub i8, pub String);

/// One link of a page, as compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Visible text of the link.
    pub text: String,
    /// Target of the link.
    pub href: String,
}

/// One step of a links diff: `[0 | 1 | -1, {text, href}]`, or `[100, {text, href, hrefs}]` for a changed
/// link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LinkOp {
    /// An unchanged (0), added (1) or removed (-1) link.
    Plain(i8, Link),
    /// A changed link (100): the same text with another target, or the same target with another text.
    Changed(i8, ChangedLink),
}

/// Details of a changed link (code 100).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedLink {
    /// Text diff of the link texts.
    pub text: Vec<Op>,
    /// Text diff of the link targets.
    pub href: Vec<Op>,
    /// Both targets, older first.
    pub hrefs: [String; 2],
}

/// One of the three diffs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff<T> {
    /// Number of steps that are not "same".
    pub change_count: u64,
    /// The steps; `None` if they exceed the size limit (then [`Report::omitted`] names this diff).
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub diff: Option<Vec<T>>,
    /// True if a deadline or a limit made the diff coarser than it could be.
    #[serde(default)]
    pub approximate: bool,
}

/// The three diffs of `AnalyzeChangeJob`; one that could not be computed is listed in [`Report::missing`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diffs {
    /// Diff of the visible text.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub html_text_dmp: Option<Diff<Op>>,
    /// Diff of the decoded source.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub html_source_dmp: Option<Diff<Op>>,
    /// Diff of the links.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub links_json: Option<Diff<LinkOp>>,
}

/// A diff that could not be computed for this pair, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingDiff {
    /// Name of the diff, e.g. `html_text_dmp`.
    pub diff: String,
    /// Why it is missing.
    pub skip: Skip,
}

/// Exactly the 12 fields that the db app stores; those of a missing diff are omitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Fields of the visible-text diff.
    #[serde(flatten)]
    pub text: Option<TextNumbers>,
    /// Fields of the source diff.
    #[serde(flatten)]
    pub source: Option<SourceNumbers>,
    /// Fields of the links diff.
    #[serde(flatten)]
    pub links: Option<LinksNumbers>,
    /// How much attention the change deserves, 0 to 0.65, 4 decimals.
    pub priority: f64,
}

/// The visible-text fields of the annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextNumbers {
    /// SHA-256 in hex of the compact JSON of the changed steps.
    pub text_diff_hash: String,
    /// Number of changed steps.
    pub text_diff_count: u64,
    /// Number of Unicode code points in those steps.
    pub text_diff_length: u64,
    /// Share of changed code points, 4 decimals.
    pub text_diff_ratio: f64,
}

/// The source fields of the annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceNumbers {
    /// SHA-256 in hex of the compact JSON of the changed steps.
    pub source_diff_hash: String,
    /// Number of changed steps.
    pub source_diff_count: u64,
    /// Number of Unicode code points in those steps.
    pub source_diff_length: u64,
    /// Share of changed code points, 4 decimals.
    pub source_diff_ratio: f64,
}

/// The link fields of the annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinksNumbers {
    /// SHA-256 in hex of the compact JSON of the changed steps.
    pub links_diff_hash: String,
    /// Number of changed steps.
    pub links_diff_count: u64,
    /// Share of changed links, weighted by their number of keys, 4 decimals.
    pub links_diff_ratio: f64,
}

/// A changed passage, quoted; long ones are truncated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Unchanged text before the change.
    pub before: String,
    /// Text of the older version only.
    pub removed: String,
    /// Text of the newer version only.
    pub added: String,
    /// Unchanged text after the change.
    pub after: String,
}

/// Metadata of one body, as received and as decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BodyFacts {
    /// The version it belongs to.
    pub side: Side,
    /// The address it was fetched from, as [`page_url`](super::redact::page_url) shows it.
    pub url: String,
    /// Size in bytes as received.
    pub wire_bytes: u64,
    /// SHA-256 in hex of the bytes as received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_sha256: Option<String>,
    /// Size in bytes after content encodings were removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_bytes: Option<u64>,
    /// Media type by declaration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
    /// Media type detected from the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sniffed: Option<String>,
    /// Character encoding used to decode it, e.g. `utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// Wall-clock time of one job by stage, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Looking up the versions in the db app.
    pub resolve_ms: u64,
    /// Fetching both bodies, concurrently.
    pub fetch_ms: u64,
    /// In the child, from sending the request to receiving the reply.
    pub analyse_ms: u64,
}

/// The full result for one compared pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the build that produced it.
    pub schema_version: u32,
    /// [`ANALYSIS_VERSION`] of the build that produced it.
    pub analysis_version: u32,
    /// Uuid of the older version.
    pub from: Uuid,
    /// Uuid of the newer version.
    pub to: Uuid,
    /// Uuid of their page, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Uuid>,
    /// The 12 fields for the db app.
    pub annotation: Annotation,
    /// Diffs of text, source and links.
    pub diffs: Diffs,
    /// True if any of the diffs is approximate.
    pub approximate: bool,
    /// Diffs that could not be computed, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingDiff>,
    /// The first changed passages, of the visible text or else of the source; empty unless requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passages: Vec<Passage>,
    /// Names of parts omitted for size, e.g. `html_source_dmp.diff`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// Metadata of the two bodies, older first.
    pub bodies: Vec<BodyFacts>,
    /// Time spent in each stage; set by the worker, never by the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// Resource usage of the child; set by the worker, never by the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<ChildUsage>,
}
