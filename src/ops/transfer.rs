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
        render::note(format!(
            "{} is not paused: what is claimed or admitted meanwhile may be left out. Best: {}",
            queue.name(),
            queue.command("queue drain --name move")
        ));
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
    schema_version: u32,
    imported: u64,
    known: u64,
    duplicate: u64,
    refused: u64,
    refusals: Vec<String>,
    /// The last line was there.
    complete: bool,
    /// It ended early, because there is no room.
    stopped: bool,
}

impl ImportCounts {
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
}

/// Takes in what `queue export` printed.
///
/// # Errors
/// Those of the queue; what was taken in before stays, and is known when it is run again.
pub async fn import(queue: &OperatorHandle, mut lines: Box<dyn BufRead>, json: bool) -> Result<Exit, Error> {
    let (mut counts, mut number) = (ImportCounts { schema_version: SCHEMA_VERSION, ..Default::default() }, 0);
    let (mut batch, mut stopped) = (None::<Batch>, None);
    while let Some(read) = next_line(lines.as_mut()) {
        number += 1;
        let line = match read.and_then(|text| parse(&text)) {
            Ok(line) => line,
            Err(why) => {
                counts.refuse(number, &why);
                continue;
            }
        };
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
            (ExportLine::End { .. }, Some(_)) => counts.complete = true,
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
    if let (Some(batch), None) = (&mut batch, &stopped) {
        stopped = send(queue, batch, &mut counts).await?;
    }
    if counts.imported > 0 {
        let selection = batch.map_or_else(String::new, |batch| format!("export {}", batch.export));
        let (what, by, count) = ("import".to_owned(), render::operator(), Some(counts.imported));
        queue.audit(&AuditEntry { what, by, selection, count, ..AuditEntry::default() }).await?;
    }
    counts.stopped = stopped.is_some();
    Ok(report(queue, &counts, stopped.as_ref(), json))
}

/// The next line; the error is a sentence.
fn next_line(lines: &mut dyn BufRead) -> Option<Result<String, String>> {
    let mut text = Vec::new();
    let mut most = std::io::Read::take(lines, MAX_LINE_BYTES as u64 + 1);
    match most.read_until(b'\n', &mut text) {
        Ok(0) => None,
        Ok(read) if read > MAX_LINE_BYTES => Some(Err(format!("longer than {MAX_LINE_BYTES} bytes"))),
        Ok(_) => Some(String::from_utf8(text).map_err(|e| e.to_string())),
        Err(_) => None,
    }
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
    match queue.import(&batch.export, batch.newest_place, &payloads, &jobs).await? {
        Imported::Full => return Ok(Some(Stopped::Full)),
        Imported::NoMemory => return Ok(Some(Stopped::NoMemory)),
        Imported::Each(outcomes) => {
            for outcome in outcomes {
                match outcome {
                    ImportOutcome::Imported => counts.imported += 1,
                    ImportOutcome::Known => counts.known += 1,
                    ImportOutcome::Duplicate => counts.duplicate += 1,
                }
            }
        }
    }
    Ok(None)
}

fn report(queue: &OperatorHandle, counts: &ImportCounts, stopped: Option<&Stopped>, json: bool) -> Exit {
    let ImportCounts { imported, known, duplicate, refused, refusals, complete, .. } = counts;
    if json {
        render::json(counts);
    } else {
        refusals.iter().for_each(render::error);
        if *refused > refusals.len() as u64 {
            render::error(format!("and {} lines more", refused - refusals.len() as u64));
        }
        render::note(format!(
            "imported {imported} into {}; {known} were known, {duplicate} are of pairs that other jobs hold, {refused} lines \
             could not be read",
            queue.name()
        ));
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
        None => {}
    }
    if !complete {
        render::error("the last line of the export is missing: it was cut off, there may have been more");
    }
    match (*complete && *refused == 0, imported + known + duplicate) {
        (true, _) => Exit::Ok,
        (false, 0) => Exit::Usage,
        (false, _) => Exit::PartlyDone,
    }
}
