//! `worker quiet --self`: tell the worker beside us to claim nothing more; what a container's preStop hook
//! runs.
//!
//! It speaks to processes of this machine only, by signal: no Redis, so it works while Redis is what is
//! broken.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::Exit;
use super::render;

/// Sends TSTP to the one `wm-analyzer work` that this process can see.
pub fn quiet() -> Exit {
    match worker_pids().as_slice() {
        [] => {
            render::error("no `wm-analyzer work` runs here");
            Exit::NothingMatched
        }
        [pid] => match kill_process(*pid, Signal::TSTP) {
            Ok(()) => {
                render::note(format!(
                    "worker {} claims nothing more; it stays until it gets TERM",
                    pid.as_raw_pid()
                ));
                Exit::Ok
            }
            Err(e) => {
                render::error(format!("worker {}: {e}", pid.as_raw_pid()));
                Exit::Failed
            }
        },
        many => {
            let pids = many.iter().map(|pid| pid.as_raw_pid().to_string()).collect::<Vec<_>>().join(", ");
            render::error(format!("several workers run here ({pids}): send TSTP to the one you mean"));
            Exit::Failed
        }
    }
}

/// Processes of this very binary whose command is `work`.
fn worker_pids() -> Vec<Pid> {
    let Ok(own) = fs::metadata("/proc/self/exe") else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| is_worker(Path::new("/proc").join(pid.to_string()).as_path(), &own))
        .filter_map(Pid::from_raw)
        .collect()
}

fn is_worker(process: &Path, own: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let same =
        fs::metadata(process.join("exe")).is_ok_and(|exe| (exe.dev(), exe.ino()) == (own.dev(), own.ino()));
    same && fs::read(process.join("cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).skip(1).any(|word| word == b"work"))
}
