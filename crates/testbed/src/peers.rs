//! Other programs that a test talks to, where they are installed.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs a program with `input` on its standard input, and answers what it printed; it must end well.
///
/// # Panics
/// Where it cannot be started or does not end well.
pub fn run(command: &mut Command, input: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Whether `program` with these arguments ends well. Where it does not, the test may be skipped, and that is
/// printed.
///
/// # Panics
/// Where it does not end well under `WM_REQUIRE_PEERS=1`.
pub fn is_available(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let available = command.status().is_ok_and(|status| status.success());
    if !available {
        skip_without(&[&[program], args].concat().join(" "));
    }
    available
}

/// Prints that a test is skipped because this peer is not there.
///
/// # Panics
/// Under `WM_REQUIRE_PEERS=1`.
#[expect(clippy::print_stdout, reason = "a test that tests nothing must say so")]
pub fn skip_without(peer: &str) {
    println!("SKIPPED: no {peer}");
    assert!(std::env::var_os("WM_REQUIRE_PEERS").is_none(), "no {peer}");
}
