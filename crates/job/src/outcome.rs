//! The outcome of one delivery: reported, skipped or failed. Facts only; the judge turns them into a verdict.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::report::Report;
use super::skip::Skip;

/// How the pipeline ended for a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The pair was analysed.
    Reported(Box<Report>),
    /// The pair did not need to be analysed.
    Skipped(Skip),
    /// The pair could not be analysed.
    Failed(Failure),
}

/// Error type of every pipeline stage, so that `?` ends the pipeline.
#[derive(Debug, Clone, PartialEq)]
pub enum EarlyExit {
    /// Stop: the job does not need to be analysed.
    Skip(Skip),
    /// Stop: something went wrong.
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
