//! `diff`: what a person asks first, and what a dead letter's reproduction command runs. No Redis anywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wm_testbed::{pages, poison};

use crate::harness::{CommandOutput, World, env_var_name, run};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

async fn diff(args: &[&str]) -> CommandOutput {
    run(&[&["diff"], args].concat(), &BTreeMap::new(), b"").await
}

#[tokio::test]
async fn a_pair_is_analysed_and_its_changes_are_shown() {
    let files = Files::new();
    let a = files.put("a.html", "<!DOCTYPE html><title>x</title><p>The river is <a href=/a>clean</a>.</p>");
    let b = files.put("b.html", "<!DOCTYPE html><title>x</title><p>The river is <a href=/b>dirty</a>.</p>");
    let ran = diff(&[&a, &b]).await.exited_with(0).stdout_contains(&[
        "analysed  priority",
        "[-clean-]",
        "{+dirty+}",
        "links",
    ]);
    assert!(!ran.stdout.contains('\u{1b}'), "no colour where there is no terminal");
    let json = diff(&[&a, &b, "-o", "json"]).await.exited_with(0).json();
    assert_eq!(json["outcome"], "analysed");
    let text = &json["report"]["changes"]["html_text_dmp"];
    assert!(text["change_count"].as_u64().unwrap() > 0 && text["hunks"].is_array(), "{json}");
    assert_eq!(json["report"]["schema_version"], 2);
}

#[tokio::test]
async fn the_incident_of_2018_is_a_skip_that_says_why() {
    let files = Files::new();
    let pdf = files.put("report", poison::pdf(1, 1_000_000));
    let page = files.put("page.html", pages::pair(1, 50_000).0);
    let ran = diff(&[&pdf, &page]).await.exited_with(10);
    assert!(ran.stdout.contains("skipped: ") && ran.stdout.contains("application/pdf"), "{ran:?}");
    let json = diff(&[&pdf, &page, "-o", "json"]).await.exited_with(10).json();
    assert_eq!((&json["outcome"], &json["skip"]["reason"]), (&"skipped".into(), &"content".into()));
    diff(&[&files.put("a.pdf", "x"), &page]).await.exited_with(10).stdout_contains(&["skipped: extension"]);
}

#[tokio::test]
async fn poison_ends_within_the_limit_that_is_given_and_says_what_was_measured() {
    let files = Files::new();
    let page = |seed| pages::pair(seed, 9_000_000).0;
    let (a, b) = (files.put("a.html", page(1)), files.put("b.html", page(2)));
    let ran = diff(&[&a, &b, "--limits", "wall=200ms"]).await.exited_with(11);
    ran.stdout_contains(&["poison: wall_exceeded", "of 200 ms"]);
    let json = diff(&[&a, &b, "--limits", "heap=16MiB", "-o", "json"]).await.exited_with(11).json();
    assert_eq!(json["failure"]["kind"], "memory_exceeded");
    assert_eq!(json["failure"]["measured"]["limits"]["heap_bytes"], 16 << 20);
}

#[tokio::test]
async fn what_was_measured_is_said_of_every_ending_and_of_either_way_to_make_a_child() {
    let files = Files::new();
    let page = files.put("a.html", pages::pair(1, 20_000).0);
    let pdf = files.put("b", poison::pdf(1, 20_000));
    for process in ["fork_server", "exec_per_job"] {
        let environment = BTreeMap::from([(env_var_name("sandbox.process"), process.to_owned())]);
        for (other, code, place) in [(&page, 0, "report"), (&pdf, 10, "skip")] {
            let ran = run(&["diff", &page, other, "-v"], &environment, b"").await.exited_with(code);
            ran.stdout_contains(&[
                "child  wall ",
                " of 10000 ms, cpu ",
                "of 256.0 MiB",
                "address space limit of 384.0 MiB",
                "seccomp",
            ]);
            let json =
                run(&["diff", &page, other, "-o", "json"], &environment, b"").await.exited_with(code).json();
            let measured = &json[place]["measured"];
            assert!(measured["peak_heap_bytes"].as_u64().unwrap() > 40_000, "{json}");
            for number in ["wall_ms", "cpu_ms", "max_rss_bytes"] {
                assert!(measured[number].is_u64(), "{number}: {json}");
            }
            assert!(measured["isolation"].as_array().unwrap().contains(&"seccomp".into()), "{json}");
        }
    }
}

/// The clock is the ceiling's, because a busy machine is no defect; the heap is the default.
#[tokio::test]
async fn the_largest_allowed_pair_is_analysed_within_the_default_heap() {
    let files = Files::new();
    // Unrelated pages of a megabyte, ten times over, up to the last byte that is allowed.
    let file = |name, seed| {
        let mut page = pages::pair(seed, 1_100_000).0.repeat(10);
        page.truncate(10 << 20);
        assert_eq!(page.len(), 10 << 20);
        files.put(name, page)
    };
    let (a, b) = (file("a.html", 1), file("b.html", 2));
    let json = diff(&[&a, &b, "--limits", "wall=60s", "-o", "json"]).await.exited_with(0).json();
    let measured = &json["report"]["measured"];
    assert!(measured["peak_heap_bytes"].as_u64().unwrap() <= 256 << 20, "{measured}");
    assert_eq!(measured["limits"]["heap_bytes"], 256 << 20);
    assert!(json["report"].get("missing").is_none(), "all three diffs were made");
}

#[tokio::test]
async fn a_body_that_is_not_the_captured_one_is_one_here_too() {
    let files = Files::new();
    let page = files.put("a.html", b"<p>a</p>");
    let hash = "bf83a5d8fe72ad8b7b0b8f2e8cfd7ef47dc5e8f4e0b1ed30d9c4a8d7ce0e4a3e";
    diff(&[&page, &page, "--to-hash", hash])
        .await
        .exited_with(11)
        .stdout_contains(&["poison: hash_mismatch", hash]);
    let right = sha256(b"<p>a</p>");
    diff(&[&page, &page, "--from-hash", &right, "--to-hash", &right]).await.exited_with(0);
    diff(&[&page, &page, "--to-hash", "abc"]).await.exited_with(2).stderr_contains(&["64 hex digits"]);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn addresses_are_fetched_under_the_same_guard_as_in_the_worker() {
    let world = World::new().await;
    let page = world.page();
    world.run(&["diff", page.as_str(), page.as_str()]).await.exited_with(0).stdout_contains(&["analysed"]);
    let refused = diff(&[page.as_str(), page.as_str()]).await.exited_with(11);
    refused.stdout_contains(&["poison: forbidden_address", "127.0.0.1"]);
    let gone = world.site.url("/status/404");
    world.run(&["diff", gone.as_str(), page.as_str()]).await.exited_with(11).stdout_contains(&["gone"]);
    let ill = world.site.url("/status/503");
    world
        .run(&["diff", ill.as_str(), page.as_str()])
        .await
        .exited_with(1)
        .stdout_contains(&["failed: upstream"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_said_by_name() {
    let files = Files::new();
    let a = files.put("a.html", "<p>a</p>");
    diff(&["nowhere.html", &a]).await.exited_with(2).stderr_contains(&["nowhere.html", "No such file"]);
    let environment = BTreeMap::from([(env_var_name("fetch.max_body"), "10 B".to_owned())]);
    let large = files.put("b.html", "<p>a body of more than ten bytes</p>");
    let ran = run(&["diff", &a, &large], &environment, b"").await.exited_with(11);
    ran.stdout_contains(&["too_large", "fetch.max_body"]);
    diff(&[&a, &a, "--limits", "cpu=1s"]).await.exited_with(2).stderr_contains(&["there are wall and heap"]);
}

#[tokio::test]
async fn every_step_is_there_for_programs_and_everything_kept_for_people_who_ask() {
    let files = Files::new();
    let page = |class: &str, word: &str| format!("<p class={class}>The river is {word}.</p>");
    let a = files.put("a.html", page("old", "clean"));
    let b = files.put("b.html", page("new", "dirty"));
    let whole = diff(&[&a, &b, "--whole"]).await.exited_with(0).json();
    assert_eq!(
        whole["html_text_dmp"]["diff"],
        serde_json::json!([[0, "The river is "], [-1, "clean"], [1, "dirty"], [0, "."]])
    );
    assert_eq!(whole["html_source_dmp"]["change_count"], 4);
    diff(&[&a, &b]).await.exited_with(0).stdout_contains(&["source  4 changes", "(--all shows them)"]);
    diff(&[&a, &b, "--all"]).await.exited_with(0).stdout_contains(&["class=[-old-]{+new+}"]);
    let environment = [("WM__SANDBOX__REPLY".to_owned(), "20B".to_owned())].into();
    run(&["diff", &a, &b, "--whole"], &environment, b"")
        .await
        .exited_with(1)
        .stderr_contains(&["larger than sandbox.reply"]);
}
