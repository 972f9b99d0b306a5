//! Parse, run, exit code. A child of ours never gets as far as the command line.

use std::process::ExitCode;

use clap::Parser as _;
use wm_analyzer::cli::args::Cli;
use wm_analyzer::cli::run;
use wm_analyzer::{child, sandbox};

/// DeliveryCounts what a sandboxed job allocates; costs nothing where nobody counts.
#[global_allocator]
static HEAP: sandbox::heap::CountingAllocator = sandbox::heap::CountingAllocator;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == sandbox::FORK_SERVER_ARG) {
        return sandbox::fork_server_main(child::run);
    }
    run::run(Cli::parse()).into()
}
