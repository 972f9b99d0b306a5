//! Moving a queue: shown, exported to a file, imported into another one.

use std::io::Write as _;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::harness::World;

fn file_of(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_queue_is_moved_by_a_file_and_what_an_import_left_out_comes_with_the_next_one() {
    let world = World::new().await;
    let jobs: Vec<_> = (0..120).map(|n| world.pair(&format!("moves-{n}"), 4_000)).collect();
    world.send(&jobs).await;
    world.queue.worker.ingest().await.unwrap();
    world.queue.worker.ingest().await.unwrap();
    world.queue.producer.push(&[b"no job".to_vec(), vec![0xff, 0xfe]]).await.unwrap();
    let running = world.run(&["queue", "export"]).await.exited_with(0);
    running.stderr_contains(&["is not paused", "queue drain --name move"]);
    world.run(&["queue", "pause", "--for", "30m", "--reason", "a move"]).await.exited_with(0);
    let shown = world.run(&["queue", "show"]).await.exited_with(0);
    shown.stdout_contains(&["paused", "a move", "ends in 29m", "ready", "120", "backlog_max", "reports"]);
    let shown = world.run(&["queue", "show", "-o", "json"]).await.exited_with(0).json();
    assert_eq!((&shown["sizes"]["ready"], &shown["sizes"]["inbox"]), (&120.into(), &2.into()));

    let exported = world.run(&["queue", "export"]).await.exited_with(0);
    let exported = exported.stderr_contains(&["exported 120 jobs and 2 payloads", "nothing changed"]);
    let exported = exported.stdout;
    assert_eq!(lines(&exported).len(), 124);
    let half: String = exported.lines().take(61).map(|line| format!("{line}\n")).collect();
    let (half, whole) = (file_of(&half), file_of(&exported));
    let import = async |file: &NamedTempFile| {
        world.run(&["queue", "import", file.path().to_str().unwrap(), "-Q", "other"]).await
    };
    import(&half).await.exited_with(5).stderr_contains(&["imported 60", "was cut off"]);
    import(&whole).await.exited_with(0).stderr_contains(&["imported 62", "60 were known"]);
    import(&whole).await.exited_with(0).stderr_contains(&["imported 0", "122 were known"]);
    let moved = lines(&world.run(&["queue", "export", "-Q", "other"]).await.exited_with(0).stdout);
    assert_eq!(moved[1..], lines(&exported)[1..], "in their order, with all that was counted");
    let rows = world.run(&["audit", "ls", "-Q", "other", "-o", "json"]).await.json();
    assert_eq!((&rows["rows"][0]["what"], &rows["rows"][0]["count"]), (&"import".into(), &62.into()));

    let worker = world.worker_with(&[("queue.name", "other")]);
    crate::harness::until("all of it is done there", async || {
        let status = world.run(&["status", "-Q", "other", "-o", "json"]).await.json();
        status["last_hour"]["done"] == 120 && status["dead"] == 2
    })
    .await;
    worker.stop().await;
    import(&whole).await.exited_with(0).stderr_contains(&["imported 0", "122 were known"]);
}

#[tokio::test]
async fn lines_that_cannot_be_read_are_named_and_left_out_and_the_others_come_in() {
    let world = World::new().await;
    world.send(&[world.pair("one", 4_000), world.pair("two", 4_000)]).await;
    world.queue.worker.ingest().await.unwrap();
    let exported = world.run(&["queue", "export"]).await.exited_with(0).stdout;
    let mut torn: Vec<&str> = exported.lines().collect();
    let (half, other) = (&torn[1][..100].to_owned(), torn[2].replace("\"score\":\"", "\"score\":\"x"));
    (torn[1], torn[2]) = (half, &other);
    let file = file_of(&torn.join("\n"));
    let import = ["queue", "import", file.path().to_str().unwrap(), "-Q", "other"];
    let refused = world.run(&import).await.exited_with(2);
    refused.stderr_contains(&["line 2: not a line", "line 3: two: score", "imported 0", "2 lines"]);
    let whole: Vec<&str> = exported.lines().collect();
    let long = format!("{{\"line\":\"job\",\"id\":\"{}\"}}", "x".repeat(400_000));
    for (lines, told) in [
        (vec![whole[0], whole[1], whole[3]], vec!["counts 2 payloads and jobs, and 1 lines are there"]),
        (
            vec![whole[0], whole[1], &long, whole[2], whole[3]],
            vec!["line 3: longer than 131072 bytes", "1 lines"],
        ),
        (vec![whole[0], whole[1], whole[2], whole[3], whole[2]], vec!["line 5: behind the last line"]),
    ] {
        let file = file_of(&lines.join("\n"));
        let import = ["queue", "import", file.path().to_str().unwrap(), "-Q", "other"];
        world.run(&import).await.exited_with(5).stderr_contains(&told);
    }
    for (field, value) in [("deliveries", "1.5"), ("crashes", "-1"), ("score", "1e300"), ("log", "no json")] {
        let mut row: Value = serde_json::from_str(whole[1]).unwrap();
        row["fields"][field] = value.into();
        let file = file_of(&[whole[0], &row.to_string(), whole[2], whole[3]].join("\n"));
        let import = ["queue", "import", file.path().to_str().unwrap(), "-Q", "another"];
        let refused = world.run(&import).await.exited_with(5);
        refused.stderr_contains(&[&format!("line 2: one: {field}")]);
    }
    let headless = file_of(torn[3]);
    let headless = ["queue", "import", headless.path().to_str().unwrap(), "-Q", "other"];
    world.run(&headless).await.exited_with(2).stderr_contains(&["line 1: the first line"]);
}

#[tokio::test]
async fn a_job_whose_id_lies_in_the_trash_is_named_and_an_import_that_cannot_read_on_says_so() {
    let world = World::new().await;
    world.send(&[world.pair("binned", 4_000), world.pair("fine", 4_000)]).await;
    world.queue.worker.ingest().await.unwrap();
    let file = file_of(&world.run(&["queue", "export"]).await.exited_with(0).stdout);
    let import = ["queue", "import", file.path().to_str().unwrap(), "-Q", "other"];
    world.run(&import).await.exited_with(0);
    let letter =
        world.redis_cmd::<u64>("HSET", &["wm:{other}:job:binned", "state", "trash"].map(str::to_owned)).await;
    assert_eq!(letter, 0, "as a letter that was discarded");
    let again = world.run(&import).await.exited_with(5);
    again.stderr_contains(&["1 lie in the trash here", "the first: binned.", "dead restore", "1 were known"]);

    let directory = tempfile::tempdir().unwrap();
    let import = ["queue", "import", directory.path().to_str().unwrap(), "-Q", "other"];
    world.run(&import).await.exited_with(2).stderr_contains(&["line 1: cannot be read", "directory"]);
}
