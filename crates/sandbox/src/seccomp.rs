//! The system calls a job may make, as a hand-assembled seccomp filter.
//!
//! When a filter is installed, and whether it works, is up to `harden`.
//!
//! Invariant: unlisted calls fail with `EPERM`. Calls that no analysis needs but an attacker would
//! use kill the process, as do calls of a foreign architecture and of x32. The numbers come from
//! `libc`, so each architecture has its own table by construction. The aarch64 filter compiles from
//! the same lists and is untested.
//!
//! # Why
//! The common crate supports one match action per filter, which would take two filters and 90 us more per
//! job. This filter is built once in the fork server; a job only inserts its own process id. The rules are found by a
//! binary search: at each installation the kernel runs the filter once for every call that exists, to know those that
//! it need not ask about, and a list of 110 comparisons takes 60 us there. Each answer stands once, behind the search: the
//! kernel checks, converts and compiles every instruction for each job.

use std::collections::BTreeMap;
use std::io;

use libc::{c_long, sock_filter};

use super::kernel;

/// Calls that the analysis needs: I/O on open descriptors, memory, time, randomness, exit.
const ALLOWED: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
];

/// Calls that no analysis needs: network, files, process creation and control, large kernel subsystems.
const KILLED: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_prlimit64,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];

/// Legacy calls of this architecture with the same effect as those in [`KILLED`].
#[cfg(target_arch = "x86_64")]
const KILLED_ON_THIS_ARCH: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_setrlimit,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_kexec_file_load,
];
/// Legacy calls of this architecture with the same effect as those in [`KILLED`].
#[cfg(target_arch = "aarch64")]
const KILLED_ON_THIS_ARCH: &[c_long] = &[libc::SYS_kexec_file_load];

/// Calls that a fork server never makes. It reads nothing hostile, so this filter is defence in depth.
/// `socket` is not listed: the self-test's probe must be killed by the job's filter, not by this one.
const KILLED_IN_FORK_SERVER: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_memfd_create,
];

/// `AUDIT_ARCH_X86_64` from `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// `AUDIT_ARCH_AARCH64` from `linux/audit.h`.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// First call number of the x32 ABI (`__X32_SYSCALL_BIT`). Other architectures have no numbers this high.
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();

/// Longest program: a conditional jump reaches that far. The filter of a job has half as many.
const MAX_INSTRUCTIONS: usize = 256;

/// A seccomp program, ready to be installed.
#[derive(Debug)]
pub(super) struct SeccompFilter {
    program: Vec<sock_filter>,
    own_pid_at: Option<usize>,
}

/// What a filter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Always the same.
    Act(u32),
    /// Allows it unless it requests executable memory (`prot`, the third argument).
    UnlessExecutable,
    /// Allows `tgkill` only with this process as target (first argument) and SIGABRT, as `abort` sends it. A job that
    /// could send itself SIGKILL would look like a victim of the kernel's OOM killer, which is not blamed on the job.
    OwnAbortOnly,
}

impl Rule {
    /// Length of what [`SeccompFilter::push_rule`] pushes.
    fn instructions(self) -> usize {
        match self {
            Self::Act(_) => 1,
            Self::UnlessExecutable => 4,
            Self::OwnAbortOnly => 6,
        }
    }
}

impl SeccompFilter {
    /// Builds the filter for jobs; the process id is inserted by [`Self::install`].
    pub(super) fn for_job() -> Self {
        let special = [
            (libc::SYS_mmap, Rule::UnlessExecutable),
            (libc::SYS_mprotect, Rule::UnlessExecutable),
            (libc::SYS_tgkill, Rule::OwnAbortOnly),
        ];
        let allowed = ALLOWED.iter().map(|&call| (call, Rule::Act(ALLOW)));
        let killed = KILLED.iter().chain(KILLED_ON_THIS_ARCH).map(|&call| (call, Rule::Act(KILL)));
        Self::new(allowed.chain(killed).chain(special), REFUSE)
    }

    /// Builds the filter for fork servers.
    pub(super) fn for_fork_server() -> Self {
        Self::new(KILLED_IN_FORK_SERVER.iter().map(|&call| (call, Rule::Act(KILL))), ALLOW)
    }

    /// Builds a filter that answers `ENOSYS` to these calls, to simulate an older kernel.
    #[cfg(feature = "test-hooks")]
    pub(super) fn without_syscalls(calls: &[c_long]) -> Self {
        let missing = Rule::Act(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
        Self::new(calls.iter().map(|&call| (call, missing)), ALLOW)
    }

    /// Installs the filter permanently on this process, whose id is `own_pid`.
    ///
    /// # Errors
    /// See [`kernel::install_filter`].
    pub(super) fn install(&mut self, own_pid: u32) -> io::Result<()> {
        if let Some(at) = self.own_pid_at {
            self.program[at].k = own_pid;
        }
        kernel::install_filter(&self.program)
    }

    /// A program with the architecture and x32 checks that all filters share, these rules, and an action for every
    /// other call.
    fn new(rules: impl Iterator<Item = (c_long, Rule)>, others: u32) -> Self {
        let mut filter = Self { program: Vec::with_capacity(MAX_INSTRUCTIONS), own_pid_at: None };
        filter.push(load(kernel::SECCOMP_ARCH));
        filter.push(if_equal(ARCHITECTURE, 1, 0));
        filter.push(ret(KILL));
        filter.push(load(kernel::SECCOMP_NR));
        filter.push(if_at_least(X32, 0, 1));
        filter.push(ret(KILL));
        let ranges = ranges(rules.map(|(call, rule)| (syscall_number(call), rule)).collect(), others);
        let mut place = filter.program.len() + ranges.len() - 1;
        let mut answers: Vec<(Rule, usize)> = Vec::new();
        for (_, rule) in &ranges {
            if !answers.iter().any(|(known, _)| known == rule) {
                answers.push((*rule, place));
                place += rule.instructions();
            }
        }
        filter.push_search(&ranges, &answers);
        answers.into_iter().for_each(|(rule, _)| filter.push_rule(rule));
        if filter.program.len() > MAX_INSTRUCTIONS {
            filter = Self { program: vec![ret(KILL)], own_pid_at: None }; // its jumps would go astray
        }
        filter
    }

    fn push(&mut self, instruction: sock_filter) {
        self.program.push(instruction);
    }

    /// A binary search for the range of a call's number: one comparison between a range and the next. A half of one
    /// range has no instruction of its own; it is a jump to its answer.
    fn push_search(&mut self, ranges: &[(u32, Rule)], answers: &[(Rule, usize)]) {
        let (below, from) = ranges.split_at(ranges.len() / 2);
        let ([_, ..], [(first, _), ..]) = (below, from) else { return };
        let next = self.program.len() + 1;
        let distance = |half: &[(u32, Rule)], search: usize| {
            let to = match half {
                [(_, rule)] => answers.iter().find(|(known, _)| known == rule).map_or(search, |(_, at)| *at),
                _ => search,
            };
            u8::try_from(to - next).unwrap_or(u8::MAX)
        };
        self.push(if_at_least(*first, distance(from, next + below.len() - 1), distance(below, next)));
        self.push_search(below, answers);
        self.push_search(from, answers);
    }

    fn push_rule(&mut self, rule: Rule) {
        match rule {
            Rule::Act(action) => self.push(ret(action)),
            Rule::UnlessExecutable => {
                self.push(load(kernel::SECCOMP_ARGS + 2 * 8));
                self.push(if_any_bit(libc::PROT_EXEC.cast_unsigned(), 0, 1));
                self.push(ret(KILL));
                self.push(ret(ALLOW));
            }
            Rule::OwnAbortOnly => {
                self.push(load(kernel::SECCOMP_ARGS));
                self.own_pid_at = Some(self.program.len());
                self.push(if_equal(0, 0, 3));
                self.push(load(kernel::SECCOMP_ARGS + 2 * 8));
                self.push(if_equal(libc::SIGABRT.cast_unsigned(), 0, 1));
                self.push(ret(ALLOW));
                self.push(ret(KILL));
            }
        }
    }
}

/// The first number of each range of calls under one rule, ascending from 0 on; `others` is the action between them.
fn ranges(rules: BTreeMap<u32, Rule>, others: u32) -> Vec<(u32, Rule)> {
    let mut ranges = vec![(0, Rule::Act(others))];
    for (number, rule) in rules {
        if ranges.last().is_some_and(|(first, _)| *first == number) {
            ranges.pop();
        }
        ranges.extend([(number, rule), (number + 1, Rule::Act(others))]);
    }
    ranges.dedup_by_key(|(_, rule)| *rule);
    ranges
}

/// Call number as the filter compares it; all numbers are small compile-time constants,
/// so the conversion is exact.
fn syscall_number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// Loads the 32 bits at a byte offset; for an argument that is its lower half, as
/// both architectures are little-endian.
fn load(offset: usize) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, u32::try_from(offset).unwrap_or(u32::MAX), 0, 0)
}

fn if_equal(value: u32, then: u8, or: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, then, or)
}

fn if_at_least(value: u32, then: u8, or: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, value, then, or)
}

fn if_any_bit(bits: u32, then: u8, or: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, then, or)
}

fn ret(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets a filter like the kernel does.
    fn run_filter(filter: &SeccompFilter, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        run_and_count(filter, arch, nr, args).0
    }

    /// Its answer, and the number of instructions that it took.
    fn run_and_count(filter: &SeccompFilter, arch: u32, nr: u32, args: [u64; 6]) -> (u32, usize) {
        let mut data = Vec::new();
        data.extend(nr.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
        let (mut at, mut a, mut count) = (0, 0, 0);
        loop {
            let i = filter.program[at];
            (at, count) = (at + 1, count + 1);
            let class = u32::from(i.code) & 0x07;
            let jump = u32::from(i.code) & 0xf0;
            if class == libc::BPF_RET {
                return (i.k, count);
            } else if class == libc::BPF_LD {
                let from = i.k as usize;
                a = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            } else {
                let taken = match jump {
                    libc::BPF_JEQ => a == i.k,
                    libc::BPF_JGE => a >= i.k,
                    libc::BPF_JSET => a & i.k != 0,
                    other => panic!("no such jump: {other:#x}"),
                };
                at += usize::from(if taken { i.jt } else { i.jf });
            }
        }
    }

    fn job_action(call: c_long, args: [u64; 6]) -> u32 {
        let mut filter = SeccompFilter::for_job();
        let at = filter.own_pid_at.unwrap();
        filter.program[at].k = 4711;
        run_filter(&filter, ARCHITECTURE, syscall_number(call), args)
    }

    #[test]
    fn a_job_may_do_what_it_needs_and_dies_of_what_it_does_not() {
        for &call in ALLOWED {
            assert_eq!(job_action(call, [0; 6]), ALLOW, "call {call}");
        }
        for &call in KILLED.iter().chain(KILLED_ON_THIS_ARCH) {
            assert_eq!(job_action(call, [0; 6]), KILL, "call {call}");
        }
        for call in [libc::SYS_uname, libc::SYS_fstat, libc::SYS_prctl, libc::SYS_sendmsg, libc::SYS_ioctl] {
            assert_eq!(job_action(call, [0; 6]), REFUSE, "call {call}");
        }
    }

    #[test]
    fn arguments_decide_where_the_number_does_not() {
        let (read_write, execute) = (3, 7);
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(job_action(call, [0, 1, read_write, 0, 0, 0]), ALLOW);
            assert_eq!(job_action(call, [0, 1, execute, 0, 0, 0]), KILL);
        }
        assert_eq!(job_action(libc::SYS_tgkill, [4711, 4711, 6, 0, 0, 0]), ALLOW);
        assert_eq!(job_action(libc::SYS_tgkill, [4711, 4711, 9, 0, 0, 0]), KILL, "not every signal");
        assert_eq!(job_action(libc::SYS_tgkill, [4710, 4710, 6, 0, 0, 0]), KILL, "not everybody");
    }

    #[test]
    fn a_foreign_architecture_and_x32_are_killed() {
        for filter in [SeccompFilter::for_job(), SeccompFilter::for_fork_server()] {
            let read = syscall_number(libc::SYS_read);
            assert_eq!(run_filter(&filter, ARCHITECTURE, read, [0; 6]), ALLOW);
            assert_eq!(run_filter(&filter, 0x4000_0003, read, [0; 6]), KILL, "i386");
            assert_eq!(run_filter(&filter, ARCHITECTURE, X32 | read, [0; 6]), KILL);
        }
    }

    #[test]
    fn a_filter_answers_within_some_instructions_whatever_the_call() {
        let filter = SeccompFilter::for_job();
        for number in (0..1_000).chain([X32 - 1]) {
            let (_, count) = run_and_count(&filter, ARCHITECTURE, number, [0; 6]);
            assert!(count <= 30, "call {number}: {count} instructions");
        }
    }

    #[test]
    fn every_filter_is_short_enough_for_its_jumps() {
        for filter in [SeccompFilter::for_job(), SeccompFilter::for_fork_server()] {
            assert!((10..MAX_INSTRUCTIONS).contains(&filter.program.len()), "{}", filter.program.len());
        }
        let every_other = (0..600).step_by(2).map(|call| (call, Rule::Act(ALLOW)));
        let too_long = SeccompFilter::new(every_other, REFUSE);
        assert_eq!(
            run_filter(&too_long, ARCHITECTURE, 0, [0; 6]),
            KILL,
            "instead of an answer to another call"
        );
    }

    #[test]
    fn no_call_is_on_two_lists() {
        let all: Vec<_> = [ALLOWED, KILLED, KILLED_ON_THIS_ARCH].concat();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
