//! `job ...`, `dead ...` and `audit ...`: jobs by a selection, and what was done to them.

use clap::{Args, Subcommand};

use crate::config::Config;
use crate::job::{JobId, LimitsRequest};
use crate::ops;
use crate::ops::audit::AuditAction;
use crate::ops::job::{BulkAction, BulkOptions, DiscardPlan, Edit, Filter, JobAction, ReplayPlan};
use crate::ops::selection::GRAMMAR;
use crate::ops::values::{heap_bytes, limits, per_second, wall_ms};
use crate::queue::{JobState, OperationId, Window};
use crate::sandbox::Limits;

/// Which jobs.
#[derive(Debug, Args, Clone)]
pub struct SelectionArgs {
    /// Ids, and words such as kind:timeout or host:web.example.gov; --help lists them.
    #[arg(value_name = "FILTER", long_help = GRAMMAR)]
    pub words: Vec<String>,
    /// The same as kind:KIND.
    #[arg(long, value_name = "KIND", hide = true)]
    pub kind: Vec<String>,
    /// The same as host:HOST.
    #[arg(long, value_name = "HOST", hide = true)]
    pub host: Vec<String>,
    /// The same as since:TIME.
    #[arg(long, value_name = "TIME", hide = true)]
    pub since: Vec<String>,
}

/// How a bulk action goes about it.
#[derive(Debug, Args, Clone)]
pub struct BulkArgs {
    /// Print what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Maximum rate.
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = per_second)]
    pub rate: f64,
    /// Do not ask for confirmation; required when stdin is not a terminal.
    #[arg(long, short)]
    pub yes: bool,
    /// Reason, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Arguments of `dead replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Which ones.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How.
    #[command(flatten)]
    pub bulk: BulkArgs,
    /// Replay so many first, and the rest only if none of these dies of the same again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub canary: usize,
    /// Replay the canaries alone, and stop once they have ended; --resume replays the rest.
    #[arg(long, requires = "canary")]
    pub canary_only: bool,
    /// Give up when the canaries have not ended after this long.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub canary_wait: std::time::Duration,
    /// Limits for the replay, e.g. wall=60s,heap=512MiB; at most sandbox.max_wall and sandbox.max_heap.
    #[arg(long, value_name = "LIMIT=VALUE,...", value_parser = limits)]
    pub set: Option<LimitsRequest>,
    /// The same as --set wall=TIME.
    #[arg(long, value_name = "TIME", value_parser = wall_ms, hide = true)]
    pub wall: Option<u64>,
    /// The same as --set heap=SIZE.
    #[arg(long, value_name = "SIZE", value_parser = heap_bytes, hide = true)]
    pub heap: Option<u64>,
    /// Another value for a field of the payloads, e.g. to.media_type=text/html; the pair must stay. Repeat it.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = Edit::parse)]
    pub edit: Vec<Edit>,
    /// Wait until all have ended.
    #[arg(long)]
    pub watch: bool,
    /// Go on with a replay that was interrupted, by its name in `audit ls`.
    #[arg(long, value_name = "OPERATION", value_parser = OperationId::parse,
          conflicts_with_all = ["words", "kind", "host", "since", "canary", "canary_only", "set", "wall", "heap", "edit", "watch", "undo"])]
    pub resume: Option<OperationId>,
    /// Put what this replay put back, and what still waits, among the dead letters again.
    #[arg(long, value_name = "OPERATION", value_parser = OperationId::parse,
          conflicts_with_all = ["words", "kind", "host", "since", "canary", "canary_only", "set", "wall", "heap", "edit", "watch"])]
    pub undo: Option<OperationId>,
}

/// Arguments of `dead discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// Which ones.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How.
    #[command(flatten)]
    pub bulk: BulkArgs,
    /// Delete them for good, each once its copy is safe on stdout; state:trash empties the trash.
    #[arg(long)]
    pub now: bool,
    /// Also print a copy of each to stdout, a JSON line as `enqueue` takes it.
    #[arg(long)]
    pub copy: bool,
}

/// Arguments of `dead restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Which ones.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How.
    #[command(flatten)]
    pub bulk: BulkArgs,
    /// All that this operation discarded, by its name in `audit ls`.
    #[arg(long, value_name = "OPERATION", value_parser = OperationId::parse, conflicts_with_all = ["words", "kind", "host", "since"])]
    pub operation: Option<OperationId>,
}

/// Arguments of `job ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which ones.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Show at most this many; all are counted.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// `dead ...`
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// Why jobs die: dead letters by kind and host, with their trend, and what became of those that were replayed.
    #[command(
        after_help = "Examples:\n  wm-analyzer dead groups\n  wm-analyzer dead groups --window 1h -o json"
    )]
    Groups {
        /// Count deaths within: 1h, 3h, 24h, 3d or 7d.
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = window)]
        window: Window,
    },
    /// List dead letters, newest first; the same as `job ls state:dead`.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  wm-analyzer dead ls kind:timeout since:2h\n  wm-analyzer dead ls host:web.example.gov --limit 5"
    )]
    Ls(ListArgs),
    /// Show one dead letter with its evidence, and the command that reproduces it.
    #[command(
        after_help = "Examples:\n  wm-analyzer dead show bad-deploy-17\n  wm-analyzer dead show bad-deploy-17 -o json"
    )]
    Show {
        /// The job id.
        id: String,
    },
    /// Put dead letters back into the queue under the same id.
    #[command(
        after_help = "Examples:\n  wm-analyzer dead replay kind:timeout host:web.a.gov --canary 5\n  wm-analyzer dead replay kind:timeout --canary 5 --canary-only\n  wm-analyzer dead replay kind:wall_exceeded --set wall=60s --watch"
    )]
    Replay(ReplayArgs),
    /// Move dead letters to the trash, where they are kept for 24 h; or delete them.
    #[command(
        after_help = "Examples:\n  wm-analyzer dead discard kind:gone since:1h\n  wm-analyzer dead discard kind:decode --now > decode.ndjson"
    )]
    Discard(DiscardArgs),
    /// Take letters out of the trash.
    #[command(
        after_help = "Examples:\n  wm-analyzer dead restore --operation discard-1f3a9c2e\n  wm-analyzer dead restore kind:gone"
    )]
    Restore(RestoreArgs),
    /// Print the payloads of dead letters, as `enqueue` takes them; nothing is changed.
    #[command(
        after_help = "Examples:\n  wm-analyzer dead export kind:gone > gone.ndjson\n  wm-analyzer dead export since:2h > night.ndjson"
    )]
    Export(SelectionArgs),
}

/// `job ...`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Compare the pair of a job here, as the worker does; the job is left as it is.
    #[command(
        after_help = "Exit code: 0 analysed, 10 skipped, 11 poison.\n\nExamples:\n  wm-analyzer job diff bad-deploy-17\n  \
            wm-analyzer job diff bad-deploy-17 --limits wall=30s,heap=512MiB"
    )]
    Diff(JobDiffArgs),
    /// What needs nothing but the queue.
    #[command(flatten)]
    Queued(Box<QueuedJobCommand>),
}

/// Arguments of `job diff`; the others of `diff` are about pairs that are typed.
#[derive(Debug, Args)]
pub struct JobDiffArgs {
    /// The job id.
    #[arg(value_parser = JobId::parse)]
    pub id: JobId,
    /// Limits for this pair, e.g. wall=2s,heap=64MiB; at most sandbox.max_wall and sandbox.max_heap.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = limits, default_value = "")]
    pub limits: LimitsRequest,
    /// Show all that the report has: every hunk, of the source too, and long texts whole.
    #[arg(long)]
    pub all: bool,
    /// Also print CPU time, heap and timings.
    #[arg(long, short)]
    pub verbose: bool,
}

/// The rest of `job ...`
#[derive(Debug, Subcommand)]
pub enum QueuedJobCommand {
    /// List jobs: those in flight, waiting and dead, or in the states that are named.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  wm-analyzer job ls state:waiting host:web.a.gov\n  wm-analyzer job ls state:in_flight -o ndjson"
    )]
    Ls(ListArgs),
    /// Show one job, wherever it is, also once it has ended, with its history.
    #[command(
        after_help = "Examples:\n  wm-analyzer job show bad-deploy-17\n  wm-analyzer job show bad-deploy-17 -o json"
    )]
    Show {
        /// The job id.
        id: String,
    },
    /// Stop jobs that run or wait: one that runs is stopped, one that waits is skipped when its turn comes.
    #[command(
        after_help = "Examples:\n  wm-analyzer job cancel host:web.example.gov --dry-run\n  wm-analyzer job cancel bad-deploy-17 --yes"
    )]
    Cancel {
        /// Which ones.
        #[command(flatten)]
        selection: SelectionArgs,
        /// How.
        #[command(flatten)]
        bulk: BulkArgs,
    },
    /// Put dead letters back into the queue; the same as `dead replay`.
    #[command(
        after_help = "Examples:\n  wm-analyzer job replay kind:timeout --canary 5\n  wm-analyzer job replay --undo replay-1f3a9c2e"
    )]
    Replay(ReplayArgs),
    /// Move dead letters to the trash; the same as `dead discard`.
    #[command(
        after_help = "Examples:\n  wm-analyzer job discard kind:gone\n  wm-analyzer job discard state:trash --now > trash.ndjson"
    )]
    Discard(DiscardArgs),
    /// Take letters out of the trash; the same as `dead restore`.
    #[command(
        after_help = "Examples:\n  wm-analyzer job restore kind:gone\n  wm-analyzer job restore --operation discard-1f3a9c2e"
    )]
    Restore(RestoreArgs),
    /// Print payloads, as `enqueue` takes them; nothing is changed.
    #[command(
        after_help = "Examples:\n  wm-analyzer job export state:waiting > waiting.ndjson\n  wm-analyzer job export host:web.example.gov > host.ndjson"
    )]
    Export(SelectionArgs),
}

/// `audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List who did what, newest first.
    #[command(
        after_help = "Examples:\n  wm-analyzer audit ls\n  wm-analyzer audit ls --limit 1000 -o ndjson"
    )]
    Ls {
        /// At most this many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show a bulk action: its selection, and what became of each job.
    #[command(
        after_help = "Examples:\n  wm-analyzer audit show replay-1f3a9c2e\n  wm-analyzer audit show replay-1f3a9c2e -o json"
    )]
    Show {
        /// Its name, as `audit ls` shows it.
        #[arg(value_parser = OperationId::parse)]
        operation: OperationId,
    },
}

fn window(text: &str) -> Result<Window, String> {
    text.parse().map_err(|_| "write 1h, 3h, 24h, 3d or 7d".to_owned())
}

/// Dead letters, or those in the trash where they are named.
fn letters(selection: SelectionArgs) -> Filter {
    Filter { allowed: vec![JobState::Dead, JobState::Trash], ..Filter::dead(selection.words()) }
}

impl SelectionArgs {
    /// As `ops` takes them.
    fn words(self) -> Vec<String> {
        let Self { mut words, kind, host, since } = self;
        for (name, values) in [("kind", kind), ("host", host), ("since", since)] {
            words.extend(values.into_iter().map(|value| format!("{name}:{value}")));
        }
        words
    }
}

impl From<BulkArgs> for BulkOptions {
    fn from(BulkArgs { dry_run, rate, yes, reason }: BulkArgs) -> Self {
        Self { dry_run, rate, yes, reason }
    }
}

impl ReplayArgs {
    fn action(self, config: &Config) -> Result<JobAction, String> {
        let bulk = self.bulk.into();
        if let Some(operation) = self.resume {
            return Ok(JobAction::Bulk(BulkAction::ResumeReplay(operation, self.canary_wait), bulk));
        }
        if let Some(operation) = self.undo {
            return Ok(JobAction::Bulk(BulkAction::UndoReplay(operation), bulk));
        }
        let Self { selection, canary, canary_only, canary_wait, wall, heap, edit: edits, watch, .. } = self;
        let set = self.set.unwrap_or_default();
        let granted = LimitsRequest { wall_ms: wall.or(set.wall_ms), heap_bytes: heap.or(set.heap_bytes) };
        Limits::from_config(&config.sandbox).granted(granted, &Limits::ceiling(&config.sandbox))?;
        let plan = ReplayPlan { canary, canary_only, canary_wait, granted, edits, watch };
        Ok(JobAction::Bulk(BulkAction::Replay(Filter::dead(selection.words()), plan), bulk))
    }
}

impl DiscardArgs {
    fn action(self) -> JobAction {
        let Self { selection, bulk, now, copy } = self;
        let filter = if now { letters(selection) } else { Filter::dead(selection.words()) };
        JobAction::Bulk(BulkAction::Discard(filter, DiscardPlan { now, copy }), bulk.into())
    }
}

impl RestoreArgs {
    fn action(self) -> JobAction {
        let Self { selection, bulk, operation } = self;
        let action = match operation {
            Some(operation) => BulkAction::RestoreAll(operation),
            None => BulkAction::Restore(Filter::trash(selection.words())),
        };
        JobAction::Bulk(action, bulk.into())
    }
}

impl DeadCommand {
    /// As `ops` takes it.
    ///
    /// # Errors
    /// A limit that is above its ceiling, in a sentence.
    pub fn action(self, config: &Config) -> Result<JobAction, String> {
        Ok(match self {
            Self::Groups { window } => JobAction::Groups(window),
            Self::Ls(ListArgs { selection, limit }) => JobAction::Ls(letters(selection), limit as usize),
            Self::Show { id } => JobAction::Show(id, "dead letter"),
            Self::Replay(args) => args.action(config)?,
            Self::Discard(args) => args.action(),
            Self::Restore(args) => args.action(),
            Self::Export(selection) => JobAction::Export(letters(selection)),
        })
    }
}

impl QueuedJobCommand {
    /// As `ops` takes it.
    ///
    /// # Errors
    /// A limit that is above its ceiling, in a sentence.
    pub fn action(self, config: &Config) -> Result<JobAction, String> {
        Ok(match self {
            Self::Ls(ListArgs { selection, limit }) => {
                JobAction::Ls(Filter::any(selection.words()), limit as usize)
            }
            Self::Show { id } => JobAction::Show(id, "job"),
            Self::Cancel { selection, bulk } => {
                JobAction::Bulk(BulkAction::Cancel(Filter::live(selection.words())), bulk.into())
            }
            Self::Replay(args) => args.action(config)?,
            Self::Discard(args) => args.action(),
            Self::Restore(args) => args.action(),
            Self::Export(selection) => JobAction::Export(Filter::any(selection.words())),
        })
    }
}

impl AuditCommand {
    /// As `ops` takes it.
    pub fn action(self) -> ops::audit::AuditAction {
        match self {
            Self::Ls { limit } => AuditAction::Ls(limit as usize),
            Self::Show { operation } => AuditAction::Show(operation),
        }
    }
}
