//! `dead`: looking, putting back, throwing away; bulk actions that say before and after, and can be undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use wm_analyzer::job::{Job, JobId, VersionRef};
use wm_analyzer::queue::Content;
use wm_testbed::body::Body;
use wm_testbed::peers::skip_without;
use wm_testbed::redis::RedisOptions;
use wm_testbed::site::Resource;
use wm_testbed::tcp_proxy::{TcpProxy, Upstream};

use crate::harness::{TIMEOUT, World, env_var_name, job_by_uuid, key, run, until};

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
    let wide = world.run_with_env(&[("COLUMNS", "120")], &["dead", "ls"]).await;
    let all = wide.exited_with(0).stdout_contains(&["gone-0", "gone-2", "127.0.0.1", "404"]);
    assert!(!all.stdout.contains('\u{1b}'), "{all:?}");
    all.stderr_contains(&["5 of 5 dead letters: gone 3", "decode 2"]);
    let cut = world.run(&["dead", "ls", "--limit", "2"]).await.exited_with(0);
    cut.stderr_contains(&["2 of 5 dead letters"]);
    let ids = |json: Value| -> Vec<String> {
        json["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|letter| letter["id"].as_str().unwrap().to_owned())
            .collect()
    };
    for (args, count) in [
        (&["kind:gone"][..], 3),
        (&["--kind", "gone,decode"], 5),
        (&["kind:gone", "host:127.0.0.1", "replayed:no", "text:not"], 3),
        (&["text:404", "build:wm-analyzer@"], 3),
        (&["until:1h"], 0),
        (&["--host", "127.0.0.1"], 3),
        (&["--since", "1h"], 5),
        (&["--limit", "2"], 2),
        (&["gone-1", "gone-2", "gone-1", "nobody"], 2),
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
    until("its death is reported", async || world.sentry.alerts() == 1).await;
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
    let ran = world.run(&["dead", "discard", "--now", "--yes"]).await.exited_with(0);
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
async fn an_id_that_is_no_dead_letter_is_named_and_the_others_are_acted_on() {
    let world = World::new().await;
    bury_five(&world).await;
    let unknown = ["no dead letter: nobody"];
    world.run(&["dead", "show", "nobody"]).await.exited_with(3).stderr_contains(&unknown);
    for action in ["replay", "discard"] {
        world.run(&["dead", action, "nobody", "--yes"]).await.exited_with(3).stderr_contains(&unknown);
        let some = ["dead", action, "gone-0", "nobody", "--dry-run"];
        world.run(&some).await.exited_with(1).stderr_contains(&unknown);
    }
    assert_eq!(world.dead().await.len(), 5);

    let ran = world.run(&["dead", "replay", "gone-0", "nobody", "--yes", "-o", "json"]).await.exited_with(5);
    assert_eq!((&ran.json()["done"], &ran.json()["unknown"]), (&1.into(), &serde_json::json!(["nobody"])));
    ran.stderr_contains(&unknown);
    let ran =
        world.run(&["dead", "discard", "gone-1", "gone-1", "nobody", "--now", "--yes"]).await.exited_with(5);
    let ran = ran.stderr_contains(&unknown).stderr_contains(&["discarded 1 of 1"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    // A letter that the rest of the selection leaves out is not unknown.
    let ran = world.run(&["dead", "discard", "gone-2", "--kind", "decode", "--yes"]).await.exited_with(3);
    assert!(!ran.stderr.contains("no dead letter:"), "{ran:?}");
    assert_eq!(world.dead().await.len(), 3);
}

/// A running `dead discard --yes` that finds its Redis at `url`; dropped, it is killed.
fn start_discard(url: &str, stdout: impl Into<Stdio>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wm-analyzer"));
    command.env_clear().env(env_var_name("queue.url"), url).kill_on_drop(true);
    command.args(["dead", "discard", "--now", "--yes", "--rate", "10000/s"]);
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Its exit code, and what it said.
async fn ended(discard: Child) -> (Option<i32>, String) {
    let output = timeout(TIMEOUT, discard.wait_with_output()).await.expect("it ends").unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// So many letters that hold no job; their ids.
async fn bury_nonsense(world: &World, count: usize) -> BTreeSet<String> {
    let payloads: Vec<String> = (0..count).map(|n| format!("nonsense {n}")).collect();
    world.push(&payloads.iter().map(String::as_bytes).collect::<Vec<_>>()).await;
    until("all are buried", async || {
        world.queue.worker.ingest().await.unwrap();
        world.dead().await.len() == count
    })
    .await;
    dead_ids(world).await
}

async fn dead_ids(world: &World) -> BTreeSet<String> {
    world.dead().await.into_iter().map(|letter| letter.id.to_string()).collect()
}

/// The ids of the letters whose copies these lines are; a last line without an end is none.
fn copied_ids(copies: &str) -> BTreeSet<String> {
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    copies.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(id).collect()
}

#[tokio::test]
async fn a_reader_that_leaves_after_one_copy_costs_no_other_letter() {
    let world = World::new().await;
    let all = bury_nonsense(&world, 50).await;
    let mut discard = start_discard(&world.redis.url(), Stdio::piped());
    let mut first = String::new();
    let mut copies = BufReader::new(discard.stdout.take().unwrap());
    copies.read_line(&mut first).await.unwrap();
    // It leaves late: what was written to the pipe meanwhile was not read, and must not have been deleted.
    until("the first is gone", async || world.dead().await.len() < 50).await;
    world.run(&["dead", "ls"]).await.exited_with(0);
    drop(copies);

    let (code, said) = ended(discard).await;
    assert_eq!(code, Some(5), "{said}");
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("discarded 1 of 50") && words.contains("49 dead letters were left alone"),
        "{said}"
    );
    let (read, left) = (copied_ids(&first), dead_ids(&world).await);
    assert_eq!((read.len(), left.len()), (1, 49), "{said}");
    assert_eq!(&read | &left, all);
}

#[tokio::test]
async fn nothing_is_discarded_where_no_copy_is_kept() {
    let world = World::new().await;
    let all = bury_nonsense(&world, 10).await;
    for device in ["/dev/null", "/dev/full"] {
        let device = File::options().write(true).open(device).unwrap();
        let (code, said) = ended(start_discard(&world.redis.url(), device)).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("no copy is safe") && said.contains("nothing changed"), "{said}");
    }
    assert_eq!(dead_ids(&world).await, all);
    let audit = world.run(&["audit", "ls", "-o", "json"]).await.json();
    assert_eq!(audit["total"], 0);
}

#[tokio::test]
async fn no_letter_is_gone_without_its_copy_when_redis_dies_meanwhile() {
    let durable = RedisOptions::default().persistent().set("appendfsync", "always");
    let mut world = World::with_redis_options(durable).await;
    let all = bury_nonsense(&world, 1000).await;
    let copies = tempfile::NamedTempFile::new().unwrap();
    let discard = start_discard(&world.redis.url(), File::create(copies.path()).unwrap());
    let copied = || copied_ids(&fs::read_to_string(copies.path()).unwrap());
    until("it is in the middle", async || copied().len() > 20).await;
    world.redis.kill();

    let (code, said) = ended(discard).await;
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("of 1000") && said.contains("left alone"), "{said}");
    world.redis.restart().unwrap();
    let left = dead_ids(&world).await;
    assert!(!left.is_empty() && left.len() < 1000, "{} left: {said}", left.len());
    let gone = &all - &left;
    assert_eq!(&gone - &copied(), BTreeSet::new(), "gone without a copy");
}

#[tokio::test]
async fn a_letter_whose_discarding_was_not_answered_is_named_and_its_copy_is_there() {
    let world = World::new().await;
    let all = bury_nonsense(&world, 10).await;
    let proxy = TcpProxy::to(Upstream::Unix(world.redis.socket())).await;
    // Its script is loaded, or that would be what is not answered.
    assert_eq!(world.queue.operator.discard(&[JobId::generate()]).await.unwrap(), 0);
    let mut discard = start_discard(&proxy.url(), Stdio::piped());
    let mut stdout = BufReader::new(discard.stdout.take().unwrap());
    let mut copies = String::new();
    // It waits until each copy is read: so the answer that is lost is that of a deletion.
    stdout.read_line(&mut copies).await.unwrap();
    proxy.lose_next_answer();
    stdout.read_to_string(&mut copies).await.unwrap();

    let (code, said) = ended(discard).await;
    assert_eq!(code, Some(69), "{said}");
    let left = dead_ids(&world).await;
    let gone = &all - &left;
    assert!(!gone.is_empty() && gone.is_subset(&copied_ids(&copies)), "{gone:?} {said}");
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = gone.iter().any(|id| words.contains(&format!("while {id} was to be discarded")));
    assert!(named && words.contains("after it were left alone"), "{said}");
}

#[tokio::test]
async fn a_payload_of_any_bytes_is_whole_in_its_copy() {
    let world = World::new().await;
    let text = "\u{1b}[31mn\u{f6} job\n".as_bytes();
    let mixed: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let payloads = [text, b"\xff\xfe\0\x80 not text", &mixed];
    world.push(&payloads).await;
    until("all are buried", async || {
        world.queue.worker.ingest().await.unwrap();
        world.dead().await.len() == payloads.len()
    })
    .await;
    let stored: BTreeMap<String, Vec<u8>> = world
        .dead()
        .await
        .into_iter()
        .map(|letter| {
            let Content::Raw(raw) = letter.content else { panic!("no job") };
            (letter.id.to_string(), raw.head)
        })
        .collect();
    let sent: BTreeSet<&[u8]> =
        payloads.iter().map(|payload| &payload[..payload.len().min(2 * 1024)]).collect();
    assert_eq!(stored.values().map(Vec::as_slice).collect::<BTreeSet<_>>(), sent);

    let head = |raw: &Value| match (raw["head"].as_str(), raw["head_base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(base64)) => BASE64.decode(base64).unwrap(),
        both => panic!("one of the two: {both:?}"),
    };
    let by_id = |letters: Vec<Value>| -> BTreeMap<String, Vec<u8>> {
        letters
            .iter()
            .map(|letter| (letter["id"].as_str().unwrap().to_owned(), head(&letter["raw"])))
            .collect()
    };
    let listed = world.run(&["dead", "ls", "-o", "json"]).await.exited_with(0).json();
    assert_eq!(by_id(listed["jobs"].as_array().unwrap().clone()), stored);
    let ran = world.run(&["dead", "discard", "--now", "--yes"]).await.exited_with(0);
    let copies: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(copies.iter().any(|copy| copy["raw"]["length"] == 70_000), "its whole length");
    assert_eq!(by_id(copies), stored);
}

#[tokio::test]
async fn a_letter_that_died_anew_during_a_discard_is_left_alone_and_named() {
    let world = World::new().await;
    let worker = world.worker();
    let ids = ["a", "b", "c"];
    world.send(&ids.map(job_by_uuid)).await;
    world.until_dead_letters(3).await;
    let mut discard = start_discard(&world.redis.url(), Stdio::piped());
    let mut copies = BufReader::new(discard.stdout.take().unwrap());
    let mut first = String::new();
    copies.read_line(&mut first).await.unwrap();
    // Its plan stands, and it waits until its next copy is read.
    let again = *ids.iter().find(|id| !copied_ids(&first).contains(**id)).unwrap();
    world.run(&["dead", "replay", again, "--yes"]).await.exited_with(0);
    let again = JobId::parse(again).unwrap();
    until("it died anew", async || world.job_events(&again).await == ["buried", "replayed", "buried"]).await;
    let mut others = String::new();
    copies.read_to_string(&mut others).await.unwrap();

    let (code, said) = ended(discard).await;
    assert_eq!(code, Some(5), "{said}");
    for words in ["discarded 2 of 3", "1 left alone", &format!("died anew  {again}")] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(dead_ids(&world).await, BTreeSet::from([again.to_string()]));
    worker.stop().await;
}

#[tokio::test]
async fn replay_and_discard_work_while_redis_is_full() {
    let world = World::new().await;
    let jobs = bury_five(&world).await;
    world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    world.run_with_stdin(&["enqueue", "-"], job_by_uuid("new").encode()).await.exited_with(75);
    let replay = world.run(&["dead", "replay", "gone-0", "--wall", "9s", "--yes"]).await.exited_with(0);
    replay.stderr_contains(&["replayed 1 of 1"]);
    let discard = world.run(&["dead", "discard", "--yes"]).await.exited_with(0);
    assert_eq!(discard.stdout.lines().count(), 4, "{discard:?}");
    assert_eq!(world.dead().await.len(), 0);
    assert_eq!(world.field(&jobs[0].id, "state").await.as_deref(), Some("ready"));
    assert_eq!(world.keys("job:*").await.len(), 1);
}

#[tokio::test]
async fn since_is_by_the_clock_of_redis() {
    let Some(clock) = fs::read_dir("/usr/lib").unwrap().flatten().find_map(|place| {
        Some(place.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists())
    }) else {
        return skip_without("libfaketime");
    };
    let world = World::new().await;
    bury_nonsense(&world, 2).await;
    // An operator's machine whose clock is a day fast, or slow.
    for offset in ["+1d", "-1d"] {
        let environment = BTreeMap::from([
            (env_var_name("queue.url"), world.redis.url()),
            ("LD_PRELOAD".to_owned(), clock.display().to_string()),
            ("FAKETIME".to_owned(), offset.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ]);
        let of = async |age: &str| {
            let ran = run(&["dead", "ls", &format!("since:{age}"), "-o", "json"], &environment, b"").await;
            ran.json()["jobs"].as_array().unwrap().len()
        };
        assert_eq!(of("1h").await, 2, "{offset}");
        until("they are older than a millisecond", async || of("1ms").await == 0).await;
        let table = run(&["dead", "ls"], &environment, b"").await;
        assert!(!table.stdout.contains("1d 0h ago"), "{offset}: {table:?}");
        assert!(!table.stdout.contains(" 0ms ago"), "{offset}: {table:?}");
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
        shown.stderr.lines().find_map(|line| Some(line.split_once("wm-analyzer diff ")?.1)).unwrap();
    let args = "diff ".to_owned() + command;
    let args: Vec<String> = args.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    world.run(&args).await.exited_with(11).stdout_contains(&["poison: hash_mismatch"]);
}

#[tokio::test]
async fn a_replay_whose_jobs_are_not_kept_any_more_is_not_called_one_without_letters() {
    let world = World::new().await;
    let worker = world.worker();
    world.send(&[job_by_uuid("gone")]).await;
    world.until_dead_letters(1).await;
    worker.stop().await;
    let replayed = world.run(&["dead", "replay", "gone", "--yes", "-o", "json"]).await.exited_with(0).json();
    let operation = replayed["operation"].as_str().unwrap();
    let _: u64 = world.redis_cmd("DEL", &[key(&format!("operation_jobs:{operation}"))]).await;
    for step in ["--resume", "--undo"] {
        let told = world.run(&["dead", "replay", step, operation, "--yes"]).await.exited_with(3);
        told.stderr_contains(&["its jobs are not kept any more"]);
    }
    let unknown = world.run(&["dead", "replay", "--resume", "replay-0badc0de", "--yes"]).await.exited_with(3);
    unknown.stderr_contains(&["no operation replay-0badc0de, or its jobs are not kept any more"]);
}
