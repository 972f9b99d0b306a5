//! `queue ...`, `results ...` and `report ...`: what changes a whole queue, how jobs ended, and what was found.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use uuid::Uuid;

use crate::job::JobId;
use crate::ops;
use crate::ops::values::{pair, pause_time, setting};
use crate::queue::{DEFAULT_PAUSE, HostName, PauseName, Setting};

/// How long a host rests by hand where no time is given: most hosts ask for minutes.
const HOST_RESTS: Duration = Duration::from_secs(15 * 60);

/// `queue ...`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Stop all workers from claiming jobs until this pause is lifted or over; with a host, from visiting that host.
    #[command(after_help = "Examples:
  wm-analyzer queue pause --reason 'bad deploy'
  wm-analyzer queue pause --for 30m --name s3 --reason 'S3 is moved'
  wm-analyzer queue pause web.example.gov --for 15m --reason 'they asked'")]
    Pause {
        /// Host that nothing visits meanwhile, as in addresses, without port. Its jobs wait.
        #[arg(value_parser = HostName::parse, conflicts_with = "name")]
        host: Option<HostName>,
        /// How long, at most 30 days: a host rests for 15m without it, the queue until the pause is lifted.
        #[arg(long = "for", value_name = "TIME", value_parser = pause_time)]
        time: Option<Duration>,
        /// Name of the pause, by which it is lifted.
        #[arg(long, value_parser = PauseName::parse, default_value = DEFAULT_PAUSE)]
        name: PauseName,
        /// Reason, shown by `status`.
        #[arg(long, required_unless_present = "host")]
        reason: Option<String>,
    },
    /// Lift a pause; without a name the only one in force. With a host, end its rest.
    #[command(
        after_help = "Examples:\n  wm-analyzer queue resume\n  wm-analyzer queue resume web.example.gov"
    )]
    Resume {
        /// Name of the pause, or else a host that rests.
        #[arg(value_name = "NAME|HOST")]
        what: Option<String>,
    },
    /// Pause, and wait until no job is in flight.
    #[command(
        after_help = "Examples:\n  wm-analyzer queue drain\n  wm-analyzer queue drain --timeout 20m --reason 'move to another host'"
    )]
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
    #[command(
        after_help = "Examples:\n  wm-analyzer queue cancel bad-deploy-17\n  wm-analyzer queue cancel import-1 import-2 -o json"
    )]
    Cancel {
        /// Job ids.
        #[arg(required = true, num_args = 1..=1000, value_parser = JobId::parse)]
        ids: Vec<JobId>,
    },
    /// Change settings of the queue, which hold for all workers at once.
    #[command(after_help = "Examples:
  wm-analyzer queue set reports_max_bytes='1 GiB' backlog_max=200000
  wm-analyzer queue set --from-config")]
    Set {
        /// Settings as NAME=VALUE; `queue settings` lists the names.
        #[arg(required_unless_present = "from_config", value_parser = setting, value_name = "NAME=VALUE")]
        values: Vec<(Setting, String)>,
        /// Store all settings as this process is configured, for a deploy.
        #[arg(long, conflicts_with = "values")]
        from_config: bool,
    },
    /// Show what holds for the whole queue: pauses, hosts that rest, sizes, memory, settings.
    #[command(after_help = "Examples:\n  wm-analyzer queue show\n  wm-analyzer queue show -Q bulk -o json")]
    Show,
    /// Print all waiting work as JSON lines, for `queue import`; changes nothing. Pause the queue first.
    #[command(after_help = "Examples:\n  wm-analyzer queue export > waiting.ndjson\n  \
        wm-analyzer queue export -Q bulk | gzip > bulk.ndjson.gz")]
    Export,
    /// Take in what `queue export` printed, with ids and counts; what is here already is left alone.
    #[command(after_help = "Examples:\n  wm-analyzer queue import waiting.ndjson\n  \
        wm-analyzer queue import - -Q bulk -o json")]
    Import {
        /// The file; `-` is standard input.
        file: PathBuf,
        /// Read and check all lines, and take in nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the settings in force.
    #[command(after_help = "Examples:\n  wm-analyzer queue settings\n  wm-analyzer queue settings -o json")]
    Settings,
}

/// `quarantine ...`
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List the hosts whose jobs are held because their pages keep killing children.
    #[command(after_help = "Examples:\n  wm-analyzer quarantine ls\n  wm-analyzer quarantine ls -o json")]
    Ls,
    /// Let the jobs of a host go on.
    #[command(
        after_help = "Examples:\n  wm-analyzer quarantine lift web.example.gov\n  wm-analyzer quarantine lift 192.0.2.7"
    )]
    Lift {
        /// The host, as `quarantine ls` names it.
        #[arg(value_parser = HostName::parse)]
        host: HostName,
    },
}

impl QuarantineCommand {
    /// As `ops` takes it.
    pub fn action(self) -> ops::quarantine::QuarantineAction {
        match self {
            Self::Ls => ops::quarantine::QuarantineAction::Ls,
            Self::Lift { host } => ops::quarantine::QuarantineAction::Lift(host),
        }
    }
}

/// `results ...`
#[derive(Debug, Subcommand)]
pub enum ResultsCommand {
    /// List results, oldest first.
    #[command(
        after_help = "Examples:\n  wm-analyzer results ls\n  wm-analyzer results ls --limit 1000 -o json"
    )]
    Ls {
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show how one job ended, with its report.
    #[command(
        after_help = "Examples:\n  wm-analyzer results show import-4711\n  wm-analyzer results show import-4711 -o json"
    )]
    Show {
        /// The job id.
        #[arg(value_parser = JobId::parse)]
        id: JobId,
    },
    /// Delete the oldest results, to make room for others.
    #[command(after_help = "Examples:\n  wm-analyzer results free --older-than 2d --dry-run\n  \
        wm-analyzer results free --older-than 2d --limit 10000 --yes")]
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
            Self::Pause { host: Some(host), time, name: _, reason } => {
                let time = time.unwrap_or(HOST_RESTS);
                ops::queue::QueueAction::RestHost { host, time, reason: reason.unwrap_or_default() }
            }
            Self::Pause { host: None, time, name, reason } => {
                ops::queue::QueueAction::Pause { name, time, reason: reason.unwrap_or_default() }
            }
            Self::Resume { what } => ops::queue::QueueAction::Resume { what },
            Self::Drain { name, reason, timeout } => ops::queue::QueueAction::Drain { name, reason, timeout },
            Self::Cancel { ids } => ops::queue::QueueAction::Cancel { ids },
            Self::Set { values, from_config: _ } => ops::queue::QueueAction::Set { values },
            Self::Settings => ops::queue::QueueAction::Settings,
            Self::Show => ops::queue::QueueAction::Show,
            Self::Export => ops::queue::QueueAction::Export,
            Self::Import { file, dry_run } => ops::queue::QueueAction::Import { file, dry_run },
        }
    }
}

/// Subcommands of `report`.
#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Show the report of a pair.
    #[command(
        after_help = "Examples:\n  wm-analyzer report show 0c2f9d24-df8e-48b4-919b-7d1eca02d3c4..7c9904f4-c090-4f0d-8c3f-ba3dc4fade25\n  \
            wm-analyzer report show 0c2f9d24-df8e-48b4-919b-7d1eca02d3c4..7c9904f4-c090-4f0d-8c3f-ba3dc4fade25 --whole > steps.json"
    )]
    Show {
        /// Uuids of both versions: FROM..TO.
        #[arg(value_name = "FROM..TO", value_parser = pair)]
        pair: (Uuid, Uuid),
        /// Show all that the report has: every hunk, of the source too, and long texts whole.
        #[arg(long)]
        all: bool,
        /// Print every step of the three diffs as JSON, from the results store, to a file or a pipe.
        #[arg(long, conflicts_with = "all")]
        whole: bool,
    },
}

impl ReportCommand {
    /// As `ops` takes it.
    pub fn options(self, json: bool) -> ops::report::ReportOptions {
        let Self::Show { pair, all, whole } = self;
        ops::report::ReportOptions { pair, all, whole, json }
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
