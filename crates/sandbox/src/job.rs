//! The far end: a fresh fork that reads one request, works, writes one reply and is gone.
//!
//! Hostile bytes are read here and nowhere else. It keeps no time and reports no death: the zygote does.
//!
//! Invariant: not a byte of the request is read before every wall is up and [`protocol::READY`] is written.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use rustix::process::Pid;

use super::features::Features;
use super::harden::{self, Plan};
use super::limits::Limits;
use super::protocol::{self, Code, ReplyHeader, RequestHeader};
use super::seccomp::Filter;
use super::{Task, Work, heap, kernel};

/// How a job ends whose walls could not be put up.
const EXIT_UNPREPARED: i32 = 79;
/// How a job ends whose worker has gone.
const EXIT_UNHEARD: i32 = 74;
/// The longest panic message that is passed on.
const MAX_PANIC_BYTES: usize = 2048;

/// What a job is born with.
pub(super) struct Birth<'a> {
    /// Its end of the data socket.
    pub(super) data: OwnedFd,
    /// Its limits.
    pub(super) limits: Limits,
    /// When its wall clock began.
    pub(super) began: Instant,
    /// Its parent.
    pub(super) zygote: Pid,
    /// Walls to put up.
    pub(super) plan: Plan,
    /// Walls that stood in the self-test.
    pub(super) features: Features,
    /// The filter to install.
    pub(super) filter: &'a mut Filter,
}

/// Does the job and ends the process.
pub(super) fn run(mut birth: Birth<'_>, work: Work) -> ! {
    let code = match prepare(&mut birth) {
        Err(_) => EXIT_UNPREPARED,
        Ok(()) => match serve(&birth, work) {
            Ok(()) => 0,
            Err(_) => EXIT_UNHEARD,
        },
    };
    kernel::exit_now(code)
}

/// The data socket becomes descriptor 0, in the place of the control socket; nothing else stays open.
fn prepare(birth: &mut Birth<'_>) -> io::Result<()> {
    kernel::replace_socket(birth.data.as_fd())?;
    kernel::close_from(3)?;
    let landlocked = harden::job(birth.zygote, &birth.limits, birth.plan)?;
    if birth.features.contains(Features::LANDLOCK) && !landlocked {
        return Err(io::Error::other("Landlock is not in force"));
    }
    if birth.plan.job_filter {
        match birth.filter.install(harden::own_pid()) {
            Err(error) if birth.features.contains(Features::SECCOMP) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn serve(birth: &Birth<'_>, work: Work) -> io::Result<()> {
    write_all(&[protocol::READY])?;
    heap::arm(birth.limits.heap_bytes);
    let task = read_task(birth.began + birth.limits.soft_deadline())?;
    let (code, body) = match catch_unwind(AssertUnwindSafe(|| perform(task, work))) {
        Ok(body) => (Code::Done, body),
        Err(_) => (Code::Panicked, last_panic().into_bytes()),
    };
    write_all(&ReplyHeader { code, len: body.len() as u64 }.encode())?;
    if body.len() as u64 <= birth.limits.reply_bytes {
        write_all(&body)?;
    }
    Ok(())
}

fn perform(task: Task, work: Work) -> Vec<u8> {
    #[cfg(feature = "test-hooks")]
    if super::hooks::is_act(&task.options) {
        return super::hooks::perform(task);
    }
    work(task)
}

fn read_task(soft_deadline: Instant) -> io::Result<Task> {
    let mut header = [0; protocol::REQUEST_HEADER];
    read_exact(&mut header)?;
    let header = RequestHeader::decode(header).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Task {
        options: read_part(header.options)?,
        a: read_part(header.a)?,
        b: read_part(header.b)?,
        soft_deadline,
    })
}

/// The worker has capped the lengths, and the heap budget does it again.
fn read_part(len: u64) -> io::Result<Vec<u8>> {
    let mut part = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    read_exact(&mut part)?;
    Ok(part)
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

/// What the last panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps what a panic says for the reply; it is also written down for the case that the panic becomes an abort.
pub(super) fn keep_panics() {
    std::panic::set_hook(Box::new(keep_panic));
}

fn keep_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let said = payload.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let place = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    let end = said.floor_char_boundary_at(MAX_PANIC_BYTES);
    let said = format!("{}{place}", &said[..end]);
    let _ = rustix::io::write(kernel::stderr(), said.as_bytes());
    if let Ok(mut last) = LAST_PANIC.try_lock() {
        *last = said;
    }
}

fn last_panic() -> String {
    LAST_PANIC.try_lock().map(|mut last| std::mem::take(&mut *last)).unwrap_or_default()
}

/// `str::floor_char_boundary`, which is younger than our oldest compiler.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, at: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, at: usize) -> usize {
        (0..=at.min(self.len())).rev().find(|&i| self.is_char_boundary(i)).unwrap_or(0)
    }
}
