//! The screen of made-up states, as it stands on terminals of 80 and 120 columns.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthStr as _;
use uuid::Uuid;

use super::layout::Line;
use super::screen::lines;
use super::{Look, Numbers};
use crate::job::JobId;
use crate::job::failure::{FailureKind, Stage};
use crate::queue::{
    Group, HostLoad, HostWaiters, Paused, Presence, Rates, ReplayOutcomes, RestByHand, RestingHost,
    RunningJob, Server, Status, WorkerId, WorkerStatus,
};

const NOW_MS: u64 = 1_790_000_000_000;

fn running(id: &str, stage: Stage, seconds: u64) -> RunningJob {
    RunningJob {
        id: JobId::parse(id).unwrap(),
        from: Some(Uuid::from_u128(0x11 << 120)),
        to: Uuid::from_u128(0x22 << 120),
        in_flight_ms: (seconds + 1) * 1000,
        stage,
        stage_ms: seconds * 1000,
        limit_ms: Some(30_000),
        heap: None,
    }
}

fn worker(id: &str, jobs: Vec<RunningJob>) -> WorkerStatus {
    let info = Presence {
        id: WorkerId::parse(id).unwrap(),
        host: "vm".to_owned(),
        pid: 1,
        version: "0.1.0".to_owned(),
        phase: "running".to_owned(),
        slots: 2,
        slots_limit: 2,
        slots_limited_by: None,
        busy: 2,
        heartbeat_every_ms: 5_000,
        breakers: BTreeMap::new(),
        breaker_reasons: Default::default(),
        db_app: String::new(),
        in_flight: jobs,
    };
    let (fetching, analysing) = (info.in_flight.len() as u64, 0);
    let taken_over = BTreeMap::new();
    WorkerStatus {
        info,
        fetching,
        analysing,
        heartbeat_age_ms: 1_200,
        silent: false,
        taken_over,
        asked: None,
    }
}

fn group(kind: FailureKind, host: &str, dead: u64, trend: [u64; 6], sentence: &str) -> Group {
    Group {
        kind: Some(kind),
        host: host.to_owned(),
        dead,
        total: dead,
        deaths: BTreeMap::from([("1h", trend.iter().sum())]),
        trend,
        first_ms: NOW_MS - 600_000,
        last_ms: NOW_MS,
        last_id: "import-1".to_owned(),
        sentence: sentence.to_owned(),
        build: "wm-analyzer@0.1.0".to_owned(),
        replays: ReplayOutcomes::default(),
    }
}

/// A worker that fell silent with three jobs.
fn silent() -> WorkerStatus {
    let mut silent = worker("vm:300:cccccccc", vec![]);
    silent.silent = true;
    silent.heartbeat_age_ms = 24_000;
    silent.taken_over =
        [("import-7", "in flight at vm:200:bbbbbbbb"), ("import-8", "ended"), ("import-9", "ready")]
            .map(|(id, place)| (id.to_owned(), place.to_owned()))
            .into();
    silent
}

/// One that hangs, and one that rests by hand.
fn hosts() -> Vec<HostLoad> {
    let rest = RestByHand {
        by: "op@bastion".to_owned(),
        reason: "they asked us to".to_owned(),
        since_ms: NOW_MS,
        until_ms: NOW_MS + 240_000,
    };
    let resting = RestingHost {
        host: "archive.b.gov".to_owned(),
        left_ms: 240_000,
        waiting: 41,
        by_hand: Some(rest),
        ..RestingHost::default()
    };
    let down = HostLoad {
        host: "web.down.gov".to_owned(),
        in_flight: 4,
        waiting: 302,
        oldest_fetch_ms: Some(182_000),
        resting: None,
    };
    let rests = HostLoad {
        host: "archive.b.gov".to_owned(),
        waiting: 41,
        resting: Some(resting),
        ..HostLoad::default()
    };
    vec![down, rests]
}

/// Four reasons.
fn groups() -> Vec<Group> {
    vec![
        group(FailureKind::HashMismatch, "web.b.gov", 3_000, [0, 100, 800, 100, 0, 0], "captured was 0000"),
        group(FailureKind::Gone, "web.a.gov", 2_995, [0, 100, 900, 100, 0, 0], "404 Not Found"),
        group(FailureKind::WallExceeded, "web.c.gov", 1_999, [0; 6], "job asked wall 20 ms"),
        group(FailureKind::Decode, "-", 1, [0; 6], "no version"),
    ]
}

/// A bad night: a host hangs, another one rests by hand, a worker is silent, jobs die of four reasons, it is paused.
fn trouble() -> Look {
    let pause = Paused {
        name: "deploy".to_owned(),
        by: "op@bastion".to_owned(),
        reason: "bad deploy".to_owned(),
        since_ms: NOW_MS - 252_000,
        until_ms: None,
    };
    let mut status = Status {
        at_ms: NOW_MS,
        ready: 13_646,
        scheduled: 416,
        waiting_for_hosts: 343,
        in_flight: 6,
        fetching: 4,
        analysing: 2,
        dead: 7_995,
        dead_max_count: 100_000,
        dead_max_bytes: 1 << 28,
        backlog_max: 100_000,
        oldest_ready_ms: Some(192_000),
        paused: Some(pause.clone()),
        pauses: vec![pause],
        rates: Rates {
            ended_per_second: 58.31,
            admitted_per_second: 12.0,
            all_ended_in_ms: Some(241_000),
            died_last_hour: 1_990,
        },
        last_hour: [("admitted", 20_000), ("dead", 1_990), ("dead:gone", 995), ("done", 4_000)]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
        hosts: hosts(),
        workers: vec![
            worker(
                "vm:100:aaaaaaaa",
                vec![running("01a2199e-0000-7000-8000-00000000fad7", Stage::Fetch, 28)],
            ),
            worker(
                "vm:200:bbbbbbbb",
                vec![running("import-4711", Stage::Fetch, 12), running("x", Stage::Fetch, 2)],
            ),
            silent(),
        ],
        ..Status::default()
    };
    status.ceilings.host_in_flight_max = 64;
    status.memory.reports_bytes = 654_311_424;
    status.memory.jobs_bytes = 236_223_201;
    status.memory.dead_bytes = 42_949_672;
    status.memory.reports_evict = true;
    status.memory.full_in_ms = Some(2_400_000);
    status.server = Some(Server { maxmemory_bytes: 1 << 30, used_bytes: 934_155_386, ..Server::default() });
    Look {
        queue: "analysis".to_owned(),
        flags: String::new(),
        numbers: Numbers::Current(Box::new(status)),
        groups: Some(groups()),
        late: None,
        now_ms: NOW_MS + 9_000,
    }
}

/// The lines without colours; none is longer than the screen is wide.
#[track_caller]
fn screen(look: &Look, width: usize) -> String {
    let text = |line| match line {
        Line::Data(text) | Line::Talk(text) => anstream::adapter::strip_str(&text).to_string(),
    };
    let lines: Vec<String> = lines(look, width).into_iter().map(text).collect();
    for line in &lines {
        assert!(line.width() <= width, "{} columns: {line}", line.width());
    }
    lines.join("\n") + "\n"
}

#[test]
fn trouble_fits_80_columns_and_says_what_to_do() {
    assert_eq!(
        screen(&trouble(), 80),
        "\
analysis  paused  14:13:20 UTC
paused  4m 12s ago as deploy by op@bastion: bad deploy
        wm-analyzer queue resume deploy
 INBOX  READY  HOSTS  SCHEDULED  EXCLUSIVE  IN FLIGHT          DEAD  OLDEST
     0  13646    343         73          0          6  7995 (+1990)  3m 12s
pace    58.3/s ended · 12.0/s admitted · 14068 left, done in 4m 1s
1h      admitted 20000 · dead 1990 · done 4000
flight  4 fetching · 2 analysing, by the last heartbeats
memory  █████████░ 87 % of 1.0 GiB, full in 40m 0s · reports 624.0 MiB (60 %)
        jobs 225.3 MiB (21 %) · dead 41.0 MiB (3 %)
worker  vm:300:cccccccc  SILENT, heartbeat 24s ago
        import-7  in flight at vm:200:bbbbbbbb  1 ended  1 ready
worker  vm:100:aaaaaaaa  2 of 2 slots busy  1 fetching  0 analysing  running
worker  vm:200:bbbbbbbb  2 of 2 slots busy  2 fetching  0 analysing  running
  01a2199e-000…0000000fad7  fetch for 28s of 30s (93 %)  claimed 29s ago
  import-4711  fetch for 12s of 30s (40 %)  claimed 13s ago  11000000..22000000
  and 1 more: wm-analyzer job ls state:in_flight
host    web.down.gov  4 of 64 in flight, 302 wait, oldest 3m 2s
        wm-analyzer queue pause web.down.gov --for 15m
host    archive.b.gov  0 of 64 in flight, 41 wait, rests 4 min more
        paused by op@bastion: they asked us to
        wm-analyzer queue resume archive.b.gov
dead    hash_mismatch at web.b.gov  3000 (+1000 in 1h)  ▁▂█▂▁▁
        wm-analyzer dead ls kind:hash_mismatch host:web.b.gov
dead    gone at web.a.gov  2995 (+1100 in 1h)  ▁▂█▂▁▁  404 Not Found
        wm-analyzer dead ls kind:gone host:web.a.gov
dead    wall_exceeded at web.c.gov  1999 (+0 in 1h)  ▁▁▁▁▁▁
        wm-analyzer dead ls kind:wall_exceeded host:web.c.gov
        and 1 more: wm-analyzer dead groups
redis   memory is at 87 % of maxmemory, and intake has stopped: free results, or
        raise it
"
    );
}

#[test]
fn trouble_fits_120_columns_and_24_lines() {
    let text = screen(&trouble(), 120);
    assert_eq!(text, "\
analysis  paused  14:13:20 UTC
paused  4m 12s ago as deploy by op@bastion: bad deploy  wm-analyzer queue resume deploy
 INBOX  READY  HOSTS  SCHEDULED  EXCLUSIVE  IN FLIGHT          DEAD  OLDEST
     0  13646    343         73          0          6  7995 (+1990)  3m 12s
pace    58.3/s ended · 12.0/s admitted · 14068 left, done in 4m 1s
1h      admitted 20000 · dead 1990 · done 4000
flight  4 fetching · 2 analysing, by the last heartbeats
memory  █████████░ 87 % of 1.0 GiB, full in 40m 0s · reports 624.0 MiB (60 %) · jobs 225.3 MiB (21 %)
        dead 41.0 MiB (3 %)
worker  vm:300:cccccccc  SILENT, heartbeat 24s ago  import-7  in flight at vm:200:bbbbbbbb  1 ended  1 ready
worker  vm:100:aaaaaaaa  2 of 2 slots busy  1 fetching  0 analysing  running  heartbeat 1s ago
worker  vm:200:bbbbbbbb  2 of 2 slots busy  2 fetching  0 analysing  running  heartbeat 1s ago
  01a2199e-0000-7000-8000-00000000fad7  fetch for 28s of 30s (93 %)  claimed 29s ago  11000000..22000000
  import-4711  fetch for 12s of 30s (40 %)  claimed 13s ago  11000000..22000000
  and 1 more: wm-analyzer job ls state:in_flight
host    web.down.gov  4 of 64 in flight, 302 wait, oldest 3m 2s  wm-analyzer queue pause web.down.gov --for 15m
host    archive.b.gov  0 of 64 in flight, 41 wait, rests 4 min more, paused by op@bastion: they asked us to
        wm-analyzer queue resume archive.b.gov
dead    hash_mismatch at web.b.gov  3000 (+1000 in 1h)  ▁▂█▂▁▁  wm-analyzer dead ls kind:hash_mismatch host:web.b.gov
dead    gone at web.a.gov  2995 (+1100 in 1h)  ▁▂█▂▁▁  404 Not Found  wm-analyzer dead ls kind:gone host:web.a.gov
dead    wall_exceeded at web.c.gov  1999 (+0 in 1h)  ▁▁▁▁▁▁  wm-analyzer dead ls kind:wall_exceeded host:web.c.gov
        and 1 more: wm-analyzer dead groups
redis   memory is at 87 % of maxmemory, and intake has stopped: free results, or raise it
");
    assert!(text.lines().count() <= 24);
}

#[test]
fn a_glance_is_shown_with_its_age_and_without_what_it_does_not_have() {
    let look = trouble();
    let status = look.numbers.status().unwrap().clone();
    let glance = Status { workers: vec![], rates: Rates::default(), hosts: vec![], ..status };
    let late = Some(super::too_late());
    let look = Look { numbers: Numbers::Glance(Box::new(glance)), groups: None, late, ..look };
    assert_eq!(
        screen(&look, 80),
        "\
analysis  paused  14:13:20 UTC
stale   as of 14:13:20 UTC, 9s old: Redis did not answer within 1.8 s
paused  4m 12s ago as deploy by op@bastion: bad deploy
        wm-analyzer queue resume deploy
 INBOX  READY  HOSTS  SCHEDULED  EXCLUSIVE  IN FLIGHT  DEAD  OLDEST
     0  13646    343         73          0          6  7995  3m 12s
memory  █████████░ 87 % of 1.0 GiB, full in 40m 0s · reports 624.0 MiB (60 %)
        jobs 225.3 MiB (21 %) · dead 41.0 MiB (3 %)
worker  unknown, and so are rates and hosts
redis   memory is at 87 % of maxmemory, and intake has stopped: free results, or
        raise it
"
    );
    let json = look.to_json();
    assert_eq!((&json["partial"]["age_ms"], &json["stalled"]), (&9_000.into(), &serde_json::Value::Null));
    assert_eq!(json["partial"]["unknown"][6], "hosts");
}

#[test]
fn of_a_redis_that_says_nothing_it_is_said_that_nothing_is_known() {
    let late = Some(super::too_late());
    let look = Look { queue: "bulk".to_owned(), numbers: Numbers::Unknown, groups: None, late, ..trouble() };
    assert_eq!(
        screen(&look, 80),
        "\
bulk  unknown
redis   Redis did not answer within 1.8 s  wm-analyzer doctor -Q bulk
"
    );
    assert_eq!(look.to_json()["ready"], serde_json::Value::Null, "no number that is not known");
    assert_eq!(look.exit(), crate::ops::Exit::Failed);
}

#[test]
fn names_that_are_far_too_long_and_hostile_leave_the_screen_whole() {
    let mut look = trouble();
    if let Numbers::Current(status) = &mut look.numbers {
        status.hosts = (0..9)
            .map(|n| HostLoad {
                host: format!("{n}\u{1b}[2J.{}", "x".repeat(240)),
                waiting: 9,
                ..HostLoad::default()
            })
            .collect();
        status.ceilings.longest_host_waiters =
            vec![HostWaiters { host: format!("~new:{}", "w".repeat(100)), in_flight: 1, waiting: 2 }];
        status.workers = (0..99).map(|n| worker(&format!("{}:{n}:a", "pod".repeat(20)), vec![])).collect();
        let host = "y".repeat(250);
        look.groups = Some(vec![group(FailureKind::Gone, &host, 5, [0; 6], "a\nb")]);
    }
    for width in [40, 80, 120] {
        let text = screen(&look, width);
        assert!(!text.contains('\u{1b}') && text.contains("and 95 more") && text.contains("and 6 more: "));
    }
}
