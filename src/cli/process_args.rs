//! `worker ...`, `health` and `config ...`: about one process and its configuration.

use clap::{Args, Subcommand};

use super::schema::Schema;

/// `worker ...`
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Send TSTP to the worker in this container, so that it claims no more jobs: for preStop hooks.
    #[command(after_help = "Examples:\n  wm-analyzer worker quiet --self\n  \
        wm-analyzer worker quiet --self && wm-analyzer health --live")]
    Quiet {
        /// The one worker of this binary that this process can see.
        #[arg(long = "self", required = true)]
        own: bool,
    },
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
