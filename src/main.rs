//! Parse, run, exit code.

use std::process::ExitCode;

use wm_analyzer::sandbox;

/// Counts in a sandboxed job, and is the system's own everywhere else.
#[global_allocator]
static HEAP: sandbox::heap::Counting = sandbox::heap::Counting;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == sandbox::ZYGOTE_ARG) {
        return sandbox::zygote_main(|task| [task.a, task.b].concat());
    }
    ExitCode::SUCCESS
}
