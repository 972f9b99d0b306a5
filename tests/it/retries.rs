//! What a target in trouble costs: attempts with their delays, and nothing where trying again is no use.

use wm_testbed::body::Body;
use wm_testbed::site::Resource;

use crate::harness::{GatedSite, World, job, key, until};

#[tokio::test]
async fn a_503_that_recovers_on_the_third_try_is_done_after_two_retries() {
    let world = World::new().await;
    let sick = world.site.url("/status/503-then-200/x");
    let job = job("sick", sick, world.page());
    let _worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    assert_eq!(world.job_events(&job.id).await, ["retried", "retried", "done"]);
    assert_eq!(world.site.hits("/status/503-then-200/x"), 3);
    assert_eq!(world.sentry.alerts(), 0, "a target that recovers wakes nobody");
}

#[tokio::test]
async fn a_target_that_stays_ill_is_buried_as_exhausted_when_its_attempts_are_spent() {
    let world = World::new().await.with("policy.attempts", "3");
    let job = job("ill", world.site.url("/status/502"), world.page());
    let _worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    let reason = world.until_dead_letters(1).await.remove(0).reason.unwrap();
    assert_eq!((reason.kind.as_str(), reason.failure.kind.as_str()), ("exhausted", "upstream"));
    assert_eq!(world.site.hits("/status/502"), 3);
    assert_eq!(world.job_events(&job.id).await, ["retried", "retried", "buried"]);
}

#[tokio::test]
async fn a_404_is_dead_at_once_with_one_hit_at_the_site() {
    let world = World::new().await;
    let job = world.bodies("gone", Resource::Status(404), Body::html(&b"<p>here</p>"[..]));
    let _worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    let reason = world.until_dead_letters(1).await.remove(0).reason.unwrap();
    assert_eq!((reason.kind.as_str(), reason.counts.deliveries), ("gone", 1));
    assert_eq!(world.site.hits("/gone/from"), 1);
    assert_eq!(world.job_events(&job.id).await, ["buried"]);
}

#[tokio::test]
async fn a_retry_waits_for_its_time_and_retry_after_is_honoured() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    gate.open();
    let (busy, good) = (job("busy", gate.url("/busy"), world.page()), world.pair("good", 4_000));
    let _worker = world.worker();
    world.send(std::slice::from_ref(&busy)).await;
    world.until_event(&busy.id, "retried").await;
    let due_ms: f64 = world.redis_cmd("ZSCORE", &[&key("scheduled"), "busy"]).await;
    let (seconds, _): (u64, u64) = world.redis_cmd("TIME", [""; 0].as_slice()).await;
    let wait = due_ms / 1000.0 - seconds as f64;
    assert!((3_500.0..=3_601.0).contains(&wait), "{wait} s, it was asked to wait an hour");

    // Upkeep has come by often by the time a job that came later is done; and nobody has touched it.
    world.send(std::slice::from_ref(&good)).await;
    world.until_event(&good.id, "done").await;
    assert_eq!(gate.requests(), 1);
    let _: u64 = world.redis_cmd("ZADD", &[&key("scheduled"), "XX", "1", "busy"]).await;
    until("its time has come", async || gate.requests() == 2).await;
}
