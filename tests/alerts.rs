//! What a Sentry sees of the alerts, in the bytes that arrive there: what is told, how often, and what never.
//!
//! Method: a fake sentry on loopback that takes, hangs, limits or refuses; short windows, no sleeps.

use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;
use wm_analyzer::telemetry::sentry::{
    Alert, AlertCounts, AlertSource, Alerts, AlertsGuard, Config, Delivery, Monitor, OutageKind, Severity,
};
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
        check_ins: true,
    };
    let source =
        AlertSource { queue: "bulk".to_owned(), look_closer: "wm-analyzer doctor -Q bulk".to_owned() };
    Alerts::start(&config, "wm-analyzer@1.2.3+abc", source).expect("a good DSN")
}

fn alert(title: &str) -> Alert {
    Alert {
        id: Uuid::new_v4(),
        severity: Severity::Error,
        fingerprint: vec!["dead-letter".to_owned(), "gone".to_owned(), "fetch".to_owned()],
        lines: vec![title.to_owned(), "404".to_owned()],
        commands: vec![("show it", "wm-analyzer dead show j-7".to_owned())],
        tags: vec![("queue", "analysis".to_owned()), ("host", "www.example.test".to_owned())],
        job: vec![("id", "j-7".to_owned())],
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        count: 12,
    }
}

const FAILED: Delivery = Delivery::Failed { retry_after: Duration::ZERO };

fn counts_of(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["extra"]["count"].as_u64().expect("a count")).collect()
}

fn text(event: &Value) -> &str {
    event["message"].as_str().expect("a text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_alert_is_one_event_and_whoever_sent_it_hears_that_it_arrived() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    let sent = alert("12 dead letters");
    assert_eq!(alerts.deliver(sent.clone()).await, Delivery::Accepted);
    assert_eq!(guard.close(), AlertCounts { sent: 1, suppressed: 11, ..AlertCounts::default() });

    assert_eq!(sentry.violations(), Vec::<String>::new());
    assert_eq!(sentry.items().len(), 1, "nothing but the event: {:?}", sentry.items());
    let event = &sentry.events()[0];
    assert_eq!(
        event["event_id"],
        sent.id.simple().to_string(),
        "so that it is one event when it is sent again"
    );
    assert_eq!(event["fingerprint"], serde_json::json!(["dead-letter", "gone", "fetch"]));
    assert_eq!(event["tags"], serde_json::json!({"queue": "analysis", "host": "www.example.test"}));
    assert_eq!((&event["release"], &event["environment"]), (&"wm-analyzer@1.2.3+abc".into(), &"test".into()));
    assert_eq!(text(event), "12 dead letters\n404\nshow it: wm-analyzer dead show j-7");
    assert_eq!(event["contexts"]["job"]["id"], "j-7");
    assert_eq!(event["contexts"]["trace"]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(counts_of(&sentry.events()), [12]);
    for absent in ["user", "request", "breadcrumbs", "exception", "threads", "level"] {
        assert_eq!(event[absent], Value::Null, "{absent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hostile_text_and_secrets_do_not_leave_the_house() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    let mut bad = alert("dead letter");
    let hostile =
        format!("http://u:s3cr3t@a.test/?token=s3cr3t {}\n\u{1b}[2J password=s3cr3t", "x".repeat(100_000));
    bad.lines.extend(vec![hostile; 8]);
    bad.tags = vec![("host", "a\n\u{202e}.test".repeat(100)), ("kind", "redis://:s3cr3t@h/0".to_owned())];
    bad.job = vec![("limit", "redis://:s3cr3t@h/0".to_owned())];
    bad.commands = vec![("show it", "wm-analyzer dead show token:1".to_owned())];
    bad.traceparent = Some("s3cr3t".to_owned());
    assert_eq!(alerts.deliver(bad).await, Delivery::Accepted);
    alerts.report_outage(OutageKind::Redis, "redis://:s3cr3t@cache:6379/0: refused\u{7}");
    sentry.wait_until("both are told", |i| i.events().len() == 2).await;
    drop(guard);

    assert_eq!(sentry.violations(), Vec::<String>::new());
    let raw = sentry.raw();
    assert!(!raw.contains("s3cr3t"), "{raw}");
    assert!(!raw.contains("\\u001b") && !raw.contains('\u{202e}') && !raw.contains("\\u0007"), "{raw}");
    assert!(raw.contains("redis://***@cache:6379/0: refused"), "{raw}");
    assert!(raw.contains("dead show token:1"), "the command is whole: {raw}");
    for event in sentry.events() {
        assert!(text(&event).len() < 8192);
        let tags = event["tags"].as_object().unwrap();
        assert!(tags.values().all(|tag| tag.as_str().unwrap().len() <= 200), "{tags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_of_failures_is_one_event_and_no_count_is_lost() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    let began = Instant::now();
    alerts.report_outage(OutageKind::Redis, "failure 0");
    sentry.wait_until("the first is told", |i| i.events().len() == 1).await;
    for n in 1..5000 {
        alerts.report_outage(OutageKind::Redis, &format!("failure {n}"));
    }
    alerts.resolve_outage(OutageKind::Redis);
    sentry.wait_until("all are told", |i| counts_of(&i.events()).iter().sum::<u64>() == 5000).await;
    assert!(began.elapsed() >= SHORT, "the second event did not wait for its window");
    let events = sentry.events();
    let last = text(events.last().unwrap());
    assert!(last.contains("stands for 4999 failures") && last.contains("failure 4999"), "{last}");
    let counts = guard.close();
    assert_eq!((events.len(), counts.sent, counts.suppressed), (2, 2, 4998));
    assert_eq!((counts.failed, counts.pending), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_kind_does_not_wait_for_the_window_of_this_one() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    for kind in [OutageKind::Api, OutageKind::Spawn, OutageKind::Task] {
        alerts.report_outage(kind, "down");
    }
    sentry.wait_until("three are told", |i| i.events().len() == 3).await;
    drop(guard);
    assert_eq!(sentry.requests(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_end_of_the_process_tells_what_still_waits() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    alerts.report_outage(OutageKind::Api, "503");
    sentry.wait_until("the first is told", |i| i.events().len() == 1).await;
    for _ in 1..500 {
        alerts.report_outage(OutageKind::Api, "503");
        alerts.report_outage(OutageKind::Redis, "refused");
    }
    alerts.resolve_outage(OutageKind::Redis);
    let counts = guard.close();
    assert_eq!((counts.pending, counts.failed), (0, 0));
    let events = sentry.events();
    let of = |what: &str| -> u64 {
        let those: Vec<_> = events.iter().filter(|e| e["fingerprint"][1] == what).cloned().collect();
        counts_of(&those).iter().sum()
    };
    assert_eq!((of("api"), of("redis")), (500, 499));
    let last = events.iter().rfind(|event| event["fingerprint"][1] == "redis").unwrap();
    assert!(text(last).starts_with("resolved: Redis answers again"), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sentry_that_hangs_holds_up_neither_jobs_nor_the_end() {
    let sentry = FakeSentry::start(ResponseMode::Hang).await.unwrap();
    let (alerts, guard) = started_with(&sentry.dsn(), SHORT, SHUTDOWN);
    let delivery = tokio::spawn({
        let alerts = alerts.clone();
        async move { alerts.deliver(alert("it hangs")).await }
    });
    sentry.wait_until("it hangs", |i| i.requests() == 1).await;
    let began = Instant::now();
    for _ in 0..1000 {
        alerts.report_outage(OutageKind::Api, "503");
    }
    assert!(began.elapsed() < SHUTDOWN, "noting took {:?}", began.elapsed());
    let began = Instant::now();
    let counts = guard.close();
    let took = began.elapsed();
    assert!((SHUTDOWN..SHUTDOWN * 3).contains(&took), "the end took {took:?}");
    assert_eq!((counts.sent, counts.pending), (0, 1000));
    drop(delivery);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sentry_that_refuses_or_is_away_is_told_everything_when_it_is_back() {
    const REFUSED: Delivery = Delivery::Refused { status: 403 };
    for (mode, ended) in [(ResponseMode::Status(503), FAILED), (ResponseMode::Status(403), REFUSED)] {
        let sentry = FakeSentry::start(mode).await.unwrap();
        let (alerts, guard) = started(&sentry.dsn(), SHORT);
        for _ in 0..10 {
            alerts.report_outage(OutageKind::Api, "503");
        }
        assert_eq!(alerts.deliver(alert("refused")).await, ended);
        sentry.wait_until("it was refused", |_| alerts.counts().failed >= 2).await;
        assert_eq!((alerts.counts().sent, alerts.counts().pending), (0, 10));
        sentry.set(ResponseMode::Accept);
        sentry.wait_until("all are told", |i| counts_of(&i.events()).iter().sum::<u64>() == 10).await;
        assert_eq!(guard.close().pending, 0);
    }

    let closed = FakeSentry::start(ResponseMode::Accept).await.unwrap().dsn();
    let (alerts, guard) = started(&closed, LONG);
    alerts.report_outage(OutageKind::Api, "503");
    assert_eq!(alerts.deliver(alert("nobody is there")).await, FAILED);
    assert_eq!(guard.close().pending, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rate_limit_is_kept_and_its_counts_are_told_after_it() {
    let sentry = FakeSentry::start(ResponseMode::RateLimit(1)).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    alerts.report_outage(OutageKind::Api, "503");
    sentry.wait_until("it is limited", |_| alerts.counts().failed == 1).await;
    let began = Instant::now();
    let limited = alerts.deliver(alert("too soon")).await;
    assert!(matches!(limited, Delivery::Failed { retry_after } if !retry_after.is_zero()), "{limited:?}");
    sentry.set(ResponseMode::Accept);
    for _ in 1..10 {
        alerts.report_outage(OutageKind::Api, "503");
        alerts.report_outage(OutageKind::Spawn, "no memory");
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
    alerts.report_outage(OutageKind::Api, "503");
    sentry.wait_until("it failed", |_| alerts.counts().failed == 1).await;
    drop(guard);
    assert_eq!(sentry.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_check_in_makes_its_monitor_and_neither_waits_nor_holds_up_an_event() {
    let sentry = FakeSentry::start(ResponseMode::RateLimit(3600)).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), LONG);
    alerts.check_in(Monitor::Progress, "bulk");
    sentry.wait_until("it is limited", |i| i.requests() == 1).await;
    sentry.set(ResponseMode::Accept);
    alerts.check_in(Monitor::Upkeep, "analysis");
    sentry.wait_until("the next one is taken", |i| i.items().len() == 1).await;
    assert_eq!(
        alerts.deliver(alert("dead letter")).await,
        Delivery::Accepted,
        "a limit on check-ins is its own"
    );
    assert_eq!(guard.close(), AlertCounts { sent: 1, suppressed: 11, ..AlertCounts::default() });
    assert_eq!(sentry.violations(), Vec::<String>::new());
    let item = &sentry.items()[0];
    assert_eq!(item.kind, "check_in");
    assert_eq!(item.payload["monitor_slug"], "wm-upkeep-analysis");
    assert_eq!((&item.payload["status"], &item.payload["environment"]), (&"ok".into(), &"test".into()));
    let want = serde_json::json!({"schedule": {"type": "interval", "value": 1, "unit": "minute"},
        "checkin_margin": 2, "max_runtime": 1, "failure_issue_threshold": 1, "recovery_threshold": 1});
    assert_eq!(item.payload["monitor_config"], want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_process_reports_by_itself_names_its_queue_in_tag_and_command() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    alerts.report_outage(OutageKind::Redis, "connection refused");
    sentry.wait_until("it is told", |sentry| sentry.alerts() == 1).await;
    let event = sentry.events().remove(0);
    assert_eq!(event["tags"]["queue"], "bulk", "{event}");
    assert!(text(&event).contains("look closer: wm-analyzer doctor -Q bulk"), "{event}");
    drop(guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_outage_whose_detail_is_refused_is_told_without_it_and_one_that_is_always_refused_is_given_up() {
    let sentry = FakeSentry::start(ResponseMode::Refuse("<script>", 400)).await.unwrap();
    let (alerts, guard) = started(&sentry.dsn(), SHORT);
    alerts.report_outage(OutageKind::Api, "503 <script>");
    sentry.wait_until("it is told", |sentry| sentry.alerts() == 1).await;
    assert_eq!((alerts.counts().failed, alerts.counts().given_up), (3, 0));
    sentry.set(ResponseMode::Status(413));
    alerts.report_outage(OutageKind::Spawn, "no memory");
    sentry.wait_until("it is given up", |_| alerts.counts().given_up == 1).await;
    assert_eq!((alerts.counts().failed, alerts.counts().pending, alerts.counts().rejected), (9, 0, false));
    sentry.set(ResponseMode::Status(401));
    alerts.report_outage(OutageKind::Redis, "away");
    sentry.wait_until("all are rejected", |_| alerts.counts().rejected).await;
    assert_eq!((alerts.counts().pending, alerts.counts().given_up), (1, 1), "it is kept");
    sentry.set(ResponseMode::Accept);
    sentry.wait_until("it is told", |sentry| sentry.alerts() == 2).await;
    assert!(!alerts.counts().rejected);
    drop(guard);
}
