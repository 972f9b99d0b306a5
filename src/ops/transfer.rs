//! `queue export` and `queue import`: all waiting work as JSON lines, and back, with ids, order and counts.
//!
//! The first line says what it is, the last one how much there was: a file without its last line was cut off. An import
//! is run again after an interruption; what is there already is counted and left alone.

use std::io::BufRead;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Exit;
use super::render::{self, sanitize};
use crate::queue::{
    AuditEntry, Error, ExportPage, ExportedJob, ImportOutcome, Imported, OperatorHandle, TRANSFER_BATCH,
};

/// Version of the lines, and of the JSON that an import prints.
const SCHEMA_VERSION: u32 = 1;
/// Lines that could not be read, and are named one by one.
const MAX_SHOWN: usize = 20;
/// Longest line: a payload at its limit of 8 KiB thrice (it, its follow-up, its last failure), escaped; four times that.
const MAX_LINE_BYTES: usize = 128 * 1024;

/// One line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
enum ExportLine {
    /// The first one.
    Export { schema_version: u32, export: Uuid, queue: String, at_ms: u64, newest_place: u64 },
    /// A payload of the inbox; in base64 where it is not UTF-8.
    Inbox {
        number: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload_base64: Option<String>,
    },
    /// A job.
    Job(ExportedJob),
    /// The last one.
    End { payloads: u64, jobs: u64 },
}

/// Prints all waiting work.
///
/// # Errors
/// Those of the queue; the lines then have no last one.
pub async fn export(queue: &OperatorHandle) -> Result<Exit, Error> {
    let status = queue.status().await?;
    if status.pauses.is_empty() {
        let name = queue.name();
        render::note(format!("{name} is not paused: what is claimed or admitted meanwhile may be left out"));
        render::command("best before it:", &queue.command("queue drain --name move"));
    }
    if status.in_flight > 0 {
        render::note(format!("{} jobs are in flight, and are not exported", status.in_flight));
    }
    let newest_place = queue.newest_place().await?;
    print(&ExportLine::Export {
        schema_version: SCHEMA_VERSION,
        export: Uuid::new_v4(),
        queue: queue.name().to_owned(),
        at_ms: status.at_ms,
        newest_place,
    });
    let (mut payloads, mut jobs, mut pages) = (0, 0, queue.export());
    while let Some(page) = pages.next().await? {
        match page {
            ExportPage::Inbox(page) => {
                for payload in page {
                    payloads += 1;
                    print(&inbox_line(payloads, payload));
                }
            }
            ExportPage::Jobs(page) => {
                jobs += page.len() as u64;
                page.into_iter().for_each(|job| print(&ExportLine::Job(job)));
            }
        }
    }
    print(&ExportLine::End { payloads, jobs });
    render::note(format!("exported {jobs} jobs and {payloads} payloads of the inbox; nothing changed"));
    Ok(Exit::Ok)
}

fn print(line: &ExportLine) {
    render::line(render::json_line(line));
}

fn inbox_line(number: u64, payload: Vec<u8>) -> ExportLine {
    match String::from_utf8(payload) {
        Ok(payload) => ExportLine::Inbox { number, payload: Some(payload), payload_base64: None },
        Err(e) => {
            ExportLine::Inbox { number, payload: None, payload_base64: Some(BASE64.encode(e.as_bytes())) }
        }
    }
}

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct ImportCounts {
    imported: u64,
    known: u64,
    duplicate: u64,
    /// Their ids lie in the trash here: left alone, and the first of them.
    in_trash: u64,
    trash: Vec<String>,
    refused: u64,
    refusals: Vec<String>,
    /// Payloads and jobs that the last line counts, once it was read, and lines that were there for them.
    counted: Option<u64>,
    lines: u64,
    /// The last line was there, and nothing between it and the first one is missing.
    complete: bool,
    /// It ended early, because there is no room.
    stopped: bool,
    /// Nothing was taken in: `imported` is what would be, and what is known already is not told apart.
    dry_run: bool,
}

impl ImportCounts {
    /// What is wrong with the file as a whole; None where all of it was there.
    fn cut(&self) -> Option<String> {
        match self.counted {
            None => Some(
                "the last line of the export is missing: it was cut off, there may have been more".to_owned(),
            ),
            Some(counted) if counted != self.lines => Some(format!(
                "the last line of the export counts {counted} payloads and jobs, and {} lines are there: some are missing, \
                 or are none of it",
                self.lines
            )),
            Some(_) => None,
        }
    }

    /// A line that belongs to the export; one that does not is refused.
    fn accept(&mut self, number: usize, read: Result<String, String>) -> Option<ExportLine> {
        if self.counted.is_some() {
            self.refuse(number, "behind the last line");
            return None;
        }
        let line = read.and_then(|text| parse(&text));
        if !matches!(line, Ok(ExportLine::Export { .. } | ExportLine::End { .. })) {
            self.lines += 1;
        }
        line.map_err(|why| self.refuse(number, &why)).ok()
    }

    fn refuse(&mut self, number: usize, why: &str) {
        self.refused += 1;
        if self.refusals.len() < MAX_SHOWN {
            self.refusals.push(format!("line {number}: {}", sanitize(why, 300)));
        }
    }
}

/// Where an export comes from, and what of it is to be taken in by the next call.
struct Batch {
    export: String,
    newest_place: u64,
    payloads: Vec<(u64, Vec<u8>)>,
    jobs: Vec<ExportedJob>,
}

/// Why an import ended early.
enum Stopped {
    Full,
    NoMemory,
    /// The file could not be read to its end.
    Unreadable(String),
}

/// Takes in what `queue export` printed.
///
/// # Errors
/// Those of the queue; what was taken in before stays, and is known when it is run again.
pub async fn import(
    queue: &OperatorHandle,
    mut lines: Box<dyn BufRead>,
    dry_run: bool,
    json: bool,
) -> Result<Exit, Error> {
    let (mut counts, mut number) = (ImportCounts { dry_run, ..ImportCounts::default() }, 0);
    let (mut batch, mut stopped) = (None::<Batch>, None);
    loop {
        number += 1;
        let read = match next_line(lines.as_mut()) {
            Ok(Some(read)) => read,
            Ok(None) => break,
            Err(e) => {
                stopped = Some(Stopped::Unreadable(format!("line {number}: cannot be read: {e}")));
                break;
            }
        };
        let Some(line) = counts.accept(number, read) else { continue };
        match (line, &mut batch) {
            (ExportLine::Export { export, newest_place, .. }, None) => {
                let (export, payloads, jobs) = (export.simple().to_string(), Vec::new(), Vec::new());
                batch = Some(Batch { export, newest_place, payloads, jobs });
            }
            (ExportLine::Export { .. }, Some(_)) => counts.refuse(number, "a second first line"),
            (ExportLine::Inbox { .. } | ExportLine::Job(_) | ExportLine::End { .. }, None) => {
                render::error(format!(
                    "line {number}: the first line of an export is missing; nothing changed"
                ));
                return Ok(Exit::Usage);
            }
            (ExportLine::Inbox { number: at, payload, payload_base64 }, Some(batch)) => {
                match payload_of(payload, payload_base64) {
                    Ok(payload) => batch.payloads.push((at, payload)),
                    Err(why) => counts.refuse(number, &why),
                }
            }
            (ExportLine::Job(job), Some(batch)) => match job.check() {
                Ok(()) => batch.jobs.push(job),
                Err(why) => counts.refuse(number, &format!("{}: {why}", job.id)),
            },
            (ExportLine::End { payloads, jobs }, Some(_)) => {
                counts.counted = Some(payloads.saturating_add(jobs))
            }
        }
        if let Some(batch) = &mut batch
            && batch.payloads.len() + batch.jobs.len() == TRANSFER_BATCH
        {
            stopped = send(queue, batch, &mut counts).await?;
            if stopped.is_some() {
                break;
            }
        }
    }
    // What was read before the file could not be read any further is taken in.
    if let (Some(batch), None | Some(Stopped::Unreadable(_))) = (&mut batch, &stopped) {
        stopped = send(queue, batch, &mut counts).await?.or(stopped);
    }
    if counts.imported > 0 && !dry_run {
        let selection = batch.map_or_else(String::new, |batch| format!("export {}", batch.export));
        let (what, by, count) = ("import".to_owned(), render::operator(), Some(counts.imported));
        queue.audit(&AuditEntry { what, by, selection, count, ..AuditEntry::default() }).await?;
    }
    counts.stopped = stopped.is_some();
    counts.complete = counts.cut().is_none();
    Ok(report(queue, &counts, stopped.as_ref(), json))
}

/// The next line, or a sentence with why it is none; `None` at the end. One that is too long is passed over as a whole.
fn next_line(mut lines: &mut dyn BufRead) -> std::io::Result<Option<Result<String, String>>> {
    let mut text = Vec::new();
    let read = std::io::Read::take(&mut lines, MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut text)?;
    if read == 0 {
        return Ok(None);
    }
    if read > MAX_LINE_BYTES && !text.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
        return Ok(Some(Err(format!("longer than {MAX_LINE_BYTES} bytes"))));
    }
    Ok(Some(String::from_utf8(text).map_err(|e| e.to_string())))
}

fn parse(text: &str) -> Result<ExportLine, String> {
    match serde_json::from_str(text) {
        Ok(ExportLine::Export { schema_version, .. }) if schema_version != SCHEMA_VERSION => {
            Err(format!("schema_version {schema_version}: this build reads {SCHEMA_VERSION}"))
        }
        Ok(line) => Ok(line),
        Err(e) => Err(format!("not a line of an export: {e}")),
    }
}

fn payload_of(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64.decode(base64).map_err(|e| format!("payload_base64: {e}")),
        (Some(_), Some(_)) | (None, None) => Err("it has one of payload and payload_base64".to_owned()),
    }
}

async fn send(
    queue: &OperatorHandle,
    batch: &mut Batch,
    counts: &mut ImportCounts,
) -> Result<Option<Stopped>, Error> {
    let (payloads, jobs) = (std::mem::take(&mut batch.payloads), std::mem::take(&mut batch.jobs));
    if payloads.is_empty() && jobs.is_empty() {
        return Ok(None);
    }
    if counts.dry_run {
        counts.imported += (payloads.len() + jobs.len()) as u64;
        return Ok(None);
    }
    match queue.import(&batch.export, batch.newest_place, &payloads, &jobs).await? {
        Imported::Full => return Ok(Some(Stopped::Full)),
        Imported::NoMemory => return Ok(Some(Stopped::NoMemory)),
        Imported::Each(outcomes) => {
            // Payloads have no id here, and come first.
            let ids = payloads.iter().map(|_| None).chain(jobs.iter().map(|job| Some(&job.id)));
            for (outcome, id) in outcomes.into_iter().zip(ids) {
                match outcome {
                    ImportOutcome::Imported => counts.imported += 1,
                    ImportOutcome::Known => counts.known += 1,
                    ImportOutcome::Duplicate => counts.duplicate += 1,
                    ImportOutcome::InTrash => {
                        counts.in_trash += 1;
                        counts
                            .trash
                            .extend(id.filter(|_| counts.trash.len() < MAX_SHOWN).map(ToString::to_string));
                    }
                }
            }
        }
    }
    Ok(None)
}

fn report(queue: &OperatorHandle, counts: &ImportCounts, stopped: Option<&Stopped>, json: bool) -> Exit {
    let ImportCounts { imported, known, duplicate, in_trash, trash, refused, refusals, dry_run, .. } = counts;
    if json {
        render::json(SCHEMA_VERSION, counts);
    } else {
        refusals.iter().for_each(render::error);
        if *refused > refusals.len() as u64 {
            render::error(format!("and {} lines more", refused - refusals.len() as u64));
        }
        if *in_trash > 0 {
            render::error(format!(
                "{in_trash} lie in the trash here and were left alone, the first: {}. Take them out, or delete them and \
                 import again:",
                trash.join(" "),
            ));
            render::command("", &queue.command("dead restore ID"));
            render::command("", &queue.command("dead discard --now ID"));
        }
        let name = queue.name();
        render::note(match dry_run {
            true => format!(
                "would import {imported} into {name}, but for those that it has; {refused} lines could not be read"
            ),
            false => format!(
                "imported {imported} into {name}; {known} were known, {duplicate} are of pairs that other jobs hold, \
                 {refused} lines could not be read"
            ),
        });
    }
    if *dry_run {
        render::note("dry run: nothing changed");
    }
    match stopped {
        Some(Stopped::Full) => {
            render::error(
                "the backlog is full (backlog_max): run it again later, it goes on where it stopped",
            );
            return Exit::RedisFull;
        }
        Some(Stopped::NoMemory) => {
            render::error("Redis is near maxmemory: run it again later, it goes on where it stopped");
            return Exit::RedisFull;
        }
        Some(Stopped::Unreadable(why)) => render::error(why),
        None => {}
    }
    // What could not be read may have been all there.
    let cut = counts.cut().filter(|_| stopped.is_none());
    cut.iter().for_each(render::error);
    match (
        stopped.is_none() && cut.is_none() && *refused == 0 && *in_trash == 0,
        imported + known + duplicate,
    ) {
        (true, _) => Exit::Ok,
        (false, 0) => Exit::Usage,
        (false, _) => Exit::PartlyDone,
    }
}
