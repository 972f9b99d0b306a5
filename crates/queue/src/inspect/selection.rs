//! Which jobs a command is about: one selection for listing, counting and acting, in every state.

use wm_job::failure::FailureKind;
use wm_job::{JobId, Priority};

use uuid::Uuid;

use crate::inspect::jobs::StoredJob;

/// Where a job is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It can be claimed now.
    Ready,
    /// It waits until it is due, or for its host.
    Scheduled,
    /// It waits to run with nothing else in flight at its worker.
    Exclusive,
    /// A worker has claimed it.
    InFlight,
    /// It is a dead letter.
    Dead,
    /// It is a dead letter that was discarded, and is deleted within a day.
    Trash,
}

impl JobState {
    /// All of them, in the order in which they are listed.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;
    /// Those in which a job waits for a worker.
    pub const WAITING: [Self; 3] = [Self::Ready, Self::Scheduled, Self::Exclusive];

    /// Its label.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How often a job was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayCount {
    /// Never.
    Never,
    /// At least so often.
    AtLeast(u32),
}

/// Selects jobs: each list that is not empty must hold what a job has; an empty selection takes all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Where it is.
    pub states: Vec<JobState>,
    /// The kind of failure of a dead letter, or of the last failure of a job that waits.
    pub kinds: Vec<FailureKind>,
    /// Its host, as [`StoredJob::host`] names it.
    pub hosts: Vec<String>,
    /// The build that ran it last; a prefix is enough.
    pub builds: Vec<String>,
    /// Earliest [`StoredJob::since_ms`], inclusive.
    pub since_ms: Option<u64>,
    /// Latest, inclusive.
    pub until_ms: Option<u64>,
    /// Its priority.
    pub priorities: Vec<Priority>,
    /// How often it was replayed.
    pub replayed: Option<ReplayCount>,
    /// Its id.
    pub ids: Vec<JobId>,
    /// Its page.
    pub pages: Vec<Uuid>,
    /// Words in its failure, its id or its addresses, in any case.
    pub texts: Vec<String>,
}

impl Selection {
    /// One that takes jobs by id.
    pub fn of_ids(ids: &[JobId]) -> Self {
        Self { ids: ids.to_vec(), ..Self::default() }
    }

    /// True when it takes every job, in these states.
    pub fn takes_all(&self) -> bool {
        *self == Self { states: self.states.clone(), ..Self::default() }
    }

    /// True when it takes this job.
    pub fn takes(&self, job: &StoredJob) -> bool {
        let Self {
            states,
            kinds,
            hosts,
            builds,
            since_ms,
            until_ms,
            priorities,
            replayed,
            ids,
            pages,
            texts,
        } = self;
        any_of(states, |state| *state == job.state)
            && any_of(ids, |id| *id == job.id)
            && since_ms.is_none_or(|since| job.since_ms() >= since)
            && until_ms.is_none_or(|until| job.since_ms() <= until)
            && any_of(kinds, |kind| job.kind() == Some(*kind))
            && any_of(hosts, |host| job.host().as_ref() == Some(host))
            && any_of(builds, |build| job.build().is_some_and(|of| of.starts_with(build)))
            && any_of(priorities, |priority| job.job().is_some_and(|of| of.priority == *priority))
            && any_of(pages, |page| job.job().is_some_and(|of| of.page == Some(*page)))
            && replayed.is_none_or(|count| match count {
                ReplayCount::Never => job.replays == 0,
                ReplayCount::AtLeast(least) => job.replays >= least,
            })
            && texts.iter().all(|text| job.mentions(&text.to_lowercase()))
    }
}

fn any_of<T>(wanted: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(is_it)
}
