//! What can happen to one call, and who is told what about it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::net::TcpListener;
use wm_analyzer::api::{Config, LoginMode};
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::{Job, VersionRef};
use wm_testbed::db_app::{DbState, FakeDb, errors};

use crate::{annotation, api, config, failed, pair, three_versions, uuid};

fn job() -> Job {
    Job::new(VersionRef::Uuid(uuid(1)), VersionRef::Uuid(uuid(2)))
}

async fn lookup_failure(config: &Config) -> Failure {
    failed(api(config).resolve(&job()).await)
}

/// What becomes of a lookup and of a post where everything is answered like this.
async fn failures_for_response(status: u16, headers: &[(&'static str, String)], body: &str) -> [Failure; 2] {
    let response_override = Some((status, headers.to_vec(), body.to_owned()));
    let fake = FakeDb::with(DbState { response_override, ..DbState::default() }).await;
    let posted = api(&config(&fake)).post_annotation(&pair(), &annotation(0.1), false).await.unwrap_err();
    [lookup_failure(&config(&fake)).await, posted]
}

#[tokio::test]
async fn every_refusal_is_judged_and_keeps_the_apps_words() {
    for (status, lookup, post) in [
        (400, FailureKind::BadReference, FailureKind::Rejected),
        (401, FailureKind::ApiRefused, FailureKind::ApiRefused),
        (403, FailureKind::ApiRefused, FailureKind::ApiRefused),
        (404, FailureKind::VersionMissing, FailureKind::VersionMissing),
        (409, FailureKind::ApiUnavailable, FailureKind::ApiUnavailable),
        (422, FailureKind::BadReference, FailureKind::Rejected),
        (423, FailureKind::ApiUnavailable, FailureKind::ApiUnavailable),
        (429, FailureKind::ApiUnavailable, FailureKind::ApiUnavailable),
        (500, FailureKind::ApiUnavailable, FailureKind::ApiUnavailable),
        (503, FailureKind::ApiUnavailable, FailureKind::ApiUnavailable),
    ] {
        let answer = errors(status, "in its own words").to_string();
        let failures = failures_for_response(status, &[], &answer).await;
        assert_eq!([failures[0].kind, failures[1].kind], [lookup, post], "{status}");
        for failure in failures {
            assert!(failure.detail.contains("in its own words"), "{failure}");
            assert_eq!(failure.host.as_deref(), Some("127.0.0.1"));
        }
    }
}

#[tokio::test]
async fn whoever_is_not_the_app_blames_no_job() {
    for (status, body) in
        [200, 400, 404, 410, 418, 422].map(|n| [(n, "<html>nginx</html>"), (n, "{}")]).concat()
    {
        let failures = failures_for_response(status, &[], body).await;
        assert!(
            failures.iter().all(|f| f.kind == FailureKind::ApiUnavailable),
            "{status} {body}: {failures:?}"
        );
        assert!(failures.iter().all(|f| f.detail.contains("api.url")), "{status} {body}: {failures:?}");
    }
}

#[tokio::test]
async fn an_app_that_asks_for_time_is_heard_within_bounds() {
    for (asked, heard) in [("7", Some(7)), ("999999", Some(3_600)), ("soon", None)] {
        for failure in failures_for_response(429, &[("retry-after", asked.to_owned())], "").await {
            assert_eq!(failure.retry_after, heard.map(Duration::from_secs), "{asked}");
        }
    }
    let refused =
        failures_for_response(422, &[("retry-after", "7".to_owned())], &errors(422, "no").to_string()).await;
    assert!(refused.iter().all(|failure| failure.retry_after.is_none()));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_credentials_along() {
    let elsewhere = three_versions().await;
    let location = format!("http://{}/api/v0/versions/1", elsewhere.address());
    for failure in failures_for_response(302, &[("location", location.clone())], "").await {
        assert_eq!(failure.kind, FailureKind::ApiUnavailable);
        assert!(failure.detail.contains(&location) && failure.detail.contains("api.url"), "{failure}");
    }
    assert_eq!(elsewhere.calls(), 0);
}

#[tokio::test]
async fn credentials_are_sent_as_basic_or_bearer_or_not_at_all() {
    let (email, login) = ("a@db.test".to_owned(), LoginMode::Basic);
    let basic =
        |config: Config| Config { email: email.clone(), password: "pass word".into(), login, ..config };
    let bearer = |config: Config| Config { token: "tok.en".into(), ..config };
    for (sign, expected) in [
        (&basic as &dyn Fn(Config) -> Config, Some("Basic YUBkYi50ZXN0OnBhc3Mgd29yZA==")),
        (&bearer, Some("Bearer tok.en")),
        (&|config| config, None),
    ] {
        let fake = three_versions().await;
        fake.with_state(|db| db.authorization = expected.map(ToOwned::to_owned));
        let api = api(&sign(config(&fake)));
        api.resolve(&job()).await.unwrap();
        api.post_annotation(&pair(), &annotation(0.1), false).await.unwrap();
        let sent = fake.with_state(|db| db.authorizations.clone());
        assert_eq!(sent, vec![expected.map(ToOwned::to_owned); 3]);
        fake.with_state(|db| db.authorization = Some("Bearer another".to_owned()));
        let refused = api.post_annotation(&pair(), &annotation(0.1), false).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::ApiRefused, "{refused}");
    }
}

#[tokio::test]
async fn no_failure_repeats_a_secret_even_if_the_app_does() {
    let said = "your Basic YUBkYi50ZXN0OnBhc3Mgd29yZA== means pass word and tok.en";
    let response_override = Some((401, vec![("location", said.to_owned())], errors(401, said).to_string()));
    let fake = FakeDb::with(DbState { response_override, ..DbState::default() }).await;
    let basic = Config { email: "a@db.test".to_owned(), password: "pass word".into(), ..config(&fake) };
    let bearer = Config { token: "tok.en".into(), ..config(&fake) };
    for (config, secrets) in [(basic, &["YUBkYi50ZXN0", "pass word"][..]), (bearer, &["tok.en"])] {
        let failure = lookup_failure(&config).await;
        let shown =
            format!("{failure} {failure:?} {} {:?}", serde_json::to_string(&failure).unwrap(), api(&config));
        assert!(failure.detail.contains("means ***") || failure.detail.contains("and ***"), "{failure}");
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
    }
}

#[tokio::test]
async fn an_app_that_is_not_there_or_does_not_finish_is_unavailable() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let fake = three_versions().await;
    let nobody = Config { url: Some(format!("http://{closed}").parse().unwrap()), ..config(&fake) };
    assert_eq!(lookup_failure(&nobody).await.kind, FailureKind::ApiUnavailable);

    fake.with_state(|db| db.delay = Duration::from_secs(60));
    let begun = Instant::now();
    let hurried = Config { timeout: Duration::from_millis(100), ..config(&fake) };
    let failure = lookup_failure(&hurried).await;
    assert_eq!(failure.kind, FailureKind::ApiUnavailable);
    assert!(failure.detail.contains("100ms"), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_answer_beyond_the_cap_is_not_read() {
    let fake = three_versions().await;
    let small = Config { max_response: bytesize::ByteSize::b(600), ..config(&fake) };
    let failure = lookup_failure(&small).await;
    assert_eq!(failure.kind, FailureKind::ApiUnavailable);
    assert!(failure.detail.contains("600 bytes"), "{failure}");
}

#[tokio::test]
async fn the_app_never_sees_more_calls_at_once_than_allowed() {
    let versions = (0..30).map(|n| crate::version(uuid(n), crate::PAGE)).collect();
    let fake =
        FakeDb::with(DbState { versions, delay: Duration::from_millis(5), ..DbState::default() }).await;
    let api = api(&Config { max_concurrent: 3, ..config(&fake) });
    let jobs: Vec<Job> =
        (0..15).map(|n| Job::new(VersionRef::Uuid(uuid(n)), VersionRef::Uuid(uuid(n + 15)))).collect();
    for ended in join_all(jobs.iter().map(|job| api.resolve(job))).await {
        ended.unwrap();
    }
    assert_eq!(fake.with_state(|db| db.concurrent_requests), (0, 3));
    assert_eq!(fake.calls(), 30);
}
