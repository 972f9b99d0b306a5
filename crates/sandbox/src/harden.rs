//! Applies the isolation layers: once in the fork server, then a stricter set in
//! each job. Also self-tests them.
//!
//! Which layers are required is decided in [`super::isolation_layers`], from the
//! result of the self-test here.
//!
//! Invariant: a layer that the self-test found in force is in force in every job, or that job does not start.
//!
//! # Why
//! Namespaces are not used: containers refuse them, and a network namespace costs 318 us, more than the whole
//! job. Landlock is nested for each job, because a job in the fork server's own domain could signal it. The
//! self-test *attempts* forbidden actions: a filter that answered `EPERM` to Landlock's own calls once
//! disabled Landlock silently while every API reported success.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};

use super::isolation_layers::IsolationLayers;
use super::kernel::{self, Forked, SingleThreaded};
use super::limits::Limits;
use super::seccomp::SeccompFilter;
use super::status_block::StatusBlock;
use super::{Isolation, heap};

/// Unprivileged user and group id that Linux distributions reserve for processes without any files.
const NOBODY_UID: u32 = 65_534;
/// Newest Landlock ABI tested on a kernel that supports it; older kernels apply the subset they support.
const LANDLOCK_ABI: ABI = ABI::V7;
/// Descriptor limit of a fork server: control socket, two null devices, a job's socket and pidfd, temporarily
/// one for Landlock, and a margin.
const MAX_DESCRIPTORS: u64 = 16;

/// Which isolation layers to apply: all of them, except in `reduced` mode and in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HardeningPlan {
    /// Restrict fork server and job with Landlock.
    pub(super) landlock: bool,
    /// Install the seccomp filter of the fork server.
    pub(super) fork_server_filter: bool,
    /// Install the seccomp filter of the job.
    pub(super) job_filter: bool,
    /// Hear of a job's exit by a pidfd; false only in tests, where it is polled for.
    pub(super) pidfd: bool,
    /// Run the work once before the first fork; false only in tests.
    pub(super) warm_up: bool,
    /// Allow forking jobs; false only in tests.
    pub(super) fork: bool,
    /// System calls to simulate as unimplemented (`ENOSYS`).
    #[cfg(feature = "test-hooks")]
    missing_syscalls: &'static [libc::c_long],
    /// Report a different build id in the hello.
    #[cfg(feature = "test-hooks")]
    pub(super) other_build: bool,
}

impl HardeningPlan {
    /// The layers of a mode, minus those named in `disabled`, which is honoured in tests only.
    #[cfg_attr(not(feature = "test-hooks"), expect(unused_variables, reason = "only tests disable layers"))]
    pub(super) fn new(mode: Isolation, disabled: &[String]) -> Self {
        let enabled = mode != Isolation::Reduced;
        let plan = Self {
            landlock: enabled,
            fork_server_filter: enabled,
            job_filter: enabled,
            pidfd: true,
            warm_up: true,
            fork: true,
            #[cfg(feature = "test-hooks")]
            missing_syscalls: &[],
            #[cfg(feature = "test-hooks")]
            other_build: disabled.iter().any(|w| w == "build"),
        };
        #[cfg(feature = "test-hooks")]
        let plan = plan.without_layers(disabled);
        plan
    }

    #[cfg(feature = "test-hooks")]
    fn without_layers(mut self, disabled: &[String]) -> Self {
        let has = |name: &str| disabled.iter().any(|w| w == name);
        self.missing_syscalls =
            if has("kernel_landlock") { super::hooks::LANDLOCK_CALLS } else { self.missing_syscalls };
        self.missing_syscalls =
            if has("kernel_seccomp") { super::hooks::SECCOMP_CALLS } else { self.missing_syscalls };
        self.landlock &= !has("landlock");
        self.job_filter &= !has("job_filter");
        self.pidfd &= !has("pidfd");
        self.warm_up &= !has("warm_up");
        self.fork &= !has("fork");
        self
    }
}

/// Applies the fork server's layers, which its jobs inherit. Each is applied as far as the kernel permits;
/// the self-test then determines which are in force.
///
/// # Errors
/// A limit that the kernel must grant was refused. A missing layer is not an error here.
pub(super) fn harden_fork_server(plan: HardeningPlan) -> io::Result<IsolationLayers> {
    let oom_first = std::fs::write("/proc/self/oom_score_adj", "1000").is_ok();
    if rustix::process::geteuid().is_root() {
        // Some containers refuse this; the result then lacks UNPRIVILEGED.
        let _ = kernel::become_user(NOBODY_UID);
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nofile, MAX_DESCRIPTORS),
    ] {
        lower_rlimit(resource, most, most)?;
    }
    #[cfg(feature = "test-hooks")]
    if !plan.missing_syscalls.is_empty() {
        SeccompFilter::without_syscalls(plan.missing_syscalls).install(0)?;
    }
    if plan.landlock {
        restrict_with_landlock(FileAccess::ReadProc);
    }
    if plan.fork_server_filter {
        let _ = SeccompFilter::for_fork_server().install(0);
    }
    Ok(IsolationLayers::default()
        .union_if(oom_first, IsolationLayers::OOM_FIRST)
        .union_if(!rustix::process::geteuid().is_root(), IsolationLayers::UNPRIVILEGED)
        .union_if(rustix::thread::no_new_privs().unwrap_or(false), IsolationLayers::NO_NEW_PRIVS))
}

/// Prevents this process from forking, to test the error path.
///
/// # Errors
/// The error of `setrlimit`.
pub(super) fn forbid_forks() -> io::Result<()> {
    lower_rlimit(Resource::Nproc, 0, 0)
}

/// Applies the layers of one job except its seccomp filter; returns whether Landlock was applied.
///
/// # Errors
/// The fork server has exited, or the kernel refused a limit.
pub(super) fn harden_job(fork_server: Pid, limits: &Limits, plan: HardeningPlan) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(fork_server) {
        return Err(io::Error::other("the fork server has exited"));
    }
    let address_space = limits.address_space_limit_bytes();
    let cpu = limits.cpu().as_secs();
    lower_rlimit(Resource::Nproc, 0, 0)?;
    lower_rlimit(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    lower_rlimit(Resource::Stack, limits.stack_bytes, limits.stack_bytes)?;
    lower_rlimit(Resource::Data, address_space, address_space)?;
    lower_rlimit(Resource::As, address_space, address_space)?;
    // Its priority is the worker's: at nice 10 it had 0.6 % of a core beside 40 busy loops, at nice 0 4.9 %.
    Ok(plan.landlock && restrict_with_landlock(FileAccess::None))
}

/// Sets a resource limit, capped at the current hard limit.
fn lower_rlimit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let ceiling = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(soft.min(ceiling)), maximum: Some(hard.min(ceiling)) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// The files that a process may still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileAccess {
    /// For a job.
    None,
    /// For a fork server, which reads its job's times.
    ReadProc,
}

/// Denies file access, TCP, abstract sockets, and signals to processes outside this one and its children.
/// Returns true if the kernel enforces at least part of it.
fn restrict_with_landlock(files: FileAccess) -> bool {
    let restrict = || {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK_ABI))?
            .handle_access(AccessNet::from_all(LANDLOCK_ABI))?
            .scope(Scope::from_all(LANDLOCK_ABI))?
            .create()?;
        let proc = if files == FileAccess::ReadProc { PathFd::new("/proc").ok() } else { None };
        let allowed = proc.map(|proc| Ok::<_, RulesetError>(PathBeneath::new(proc, AccessFs::ReadFile)));
        ruleset.add_rules(allowed)?.restrict_self()
    };
    restrict().is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Forks a probe, isolates it like a job, and lets it attempt forbidden actions. Returns
/// the layers proven by that.
///
/// # Errors
/// The probe could not be forked or reaped.
pub(super) fn self_test(
    single_threaded: &SingleThreaded,
    status_block: &StatusBlock,
    plan: HardeningPlan,
) -> io::Result<IsolationLayers> {
    status_block.reset();
    let fork_server = rustix::process::getpid();
    let probe = match kernel::fork(single_threaded)? {
        Forked::Child => probe_isolation(status_block, fork_server, plan),
        Forked::Parent(probe) => probe,
    };
    let pidfd =
        plan.pidfd && rustix::process::pidfd_open(probe, rustix::process::PidfdFlags::empty()).is_ok();
    let status = kernel::reap(probe)?.status;
    let proven = IsolationLayers::from_bits_retain(u32::try_from(status_block.self_test_bits()).unwrap_or(0));
    Ok(proven.union_if(pidfd, IsolationLayers::PIDFD).union_if(
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS,
        IsolationLayers::SECCOMP,
    ))
}

fn probe_isolation(status_block: &StatusBlock, fork_server: Pid, plan: HardeningPlan) -> ! {
    const MIB: u64 = 1024 * 1024;
    let limits = Limits {
        wall: Duration::from_secs(1),
        heap_bytes: 256 * MIB,
        stack_bytes: 8 * MIB,
        reply_bytes: MIB,
    };
    let address_space = limits.address_space_limit_bytes();
    let rlimits = [
        (Resource::As, address_space),
        (Resource::Data, address_space),
        (Resource::Stack, limits.stack_bytes),
        (Resource::Nproc, 0),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, MAX_DESCRIPTORS),
    ];
    let is_in_force =
        |(resource, most)| rustix::process::getrlimit(resource).maximum.is_some_and(|at| at <= most);
    if harden_job(fork_server, &limits, plan).is_ok() {
        let root = rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let signal = rustix::process::test_kill_process(fork_server);
        let dies = rustix::process::parent_process_death_signal();
        let proven = IsolationLayers::default()
            .union_if(rlimits.into_iter().all(is_in_force), IsolationLayers::RLIMITS)
            .union_if(plan.landlock && root.is_err_and(|e| e == Errno::ACCESS), IsolationLayers::LANDLOCK)
            .union_if(plan.landlock && signal == Err(Errno::PERM), IsolationLayers::LANDLOCK_SCOPE)
            .union_if(dies == Ok(Some(Signal::KILL)), IsolationLayers::PDEATHSIG)
            .union_if(is_heap_counted(), IsolationLayers::HEAP_BUDGET);
        status_block.record_self_test(u64::from(proven.bits()));
        if plan.job_filter && SeccompFilter::for_job().install(own_pid()).is_ok() {
            // SIGSYS must end the process here; that is the proof.
            let _ = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        }
    }
    kernel::exit_now(0)
}

fn is_heap_counted() -> bool {
    const BLOCK: usize = 4096;
    heap::arm(u64::MAX / 2);
    let block = black_box(vec![1_u8; BLOCK]);
    let counted = heap::live() >= BLOCK as u64;
    heap::disarm();
    drop(block);
    counted
}

/// Process id as an unsigned value, as seccomp filters compare it.
pub(super) fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()
}
