//! What the analysis found, in the shapes of web-monitoring-diff, and its 12-field form for the db app.
//!
//! Sources of every field and formula: the analysis job of web-monitoring-db (`AnalyzeChangeJob`) and
//! web-monitoring-diff 0.2.0; shapes were read from their behaviour, no code was taken.
//! Computing any of it is `analysis/`'s.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::measured::ChildUsage;
use super::page::Side;
use super::skip::Skip;

/// The version of [`Report`]'s shape.
pub const SCHEMA_VERSION: u32 = 1;

/// Counted up when the same pair would be analysed differently; part of a pair's identity in `done`.
pub const ANALYSIS_VERSION: u32 = 1;

/// One step of a text diff: `[-1 | 0 | 1, text]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op(pub i8, pub String);

/// One link of a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Its visible text.
    pub text: String,
    /// Where it points.
    pub href: String,
}

/// What became of one link: `[0 | 1 | -1, {text, href}]`, or `[100, {text, href, hrefs}]` for a changed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LinkOp {
    /// Same, added or removed.
    Plain(i8, Link),
    /// Changed: the same text with another target, or the same target with another text.
    Changed(i8, ChangedLink),
}

/// The payload of code 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedLink {
    /// Diff of the texts.
    pub text: Vec<Op>,
    /// Diff of the targets.
    pub href: Vec<Op>,
    /// Both targets, older first.
    pub hrefs: [String; 2],
}

/// One of the three diffs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff<T> {
    /// Number of steps that are not "same".
    pub change_count: u64,
    /// The steps; `None` when they were too large to carry (then [`Report::omitted`] names this diff).
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub diff: Option<Vec<T>>,
    /// True when a deadline or a bound made the diff coarser than it could be.
    #[serde(default)]
    pub approximate: bool,
}

/// The three diffs of the old job; one that could not be made is named in [`Report::missing`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diffs {
    /// Of the visible text.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub html_text_dmp: Option<Diff<Op>>,
    /// Of the decoded source.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub html_source_dmp: Option<Diff<Op>>,
    /// Of the links.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub links_json: Option<Diff<LinkOp>>,
}

/// A diff that this pair has not, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingDiff {
    /// Its name, e.g. `html_text_dmp`.
    pub diff: String,
    /// Why not.
    pub skip: Skip,
}

/// The 12 fields that the db app stores, exactly: a diff that is missing leaves its fields out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Of the visible text.
    #[serde(flatten)]
    pub text: Option<TextNumbers>,
    /// Of the source.
    #[serde(flatten)]
    pub source: Option<SourceNumbers>,
    /// Of the links.
    #[serde(flatten)]
    pub links: Option<LinksNumbers>,
    /// How much a person should look, 0 to 0.65, 4 decimals.
    pub priority: f64,
}

/// The text's share of the annotation.
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

/// The source's share of the annotation.
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

/// The links' share of the annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinksNumbers {
    /// SHA-256 in hex of the compact JSON of the changed steps.
    pub links_diff_hash: String,
    /// Number of changed steps.
    pub links_diff_count: u64,
    /// Share of changed links, weighted by their number of keys, 4 decimals.
    pub links_diff_ratio: f64,
}

/// A passage that changed, quoted: long ones are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// What stands before it.
    pub before: String,
    /// What stood there.
    pub removed: String,
    /// What stands there now.
    pub added: String,
    /// What stands behind it.
    pub after: String,
}

/// What was known of one body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BodyFacts {
    /// Which one.
    pub side: Side,
    /// Where it came from.
    pub url: String,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// SHA-256 in hex of the bytes on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_sha256: Option<String>,
    /// Bytes after content encodings were undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_bytes: Option<u64>,
    /// The declared media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
    /// The media type that the bytes show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sniffed: Option<String>,
    /// The character encoding that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// Where the time of one job went, in milliseconds of wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Asking the db app for the versions.
    pub resolve_ms: u64,
    /// Fetching both bodies.
    pub fetch_ms: u64,
    /// In the child, from handing over to the answer.
    pub analyse_ms: u64,
}

/// Everything that is known of one compared pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the build that made it.
    pub schema_version: u32,
    /// [`ANALYSIS_VERSION`] of the build that made it.
    pub analysis_version: u32,
    /// The older version.
    pub from: Uuid,
    /// The newer version.
    pub to: Uuid,
    /// Their page, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Uuid>,
    /// The 12 fields.
    pub annotation: Annotation,
    /// The diffs.
    pub diffs: Diffs,
    /// True when any diff is.
    pub approximate: bool,
    /// Diffs that could not be made, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingDiff>,
    /// The first passages that changed, of the visible text or else of the source; none unless they are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passages: Vec<Passage>,
    /// Names of what did not fit, e.g. `html_source_dmp.diff`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// The two bodies, older first.
    pub bodies: Vec<BodyFacts>,
    /// Where the time went; filled in by the worker, never by the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// What the child cost; filled in by the worker, never by the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<ChildUsage>,
}
