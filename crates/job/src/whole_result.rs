//! The whole result of an analysis, in the shapes of web-monitoring-diff: every step of the three diffs.
//!
//! The child writes it, compressed; the worker hands it on to the results store and never parses it.
//!
//! Every field follows web-monitoring-diff 0.2.0; the shapes were derived from its behaviour, no code was taken.

use serde::{Deserialize, Serialize};

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
    /// The steps.
    pub diff: Vec<T>,
    /// True if a deadline or a limit made the diff coarser than it could be.
    pub approximate: bool,
}

/// The three diffs; one that could not be computed is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WholeResult {
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
