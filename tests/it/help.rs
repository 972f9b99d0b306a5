//! What the program says of itself: examples, completions, manual pages, its version.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use clap::{CommandFactory as _, Parser as _};
use tempfile::TempDir;
use wm_analyzer::cli::args::Cli;

use crate::harness::World;

#[path = "../../build.rs"]
#[expect(dead_code, clippy::print_stdout, reason = "its main is cargo's")]
mod build_script;

/// With its indent on a terminal of 80 columns.
const MAX_EXAMPLE: usize = 78;

/// The words that start another command, or lead its output elsewhere, in a shell.
const SHELL_WORDS: [&str; 4] = ["|", ">", "&&", "||"];

/// Every command that has none below it, by the words that are typed.
fn leaves(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, clap::Command)>) {
    for sub in command.get_subcommands() {
        let path = [path, &[sub.get_name().to_owned()]].concat();
        match sub.has_subcommands() {
            true => leaves(sub, &path, found),
            false => found.push((path, sub.clone())),
        }
    }
}

#[test]
fn the_help_of_each_command_has_two_examples_that_can_be_typed() {
    let mut commands = Vec::new();
    leaves(&Cli::command(), &[], &mut commands);
    assert!(commands.len() > 20, "{commands:?}");
    for (path, command) in commands {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_default();
        let examples: Vec<&str> = examples.lines().map(str::trim).collect();
        assert!(examples.len() >= 2, "{path:?} has these examples: {examples:?}");
        for example in examples {
            // The help is wrapped at the terminal's width; a pair of uuids alone takes 74 columns.
            assert!(example.len() <= MAX_EXAMPLE || example.contains(".."), "{example} is wrapped");
            let words = shlex::split(example).unwrap_or_else(|| panic!("{example} is not for a shell"));
            let typed = words.into_iter().take_while(|word| !SHELL_WORDS.contains(&word.as_str()));
            let typed: Vec<String> = typed.collect();
            assert!(typed.len() > path.len() && typed[0] == "wm-analyzer", "{example}");
            assert_eq!(typed[1..=path.len()], path, "{example} is of another command");
            Cli::try_parse_from(&typed).unwrap_or_else(|e| panic!("{example}: {e}"));
        }
    }
}

#[tokio::test]
async fn completions_know_every_command_and_their_shell_takes_them() {
    let world = World::new().await;
    let commands: Vec<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for (shell, check) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = world.run(&["completions", shell]).await.exited_with(0).stdout;
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell} does not know {command}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &script).unwrap();
        // Bash is everywhere; the others where they are installed.
        if let Ok(checked) = Command::new(shell).args(check).arg(file.path()).output() {
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    let asked = r#"source /dev/stdin; COMP_WORDS=(wm-analyzer queue re); COMP_CWORD=2
        _wm__analyzer wm-analyzer re queue; echo "${COMPREPLY[@]}""#;
    let script = world.run(&["completions", "bash"]).await.stdout;
    let mut bash = Command::new("bash");
    assert_eq!(wm_testbed::peers::run(bash.args(["-c", asked]), &script).trim(), "resume");
    world.run(&["completions", "cmd"]).await.exited_with(2);
}

#[tokio::test]
async fn the_manual_has_a_page_for_each_command_with_its_examples() {
    // Neither a configuration nor a Redis is needed for it.
    let world = World::new().await.with("queue.url", "nonsense");
    let page = world.run(&["man"]).await.exited_with(0).stdout;
    for needle in [".TH wm-analyzer 1", "doctor", "\\-\\-queue"] {
        assert!(page.contains(needle), "{needle} is not in {page}");
    }
    let dir = TempDir::new().unwrap();
    world.run(&["man", "--dir", dir.path().to_str().unwrap()]).await.exited_with(0);
    let pages: BTreeSet<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut commands = Vec::new();
    leaves(&Cli::command(), &[], &mut commands);
    for (path, _) in commands {
        let name = format!("wm-analyzer-{}.1", path.join("-"));
        assert!(pages.contains(&name), "{name} is not in {pages:?}");
    }
    let check = std::fs::read_to_string(dir.path().join("wm-analyzer-check.1")).unwrap();
    assert!(check.contains("wm\\-analyzer check \\-\\-max\\-age 15m"), "{check}");
    let nowhere = dir.path().join("nowhere");
    world
        .run(&["man", "--dir", nowhere.to_str().unwrap()])
        .await
        .exited_with(1)
        .stderr_contains(&["nowhere"]);
}

#[tokio::test]
async fn the_version_names_the_commit_where_the_build_knew_it() {
    let world = World::new().await;
    let told = world.run(&["--version"]).await.exited_with(0).stdout;
    let version = env!("CARGO_PKG_VERSION");
    assert!(told.starts_with(&format!("wm-analyzer {version}")), "{told}");

    let parsed = |text: &str| build_script::parse(text).unwrap_or_default();
    let shown = |text: &str| {
        let (commit, date) = parsed(text);
        build_script::version("0.1.0", &commit, &date)
    };
    let commit = "abc1234def5678abc1234def5678abc1234def56";
    assert_eq!(shown(&format!("{commit} 2026-11-20\n")), "0.1.0 (abc1234, 2026-11-20)");
    assert_eq!(parsed(commit), (commit.to_owned(), String::new()));
    for (text, want) in [("abc1234", "0.1.0 (abc1234)"), ("abc1234 soon", "0.1.0 (abc1234)")] {
        assert_eq!(shown(text), want);
    }
    for unknown in ["", " ", "unknown ", "abc", "v1.0-dirty 2026-11-20"] {
        assert_eq!(shown(unknown), "0.1.0", "{unknown:?}");
    }
}

#[test]
fn a_tarball_has_no_commit_and_a_checkout_has_its_own() {
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| {
        let git = Command::new("git").arg("-C").arg(dir.path()).args(args).output();
        git.is_ok_and(|ran| ran.status.success())
    };
    assert_eq!(build_script::from_git(dir.path()), None);
    let author = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
    if !run(&["init", "-q"]) || !run(&[&author[..], &["commit", "-q", "--allow-empty", "-m", "a"]].concat()) {
        return wm_testbed::peers::skip_without("git");
    }
    let (commit, date) = build_script::from_git(dir.path()).unwrap();
    assert_eq!((commit.len(), date.len()), (40, 10), "{commit} {date}");
    // Sources that were unpacked inside of another project are not that project's commit.
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    assert_eq!(build_script::from_git(Path::new(&inside)), None);
}
