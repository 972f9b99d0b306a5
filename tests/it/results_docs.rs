//! docs/results.md: its programs read what a real worker stored.

use std::process::Command;

use wm_analyzer::job::report::ANALYSIS_VERSION;
use wm_testbed::peers;

use crate::harness::{World, key};

/// The blocks of the page in this language, in order.
fn programs(language: &str) -> Vec<String> {
    let page = include_str!("../../docs/results.md");
    let begin = format!("```{language}\n");
    let blocks = page.split(&begin).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_programs_of_the_page_read_reports_and_whole_results() {
    let store = tempfile::tempdir().unwrap();
    let world = World::new().await.with("results.store", format!("file://{}", store.path().display()));
    let worker = world.worker();
    let page = |day: &str| {
        wm_testbed::body::Body::html(
            format!("<!doctype html><title>x</title><p>Zürich, updated {day} May.").into_bytes(),
        )
    };
    let job = world.bodies("dated", page("4"), page("15"));
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    drop(worker);
    let from = job.from.given().unwrap().uuid();
    let pair = format!("{from}..{}", job.to.uuid());
    let report: String = world.redis_cmd("GET", &[&key(&format!("report:{pair}"))]).await;
    let stored = store.path().join(format!("v{ANALYSIS_VERSION}/{pair}.json.gz"));
    assert!(stored.is_file(), "{report}");

    let (dir, report_file) = (tempfile::tempdir().unwrap(), "report.json");
    std::fs::write(dir.path().join(report_file), &report).unwrap();
    let run = |program: &str, args: &[&str]| {
        let input = std::fs::File::open(dir.path().join(report_file)).unwrap();
        let ran = Command::new(program).args(args).current_dir(dir.path()).stdin(input).output().unwrap();
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    let shown = world.run(&["report", "show", &pair, "--all"]).await.exited_with(0);
    assert!(shown.stdout.contains("Zürich"), "{shown:?}");

    if peers::is_available("ruby", &["--version"]) {
        let printed = run("ruby", &["-e", &programs("ruby")[0]]);
        assert!(printed.starts_with("0,0: Zürich, updated "), "{printed}");
        assert!(printed.contains("changes are not shown"), "{printed}");
    }
    if peers::is_available("python3", &["--version"]) {
        let [hunks, whole] = &programs("python")[..] else { panic!("two programs") };
        let printed = run("python3", &["-c", hunks]);
        assert!(printed.starts_with("0,0: Zürich, updated "), "{printed}");
        let older = run("python3", &["-c", whole, report_file, stored.to_str().unwrap()]);
        assert_eq!(older, "Zürich, updated 4 May.\n");
    }
    if peers::is_available("node", &["--version"]) {
        // A document of the few calls that the program makes.
        let test = r#"
            const element = (name) => ({ name, children: [], textContent: "", append(child) { this.children.push(child); } });
            const report = JSON.parse(require("fs").readFileSync(0, "utf8"));
            const into = element("main");
            showHunks(report.changes.html_text_dmp, { createElement: element }, into);
            const text = (node) => node.textContent + node.children.map(text).join("");
            console.log(text(into));
        "#;
        let printed = run("node", &["-e", &format!("{}{test}", programs("js")[0])]);
        assert!(
            printed.contains("Zürich, updated ") && printed.contains("changes are not shown"),
            "{printed}"
        );
    }
    // The whole result by the command line: what it says of itself is checked.
    let whole = world.run(&["report", "show", &pair, "--whole"]).await.exited_with(0).json();
    assert_eq!(whole["html_text_dmp"]["diff"][0], serde_json::json!([0, "Zürich, updated "]));
    std::fs::write(&stored, b"another").unwrap();
    world
        .run(&["report", "show", &pair, "--whole"])
        .await
        .exited_with(1)
        .stderr_contains(&["not what the report names"]);
    std::fs::remove_file(&stored).unwrap();
    world
        .run(&["report", "show", &pair, "--whole"])
        .await
        .exited_with(3)
        .stderr_contains(&["has no file://"]);
}
