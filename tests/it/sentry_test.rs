//! `sentry test`: whether alerts would arrive, before one must.

use wm_testbed::fake_sentry::ResponseMode;

use crate::harness::World;

#[tokio::test]
async fn an_event_that_sentry_takes_is_named_by_its_id() {
    let world = World::new().await.with("sentry.environment", "staging");
    let told = world.run(&["sentry", "test", "-o", "json"]).await.exited_with(0).json();
    let event = world.sentry.events().remove(0);
    assert_eq!(told["event_id"], event["event_id"], "{event}");
    assert_eq!((&told["accepted"], &event["environment"]), (&true.into(), &"staging".into()), "{event}");
    assert_eq!(world.sentry.fingerprints(), [["test"]]);
    assert_eq!(event["level"], "info", "{event}");
    let text = world.run(&["sentry", "test"]).await.exited_with(0).stdout;
    let id = world.sentry.events()[1]["event_id"].as_str().unwrap().to_owned();
    assert!(text.contains("accepted") && text.contains(&id), "{text}");
    assert_eq!(world.sentry.violations(), [""; 0]);
}

#[tokio::test]
async fn what_sentry_refuses_is_told_without_its_key() {
    let world = World::new().await;
    for (mode, why) in [
        (ResponseMode::Status(403), "Sentry answered 403 Forbidden"),
        (ResponseMode::RateLimit(60), "Sentry answered 429 Too Many Requests"),
        (ResponseMode::Status(302), "Sentry answered 302 Found"),
        // Within the time limit of an alert.
        (ResponseMode::Hang, "timed out"),
    ] {
        world.sentry.set(mode);
        let refused = world.run(&["sentry", "test"]).await.exited_with(1).stderr_contains(&[why]);
        assert!(!format!("{refused:?}").contains("hunter2"), "{refused:?}");
    }
    let json = world.run(&["sentry", "test", "-o", "json"]).await.exited_with(1).json();
    assert_eq!(json["accepted"], false, "{json}");
}

#[tokio::test]
async fn without_a_dsn_the_key_to_set_is_named() {
    let world = World::new().await.with("sentry.dsn", "");
    let unset = world.run(&["sentry", "test"]).await.exited_with(78);
    unset.stderr_contains(&["sentry.dsn is not set", "SENTRY_DSN"]);
    assert_eq!(world.sentry.requests(), 0);
}
