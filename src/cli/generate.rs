//! What is made of the clap tree: completions for shells, and manual pages.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Cli;
use super::monitor_args::CompletionShell;
use crate::ops::{Exit, render};

/// The name that completions are registered for.
const NAME: &str = "wm-analyzer";

/// Prints the completions for a shell.
pub(super) fn completions(shell: CompletionShell) -> Exit {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    // clap_complete 4.6.11 writes the hyphen of the program's name in two ways, and then bash finds no subcommand.
    render::text(String::from_utf8_lossy(&script).replace("wm__subcmd__analyzer", "wm__analyzer"));
    Exit::Ok
}

/// Prints the program's manual page, or writes one for each command into `dir`.
pub(super) fn man(dir: Option<&Path>) -> Exit {
    if let Some(dir) = dir {
        return match clap_mangen::generate_to(Cli::command(), dir) {
            Ok(()) => Exit::Ok,
            Err(e) => {
                render::error(format!("no manual pages in {}: {e}", dir.display()));
                Exit::Failed
            }
        };
    }
    let mut page = Vec::new();
    // Writing to memory cannot fail.
    clap_mangen::Man::new(Cli::command()).render(&mut page).unwrap_or_default();
    render::text(String::from_utf8_lossy(&page));
    Exit::Ok
}
