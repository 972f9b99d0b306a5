//! A job that was rightly not analysed, and why.

use serde::{Deserialize, Serialize};

use super::measured::ChildUsage;
use super::page::Side;

/// Why not analysing was the right decision: a label for counters.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::Display,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Both versions are the same one.
    SameVersion,
    /// The newer version is its page's first: there is nothing to compare it with.
    NoPrevious,
    /// This pair was analysed before, as only resolving could tell.
    AlreadyDone,
    /// A body is not kept at an http or https address, or there is none.
    NotHttp,
    /// A declared media type is not one of pages.
    MediaType,
    /// No media type is declared and one is required.
    MediaTypeUnknown,
    /// No media type is declared and the extension is not one of pages.
    Extension,
    /// The bytes are not those of a page, whatever any header says.
    Content,
    /// The two bodies are different kinds of thing.
    UnlikeContent,
    /// The bytes are text, but of no encoding that can be read without guessing wildly.
    Undecodable,
    /// The job was too old when its turn came.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
}

impl SkipReason {
    /// Every reason, for tables and tests.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A skip with what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The label.
    pub reason: SkipReason,
    /// One sentence for people, e.g. ``from is application/pdf (declared text/html)``. May hold hostile text.
    pub detail: String,
    /// Which version decided it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// What was measured of the child that found it out, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Box<ChildUsage>>,
}

impl Skip {
    /// A skip with its sentence.
    pub fn new(reason: SkipReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), side: None, measured: None }
    }

    /// The same, said of one side.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }
}
