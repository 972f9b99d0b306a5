//! Instructions that the analysis of four fixed pairs takes, counted by valgrind, and whether they are more than before:
//! `cargo bench --bench instructions`.
//!
//! A count is the same on an idle machine and on a busy one, so that a change that makes the analysis slower is seen in
//! CI. It belongs to a compiler, a target and its vectors: `instructions.toml` has a table for each that was measured, and
//! a count that is more than [`MAX_GROWTH`] above its baseline fails. `-- --record` prints a table for this compiler.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench talks to whoever runs it, and stops at a surprise"
)]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use wm_analyzer::analysis::child;
use wm_analyzer::job::analysis_request::{AnalysisRequest, BodyInput};
use wm_testbed::pages;

/// How far above its baseline a count may be.
const MAX_GROWTH: f64 = 1.10;
/// Baselines by compiler and target.
const BASELINES: &str = include_str!("instructions.toml");
/// Flags of a process that makes the pages of a pair and analyses them, and of one that only makes them.
const PAIR: &str = "--pair";
const PAGES: &str = "--pages";
const PAIRS: [&str; 4] = ["edited 50 kB", "edited 500 kB", "unrelated 100 kB", "rewritten paragraph"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| [PAIR, PAGES].contains(&argument.as_str())) {
        let (from, to) = pages_of(&arguments[at + 1]);
        if arguments[at] == PAIR {
            analyse(from, to);
        }
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        let required = std::env::var("WM_REQUIRE_PEERS").is_ok_and(|value| value == "1");
        println!("SKIPPED: no valgrind");
        return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let counts: BTreeMap<&str, u64> =
        PAIRS.into_iter().map(|pair| (pair, counted(PAIR, pair) - counted(PAGES, pair))).collect();
    if arguments.iter().any(|argument| argument == "--record") {
        println!("[\"{}\"]", compiler());
        counts.iter().for_each(|(pair, count)| println!("\"{pair}\" = {count}"));
        return ExitCode::SUCCESS;
    }
    compare(&counts)
}

/// Prints the counts beside their baselines.
fn compare(counts: &BTreeMap<&str, u64>) -> ExitCode {
    let baselines: BTreeMap<String, BTreeMap<String, u64>> = toml::from_str(BASELINES).unwrap();
    let Some(baseline) = baselines.get(&compiler()) else {
        counts.iter().for_each(|(pair, count)| println!("{pair:<22}{count:>14}"));
        println!("SKIPPED: no baseline of {}; `-- --record` prints one", compiler());
        return ExitCode::SUCCESS;
    };
    let mut exit = ExitCode::SUCCESS;
    for (pair, count) in counts {
        let ratio = *count as f64 / baseline[*pair] as f64;
        let verdict = if ratio > MAX_GROWTH { "FAILED: more than 10 % above" } else { "" };
        println!("{pair:<22}{count:>14}{ratio:>8.3} of the baseline  {verdict}");
        if ratio > MAX_GROWTH {
            exit = ExitCode::FAILURE;
        }
    }
    exit
}

/// The compiler, its target, and the vector instructions that this machine has: the libraries use them.
fn compiler() -> String {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let line = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    #[cfg(target_arch = "x86_64")]
    let vectors = if std::arch::is_x86_feature_detected!("avx2") { " avx2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    format!("{} {}{vectors}", line("release: "), line("host: "))
}

/// The instructions of a process with this flag.
fn counted(what: &str, pair: &str) -> u64 {
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([what, pair])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    let count = said.lines().find_map(|line| line.split_once("Collected : "));
    count.unwrap_or_else(|| panic!("valgrind says no count: {said}")).1.trim().parse().unwrap()
}

/// Both pages of a pair.
fn pages_of(pair: &str) -> (Vec<u8>, Vec<u8>) {
    match pair {
        "edited 50 kB" => pages::pair(1, 50_000),
        "edited 500 kB" => pages::pair(1, 500_000),
        "unrelated 100 kB" => (pages::pair(1, 100_000).0, pages::pair(2, 100_000).0),
        "rewritten paragraph" => {
            let page = |seed| {
                let (words, _) = pages::pair(seed, 4_000);
                [b"<!doctype html><p>".as_slice(), &words].concat()
            };
            (page(3), page(4))
        }
        other => panic!("there is no pair {other}"),
    }
}

fn analyse(from: Vec<u8>, to: Vec<u8>) {
    let body = || BodyInput { media_type: Some("text/html".to_owned()), ..BodyInput::default() };
    let request =
        AnalysisRequest { from: body(), to: body(), max_decoded_bytes: 10 << 20, max_result_bytes: 4 << 20 };
    let (reply, _) = child::answer(&serde_json::to_vec(&request).unwrap(), from, to, |_| {});
    assert!(reply.starts_with(b"{\"analysed\""), "{}", String::from_utf8_lossy(&reply));
}
