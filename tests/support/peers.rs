//! Programs of others that a test talks to, where they are installed.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs a program with `input` on its standard input, and answers what it printed; it must end well.
pub(crate) fn run(command: &mut Command, input: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Whether `program` with these arguments ends well. Where it does not, the test may be skipped, which is said; under
/// `WM_REQUIRE_PEERS=1` that is a failure.
pub(crate) fn is_available(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let available = command.status().is_ok_and(|status| status.success());
    if !available {
        skip_without(&[&[program], args].concat().join(" "));
    }
    available
}

/// Says that a test is skipped because this peer is not there.
#[expect(clippy::print_stdout, reason = "a test that says nothing must say so")]
pub(crate) fn skip_without(peer: &str) {
    println!("SKIPPED: no {peer}");
    assert!(std::env::var_os("WM_REQUIRE_PEERS").is_none(), "no {peer}");
}
