//! Tells a stack overflow from any other fault, and ends the job with its own exit code.
//!
//! It does not deepen the stack, and it is no bound on recursion: a parser keeps its own, with a better message.
//!
//! Invariant: a fault that is not a stack overflow kills the process by its own signal, as if nobody had looked.
//!
//! # Why
//! The standard library's handler ends in SIGABRT, which is what every abort looks like.

use std::io;

use super::kernel;

/// How a job ends that runs out of stack.
pub(super) const EXIT_STACK: i32 = 78;
/// How far from the stack pointer a fault still is the stack's: frames are probed page by page, so it is near.
const MAX_FAULT_DISTANCE_BYTES: usize = 64 * 1024;
/// The handler's own stack: what the kernel saves of the registers takes up to 12 KiB where there is AMX.
const SIGNAL_STACK_BYTES: usize = 64 * 1024;

/// Installs the handler, in the fork-server: jobs inherit it.
///
/// # Errors
/// The kernel's.
#[expect(unsafe_code, reason = "signal handlers have no safe wrapper")]
pub(super) fn install_signal_action() -> io::Result<()> {
    let memory = Box::leak(vec![0_u8; SIGNAL_STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK_BYTES };
    // SAFETY: the memory lives for ever and is nobody else's.
    if unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: zeroes are a valid sigaction; the handler has the signature that SA_SIGINFO asks for, and calls
        // nothing but `_exit`.
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

/// Ends the process if the fault is at the stack's end. Otherwise returns: the default action is back by then, so the
/// same instruction faults again and the process dies of the signal itself.
#[expect(unsafe_code, reason = "a signal handler reads what the kernel points at")]
extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO both point at values that live as long as the handler runs.
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
