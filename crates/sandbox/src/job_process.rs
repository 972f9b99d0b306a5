//! The job process: a fresh fork that reads one request, does the work, writes one reply and exits.
//!
//! Hostile bytes are parsed only in this process. Timing and reporting are up to the fork server.
//!
//! Invariant: no byte of the request is read before every isolation layer is in
//! force and [`protocol::READY`] is written.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Mutex;

use rustix::buffer::spare_capacity;
use rustix::process::Pid;

use super::harden::{self, HardeningPlan};
use super::isolation_layers::IsolationLayers;
use super::limits::Limits;
use super::protocol::{self, ReplyCode, ReplyHeader, RequestHeader};
use super::seccomp::SeccompFilter;
use super::{Product, Task, Work, heap, kernel, status_block};
use wm_job::text::floor_char_boundary;

/// Exit code of a job whose isolation layers could not be applied.
const EXIT_NOT_ISOLATED: i32 = 79;
/// Exit code of a job that lost its connection to the worker.
const EXIT_WORKER_GONE: i32 = 74;
/// Length at which a panic message is truncated, without its place.
pub(super) const MAX_PANIC_BYTES: usize = 2048;

/// State that a job inherits from the fork server.
pub(super) struct JobSetup<'a> {
    /// The job's end of the data socket.
    pub(super) data: OwnedFd,
    /// Resource limits to apply.
    pub(super) limits: Limits,
    /// Process id of the parent.
    pub(super) fork_server: Pid,
    /// Isolation layers to apply.
    pub(super) plan: HardeningPlan,
    /// Isolation layers that the self-test proved.
    pub(super) layers: IsolationLayers,
    /// Seccomp filter to install.
    pub(super) filter: &'a mut SeccompFilter,
}

/// Runs the job and exits the process.
pub(super) fn run(mut setup: JobSetup<'_>, work: Work) -> ! {
    let code = match prepare(&mut setup) {
        Err(_) => EXIT_NOT_ISOLATED,
        Ok(()) => match serve_request(&setup, work) {
            Ok(()) => 0,
            Err(_) => EXIT_WORKER_GONE,
        },
    };
    kernel::exit_now(code)
}

/// Moves the data socket to descriptor 0, replacing the control socket, closes the other descriptors and
/// applies the isolation layers.
fn prepare(setup: &mut JobSetup<'_>) -> io::Result<()> {
    kernel::replace_socket(setup.data.as_fd())?;
    kernel::close_from(3)?;
    let landlocked = harden::harden_job(setup.fork_server, &setup.limits, setup.plan)?;
    if setup.layers.contains(IsolationLayers::LANDLOCK) && !landlocked {
        return Err(io::Error::other("Landlock is not in force"));
    }
    if setup.plan.job_filter {
        match setup.filter.install(harden::own_pid()) {
            Err(error) if setup.layers.contains(IsolationLayers::SECCOMP) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn serve_request(setup: &JobSetup<'_>, work: Work) -> io::Result<()> {
    write_all(&[protocol::READY])?;
    heap::arm(setup.limits.heap_bytes);
    let task = read_task()?;
    status_block::record_input();
    let (code, Product { answer, attachment }) = match catch_unwind(AssertUnwindSafe(|| perform(task, work)))
    {
        Ok(product) => (ReplyCode::Done, product),
        Err(_) => (ReplyCode::Panicked, take_last_panic().into_bytes().into()),
    };
    let header = ReplyHeader { code, answer: answer.len() as u64, attachment: attachment.len() as u64 };
    let fits = header.answer <= protocol::ANSWER_MAX_BYTES && header.attachment <= setup.limits.reply_bytes;
    let [answer, attachment] = if fits { [&answer[..], &attachment[..]] } else { [&[][..]; 2] };
    write_parts([&header.encode(), answer, attachment])
}

fn perform(task: Task, work: Work) -> Product {
    #[cfg(feature = "test-hooks")]
    if super::hooks::is_act(&task) {
        return super::hooks::perform(task);
    }
    work(task)
}

fn read_task() -> io::Result<Task> {
    let mut header = [0; protocol::REQUEST_HEADER_BYTES];
    read_exact(&mut header)?;
    let header = RequestHeader::decode(header).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Task { options: read_part(header.options)?, a: read_part(header.a)?, b: read_part(header.b)? })
}

/// Reads one part of the request. The worker has limited its length, and the heap budget bounds it again.
fn read_part(len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut part = Vec::with_capacity(len);
    while part.len() < len {
        // Into memory that is not zeroed: of a new page every byte is written once.
        let into = || rustix::io::read(kernel::socket(), spare_capacity(&mut part));
        if rustix::io::retry_on_intr(into)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // A vector with more room than was asked for would have taken in bytes of the next part.
    if part.len() == len { Ok(part) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn read_exact(mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::read(kernel::socket(), &mut *into))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => into = &mut into[n..],
        }
    }
    Ok(())
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(kernel::socket(), bytes))?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Writes all parts, in one call if they fit: each call wakes the worker.
fn write_parts(parts: [&[u8]; 3]) -> io::Result<()> {
    let slices = parts.map(IoSlice::new);
    let mut sent = rustix::io::retry_on_intr(|| rustix::io::writev(kernel::socket(), &slices))?;
    for part in parts {
        write_all(part.get(sent..).unwrap_or_default())?;
        sent = sent.saturating_sub(part.len());
    }
    Ok(())
}

/// Message of the last panic.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Captures panic messages for the reply, and writes them to standard error in case the
/// panic turns into an abort.
pub(super) fn install_panic_hook() {
    std::panic::set_hook(Box::new(record_panic));
}

fn record_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let place = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    let end = floor_char_boundary(message, MAX_PANIC_BYTES);
    let message = format!("{}{place}", &message[..end]);
    let _ = rustix::io::write(kernel::stderr(), message.as_bytes());
    if let Ok(mut last) = LAST_PANIC.try_lock() {
        *last = message;
    }
}

fn take_last_panic() -> String {
    LAST_PANIC.try_lock().map(|mut last| std::mem::take(&mut *last)).unwrap_or_default()
}
