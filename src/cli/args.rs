//! The clap tree: what can be typed, and the plain values it stands for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use time::OffsetDateTime;

use super::job_args::{AuditCommand, BulkArgs, DeadCommand, JobCommand, JobDiffArgs};
use super::monitor_args::{CheckArgs, CompletionsArgs, ManArgs, SentryCommand, StatusArgs};
use super::process_args::{ConfigCommand, HealthArgs, WorkerCommand};
use super::queue_args::{QuarantineCommand, QueueCommand, ReportCommand, ResultsCommand};
use crate::config::Config;
use crate::config::assemble::VERSION;
use crate::job::{Job, JobId, LimitsRequest};
use crate::ops;
use crate::ops::diff::Compared;
use crate::ops::values::{limits, sha256, timestamp};

/// Compares captured versions of web pages from a Redis queue, each pair in a sandboxed child process.
#[derive(Debug, Parser)]
#[command(name = "wm-analyzer", version = VERSION, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// Configuration file; repeat it to layer several, later ones winning.
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Redis address; overrides REDIS_URL and queue.url.
    #[arg(long, global = true, value_name = "URL")]
    pub redis: Option<String>,
    /// Queue name; overrides queue.name.
    #[arg(long, short = 'Q', global = true, value_name = "NAME")]
    pub queue: Option<String>,
    /// Output format.
    #[arg(long, short = 'o', global = true, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// The subcommand and its arguments.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Tables and sentences.
    Text,
    /// One JSON object.
    Json,
    /// A JSON object a line, where the output is a long list; otherwise as json.
    Ndjson,
}

impl From<OutputFormat> for ops::Output {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Text => Self::Text,
            OutputFormat::Json => Self::Json,
            OutputFormat::Ndjson => Self::Ndjson,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare two files or URLs, or the pair of a job, with the worker's filter, sandbox and analysis.
    #[command(
        after_help = "Exit code: 0 analysed, 10 skipped, 11 poison.\n\nExamples:\n  wm-analyzer diff old.html new.html\n  \
            wm-analyzer diff old.html https://web.example.gov/ --limits wall=30s -v"
    )]
    Diff(DiffArgs),
    /// Run a worker: process jobs until TERM or INT.
    #[command(
        after_help = "Examples:\n  wm-analyzer work -c production.toml\n  wm-analyzer work -j 4 --until-empty"
    )]
    Work(WorkArgs),
    /// Run the worker against a private Redis and a misbehaving site, and show the outcome of each pair.
    #[command(after_help = "Examples:\n  wm-analyzer demo --dash\n  wm-analyzer demo --pairs 2000 -o json")]
    Demo(DemoArgs),
    /// Enqueue jobs from a file of JSON lines, from standard input (-), or one pair by uuid.
    #[command(after_help = "Examples:\n  wm-analyzer enqueue jobs.jsonl\n  \
        wm-analyzer enqueue --to 7c9904f4-c090-4f0d-8c3f-ba3dc4fade25 --again")]
    Enqueue(EnqueueArgs),
    /// Enqueue the db app's versions that have not been compared with the version before them.
    #[command(
        after_help = "Examples:\n  wm-analyzer backfill --since 2018-10-01 --until 2018-11-01 --cursor oct.json\n  \
            wm-analyzer backfill --since 2018-10-01 --rate 20/s --dry-run"
    )]
    Backfill(BackfillArgs),
    /// Show on one screen how much waits, how fast it ends, what holds it up and why jobs die.
    #[command(after_help = "Exit code: 0 all is well, 1 somebody should look.\n\nExamples:\n  \
        wm-analyzer status --watch\n  wm-analyzer status -Q bulk -o json")]
    Status(StatusArgs),
    /// Serve the dashboard: look, understand, act. Needs Redis only, no worker.
    #[command(
        after_help = "Examples:\n  wm-analyzer dash\n  wm-analyzer dash -c production.toml --bind 127.0.0.1:9000"
    )]
    Dash(DashArgs),
    /// Pause, resume or drain the queue; cancel jobs; change settings.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Hosts whose jobs are held because their pages keep killing children.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// List or show results, or free the oldest.
    #[command(subcommand)]
    Results(ResultsCommand),
    /// Show what changed between two versions.
    #[command(subcommand)]
    Report(ReportCommand),
    /// List, show, cancel or export jobs in any state; replay, discard or restore dead letters.
    #[command(subcommand)]
    Job(JobCommand),
    /// Dead letters: why jobs die, and what to do about it.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Show what operators did, and what became of it.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Signal worker processes.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Query a running worker's health endpoint, for container health checks.
    #[command(
        after_help = "Examples:\n  wm-analyzer health --live\n  wm-analyzer health --ready -c production.toml"
    )]
    Health(HealthArgs),
    /// Check Redis, memory limits and isolation.
    #[command(
        after_help = "Examples:\n  wm-analyzer doctor\n  wm-analyzer doctor -c production.toml -o json"
    )]
    Doctor,
    /// Answer a monitoring system: is somebody needed? Exit code 0 ok, 1 warning, 2 critical, 3 unknown.
    #[command(after_help = "Unknown: Redis does not answer within 8 s, or there is no such queue.\n\n\
        Examples:\n  wm-analyzer check --max-age 15m --max-dead 50\n  \
        wm-analyzer check -Q bulk --min-workers 3 --format prometheus > bulk.prom")]
    Check(CheckArgs),
    /// Try the alerts.
    #[command(subcommand)]
    Sentry(SentryCommand),
    /// Print completions for a shell.
    #[command(after_help = "Examples:\n  \
        wm-analyzer completions bash > /etc/bash_completion.d/wm-analyzer\n  \
        wm-analyzer completions fish > ~/.config/fish/completions/wm-analyzer.fish")]
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command.
    #[command(
        after_help = "Examples:\n  wm-analyzer man | man -l -\n  wm-analyzer man --dir /usr/local/share/man/man1"
    )]
    Man(ManArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Older version: a file or an http(s) URL.
    #[arg(required_unless_present = "job")]
    pub from: Option<String>,
    /// Newer version: a file or an http(s) URL.
    #[arg(required_unless_present = "job")]
    pub to: Option<String>,
    /// Job whose pair is compared; the same as `job diff ID`.
    #[arg(long, value_name = "ID", value_parser = JobId::parse, conflicts_with_all = ["from", "to", "from_hash", "to_hash"])]
    pub job: Option<JobId>,
    /// Limits for this pair, e.g. wall=2s,heap=64MiB; at most sandbox.max_wall and sandbox.max_heap.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = limits, default_value = "")]
    pub limits: LimitsRequest,
    /// SHA-256 of the older body as captured; another body is a hash mismatch, as in the worker.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub from_hash: Option<String>,
    /// SHA-256 of the newer body as captured.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub to_hash: Option<String>,
    /// Show all that the report has: every hunk, of the source too, and long texts whole.
    #[arg(long)]
    pub all: bool,
    /// Print every step of the three diffs as JSON, in the shapes of web-monitoring-diff, to a file or a pipe.
    #[arg(long, conflicts_with_all = ["all", "verbose", "job"])]
    pub whole: bool,
    /// Also print CPU time, heap and timings.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `work`.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// Concurrent jobs; overrides sandbox.slots. 0 computes it from memory and CPUs.
    #[arg(long, short = 'j', value_name = "N")]
    pub slots: Option<u32>,
    /// Exit when nothing is waiting any more.
    #[arg(long)]
    pub until_empty: bool,
}

/// Arguments of `dash`.
#[derive(Debug, Args)]
pub struct DashArgs {
    /// Address to listen on; overrides dash.bind.
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<String>,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Ordinary pairs to enqueue, 200 to 20,000.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(200..=20_000))]
    pub pairs: u32,
    /// Serve the dashboard on the demo's queue, and keep both until Ctrl-C.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:8090")]
    pub dash: Option<std::net::SocketAddr>,
}

/// Arguments of `enqueue`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "to"]))]
pub struct EnqueueArgs {
    /// File of JSON lines, one native job each; - reads standard input.
    pub file: Option<PathBuf>,
    /// The older version's uuid; absent means the previous version.
    #[arg(long, requires = "to")]
    pub from: Option<String>,
    /// The newer version's uuid.
    #[arg(long)]
    pub to: Option<String>,
    /// Analyse the pair even if it was analysed before.
    #[arg(long, requires = "to")]
    pub again: bool,
    /// Read and check the jobs without enqueuing them.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the jobs have ended, at most this long, and show how; exit 1 if one died, 5 if one did not end.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s",
          value_parser = humantime::parse_duration, conflicts_with = "dry_run")]
    pub wait: Option<std::time::Duration>,
}

/// Arguments of `backfill`.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// Earliest capture time: 2018-10-01, or 2018-10-01T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    pub since: OffsetDateTime,
    /// Latest capture time (default: now, or the cursor's).
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    pub until: Option<OffsetDateTime>,
    /// File that stores the position, from which an interrupted backfill resumes.
    #[arg(long, value_name = "FILE")]
    pub cursor: Option<PathBuf>,
    /// Also compare with the page's earliest version.
    #[arg(long)]
    pub compare_earliest: bool,
    /// Include versions that have a change in the app or were analysed before.
    #[arg(long)]
    pub again: bool,
    /// How.
    #[command(flatten)]
    pub bulk: BulkArgs,
}

impl From<JobDiffArgs> for DiffArgs {
    fn from(JobDiffArgs { id, limits, all, verbose }: JobDiffArgs) -> Self {
        let (from, to, from_hash, to_hash) = (None, None, None, None);
        Self { from, to, job: Some(id), limits, from_hash, to_hash, all, whole: false, verbose }
    }
}

impl DiffArgs {
    /// As `ops` takes it; `job` is the one that was named, if one was.
    pub fn options(self, job: Option<Job>, config: &Config, json: bool) -> ops::diff::DiffOptions {
        let Self { from, to, job: _, limits, from_hash, to_hash, all, whole, verbose } = self;
        let compared = match job {
            Some(job) => Compared::Job(Box::new(job)),
            None => Compared::Named {
                from: from.unwrap_or_default(),
                to: to.unwrap_or_default(),
                hashes: [from_hash, to_hash],
            },
        };
        let max_body = config.fetch.max_body.as_u64();
        ops::diff::DiffOptions { compared, limits, json, all, whole, verbose, max_body }
    }
}

impl EnqueueArgs {
    /// As `ops` takes it.
    pub fn options(self) -> ops::enqueue::EnqueueOptions {
        let pair =
            self.to.map(|to| serde_json::json!({ "v": 1, "from": self.from, "to": to, "again": self.again }));
        ops::enqueue::EnqueueOptions { file: self.file, pair, dry_run: self.dry_run, wait: self.wait }
    }
}

impl BackfillArgs {
    /// As `ops` takes it.
    pub fn options(self) -> ops::backfill::BackfillOptions {
        let Self {
            since,
            until,
            cursor,
            compare_earliest,
            again,
            bulk: BulkArgs { dry_run, rate, yes, reason },
        } = self;
        ops::backfill::BackfillOptions {
            since,
            until,
            rate,
            cursor,
            compare_earliest,
            again,
            dry_run,
            yes,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }
}
