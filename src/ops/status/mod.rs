//! `status`: how much waits, how fast it ends, what holds it up and why jobs die, on one screen, with the next command
//! where one suggests itself.
//!
//! Invariant: a Redis that is slow or frozen never holds it up. What was not read in time is taken from the last look of
//! the worker that looks after the queue, or is unknown, and either is said.

mod hints;
mod layout;
mod screen;
mod sections;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout_at};

use self::layout::Line;
use super::render::width::terminal_width;
use super::render::{self, sanitize};
use super::{Exit, Output};
use crate::queue::{self, Config, Error, Group, Queue, Status};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Time for all reads together: with the end of the process it is 2 s, after which a person wonders.
const DEADLINE: Duration = Duration::from_millis(1_800);
/// Groups of dead letters in JSON; `dead groups` has all.
const GROUPS_MAX: usize = 10;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct StatusOptions {
    /// Show it again and again, so often.
    pub watch: Option<Duration>,
    /// How it is printed.
    pub output: Output,
    /// Time for connecting beyond that for reading: over TLS a connection that fails is only then told why.
    pub tls: Option<Duration>,
}

/// What is known of the queue, by its age.
#[derive(Debug, Clone)]
enum Numbers {
    /// Read just now.
    Current(Box<Status>),
    /// The looker's last look: without workers, counters, rates and hosts.
    Glance(Box<Status>),
    /// What this command showed last.
    Previous(Box<Status>),
    /// Nothing.
    Unknown,
}

/// One look at the queue.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    queue: String,
    /// What a command repeats, as [`crate::queue::Config::command_flags`].
    flags: String,
    numbers: Numbers,
    /// The groups of dead letters, those with most first; `None` where they were not read.
    groups: Option<Vec<Group>>,
    /// Why not all of it was read.
    late: Option<String>,
    /// The local time, in milliseconds since 1970.
    now_ms: u64,
}

impl Numbers {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Current(status) | Self::Glance(status) | Self::Previous(status) => Some(status),
            Self::Unknown => None,
        }
    }

    fn is_current(&self) -> bool {
        matches!(self, Self::Current(_))
    }

    /// True where nothing is missing that a look at the queue itself sees.
    fn is_whole(&self) -> bool {
        match self {
            Self::Current(_) | Self::Previous(_) => true,
            Self::Glance(_) | Self::Unknown => false,
        }
    }

    /// What is not known, as JSON names it.
    fn unknown(&self) -> &'static [&'static str] {
        match self {
            Self::Current(_) | Self::Previous(_) => &[],
            Self::Glance(_) => {
                &["workers", "fetching", "analysing", "last_hour", "last_day", "rates", "hosts"]
            }
            Self::Unknown => &["status"],
        }
    }
}

impl Look {
    /// A look that saw nothing, and why.
    pub(crate) fn nothing(config: &Config, late: String) -> Self {
        let (queue, flags) = (config.name.as_str().to_owned(), config.command_flags.clone());
        Self { queue, flags, numbers: Numbers::Unknown, groups: None, late: Some(late), now_ms: now_ms() }
    }

    /// A look that Redis refused.
    pub(crate) fn failed(config: &Config, error: &Error) -> Self {
        Self::nothing(config, sanitize(&error.to_string(), 200))
    }

    /// Reads what can be read until then.
    pub(crate) async fn take(config: &Config, queue: &Queue, until: Instant) -> Result<Self, Error> {
        let (status, glance, groups) = tokio::join!(
            timeout_at(until, queue.status()),
            timeout_at(until, queue.last_glance()),
            timeout_at(until, queue.groups()),
        );
        let groups = groups.ok().and_then(Result::ok).map(|(groups, _)| groups);
        let numbers = match (status, glance) {
            (Ok(status), _) => Numbers::Current(Box::new(status?)),
            (Err(_), Ok(Ok(Some(glance)))) => Numbers::Glance(Box::new(glance)),
            (Err(_), Ok(Ok(None) | Err(_)) | Err(_)) => Numbers::Unknown,
        };
        let late = (!numbers.is_current() || groups.is_none()).then(too_late);
        Ok(Self { numbers, groups, late, ..Self::nothing(config, String::new()) })
    }

    /// This look, or where it saw less than the one before, what that one saw.
    pub(crate) fn or_before(self, before: &Self) -> Self {
        match self.numbers {
            Numbers::Glance(_) | Numbers::Unknown if before.numbers.is_whole() => Self {
                numbers: previous(before.numbers.clone()),
                groups: self.groups.or_else(|| before.groups.clone()),
                ..self
            },
            _ => self,
        }
    }

    /// What is known of the queue, of any age.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.numbers.status()
    }

    /// The same where it was read just now.
    pub(crate) fn current(&self) -> Option<&Status> {
        self.numbers.status().filter(|_| self.numbers.is_current())
    }

    /// True where workers, rates and hosts are known, of any age.
    pub(crate) fn is_whole(&self) -> bool {
        self.numbers.is_whole()
    }

    /// The groups of dead letters, those with most first; `None` where they were not read.
    pub(crate) fn groups(&self) -> Option<&[Group]> {
        self.groups.as_deref()
    }

    /// When it was taken, in milliseconds since 1970: by the clock of Redis where that told it.
    pub(crate) fn at_ms(&self) -> u64 {
        self.current().map_or(self.now_ms, |status| status.at_ms)
    }

    /// Why not all of it was read.
    pub(crate) fn late(&self) -> Option<&str> {
        self.late.as_deref()
    }

    /// A command for this queue.
    pub(crate) fn command(&self, words: &str) -> String {
        queue::command(&self.queue, &self.flags, words)
    }

    /// Time since the numbers were read, by the clocks of Redis and of this machine; 0 where they are current.
    pub(crate) fn age(&self) -> Duration {
        let at_ms = self.numbers.status().filter(|_| !self.numbers.is_current()).map(|status| status.at_ms);
        Duration::from_millis(at_ms.map_or(0, |at_ms| self.now_ms.saturating_sub(at_ms)))
    }

    /// Why work waits although it should run. Only current numbers tell.
    fn stalled(&self) -> Option<String> {
        self.numbers.status().filter(|_| self.numbers.is_current()).and_then(Status::stalled)
    }

    fn exit(&self) -> Exit {
        let sound = |status: &Status| status.problems().is_empty() && status.unreadable.is_empty();
        let well =
            self.late.is_none() && self.stalled().is_none() && self.numbers.status().is_some_and(sound);
        if well { Exit::Ok } else { Exit::Failed }
    }

    fn to_json(&self) -> Value {
        let status = self.numbers.status();
        let mut value = status.map_or_else(|| json!({}), |s| serde_json::to_value(s).unwrap_or_default());
        value["queue"] = self.queue.as_str().into();
        value["stalled"] = self.stalled().into();
        value["problems"] = status.map(Status::problems).into();
        let groups = self.groups.as_ref().map(|groups| &groups[..groups.len().min(GROUPS_MAX)]);
        value["groups"] = json!(groups);
        let unknown = self.numbers.unknown().iter().chain(self.groups.is_none().then_some(&"groups"));
        value["partial"] = json!(self.late.as_ref().map(|why| json!({
            "why": why, "age_ms": u64::try_from(self.age().as_millis()).ok(), "unknown": unknown.collect::<Vec<_>>(),
        })));
        value
    }
}

/// Shows it. `connecting` opens the queue. Ends with [`Exit::Failed`] when somebody should look: jobs wait and nothing
/// works on them, Redis is not well, or it did not answer in time.
///
/// # Errors
/// Those of `connecting`, and those of the queue as `failed` tells them.
pub async fn run<F>(
    config: &Config,
    connecting: impl Future<Output = Result<Queue, F>>,
    options: StatusOptions,
    failed: impl Fn(Error) -> F,
) -> Result<Exit, F> {
    let Some(every) = options.watch else {
        let patience = DEADLINE + options.tls.unwrap_or_default();
        let look = match timeout_at(Instant::now() + patience, connected(connecting)).await {
            Ok(Ok((queue, began))) => Look::take(config, &queue, began + patience).await.map_err(failed)?,
            Ok(Err(failure)) => return Err(failure),
            Err(_) => Look::nothing(config, too_late()),
        };
        match options.output.is_json() {
            true => render::json(SCHEMA_VERSION, &look.to_json()),
            false => print(screen::lines(&look, terminal_width())),
        }
        return Ok(look.exit());
    };
    if options.output == Output::Json {
        render::error("--watch shows it again and again: take -o ndjson, an object a line");
        return Ok(Exit::Usage);
    }
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    tokio::select! {
        result = watch(config, connecting, every, options.output, failed) => result,
        _ = &mut interrupted => Ok(Exit::Ok),
    }
}

/// The queue, and when this began: connecting and reading share one deadline.
async fn connected<F>(connecting: impl Future<Output = Result<Queue, F>>) -> Result<(Queue, Instant), F> {
    let began = Instant::now();
    Ok((connecting.await?, began))
}

/// Shows it until it is interrupted. A Redis that goes away meanwhile is waited for.
async fn watch<F>(
    config: &Config,
    connecting: impl Future<Output = Result<Queue, F>>,
    every: Duration,
    output: Output,
    failed: impl Fn(Error) -> F,
) -> Result<Exit, F> {
    let mut connecting = pin!(connecting);
    let queue = loop {
        match timeout_at(Instant::now() + DEADLINE, &mut connecting).await {
            Ok(queue) => break queue?,
            Err(_) => redraw(&Look::nothing(config, too_late()), output),
        }
    };
    let mut shown: Option<Look> = None;
    loop {
        let seen = match Look::take(config, &queue, Instant::now() + DEADLINE).await {
            Ok(seen) => seen,
            Err(error @ Error::Unavailable(_)) => Look::failed(config, &error),
            Err(error) => return Err(failed(error)),
        };
        // What this command saw itself is more than what a glance has.
        let seen = match &shown {
            Some(before) => seen.or_before(before),
            None => seen,
        };
        redraw(&seen, output);
        shown = Some(seen);
        sleep(every).await;
    }
}

fn previous(numbers: Numbers) -> Numbers {
    match numbers {
        Numbers::Current(status) => Numbers::Previous(status),
        older @ (Numbers::Glance(_) | Numbers::Previous(_) | Numbers::Unknown) => older,
    }
}

fn too_late() -> String {
    format!("Redis did not answer within {:.1} s", DEADLINE.as_secs_f64())
}

fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

fn print(lines: Vec<Line>) {
    for line in lines {
        match line {
            Line::Data(text) => render::line(text),
            Line::Talk(text) => render::note(text),
        }
    }
}

/// The screen in place of the one before, as far as the terminal is high; or an object on a line.
fn redraw(look: &Look, output: Output) {
    if output.is_json() {
        return render::line(render::json_document_line(SCHEMA_VERSION, &look.to_json()));
    }
    let lines = screen::lines(look, terminal_width());
    let height = terminal_size::terminal_size().map_or(usize::MAX, |(_, rows)| usize::from(rows.0));
    let text = |line| match line {
        Line::Data(text) | Line::Talk(text) => text,
    };
    let lines: Vec<String> = lines.into_iter().map(text).take(height.saturating_sub(1)).collect();
    // Home, and clear what is below: one write, so that nothing flickers. Without a terminal the codes are left out.
    render::text(format!("\x1b[H\x1b[2J{}\n", lines.join("\n")));
}

#[cfg(test)]
mod snapshots;
