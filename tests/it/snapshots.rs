//! What each command prints, compared whole: as text at 80 and at 120 columns, and as JSON.
//!
//! The expected outputs are files, `tests/it/snapshots/*.txt`; `WM_UPDATE_SNAPSHOTS=1` writes them anew. Times, sizes and the
//! person's name are one value each under `WM_TEST_SNAPSHOT`; what else differs from run to run is made equal by `still`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;
use uuid::Uuid;
use wm_analyzer::cli::args::Cli;
use wm_analyzer::job::counts::DeliveryCounts;
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::job::report::Report;
use wm_analyzer::job::verdict::{DeadLetterReason, Verdict};
use wm_analyzer::job::{Job, JobId, Priority, VersionRef};
use wm_analyzer::queue::{Claim, Delivery, Presence, WorkerId};

use crate::harness::{CommandOutput, World, until};

/// Commands of which no output is compared, and why.
const WITHOUT: [(&str, &str); 10] = [
    ("work", "it runs until it is stopped; its answer is its log"),
    ("dash", "it serves pages, see tests/dash"),
    ("demo", "it it demo"),
    ("backfill", "it it backfill, against a db app"),
    ("health", "one word of a worker's probe"),
    ("doctor", "it describes the machine: it doctor"),
    ("completions", "a script: it help"),
    ("man", "a manual page: it help"),
    ("config show", "all keys with their origins: it configuration"),
    ("config schema", "a file of config/schema"),
];

/// A command, as it is typed. `{n}` is 1, 2 and 3 in its three runs, `{replay}` the operation that run of `dead replay` named.
const COMMANDS: &[(&str, &str)] = &[
    ("enqueue-dry-run", "enqueue {jobs} --dry-run"),
    ("queue-drain", "queue drain --name move"),
    ("queue-pause", "queue pause --reason bad-deploy"),
    ("queue-resume-which", "queue resume"),
    ("queue-resume", "queue resume move"),
    ("queue-pause-again", "queue pause --reason bad-deploy"),
    ("queue-pause-host", "queue pause web.down.gov --for 15m --reason it-hangs"),
    ("queue-set", "queue set dead_max_count={n}000"),
    ("queue-settings", "queue settings"),
    ("queue-cancel", "queue cancel queued-{n} nobody"),
    ("queue-export", "queue export"),
    ("queue-import-dry-run", "queue import {export} --dry-run"),
    ("queue-import", "queue import {export}"),
    ("dead-replay-dry-run", "dead replay kind:wall_exceeded --dry-run --set wall=30s --canary 5"),
    ("dead-replay", "dead replay gone-{n} --yes"),
    ("dead-replay-undo-dry-run", "dead replay --undo {replay} --dry-run"),
    ("dead-replay-undo", "dead replay --undo {replay} --yes"),
    ("job-replay", "job replay host:nowhere.gov --yes"),
    ("dead-discard-dry-run", "dead discard kind:gone --dry-run"),
    ("dead-discard", "dead discard moved-{n} nobody --yes --reason not-ours"),
    ("dead-restore-dry-run", "dead restore moved-{n} --dry-run"),
    ("job-restore", "job restore moved-{n} --yes"),
    ("dead-restore", "dead restore moved-{n} --yes"),
    ("job-discard", "job discard moved-{n} --dry-run --now"),
    ("job-cancel-dry-run", "job cancel state:waiting --dry-run"),
    ("job-cancel", "job cancel waiting-{n} --yes"),
    ("worker-quiet", "worker quiet analyzer-1 --yes"),
    ("worker-stop-dry-run", "worker stop --all --dry-run"),
    ("worker-stop", "worker stop --all --yes"),
    ("worker-stop-unknown", "worker stop nobody --yes"),
    ("quarantine-ls", "quarantine ls"),
    ("quarantine-lift", "quarantine lift web.down.gov"),
    ("results-free-dry-run", "results free --older-than 2d --dry-run"),
    ("results-free", "results free --older-than 2d --yes"),
    ("status", "status"),
    ("check", "check --max-dead 5"),
    ("queue-show", "queue show"),
    ("results-ls", "results ls"),
    ("results-show", "results show done-1"),
    ("report-show", "report show {pair}"),
    ("job-ls", "job ls"),
    ("job-ls-waiting", "job ls state:scheduled"),
    ("job-show-done", "job show done-1"),
    ("job-show-retry", "job show retry-1"),
    ("job-show-running", "job show running-1"),
    ("job-export", "job export state:scheduled"),
    ("job-diff", "job diff pdf-1"),
    ("dead-groups", "dead groups"),
    ("dead-ls", "dead ls"),
    ("dead-ls-none", "dead ls kind:dns"),
    ("dead-show", "dead show gone-1"),
    ("dead-export", "dead export gone-1"),
    ("audit-ls", "audit ls --limit 17"),
    ("audit-show", "audit show {replay}"),
    ("worker-ls", "worker ls"),
    ("diff", "diff tests/fixtures/pages/before.html tests/fixtures/pages/after.html"),
    ("diff-no-file", "diff tests/fixtures/pages/before.html tests/fixtures/pages/nowhere.html"),
    ("config-check", "config check"),
    ("sentry-test", "sentry test"),
    // Its ids are new in each run, and would stand in the tables above.
    ("enqueue", "enqueue --to 00000000-0000-0000-0000-00000000f00{n}"),
];

/// How each command is run: the columns of its terminal, and the format.
const FORMS: [(&str, &str); 3] = [("80", "text"), ("120", "text"), ("120", "json")];

const WORKER: &str = "analyzer-1:7:3f9a2c1e";

fn version(name: &str, number: u128, url: &str) -> Version {
    Version::at(Uuid::from_u128(number), format!("https://{name}{url}").parse().unwrap())
}

/// A job at this host, whose uuids and addresses are made of its id.
fn job(id: &str, host: &str, number: u128) -> Job {
    let whole = |version| VersionRef::Inline(Box::new(version));
    let (from, to) = (format!("/{id}?at=2018"), format!("/{id}?at=2019"));
    Job {
        id: JobId::parse(id).unwrap(),
        ..Job::new(whole(version(host, number * 2, &from)), whole(version(host, number * 2 + 1, &to)))
    }
}

fn death(kind: FailureKind, host: &str, detail: &str) -> Verdict {
    Verdict::DeadLetter(Box::new(DeadLetterReason {
        kind,
        stage: kind.stage(),
        failure: Failure::new(kind, detail).at_host(host),
        counts: DeliveryCounts { deliveries: 1, ..DeliveryCounts::default() },
        bodies: Vec::new(),
        worker: WORKER.to_owned(),
        build: "wm-analyzer@0.1.0".to_owned(),
    }))
}

async fn claimed(world: &World, job: &Job) -> Delivery {
    let admitted = world.queue.producer.enqueue(std::slice::from_ref(job)).await.unwrap();
    assert_eq!(admitted.len(), 1);
    match world.queue.worker.claim(&WorkerId::parse(WORKER).unwrap()).await.unwrap() {
        Claim::Delivery(delivery) => *delivery,
        other => panic!("{other:?}"),
    }
}

async fn ended(world: &World, job: &Job, verdict: Verdict) {
    let _ = world.queue.worker.settle(claimed(world, job).await, verdict).await.unwrap();
    next_millisecond(world).await;
}

/// Listings are by time, and of one moment in any order.
async fn next_millisecond(world: &World) {
    let now_ms = world.queue.server_time_ms().await.unwrap();
    until("it is later", async || world.queue.server_time_ms().await.unwrap() > now_ms).await;
}

/// Jobs that are done, dead of two groups, in retry, rightly skipped, and waiting.
async fn seed(world: &World) {
    let page = |name: &str| format!("tests/fixtures/pages/{name}.html");
    let diff = ["diff", &page("before"), &page("after"), "-o", "json"];
    let report = world.run(&diff).await.exited_with(0).json()["report"].take();
    let mut report: Report = serde_json::from_value(report).unwrap();
    let done = job("done-1", "web.a.gov", 1);
    (report.from, report.to) = (done.from.given().unwrap().uuid(), done.to.uuid());
    ended(world, &done, Verdict::Done(Box::new(report))).await;
    for n in 1..=10 {
        let killed = job(&format!("import-2026-11-23-versions-{n:06}"), "web.archive.b.gov", 10 + n);
        let delivery = claimed(world, &killed).await;
        let (VersionRef::Inline(from), VersionRef::Inline(to)) = (killed.from.given().unwrap(), &killed.to)
        else {
            panic!("both are whole")
        };
        let pair =
            PagePair { page: None, from: (**from).clone(), from_is_earliest: false, to: (**to).clone() };
        let _ = world.queue.worker.start(&delivery.lease(), &pair).await.unwrap();
        assert!(world.queue.worker.enter_child(&delivery.lease()).await.unwrap());
        let detail = "it ran longer than its wall clock of 10000 ms, last in the diff of its links";
        let verdict = death(FailureKind::WallExceeded, "web.archive.b.gov", detail);
        let _ = world.queue.worker.settle(delivery, verdict).await.unwrap();
        next_millisecond(world).await;
    }
    for (number, name) in [(100, "gone"), (200, "moved")] {
        for n in 1..=3 {
            let gone = job(&format!("{name}-{n}"), "web.a.gov", number + n);
            let detail = format!("https://web.a.gov/{name}-{n}?at=2019 answered 404 Not Found");
            ended(world, &gone, death(FailureKind::Gone, "web.a.gov", &detail)).await;
        }
    }
    let timeout = Failure::new(FailureKind::Timeout, "no answer within 30 s").at_host("web.slow.gov");
    let after = std::time::Duration::from_secs(24 * 3600);
    ended(world, &job("retry-1", "web.slow.gov", 300), Verdict::Retry { after, failure: timeout }).await;
    let mut waiting: Vec<Job> = (1..=3)
        .flat_map(|n| {
            [("waiting", 400 + n), ("queued", 500 + n)]
                .map(|(name, at)| job(&format!("{name}-{n}"), "web.down.gov", at))
        })
        .collect();
    let mut pdf = job("pdf-1", "web.a.gov", 600);
    pdf.to = VersionRef::Inline(Box::new(version("web.a.gov", 1201, "/report.pdf")));
    waiting.push(pdf);
    let _ = world.queue.producer.enqueue(&waiting).await.unwrap();
}

fn presence() -> Presence {
    Presence {
        id: WorkerId::parse(WORKER).unwrap(),
        host: "analyzer-1".to_owned(),
        pid: 7,
        version: "wm-analyzer@0.1.0".to_owned(),
        phase: "running".to_owned(),
        slots: 2,
        slots_limit: 2,
        slots_limited_by: None,
        busy: 0,
        heartbeat_every_ms: 3_600_000,
        breakers: BTreeMap::new(),
        breaker_reasons: BTreeMap::new(),
        db_app: String::new(),
        in_flight: Vec::new(),
    }
}

/// What differs from run to run, made equal without a change of its width: ids and clocks; and where the repository is.
fn still(text: &str) -> String {
    let text = &text.replace(env!("CARGO_MANIFEST_DIR"), "/repository");
    let is_hex = |word: &str, count| word.len() == count && word.bytes().all(|b| b.is_ascii_hexdigit());
    let one = |word: &str| -> String {
        let of_a_test = |uuid: Uuid| uuid.as_u128() >> 64 == 0;
        match word.rsplit_once('-') {
            _ if Uuid::try_parse(word).is_ok_and(|uuid| word.len() == 36 && !of_a_test(uuid)) => {
                "00000000-0000-0000-0000-00000000000f".to_owned()
            }
            _ if is_hex(word, 32) => "0".repeat(32),
            // A time in milliseconds since 1970.
            _ if word.len() == 13 && word.parse::<u64>().is_ok() => "0".repeat(13),
            Some((verb, end)) if is_hex(end, 8) && verb.bytes().all(|b| b.is_ascii_lowercase()) => {
                format!("{verb}-00000000")
            }
            _ if word.len() == 8
                && word.split(':').filter(|part| part.parse::<u8>().is_ok()).count() == 3 =>
            {
                "14:02:11".to_owned()
            }
            _ => word.to_owned(),
        }
    };
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "-:".contains(c));
    let words = text.split_inclusive(is_end).map(|word| {
        let bare = word.trim_matches(|c| is_end(c) || c == ':');
        word.replacen(bare, &one(bare), 1)
    });
    let mut text: String = words.collect();
    for (before, behind) in [("rests ", " s more"), ("_age=", "s;"), ("took_ms\":", ","), ("░ ", " % of")] {
        text = without_number(&text, before, behind);
    }
    // A trend is of tens of minutes by the clock.
    let text: String = text.chars().map(|c| if ('▁'..='█').contains(&c) { '▁' } else { c }).collect();
    let build = Cli::command().get_version().unwrap_or_default().to_owned();
    let rates =
        |line: &str| if line.starts_with("pace ") { "pace    ...\n".to_owned() } else { line.to_owned() };
    text.replace(&build, "0.1.0").split_inclusive('\n').map(rates).collect()
}

/// The text with 0 for each number between these two.
fn without_number(text: &str, before: &str, behind: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out += before;
        out += &if rest.starts_with(behind) { format!("0{rest}") } else { part.to_owned() };
    }
    out
}

/// JSON with its times, sizes and rates made equal.
fn still_json(value: &mut Value, name: &str) {
    const VARY: [&str; 8] = [
        "used_memory",
        "waited",
        "per_second",
        "oldest_seconds",
        "connections",
        "version",
        "release",
        "build",
    ];
    let varies =
        ["_ms", "_bytes", "_per_second"].iter().any(|end| name.ends_with(end)) || VARY.contains(&name);
    match value {
        Value::Object(fields) if name == "server" => fields.clear(),
        Value::Array(items) if name == "trend" => items.clear(),
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| still_json(value, name)),
        Value::Array(items) => items.iter_mut().for_each(|item| still_json(item, name)),
        Value::Number(_) if varies && name != "schema_version" && name != "analysis_version" => {
            *value = 0.into()
        }
        Value::String(text) => *text = still(text),
        Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

fn shown(ran: &CommandOutput, form: (&str, &str), typed: &str) -> String {
    let (columns, format) = form;
    let parsed = serde_json::from_str::<Value>(&ran.stdout);
    let stdout = match (format, parsed) {
        ("json", Ok(mut value)) => {
            still_json(&mut value, "");
            serde_json::to_string_pretty(&value).unwrap() + "\n"
        }
        (_, Err(_) | Ok(_)) => lines_of_json(&ran.stdout),
    };
    let flag = if format == "json" { " -o json" } else { "" };
    let stderr = match ran.stderr.is_empty() {
        true => String::new(),
        false => format!("[stderr]\n{}", still(&ran.stderr)),
    };
    let code = ran.code.unwrap_or(-1);
    format!("$ COLUMNS={columns} wm-analyzer {typed}{flag}\n{stdout}{stderr}[exit code {code}]\n\n")
}

/// Text, in which a line may be an object.
fn lines_of_json(text: &str) -> String {
    let line = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(mut value @ Value::Object(_)) => {
            still_json(&mut value, "");
            value.to_string() + "\n"
        }
        Ok(_) | Err(_) => still(line) + "\n",
    };
    text.lines().map(line).collect()
}

/// Fails at a line that is wider than the terminal and not to be copied: a command, an object, a single word.
#[track_caller]
fn assert_fits(name: &str, ran: &CommandOutput, columns: usize) {
    for line in ran.stdout.lines().chain(ran.stderr.lines()) {
        let text = line.trim();
        let is_copied = text.starts_with("wm-analyzer ") || text.starts_with('{') || !text.contains(' ');
        assert!(line.width() <= columns || is_copied, "{name}: {} columns: {line}", line.width());
    }
}

async fn snapshot(world: &World, columns: &str, args: &[&str]) -> CommandOutput {
    world.run_with_env(&[("COLUMNS", columns), ("WM_TEST_SNAPSHOT", "1")], args).await
}

#[tokio::test]
async fn every_command_prints_what_its_snapshot_says_and_fits_its_terminal() {
    let world = World::new().await.with("queue.worker_ttl", "1h").with("sandbox.slots", "2");
    seed(&world).await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(
        file("jobs"),
        format!("{}\nno job\n", r#"{"v":1,"to":"00000000-0000-0000-0000-00000000f009"}"#),
    )
    .unwrap();
    let pair = format!("{}..{}", Uuid::from_u128(2), Uuid::from_u128(3));
    let expected = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots"));
    let update = std::env::var_os("WM_UPDATE_SNAPSHOTS").is_some();
    let (mut replays, mut leases, mut changed) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (name, typed) in COMMANDS {
        if *name == "status" {
            // It is in flight from here on: a drain would wait for it.
            snapshot(&world, "80", &["queue", "resume"]).await.exited_with(0);
            let running = Job { priority: Priority::High, ..job("running-1", "web.down.gov", 700) };
            leases.push(claimed(&world, &running).await);
            snapshot(&world, "80", &["queue", "pause", "--reason", "bad deploy"]).await.exited_with(0);
        }
        let mut text = String::new();
        for (form, n) in FORMS.into_iter().zip(1..) {
            let refs: Vec<_> = leases.iter().map(Delivery::lease).collect();
            let _ = world.queue.worker.heartbeat(&presence(), &refs).await.unwrap();
            let words = typed
                .replace("{n}", &n.to_string())
                .replace("{replay}", replays.get(&n).map_or("", String::as_str))
                .replace("{pair}", &pair);
            let typed = words.replace("{jobs}", "jobs.jsonl").replace("{export}", "waiting.ndjson");
            let words = words.replace("{jobs}", &file("jobs")).replace("{export}", &file("export"));
            let args: Vec<&str> = words.split(' ').chain(["-o", form.1]).collect();
            let ran = snapshot(&world, form.0, &args).await;
            if form.1 == "text" && *name != "check" {
                assert_fits(name, &ran, form.0.parse().unwrap());
            }
            if form.1 == "json" && !name.ends_with("export") && !ran.stdout.is_empty() {
                assert!(ran.json()["schema_version"].is_u64(), "{name}: {ran:?}");
            }
            if *name == "dead-replay" {
                let said = format!("{} {}", ran.stdout, ran.stderr);
                let is_operation = |word: &&str| word.starts_with("replay-") && word.len() == 15;
                let operation =
                    said.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').find(is_operation);
                replays.insert(n, operation.unwrap_or_else(|| panic!("{said}")).to_owned());
            }
            if *name == "queue-export" {
                fs::write(file("export"), &ran.stdout).unwrap();
            }
            text += &shown(&ran, form, &still(&typed));
        }
        let path = expected.join(format!("{name}.txt"));
        if update {
            fs::create_dir_all(&expected).unwrap();
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            changed.push(format!("{}, which was:\n{text}", path.display()));
        }
    }
    assert!(changed.is_empty(), "WM_UPDATE_SNAPSHOTS=1 writes these anew:\n{}", changed.join("\n"));
}

/// The words of every command that has none below it.
fn leaves(command: &clap::Command, path: &str) -> Vec<String> {
    let of_one = |sub: &clap::Command| {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() { leaves(sub, &path) } else { vec![path] }
    };
    command.get_subcommands().flat_map(of_one).collect()
}

#[test]
fn every_command_has_a_snapshot_or_a_reason_why_it_has_none() {
    let leaves = leaves(&Cli::command(), "");
    let is_of = |typed: &str, leaf: &str| typed == leaf || typed.starts_with(&format!("{leaf} "));
    for leaf in &leaves {
        let has = COMMANDS.iter().any(|(_, typed)| is_of(typed, leaf));
        let excepted = WITHOUT.iter().any(|(command, _)| command == leaf);
        assert!(has != excepted, "{leaf}: one of a snapshot and a reason why it has none");
    }
    let names: BTreeSet<String> = COMMANDS.iter().map(|(name, _)| format!("{name}.txt")).collect();
    let dir = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots")).unwrap();
    let files: BTreeSet<String> = dir.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, names, "files without a command, or commands without a file");
}
