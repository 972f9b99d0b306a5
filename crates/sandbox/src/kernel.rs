//! Minimal wrappers around the kernel and libc calls that no crate offers as safe functions.
//!
//! They contain no policy. Calls that `rustix` or `landlock` wrap safely are made
//! directly where they are needed.
//!
//! Invariant: a process forks only while it is known to be single-threaded; [`SingleThreaded`] is the proof.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::process::Pid;

/// Proof that this process is single-threaded, so a forked child cannot inherit a
/// lock held by another thread.
#[derive(Debug)]
pub(super) struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads of this process. If `/proc` is unreadable the process is assumed to be freshly
    /// executed and therefore single-threaded.
    ///
    /// # Errors
    /// The process has more than one thread.
    pub(super) fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(0..=1) | Err(_) => Ok(Self(())),
            Ok(threads) => Err(io::Error::other(format!("cannot fork: the process has {threads} threads"))),
        }
    }
}

/// The two return paths of a fork.
pub(super) enum Forked {
    /// Running in the new process.
    Child,
    /// Running in the parent, with the child's process id: never 0 or -1, which would
    /// address a process group.
    Parent(Pid),
}

/// Forks this process; the child inherits all of its memory and descriptors.
///
/// # Errors
/// The kernel's error: `EAGAIN` or `ENOMEM`.
#[expect(unsafe_code, reason = "no crate offers fork as safe")]
pub(super) fn fork(_single_threaded: &SingleThreaded) -> io::Result<Forked> {
    // SAFETY: the process has a single thread, so the child inherits no lock that another thread held.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        -1 => Err(io::Error::last_os_error()), // -1 is never treated as a process id
        raw => Pid::from_raw(raw).map(Forked::Parent).ok_or_else(io::Error::last_os_error),
    }
}

/// Ends this process immediately: no destructors, no exit handlers, no flushing.
#[expect(unsafe_code, reason = "std has only the orderly exit")]
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Exit status and resource usage of a reaped child.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReapedChild {
    /// Wait status as returned by `wait4`.
    pub(super) status: i32,
    /// User plus system CPU time.
    pub(super) cpu: Duration,
    /// Peak resident set size, in bytes.
    pub(super) max_rss_bytes: u64,
    /// Page faults that were served without reading from a disk.
    pub(super) minor_faults: u64,
}

/// Waits for a child to exit and reaps it.
///
/// # Errors
/// The error of `wait4`, except `EINTR`, which is retried.
#[expect(unsafe_code, reason = "rustix's wait has no resource usage")]
pub(super) fn reap(pid: Pid) -> io::Result<ReapedChild> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers refer to live, writable values of the expected types.
    while unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, usage.as_mut_ptr()) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: an all-zero rusage is valid, and the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    Ok(ReapedChild {
        status,
        cpu: cpu_time(&usage),
        max_rss_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
        minor_faults: usage.ru_minflt.unsigned_abs(),
    })
}

/// Waits for a child to exit without reaping it; returns its CPU time.
///
/// # Errors
/// The error of `waitid`, except `EINTR`, which is retried.
#[expect(unsafe_code, reason = "neither rustix nor libc has waitid with resource usage")]
pub(super) fn wait_until_dead(pid: Pid) -> io::Result<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let (which, options) = (pid.as_raw_nonzero().get(), libc::WEXITED | libc::WNOWAIT);
    let no_details = std::ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: the kernel writes no details through a null pointer, and the usage to a live value of its type.
    while unsafe {
        libc::syscall(libc::SYS_waitid, libc::P_PID, which, no_details, options, usage.as_mut_ptr())
    } == -1
    {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: as in `reap`.
    Ok(cpu_time(&unsafe { usage.assume_init() }))
}

/// User plus system time.
fn cpu_time(usage: &libc::rusage) -> Duration {
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs()) + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Maps a zeroed value on its own page, shared with forked children and never unmapped.
///
/// # Errors
/// The error of `mmap`.
#[expect(unsafe_code, reason = "std has no shared memory")]
pub(super) fn map_shared<T: AllZeroesAreValid>() -> io::Result<&'static T> {
    let (read_write, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping does not overlap existing memory.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), read_write, shared, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page is aligned, zeroed, large enough and never unmapped, and `T` is valid as all zeroes.
    // Other processes write to it, which `T` permits because it consists of atomics only.
    Ok(unsafe { &*page.cast::<T>() })
}

/// Types that stay valid on a page which other processes write to.
///
/// # Safety
/// The type must consist of atomics only, and all zeroes must be a valid value of it.
#[expect(unsafe_code, reason = "a promise about memory")]
pub(super) unsafe trait AllZeroesAreValid: Sync {}

/// Closes every descriptor numbered `first` or higher.
///
/// # Errors
/// The error of `close_range`. Kernels before 5.9 do not have it (`ENOSYS`); there
/// each number is closed individually.
#[expect(unsafe_code, reason = "closing descriptors by number")]
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller has just started and owns no descriptor numbered `first` or higher.
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

/// Descriptor 0: the control socket in a fork server, the data socket in a job.
#[expect(unsafe_code, reason = "a descriptor by its number")]
pub(super) fn socket() -> BorrowedFd<'static> {
    // SAFETY: std keeps descriptor 0 open from process start; this program replaces it but never closes it.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Descriptor 2: in a fork server and its jobs, a non-blocking pipe to the worker.
#[expect(unsafe_code, reason = "a descriptor by its number")]
pub(super) fn stderr() -> BorrowedFd<'static> {
    // SAFETY: std keeps descriptor 2 open from process start, and this program never closes it.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Replaces descriptor 0, see [`socket`], with a duplicate of `by`.
///
/// # Errors
/// The error of `dup2`.
#[expect(unsafe_code, reason = "a descriptor by its number")]
pub(super) fn replace_socket(by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the caller owns descriptor 0, which stays open.
    match unsafe { libc::dup2(by.as_raw_fd(), 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Permanently switches the process to user and group `id`, without supplementary groups.
///
/// # Errors
/// The kernel's error, usually `EPERM` because the process lacks the privilege.
#[expect(unsafe_code, reason = "rustix changes the ids of one thread only")]
pub(super) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: the only pointer is null, which is allowed with a length of zero.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(id, id, id) == 0
            && libc::setresuid(id, id, id) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs a seccomp filter on the calling thread.
///
/// # Errors
/// The kernel's error: `EINVAL` if it was built without seccomp filters, `EACCES` without `no_new_privs`.
#[expect(unsafe_code, reason = "rustix has no seccomp filters")]
pub(super) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from a live slice and writes nothing back.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Byte offset of the system call number in `seccomp_data`, the input of a seccomp filter.
pub(super) const SECCOMP_NR: usize = offset_of!(libc::seccomp_data, nr);
/// Byte offset of the architecture in `seccomp_data`.
pub(super) const SECCOMP_ARCH: usize = offset_of!(libc::seccomp_data, arch);
/// Byte offset of the first argument in `seccomp_data`; each argument takes 8 bytes.
pub(super) const SECCOMP_ARGS: usize = offset_of!(libc::seccomp_data, args);

/// Tunes glibc's allocator for a short-lived process: no `mmap`, no memory returned to the kernel, a single
/// arena. Measured on a diff of 1 MB: 6.20 ms instead of 7.05 ms.
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
        // SAFETY: `mallopt` has no preconditions and ignores unknown settings.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// No-op: only glibc's allocator has these settings.
#[cfg(not(target_env = "gnu"))]
pub(super) fn tune_malloc() {}

/// Gives the heap's free pages back to the kernel. A page that a fork shares is copied when it is written, which takes
/// longer than to get an empty one.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate wraps malloc_trim")]
pub(super) fn trim_heap() {
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// No-op: only glibc's allocator keeps them.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim_heap() {}
