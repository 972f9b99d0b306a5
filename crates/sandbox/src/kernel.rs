//! The calls into the kernel and libc that no crate wraps safely, each as small as it can be.
//!
//! Nothing here decides anything. What has a safe wrapper in `rustix` or `landlock` is called there, where it is used.
//!
//! Invariant: a process forks only while it is known to have a single thread; [`SingleThreaded`] is the proof.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::process::Pid;

/// Proof that this process has one thread, so that a forked child finds no lock held by nobody.
#[derive(Debug)]
pub(super) struct SingleThreaded(());

impl SingleThreaded {
    /// DeliveryCounts the threads of this process. Where `/proc` cannot tell, a process that was just executed is believed.
    ///
    /// # Errors
    /// There is more than one.
    pub(super) fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(0..=1) | Err(_) => Ok(Self(())),
            Ok(threads) => Err(io::Error::other(format!("{threads} threads: only one may fork"))),
        }
    }
}

/// Where a fork came out.
pub(super) enum Forked {
    /// In the new process.
    Child,
    /// In the old one, with the new one's id: never 0 or -1, which would address a whole group.
    Parent(Pid),
}

/// Forks.
///
/// # Errors
/// The kernel's: `EAGAIN`, `ENOMEM`.
#[expect(unsafe_code, reason = "no crate offers fork as safe")]
pub(super) fn fork(_single_threaded: &SingleThreaded) -> io::Result<Forked> {
    // SAFETY: the process has a single thread, so the child inherits no lock that another thread held.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        -1 => Err(io::Error::last_os_error()), // and never a process id
        raw => Pid::from_raw(raw).map(Forked::Parent).ok_or_else(io::Error::last_os_error),
    }
}

/// Ends this process at once: no destructor, no exit handler, no flush.
#[expect(unsafe_code, reason = "std has only the orderly exit")]
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// What the kernel says of a child that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReapedChild {
    /// The raw wait status.
    pub(super) status: i32,
    /// User and system time.
    pub(super) cpu: Duration,
    /// Peak resident set in bytes.
    pub(super) max_rss_bytes: u64,
}

/// Waits for a child to end and collects it. With `block` false: `None` while it lives.
///
/// # Errors
/// The kernel's.
#[expect(unsafe_code, reason = "rustix's wait has no resource usage")]
pub(super) fn reap(pid: Pid, block: bool) -> io::Result<Option<ReapedChild>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: both pointers are to live, writable values of the right type.
        match unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, options, usage.as_mut_ptr()) } {
            0 => return Ok(None),
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            _ => break,
        }
    }
    // SAFETY: a rusage of zeroes is valid, and the kernel filled it in.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs()) + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok(Some(ReapedChild { status, cpu, max_rss_bytes: usage.ru_maxrss.unsigned_abs() * 1024 }))
}

/// A zeroed value on a page of its own that stays shared over forks; it is never unmapped.
///
/// # Errors
/// The kernel's.
#[expect(unsafe_code, reason = "std has no shared memory")]
pub(super) fn map_shared<T: AllZeroesAreValid>() -> io::Result<&'static T> {
    let (read_write, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping touches no existing memory.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), read_write, shared, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page is aligned, zeroed, large enough, lives for ever, and `T` is valid as zeroes; other processes
    // write to it, which `T` must allow for (it is made of atomics).
    Ok(unsafe { &*page.cast::<T>() })
}

/// Types for which a page that another process writes to is a valid value.
///
/// # Safety
/// They are made of atomics only, and all zeroes are a value of theirs.
#[expect(unsafe_code, reason = "a promise about memory")]
pub(super) unsafe trait AllZeroesAreValid: Sync {}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The kernel's, except that kernels before 5.9, which do not know the call, get one `close` for each number.
#[expect(unsafe_code, reason = "closing descriptors by number")]
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller is at its very beginning and owns no descriptor from `first` on.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(error);
    }
    for fd in first..65_536 {
        // SAFETY: as above.
        unsafe { libc::close(fd.cast_signed()) };
    }
    Ok(())
}

/// Descriptor 0: the control socket of a fork-server, the data socket of a job.
#[expect(unsafe_code, reason = "a descriptor by its number")]
pub(super) fn socket() -> BorrowedFd<'static> {
    // SAFETY: std keeps 0 open from the first instruction on, and here it is only ever replaced, never closed.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Descriptor 2: in a fork-server and its jobs a pipe to the worker that never makes anybody wait.
#[expect(unsafe_code, reason = "a descriptor by its number")]
pub(super) fn stderr() -> BorrowedFd<'static> {
    // SAFETY: std keeps 2 open from the first instruction on, and nobody here closes it.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Puts another descriptor in the place of [`socket`].
///
/// # Errors
/// The kernel's.
#[expect(unsafe_code, reason = "a descriptor by its number")]
pub(super) fn replace_socket(by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: 0 belongs to whoever calls this, and stays open.
    match unsafe { libc::dup2(by.as_raw_fd(), 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Becomes `id` as user and group, with no other groups, for good.
///
/// # Errors
/// The kernel's, as a rule because this process may not.
#[expect(unsafe_code, reason = "rustix changes the ids of one thread only")]
pub(super) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: no pointers but the null one, which a length of zero allows.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(id, id, id) == 0
            && libc::setresuid(id, id, id) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs a seccomp filter on this thread.
///
/// # Errors
/// The kernel's: `EINVAL` where it has no seccomp, `EACCES` without `no_new_privs`.
#[expect(unsafe_code, reason = "rustix has no seccomp filters")]
pub(super) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from a live slice and writes nothing.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Byte offsets in what a seccomp filter sees: the call's number, the architecture, and its arguments.
pub(super) const SECCOMP_NR: usize = offset_of!(libc::seccomp_data, nr);
/// See [`SECCOMP_NR`].
pub(super) const SECCOMP_ARCH: usize = offset_of!(libc::seccomp_data, arch);
/// See [`SECCOMP_NR`].
pub(super) const SECCOMP_ARGS: usize = offset_of!(libc::seccomp_data, args);

/// Tells glibc's allocator that this process is short-lived: nothing by `mmap`, nothing given back, one arena.
/// ChildUsage on a diff of 1 MB: 7.05 to 6.20 ms.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate wraps mallopt")]
pub(super) fn tune_malloc() {
    let settings = [
        (libc::M_MMAP_THRESHOLD, 1 << 30),
        (libc::M_TRIM_THRESHOLD, i32::MAX),
        (libc::M_TOP_PAD, 1 << 20),
        (libc::M_ARENA_MAX, 1),
    ];
    for (setting, value) in settings {
        // SAFETY: has no precondition; an unknown setting is ignored.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Only glibc's allocator can be told.
#[cfg(not(target_env = "gnu"))]
pub(super) fn tune_malloc() {}
