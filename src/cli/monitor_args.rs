//! `status`, `check`, `sentry ...`, `completions` and `man`: for monitoring systems, and for whoever installs the program.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::ops::check::{CheckFormat, CheckOptions};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show it again every 2 s, or so often, until Ctrl-C. Of -o, text or ndjson.
    #[arg(long, value_name = "EVERY", num_args = 0..=1, require_equals = true, default_missing_value = "2s",
        value_parser = watch_interval)]
    pub watch: Option<Duration>,
}

/// Reads `2s`. One look reads some 400 keys: more often than once a second would be a load of its own.
fn watch_interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|e| e.to_string())? {
        every if every < Duration::from_secs(1) => Err("once a second at most".to_owned()),
        every => Ok(every),
    }
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Warn when the oldest waiting job, or a pause, is older than this.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    pub max_age: Duration,
    /// Warn above this many dead letters.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub max_dead: u64,
    /// Warn above this many ready jobs [default: any number].
    #[arg(long, value_name = "N")]
    pub max_ready: Option<u64>,
    /// Critical below this many workers that are alive.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub min_workers: u64,
    /// Output format [default: nagios; json with -o json].
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<CheckFormat>,
}

/// `sentry ...`
#[derive(Debug, Subcommand)]
pub enum SentryCommand {
    /// Send one event and wait for Sentry's answer: prints the event's id, or what was refused.
    #[command(after_help = "Exit code: 0 accepted, 1 refused or no answer, 78 no DSN is set.\n\n\
        Examples:\n  wm-analyzer sentry test\n  wm-analyzer sentry test -c production.toml -o json")]
    Test,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell.
    pub shell: CompletionShell,
}

/// The shells that completions are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    /// Bash, with bash-completion.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, which must exist.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl CheckArgs {
    /// As `ops` takes it.
    pub fn options(self, json: bool) -> CheckOptions {
        let Self { max_age, max_dead, max_ready, min_workers, format } = self;
        let usual = if json { CheckFormat::Json } else { CheckFormat::Nagios };
        CheckOptions { max_age, max_dead, max_ready, min_workers, format: format.unwrap_or(usual) }
    }
}
