//! What is rightly not analysed says so everywhere it can be asked: report, counter, event, metric.

use std::collections::BTreeMap;

use wm_analyzer::job::page::Version;
use wm_analyzer::job::{Job, VersionRef};
use wm_testbed::body::Body;

use wm_testbed::{pages, poison};

use crate::harness::{World, key, until};

fn change(job: &mut Job, change: impl Fn(&mut Version)) {
    for version in job.from.given_mut().into_iter().chain([&mut job.to]) {
        if let VersionRef::Inline(version) = version {
            change(version);
        }
    }
}

#[tokio::test]
async fn every_skip_is_recorded_with_its_reason_in_report_counter_event_and_metric() {
    let world = World::new().await;
    let html = || Body::html(pages::pair(1, 5_000).0);
    let pdf = || Body::html(poison::pdf(1, 50_000));
    let mut by_extension = world.bodies("extension", html(), html());
    change(&mut by_extension, |version| version.url = Some("https://a.test/report.PDF".to_owned()));
    let mut by_type = world.bodies("media_type", html(), html());
    change(&mut by_type, |version| version.media_type = Some("image/png".to_owned()));
    let mut same = world.bodies("same_version", html(), html());
    same.to = same.from.given().unwrap().clone();
    let expired =
        Job { expires_at: Some(time::OffsetDateTime::UNIX_EPOCH), ..world.bodies("expired", html(), html()) };
    let json = Body::raw(&br#"{"error": "gone"}"#[..]);
    let jobs = [
        by_extension,
        by_type,
        same,
        expired,
        world.bodies("content", pdf(), html()),
        world.bodies("unlike_content", html(), json),
    ];
    let worker = world.worker();
    world.send(&jobs).await;
    for job in &jobs {
        let reason = job.id.as_str();
        world.until_event(&job.id, "skipped").await;
        let events = world.events().await;
        let event = events.iter().find(|event| event.id == reason).unwrap();
        assert_eq!((event.what.as_str(), event.why.as_str()), ("skipped", reason));
        let report = world.report(job).await.expect("a report");
        assert_eq!(report["skipped"]["reason"], reason, "{report}");
        assert!(!report["skipped"]["detail"].as_str().unwrap().is_empty(), "{report}");
        let status = world.queue.status().await.unwrap();
        assert_eq!(status.last_day.get(&format!("skipped:{reason}")), Some(&1), "{:?}", status.last_day);
        let metric = format!("skips_total{{reason=\"{reason}\"}}");
        until(&metric, async || worker.metric(&metric).await == 1.0).await;
    }
    let entries: Vec<(String, BTreeMap<String, String>)> =
        world.redis_cmd("XRANGE", (key("events"), "-", "+")).await;
    let kinds = |id: &str| {
        let (_, fields) = entries.iter().find(|(_, fields)| fields["id"] == id).unwrap();
        fields.get("sniffed").cloned()
    };
    assert_eq!(kinds("content").as_deref(), Some("application/pdf..text/html"));
    assert_eq!(kinds("unlike_content").as_deref(), Some("text/html..application/json"));
    assert_eq!(kinds("extension"), None);
    for unfetched in ["extension", "media_type", "same_version", "expired"] {
        assert_eq!(world.site.hits(&format!("/{unfetched}/from")), 0, "{unfetched} needs no fetching");
    }
    assert_eq!(world.sentry.alerts(), 0, "a skip is no alarm");
    assert_eq!(world.dead().await.len(), 0);
}

#[tokio::test]
async fn a_skipped_pair_may_be_asked_for_again_and_a_done_one_only_on_purpose() {
    let world = World::new().await;
    let _worker = world.worker();
    let job = world.pair("pair", 5_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    let again =
        |id: &str, again: bool| Job { id: wm_analyzer::job::JobId::parse(id).unwrap(), again, ..job.clone() };
    world.send(&[again("idle", false), again("on-purpose", true)]).await;
    world.until_event(&again("on-purpose", true).id, "done").await;
    assert_eq!(world.job_events(&again("idle", false).id).await, ["duplicate"]);
    assert_eq!(world.site.hits("/pair/from"), 2);
}

#[tokio::test]
async fn a_page_that_is_declared_bare_xml_is_compared_by_task_sheets_rules_alone() {
    let world = World::new().await;
    let xml = |name: &str| {
        let mut job = world.pair(name, 5_000);
        change(&mut job, |version| version.media_type = Some("application/xml".to_owned()));
        job
    };
    let (old, new) = (xml("by-the-old-rules"), xml("by-task-sheets"));
    let worker = world.worker();
    world.send(std::slice::from_ref(&old)).await;
    world.until_event(&old.id, "skipped").await;
    worker.stop().await;
    let world = world.with("filter.rules", "task_sheets");
    let _worker = world.worker();
    world.send(std::slice::from_ref(&new)).await;
    world.until_event(&new.id, "done").await;
}
