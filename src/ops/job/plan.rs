//! What a bulk action is about to touch, and why one is refused: values, which a face of the program shows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Filter;
use super::bulk::Frozen;
use crate::job::JobId;
use crate::job::duration::millis;
use crate::ops::audit::no_operation_sentence;
use crate::ops::render::format_duration;
use crate::ops::{Exit, selection};
use crate::queue::{Error, OperationId, OperatorHandle};

/// What a bulk action will touch, and how; nothing has changed yet.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// `replay`, `discard`, `restore`, `undo`, `cancel`
    pub verb: &'static str,
    /// What it acts on, one of them: `dead letter`.
    pub noun: &'static str,
    /// All of it in one sentence, which begins with the verb.
    pub summary: String,
    /// The question that confirms it.
    pub question: String,
    /// The selection as it was typed, or the name of the operation that it follows.
    pub selection: String,
    /// The operation that it goes on with or takes back. Its jobs were selected before: no words did now.
    pub follows: Option<OperationId>,
    /// Jobs that it acts on.
    pub count: usize,
    /// Jobs that match, of which one action takes `count`.
    pub matching: usize,
    /// Nothing was left out by the selection.
    pub takes_all: bool,
    /// The jobs by kind of failure; `-` for none.
    pub kinds: BTreeMap<String, usize>,
    /// The jobs by host.
    pub hosts: BTreeMap<String, usize>,
    /// Some of them: id and detail.
    pub sample: Vec<String>,
    /// Jobs a second.
    pub rate: f64,
    /// How long it takes at this rate.
    pub expected_ms: u64,
    /// Limits, edits, canaries, or where they go, in words that follow the noun; often empty.
    pub how: String,
    /// It deletes for good, and therefore needs a [`CopyOutput`](super::CopyOutput).
    pub deletes: bool,
    /// What should be known before it is confirmed.
    pub warnings: Vec<Warning>,
    /// Ids that were named and are no such jobs.
    pub unknown: Vec<JobId>,
    /// What they would have to be: `live job`.
    pub unknown_noun: &'static str,
    /// When the jobs were selected, by the clock of Redis. Prepared again with it as [`Filter::at_ms`], the action is
    /// on the same jobs, and on none that came since.
    pub at_ms: u64,
}

/// A sentence of a plan, and the command that helps, where one does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The sentence.
    pub said: String,
    /// What the command is for, and the command.
    pub command: Option<(&'static str, String)>,
}

impl From<String> for Warning {
    fn from(said: String) -> Self {
        Self { said, command: None }
    }
}

/// What a bulk action is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActionName {
    /// `replay`
    pub(super) verb: &'static str,
    /// `dead letter`
    pub(super) noun: &'static str,
    /// What an id must be to be selected: `live job`.
    pub(super) unknown_noun: &'static str,
    /// The sentence where nothing matches.
    pub(super) nothing: &'static str,
}

impl ActionName {
    pub(super) fn nouns(&self, count: usize) -> String {
        format!("{count} {}{}", self.noun, if count == 1 { "" } else { "s" })
    }
}

impl Plan {
    /// Of what `filter` selected.
    pub(super) fn of_selection(
        queue: &OperatorHandle,
        frozen: &Frozen,
        filter: &Filter,
        name: ActionName,
        rate: f64,
        how: String,
    ) -> Self {
        let nouns = name.nouns(frozen.jobs.len());
        let mut plan = Self::of(frozen, name, rate, how);
        plan.summary = format!(
            "{} {nouns} of queue {}{}, {rate}/s, about {}",
            name.verb,
            queue.name(),
            plan.how,
            format_duration(expected(frozen.jobs.len(), rate)),
        );
        plan.selection = filter.typed();
        plan
    }

    /// Of jobs that an operation has acted on, or has not come to.
    pub(super) async fn of_operation(
        queue: &OperatorHandle,
        frozen: &Frozen,
        follows: &OperationId,
        name: ActionName,
        (rate, how): (f64, String),
        summary: String,
    ) -> Result<Self, Error> {
        let plan = Self::of(frozen, name, rate, how);
        let (selection, at_ms) = (follows.to_string(), queue.server_time_ms().await?);
        Ok(Self { summary, selection, follows: Some(follows.clone()), at_ms, ..plan })
    }

    fn of(frozen: &Frozen, name: ActionName, rate: f64, how: String) -> Self {
        let count = frozen.jobs.len();
        Self {
            verb: name.verb,
            noun: name.noun,
            summary: String::new(),
            question: format!("{} {}?", name.verb, name.nouns(count)),
            selection: String::new(),
            follows: None,
            count,
            matching: frozen.matching,
            takes_all: frozen.takes_all,
            kinds: frozen.kinds.clone(),
            hosts: frozen.hosts.clone(),
            sample: frozen.sample.clone(),
            rate,
            expected_ms: millis(expected(count, rate)),
            how,
            deletes: false,
            warnings: Vec::new(),
            unknown: frozen.unknown.clone(),
            unknown_noun: frozen.unknown_noun,
            at_ms: frozen.at_ms,
        }
    }
}

fn expected(count: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(count as f64 / rate)
}

/// Why a bulk action is not prepared. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// What was asked for is wrong, in a sentence.
    Usage(String),
    /// There is no job to act on.
    NothingMatched {
        /// The sentence.
        said: String,
        /// Ids that were named and are no such jobs.
        unknown: Vec<JobId>,
        /// What they would have to be.
        unknown_noun: &'static str,
    },
    /// The operation is not known, or its jobs are not kept any more.
    NoOperation(OperationId),
    /// The operation is known and cannot be followed by this action, in a sentence.
    CannotFollow(String),
    /// The operation was begun by a build whose options this one cannot read.
    OtherBuild(OperationId),
}

impl Refusal {
    /// `no dead letters match: nothing to do`, and nothing else to say.
    pub(super) fn nothing(said: String) -> Self {
        Self::NothingMatched { said, unknown: Vec::new(), unknown_noun: "" }
    }

    /// With what exit code a command ends for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NothingMatched { .. } | Self::NoOperation(_) | Self::CannotFollow(_) => {
                Exit::NothingMatched
            }
            Self::OtherBuild(_) => Exit::Failed,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(said) | Self::NothingMatched { said, .. } | Self::CannotFollow(said) => {
                f.write_str(said)
            }
            Self::NoOperation(id) => f.write_str(&no_operation_sentence(id)),
            Self::OtherBuild(id) => {
                write!(f, "{id} was begun by another build, whose options this one cannot read")
            }
        }
    }
}

/// Of an id that was named and is no such job, with the word that was probably meant.
pub fn unknown_sentence(id: &JobId, noun: &str) -> String {
    let near = id.as_str().split_once(':').and_then(|(name, _)| selection::near_word(name));
    let near = near.map_or(String::new(), |word| format!(" (did you mean {word}:?)"));
    format!("no {noun}: {id}{near}")
}
