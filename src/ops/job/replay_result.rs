//! What a replay did.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::bulk::Frozen;
use super::run;
use crate::job::JobId;
use crate::ops::Exit;
use crate::queue::{Error, OperationId};

/// What became of the selection, as JSON shows it.
#[derive(Debug, Default, Serialize)]
pub struct ReplayResult {
    /// The operation.
    pub operation: Option<OperationId>,
    /// Letters that were to be replayed.
    pub selected: usize,
    /// Those that were.
    pub done: usize,
    /// Those whose pair is live under another id: left alone.
    pub duplicate: usize,
    /// Those that were gone meanwhile.
    pub missing: usize,
    /// Those that are not jobs.
    pub undecodable: usize,
    /// Those that a full backlog kept out.
    pub full: usize,
    /// Replayed by somebody else and dead anew since they were selected: left alone.
    pub died_anew: Vec<JobId>,
    /// Ids given that are no dead letters.
    pub unknown: Vec<JobId>,
    /// What became of the canaries, where they were tried and did not stop it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub canaries: BTreeMap<String, usize>,
    /// What became of those that were replayed, by the group that they were selected with.
    pub outcomes: BTreeMap<String, BTreeMap<String, usize>>,
    /// Why it ended before its last letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl ReplayResult {
    /// Of a replay that has not begun.
    pub(super) fn of(frozen: &Frozen, operation: Option<OperationId>) -> Self {
        let (selected, unknown) = (frozen.jobs.len(), frozen.unknown.clone());
        Self { operation, selected, unknown, ..Self::default() }
    }

    /// Those that were not come to.
    pub fn rest(&self) -> usize {
        let Self { selected, done, duplicate, missing, undecodable, full, died_anew, .. } = self;
        selected - done - duplicate - missing - undecodable - full - died_anew.len()
    }
}

/// Why a replay ended before its last letter.
pub(super) enum ReplayStop {
    /// Redis failed at this letter, which may be replayed or not.
    Redis(JobId, Error),
    /// A canary died of what it had died of before.
    CanaryDied(JobId, String),
    /// These canaries had not ended in time.
    CanaryOpen(usize, Duration),
    /// None of the canaries was replayed and ended; what became of them.
    CanariesUntested(String),
    /// Redis failed while the end of what was replayed was waited for.
    Watching(Error),
    /// So many canaries were tried and lived, and the rest was not asked for.
    CanariesOnly(usize),
    /// The operator stopped it.
    Interrupted,
}

impl ReplayResult {
    /// The exit, why it stopped, and the failure of Redis, if that was it.
    pub(super) fn conclusion(
        &self,
        stopped: Result<(), ReplayStop>,
    ) -> (Exit, Option<String>, Option<Error>) {
        let Self { selected, done, unknown, .. } = self;
        match stopped {
            Ok(()) => (run::exit(*done, *selected, unknown), None, None),
            // That much was asked for; the rest is another command's.
            Err(ReplayStop::CanariesOnly(tried)) => (run::exit(*done, tried, unknown), None, None),
            Err(ReplayStop::CanaryDied(id, outcome)) => {
                let kind = outcome.trim_start_matches("dead:").to_owned();
                (Exit::PartlyDone, Some(format!("the canary {id} died of {kind} again")), None)
            }
            Err(ReplayStop::CanaryOpen(open, wait)) => {
                let wait = humantime::format_duration(wait);
                (Exit::PartlyDone, Some(format!("{open} canaries have not ended after {wait}")), None)
            }
            Err(ReplayStop::CanariesUntested(outcomes)) => {
                (Exit::PartlyDone, Some(format!("no canary was replayed and ended: {outcomes}")), None)
            }
            Err(ReplayStop::Watching(error)) => {
                let said = "Redis failed while the end of what was replayed was waited for".to_owned();
                (Exit::Failed, Some(said), Some(error))
            }
            Err(ReplayStop::Interrupted) => (Exit::Interrupted, Some("interrupted".to_owned()), None),
            Err(ReplayStop::Redis(id, error)) => {
                let said = format!("Redis failed while {id} was to be replayed, which may have happened");
                (Exit::Failed, Some(said), Some(error))
            }
        }
    }
}
