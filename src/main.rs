//! Parses the command line, runs the command and returns its exit code. A sandboxed child never gets this
//! far.

use std::process::ExitCode;

use clap::Parser as _;
use wm_analyzer::cli::args::Cli;
use wm_analyzer::cli::run;
use wm_analyzer::{child, sandbox};

/// Counts the allocations of a sandboxed job; in any other process it adds no bookkeeping.
#[global_allocator]
static HEAP: sandbox::heap::CountingAllocator = sandbox::heap::CountingAllocator;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == sandbox::FORK_SERVER_ARG) {
        return sandbox::fork_server_main(child::warm_up, child::run);
    }
    run::run(Cli::parse()).into()
}
