//! Says which commit is built: `wm-analyzer --version` and the metric `build` show it.
//!
//! It never fails. Where neither the environment nor git knows the commit, the version stands alone.
//!
//! # Why
//! Only a release build asks git: its answer changes with each commit, and everything that depends on it is built anew.

use std::path::Path;
use std::process::Command;

/// The commit, set by the build where git is missing (a container's build).
const COMMIT: &str = "WM_GIT_COMMIT";
/// Its date, as `2026-11-20`.
const DATE: &str = "WM_GIT_DATE";

/// Where git notes each commit that is checked out.
const MOVES: &str = ".git/logs/HEAD";

/// Digits of a commit that people are shown: git's own least number.
const SHORT: usize = 7;

/// Tells cargo.
fn main() {
    let [commit, date] = [COMMIT, DATE].map(|name| std::env::var(name).unwrap_or_default());
    let mut built = parse(&format!("{commit} {date}"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    println!("cargo::rerun-if-env-changed={DATE}");
    if built.is_none() && std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        // A file that is not there would count as changed each time.
        if Path::new(MOVES).exists() {
            println!("cargo::rerun-if-changed={MOVES}");
        }
        built = from_git(Path::new("."));
    }
    let (commit, date) = built.unwrap_or_default();
    println!("cargo::rustc-env=WM_COMMIT={}", if commit.is_empty() { "unknown" } else { &commit });
    println!("cargo::rustc-env=WM_VERSION={}", version(env!("CARGO_PKG_VERSION"), &commit, &date));
}

/// `0.1.0 (abc1234, 2026-11-20)`, as far as it is known.
pub(crate) fn version(version: &str, commit: &str, date: &str) -> String {
    let known = [commit.get(..SHORT).unwrap_or(commit), date].into_iter().filter(|part| !part.is_empty());
    match known.collect::<Vec<_>>().join(", ") {
        known if known.is_empty() => version.to_owned(),
        known => format!("{version} ({known})"),
    }
}

/// What is checked out in `root`; None where it is no checkout (the sources may lie inside of another one), or git is
/// not there or refuses.
pub(crate) fn from_git(root: &Path) -> Option<(String, String)> {
    if !root.join(".git").exists() {
        return None;
    }
    let asked =
        Command::new("git").arg("-C").arg(root).args(["show", "-s", "--format=%H %cs", "HEAD"]).output();
    let told = asked.ok().filter(|told| told.status.success())?;
    parse(&String::from_utf8(told.stdout).ok()?)
}

/// A commit, and behind it its date if that is one: nothing else gets into the version.
pub(crate) fn parse(text: &str) -> Option<(String, String)> {
    let mut words = text.split_whitespace();
    let commit = words.next()?;
    let is_commit = (SHORT..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    let is_date = |date: &&str| date.len() == 10 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    is_commit.then(|| (commit.to_owned(), words.next().filter(is_date).unwrap_or_default().to_owned()))
}
