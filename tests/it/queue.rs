//! The shared switch, the door for producers, and the one screen: `queue`, `enqueue`, `status`.

use serde_json::Value;
use wm_analyzer::job::JobId;

use crate::harness::{GatedSite, World, job, key, until};

#[tokio::test]
async fn a_paused_queue_hands_out_nothing_until_it_is_resumed() {
    let world = World::new().await;
    let worker = world.worker();
    worker.until_status("/readyz", 200).await;
    let paused = world.run(&["queue", "pause", "--reason", "archive is down"]).await.exited_with(0);
    paused.stderr_contains(&["paused analysis (archive is down)", "Undo: wm-analyzer queue resume"]);
    let pair = world.pair("pair", 5_000);
    world.send(std::slice::from_ref(&pair)).await;
    until("it is let in", async || world.queue.status().await.unwrap().ready == 1).await;
    world.run(&["status"]).await.exited_with(0).stdout_contains(&["paused", "archive is down"]);
    let json = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    assert_eq!((&json["paused"]["reason"], &json["ready"]), (&"archive is down".into(), &1.into()));
    until("the metric says so", async || worker.metric("queue_paused").await == 1.0).await;
    assert_eq!(world.site.hits("/pair/from"), 0);

    world
        .run(&["queue", "resume"])
        .await
        .exited_with(0)
        .stderr_contains(&["resumed analysis", "archive is down"]);
    world.until_event(&pair.id, "done").await;
    world
        .run(&["queue", "resume"])
        .await
        .exited_with(0)
        .stderr_contains(&["was not paused: nothing changed"]);
    let audit: u64 = world.redis_cmd("XLEN", &[key("audit")]).await;
    assert_eq!(audit, 3, "who did what is remembered");
    world.run(&["queue", "pause"]).await.exited_with(2).stderr_contains(&["--reason"]);
}

#[tokio::test]
async fn drain_waits_until_nothing_runs_and_gives_up_in_time() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    let _worker = world.worker();
    world.send(&[job("held", gate.url("/a"), world.page())]).await;
    gate.until_requested(1).await;
    let late = world.run(&["queue", "drain", "--timeout", "100ms"]).await.exited_with(1);
    late.stderr_contains(&["1 still in flight after 100ms; the queue stays paused"]);
    let draining = world.run(&["queue", "drain", "--reason", "upgrade", "-o", "json"]);
    let (drained, ()) = tokio::join!(draining, async { gate.open() });
    assert_eq!(drained.exited_with(0).json()["drained"], true);
    let status = world.queue.status().await.unwrap();
    assert_eq!((status.in_flight, status.paused.unwrap().reason.as_str()), (0, "upgrade"));
}

#[tokio::test]
async fn enqueue_takes_files_and_standard_input_and_names_what_it_refuses_by_line() {
    let world = World::new().await;
    let (a, b, c) = (world.pair("a", 4_000), world.pair("b", 4_000), world.pair("c", 4_000));
    let line = |job: &wm_analyzer::job::Job| String::from_utf8(job.encode()).unwrap();
    let mixed = format!("{}\n\n{{\"v\":1}}\nnot json\n{}\n{{\"v\":9}}", line(&a), line(&b));

    let torn = world.run(&["enqueue", "."]).await.exited_with(1);
    torn.stderr_contains(&["cannot read on"]);
    let dry = world.run_with_stdin(&["enqueue", "-", "--dry-run"], &mixed).await.exited_with(1);
    dry.stderr_contains(&["would enqueue 2", "3 refused"]);
    assert_eq!(world.keys("job:*").await, [""; 0], "a dry run changes nothing");

    let ran = world.run_with_stdin(&["enqueue", "-"], &mixed).await.exited_with(1);
    ran.stderr_contains(&[
        "line 3: bad_reference",
        "line 4: decode",
        "line 6: unsupported_version",
        "enqueued 2",
        "3 refused",
    ]);
    assert_eq!(world.queue.status().await.unwrap().ready, 2);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n{}\n", line(&a), line(&c))).unwrap();
    let json =
        world.run(&["enqueue", file.path().to_str().unwrap(), "-o", "json"]).await.exited_with(0).json();
    assert_eq!((&json["enqueued"], &json["duplicate"], &json["refused"]), (&1.into(), &1.into(), &0.into()));
    world.run(&["enqueue", "nowhere.jsonl"]).await.exited_with(1).stderr_contains(&["nowhere.jsonl"]);
    world.run(&["enqueue"]).await.exited_with(2);

    let (from, to) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
    let pair = ["enqueue", "--from", &from, "--to", &to];
    world.run(&pair).await.exited_with(0).stderr_contains(&["enqueued 1"]);
    world.run(&pair).await.exited_with(0).stderr_contains(&["enqueued 0, 1 already waiting or running"]);
    world.run(&["enqueue", "--to", "page-7"]).await.exited_with(1).stderr_contains(&["page-7", "not a uuid"]);

    let _worker = world.worker();
    for job in [&a, &b, &c] {
        world.until_event(&job.id, "done").await;
    }
    let again = world.run_with_stdin(&["enqueue", "-"], line(&a)).await.exited_with(0);
    again.stderr_contains(&["enqueued 0", "1 already done"]);
}

#[tokio::test]
async fn enqueue_refuses_when_the_backlog_is_at_its_ceiling() {
    let world = World::new().await.with("queue.backlog_max", "1");
    let lines: Vec<u8> = [world.pair("a", 4_000), world.pair("b", 4_000)]
        .iter()
        .flat_map(|job| [job.encode(), b"\n".to_vec()].concat())
        .collect();
    let ran = world.run_with_stdin(&["enqueue", "-"], &lines).await.exited_with(1);
    ran.stderr_contains(&["enqueued 1", "the backlog is at its ceiling (queue.backlog_max)"]);
    world.run(&["status"]).await.stderr_contains(&["the backlog is at its ceiling of 1"]);
}

#[tokio::test]
async fn status_is_one_screen_that_says_what_to_do_next() {
    let world = World::new().await;
    world.run(&["status"]).await.exited_with(0).stdout_contains(&["analysis", "READY"]);
    world.send(&[world.pair("pair", 4_000)]).await;
    let stalled = world.run(&["status"]).await.exited_with(1);
    stalled.stderr_contains(&["jobs wait and no worker lives", "wm-analyzer work"]);

    let worker = world.worker();
    world.push(&[b"no job"]).await;
    world.until_dead_letters(1).await;
    world.until_event(&JobId::parse("pair").unwrap(), "done").await;
    let shown = world.run(&["status"]).await.exited_with(0).stdout_contains(&[
        "running",
        "worker  ",
        "of 2 slots busy",
        "done 1",
    ]);
    shown.stdout_contains(&["dead    decode  1 (+1 in 1h)", "wm-analyzer dead ls kind:decode"]);
    let json: Value = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    assert_eq!((&json["dead"], &json["dead_by_kind"]["decode"]), (&1.into(), &1.into()));
    assert_eq!(json["workers"][0]["pid"], worker.pid());
    assert_eq!(json["workers"][0]["phase"], "running");
    assert!(json["workers"][0]["heartbeat_age_ms"].is_u64());
}
