//! `dead`: looking, putting back, throwing away; bulk actions that say before and after, and can be undone.

use serde_json::Value;
use wm_analyzer::job::{Job, JobId, VersionRef};
use wm_testbed::body::Body;
use wm_testbed::site::Resource;

use crate::harness::{World, job_by_uuid, until};

/// Three jobs at a site that has lost their bodies, and two payloads that are no jobs; all of them dead.
async fn bury_five(world: &World) -> Vec<Job> {
    let page = Body::html(&b"<!DOCTYPE html><p>here</p>"[..]);
    let jobs: Vec<Job> =
        (0..3).map(|n| world.bodies(&format!("gone-{n}"), Resource::Status(404), page.clone())).collect();
    let worker = world.worker();
    world.send(&jobs).await;
    world.push(&[b"no job", b"\x1b[31mnor\nthis"]).await;
    world.until_dead_letters(5).await;
    worker.stop().await;
    jobs
}

fn restore_bodies(world: &World) {
    for n in 0..3 {
        world.site.put(&format!("/gone-{n}/from"), Body::html(&b"<!DOCTYPE html><p>back</p>"[..]));
    }
}

#[tokio::test]
async fn ls_lists_the_newest_first_by_kind_host_time_and_number() {
    let world = World::new().await;
    world.run(&["dead", "ls"]).await.exited_with(3).stderr_contains(&["no dead letters match"]);
    bury_five(&world).await;
    let all = world.run(&["dead", "ls"]).await.exited_with(0).stdout_contains(&[
        "gone-0",
        "gone-2",
        "127.0.0.1",
        "404",
    ]);
    assert!(!all.stdout.contains('\u{1b}'), "{all:?}");
    all.stderr_contains(&["gone 3", "decode 2"]);
    let ids = |json: Value| -> Vec<String> {
        json.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
    };
    for (args, count) in [
        (&["--kind", "gone"][..], 3),
        (&["--kind", "gone,decode"], 5),
        (&["--host", "127.0.0.1"], 3),
        (&["--since", "1h"], 5),
        (&["--limit", "2"], 2),
        (&["gone-1", "gone-2", "nobody"], 2),
        (&["gone-1", "--kind", "decode"], 0),
    ] {
        let args = [&["dead", "ls", "-o", "json"], args].concat();
        let ran = world.run(&args).await.exited_with(if count == 0 { 3 } else { 0 });
        assert_eq!(ids(ran.json()).len(), count, "{args:?}");
    }
    world
        .run(&["dead", "ls", "--kind", "gonne"])
        .await
        .exited_with(2)
        .stderr_contains(&["did you mean gone?"]);
    world.run(&["dead", "show", "nobody"]).await.exited_with(3).stderr_contains(&["no dead letter nobody"]);
    let json = world.run(&["dead", "show", "gone-0", "-o", "json"]).await.exited_with(0).json();
    assert_eq!((&json["reason"]["kind"], &json["host"]), (&"gone".into(), &"127.0.0.1".into()));
    assert_eq!(json["job"]["id"], "gone-0");
}

#[tokio::test]
async fn a_replay_says_what_it_will_do_asks_and_really_runs_the_job_again() {
    let world = World::new().await;
    let jobs = bury_five(&world).await;
    let select = ["dead", "replay", "--kind", "gone"];
    let dry = world.run(&[&select[..], &["--dry-run"]].concat()).await.exited_with(0);
    dry.stderr_contains(&[
        "replay 3 dead letters",
        "by kind   gone 3",
        "by host   127.0.0.1 3",
        "dry run: nothing changed",
    ]);
    world.run(&select).await.exited_with(4).stderr_contains(&[
        "no terminal",
        "--yes",
        "--dry-run",
        "nothing changed",
    ]);
    assert_eq!(world.dead().await.len(), 5);

    restore_bodies(&world);
    let ran =
        world.run(&[&select[..], &["--yes", "--rate", "50/s", "-o", "json"]].concat()).await.exited_with(0);
    assert_eq!((&ran.json()["selected"], &ran.json()["done"]), (&3.into(), &3.into()));
    assert_eq!(world.field(&jobs[0].id, "replays").await.as_deref(), Some("1"));
    let _worker = world.worker();
    for job in &jobs {
        world.until_event(&job.id, "done").await;
        assert_eq!(world.job_events(&job.id).await, ["buried", "replayed", "done"]);
    }
    assert_eq!(world.dead().await.len(), 2);
    let undecodable = world.run(&["dead", "replay", "--yes"]).await.exited_with(1);
    undecodable.stderr_contains(&["replayed 0 of 2", "not a job at all"]);
}

#[tokio::test]
async fn a_job_that_dies_again_after_a_replay_says_so() {
    let world = World::new().await;
    let worker = world.worker();
    world.send(&[job_by_uuid("again")]).await;
    world.until_dead_letters(1).await;
    world
        .run(&["dead", "replay", "again", "--yes"])
        .await
        .exited_with(0)
        .stderr_contains(&["replayed 1 of 1"]);
    let id = JobId::parse("again").unwrap();
    until("it died twice", async || world.job_events(&id).await == ["buried", "replayed", "buried"]).await;
    let letter = world.until_dead_letters(1).await.remove(0);
    assert_eq!((letter.replays, letter.reason.unwrap().counts.replays), (1, 1));
    worker.stop().await;
    let tags: Vec<Value> =
        world.sentry.events().iter().map(|event| event["tags"]["replayed"].clone()).collect();
    assert_eq!(tags, ["false", "true"]);
}

#[tokio::test]
async fn what_is_discarded_goes_to_standard_output_and_enqueue_takes_it_back() {
    let world = World::new().await;
    let jobs = bury_five(&world).await;
    world
        .run(&["dead", "discard", "--dry-run"])
        .await
        .exited_with(0)
        .stderr_contains(&["discard 5", "nothing changed"]);
    world.run(&["dead", "discard"]).await.exited_with(4);
    assert_eq!(world.dead().await.len(), 5);
    let ran = world.run(&["dead", "discard", "--yes"]).await.exited_with(0);
    assert!(ran.stderr.contains("discarded 5 of 5") && ran.stderr.contains("wm-analyzer enqueue"), "{ran:?}");
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 5, "one line each: {ran:?}");
    assert_eq!(world.dead().await.len(), 0);
    assert_eq!(world.keys("job:*").await, [""; 0]);

    restore_bodies(&world);
    // What was no job is still none, and is named by its line.
    world
        .run_with_stdin(&["enqueue", "-"], &ran.stdout)
        .await
        .exited_with(1)
        .stderr_contains(&["enqueued 3", "2 refused"]);
    let _worker = world.worker();
    for job in &jobs {
        world.until_event(&job.id, "done").await;
    }
}

#[tokio::test]
async fn show_says_all_that_is_known_and_its_command_gives_the_same_ending() {
    let world = World::new().await;
    let mut job = world.pair("changed", 20_000);
    let VersionRef::Inline(to) = &mut job.to else { panic!("whole") };
    to.body_hash = Some("0".repeat(64));
    let worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    world.until_dead_letters(1).await;
    worker.stop().await;
    let shown = world.run(&["dead", "show", "changed"]).await.exited_with(0).stdout_contains(&[
        "hash_mismatch",
        "wm-analyzer@",
        "/changed/from (",
        "/changed/to (",
        "sha256 ",
        "wall ",
        " of 10000 ms, cpu ",
        " of 11000 ms, heap ",
        " of 256.0 MiB, resident ",
        "address space limit of 384.0 MiB",
        "last in decompress",
        "isolation seccomp",
    ]);
    let command =
        shown.stderr.lines().find_map(|line| line.strip_prefix("reproduce it here:  wm-analyzer ")).unwrap();
    let args: Vec<String> = command.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    world.run(&args).await.exited_with(11).stdout_contains(&["poison: hash_mismatch"]);
}
