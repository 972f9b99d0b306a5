//! Distinguishes a stack overflow from other faults and gives it its own exit code.
//!
//! It does not enlarge the stack and does not replace recursion limits: parsers have
//! their own, with better messages.
//!
//! Invariant: any other fault kills the process with its original signal, as if no handler were installed.
//!
//! # Why
//! The handler of the standard library ends in SIGABRT, which looks like any other abort.

use std::io;

use super::kernel;

/// Exit code of a job that overflows its stack.
pub(super) const EXIT_STACK: i32 = 78;
/// Faults within this distance of the stack pointer count as stack overflows; stack probes touch every page,
/// so a real one is close.
const MAX_FAULT_DISTANCE_BYTES: usize = 64 * 1024;
/// Size of the handler's own stack: the saved registers alone take up to 12 KiB with AMX.
const SIGNAL_STACK_BYTES: usize = 64 * 1024;

/// Installs the signal handler in the fork server; jobs inherit it.
///
/// # Errors
/// The error of `sigaltstack` or `sigaction`.
#[expect(unsafe_code, reason = "signal handlers have no safe wrapper")]
pub(super) fn install_signal_action() -> io::Result<()> {
    let memory = Box::leak(vec![0_u8; SIGNAL_STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK_BYTES };
    // SAFETY: the memory is leaked, so it is never freed, and nothing else uses it.
    if unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: all zeroes is a valid sigaction; the handler has the signature that SA_SIGINFO
        // requires and calls only `_exit`.
        let done = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Exits if the fault address is near the stack pointer. Otherwise it returns: SA_RESETHAND has restored the
/// default action, so the same instruction faults again and the process dies of the original signal.
#[expect(unsafe_code, reason = "a signal handler reads what the kernel points at")]
extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO both pointers are valid while the handler runs.
    let (address, pointer) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        ((*info).si_addr() as usize, stack_pointer(context))
    };
    if address.abs_diff(pointer) <= MAX_FAULT_DISTANCE_BYTES {
        kernel::exit_now(EXIT_STACK);
    }
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize].cast_unsigned() as usize
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}
