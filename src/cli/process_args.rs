//! `worker ...`, `health` and `config ...`: about one process and its configuration.

use clap::{Args, Subcommand};

use super::schema::Schema;
use crate::ops::workers::{AskOptions, Which};

/// `worker ...`
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List the workers of the queue: where they run, what they do, which are silent.
    #[command(after_help = "Examples:\n  wm-analyzer worker ls\n  wm-analyzer worker ls -o json")]
    Ls,
    /// Let workers claim no more jobs: by id from anywhere, or with --self the one in this container.
    #[command(after_help = "Examples:\n  wm-analyzer worker quiet analyzer-5b9f --reason 'a bad disk'\n  \
        wm-analyzer worker quiet --self && wm-analyzer health --live")]
    Quiet(QuietArgs),
    /// Let workers finish by their drain deadline, hand back the rest and exit.
    #[command(after_help = "Examples:\n  wm-analyzer worker stop analyzer-5b9f --reason 'a bad disk'\n  \
        wm-analyzer worker stop --all --dry-run")]
    Stop(StopArgs),
}

/// Arguments of `worker quiet`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["own", "ids", "all"]))]
pub struct QuietArgs {
    /// Send TSTP to the one worker of this binary that this process can see, without Redis: for preStop hooks.
    #[arg(long = "self")]
    pub own: bool,
    /// Which others, and how.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Arguments of `worker stop`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
pub struct StopArgs {
    /// Which, and how.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Workers that are asked through Redis.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// Ids of workers, or how they alone begin; `worker ls` lists them.
    #[arg(value_name = "ID", num_args = 1..=1000)]
    pub ids: Vec<String>,
    /// All workers of the queue.
    #[arg(long)]
    pub all: bool,
    /// Print what would be asked of whom, and ask nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation; required when stdin is not a terminal.
    #[arg(long, short)]
    pub yes: bool,
    /// Reason, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

impl AskArgs {
    /// As `ops` takes it.
    pub fn options(self) -> (Which, AskOptions) {
        let Self { ids, all, dry_run, yes, reason } = self;
        let which = if all { Which::All } else { Which::Named(ids) };
        (which, AskOptions { dry_run, yes, reason })
    }
}

/// Arguments of `health`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["live", "ready"]))]
pub struct HealthArgs {
    /// Query /livez: the process is alive (does not query Redis).
    #[arg(long)]
    pub live: bool,
    /// Query /readyz: the worker can claim jobs.
    #[arg(long)]
    pub ready: bool,
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and report every mistake; exit 78 if there is one.
    #[command(
        after_help = "Examples:\n  wm-analyzer config check -c production.toml\n  wm-analyzer config check -o json"
    )]
    Check,
    /// Print every key and value, secrets redacted.
    #[command(
        after_help = "Examples:\n  wm-analyzer config show --origin\n  wm-analyzer config show -c production.toml -o json"
    )]
    Show {
        /// Also print where each value came from.
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON Schema of a job, a report or an event.
    #[command(
        after_help = "Examples:\n  wm-analyzer config schema job > job.json\n  wm-analyzer config schema report"
    )]
    Schema {
        /// Of which.
        of: Schema,
    },
}

impl HealthArgs {
    /// The path to ask.
    pub fn path(&self) -> &'static str {
        if self.live { "/livez" } else { "/readyz" }
    }
}
