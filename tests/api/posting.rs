//! Annotations on their way out.

use wm_analyzer::api::{Config, PostMode, PostOutcome};
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::page::PagePair;
use wm_analyzer::job::report::{Annotation, LinksNumbers, SourceNumbers, TextNumbers};

use crate::{annotation, api, config, pair, three_versions, uuid};

fn full() -> Annotation {
    let hash = || "4f53cda1".to_owned();
    Annotation {
        text: Some(TextNumbers {
            text_diff_hash: hash(),
            text_diff_count: 1,
            text_diff_length: 2,
            text_diff_ratio: 0.1,
        }),
        source: Some(SourceNumbers {
            source_diff_hash: hash(),
            source_diff_count: 3,
            source_diff_length: 4,
            source_diff_ratio: 0.2,
        }),
        links: Some(LinksNumbers { links_diff_hash: hash(), links_diff_count: 5, links_diff_ratio: 0.3 }),
        priority: 0.4321,
    }
}

#[tokio::test]
async fn an_annotation_arrives_with_its_twelve_fields_at_its_change() {
    let fake = three_versions().await;
    assert_eq!(
        api(&config(&fake)).post_annotation(&pair(), &full(), false).await.unwrap(),
        PostOutcome::Posted
    );
    let annotations = fake.with_state(|db| db.annotations.clone());
    assert_eq!(annotations.len(), 1);
    let ((change, _), stored) = annotations.first_key_value().unwrap();
    assert_eq!(*change, format!("{}..{}", uuid(1), uuid(2)));
    let mut fields: Vec<&str> = stored.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "links_diff_count",
            "links_diff_hash",
            "links_diff_ratio",
            "priority",
            "source_diff_count",
            "source_diff_hash",
            "source_diff_length",
            "source_diff_ratio",
            "text_diff_count",
            "text_diff_hash",
            "text_diff_length",
            "text_diff_ratio"
        ]
    );
    assert_eq!(stored["priority"], 0.4321);
}

#[tokio::test]
async fn a_repeat_overwrites_and_does_not_add() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    for priority in [0.1, 0.2] {
        api.post_annotation(&pair(), &annotation(priority), false).await.unwrap();
    }
    let priorities =
        fake.with_state(|db| db.annotations.values().map(|a| a["priority"].as_f64()).collect::<Vec<_>>());
    assert_eq!(priorities, [Some(0.2)]);
}

#[tokio::test]
async fn a_dry_run_and_a_switched_off_sink_call_nobody() {
    let fake = three_versions().await;
    for (post, expected) in [(PostMode::DryRun, PostOutcome::DryRun), (PostMode::Off, PostOutcome::Off)] {
        let api = api(&Config { post, ..config(&fake) });
        assert_eq!(api.post_annotation(&pair(), &annotation(0.1), false).await.unwrap(), expected);
    }
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn a_pair_without_a_page_is_a_bad_reference() {
    let fake = three_versions().await;
    let without_page = PagePair { page: None, ..pair() };
    for post in [PostMode::Post, PostMode::DryRun] {
        let api = api(&Config { post, ..config(&fake) });
        assert_eq!(
            api.post_annotation(&without_page, &annotation(0.1), false).await.unwrap_err().kind,
            FailureKind::BadReference
        );
    }
}

#[tokio::test]
async fn a_read_only_app_is_waited_for_and_a_refusal_keeps_its_words() {
    let fake = three_versions().await;
    let api = api(&config(&fake));
    let refused = api.post_annotation(&pair(), &annotation(1.5), false).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Rejected);
    assert!(refused.detail.contains("Priority must be less than or equal to 1"), "{refused}");
    fake.with_state(|db| db.read_only = true);
    let later = api.post_annotation(&pair(), &annotation(0.5), false).await.unwrap_err();
    assert_eq!(later.kind, FailureKind::ApiUnavailable);
    assert!(later.detail.contains("read-only"), "{later}");
    fake.with_state(|db| db.read_only = false);
    api.post_annotation(&pair(), &annotation(0.5), false).await.unwrap();
}
