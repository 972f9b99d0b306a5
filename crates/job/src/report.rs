//! The report of an analysis: its 12-field annotation for the db app, and what changed, as bounded hunks.
//!
//! Every field and formula follows the analysis job of web-monitoring-db (`AnalyzeChangeJob`) and
//! web-monitoring-diff 0.2.0; the shapes were derived from their behaviour, no code was taken. The `analysis`
//! crate computes the values.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bounded;
use super::hunk::{Hunk, MAX_HUNKS};
use super::measured::ChildUsage;
use super::page::Side;
use super::skip::SkipReason;
use super::stored_result::StoredResult;

/// Version of [`Report`]'s JSON shape.
pub const SCHEMA_VERSION: u32 = 2;

/// Incremented when the same pair would be analysed differently; part of a pair's key in `done`.
pub const ANALYSIS_VERSION: u32 = 2;

/// Which of the three diffs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::Display)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum DiffName {
    /// Of the visible text.
    HtmlTextDmp,
    /// Of the decoded source.
    HtmlSourceDmp,
    /// Of the links.
    LinksJson,
}

/// Longest text and longest target of a link in a report, in bytes; a longer one is cut with `…`.
pub const LINK_TEXT_MAX_BYTES: usize = 300;
/// See [`LINK_TEXT_MAX_BYTES`].
pub const LINK_HREF_MAX_BYTES: usize = 1000;
/// Most changed links of one report.
pub const MAX_LINK_CHANGES: usize = 256;
/// Most changes of titles, descriptions and other metadata in one report.
pub const MAX_METADATA_CHANGES: usize = 64;
/// Longest value of metadata, in bytes; a longer one is cut with `…`.
pub const METADATA_MAX_BYTES: usize = 500;

/// The changes of a text: the first ones as hunks, the others counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextChanges {
    /// Number of steps that are changes.
    #[serde(deserialize_with = "bounded::count")]
    pub change_count: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "bounded::list::<_, _, MAX_HUNKS>")]
    pub hunks: Vec<Hunk>,
    /// How many of `change_count` are in none of the hunks.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[serde(deserialize_with = "bounded::count")]
    pub left_out: u64,
    /// True if a deadline or a limit made the diff coarser than it could be.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approximate: bool,
}

/// A link of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageLink {
    /// Visible text.
    #[serde(deserialize_with = "bounded::string::<_, LINK_TEXT_MAX_BYTES>")]
    pub text: String,
    /// Target.
    #[serde(deserialize_with = "bounded::string::<_, LINK_HREF_MAX_BYTES>")]
    pub href: String,
}

/// One changed link: removed without `to`, added without `from`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkChange {
    /// As it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PageLink>,
    /// As it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PageLink>,
}

/// The changed links: the first ones, the others counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkChanges {
    /// Number of changed links.
    #[serde(deserialize_with = "bounded::count")]
    pub change_count: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "bounded::list::<_, _, MAX_LINK_CHANGES>")]
    pub changes: Vec<LinkChange>,
    /// How many of `change_count` are not among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[serde(deserialize_with = "bounded::count")]
    pub left_out: u64,
    /// True if a deadline or a limit made the diff coarser than it could be.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approximate: bool,
}

/// A changed title, description or label of an image: removed without `to`, added without `from`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataChange {
    /// What it is: `title`, `image alt`, or the name of a `meta` element, as `description`.
    #[serde(deserialize_with = "bounded::string::<_, 64>")]
    pub name: String,
    /// As it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::optional::<_, METADATA_MAX_BYTES>")]
    pub from: Option<String>,
    /// As it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "bounded::optional::<_, METADATA_MAX_BYTES>")]
    pub to: Option<String>,
}

/// What changed of a pair, bounded. The whole steps are in a results store, if there is one ([`Report::result`]).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Of the visible text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html_text_dmp: Option<TextChanges>,
    /// Of the decoded source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html_source_dmp: Option<TextChanges>,
    /// Of the links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links_json: Option<LinkChanges>,
    /// Of the titles and other metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "bounded::list::<_, _, MAX_METADATA_CHANGES>")]
    pub metadata: Vec<MetadataChange>,
    /// Changes of metadata that are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[serde(deserialize_with = "bounded::count")]
    pub metadata_left_out: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A diff that could not be computed for this pair, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingDiff {
    /// Which.
    pub diff: DiffName,
    /// Why, as a label.
    pub reason: SkipReason,
    /// Why, in a sentence.
    #[serde(deserialize_with = "bounded::string::<_, 300>")]
    pub detail: String,
}

/// Exactly the 12 fields that the db app stores; those of a missing diff are omitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

/// What a reader of a diff should know about how a body was read.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::Display,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum BodyNote {
    /// It was compressed, and no `Content-Encoding` said so, or a wrong one.
    UndeclaredCompression,
    /// Its compressed stream lacks its end; what came out of it was compared.
    CutShort,
    /// The guess at its character encoding did not suit the other capture of the page; an encoding that suits both
    /// was used.
    CharsetOfBoth,
    /// It is XHTML that is not well-formed, so it was read as HTML.
    NotWellFormed,
}

/// Most notes on one body: each once.
pub const MAX_BODY_NOTES: usize = <BodyNote as strum::VariantArray>::VARIANTS.len();

impl BodyNote {
    /// The note as a sentence for a person.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::UndeclaredCompression => "was compressed, though its Content-Encoding does not say so",
            Self::CutShort => "was cut short: its compressed stream lacks its end",
            Self::CharsetOfBoth => "was read in the character encoding that suits both captures",
            Self::NotWellFormed => "is XHTML that is not well-formed, so it was read as HTML",
        }
    }
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
    /// SHA-256 in hex of the bytes as received; absent in the report of a body that was checked against its capture's.
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
    /// What is unusual about how it was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<BodyNote>,
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
    /// The changes of text, source, links and metadata.
    pub changes: Changes,
    /// True if any of the diffs is approximate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approximate: bool,
    /// Diffs that could not be computed, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingDiff>,
    /// Names of parts left out for size, e.g. `bodies`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
    /// Metadata of the two bodies, older first.
    pub bodies: Vec<BodyFacts>,
    /// Whether the db app has the annotation; absent where none is posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<bool>,
    /// Where the whole result is, if a results store is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<StoredResult>,
    /// Time spent in each stage; set by the worker, never by the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// Resource usage of the child; set by the worker, never by the child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<ChildUsage>,
}

impl Report {
    /// Names of the diffs that could not be made, with commas between.
    pub fn missing_names(&self) -> String {
        let names: Vec<&str> = self.missing.iter().map(|missing| missing.diff.into()).collect();
        names.join(",")
    }

    /// A report of this build without any findings.
    pub fn of_pair(from: Uuid, to: Uuid) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            analysis_version: ANALYSIS_VERSION,
            from,
            to,
            page: None,
            annotation: Annotation::default(),
            changes: Changes::default(),
            approximate: false,
            missing: Vec::new(),
            omitted: Vec::new(),
            bodies: Vec::new(),
            posted: None,
            result: None,
            timings: None,
            measured: None,
        }
    }
}
