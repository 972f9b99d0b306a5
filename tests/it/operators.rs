//! Two in the morning: a bad deploy, jobs that die of three reasons on three hosts, and a person with a terminal.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wm_analyzer::job::{Job, JobId, LimitsRequest, OlderVersion, VersionRef};
use wm_analyzer::ops::Exit;
use wm_analyzer::ops::job::{BulkAction, DiscardPlan, Filter, RunObserver, prepare};
use wm_testbed::body::Body;
use wm_testbed::redis::RedisOptions;
use wm_testbed::site::Resource;

use crate::harness::{CommandOutput, GatedSite, TIMEOUT, World, env_var_name, job, job_by_uuid, until};

fn page() -> Body {
    Body::html(&b"<!DOCTYPE html><p>here</p>"[..])
}

/// So many jobs whose older body is gone.
async fn bury_gone(world: &World, count: usize) -> Vec<Job> {
    let jobs: Vec<Job> =
        (0..count).map(|n| world.bodies(&format!("gone-{n}"), Resource::Status(404), page())).collect();
    world.send(&jobs).await;
    world.until_dead_letters(count).await;
    jobs
}

fn bring_back(world: &World, ids: impl IntoIterator<Item = usize>) {
    for n in ids {
        world.site.put(&format!("/gone-{n}/from"), page());
    }
}

/// The command of this line of what was printed, as arguments.
fn command_after(said: &str, label: &str) -> Vec<String> {
    let line =
        said.lines().find_map(|line| line.split_once(label)).unwrap_or_else(|| panic!("{label}: {said}"));
    let command = line.1.trim().strip_prefix("wm-analyzer ").unwrap_or_else(|| panic!("{line:?}"));
    command.split(' ').map(str::to_owned).collect()
}

async fn typed(world: &World, args: &[String], more: &[&str]) -> CommandOutput {
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    world.run(&args).await
}

#[tokio::test]
async fn groups_lead_to_canaries_and_canaries_that_live_lead_to_the_rest() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 12).await;
    let groups = world.run(&["dead", "groups"]).await.exited_with(0);
    let groups = groups.stdout_contains(&["gone", "127.0.0.1", "12"]);
    let groups = groups.stderr_contains(&["1 of 1 groups: 12 of 12 dead letters"]);
    bring_back(&world, 0..12);

    // Each command is taken from what the one before printed.
    let canaries = command_after(&groups.stderr, "try:");
    let replay = typed(&world, &canaries, &["--yes", "--watch", "--reason", "the archive is back"]).await;
    let replay = replay.exited_with(0).stderr_contains(&[
        "replay 12 dead letters",
        "5 canaries first",
        "the build that buried 12 of them still runs",
        "canaries  done 5",
        "replayed 12 of 12 as replay-",
        "gone 127.0.0.1  done 12",
    ]);
    let audit = command_after(&replay.stderr, "what became of them:");
    typed(&world, &audit, &[]).await.exited_with(0).stdout_contains(&["12  done", "the archive is back"]);
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.exited_with(0).json();
    let row = &rows["rows"][0];
    assert_eq!((&row["what"], &row["count"]), (&"replay".into(), &12.into()));
    assert_eq!(row["selection"], "kind:gone host:127.0.0.1");
    let groups = world.run(&["dead", "groups", "-o", "json"]).await.exited_with(0).json();
    assert_eq!(groups["groups"][0]["replays"]["done"], 12);
    assert_eq!(groups["groups"][0]["dead"], 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_canary_that_dies_of_the_same_again_stops_the_replay() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 8).await;
    let replay = world.run(&["dead", "replay", "kind:gone", "--canary", "2", "--yes"]).await.exited_with(5);
    let replay =
        replay.stderr_contains(&["died of gone again", "6 not come to", "dead replay --resume replay-"]);
    assert_eq!(world.dead().await.len(), 8, "two died again, six were not touched");
    assert_eq!(world.dead().await.iter().filter(|letter| letter.replays > 0).count(), 2);

    // The cause is mended, and it goes on with those that it did not come to.
    bring_back(&world, 0..8);
    let resume = command_after(&replay.stderr, "go on with the rest:");
    let resumed = typed(&world, &resume, &["--yes"]).await.exited_with(0);
    resumed.stderr_contains(&["6 dead letters of 8 were not come to", "replayed 6 of 6"]);
    until("the six are done", async || {
        world.events().await.iter().filter(|event| event.what == "done").count() == 6
    })
    .await;
    assert_eq!(world.dead().await.len(), 2);
    worker.stop().await;
}

#[tokio::test]
async fn canaries_are_tried_alone_and_the_rest_follows_without_others_when_they_lived() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 8).await;
    let alone = world.run(&["dead", "replay", "--canary-only", "--yes"]).await.exited_with(2);
    alone.stderr_contains(&["--canary"]);
    let none = ["dead", "replay", "--canary", "0", "--canary-only", "--yes"];
    world.run(&none).await.exited_with(2).stderr_contains(&["needs --canary N"]);
    bring_back(&world, 0..8);
    let tried = ["dead", "replay", "kind:gone", "--canary", "3", "--canary-only", "--yes"];
    let tried = world.run(&tried).await.exited_with(0);
    let tried = tried.stderr_contains(&[
        "3 canaries only",
        "canaries  done 3",
        "replayed 3 of 8 (5 not come to) as replay-",
        "gone 127.0.0.1  done 3",
    ]);
    assert!(!tried.stderr.contains("stopped"), "it did what it was asked for: {}", tried.stderr);
    assert_eq!(world.dead().await.len(), 5, "the others were left alone");
    let rest = command_after(&tried.stderr, "go on with the rest:");
    let rest = typed(&world, &rest, &["--yes", "--reason", "the three are fine"]).await.exited_with(0);
    let rest = rest.stderr_contains(&["5 dead letters of 8 were not come to", "replayed 5 of 5"]);
    assert!(!rest.stderr.contains("canar"), "no others are tried: {}", rest.stderr);
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.json();
    assert_eq!((&rows["rows"][0]["what"], &rows["rows"][0]["count"]), (&"resume replay".into(), &5.into()));
    assert_eq!(rows["rows"][0]["why"], "the three are fine");
    worker.stop().await;
}

#[tokio::test]
async fn canaries_that_died_when_tried_alone_are_followed_by_others() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 6).await;
    let tried = ["dead", "replay", "kind:gone", "--canary", "2", "--canary-only", "--yes", "-o", "json"];
    let tried = world.run(&tried).await.exited_with(5);
    let told = tried.json();
    assert_eq!((&told["done"], &told["selected"]), (&2.into(), &6.into()), "{told}");
    assert!(told["stopped"].as_str().unwrap().contains("died of gone again"), "{told}");
    let rest = command_after(&tried.stderr, "go on with the rest:");
    let rest = typed(&world, &rest, &["--yes"]).await.exited_with(5);
    rest.stderr_contains(&["2 canaries first", "died of gone again", "2 not come to"]);
    worker.stop().await;
}

/// Hears nothing.
struct Silent;

impl RunObserver for Silent {
    fn came_to(&mut self, _: usize, _: usize) {}
    fn note(&mut self, _: String) {}
}

#[tokio::test]
async fn what_a_plan_showed_is_what_is_acted_on_and_nothing_that_died_since() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 3).await;
    let queue = &world.queue.operator;
    let discard = |at_ms: Option<u64>| {
        let filter = Filter { at_ms, ..Filter::dead(vec!["kind:gone".to_owned(), "since:1h".to_owned()]) };
        BulkAction::Discard(filter, DiscardPlan { now: false, copy: false })
    };
    let shown = prepare(queue, &discard(None), 100.0).await.unwrap().unwrap().plan().clone();
    assert_eq!((shown.count, &shown.kinds["gone"], shown.takes_all), (3, &3, false));
    until("the clock of Redis has moved on", async || queue.server_time_ms().await.unwrap() > shown.at_ms)
        .await;
    world.send(&[world.bodies("later", Resource::Status(404), page())]).await;
    world.until_dead_letters(4).await;
    worker.stop().await;

    let again = prepare(queue, &discard(Some(shown.at_ms)), 100.0).await.unwrap().unwrap();
    let run = again.begin(queue, "a page", "as shown").await.unwrap();
    let operation = run.operation().clone();
    let finished = run.carry_out(queue, &mut Silent, CancellationToken::new()).await;
    assert_eq!((finished.exit, finished.result.stopped()), (Exit::Ok, None));
    let left: Vec<String> = world.dead().await.iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(left, ["later"]);
    let (rows, _) = queue.audit_rows(1).await.unwrap();
    assert_eq!((rows[0].by.as_str(), rows[0].why.as_str()), ("a page", "as shown"));
    assert_eq!(rows[0].operation.as_ref(), Some(&operation));
}

#[tokio::test]
async fn an_action_that_is_stopped_says_how_many_were_left_and_deletes_nothing_without_a_copy() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 2).await;
    worker.stop().await;
    let queue = &world.queue.operator;
    let discard = |now| BulkAction::Discard(Filter::dead(Vec::new()), DiscardPlan { now, copy: false });
    let stop = CancellationToken::new();
    stop.cancel();
    for (now, stop, exit, said) in [
        (false, stop, Exit::Interrupted, "interrupted: 2 were not come to"),
        (true, CancellationToken::new(), Exit::Failed, "nowhere to copy them to"),
    ] {
        let prepared = prepare(queue, &discard(now), 100.0).await.unwrap().unwrap();
        assert_eq!(prepared.plan().deletes, now);
        let run = prepared.begin(queue, "a page", "").await.unwrap();
        let finished = run.carry_out(queue, &mut Silent, stop).await;
        assert_eq!(finished.exit, exit);
        assert!(finished.result.stopped().unwrap().contains(said), "{:?}", finished.result);
    }
    assert_eq!(world.dead().await.len(), 2);
}

#[tokio::test]
async fn what_a_replay_put_back_and_what_still_waits_can_be_taken_back() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 4).await;
    worker.stop().await;
    let replay = world.run(&["dead", "replay", "--yes"]).await.exited_with(0);
    let replay = replay.stderr_contains(&[
        "replay 4 dead letters",
        "everything: ALL dead letters",
        "no worker lives",
        "replayed 4 of 4",
    ]);
    assert_eq!(world.dead().await.len(), 0);
    let shown = world.run(&["job", "show", "gone-0"]).await.exited_with(0);
    shown.stdout_contains(&["ready", "replayed by", "replayed it"]);
    let undo = command_after(&replay.stderr, "undo what still waits:");
    typed(&world, &undo, &["--yes"]).await.exited_with(0).stderr_contains(&["4 are dead letters again"]);
    let letters = world.dead().await;
    assert_eq!((letters.len(), letters.iter().map(|letter| letter.replays).max()), (4, Some(0)));
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.json();
    assert_eq!(rows["rows"][0]["what"], "undo replay");
}

#[tokio::test]
async fn limits_and_fields_are_mended_as_the_letters_are_replayed() {
    let world = World::new().await;
    let worker = world.worker();
    let good = world.pair("good", 4_000);
    world.send(&[world.bodies("moved", Resource::Status(404), page())]).await;
    world.until_dead_letters(1).await;
    let VersionRef::Inline(at) = good.from.given().unwrap() else { panic!("whole") };
    let field = format!("from.body_url={}", at.body_url);
    let bad = world.run(&["dead", "replay", "moved", "--edit", "to=null", "--yes"]).await.exited_with(2);
    bad.stderr_contains(&["moved: ", "nothing changed"]);
    let replay = ["dead", "replay", "moved", "--edit", &field, "--set", "wall=9s", "--watch", "--yes"];
    world.run(&replay).await.exited_with(0).stderr_contains(&["under wall 9s, with 1 edit", "done 1"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_replay_that_is_killed_is_gone_on_with_and_nothing_is_lost_or_doubled() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 60).await;
    bring_back(&world, 0..60);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wm-analyzer"));
    command.env_clear().env(env_var_name("queue.url"), world.redis.url()).kill_on_drop(true);
    command.args(["dead", "replay", "kind:gone", "--rate", "20/s", "--yes"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut replay = command.spawn().unwrap();
    until("it is in the middle", async || world.dead().await.len() < 50).await;
    replay.kill().await.unwrap();
    let left = world.dead().await.len();
    assert!(left > 0, "it was killed before its end");
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.json();
    let operation = rows["rows"][0]["operation"].as_str().unwrap().to_owned();
    let resumed = world.run(&["dead", "replay", "--resume", &operation, "--yes"]).await.exited_with(0);
    resumed.stderr_contains(&["of 60 were not come to"]);
    until("all are done", async || {
        world.events().await.iter().filter(|event| event.what == "done").count() == 60
    })
    .await;
    for n in 0..60 {
        let id = JobId::parse(&format!("gone-{n}")).unwrap();
        assert_eq!(world.job_events(&id).await, ["buried", "replayed", "done"], "{id}");
    }
    let shown = world.run(&["audit", "show", &operation, "-o", "json"]).await.exited_with(0).json();
    assert_eq!(shown["counts"], serde_json::json!({ "done": 60 }));
    worker.stop().await;
}

#[tokio::test]
async fn what_is_discarded_can_be_restored_within_a_day_and_its_copy_is_printed_on_request() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 3).await;
    worker.stop().await;
    let discard = world.run(&["dead", "discard", "gone-0", "gone-1", "--yes"]).await.exited_with(0);
    assert_eq!(discard.stdout, "", "nothing is printed unless it is asked for");
    assert_eq!(world.dead().await.len(), 1);
    world.run(&["job", "ls", "state:trash"]).await.exited_with(0).stderr_contains(&["2 of 2 jobs"]);
    world.run(&["job", "show", "gone-0"]).await.exited_with(0).stdout_contains(&["trash", "discarded by"]);
    let restore = command_after(&discard.stderr, "Undo within 24 h:");
    typed(&world, &restore, &["--yes"]).await.exited_with(0).stderr_contains(&["restored 2 of 2"]);
    assert_eq!(world.dead().await.len(), 3);
    let copied = world.run(&["dead", "discard", "gone-2", "--copy", "--yes"]).await.exited_with(0);
    assert_eq!(copied.stdout.lines().count(), 1);
    let emptied = world.run(&["dead", "discard", "state:trash", "--now", "--yes"]).await.exited_with(0);
    assert_eq!((emptied.stdout.lines().count(), world.keys("job:*").await.len()), (1, 2));
}

#[tokio::test]
async fn waiting_jobs_of_one_host_are_listed_exported_and_cancelled() {
    let world = World::new().await;
    let here: Vec<Job> = (0..3).map(|n| world.pair(&format!("here-{n}"), 4_000)).collect();
    let mut there = world.pair("there", 4_000);
    let VersionRef::Inline(to) = &mut there.to else { panic!("whole") };
    to.body_url.set_host(Some("127.0.0.2")).unwrap();
    world.send(&here).await;
    world.send(&[there]).await;
    world.queue.worker.ingest().await.unwrap();
    let listed = world.run(&["job", "ls", "state:waiting", "host:127.0.0.1"]).await.exited_with(0);
    listed.stdout_contains(&["here-0", "ready"]).stderr_contains(&["3 of 3 jobs"]);
    let lines = world.run(&["job", "ls", "-o", "ndjson"]).await.exited_with(0).stdout;
    let ids: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, ["here-0", "here-1", "here-2", "there"]);
    let exported = world.run(&["job", "export", "host:127.0.0.1"]).await.exited_with(0);
    assert_eq!(exported.stdout.lines().count(), 3, "{exported:?}");
    let dry = world.run(&["job", "cancel", "host:127.0.0.1", "--dry-run"]).await.exited_with(0);
    dry.stderr_contains(&["cancel 3 jobs", "by host   127.0.0.1 3", "nothing changed"]);
    world
        .run(&["job", "cancel", "host:127.0.0.1", "--yes"])
        .await
        .exited_with(0)
        .stderr_contains(&["cancelled 3 of 3"]);
    let _worker = world.worker();
    for job in &here {
        world.until_event(&job.id, "skipped").await;
    }
    let ended = world.run(&["job", "show", "here-0"]).await.exited_with(0);
    ended.stdout_contains(&["skipped", "cancelled", "cancelled by"]);
    let counts: BTreeMap<String, u64> =
        serde_json::from_value(world.run(&["status", "-o", "json"]).await.json()["last_hour"].clone())
            .unwrap();
    assert_eq!(counts["cancelled"], 3);
}

#[tokio::test]
async fn a_pause_with_a_time_says_when_it_ends_and_ends_by_itself() {
    let world = World::new().await;
    let pause = ["queue", "pause", "--for", "30m", "--name", "move", "--reason", "S3 is moved"];
    world.run(&pause).await.exited_with(0).stderr_contains(&["as move for 30m", "queue resume move"]);
    world.run(&["status"]).await.stdout_contains(&["as move by", ", ends in 29m "]);
    world.run(&["queue", "resume"]).await.exited_with(0);
    let _worker = world.worker();
    world.run(&["queue", "pause", "--for", "1s", "--reason", "a look"]).await.exited_with(0);
    let job = world.pair("waits", 4_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.json();
    let row = &rows["rows"][0];
    assert_eq!((&row["what"], &row["why"]), (&"resume default".into(), &"its time was over".into()));
    world.run(&["queue", "pause", "--for", "0s", "--reason", "a look"]).await.exited_with(2);
}

#[tokio::test]
async fn every_write_of_every_command_is_in_the_audit_with_who_and_why() {
    let world = World::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), world.pair("one", 4_000).encode()).unwrap();
    drop(File::open(file.path()).unwrap());
    world.run(&["enqueue", file.path().to_str().unwrap()]).await.exited_with(0);
    world.run(&["queue", "pause", "--reason", "a look"]).await.exited_with(0);
    world.run(&["queue", "resume"]).await.exited_with(0);
    world.run(&["queue", "pause", "slow.test", "--reason", "they asked"]).await.exited_with(0);
    world.run(&["queue", "resume", "slow.test"]).await.exited_with(0);
    world.run(&["queue", "set", "backlog_max=5000"]).await.exited_with(0);
    world.run(&["queue", "cancel", "one"]).await.exited_with(0);
    let worker = world.worker();
    world.until_event(&JobId::parse("one").unwrap(), "skipped").await;
    worker.stop().await;
    world.run(&["results", "free", "--yes"]).await.exited_with(0);
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.exited_with(0).json();
    let what: Vec<&str> =
        rows["rows"].as_array().unwrap().iter().rev().map(|row| row["what"].as_str().unwrap()).collect();
    let wanted = [
        "enqueue",
        "pause default",
        "resume default",
        "pause host slow.test",
        "resume host slow.test",
        "set",
        "cancel",
        "free results",
    ];
    assert_eq!(what, wanted);
    for row in rows["rows"].as_array().unwrap() {
        let (name, _) = row["by"].as_str().unwrap().split_once('@').unwrap();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        assert!(
            passwd.lines().any(|line| line.starts_with(&format!("{name}:"))),
            "a name of this system: {row}"
        );
    }
    world
        .run(&["audit", "ls"])
        .await
        .exited_with(0)
        .stdout_contains(&["WHO", "they asked"])
        .stderr_contains(&["8 of 8"]);
}

/// The older and the newer body of a job at this host instead, which is the same site.
fn at_host(job: &Job, host: &str) -> Job {
    let moved = |version: &VersionRef| match version {
        VersionRef::Inline(version) => {
            let mut version = version.clone();
            version.body_url.set_host(Some(host)).unwrap();
            VersionRef::Inline(version)
        }
        VersionRef::Uuid(uuid) => VersionRef::Uuid(*uuid),
    };
    let from = OlderVersion::Given(moved(job.from.given().unwrap()));
    Job { from, to: moved(&job.to), ..job.clone() }
}

/// Two in the morning: jobs die of three reasons on two hosts, and a third host hangs.
#[tokio::test]
async fn a_bad_night_is_found_contained_mended_and_on_record_within_eight_commands() {
    let world = World::new().await;
    let gate = GatedSite::closed_at("127.0.0.2").await;
    let hanging: Vec<Job> =
        (0..4).map(|n| job(&format!("hangs-{n}"), gate.url("/a"), gate.url("/b"))).collect();
    let gone: Vec<Job> =
        (0..12).map(|n| world.bodies(&format!("gone-{n}"), Resource::Status(404), page())).collect();
    let slow = |n: usize| {
        let heavy = at_host(&world.heavy(&format!("slow-{n}")), "localhost");
        Job { limits: LimitsRequest { wall_ms: Some(20), heap_bytes: None }, ..heavy }
    };
    let slow: Vec<Job> = (0..2).map(slow).collect();
    let wrong = |n: usize| {
        let mut job = at_host(&world.pair(&format!("wrong-{n}"), 4_000), "localhost");
        let VersionRef::Inline(to) = &mut job.to else { panic!("whole") };
        to.body_hash = Some("0".repeat(64));
        job
    };
    let wrong: Vec<Job> = (0..6).map(wrong).collect();
    let good: Vec<Job> = (0..20).map(|n| world.pair(&format!("good-{n}"), 4_000)).collect();
    let workers = [world.worker(), world.worker()];
    world.send(&[hanging, gone, slow, wrong, good].concat()).await;
    world.until_dead_letters(20).await;
    gate.until_requested(1).await;

    // 1: what is wrong? A host hangs once it has kept a job waiting for ten seconds.
    until("status names the host that hangs, and what to do", async || {
        world.run(&["status"]).await.stdout.contains("queue pause 127.0.0.2 --for")
    })
    .await;
    // 2: the host that hangs costs the other jobs nothing any more.
    let pause = ["queue", "pause", "127.0.0.2", "--for", "15m", "--reason", "it hangs"];
    world.run(&pause).await.exited_with(0).stderr_contains(&["Undo: wm-analyzer queue resume 127.0.0.2"]);
    // 3: why do jobs die?
    let groups = world.run(&["dead", "groups"]).await.exited_with(0);
    let groups = groups.stdout_contains(&["gone", "hash_mismatch", "wall_exceeded", "localhost"]);
    let groups = groups.stderr_contains(&["3 of 3 groups: 20 of 20 dead letters"]);
    // 4: the archive says that it is back; five canaries show whether it is.
    bring_back(&world, 0..12);
    let mut canaries = command_after(&groups.stderr, "try:");
    canaries.extend(["--yes", "--watch"].map(str::to_owned));
    typed(&world, &canaries, &[]).await.exited_with(0).stderr_contains(&["canaries  done 5", "done 12"]);
    // 5: what ran out of time gets more.
    let slow = ["dead", "replay", "kind:wall_exceeded", "--set", "wall=30s", "--watch", "--yes"];
    world.run(&slow).await.exited_with(0).stderr_contains(&["under wall 30s", "done 2"]);
    // 6: the hashes were wrong.
    let wrong = ["dead", "replay", "kind:hash_mismatch", "--edit", "to.body_hash=null", "--watch", "--yes"];
    world.run(&wrong).await.exited_with(0).stderr_contains(&["with 1 edit", "done 6"]);
    // 7: who did what?
    let audit = world.run(&["audit", "ls"]).await.exited_with(0);
    audit.stdout_contains(&["pause host 127.0.0.2", "it hangs", "kind:wall_exceeded", "kind:hash_mismatch"]);
    // 8: nothing is dead any more.
    world.run(&["dead", "ls"]).await.exited_with(3);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn enqueue_waits_for_its_jobs_and_says_how_they_ended() {
    let world = World::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let jobs = [world.pair("good", 4_000), world.bodies("lost", Resource::Status(404), page())];
    let lines: Vec<u8> = jobs.iter().flat_map(|job| [job.encode(), b"\n".to_vec()].concat()).collect();
    std::fs::write(file.path(), lines).unwrap();
    let path = file.path().to_str().unwrap();
    let alone = world.run(&["enqueue", path, "--wait=1s", "-o", "json"]).await.exited_with(5);
    assert_eq!(alone.json()["ids"], serde_json::json!(["good", "lost"]));
    alone.stderr_contains(&["2 of 2 have not ended in time"]);
    let _worker = world.worker();
    world.until_dead_letters(1).await;
    std::fs::write(file.path(), world.pair("better", 4_000).encode()).unwrap();
    let done = world.run(&["enqueue", path, "--wait"]).await.exited_with(0);
    done.stdout_contains(&["better  done"]);
    std::fs::write(file.path(), world.bodies("worse", Resource::Status(404), page()).encode()).unwrap();
    let dead = world.run(&["enqueue", path, "--wait"]).await.exited_with(1);
    dead.stdout_contains(&["worse  dead  gone"]);
}

#[tokio::test]
async fn canaries_that_nobody_judged_are_followed_by_others_when_a_replay_is_gone_on_with() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 8).await;
    worker.stop().await;
    let replay = ["dead", "replay", "kind:gone", "--canary", "2", "--canary-wait", "1s", "--yes"];
    let replay = world.run(&replay).await.exited_with(5);
    let replay = replay.stderr_contains(&["2 canaries have not ended after 1s", "6 not come to"]);
    let worker = world.worker();
    world.until_dead_letters(8).await;
    let resume = command_after(&replay.stderr, "go on with the rest:");
    let resumed = typed(&world, &resume, &["--yes"]).await.exited_with(5);
    resumed.stderr_contains(&["2 canaries first", "died of gone again", "4 not come to"]);
    worker.stop().await;
}

#[tokio::test]
async fn canaries_that_a_full_backlog_keeps_out_prove_nothing() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 4).await;
    worker.stop().await;
    world.send(&[world.pair("waits", 4_000)]).await;
    world.queue.worker.ingest().await.unwrap();
    world.run(&["queue", "set", "backlog_max=1"]).await.exited_with(0);
    let replay = world.run(&["dead", "replay", "kind:gone", "--canary", "2", "--yes"]).await.exited_with(5);
    replay.stderr_contains(&["no canary was replayed and ended", "2 kept out by a full backlog"]);
    assert_eq!(world.dead().await.len(), 4);
}

#[tokio::test]
async fn a_word_without_a_value_selects_nothing_and_a_rest_by_hand_is_no_quarantine() {
    let world = World::new().await;
    let worker = world.worker();
    bury_gone(&world, 1).await;
    worker.stop().await;
    for args in [["dead", "discard", "kind:,", "--yes"], ["dead", "replay", "host:,", "--yes"]] {
        world.run(&args).await.exited_with(2).stderr_contains(&["needs a value"]);
    }
    assert_eq!(world.dead().await.len(), 1);
    world.run(&["queue", "pause", "a.test", "--for", "1h", "--reason", "they asked"]).await.exited_with(0);
    world.run(&["quarantine", "lift", "a.test"]).await.exited_with(3).stderr_contains(&["not held"]);
    world.run(&["queue", "resume", "a.test"]).await.exited_with(0).stderr_contains(&["they asked"]);
}

#[tokio::test]
async fn an_act_that_redis_cuts_off_says_how_far_it_came_and_is_on_record() {
    let durable = RedisOptions::default().persistent().set("appendfsync", "always");
    let mut world = World::with_redis_options(durable).await;
    let jobs: Vec<Job> = (0..200).map(|n| job_by_uuid(&format!("waiting-{n}"))).collect();
    let _ = world.queue.producer.enqueue(&jobs).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wm-analyzer"));
    command.env_clear().env(env_var_name("queue.url"), world.redis.url()).kill_on_drop(true);
    command.args(["job", "cancel", "state:ready", "--rate", "50/s", "--yes", "-o", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let cancel = command.spawn().unwrap();
    until("it is in the middle", async || world.field(&jobs[20].id, "cancel").await.is_some()).await;
    world.redis.kill();

    let ended = timeout(TIMEOUT, cancel.wait_with_output()).await.expect("it ends").unwrap();
    assert_eq!(ended.status.code(), Some(69));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let done = told["done"].as_u64().unwrap();
    assert!((20..200).contains(&done) && told["selected"] == 200, "{told}");
    let left = format!("{} after it were left alone", 200 - done - 1);
    assert!(told["stopped"].as_str().unwrap().contains(&left), "{told}");
    world.redis.restart().unwrap();
    let row = world.run(&["audit", "ls", "-o", "json"]).await.exited_with(0).json()["rows"][0].take();
    assert_eq!((&row["what"], &row["operation"]), (&"cancel".into(), &told["operation"]), "{row}");
}
