//! The clap tree: what can be typed, and the plain values it stands for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use time::OffsetDateTime;

use super::schema::Schema;
use super::values::{heap_bytes, limits, per_second, sha256, timestamp, wall_ms};
use crate::config::Config;
use crate::job::{JobId, LimitsRequest};
use crate::ops;
use crate::sandbox::Limits;

/// Compares captured versions of web pages, job by job, and lets no page bring it down.
#[derive(Debug, Parser)]
#[command(name = "wm-analyzer", version, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// Configuration file; repeat it to layer several, later ones winning.
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Redis to use (stronger than REDIS_URL and queue.url).
    #[arg(long, global = true, value_name = "URL")]
    pub redis: Option<String>,
    /// Queue to use (stronger than queue.name).
    #[arg(long, short = 'Q', global = true, value_name = "NAME")]
    pub queue: Option<String>,
    /// For people, or for programs.
    #[arg(long, short = 'o', global = true, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// What to do.
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
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare two files or URLs: the same filter, sandbox and analysis, no Redis.
    #[command(
        after_help = "Exit code: 0 analysed, 10 skipped, 11 poison.\n\nExample: wm-analyzer diff old.html new.html"
    )]
    Diff(DiffArgs),
    /// Run a worker: take jobs from the queue until told to stop.
    Work(WorkArgs),
    /// See it work: a private Redis, a misbehaving site, good and poison pairs, and what became of each.
    Demo(DemoArgs),
    /// Put jobs into the queue: from a file of JSON lines, from standard input (-), or one pair by uuid.
    #[command(after_help = "Example: wm-analyzer enqueue jobs.jsonl")]
    Enqueue(EnqueueArgs),
    /// Walk the versions that the db app knows, and enqueue those that nobody compared with the one before them.
    #[command(
        after_help = "Example: wm-analyzer backfill --since 2018-10-01 --until 2018-11-01 --cursor october.json"
    )]
    Backfill(BackfillArgs),
    /// What is waiting, running and dead, on one screen.
    Status,
    /// Pause, resume or drain the queue.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Look at dead letters; put them back or throw them away.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Speak to worker processes.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Ask a running worker how it is (for container health checks).
    Health(HealthArgs),
    /// Check Redis, limits and isolation, and say what is wrong.
    Doctor,
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older version: a file or a URL.
    pub from: String,
    /// The newer version: a file or a URL.
    pub to: String,
    /// Other limits than the configured ones, e.g. wall=2s,heap=64MiB; up to sandbox.max_wall and sandbox.max_heap.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = limits, default_value = "")]
    pub limits: LimitsRequest,
    /// SHA-256 of the older body as it was captured: anything else is a mismatch, as in the worker.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub from_hash: Option<String>,
    /// The same of the newer one.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub to_hash: Option<String>,
    /// Also say what was measured.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `work`.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// Jobs at once (stronger than sandbox.slots; 0 computes it from memory and CPUs).
    #[arg(long, short = 'j', value_name = "N")]
    pub slots: Option<u32>,
    /// EarlyExit when nothing is waiting any more.
    #[arg(long)]
    pub until_empty: bool,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Good pairs to enqueue, at least 200.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(200..=20_000))]
    pub pairs: u32,
}

/// Arguments of `enqueue`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "to"]))]
pub struct EnqueueArgs {
    /// JSON lines, one native job each; - reads standard input.
    pub file: Option<PathBuf>,
    /// The older version's uuid; absent means the previous version.
    #[arg(long, requires = "to")]
    pub from: Option<String>,
    /// The newer version's uuid.
    #[arg(long)]
    pub to: Option<String>,
    /// Analyse even what was analysed before.
    #[arg(long, requires = "to")]
    pub again: bool,
    /// Read and check everything, enqueue nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `backfill`.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// Captured not before: 2018-10-01, or 2018-10-01T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    pub since: OffsetDateTime,
    /// Captured not after (default: now, or what the cursor says).
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    pub until: Option<OffsetDateTime>,
    /// Keep in this file how far it came, and go on from there.
    #[arg(long, value_name = "FILE")]
    pub cursor: Option<PathBuf>,
    /// Compare with the page's earliest version, too.
    #[arg(long)]
    pub compare_earliest: bool,
    /// Also what has a change in the app, or was analysed before.
    #[arg(long)]
    pub again: bool,
    /// How.
    #[command(flatten)]
    pub bulk: BulkArgs,
}

/// `queue ...`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Hand out nothing more, in all workers, until resumed.
    Pause {
        /// Why: shown to whoever looks.
        #[arg(long)]
        reason: String,
    },
    /// Hand out jobs again.
    Resume,
    /// Pause, and wait until no job is running.
    Drain {
        /// Why: shown to whoever looks.
        #[arg(long, default_value = "drain")]
        reason: String,
        /// Give up waiting after this long (the queue stays paused).
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
        timeout: std::time::Duration,
    },
    /// Jobs that nobody wants any more: a running one is stopped, a waiting one is skipped when its turn comes.
    Cancel {
        /// Job ids.
        #[arg(required = true, num_args = 1..=1000, value_parser = JobId::parse)]
        ids: Vec<JobId>,
    },
}

/// Which dead letters.
#[derive(Debug, Args, Clone)]
pub struct SelectionArgs {
    /// Job ids.
    pub ids: Vec<String>,
    /// Only these kinds, e.g. timeout,memory_exceeded.
    #[arg(long, value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Only these hosts.
    #[arg(long, value_delimiter = ',')]
    pub host: Vec<String>,
    /// Only those that died within this time, e.g. 2h.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub since: Option<std::time::Duration>,
    /// At most this many, newest first.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// How a bulk action goes about it.
#[derive(Debug, Args, Clone, Copy)]
pub struct BulkArgs {
    /// Say what would be touched, touch nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// At most this many a second.
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = per_second)]
    pub rate: f64,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    pub yes: bool,
}

/// `dead ...`
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List dead letters, newest first, with a count by kind.
    #[command(visible_alias = "list")]
    Ls(SelectionArgs),
    /// Everything that is known of one, and the command that reproduces it.
    Show {
        /// The job id.
        id: String,
    },
    /// Put dead letters back into the queue under the same id.
    Replay {
        /// Which ones.
        #[command(flatten)]
        selection: SelectionArgs,
        /// How.
        #[command(flatten)]
        bulk: BulkArgs,
        /// Under another wall clock than the configured one, e.g. 30s; up to sandbox.max_wall.
        #[arg(long, value_name = "TIME", value_parser = wall_ms)]
        wall: Option<u64>,
        /// With another heap than the configured one, e.g. 512MiB; up to sandbox.max_heap. It waits until the worker
        /// has so much memory free.
        #[arg(long, value_name = "SIZE", value_parser = heap_bytes)]
        heap: Option<u64>,
    },
    /// Throw dead letters away.
    Discard {
        /// Which ones.
        #[command(flatten)]
        selection: SelectionArgs,
        /// How.
        #[command(flatten)]
        bulk: BulkArgs,
    },
}

/// `worker ...`
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Tell the worker in this container to claim nothing more (sends it TSTP): for preStop hooks.
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
    /// Is the process alive (never asks Redis)?
    #[arg(long)]
    pub live: bool,
    /// Can it take jobs?
    #[arg(long)]
    pub ready: bool,
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read everything, say all that is wrong at once; exit 78 if anything is.
    Check,
    /// Every key and value, secrets left out.
    Show {
        /// Also say where each value came from.
        #[arg(long)]
        origin: bool,
    },
    /// The JSON Schema of a job, a report or an event.
    Schema {
        /// Of which.
        of: Schema,
    },
}

impl DiffArgs {
    /// As `ops` takes it.
    pub fn options(self, config: &Config, json: bool) -> ops::diff::DiffOptions {
        let Self { from, to, limits, from_hash, to_hash, verbose } = self;
        let (hashes, max_body) = ([from_hash, to_hash], config.fetch.max_body.as_u64());
        ops::diff::DiffOptions { from, to, hashes, limits, json, verbose, max_body }
    }
}

impl EnqueueArgs {
    /// As `ops` takes it.
    pub fn options(self) -> ops::enqueue::EnqueueOptions {
        let pair =
            self.to.map(|to| serde_json::json!({ "v": 1, "from": self.from, "to": to, "again": self.again }));
        ops::enqueue::EnqueueOptions { file: self.file, pair, dry_run: self.dry_run }
    }
}

impl BackfillArgs {
    /// As `ops` takes it.
    pub fn options(self) -> ops::backfill::BackfillOptions {
        let Self { since, until, cursor, compare_earliest, again, bulk: BulkArgs { dry_run, rate, yes } } =
            self;
        ops::backfill::BackfillOptions { since, until, rate, cursor, compare_earliest, again, dry_run, yes }
    }
}

impl QueueCommand {
    /// As `ops` takes it.
    pub fn action(self) -> ops::queue::QueueAction {
        match self {
            Self::Pause { reason } => ops::queue::QueueAction::Pause { reason },
            Self::Resume => ops::queue::QueueAction::Resume,
            Self::Drain { reason, timeout } => ops::queue::QueueAction::Drain { reason, timeout },
            Self::Cancel { ids } => ops::queue::QueueAction::Cancel { ids },
        }
    }
}

impl DeadCommand {
    /// As `ops` takes it.
    ///
    /// # Errors
    /// A limit that is above its ceiling, in a sentence.
    pub fn action(self, config: &Config) -> Result<ops::dead::DeadAction, String> {
        Ok(match self {
            Self::Ls(selection) => ops::dead::DeadAction::Ls(selection.into()),
            Self::Show { id } => ops::dead::DeadAction::Show(id),
            Self::Replay { selection, bulk, wall, heap } => {
                let granted = LimitsRequest { wall_ms: wall, heap_bytes: heap };
                let usual = Limits::from_config(&config.sandbox);
                usual.granted(granted, &Limits::ceiling(&config.sandbox))?;
                ops::dead::DeadAction::Replay(selection.into(), bulk.into(), granted)
            }
            Self::Discard { selection, bulk } => {
                ops::dead::DeadAction::Discard(selection.into(), bulk.into())
            }
        })
    }
}

impl From<SelectionArgs> for ops::dead::DeadSelection {
    fn from(typed: SelectionArgs) -> Self {
        let SelectionArgs { ids, kind, host, since, limit } = typed;
        Self { ids, kinds: kind, hosts: host, since, limit: limit as usize }
    }
}

impl From<BulkArgs> for ops::dead::BulkOptions {
    fn from(BulkArgs { dry_run, rate, yes }: BulkArgs) -> Self {
        Self { dry_run, rate, yes }
    }
}

impl HealthArgs {
    /// The path to ask.
    pub fn path(&self) -> &'static str {
        if self.live { "/livez" } else { "/readyz" }
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
