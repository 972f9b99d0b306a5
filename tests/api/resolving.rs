//! From references to versions.

use serde_json::{Value, json};
use wm_analyzer::api::{Config, PostMode, resolve};
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::page::Side;
use wm_analyzer::job::skip::SkipReason;
use wm_analyzer::job::{Job, OlderVersion, VersionRef};

use crate::{PAGE, api, config, failed, pair, skipped, three_versions, uuid};

fn by_uuid(from: Option<u128>, to: u128) -> Job {
    let to = VersionRef::Uuid(uuid(to));
    let from = from.map_or(OlderVersion::Previous, |n| OlderVersion::Given(VersionRef::Uuid(uuid(n))));
    Job { from, ..Job::new(to.clone(), to) }
}

fn whole() -> Job {
    let pair = pair();
    Job::new(VersionRef::Inline(Box::new(pair.from)), VersionRef::Inline(Box::new(pair.to)))
}

#[tokio::test]
async fn two_uuids_become_two_versions_and_their_page() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    let pair = resolve(Some(&api), &by_uuid(Some(1), 3)).await.unwrap();
    assert_eq!((pair.page, pair.from.uuid, pair.to.uuid), (Some(PAGE), uuid(1), uuid(3)));
    assert_eq!(pair.to.body_url.as_str(), format!("https://archive.test/{}", uuid(3)));
    assert_eq!(pair.to.media_type.as_deref(), Some("text/html"));
    assert_eq!(fake.calls(), 2);
}

#[tokio::test]
async fn a_job_that_carries_everything_makes_no_call_and_needs_no_api() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    let job = Job { page: Some(PAGE), ..whole() };
    assert_eq!(resolve(Some(&api), &job).await.unwrap(), pair());
    assert_eq!(resolve(None, &job).await.unwrap(), pair());
    assert_eq!(resolve(None, &whole()).await.unwrap().page, None);
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn a_page_is_asked_for_before_the_work_where_annotations_will_need_it() {
    let fake = three_versions().await;
    for (post, needed) in [(PostMode::Post, true), (PostMode::DryRun, true), (PostMode::Off, false)] {
        let api = api(&Config { post, ..config(&fake) });
        let ended = resolve(Some(&api), &whole()).await;
        assert_eq!(ended.is_err(), needed, "{post:?}");
        if needed {
            let failure = failed(ended);
            assert_eq!(failure.kind, FailureKind::BadReference);
            assert!(failure.detail.contains("`page`"), "{failure}");
        }
    }
}

#[tokio::test]
async fn without_an_api_a_uuid_is_a_bad_reference_that_names_the_setting() {
    let failure = failed(resolve(None, &by_uuid(Some(1), 2)).await);
    assert_eq!(failure.kind, FailureKind::BadReference);
    assert!(failure.detail.contains("api.url"), "{failure}");
}

#[tokio::test]
async fn a_missing_from_is_the_version_before_with_links_and_without() {
    for without_links in [false, true] {
        let fake = three_versions().await;
        fake.with_state(|db| db.without_links = without_links);
        let api = api(&config(&fake));
        let pair = resolve(Some(&api), &by_uuid(None, 3)).await.unwrap();
        assert_eq!((pair.page, pair.from.uuid, pair.to.uuid), (Some(PAGE), uuid(2), uuid(3)));
        assert_eq!(fake.calls(), if without_links { 3 } else { 2 });
    }
}

#[tokio::test]
async fn the_first_version_of_a_page_is_skipped_with_links_and_without() {
    for without_links in [false, true] {
        let fake = three_versions().await;
        fake.with_state(|db| db.without_links = without_links);
        let skip = skipped(resolve(Some(&api(&config(&fake))), &by_uuid(None, 1)).await);
        assert_eq!(skip.reason, SkipReason::NoPrevious, "{}", skip.detail);
    }
}

#[tokio::test]
async fn one_side_may_be_whole_and_the_other_a_uuid() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    let carried = pair().to;
    let mut job = by_uuid(Some(1), 2);
    job.to = VersionRef::Inline(Box::new(carried.clone()));
    let found = resolve(Some(&api), &job).await.unwrap();
    assert_eq!((found.page, found.from.uuid), (Some(PAGE), uuid(1)));
    assert_eq!(found.to, carried, "what the producer says of a version is not asked again");
    job.from = OlderVersion::Previous;
    let found = resolve(Some(&api), &job).await.unwrap();
    assert_eq!((found.from.uuid, found.to), (uuid(1), carried));
}

#[tokio::test]
async fn a_version_that_does_not_exist_is_missing_on_its_side() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    for (job, side) in
        [(by_uuid(Some(9), 1), Side::From), (by_uuid(Some(1), 9), Side::To), (by_uuid(None, 9), Side::To)]
    {
        let failure = failed(resolve(Some(&api), &job).await);
        assert_eq!((failure.kind, failure.side), (FailureKind::VersionMissing, Some(side)), "{failure}");
        assert!(failure.detail.contains("Couldn't find Version"), "{failure}");
    }
}

#[tokio::test]
async fn a_version_without_a_body_is_skipped_on_its_side() {
    let fake = three_versions().await;
    fake.with_state(|db| db.versions[0]["network_error"] = json!("net::ERR_NAME_NOT_RESOLVED"));
    fake.with_state(|db| db.versions[1]["body_url"] = Value::Null);
    let api = api(&config(&fake));
    for (job, side) in [(by_uuid(Some(1), 3), Side::From), (by_uuid(Some(3), 2), Side::To)] {
        let skip = skipped(resolve(Some(&api), &job).await);
        assert_eq!((skip.reason, skip.side), (SkipReason::NotHttp, Some(side)), "{}", skip.detail);
    }
}

#[tokio::test]
async fn the_earliest_version_of_a_page_is_found_or_missing() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    assert_eq!(api.earliest(PAGE).await.unwrap().uuid, uuid(1));
    assert_eq!(failed(api.earliest(uuid(7)).await).kind, FailureKind::VersionMissing);
    let job = Job { from: OlderVersion::Earliest, ..by_uuid(None, 3) };
    let pair = resolve(Some(&api), &job).await.unwrap();
    assert_eq!((pair.page, pair.from.uuid, pair.to.uuid), (Some(PAGE), uuid(1), uuid(3)));
}

#[tokio::test]
async fn a_version_is_looked_up_once_while_it_is_remembered() {
    let fake = three_versions().await;
    let remembering = api(&config(&fake));
    for _ in 0..3 {
        remembering.resolve(&by_uuid(None, 3)).await.unwrap();
    }
    assert_eq!(fake.calls(), 2);
    let forgetful = api(&Config { cache_ttl: std::time::Duration::ZERO, ..config(&fake) });
    for _ in 0..2 {
        forgetful.resolve(&by_uuid(Some(1), 2)).await.unwrap();
    }
    assert_eq!(fake.calls(), 2 + 4);
}

#[tokio::test]
async fn an_answer_about_another_version_is_not_believed() {
    let fake = three_versions().await;
    let other = json!({"links": {}, "data": crate::version(uuid(2), PAGE)}).to_string();
    fake.with_state(|db| db.response_override = Some((200, Vec::new(), other)));
    let failure = failed(api(&config(&fake)).resolve(&by_uuid(Some(1), 3)).await);
    assert_eq!(failure.kind, FailureKind::ApiUnavailable, "{failure}");
}
