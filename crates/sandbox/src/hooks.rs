//! Deliberately misbehaving jobs for tests (feature `test-hooks`; not part of any release).
//!
//! A request whose options begin with `hook:` performs one act, selected by name and followed by a number if
//! it takes one. So does one whose first body begins with [`REPLY_BODY`]: what follows is its answer, and its second
//! body its attachment, so that a page that a site serves can answer as a child that was taken over. Acts are real, not simulated; where std would prevent one, a raw system call is used.

mod frames;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::protocol::{ReplyCode, ReplyHeader};
use super::{Product, Task, kernel};

pub use self::frames::read_frames;

const PREFIX: &str = "hook:";

/// System calls missing in kernels before 5.13.
pub(super) const LANDLOCK_CALLS: &[libc::c_long] =
    &[libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
/// System calls missing in kernels built without seccomp filters.
pub(super) const SECCOMP_CALLS: &[libc::c_long] = &[libc::SYS_seccomp];

/// Request options that make a job perform `act`.
pub fn options(act: &str) -> Vec<u8> {
    format!("{PREFIX}{act}").into_bytes()
}

/// Beginning of a body that is a child's answer.
pub const REPLY_BODY: &str = "hook:reply\n";

pub(super) fn is_act(task: &Task) -> bool {
    task.options.starts_with(PREFIX.as_bytes()) || task.a.starts_with(REPLY_BODY.as_bytes())
}

/// The most memory that `work` held at once, in bytes as the allocator counts them. Nothing else may run meanwhile.
pub fn peak_heap_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    super::heap::arm(u64::MAX);
    let done = work();
    super::heap::disarm();
    (done, super::heap::peak())
}

/// Performs the act selected by the options; returns the reply, unless the act ends the process.
pub(super) fn perform(task: Task) -> Product {
    if let Some(answer) = task.a.strip_prefix(REPLY_BODY.as_bytes()) {
        return Product { answer: answer.to_vec(), attachment: task.b };
    }
    let options = String::from_utf8_lossy(&task.options[PREFIX.len()..]).into_owned();
    let (act, number) = options.split_once(' ').unwrap_or((&options, "0"));
    let number = number.parse().unwrap_or(0);
    super::set_phase("act");
    let performed = act_on_memory(act, number)
        .or_else(|| act_on_time(act, number))
        .or_else(|| crash(act, number))
        .or_else(|| escape(act, number))
        .or_else(|| write_reply(act, number));
    let answer = match (performed, act) {
        (Some(answer), _) => answer.to_string().into_bytes(),
        (None, "echo") => return Product { answer: Vec::new(), attachment: [task.a, task.b].concat() },
        (None, "diff") => diff(&task.a, &task.b).to_string().into_bytes(),
        (None, "tree") => tree(number).to_string().into_bytes(),
        (None, "diff_us") => diff_us(&task).to_string().into_bytes(),
        (None, "diff_us_uncounted") => {
            super::heap::disarm();
            diff_us(&task).to_string().into_bytes()
        }
        (None, other) => panic!("there is no act {other:?}"),
    };
    answer.into()
}

/// Well-behaved job: a line diff. Returns the number of changes.
pub fn diff(a: &[u8], b: &[u8]) -> usize {
    let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
    let diff = similar::TextDiff::from_lines(&*a, &*b);
    diff.ops().iter().filter(|op| op.tag() != similar::DiffTag::Equal).count()
}

/// Well-behaved job with many allocations: builds a tree of `nodes` small nodes. Returns their number.
pub fn tree(nodes: u64) -> usize {
    let mut tree = std::collections::BTreeMap::new();
    for i in 0..nodes {
        tree.insert(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), Box::new([i; 4]));
    }
    black_box(&tree).len()
}

/// Duration of a diff in microseconds, measured inside the job.
fn diff_us(task: &Task) -> u128 {
    let began = Instant::now();
    black_box(diff(&task.a, &task.b));
    began.elapsed().as_micros()
}

fn act_on_memory(act: &str, number: u64) -> Option<i64> {
    let bytes = usize::try_from(number).unwrap_or(usize::MAX);
    match act {
        // Allocates one block of `number` bytes and touches it.
        "alloc" => drop(black_box(vec![1_u8; bytes])),
        // Allocates zeroed memory without touching it.
        "reserve" => drop(black_box(vec![0_u8; bytes])),
        "tiny" => drop(black_box(chain(bytes))),
        "small" => allocate_objects(bytes, |_| 64),
        "mixed" => allocate_objects(bytes, |i| 16 + i * 7919 % 1000),
        "chunks" => allocate_objects(bytes, |_| 64 * 1024),
        "doubling" => {
            let mut grows = Vec::new();
            (0..bytes).for_each(|i| grows.push(black_box(i as u8)));
        }
        "frees" => (0..bytes).for_each(|_| drop(black_box(vec![1_u8; 1 << 20]))),
        "mmap" => return Some(map_until_refused(bytes)),
        "resident_then_spin" => {
            let _held = black_box(vec![1_u8; bytes]);
            spin(Duration::MAX);
        }
        _ => return None,
    }
    Some(0)
}

/// Allocates `count` objects and keeps them in fixed-size pages: a single growing `Vec` could exceed the
/// budget while it doubles, before the objects themselves do.
fn allocate_objects(count: usize, size: impl Fn(usize) -> usize) {
    const PAGE: usize = 4096;
    let (mut kept, mut page) = (Vec::new(), Vec::with_capacity(PAGE));
    for i in 0..count {
        if page.len() == PAGE {
            kept.push(std::mem::replace(&mut page, Vec::with_capacity(PAGE)));
        }
        page.push(vec![1_u8; size(i)].into_boxed_slice());
    }
    black_box((kept, page));
}

/// Maps memory past the allocator, in steps of 16 MiB; returns how many MiB the kernel granted.
fn map_until_refused(mebibytes: usize) -> i64 {
    const STEP: usize = 16;
    let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let map =
        || raw_syscall(libc::SYS_mmap, [0, (STEP << 20) as i64, read_write.into(), private.into(), -1, 0]);
    let got = (0..mebibytes / STEP).take_while(|_| map() > 0).count();
    (got * STEP) as i64
}

fn act_on_time(act: &str, number: u64) -> Option<i64> {
    match act {
        "spin" => spin(Duration::from_millis(if number == 0 { u64::MAX } else { number })),
        "burn" => burn(number),
        "sleep" => sleep_forever(),
        "ignore_signals_and_spin" => {
            for signal in [libc::SIGXCPU, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                ignore_signal(signal);
            }
            spin(Duration::MAX);
        }
        "lower_cpu_and_spin" => {
            let limit = [1_u64, 2];
            raw_syscall(libc::SYS_prlimit64, [0, libc::RLIMIT_CPU.into(), address_of(&limit), 0, 0, 0]);
            spin(Duration::MAX);
        }
        _ => return None,
    }
    Some(0)
}

fn spin(at_most: Duration) {
    let began = Instant::now();
    while began.elapsed() < at_most {
        std::hint::spin_loop();
    }
}

/// Uses this much CPU time, however long that takes.
fn burn(cpu_ms: u64) {
    let (clock, used) = (libc::CLOCK_PROCESS_CPUTIME_ID.into(), [const { AtomicU64::new(0) }; 2]);
    while used[0].load(Relaxed) * 1000 + used[1].load(Relaxed) / 1_000_000 < cpu_ms {
        raw_syscall(libc::SYS_clock_gettime, [clock, address_of(&used), 0, 0, 0, 0]);
    }
}

#[expect(clippy::disallowed_methods, reason = "sleeping is the misbehaviour")]
fn sleep_forever() {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn crash(act: &str, number: u64) -> Option<i64> {
    match act {
        "exit" => kernel::exit_now(i32::try_from(number).unwrap_or(-1)),
        "panic" => panic!("a panic of {number}"),
        "panic_hostile" => panic!("{}\u{1b}[31mé", "x".repeat(5000)),
        "abort" => std::process::abort(),
        // What a C library prints of a corrupted heap, with a terminal escape sequence and invalid UTF-8.
        "abort_with_message" => {
            write_stderr(b"free(): invalid \x1b[31mpointer\xff\n");
            std::process::abort();
        }
        "say_and_spin" => {
            write_stderr(b"still here\n");
            spin(Duration::MAX);
        }
        // Writes `number` bytes at once; returns how many were accepted.
        "flood_stderr" => {
            let flood = vec![b'x'; usize::try_from(number).unwrap_or(0)];
            return Some(
                (0..).step_by(4096).map_while(|at| flood.get(at..at + 4096)).map(write_stderr).sum(),
            );
        }
        "panic_in_panic" => {
            let _second = PanicOnDrop;
            panic!("the first");
        }
        "null" => read_null(),
        "overflow" => return Some(recurse(1).into()),
        "deep_drop" => drop(black_box(chain(usize::try_from(number).unwrap_or(0)))),
        "index" => return Some(black_box(&[1_i64][..])[black_box(1)]),
        _ => return None,
    }
    Some(0)
}

/// Writes to standard error; returns how many bytes were accepted.
fn write_stderr(words: &[u8]) -> i64 {
    rustix::io::write(kernel::stderr(), words).map_or(0, |taken| taken as i64)
}

/// Panics when dropped; during another panic this aborts the process.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("the second");
    }
}

#[expect(unsafe_code, reason = "the misbehaviour")]
fn read_null() {
    // SAFETY: none; the read must fault. (Address 8, because std would detect a null pointer and abort.)
    unsafe { std::ptr::read_volatile(black_box(std::ptr::without_provenance::<u8>(8))) };
}

#[expect(unconditional_recursion, reason = "the misbehaviour")]
fn recurse(depth: u32) -> u32 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[black_box(3)]
}

/// Linked list with eight-byte nodes; dropping 100,000 of them overflows the stack.
struct ChainNode(#[expect(dead_code, reason = "it is there to be dropped")] Option<Box<ChainNode>>);

fn chain(links: usize) -> ChainNode {
    (0..links).fold(ChainNode(None), |chain, _| ChainNode(Some(Box::new(chain))))
}

/// Attempts to break out of the sandbox; returns the result of the system call if the process survives it.
fn escape(act: &str, number: u64) -> Option<i64> {
    let path = address_of(c"/etc/passwd");
    let own = raw_syscall(libc::SYS_getpid, [0; 6]);
    let fdcwd = i64::from(libc::AT_FDCWD);
    let answer = match act {
        "kill_self" => raw_syscall(libc::SYS_kill, [own, libc::SIGKILL.into(), 0, 0, 0, 0]),
        "tgkill_self" => {
            let thread = raw_syscall(libc::SYS_gettid, [0; 6]);
            raw_syscall(libc::SYS_tgkill, [own, thread, libc::SIGKILL.into(), 0, 0, 0])
        }
        "kill_parent" => match raw_syscall(libc::SYS_getppid, [0; 6]) {
            // Never -1 or 0, which would address a process group.
            parent if parent > 1 => raw_syscall(libc::SYS_kill, [parent, libc::SIGKILL.into(), 0, 0, 0, 0]),
            odd => odd,
        },
        "fork_bomb" => (0..number).map(|_| fork_sleeper()).filter(|&pid| pid > 0).count() as i64,
        "thread" => i64::from(std::thread::Builder::new().spawn(sleep_forever).is_ok()),
        "socket" => {
            raw_syscall(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0])
        }
        "read_file" => raw_syscall(libc::SYS_openat, [fdcwd, path, libc::O_RDONLY.into(), 0, 0, 0]),
        "write_file" => write_file(fdcwd),
        "exec" => {
            let argv = [address_of(c"/bin/true"), 0];
            raw_syscall(libc::SYS_execve, [argv[0], address_of(&argv), address_of(&[0_i64]), 0, 0, 0])
        }
        "raise_rlimit" => {
            let limit = [u64::MAX; 2];
            raw_syscall(libc::SYS_prlimit64, [0, libc::RLIMIT_AS.into(), address_of(&limit), 0, 0, 0])
        }
        "execute_memory" => {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            raw_syscall(libc::SYS_mmap, [0, 4096, 7, flags.into(), -1, 0])
        }
        "ptrace" => raw_syscall(libc::SYS_ptrace, [0; 6]),
        "uname" => raw_syscall(libc::SYS_uname, [address_of(&[0_u8; 512]), 0, 0, 0, 0, 0]),
        // Counts open descriptors other than the data socket and the two null devices, by closing them.
        "descriptors" => {
            (3..1024).filter(|&fd| raw_syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) == 0).count() as i64
        }
        "environment" => std::env::vars_os().filter(|(name, _)| name != "GLIBC_TUNABLES").count() as i64,
        "own_pid" => own,
        "parent_pid" => raw_syscall(libc::SYS_getppid, [0; 6]),
        _ => return None,
    };
    Some(answer)
}

/// Creates a file, writes one byte and removes the file; returns the result of the write.
fn write_file(fdcwd: i64) -> i64 {
    let name = format!("/tmp/wm-analyzer-sandbox-{}\0", std::process::id());
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let file = raw_syscall(libc::SYS_openat, [fdcwd, address_of(name.as_str()), flags.into(), 0o600, 0, 0]);
    ignore_signal(libc::SIGXFSZ);
    let written = raw_syscall(libc::SYS_write, [file, address_of(b"x"), 1, 0, 0, 0]);
    raw_syscall(libc::SYS_unlinkat, [fdcwd, address_of(name.as_str()), 0, 0, 0, 0]);
    written
}

/// Forks a child that sleeps; returns its process id.
fn fork_sleeper() -> i64 {
    let pid = raw_syscall(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0]);
    if pid == 0 {
        sleep_forever();
    }
    pid
}

fn write_reply(act: &str, number: u64) -> Option<i64> {
    let header = |attachment| ReplyHeader { code: ReplyCode::Done, answer: 0, attachment }.encode();
    match act {
        "nothing" => kernel::exit_now(0),
        "garbage" => drop(write_socket(b"this is no reply at all, however long you look at it")),
        "short_header" => drop(write_socket(&header(1)[..7])),
        "short_body" => drop(write_socket(&header(100))),
        "large" => drop(write_socket(&header(number))),
        "extra" => drop(write_socket(&[&header(1)[..], b"ab"].concat())),
        "endless" => {
            write_socket(&header(number));
            while write_socket(&[0; 65_536]) {}
        }
        "complete_then" => {
            // A valid reply followed by an exit that invalidates it.
            write_socket(&[&header(2)[..], b"ok"].concat());
            crash("exit", number);
        }
        "complete_then_spin" => {
            write_socket(&[&header(2)[..], b"ok"].concat());
            spin(Duration::MAX);
        }
        "close_and_hang" => {
            raw_syscall(libc::SYS_close, [0; 6]);
            sleep_forever();
        }
        "of_size" => {
            write_socket(&header(number));
            write_socket(&vec![b'x'; usize::try_from(number).unwrap_or(0)]);
        }
        _ => return None,
    }
    kernel::exit_now(0)
}

/// Writes to the data socket; false if the worker has closed it.
fn write_socket(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(kernel::socket(), bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(_) => return false,
        }
    }
    true
}

fn address_of<T: ?Sized>(of: &T) -> i64 {
    std::ptr::from_ref(of).cast::<u8>() as i64
}

/// Performs a system call and returns its result, -1 for any error.
#[expect(unsafe_code, reason = "the misbehaviour")]
fn raw_syscall(number: libc::c_long, args: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: callers pass addresses of live values, or plain numbers; this process is expected to be killed.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

#[expect(unsafe_code, reason = "a misbehaviour")]
fn ignore_signal(signal: libc::c_int) {
    // SAFETY: SIG_IGN runs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
