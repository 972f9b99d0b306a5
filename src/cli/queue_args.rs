//! `queue ...` and `results ...`: what changes a whole queue, and how jobs ended.

use clap::Subcommand;

use super::values::setting;
use crate::job::JobId;
use crate::ops;
use crate::queue::{DEFAULT_PAUSE, PauseName, Setting};

/// `queue ...`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Stop all workers from claiming jobs until this pause is lifted.
    Pause {
        /// Name of the pause, by which it is lifted.
        #[arg(long, value_parser = PauseName::parse, default_value = DEFAULT_PAUSE)]
        name: PauseName,
        /// Reason, shown by `status`.
        #[arg(long)]
        reason: String,
    },
    /// Lift a pause; without a name the only one in force.
    Resume {
        /// Name of the pause.
        #[arg(value_parser = PauseName::parse)]
        name: Option<PauseName>,
    },
    /// Pause, and wait until no job is in flight.
    Drain {
        /// Name of the pause, by which it is lifted.
        #[arg(long, value_parser = PauseName::parse, default_value = DEFAULT_PAUSE)]
        name: PauseName,
        /// Reason, shown by `status`.
        #[arg(long, default_value = "drain")]
        reason: String,
        /// Stop waiting after this long; the queue stays paused.
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
        timeout: std::time::Duration,
    },
    /// Cancel jobs, in flight or waiting: one in flight is stopped, one waiting is skipped when claimed.
    Cancel {
        /// Job ids.
        #[arg(required = true, num_args = 1..=1000, value_parser = JobId::parse)]
        ids: Vec<JobId>,
    },
    /// Change settings of the queue, which hold for all workers at once.
    #[command(after_help = "Example: wm-analyzer queue set reports_max_bytes='1 GiB' backlog_max=200000")]
    Set {
        /// Settings as NAME=VALUE; `queue settings` lists the names.
        #[arg(required_unless_present = "from_config", value_parser = setting, value_name = "NAME=VALUE")]
        values: Vec<(Setting, String)>,
        /// Store all settings as this process is configured, for a deploy.
        #[arg(long, conflicts_with = "values")]
        from_config: bool,
    },
    /// Show the settings in force.
    Settings,
}

/// `results ...`
#[derive(Debug, Subcommand)]
pub enum ResultsCommand {
    /// List results, oldest first.
    Ls {
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show how one job ended, with its report.
    Show {
        /// The job id.
        #[arg(value_parser = JobId::parse)]
        id: JobId,
    },
    /// Delete the oldest results, to make room for others.
    Free {
        /// At most this many, oldest first.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Only those stored longer ago than this, e.g. 2d.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        older_than: Option<std::time::Duration>,
        /// Print what would be deleted, and delete nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation; required when stdin is not a terminal.
        #[arg(long, short)]
        yes: bool,
    },
}

impl QueueCommand {
    /// As `ops` takes it.
    pub fn action(self) -> ops::queue::QueueAction {
        match self {
            Self::Pause { name, reason } => ops::queue::QueueAction::Pause { name, reason },
            Self::Resume { name } => ops::queue::QueueAction::Resume { name },
            Self::Drain { name, reason, timeout } => ops::queue::QueueAction::Drain { name, reason, timeout },
            Self::Cancel { ids } => ops::queue::QueueAction::Cancel { ids },
            Self::Set { values, from_config: _ } => ops::queue::QueueAction::Set { values },
            Self::Settings => ops::queue::QueueAction::Settings,
        }
    }
}

impl ResultsCommand {
    /// As `ops` takes it.
    pub fn action(self) -> ops::results::ResultsAction {
        match self {
            Self::Ls { limit } => ops::results::ResultsAction::Ls { limit: limit as usize },
            Self::Show { id } => ops::results::ResultsAction::Show { id },
            Self::Free { limit, older_than, dry_run, yes } => {
                ops::results::ResultsAction::Free { most: limit, older_than, yes, dry_run }
            }
        }
    }
}
