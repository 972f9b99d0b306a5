//! What a Sentry sees of the alerts, in the bytes that arrive there: what is told, how often, and what never.
//!
//! Method: a fake sentry on loopback that takes, hangs, limits or refuses; short windows, no sleeps.

use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;
use wm_analyzer::job::failure::{FailureKind, Stage};
use wm_analyzer::telemetry::sentry::{AlertCounts, Alerts, AlertsGuard, Config, DeadLetterAlert, OutageKind};
use wm_testbed::fake_sentry::{FakeSentry, ResponseMode};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(150);
/// Long enough for a busy machine where Sentry answers.
const LONG_SHUTDOWN: Duration = Duration::from_secs(10);
/// Where it does not.
const SHUTDOWN: Duration = Duration::from_millis(500);

fn started(dsn: &str, window: Duration) -> (Alerts, AlertsGuard) {
    started_with(dsn, window, LONG_SHUTDOWN)
}

fn started_with(dsn: &str, window: Duration, shutdown: Duration) -> (Alerts, AlertsGuard) {
    let config = Config {
        dsn: Some(dsn.parse().expect("a good DSN")),
        environment: "test".to_owned(),
        window,
        shutdown,
    };
    Alerts::start(&config, "wm-analyzer@1.2.3+abc").expect("a good DSN")
}

fn letter(kind: FailureKind, n: u32) -> DeadLetterAlert {
    DeadLetterAlert {
        queue: "analysis".to_owned(),
        job_id: format!("j-{n}"),
        from: Some(Uuid::from_u128(1)),
        to: Some(Uuid::from_u128(2)),
        host: Some("www.example.test".to_owned()),
        kind,
        stage: kind.stage(),
        detail: format!("letter {n}"),
        limit: Some("wall 10s".to_owned()),
        command: format!("wm-analyzer dead show j-{n}"),
        replayed: false,
        traceparent: None,
    }
}

fn counts_of(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["extra"]["count"].as_u64().expect("a count")).collect()
}

fn text(event: &Value) -> &str {
    event["message"].as_str().expect("a text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dead_letter_is_one_event_that_says_what_its_reader_needs() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    alerts.dead_letter(&letter(FailureKind::WallExceeded, 7));
    sentry.wait_until("it is told", |i| i.events().len() == 1).await;
    assert_eq!(guard.close(), AlertCounts { sent: 1, ..AlertCounts::default() });

    assert_eq!(sentry.violations(), Vec::<String>::new());
    assert_eq!(sentry.items().len(), 1, "nothing but the event: {:?}", sentry.items());
    let event = &sentry.events()[0];
    assert_eq!(event["fingerprint"], serde_json::json!(["dead-letter", "wall_exceeded", "analyse"]));
    let want = serde_json::json!({"queue":"analysis", "kind":"wall_exceeded", "stage":"analyse",
        "replayed":"false", "host":"www.example.test"});
    assert_eq!(event["tags"], want);
    assert_eq!((&event["release"], &event["environment"]), (&"wm-analyzer@1.2.3+abc".into(), &"test".into()));
    let whole = "dead letter: wall_exceeded in analyse at www.example.test\n\
        from 00000000-0000-0000-0000-000000000001 to 00000000-0000-0000-0000-000000000002\n\
        letter 7\n\
        limit hit: wall 10s\n\
        show it: wm-analyzer dead show j-7";
    assert_eq!(text(event), whole);
    assert_eq!(event["contexts"]["job"]["id"], "j-7");
    for absent in ["user", "request", "breadcrumbs", "exception", "threads", "level"] {
        assert_eq!(event[absent], Value::Null, "{absent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hostile_text_and_secrets_do_not_leave_the_house() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    let mut bad = letter(FailureKind::Connect, 1);
    bad.detail =
        format!("http://u:s3cr3t@a.test/?token=s3cr3t {}\n\u{1b}[2J password=s3cr3t", "x".repeat(100_000));
    bad.host = Some("a\n\u{202e}.test".repeat(100));
    bad.limit = Some("redis://:s3cr3t@h/0".to_owned());
    bad.command = "wm-analyzer dead show token:1".to_owned();
    (bad.from, bad.to) = (None, None);
    alerts.dead_letter(&bad);
    alerts.report_outage(OutageKind::Redis, "redis://:s3cr3t@cache:6379/0: refused\u{7}");
    sentry.wait_until("both are told", |i| i.events().len() == 2).await;
    drop(guard);

    assert_eq!(sentry.violations(), Vec::<String>::new());
    let raw = sentry.raw();
    assert!(!raw.contains("s3cr3t"), "{raw}");
    assert!(!raw.contains("\\u001b") && !raw.contains('\u{202e}') && !raw.contains("\\u0007"), "{raw}");
    assert!(raw.contains("redis://***@cache:6379/0: refused"), "{raw}");
    assert!(raw.contains("from unknown to unknown") && raw.contains("dead show token:1"), "{raw}");
    for event in sentry.events() {
        assert!(text(&event).len() < 8192);
        let tags = event["tags"].as_object().unwrap();
        assert!(tags.values().all(|tag| tag.as_str().unwrap().len() <= 200), "{tags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_is_one_event_per_window_and_no_count_is_lost() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    let began = Instant::now();
    alerts.dead_letter(&letter(FailureKind::MemoryExceeded, 0));
    sentry.wait_until("the first is told", |i| i.events().len() == 1).await;
    for n in 1..5000 {
        alerts.dead_letter(&letter(FailureKind::MemoryExceeded, n));
    }
    let windows = began.elapsed().as_millis() / SHORT.as_millis() + 1;
    sentry.wait_until("all are told", |i| counts_of(&i.events()).iter().sum::<u64>() == 5000).await;
    assert!(began.elapsed() >= SHORT, "the second event did not wait for its window");
    let events = sentry.events();
    assert!((2..=windows + 1).contains(&(events.len() as u128)), "{} events", events.len());
    let last = text(events.last().unwrap());
    let told = format!("stands for {} dead letters", counts_of(&events).last().unwrap());
    assert!(last.contains(&told) && last.contains("letter 4999"), "{last}");
    let counts = guard.close();
    assert_eq!((counts.sent, counts.suppressed), (events.len() as u64, 4999));
    assert_eq!((counts.failed, counts.pending), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_kind_does_not_wait_for_the_window_of_this_one() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    for kind in [FailureKind::WallExceeded, FailureKind::MemoryExceeded, FailureKind::Gone] {
        alerts.dead_letter(&letter(kind, 1));
    }
    // The same kind at another stage is another fingerprint.
    alerts.dead_letter(&DeadLetterAlert { stage: Stage::Deliver, ..letter(FailureKind::Gone, 2) });
    sentry.wait_until("four are told", |i| i.events().len() == 4).await;
    drop(guard);
    assert_eq!(sentry.requests(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_end_of_the_process_tells_what_still_waits() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    alerts.dead_letter(&letter(FailureKind::Gone, 0));
    sentry.wait_until("the first is told", |i| i.events().len() == 1).await;
    for n in 1..500 {
        alerts.dead_letter(&letter(FailureKind::Gone, n));
        alerts.report_outage(OutageKind::Api, "503");
    }
    let counts = guard.close();
    assert_eq!((counts.pending, counts.failed), (0, 0));
    let events = sentry.events();
    let of = |what: &str| -> Vec<u64> {
        let those: Vec<_> = events.iter().filter(|e| e["fingerprint"][0] == what).cloned().collect();
        counts_of(&those)
    };
    assert_eq!(of("dead-letter"), [1, 499]);
    assert_eq!(of("outage").iter().sum::<u64>(), 499);
    assert!(of("outage").len() <= 2, "{:?}", of("outage"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sentry_that_hangs_holds_up_neither_jobs_nor_the_end() {
    let sentry = FakeSentry::start(ResponseMode::Hang).await.unwrap();
    let (alerts, guard) = started_with(&sentry.dsn(), SHORT, SHUTDOWN);
    alerts.dead_letter(&letter(FailureKind::Gone, 0));
    sentry.wait_until("it hangs", |i| i.requests() == 1).await;
    let began = Instant::now();
    for n in 1..1000 {
        alerts.dead_letter(&letter(FailureKind::Gone, n));
    }
    assert!(began.elapsed() < SHUTDOWN, "noting took {:?}", began.elapsed());
    let began = Instant::now();
    let counts = guard.close();
    let took = began.elapsed();
    assert!((SHUTDOWN..SHUTDOWN * 3).contains(&took), "the end took {took:?}");
    assert_eq!((counts.sent, counts.pending), (0, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sentry_that_refuses_or_is_away_is_told_everything_when_it_is_back() {
    for mode in [ResponseMode::Status(503), ResponseMode::Status(403)] {
        let sentry = FakeSentry::start(mode).await.unwrap();
        let (alerts, guard) = started(&sentry.dsn(), SHORT);
        for n in 0..10 {
            alerts.dead_letter(&letter(FailureKind::Gone, n));
        }
        sentry.wait_until("it was refused", |_| alerts.counts().failed >= 1).await;
        assert_eq!((alerts.counts().sent, alerts.counts().pending), (0, 10));
        sentry.set(ResponseMode::Accept);
        sentry.wait_until("all are told", |i| counts_of(&i.events()).iter().sum::<u64>() == 10).await;
        assert_eq!(guard.close().pending, 0);
    }

    let closed = FakeSentry::start(ResponseMode::Accept).await.unwrap().dsn();
    let (alerts, guard) = started(&closed, LONG);
    alerts.dead_letter(&letter(FailureKind::Gone, 0));
    assert_eq!(guard.close().pending, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rate_limit_is_kept_and_its_counts_are_told_after_it() {
    let sentry = FakeSentry::start(ResponseMode::RateLimit(1)).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    alerts.dead_letter(&letter(FailureKind::Gone, 0));
    sentry.wait_until("it is limited", |_| alerts.counts().failed == 1).await;
    let began = Instant::now();
    sentry.set(ResponseMode::Accept);
    for n in 1..10 {
        alerts.dead_letter(&letter(FailureKind::Gone, n));
        alerts.dead_letter(&letter(FailureKind::Refused, n));
    }
    sentry.wait_until("all are told", |i| counts_of(&i.events()).iter().sum::<u64>() == 19).await;
    // The answer was booked a moment before this clock began.
    assert!(began.elapsed() >= Duration::from_millis(900), "told after {:?} of silence", began.elapsed());
    assert_eq!(sentry.requests(), 3, "one refused, then one of each");
    drop(guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_outage_is_one_event_per_window_and_one_word_when_it_is_over() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    alerts.resolve_outage(OutageKind::Redis);
    alerts.report_outage(OutageKind::Redis, "refused");
    sentry.wait_until("it is told", |i| i.events().len() == 1).await;
    for _ in 0..50 {
        alerts.report_outage(OutageKind::Redis, "refused again");
    }
    alerts.resolve_outage(OutageKind::Redis);
    sentry.wait_until("its end is told", |i| i.events().len() >= 2).await;
    alerts.resolve_outage(OutageKind::Redis);
    assert_eq!(guard.close().pending, 0);
    let events = sentry.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(counts_of(&events), [1, 50]);
    assert!(events.iter().all(|e| e["fingerprint"] == serde_json::json!(["outage", "redis"])));
    assert!(text(&events[0]).starts_with("outage: Redis is down for 0 s\nrefused\n"), "{}", text(&events[0]));
    assert!(text(&events[1]).starts_with("resolved: Redis answers again after 0 s\nrefused again\n"));
    assert_eq!((&events[0]["level"], &events[1]["level"]), (&Value::Null, &"info".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_ingest_without_tls_behind_an_https_dsn_is_a_failure_and_no_panic() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn().replace("http:", "https:"), LONG);
    alerts.dead_letter(&letter(FailureKind::Gone, 0));
    sentry.wait_until("it failed", |_| alerts.counts().failed == 1).await;
    drop(guard);
    assert_eq!(sentry.requests(), 0);
}
