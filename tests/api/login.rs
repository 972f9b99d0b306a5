//! A token for an email and a password: one for all calls, replaced in time, and never asked for in a loop.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use wm_analyzer::api::{Config, LoginMode};
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, VersionRef};
use wm_testbed::db_app::{DbState, FakeDb, SignIn, version};

use crate::{PAGE, annotation, api, config, failed, pair, uuid};

/// `a@db.test:pass word`
const BASIC: &str = "Basic YUBkYi50ZXN0OnBhc3Mgd29yZA==";
/// Versions that the app knows, each after the one before it.
const VERSIONS: u128 = 40;

/// An app that wants somebody to be logged in, and the configuration of who may.
async fn private_app(state: DbState) -> (FakeDb, Config) {
    let versions = (1..=VERSIONS).map(|n| version(uuid(n), PAGE)).collect();
    let fake = FakeDb::with(DbState { versions, authorization: Some(BASIC.to_owned()), ..state }).await;
    let config = Config { email: "a@db.test".to_owned(), password: "pass word".into(), ..config(&fake) };
    (fake, config)
}

fn job(n: u128) -> Job {
    Job::new(VersionRef::Uuid(uuid(n)), VersionRef::Uuid(uuid(n + 1)))
}

/// Paths and `Authorization` of what the app was asked, without those of logins.
fn calls(fake: &FakeDb) -> Vec<(String, String)> {
    fake.with_state(|db| {
        let calls = db.requests.iter().zip(&db.authorizations);
        let calls = calls.filter(|(line, _)| !line.contains("sign_in"));
        calls.map(|(line, sent)| (line.clone(), sent.clone().unwrap_or_default())).collect()
    })
}

#[tokio::test]
async fn one_login_serves_all_the_calls_of_a_process() {
    let (fake, config) =
        private_app(DbState { delay: Duration::from_millis(20), ..DbState::default() }).await;
    let api = api(&config);
    for ended in join_all((1..VERSIONS).map(|n| {
        let (api, job) = (&api, job(n));
        async move { api.resolve(&job).await }
    }))
    .await
    {
        ended.unwrap();
    }
    api.post_annotation(&pair(), &annotation(0.1), false).await.unwrap();
    assert_eq!(fake.logins(), 1);
    let token = fake.with_state(|db| db.tokens.keys().next().unwrap().clone());
    let sent = calls(&fake);
    assert!(sent.iter().all(|(_, sent)| *sent == format!("Bearer {token}")), "{sent:?}");
    assert!(sent.len() > VERSIONS as usize);
}

#[tokio::test]
async fn an_older_app_gives_tokens_elsewhere_and_one_that_gives_none_is_called_with_the_password() {
    for (sign_in, login, logins, scheme) in [
        (SignIn::Both, LoginMode::Token, 1, "Bearer "),
        (SignIn::RootOnly, LoginMode::Token, 2, "Bearer "),
        (SignIn::Nowhere, LoginMode::Token, 2, BASIC),
        (SignIn::Both, LoginMode::Basic, 0, BASIC),
    ] {
        let (fake, config) = private_app(DbState { sign_in, ..DbState::default() }).await;
        let api = api(&Config { login, ..config });
        for n in [1, 3] {
            api.resolve(&job(n)).await.unwrap();
        }
        assert_eq!(fake.logins(), logins, "{sign_in:?}");
        let sent = calls(&fake);
        assert!(sent.iter().all(|(_, sent)| sent.starts_with(scheme)), "{sign_in:?}: {sent:?}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let token_lifetime = Duration::from_secs(1);
    let (fake, config) = private_app(DbState { token_lifetime, ..DbState::default() }).await;
    let (api, begun) = (api(&config), Instant::now());
    api.resolve(&job(1)).await.unwrap();
    api.resolve(&job(3)).await.unwrap();
    assert_eq!(fake.logins(), 1);
    tokio::time::sleep_until((begun + token_lifetime).into()).await;
    api.resolve(&job(5)).await.unwrap();
    assert_eq!((fake.logins(), calls(&fake).len()), (2, 6), "none was refused");
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_what_is_refused_again_is_refused() {
    let (fake, config) = private_app(DbState { opaque_tokens: true, ..DbState::default() }).await;
    let api = api(&config);
    api.post_annotation(&pair(), &annotation(0.1), false).await.unwrap();
    fake.with_state(|db| db.tokens.clear());
    api.post_annotation(&pair(), &annotation(0.2), false).await.unwrap();
    assert_eq!((fake.logins(), calls(&fake).len()), (2, 3), "refused, and made again");
    // A refusal that no login changes costs two calls.
    fake.with_state(|db| db.may_not_annotate = true);
    for n in 1..=3 {
        let refused = api.post_annotation(&pair(), &annotation(0.3), false).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::ApiRefused);
        assert!(refused.detail.contains("not authorized to perform this action"), "{refused}");
        assert_eq!((fake.logins(), calls(&fake).len()), (2 + n, 3 + 2 * n));
    }
}

#[tokio::test]
async fn a_refused_login_is_one_clear_error_for_all_that_wait_for_it() {
    let (fake, config) =
        private_app(DbState { delay: Duration::from_millis(50), ..DbState::default() }).await;
    let config = Config { password: "another word".into(), max_concurrent: 50, ..config };
    let api = api(&config);
    let refused = join_all((1..VERSIONS).map(|n| {
        let (api, job) = (&api, job(n));
        async move { api.resolve(&job).await }
    }))
    .await;
    for ended in refused {
        let failure = failed(ended);
        assert_eq!(failure.kind, FailureKind::ApiRefused, "{failure}");
        let words =
            "the db app refuses api.email and api.password (401 Unauthorized: Invalid Email or password.)";
        assert_eq!(failure.detail, words);
    }
    assert_eq!((fake.logins(), calls(&fake)), (1, Vec::new()), "one login, and no call");
}

#[tokio::test]
async fn a_login_that_the_app_cannot_answer_is_waited_for_and_repeats_no_secret() {
    let (fake, config) = private_app(DbState::default()).await;
    let api = api(&config);
    let words = r#"{"errors":[{"status":500,"title":"set a private key for pass word"}]}"#.to_owned();
    fake.with_state(|db| db.response_override = Some((500, Vec::new(), words)));
    let failure = failed(api.resolve(&job(1)).await);
    assert_eq!(failure.kind, FailureKind::ApiUnavailable);
    assert!(failure.detail.contains("could not log us in (500"), "{failure}");
    assert!(
        failure.detail.contains("api.login = \"basic\"") && !failure.detail.contains("pass word"),
        "{failure}"
    );
    fake.with_state(|db| db.response_override = None);
    api.resolve(&job(1)).await.unwrap();
    let token = fake.with_state(|db| db.tokens.keys().next().unwrap().clone());
    let words = format!(r#"{{"errors":[{{"status":500,"title":"your {token}"}}]}}"#);
    fake.with_state(|db| db.response_override = Some((500, Vec::new(), words)));
    let failure = failed(api.resolve(&job(5)).await);
    assert!(failure.detail.contains("***") && !failure.detail.contains(&token), "{failure}");
}

#[tokio::test]
async fn a_proxys_headers_go_along_with_every_call_and_are_never_shown() {
    let (fake, config) = private_app(DbState::default()).await;
    let headers = vec!["X-Pass: open sesame".into(), "x-tenant:edgi".into()];
    let config = Config { headers, ..config };
    let api = api(&config);
    api.resolve(&job(1)).await.unwrap();
    api.post_annotation(&pair(), &annotation(0.1), false).await.unwrap();
    let heads = fake.with_state(|db| db.heads.clone());
    assert_eq!(heads.len(), 4, "a login, two lookups, a post");
    for head in heads {
        assert!(head.contains("x-pass: open sesame\r\n") && head.contains("x-tenant: edgi\r\n"), "{head}");
    }
    assert!(!format!("{config:?} {api:?}").contains("sesame"));
}
