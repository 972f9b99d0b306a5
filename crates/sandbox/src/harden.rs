//! Puts the walls up: once around a zygote, once more and tighter around each job, and tries them.
//!
//! It does not decide which walls are enough: [`super::features`] does, with what the self-test here has found.
//!
//! Invariant: a wall that the self-test found standing is up in every job, or that job does not begin.
//!
//! # Why
//! No namespaces: containers refuse them, and a network namespace costs 318 us, more than the whole job. Landlock is
//! nested for each job, because a job in the zygote's own domain could signal it. The self-test *tries* forbidden acts:
//! a filter that answered `EPERM` to Landlock's own calls once left it silently off while every interface said "ok".

use std::hint::black_box;
use std::io;
use std::time::Duration;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};

use super::board::Board;
use super::features::Features;
use super::kernel::{self, Alone, Forked};
use super::limits::Limits;
use super::seccomp::Filter;
use super::{Isolation, heap};

/// `nobody`, wherever the name is known.
const NOBODY: u32 = 65_534;
/// The newest rules that were tried on a kernel that has them; older kernels take what they know.
const LANDLOCK: ABI = ABI::V7;
/// Descriptors of a zygote: control, null twice, a job's socket, its pidfd, and Landlock's for a moment.
const DESCRIPTORS: u64 = 16;
/// Politeness of a job: zygote and worker always come before it, so a spinning job is killed at once.
const NICENESS: i32 = 10;

/// Which walls to put up. Everything, but in `reduced` mode and in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Landlock, around zygote and job.
    pub(super) landlock: bool,
    /// The zygote's seccomp filter.
    pub(super) zygote_filter: bool,
    /// The job's seccomp filter.
    pub(super) job_filter: bool,
    /// Events for the end of a job.
    pub(super) pidfd: bool,
    /// Forking at all.
    pub(super) fork: bool,
    /// System calls that this kernel has not.
    #[cfg(feature = "test-hooks")]
    missing: &'static [libc::c_long],
    /// Say hello as another build does.
    #[cfg(feature = "test-hooks")]
    pub(super) foreign: bool,
}

impl Plan {
    /// What a mode asks for. `without` takes walls down, one by one, and is for tests only.
    #[cfg_attr(not(feature = "test-hooks"), expect(unused_variables, reason = "only tests take walls down"))]
    pub(super) fn new(mode: Isolation, without: &[String]) -> Self {
        let walls = mode != Isolation::Reduced;
        let plan = Self {
            landlock: walls,
            zygote_filter: walls,
            job_filter: walls,
            pidfd: true,
            fork: true,
            #[cfg(feature = "test-hooks")]
            missing: &[],
            #[cfg(feature = "test-hooks")]
            foreign: without.iter().any(|w| w == "build"),
        };
        #[cfg(feature = "test-hooks")]
        let plan = plan.without(without);
        plan
    }

    #[cfg(feature = "test-hooks")]
    fn without(mut self, walls: &[String]) -> Self {
        let has = |name: &str| walls.iter().any(|w| w == name);
        self.missing = if has("kernel_landlock") { super::hooks::LANDLOCK_CALLS } else { self.missing };
        self.missing = if has("kernel_seccomp") { super::hooks::SECCOMP_CALLS } else { self.missing };
        self.landlock &= !has("landlock");
        self.job_filter &= !has("job_filter");
        self.pidfd &= !has("pidfd");
        self.fork &= !has("fork");
        self
    }
}

/// Walls around the zygote, which its jobs inherit. Each of them is put up as far as the kernel lets us; what came of
/// it is the self-test's to find out.
///
/// # Errors
/// Never for want of a wall, only for limits that the kernel must grant.
pub(super) fn zygote(plan: Plan) -> io::Result<Features> {
    let oom_first = std::fs::write("/proc/self/oom_score_adj", "1000").is_ok();
    if rustix::process::geteuid().is_root() {
        // Refused in some containers: then the features say so.
        let _ = kernel::become_user(NOBODY);
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nofile, DESCRIPTORS),
    ] {
        lower(resource, most, most)?;
    }
    #[cfg(feature = "test-hooks")]
    if !plan.missing.is_empty() {
        Filter::without(plan.missing).install(0)?;
    }
    if plan.landlock {
        landlock();
    }
    if plan.zygote_filter {
        let _ = Filter::of_zygote().install(0);
    }
    Ok(Features::default()
        .union_if(oom_first, Features::OOM_FIRST)
        .union_if(!rustix::process::geteuid().is_root(), Features::UNPRIVILEGED)
        .union_if(rustix::thread::no_new_privs().unwrap_or(false), Features::NO_NEW_PRIVS))
}

/// Lets this process fork no more, for a test of what happens when it cannot.
///
/// # Errors
/// The kernel's.
pub(super) fn forbid_forks() -> io::Result<()> {
    lower(Resource::Nproc, 0, 0)
}

/// Walls around one job, but for its seccomp filter; says whether Landlock is one of them.
///
/// # Errors
/// The zygote is gone already, or the kernel refuses a limit.
pub(super) fn job(zygote: Pid, limits: &Limits, plan: Plan) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(zygote) {
        return Err(io::Error::other("the zygote has gone"));
    }
    let fence = limits.fence_bytes();
    let cpu = limits.cpu().as_secs();
    lower(Resource::Nproc, 0, 0)?;
    lower(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    lower(Resource::Stack, limits.stack_bytes, limits.stack_bytes)?;
    lower(Resource::Data, fence, fence)?;
    lower(Resource::As, fence, fence)?;
    // Only a matter of latency: 3.4 ms become 0.45.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    Ok(plan.landlock && landlock())
}

/// Sets a limit, but never above the hard one that is already there.
fn lower(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let ceiling = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(soft.min(ceiling)), maximum: Some(hard.min(ceiling)) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// No file, no TCP, no abstract socket and no signal beyond this process and its children; true where the kernel took
/// any of it.
fn landlock() -> bool {
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .restrict_self()
    };
    restrict().is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Forks a probe that becomes a job in every respect and then tries what a job must not.
///
/// # Errors
/// The probe could not be forked or collected.
pub(super) fn self_test(alone: &Alone, board: &Board, plan: Plan) -> io::Result<Features> {
    board.wipe();
    let zygote = rustix::process::getpid();
    let probe = match kernel::fork(alone)? {
        Forked::Child => try_the_walls(board, zygote, plan),
        Forked::Parent(probe) => probe,
    };
    let pidfd =
        plan.pidfd && rustix::process::pidfd_open(probe, rustix::process::PidfdFlags::empty()).is_ok();
    let status = kernel::reap(probe, true)?.map_or(0, |ended| ended.status);
    let said = Features::from_bits_retain(u32::try_from(board.proof()).unwrap_or(0));
    Ok(said
        .union_if(pidfd, Features::PIDFD)
        .union_if(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, Features::SECCOMP))
}

fn try_the_walls(board: &Board, zygote: Pid, plan: Plan) -> ! {
    const MIB: u64 = 1024 * 1024;
    let limits = Limits {
        wall: Duration::from_secs(1),
        heap_bytes: 256 * MIB,
        stack_bytes: 8 * MIB,
        reply_bytes: MIB,
    };
    let fence = limits.fence_bytes();
    let fences = [
        (Resource::As, fence),
        (Resource::Data, fence),
        (Resource::Stack, limits.stack_bytes),
        (Resource::Nproc, 0),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, DESCRIPTORS),
    ];
    let stands = |(resource, most)| rustix::process::getrlimit(resource).maximum.is_some_and(|at| at <= most);
    if job(zygote, &limits, plan).is_ok() {
        let root = rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let signal = rustix::process::test_kill_process(zygote);
        let dies = rustix::process::parent_process_death_signal();
        let proof = Features::default()
            .union_if(fences.into_iter().all(stands), Features::RLIMITS)
            .union_if(plan.landlock && root.is_err_and(|e| e == Errno::ACCESS), Features::LANDLOCK)
            .union_if(plan.landlock && signal == Err(Errno::PERM), Features::LANDLOCK_SCOPE)
            .union_if(dies == Ok(Some(Signal::KILL)), Features::PDEATHSIG)
            .union_if(the_heap_is_counted(), Features::HEAP_BUDGET);
        board.note_proof(u64::from(proof.bits()));
        if plan.job_filter && Filter::of_job().install(own_pid()).is_ok() {
            // Must be the end of this process.
            let _ = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        }
    }
    kernel::exit_now(0)
}

fn the_heap_is_counted() -> bool {
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
