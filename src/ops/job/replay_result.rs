//! What a replay did, for a person and for a program.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::bulk;
use crate::job::JobId;
use crate::ops::Exit;
use crate::ops::render::{self, sanitize};
use crate::queue::{Error, OperationId, OperatorHandle};

/// What became of the selection, as JSON shows it.
#[derive(Debug, Default, Serialize)]
pub(super) struct ReplayResult {
    pub(super) operation: Option<OperationId>,
    pub(super) selected: usize,
    pub(super) done: usize,
    pub(super) duplicate: usize,
    pub(super) missing: usize,
    pub(super) undecodable: usize,
    pub(super) full: usize,
    /// Replayed by somebody else and dead anew since they were selected: left alone.
    pub(super) died_anew: Vec<JobId>,
    /// Ids given that are no dead letters.
    pub(super) unknown: Vec<JobId>,
    /// What became of those that were replayed, by the group that they were selected with.
    pub(super) outcomes: BTreeMap<String, BTreeMap<String, usize>>,
    /// Why it ended before its last letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<String>,
}

impl ReplayResult {
    /// Those that were not come to.
    pub(super) fn rest(&self) -> usize {
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
            Ok(()) => (bulk::exit(*done, *selected, unknown), None, None),
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

    /// What became of the letters, and the commands that follow.
    pub(super) fn print(&self, queue: &OperatorHandle) {
        let Self { selected, done, duplicate, missing, undecodable, full, died_anew, operation, .. } = self;
        let operation = operation.as_ref().map_or("", OperationId::as_str);
        let rest: Vec<String> = [
            (*duplicate, "already live under another id"),
            (*missing, "gone meanwhile"),
            (*undecodable, "not a job at all"),
            (*full, "kept out by a full backlog"),
            (died_anew.len(), "left alone, because they died anew meanwhile"),
            (self.rest(), "not come to"),
        ]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        let rest = if rest.is_empty() { String::new() } else { format!(" ({})", rest.join(", ")) };
        render::note(format!("replayed {done} of {selected}{rest} as {operation}"));
        for (group, outcomes) in &self.outcomes {
            let open = outcomes.get("replayed").copied().unwrap_or(0);
            let mut ended = outcomes.clone();
            ended.remove("replayed");
            if open > 0 {
                ended.insert("not ended yet".to_owned(), open);
            }
            render::note(format!("  {}  {}", sanitize(group, 120), super::most_first(&ended)));
        }
        for id in died_anew {
            render::note(format!("  died anew  {id}"));
        }
        if *done > 0 {
            let command = |words: &str| queue.command(&format!("{words} {operation}"));
            render::command("  what became of them:    ", &command("audit show"));
            render::command("  undo what still waits:  ", &command("dead replay --undo"));
            render::command("  claim nothing more:     ", &queue.command("queue pause --reason ..."));
        }
    }
}
