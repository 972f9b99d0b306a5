//! Puts isolation layers in force: once for a fork-server, once more and tighter for each job, and tries them.
//!
//! It does not decide which layers are enough: [`super::isolation_layers`] does, with what the self-test here has found.
//!
//! Invariant: a layer that the self-test found in force is so in every job, or that job does not begin.
//!
//! # Why
//! No namespaces: containers refuse them, and a network namespace costs 318 us, more than the whole job. Landlock is
//! nested for each job, because a job in the fork-server's own domain could signal it. The self-test *tries* forbidden acts:
//! a filter that answered `EPERM` to Landlock's own calls once left it silently off while every interface said "ok".

use std::hint::black_box;
use std::io;
use std::time::Duration;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
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

/// `nobody`, wherever the name is known.
const NOBODY_UID: u32 = 65_534;
/// The newest rules that were tried on a kernel that has them; older kernels take what they know.
const LANDLOCK_ABI: ABI = ABI::V7;
/// Descriptors of a fork-server: control, null twice, a job's socket, its pidfd, and Landlock's for a moment.
const MAX_DESCRIPTORS: u64 = 16;
/// The job's nice value: fork-server and worker always come before it, so a spinning job is killed at once.
const NICENESS: i32 = 10;

/// Which isolation layers to put in force. Everything, but in `reduced` mode and in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HardeningPlan {
    /// Landlock, around fork-server and job.
    pub(super) landlock: bool,
    /// The fork-server's seccomp filter.
    pub(super) fork_server_filter: bool,
    /// The job's seccomp filter.
    pub(super) job_filter: bool,
    /// Events for the end of a job.
    pub(super) pidfd: bool,
    /// Forking at all.
    pub(super) fork: bool,
    /// System calls that this kernel has not.
    #[cfg(feature = "test-hooks")]
    missing_syscalls: &'static [libc::c_long],
    /// Say hello as another build does.
    #[cfg(feature = "test-hooks")]
    pub(super) other_build: bool,
}

impl HardeningPlan {
    /// What a mode asks for. `disabled` leaves isolation layers out, one by one, and is for tests only.
    #[cfg_attr(not(feature = "test-hooks"), expect(unused_variables, reason = "only tests disable layers"))]
    pub(super) fn new(mode: Isolation, disabled: &[String]) -> Self {
        let enabled = mode != Isolation::Reduced;
        let plan = Self {
            landlock: enabled,
            fork_server_filter: enabled,
            job_filter: enabled,
            pidfd: true,
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
        self.fork &= !has("fork");
        self
    }
}

/// The fork-server's layers, which its jobs inherit. Each of them is put in force as far as the kernel lets us; what came of
/// it is the self-test's to find out.
///
/// # Errors
/// Never for want of a layer, only for limits that the kernel must grant.
pub(super) fn harden_fork_server(plan: HardeningPlan) -> io::Result<IsolationLayers> {
    let oom_first = std::fs::write("/proc/self/oom_score_adj", "1000").is_ok();
    if rustix::process::geteuid().is_root() {
        // Refused in some containers: then the layers do not contain it.
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
        restrict_with_landlock();
    }
    if plan.fork_server_filter {
        let _ = SeccompFilter::for_fork_server().install(0);
    }
    Ok(IsolationLayers::default()
        .union_if(oom_first, IsolationLayers::OOM_FIRST)
        .union_if(!rustix::process::geteuid().is_root(), IsolationLayers::UNPRIVILEGED)
        .union_if(rustix::thread::no_new_privs().unwrap_or(false), IsolationLayers::NO_NEW_PRIVS))
}

/// Lets this process fork no more, for a test of what happens when it cannot.
///
/// # Errors
/// The kernel's.
pub(super) fn forbid_forks() -> io::Result<()> {
    lower_rlimit(Resource::Nproc, 0, 0)
}

/// One job's layers, but for its seccomp filter; says whether Landlock is one of them.
///
/// # Errors
/// The fork-server is gone already, or the kernel refuses a limit.
pub(super) fn harden_job(fork_server: Pid, limits: &Limits, plan: HardeningPlan) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(fork_server) {
        return Err(io::Error::other("the fork-server has gone"));
    }
    let address_space = limits.address_space_limit_bytes();
    let cpu = limits.cpu().as_secs();
    lower_rlimit(Resource::Nproc, 0, 0)?;
    lower_rlimit(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    lower_rlimit(Resource::Stack, limits.stack_bytes, limits.stack_bytes)?;
    lower_rlimit(Resource::Data, address_space, address_space)?;
    lower_rlimit(Resource::As, address_space, address_space)?;
    // Only a matter of latency: 3.4 ms become 0.45.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    Ok(plan.landlock && restrict_with_landlock())
}

/// Sets a limit, but never above the hard one that is already there.
fn lower_rlimit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let ceiling = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(soft.min(ceiling)), maximum: Some(hard.min(ceiling)) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// No file, no TCP, no abstract socket and no signal beyond this process and its children; true where the kernel took
/// any of it.
fn restrict_with_landlock() -> bool {
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK_ABI))?
            .handle_access(AccessNet::from_all(LANDLOCK_ABI))?
            .scope(Scope::from_all(LANDLOCK_ABI))?
            .create()?
            .restrict_self()
    };
    restrict().is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Forks a probe that becomes a job in every respect and then tries what a job must not.
///
/// # Errors
/// The probe could not be forked or collected.
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
    let status = kernel::reap(probe, true)?.map_or(0, |ended| ended.status);
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
            // Must be the end of this process.
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

/// This process's id, as filters compare it.
pub(super) fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()
}
