//! What happened to one delivery: reported, skipped or failed. Facts only; what follows from them is a verdict.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::page::Side;
use super::report::{Measured, Report};

/// How a job's way through the pipeline ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was analysed.
    Reported(Box<Report>),
    /// It was rightly not analysed.
    Skipped(Skip),
    /// It could not be analysed.
    Failed(Failure),
}

/// The exit door of every room: `?` leaves the pipeline with one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// Leave, and it is right so.
    Skip(Skip),
    /// Leave, something went wrong.
    Fail(Failure),
}

impl From<Skip> for Stop {
    fn from(skip: Skip) -> Self {
        Self::Skip(skip)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Fail(failure)
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Skip(skip) => Self::Skipped(skip),
            Stop::Fail(failure) => Self::Failed(failure),
        }
    }
}

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
    pub measured: Option<Box<Measured>>,
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

/// How often this job was handed out and how that went; the judge's arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Times it was claimed, this one included; graceful releases are taken back.
    pub deliveries: u32,
    /// Attempts that failed for the target's or the job's sake.
    pub failures: u32,
    /// Times a child's death left doubt whose fault it was, and it was run once more for that.
    #[serde(default)]
    pub doubts: u32,
    /// Times its worker vanished.
    pub crashes: u32,
    /// Times it was put off for our sake, and that was counted.
    pub postponements: u32,
    /// The time that those postponements put it off, in milliseconds. What passed beside them is not in it.
    #[serde(default)]
    pub put_off_ms: u64,
    /// Times it was handed back gracefully.
    pub releases: u32,
    /// Times an operator put it back from the dead letters.
    pub replays: u32,
}
