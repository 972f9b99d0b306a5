//! What happened to one delivery: reported, skipped or failed. Facts only; what follows from them is a verdict.

use super::failure::Failure;
use super::report::Report;
use super::skip::Skip;

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
pub enum EarlyExit {
    /// Leave, and it is right so.
    Skip(Skip),
    /// Leave, something went wrong.
    Fail(Failure),
}

impl From<Skip> for EarlyExit {
    fn from(skip: Skip) -> Self {
        Self::Skip(skip)
    }
}

impl From<Failure> for EarlyExit {
    fn from(failure: Failure) -> Self {
        Self::Fail(failure)
    }
}

impl From<EarlyExit> for Outcome {
    fn from(stop: EarlyExit) -> Self {
        match stop {
            EarlyExit::Skip(skip) => Self::Skipped(skip),
            EarlyExit::Fail(failure) => Self::Failed(failure),
        }
    }
}
