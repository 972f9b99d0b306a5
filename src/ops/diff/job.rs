//! `job diff ID`: the pair of a job, resolved, filtered, fetched and analysed as in the worker.
//!
//! It is the reproduction command of a job whose addresses hold secrets: these stay in the job. Nothing is written,
//! neither to the queue nor to the db app.

use std::time::Duration;

use crate::job::failure::{Failure, FailureKind, Stage};
use crate::job::outcome::Outcome;
use crate::job::page::PagePair;
use crate::job::{Job, LimitsRequest};
use crate::pipeline::{Interrupted, LeaseGate, Pipeline};
use crate::sandbox::{Meter, Pool};

/// Runs the pipeline on the job, with these limits in place of the configured ones.
pub(super) async fn compare(job: &Job, limits: LimitsRequest, pipeline: &Pipeline, pool: &Pool) -> Outcome {
    let run = pipeline.run(job, limits, pool, &NoLease).await;
    run.result.unwrap_or_else(|because| {
        Outcome::Failed(Failure::new(FailureKind::Stranded, format!("postponed: {}", because.as_str())))
    })
}

/// The gate of a run that has no lease to lose and no start permits to ask for: one pair, asked for by a person.
struct NoLease;

impl LeaseGate for NoLease {
    async fn start(&self, _pair: &PagePair) -> Result<(), Interrupted> {
        Ok(())
    }

    fn stage_started(&self, _stage: Stage, _limit: Option<Duration>) {}

    async fn enter_child(&self, _limit: Duration, _meter: Meter) -> Result<(), Failure> {
        Ok(())
    }

    fn may_have_posted(&self) -> bool {
        false
    }

    async fn confirm(&self) -> Result<(), Failure> {
        Ok(())
    }
}
