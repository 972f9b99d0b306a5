//! `backfill`: enqueues the db app's versions that were not analysed yet, at a bounded rate.
//!
//! It walks the app's versions in the order of their capture and enqueues, at low priority, a comparison of
//! each with the version before it. It does what the old app's rake task did, and can be ended at any moment:
//! jobs have the id `backfill:<version>`, so that what is sent twice is in once, and a cursor file says where
//! to go on.
//!
//! Invariant: the cursor is moved only over chunks that the queue has taken whole.

mod cursor;

use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Interval;

use self::cursor::{BackfillCounts, Cursor};
use super::Exit;
use super::progress::Progress;
use super::render::{self, BOLD, sanitize, styled};
use crate::api::{Api, CaptureWindow, ListedVersion, VersionChunk};
use crate::job::failure::{Failure, FailureKind};
use crate::job::{Job, JobId, OlderVersion, Priority, VersionRef};
use crate::policy::backoff;
use crate::queue::{Admission, AuditEntry, Error, ProducerHandle};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// How often a line is written where no bar can be drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Jobs sent in one command.
const BATCH: usize = 100;
/// How often a chunk is asked for while the app cannot answer.
const MAX_ATTEMPTS: u32 = 5;
/// The longest wait before the second try; it doubles, and a `Retry-After` counts more.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// The longest wait of all: who asks for more is asked again by a person.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What to walk over, and how.
#[derive(Debug, Clone)]
pub struct BackfillOptions {
    /// Earliest capture time.
    pub since: OffsetDateTime,
    /// Captured not after; now, where nothing is given.
    pub until: Option<OffsetDateTime>,
    /// Greatest number of jobs a second.
    pub rate: f64,
    /// Where to keep how far it has come.
    pub cursor: Option<PathBuf>,
    /// Compare with the page's earliest version, too.
    pub compare_earliest: bool,
    /// Also what the app holds a change of, and what was analysed before.
    pub again: bool,
    /// Look and count, enqueue nothing.
    pub dry_run: bool,
    /// Skip the confirmation.
    pub yes: bool,
    /// Why, for the audit.
    pub reason: String,
}

/// Why the walk ended before its end.
enum BackfillError {
    /// The app does not answer, or not sensibly.
    Api(Failure),
    /// The queue failed.
    Queue(Error),
    /// The backlog is at its ceiling.
    Full,
    /// Redis is near `maxmemory`.
    NoMemory,
    /// Interrupted by SIGINT.
    Interrupted,
    /// The cursor cannot be kept.
    Cursor(std::io::Error),
}

/// Says what it will do, asks, walks, and says what it did.
///
/// # Errors
/// Those of the queue; what was sent before stays sent.
pub async fn run(
    queue: &ProducerHandle,
    api: &Api,
    options: &BackfillOptions,
    json: bool,
) -> Result<Exit, Error> {
    let mut cursor = match begin(queue, options) {
        Ok(cursor) => cursor,
        Err(what) => {
            render::error(what);
            return Ok(Exit::Usage);
        }
    };
    print_plan(queue, &cursor, options);
    let confirmed = options.dry_run || options.yes || cursor.finished;
    if let Err(exit) = render::confirm("Enqueue them?", confirmed) {
        return Ok(exit);
    }
    if !options.dry_run && !cursor.finished {
        let CaptureWindow { since, until } = cursor.span();
        let (what, by) = ("backfill".to_owned(), render::operator());
        let entry =
            AuditEntry { what, by, selection: format!("{since} until {until}"), ..AuditEntry::default() };
        queue.audit(&AuditEntry { why: options.reason.clone(), ..entry }).await?;
    }
    let run = BackfillRun { queue, api, options };
    let ended = tokio::select! {
        ended = run.run_to_end(&mut cursor) => ended,
        _ = tokio::signal::ctrl_c() => Err(BackfillError::Interrupted),
    };
    print_summary(queue, &cursor, options, ended, json)
}

fn begin(queue: &ProducerHandle, options: &BackfillOptions) -> Result<Cursor, String> {
    let kept = match &options.cursor {
        Some(path) => Cursor::resume(path, queue.name(), options.since, options.until)?,
        None => None,
    };
    let until = options.until.unwrap_or_else(OffsetDateTime::now_utc);
    let cursor =
        kept.unwrap_or_else(|| Cursor::begin(queue.name(), CaptureWindow { since: options.since, until }));
    if cursor.span().since >= cursor.span().until {
        return Err("--since is not before --until: there is nothing between them".to_owned());
    }
    Ok(cursor)
}

fn print_plan(queue: &ProducerHandle, cursor: &Cursor, options: &BackfillOptions) {
    let CaptureWindow { since, until } = cursor.span();
    let which = if options.again { "all versions" } else { "versions without a change" };
    render::note(format!(
        "{} of {which} captured {since} until {until}, into queue {}, at most {}/s, at low priority",
        styled(BOLD, "backfill"),
        queue.name(),
        options.rate
    ));
    match &options.cursor {
        Some(path) if cursor.finished => {
            render::note(format!(
                "  {} says that this backfill is finished: remove it to run it again",
                path.display()
            ));
        }
        Some(path) if cursor.is_started() => {
            render::note(format!(
                "  going on where {} says, after {} versions",
                path.display(),
                cursor.count.seen
            ));
        }
        Some(path) => render::note(format!("  how far it came is kept in {}", path.display())),
        None => render::note("  how far it came is kept nowhere: name a --cursor to be able to go on"),
    }
}

/// One walk over the app's list.
struct BackfillRun<'a> {
    queue: &'a ProducerHandle,
    api: &'a Api,
    options: &'a BackfillOptions,
}

impl BackfillRun<'_> {
    async fn run_to_end(&self, cursor: &mut Cursor) -> Result<(), BackfillError> {
        // At most ten commands a second, so that a rate is kept in small steps and not in one leap a second.
        let step = ((self.options.rate / 10.0).ceil() as usize).clamp(1, BATCH);
        let mut tick = tokio::time::interval(Duration::from_secs_f64(step as f64 / self.options.rate));
        let span = cursor.span();
        let seconds =
            |to: OffsetDateTime| u64::try_from((to - span.since).whole_seconds()).unwrap_or_default();
        let template = "{bar:40.cyan/blue} {percent}%  {msg}";
        let progress = Progress::new(seconds(span.until), template, PROGRESS_INTERVAL);
        while !cursor.finished {
            let chunk = self.fetch_chunk(cursor).await.map_err(BackfillError::Api)?;
            let mut count = cursor.count;
            self.send(&chunk.versions, step, &mut tick, &mut count).await?;
            cursor.count = count;
            cursor.finished = chunk.next.is_none();
            cursor.next = chunk.next;
            if let (Some(path), false) = (&self.options.cursor, self.options.dry_run) {
                cursor.save(path).map_err(BackfillError::Cursor)?;
            }
            if let Some(last) = chunk.versions.last() {
                let count = &cursor.count;
                let message =
                    format!("{} of {} versions enqueued, at {}", count.enqueued, count.seen, last.captured);
                progress.show(seconds(last.captured), message, str::to_owned);
            }
        }
        Ok(())
    }

    /// The next chunk, asked for again for as long as the fault is the app's.
    async fn fetch_chunk(&self, cursor: &Cursor) -> Result<VersionChunk, Failure> {
        let mut attempts = 1;
        loop {
            match self.api.list_captured(cursor.span(), cursor.next.as_deref()).await {
                Err(failure) if failure.kind == FailureKind::ApiUnavailable && attempts < MAX_ATTEMPTS => {
                    let drawn = backoff::full_jitter(BACKOFF_BASE, BACKOFF_MAX, attempts, fastrand::f64());
                    let wait = failure.retry_after.unwrap_or(drawn).min(BACKOFF_MAX);
                    render::note(format!("{}; trying again", sanitize(&failure.detail, 300)));
                    tokio::time::sleep(wait).await;
                    attempts += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn send(
        &self,
        versions: &[ListedVersion],
        step: usize,
        tick: &mut Interval,
        count: &mut BackfillCounts,
    ) -> Result<(), BackfillError> {
        count.seen += versions.len() as u64;
        let wanted: Vec<Job> =
            versions.iter().filter(|v| self.options.again || !v.has_change).map(|v| self.job(v)).collect();
        count.has_change += (versions.len() - wanted.len()) as u64;
        for batch in wanted.chunks(step) {
            if self.options.dry_run {
                count.enqueued += batch.len() as u64;
                continue;
            }
            tick.tick().await;
            for admission in self.queue.enqueue(batch).await.map_err(BackfillError::Queue)? {
                match admission {
                    Admission::Admitted { .. } => count.enqueued += 1,
                    Admission::Duplicate { .. } | Admission::SameId => count.duplicate += 1,
                    Admission::AlreadyDone => count.already_done += 1,
                    Admission::Full => return Err(BackfillError::Full),
                    Admission::NoMemory => return Err(BackfillError::NoMemory),
                }
            }
        }
        Ok(())
    }

    fn job(&self, version: &ListedVersion) -> Job {
        let to = VersionRef::Uuid(version.uuid);
        let fresh = Job::new(to.clone(), to);
        Job {
            id: JobId::parse(&format!("backfill:{}", version.uuid)).unwrap_or_else(|_| JobId::generate()),
            page: Some(version.page),
            from: OlderVersion::Previous,
            priority: Priority::Low,
            compare_earliest: self.options.compare_earliest,
            again: self.options.again,
            ..fresh
        }
    }
}

fn print_summary(
    queue: &ProducerHandle,
    cursor: &Cursor,
    options: &BackfillOptions,
    ended: Result<(), BackfillError>,
    json: bool,
) -> Result<Exit, Error> {
    if json {
        render::json(
            SCHEMA_VERSION,
            &serde_json::json!({ "finished": cursor.finished, "dry_run": options.dry_run, "count": cursor.count }),
        );
    }
    let BackfillCounts { seen, has_change, enqueued, duplicate, already_done } = cursor.count;
    let verb = if options.dry_run { "would enqueue" } else { "enqueued" };
    render::note(format!(
        "{verb} {enqueued} of {seen} versions; {has_change} have a change, {duplicate} wait already, {already_done} already done"
    ));
    let go_on = match &options.cursor {
        _ if options.dry_run => "dry run: nothing changed".to_owned(),
        Some(_) => "say the same again to go on".to_owned(),
        None => "say the same again: what is in the queue stays there once".to_owned(),
    };
    let exit = match ended {
        Err(BackfillError::NoMemory) => Exit::RedisFull,
        Ok(()) | Err(_) => Exit::Failed,
    };
    let why = match ended {
        Ok(()) if options.dry_run => {
            render::note(go_on);
            return Ok(Exit::Ok);
        }
        Ok(()) => {
            let hold = queue.command("queue pause --reason ...");
            render::note(format!("To hold what waits: {hold}"));
            render::note("In the app a repeat overwrites, so that there is nothing to undo");
            return Ok(Exit::Ok);
        }
        Err(BackfillError::Queue(error)) => {
            render::note(go_on);
            return Err(error);
        }
        Err(BackfillError::Api(failure)) => sanitize(&failure.to_string(), 500),
        Err(BackfillError::Full) => "the backlog is full (queue.backlog_max)".to_owned(),
        Err(BackfillError::NoMemory) => "Redis is near maxmemory, where nothing more is admitted".to_owned(),
        Err(BackfillError::Interrupted) => "interrupted".to_owned(),
        Err(BackfillError::Cursor(error)) => format!("the cursor cannot be kept: {error}"),
    };
    render::error(format!("{why}; {go_on}"));
    Ok(exit)
}
