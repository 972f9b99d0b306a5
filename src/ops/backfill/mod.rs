//! `backfill`: versions that the db app knows and nobody analysed, put into the queue at a bounded rate.
//!
//! It walks the app's versions in the order of their capture and enqueues, at low priority, a comparison of each with
//! the version before it. It does what the old app's rake task did, and can be ended at any moment: jobs have the id
//! `backfill:<version>`, so that what is sent twice is in once, and a cursor file says where to go on.
//!
//! Invariant: the cursor is moved only over chunks that the queue has taken whole.

mod cursor;
mod progress;

use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Interval;

use self::cursor::{Count, Cursor};
use self::progress::Progress;
use super::Exit;
use super::render::{self, BOLD, plain, styled};
use crate::api::{Api, Chunk, Listed, Span};
use crate::job::failure::{Failure, Kind};
use crate::job::{Job, JobId, Older, Priority, VersionRef};
use crate::policy::backoff;
use crate::queue::{Admission, Error, ProducerHandle};

/// Jobs sent in one command.
const BATCH: usize = 100;
/// How often a chunk is asked for while the app cannot answer.
const TRIES: u32 = 5;
/// The longest wait before the second try; it doubles, and a `Retry-After` counts more.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait of all: who asks for more is asked again by a person.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What to walk over, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Captured not before.
    pub since: OffsetDateTime,
    /// Captured not after; now, where nothing is said.
    pub until: Option<OffsetDateTime>,
    /// Jobs a second.
    pub rate: f64,
    /// Where to keep how far it has come.
    pub cursor: Option<PathBuf>,
    /// Compare with the page's earliest version, too.
    pub compare_earliest: bool,
    /// Also what the app holds a change of, and what was analysed before.
    pub again: bool,
    /// Walk and count, enqueue nothing.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
}

/// Why the walk ended before its end.
enum Ended {
    /// The app does not answer, or not sensibly.
    Api(Failure),
    /// The queue is not there.
    Queue(Error),
    /// The backlog is at its ceiling.
    Full,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// The cursor cannot be kept.
    Cursor(std::io::Error),
}

/// Says what it will do, asks, walks, and says what it did.
///
/// # Errors
/// Those of the queue; what was sent before stays sent.
pub async fn run(queue: &ProducerHandle, api: &Api, options: &Options, json: bool) -> Result<Exit, Error> {
    let mut cursor = match begin(queue, options) {
        Ok(cursor) => cursor,
        Err(what) => {
            render::failure(what);
            return Ok(Exit::Usage);
        }
    };
    plan(queue, &cursor, options);
    if !options.dry_run && !options.yes && !cursor.finished {
        match render::confirm("Enqueue them?") {
            Some(true) => {}
            Some(false) => {
                render::note("nothing changed");
                return Ok(Exit::Ok);
            }
            None => {
                render::failure(
                    "there is no terminal to ask on: say --yes, or look with --dry-run; nothing changed",
                );
                return Ok(Exit::ConfirmationNeeded);
            }
        }
    }
    let walk = Walk { queue, api, options };
    let ended = tokio::select! {
        ended = walk.on(&mut cursor) => ended,
        _ = tokio::signal::ctrl_c() => Err(Ended::Interrupted),
    };
    conclude(queue, &cursor, options, ended, json)
}

fn begin(queue: &ProducerHandle, options: &Options) -> Result<Cursor, String> {
    let kept = match &options.cursor {
        Some(path) => Cursor::resume(path, queue.name(), options.since, options.until)?,
        None => None,
    };
    let until = options.until.unwrap_or_else(OffsetDateTime::now_utc);
    let cursor = kept.unwrap_or_else(|| Cursor::begin(queue.name(), Span { since: options.since, until }));
    if cursor.span().since >= cursor.span().until {
        return Err("--since is not before --until: there is nothing between them".to_owned());
    }
    Ok(cursor)
}

fn plan(queue: &ProducerHandle, cursor: &Cursor, options: &Options) {
    let Span { since, until } = cursor.span();
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
                "  {} says that this was walked to its end: remove it to walk again",
                path.display()
            ));
        }
        Some(path) if cursor.is_under_way() => {
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
struct Walk<'a> {
    queue: &'a ProducerHandle,
    api: &'a Api,
    options: &'a Options,
}

impl Walk<'_> {
    async fn on(&self, cursor: &mut Cursor) -> Result<(), Ended> {
        // At most ten commands a second, so that a rate is kept in small steps and not in one leap a second.
        let step = ((self.options.rate / 10.0).ceil() as usize).clamp(1, BATCH);
        let mut tick = tokio::time::interval(Duration::from_secs_f64(step as f64 / self.options.rate));
        let progress = Progress::new(cursor.span());
        while !cursor.finished {
            let chunk = self.ask(cursor).await.map_err(Ended::Api)?;
            let mut count = cursor.count;
            self.send(&chunk.versions, step, &mut tick, &mut count).await?;
            cursor.count = count;
            cursor.finished = chunk.next.is_none();
            cursor.next = chunk.next;
            if let (Some(path), false) = (&self.options.cursor, self.options.dry_run) {
                cursor.save(path).map_err(Ended::Cursor)?;
            }
            if let Some(last) = chunk.versions.last() {
                progress.show(last.captured, &cursor.count);
            }
        }
        Ok(())
    }

    /// The next chunk, asked for again for as long as the fault is the app's.
    async fn ask(&self, cursor: &Cursor) -> Result<Chunk, Failure> {
        let mut tries = 1;
        loop {
            match self.api.captured(cursor.span(), cursor.next.as_deref()).await {
                Err(failure) if failure.kind == Kind::ApiUnavailable && tries < TRIES => {
                    let drawn = backoff::full_jitter(FIRST_WAIT, LONGEST_WAIT, tries, fastrand::f64());
                    let wait = failure.retry_after.unwrap_or(drawn).min(LONGEST_WAIT);
                    render::note(format!("{}; trying again", plain(&failure.detail, 300)));
                    tokio::time::sleep(wait).await;
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn send(
        &self,
        versions: &[Listed],
        step: usize,
        tick: &mut Interval,
        count: &mut Count,
    ) -> Result<(), Ended> {
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
            for admission in self.queue.enqueue(batch).await.map_err(Ended::Queue)? {
                match admission {
                    Admission::Admitted { .. } => count.enqueued += 1,
                    Admission::Duplicate { .. } | Admission::SameId => count.duplicate += 1,
                    Admission::AlreadyDone => count.already_done += 1,
                    Admission::Full => return Err(Ended::Full),
                }
            }
        }
        Ok(())
    }

    fn job(&self, version: &Listed) -> Job {
        let to = VersionRef::Uuid(version.uuid);
        let fresh = Job::new(to.clone(), to);
        Job {
            id: JobId::parse(&format!("backfill:{}", version.uuid)).unwrap_or_else(|_| JobId::fresh()),
            page: Some(version.page),
            from: Older::Previous,
            priority: Priority::Low,
            compare_earliest: self.options.compare_earliest,
            again: self.options.again,
            ..fresh
        }
    }
}

fn conclude(
    queue: &ProducerHandle,
    cursor: &Cursor,
    options: &Options,
    ended: Result<(), Ended>,
    json: bool,
) -> Result<Exit, Error> {
    if json {
        render::json(
            &serde_json::json!({ "finished": cursor.finished, "dry_run": options.dry_run, "count": cursor.count }),
        );
    }
    let Count { seen, has_change, enqueued, duplicate, already_done } = cursor.count;
    let verb = if options.dry_run { "would enqueue" } else { "enqueued" };
    render::note(format!(
        "{verb} {enqueued} of {seen} versions; {has_change} have a change, {duplicate} wait already, {already_done} already done"
    ));
    let go_on = match &options.cursor {
        _ if options.dry_run => "dry run: nothing changed".to_owned(),
        Some(_) => "say the same again to go on".to_owned(),
        None => "say the same again: what is in the queue stays there once".to_owned(),
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
        Err(Ended::Queue(error)) => {
            render::note(go_on);
            return Err(error);
        }
        Err(Ended::Api(failure)) => plain(&failure.to_string(), 500),
        Err(Ended::Full) => "the backlog is full (queue.backlog_max)".to_owned(),
        Err(Ended::Interrupted) => "interrupted".to_owned(),
        Err(Ended::Cursor(error)) => format!("the cursor cannot be kept: {error}"),
    };
    render::failure(format!("{why}; {go_on}"));
    Ok(Exit::Failed)
}
