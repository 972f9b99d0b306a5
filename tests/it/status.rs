//! `status` as one screen: the host that holds jobs up, a Redis that says nothing, and looking again and again.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use wm_analyzer::job::Job;

use crate::harness::{GatedSite, TIMEOUT, World, job, until};

/// A host of its own, beside the good site.
const OTHER_HOST: &str = "127.0.0.3";
/// Far less than Redis is waited for elsewhere, and enough for a machine that does other things too.
const SOON: Duration = Duration::from_secs(4);

/// The command of the screen that begins so, as words behind the program's name.
fn command_of(screen: &str, begin: &str) -> Vec<String> {
    let at =
        screen.find(&format!("wm-analyzer {begin}")).unwrap_or_else(|| panic!("no {begin:?} in\n{screen}"));
    let line = screen[at..].lines().next().unwrap();
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

async fn run_words(world: &World, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    world.run(&words).await.exited_with(0);
}

#[tokio::test]
async fn a_host_that_hangs_stands_on_the_screen_with_a_command_that_makes_it_rest_and_one_that_resumes_it() {
    let world = World::new().await.with("queue.host_in_flight_max", "2").with("fetch.total_timeout", "60s");
    let world = world.with("fetch.header_timeout", "60s");
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    let _worker = world.worker();
    let ill: Vec<Job> = (0..5)
        .map(|n| job(&format!("ill-{n}"), gate.url(&format!("/{n}/a")), gate.url(&format!("/{n}/b"))))
        .collect();
    world.send(&ill).await;
    gate.until_requested(1).await;
    let screen = async || world.run(&["status"]).await.exited_with(0).stdout;
    until("two are inside and the others wait", async || {
        screen().await.contains("host    127.0.0.3  2 of 2 in flight, 3 wait, oldest ")
    })
    .await;
    until("it hangs", async || screen().await.contains("wm-analyzer queue pause ")).await;
    let json = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    assert_eq!((&json["schema_version"], &json["partial"]), (&1.into(), &Value::Null));
    let host = &json["hosts"][0];
    assert_eq!(
        (&host["host"], &host["in_flight"], &host["waiting"]),
        (&OTHER_HOST.into(), &2.into(), &3.into())
    );
    assert!(host["oldest_fetch_ms"].as_u64().unwrap() >= 10_000, "{host}");
    assert_eq!(json["waiting_for_hosts"], 3);

    let words = command_of(&screen().await, "queue pause");
    assert_eq!(words, ["queue", "pause", OTHER_HOST, "--for", "15m"]);
    run_words(&world, &words).await;
    let shown = screen().await;
    assert!(shown.contains("rests 15 min more"), "{shown}");
    run_words(&world, &command_of(&shown, "queue resume")).await;
    assert!(!screen().await.contains("rests"));

    gate.open();
    for job in &ill {
        world.until_event(&job.id, "done").await;
    }
    let json = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    assert_eq!(json["hosts"], serde_json::json!([]));
    assert!(json["rates"]["ended_per_second"].as_f64().unwrap() > 0.0, "{}", json["rates"]);
}

#[tokio::test]
async fn of_a_frozen_redis_it_is_soon_said_that_nothing_is_known() {
    let world = World::new().await;
    world.run(&["status"]).await.exited_with(0);
    world.redis.freeze();
    let begin = Instant::now();
    let shown = world.run(&["status"]).await.exited_with(1);
    let took = begin.elapsed();
    shown.stdout_contains(&["analysis  unknown", "Redis did not answer within 1.8 s", "wm-analyzer doctor"]);
    assert!(took < SOON, "{took:?}");
    let json = world.run(&["status", "-o", "json"]).await.exited_with(1).json();
    assert_eq!((&json["ready"], &json["partial"]["unknown"][0]), (&Value::Null, &"status".into()));
    world.redis.thaw();
    world.run(&["status"]).await.exited_with(0);
}

#[tokio::test]
async fn the_screen_is_as_wide_as_the_terminal() {
    let world = World::new().await;
    let reason =
        "the archive asked us to stop until its new disks have been built in and checked, which takes";
    world.run(&["queue", "pause", "--reason", reason]).await.exited_with(0);
    for columns in [40, 80, 120] {
        let shown = world.run_with_env(&[("COLUMNS", &columns.to_string())], &["status"]).await;
        let longest = shown.stdout.lines().map(|line| line.chars().count()).max().unwrap();
        assert!((columns - 8..=columns).contains(&longest), "{longest} of {columns}: {shown:#?}");
    }
}

/// A `status --watch` that runs, read line by line.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(world: &World) -> Self {
        let mut child = world.start(&["status", "--watch=1s", "-o", "ndjson"]);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The first object from now on of which this is true.
    async fn until(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let find = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let object: Value = serde_json::from_str(&line).unwrap();
                if is(&object) {
                    return object;
                }
            }
            panic!("it ended before {what}")
        };
        tokio::time::timeout(TIMEOUT, find).await.unwrap_or_else(|_| panic!("not {what}"))
    }
}

#[tokio::test]
async fn watching_outlives_a_frozen_redis_shows_how_old_its_numbers_are_and_ends_well_on_ctrl_c() {
    let world = World::new().await;
    let mut watch = Watch::start(&world);
    watch.until("a first look", |look| look["inbox"] == 0 && look["partial"].is_null()).await;
    world.send(&[world.pair("pair", 4_000)]).await;
    watch.until("what is new", |look| look["inbox"] == 1 && look["stalled"].is_string()).await;
    world.redis.freeze();
    let stale = watch.until("it is late", |look| look["partial"]["age_ms"].as_u64() > Some(3_000)).await;
    assert_eq!((&stale["inbox"], &stale["stalled"]), (&1.into(), &Value::Null), "{stale}");
    world.redis.thaw();
    watch.until("it answers again", |look| look["partial"].is_null()).await;
    let pid = Pid::from_raw(watch.child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = tokio::time::timeout(TIMEOUT, watch.child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));

    let refused = world.run(&["status", "--watch", "-o", "json"]).await.exited_with(2);
    refused.stderr_contains(&["ndjson"]);
    world.run(&["status", "--watch=10ms"]).await.exited_with(2).stderr_contains(&["once a second"]);
}
