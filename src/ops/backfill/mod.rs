//! `backfill`: enqueues the db app's versions that were not analysed yet, at a bounded rate.
//!
//! It walks the app's versions in the order of their capture and enqueues, at low priority, a comparison of
//! each with the version before it. It does what the old app's rake task did, and can be ended at any moment:
//! jobs have the id `backfill:<version>`, so that what is sent twice is in once, and a cursor file says where
//! to go on. What ended for good in an earlier run (the first version of a page, another type, a body that is gone) is
//! not enqueued again while the queue remembers how it ended.
//!
//! Invariant: the cursor is moved only over chunks that the queue has taken whole.

mod cursor;
mod listing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Interval;
use uuid::Uuid;

use self::cursor::{BackfillCounts, Cursor};
use self::listing::Listing;
use super::Exit;
use super::progress::Progress;
use super::render::{self, BOLD, sanitize, styled};
use crate::api::{Api, CaptureWindow, ListedVersion};
use crate::job::failure::{Blame, Failure, FailureKind};
use crate::job::skip::SkipReason;
use crate::job::{Job, JobId, OlderVersion, Priority, VersionRef};
use crate::queue::{Admission, AuditEntry, Ended, Error, ProducerHandle};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// How often a line is written where no bar can be drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Jobs sent in one command.
const BATCH: usize = 100;
/// Versions named that cannot be enqueued; the others are counted.
const NAMED_MAX: u64 = 20;

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
        let mut listing = Listing::new(self.api, span);
        while !cursor.finished {
            let chunk = listing.next_chunk(cursor.next.as_deref()).await.map_err(BackfillError::Api)?;
            let mut count = cursor.count;
            count.seen += chunk.unreadable;
            count.unreadable += chunk.unreadable;
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

    async fn send(
        &self,
        versions: &[ListedVersion],
        step: usize,
        tick: &mut Interval,
        count: &mut BackfillCounts,
    ) -> Result<(), BackfillError> {
        let wanted: Vec<Job> = versions.iter().filter_map(|version| self.wanted(version, count)).collect();
        let wanted = self.without_ended(wanted, count).await?;
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

    /// The job for a version; counts why there is none.
    fn wanted(&self, version: &ListedVersion, count: &mut BackfillCounts) -> Option<Job> {
        count.seen += 1;
        let Some(page) = version.page else {
            count.unreadable += 1;
            if count.unreadable <= NAMED_MAX {
                let ListedVersion { uuid, captured, .. } = version;
                render::note(format!("version {uuid} of {captured} has no page: passed over"));
            }
            return None;
        };
        let counter = match (version.different, version.has_change) {
            (false, _) => &mut count.unchanged,
            (true, true) if !self.options.again => &mut count.has_change,
            (true, _) => return Some(self.job(version.uuid, page)),
        };
        *counter += 1;
        None
    }

    fn job(&self, version: Uuid, page: Uuid) -> Job {
        let to = VersionRef::Uuid(version);
        let fresh = Job::new(to.clone(), to);
        Job {
            id: JobId::parse(&format!("backfill:{version}")).unwrap_or_else(|_| JobId::generate()),
            page: Some(page),
            from: OlderVersion::Previous,
            priority: Priority::Low,
            compare_earliest: self.options.compare_earliest,
            again: self.options.again,
            ..fresh
        }
    }

    /// The jobs but those that would end as they did in an earlier run.
    async fn without_ended(
        &self,
        jobs: Vec<Job>,
        count: &mut BackfillCounts,
    ) -> Result<Vec<Job>, BackfillError> {
        if self.options.again || jobs.is_empty() {
            return Ok(jobs);
        }
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id.clone()).collect();
        let ended = self.queue.ended_since(&ids, 0).await.map_err(BackfillError::Queue)?;
        let ended: BTreeMap<&str, &Ended> = ended.iter().map(|ended| (ended.id.as_str(), ended)).collect();
        let is_new = |job: &Job| match ended.get(job.id.as_str()).map(|ended| ending(ended)) {
            None | Some(EndedFor::Now) => true,
            Some(EndedFor::Done) => {
                count.already_done += 1;
                false
            }
            Some(EndedFor::Good) => {
                count.ended_before += 1;
                false
            }
        };
        Ok(jobs.into_iter().filter(is_new).collect())
    }
}

/// What an earlier end says about another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndedFor {
    /// The pair was analysed.
    Done,
    /// It would end so again.
    Good,
    /// It may end otherwise.
    Now,
}

fn ending(ended: &Ended) -> EndedFor {
    let is_final = match ended.state.as_str() {
        "done" => return EndedFor::Done,
        "skipped" => match ended.why.parse() {
            Ok(SkipReason::AlreadyDone) => return EndedFor::Done,
            // An older version may be imported, but no backfill before that finds one.
            Ok(SkipReason::NoPrevious) => true,
            Ok(reason) => reason.is_permanent(),
            Err(_) => false,
        },
        _ => FailureKind::parse(&ended.why).is_some_and(|kind| kind.blame() == Blame::Job),
    };
    if is_final { EndedFor::Good } else { EndedFor::Now }
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
    let BackfillCounts {
        seen,
        unchanged,
        unreadable,
        has_change,
        enqueued,
        duplicate,
        already_done,
        ended_before,
    } = cursor.count;
    let verb = if options.dry_run { "would enqueue" } else { "enqueued" };
    let others = [
        (unchanged, "are as the one before"),
        (has_change, "have a change"),
        (duplicate, "wait already"),
        (already_done, "already done"),
        (ended_before, "ended for good before"),
        (unreadable, "cannot be read there"),
    ];
    let others = others.into_iter().filter(|(number, _)| *number > 0);
    let others: Vec<String> = others.map(|(number, what)| format!("{number} {what}")).collect();
    let colon = if others.is_empty() { "" } else { "; " };
    render::note(format!("{verb} {enqueued} of {seen} versions{colon}{}", others.join(", ")));
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
