//! Copies of dead letters: as they are shown, without secrets; and whole on standard output, where each is safe before
//! its letter is deleted.
//!
//! # Why
//! Safe is more than written. A file is synced, once per batch. What is in a pipe is lost when its reader
//! leaves, as `head -1` does: so one copy at a time goes into a pipe, and is awaited until it has been read.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::job::redact::{page_address, scrub};
use crate::job::{Job, JobId};
use crate::ops::render;
use crate::queue::{Content, RawPayload, StoredJob};

/// Copies that are written to a file, and synced, before their letters are deleted.
const FILE_BATCH: usize = 20;
/// How often a pipe is looked at until a copy has been read.
const PIPE_LOOKS_EVERY: Duration = Duration::from_millis(2);

/// One letter, as `-o json` shows it.
pub(super) fn as_json(letter: &StoredJob) -> Value {
    let (job, raw) = match &letter.content {
        Content::Job(job) => (Some(shown_job(job)), None),
        Content::Raw(raw) => (None, Some(shown_raw(raw))),
    };
    let mut shown = json!({
        "id": letter.id, "state": letter.state, "since_ms": letter.since_ms(), "enqueued_ms": letter.enqueued_ms,
        "deliveries": letter.deliveries, "replays": letter.replays, "host": letter.host(), "kind": letter.kind(),
        "build": letter.build(), "reason": letter.reason, "job": job, "raw": raw,
    });
    let optional = [
        ("died_ms", letter.reason.as_ref().map(|_| json!(letter.died_ms))),
        ("due_ms", letter.due_ms.map(Value::from)),
        ("worker", letter.worker.clone().map(Value::from)),
        ("waits_for_host", letter.waits_for_host.clone().map(Value::from)),
        ("last_failure", letter.last_failure.as_ref().map(|failure| json!(failure))),
        ("operation", letter.operation.clone().map(Value::from)),
        ("cancelled", letter.is_cancelled.then_some(Value::from(true))),
        ("log", (!letter.log.is_empty()).then(|| json!(letter.log))),
        ("log_cut", (letter.log_cut > 0).then(|| json!(letter.log_cut))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            shown[name] = value;
        }
    }
    shown
}

/// What keeps a letter, in one line: the payload of a job, as `enqueue` takes it, and of what is no job all
/// that is left of it.
fn copy_of(id: &JobId, content: &Content) -> String {
    let copy = match content {
        Content::Job(job) => return render::json_line(job),
        Content::Raw(raw) => json!({ "id": id, "raw": raw_json(raw) }),
    };
    render::json_line(&copy)
}

/// A job as `enqueue` takes it, its addresses without their secrets.
pub(crate) fn shown_job(job: &Job) -> Value {
    let mut shown = serde_json::to_value(job).unwrap_or_default();
    for address in ["/from/body_url", "/from/url", "/to/body_url", "/to/url"] {
        if let Some(Value::String(address)) = shown.pointer_mut(address) {
            *address = page_address(address);
        }
    }
    shown
}

/// A payload that is not a job, unchanged or, where a secret was removed, as text.
fn shown_raw(raw: &RawPayload) -> Value {
    let text = String::from_utf8_lossy(&raw.head);
    let shown = scrub(&text);
    if shown == text {
        return raw_json(raw);
    }
    json!({ "head": shown, "length": raw.length, "hash": raw.hash })
}

/// Text as it is, under `head`; any other bytes under `head_base64`.
fn raw_json(raw: &RawPayload) -> Value {
    match std::str::from_utf8(&raw.head) {
        Ok(head) => json!({ "head": head, "length": raw.length, "hash": raw.hash }),
        Err(_) => {
            json!({ "head_base64": BASE64.encode(&raw.head), "length": raw.length, "hash": raw.hash })
        }
    }
}

/// Standard output, for copies. Unbuffered: what is written has left this process.
#[derive(Debug)]
pub struct CopyOutput {
    output: File,
    kind: OutputKind,
}

#[derive(Debug, Clone, Copy)]
enum OutputKind {
    File,
    Pipe,
    /// A terminal, another device such as `/dev/null`, a socket: no copy is safe there.
    Other,
}

impl CopyOutput {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn stdout() -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt as _;
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let kind = match output.metadata()?.file_type() {
            kind if kind.is_file() => OutputKind::File,
            kind if kind.is_fifo() => OutputKind::Pipe,
            _ => OutputKind::Other,
        };
        Ok(Self { output, kind })
    }

    /// True where the copy is kept: in a file, or by the reader of a pipe.
    pub fn keeps_copies(&self) -> bool {
        match self.kind {
            OutputKind::File | OutputKind::Pipe => true,
            OutputKind::Other => false,
        }
    }

    /// How many letters are copied before they are deleted.
    pub(super) fn batch(&self) -> usize {
        match self.kind {
            OutputKind::File => FILE_BATCH,
            OutputKind::Pipe | OutputKind::Other => 1,
        }
    }

    /// Writes a line for each job, which stays where it is.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn write_all(&mut self, jobs: &[StoredJob]) -> io::Result<()> {
        let lines: String = jobs.iter().map(|job| copy_of(&job.id, &job.content) + "\n").collect();
        self.output.write_all(lines.as_bytes())
    }

    /// Returns when a file has what was written.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self.kind {
            OutputKind::File => self.output.sync_data(),
            OutputKind::Pipe | OutputKind::Other => Ok(()),
        }
    }

    /// Writes a line for each letter, and returns when these copies are safe.
    ///
    /// # Errors
    /// Those of the operating system: none of these letters may be deleted then.
    pub(super) async fn write(&mut self, letters: &[StoredJob]) -> io::Result<()> {
        self.write_all(letters)?;
        match self.kind {
            OutputKind::File => self.output.sync_data(),
            OutputKind::Pipe => self.until_read().await,
            OutputKind::Other => Ok(()),
        }
    }

    /// Waits until nothing is left in the pipe, for as long as somebody may read it.
    async fn until_read(&self) -> io::Result<()> {
        loop {
            // Asked first: what is unread when nobody reads any more stays so.
            let has_reader = self.has_reader()?;
            if rustix::io::ioctl_fionread(&self.output)? == 0 {
                return Ok(());
            }
            if !has_reader {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "its reader left without reading it"));
            }
            tokio::time::sleep(PIPE_LOOKS_EVERY).await;
        }
    }

    fn has_reader(&self) -> io::Result<bool> {
        let mut pipe = [PollFd::new(&self.output, PollFlags::empty())];
        poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!pipe[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::VersionRef;
    use crate::job::page::Version;
    use uuid::Uuid;

    #[test]
    fn text_is_shown_as_it_is_and_other_bytes_in_base64() {
        let of = |head: &[u8]| {
            raw_json(&RawPayload { head: head.to_vec(), length: 9, hash: "sha256:x".to_owned() })
        };
        assert_eq!(of("né".as_bytes()), json!({ "head": "né", "length": 9, "hash": "sha256:x" }));
        assert_eq!(of(b"\xff\0"), json!({ "head_base64": "/wA=", "length": 9, "hash": "sha256:x" }));
    }

    #[test]
    fn what_is_shown_of_a_payload_has_no_secrets_and_what_keeps_it_is_whole() {
        let version = |n: u128| {
            let url = "https://u:s3cr3t@a.test/x?sig=s3cr3t&page=2".parse().unwrap();
            Version { url: Some("a.test/x?k=s3cr3t".to_owned()), ..Version::at(Uuid::from_u128(n), url) }
        };
        let whole = |n| VersionRef::Inline(Box::new(version(n)));
        let job = Job::new(whole(1), whole(2));
        let shown = shown_job(&job);
        assert!(!shown.to_string().contains("s3cr3t"), "{shown}");
        assert_eq!(shown["to"]["body_url"], "https://***@a.test/x?sig=***&page=2");
        let copy = copy_of(&job.id, &Content::Job(Box::new(job.clone())));
        assert_eq!(Job::decode(copy.as_bytes()).unwrap(), job);

        for head in [&b"{\"u\":\"http://u:s3cr3t@a.test/?s3cr3t"[..], b"\xff https://a.test/?sig=s3cr3t"] {
            let raw = RawPayload { head: head.to_vec(), length: 9, hash: "sha256:x".to_owned() };
            let shown = shown_raw(&raw);
            assert!(
                shown["head"].as_str().unwrap().contains("a.test/?") && !shown.to_string().contains("s3cr3t")
            );
            assert!(
                copy_of(&job.id, &Content::Raw(raw.clone())).contains(&raw_json(&raw)["hash"].to_string())
            );
        }
    }
}
