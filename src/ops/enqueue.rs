//! `enqueue`: jobs from a file, from standard input, or one pair, read and checked before any of them is
//! sent.

use std::io::{BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Exit;
use super::render::{self, sanitize};
use crate::job::failure::Failure;
use crate::job::{Job, JobId, MAX_PAYLOAD_BYTES};
use crate::queue::{Admission, AuditEntry, Ended, Error, ProducerHandle};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Jobs sent in one command.
const BATCH: usize = 200;
/// Refused lines that are shown one by one.
const MAX_SHOWN: usize = 20;
/// Ids that are remembered, for the JSON and to wait for: a MiB.
const MAX_IDS: usize = 10_000;
/// Between two looks at jobs that are waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What to enqueue.
pub struct EnqueueOptions {
    /// JSON lines; `-` is standard input.
    pub file: Option<PathBuf>,
    /// One pair, as a native payload.
    pub pair: Option<serde_json::Value>,
    /// Read and check, send nothing.
    pub dry_run: bool,
    /// Wait so long for the jobs to end.
    pub wait: Option<Duration>,
}

/// What became of the lines.
#[derive(Debug, Default, serde::Serialize)]
struct EnqueueCounts {
    read: u64,
    enqueued: u64,
    duplicate: u64,
    already_done: u64,
    refused: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refusals: Vec<String>,
    /// Of those enqueued, the first 10,000.
    ids: Vec<JobId>,
    /// How those ended that were waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ended: Vec<Ended>,
    /// Redis is near `maxmemory`.
    #[serde(skip)]
    no_memory: bool,
}

impl EnqueueCounts {
    fn refuse(&mut self, what: String) {
        self.refused += 1;
        if self.refusals.len() < MAX_SHOWN {
            self.refusals.push(what);
        }
    }
}

/// Reads, checks and sends.
///
/// # Errors
/// Those of the queue; what was sent before stays sent, and a repeat answers `duplicate`.
pub async fn run(queue: &ProducerHandle, options: &EnqueueOptions, json: bool) -> Result<Exit, Error> {
    let mut count = EnqueueCounts::default();
    // What ended before is the end of another run under the same id.
    let began_ms = if options.wait.is_some() { queue.server_time_ms().await? } else { 0 };
    let mut batch = Vec::with_capacity(BATCH);
    let mut lines = match open_input(options) {
        Ok(lines) => lines,
        Err(what) => {
            render::error(what);
            return Ok(Exit::Failed);
        }
    };
    loop {
        let (number, job) = match next_job(lines.as_mut(), count.read) {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(e) => {
                count.refuse(format!("after line {}: cannot read on: {e}", count.read));
                break;
            }
        };
        count.read = number;
        match job {
            Ok(job) => batch.push(job),
            Err(failure) => count.refuse(format!("line {number}: {}", sanitize(&failure.to_string(), 300))),
        }
        if batch.len() == BATCH {
            send(queue, &mut batch, options.dry_run, &mut count).await?;
        }
    }
    send(queue, &mut batch, options.dry_run, &mut count).await?;
    if count.enqueued > 0 && !options.dry_run {
        let selection = options.file.as_ref().map_or_else(String::new, |path| path.display().to_string());
        let (what, by, jobs) = ("enqueue".to_owned(), render::operator(), Some(count.enqueued));
        queue.audit(&AuditEntry { what, by, selection, count: jobs, ..AuditEntry::default() }).await?;
    }
    let open = match options.wait {
        Some(wait) => until_ended(queue, &mut count, began_ms, wait).await?,
        None => 0,
    };
    let exit = print_counts(&count, options.dry_run, json);
    Ok(match (exit, open) {
        (Exit::Ok, 1..) => {
            render::error(format!("{open} of {} have not ended in time", count.ids.len()));
            Exit::PartlyDone
        }
        (Exit::Ok, 0) if count.ended.iter().any(|ended| ended.state == "dead") => Exit::Failed,
        (exit, _) => exit,
    })
}

/// Waits until the jobs have ended; returns how many have not after `wait`.
async fn until_ended(
    queue: &ProducerHandle,
    count: &mut EnqueueCounts,
    began_ms: u64,
    wait: Duration,
) -> Result<usize, Error> {
    let deadline = Instant::now() + wait;
    loop {
        count.ended = queue.ended_since(&count.ids, began_ms).await?;
        let open = count.ids.len() - count.ended.len();
        if open == 0 || Instant::now() > deadline {
            return Ok(open);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn open_input(options: &EnqueueOptions) -> Result<Box<dyn BufRead>, String> {
    match (&options.pair, &options.file) {
        (Some(pair), _) => Ok(Box::new(std::io::Cursor::new(pair.to_string()))),
        (None, Some(path)) if path.as_os_str() == "-" => Ok(Box::new(BufReader::new(std::io::stdin()))),
        (None, Some(path)) => match std::fs::File::open(path) {
            Ok(file) => Ok(Box::new(BufReader::new(file))),
            Err(e) => Err(format!("{}: {e}", path.display())),
        },
        (None, None) => Err("nothing to enqueue: name a file, or --to".to_owned()),
    }
}

/// The next line that is not blank, with its number; a line that is too long is read to its end but not kept.
fn next_job(
    lines: &mut dyn BufRead,
    mut number: u64,
) -> std::io::Result<Option<(u64, Result<Job, Failure>)>> {
    loop {
        let mut line = Vec::new();
        // One byte more than a payload may have, and one for the line end: enough to see that it is too long.
        let read = lines.take(MAX_PAYLOAD_BYTES as u64 + 2).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        number += 1;
        if line.last() != Some(&b'\n') {
            lines.skip_until(b'\n')?;
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            return Ok(Some((number, Job::decode(text))));
        }
    }
}

async fn send(
    queue: &ProducerHandle,
    batch: &mut Vec<Job>,
    dry_run: bool,
    count: &mut EnqueueCounts,
) -> Result<(), Error> {
    if dry_run {
        count.enqueued += batch.len() as u64;
        batch.clear();
        return Ok(());
    }
    for (job, admission) in batch.iter().zip(queue.enqueue(batch).await?) {
        match admission {
            Admission::Admitted { .. } => {
                count.enqueued += 1;
                if count.ids.len() < MAX_IDS {
                    count.ids.push(job.id.clone());
                }
            }
            Admission::Duplicate { .. } | Admission::SameId => count.duplicate += 1,
            Admission::AlreadyDone => count.already_done += 1,
            Admission::Full => {
                count.refuse(format!("job {}: the backlog is at its ceiling (queue.backlog_max)", job.id))
            }
            Admission::NoMemory => {
                count.no_memory = true;
                count.refuse(format!(
                    "job {}: Redis is near maxmemory, where nothing more is admitted (see status); enqueue it again later",
                    job.id
                ));
            }
        }
    }
    batch.clear();
    Ok(())
}

fn print_counts(count: &EnqueueCounts, dry_run: bool, json: bool) -> Exit {
    if json {
        render::json(SCHEMA_VERSION, count);
    } else {
        count.refusals.iter().for_each(render::error);
        let hidden = count.refused.saturating_sub(count.refusals.len() as u64);
        if hidden > 0 {
            render::error(format!("… and {hidden} more"));
        }
        let verb = if dry_run { "would enqueue" } else { "enqueued" };
        render::note(format!(
            "{verb} {}, {} already waiting or running, {} already done, {} refused",
            count.enqueued, count.duplicate, count.already_done, count.refused
        ));
        for ended in count.ended.iter().take(MAX_SHOWN) {
            let [id, state, why] = [(&ended.id, 128), (&ended.state, 20), (&ended.why, 60)]
                .map(|(text, most)| sanitize(text, most));
            render::line(format!("{id}  {state}  {why}").trim_end());
        }
        if count.ended.len() > MAX_SHOWN {
            render::note(format!("{MAX_SHOWN} of {} that have ended: -o json has all", count.ended.len()));
        }
    }
    match (count.refused, count.no_memory) {
        (0, _) => Exit::Ok,
        (_, true) => Exit::RedisFull,
        (_, false) => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_one_is_read() {
        let good = Job::new(
            crate::job::VersionRef::Uuid(uuid::Uuid::from_u128(1)),
            crate::job::VersionRef::Uuid(uuid::Uuid::from_u128(2)),
        );
        let mut text = vec![b' '; 3];
        text.extend(vec![b'x'; 100_000]);
        text.extend(b"\n\n");
        text.extend(good.encode());
        let mut lines = std::io::Cursor::new(text);
        let (number, first) = next_job(&mut lines, 0).unwrap().unwrap();
        assert!(first.is_err() && number == 1);
        let (number, second) = next_job(&mut lines, number).unwrap().unwrap();
        assert_eq!((number, second.unwrap()), (3, good));
        assert!(next_job(&mut lines, number).unwrap().is_none());
    }
}
