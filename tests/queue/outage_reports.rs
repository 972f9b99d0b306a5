//! Who tells of an outage that several workers see: one, while it lives; and again, once the outage is over and comes back.

use std::time::Duration;

use wm_analyzer::queue::{AlertLeader, Config, OutageReport};
use wm_testbed::roles::Roles;

use crate::world::*;

async fn says(queue: &Roles, name: &str, sight: OutageReport, told: bool) -> AlertLeader {
    queue.worker.outage("api", &worker(name), sight, told).await.unwrap()
}

#[tokio::test]
async fn one_of_the_workers_that_see_an_outage_tells_and_the_next_outage_is_told_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..2 {
        assert_eq!(says(&queue, "a", OutageReport::Ongoing, false).await, AlertLeader::Us);
        assert_eq!(says(&queue, "b", OutageReport::Ongoing, false).await, AlertLeader::Another);
        assert_eq!(
            says(&queue, "a", OutageReport::Ongoing, false).await,
            AlertLeader::Us,
            "until it has told"
        );
        assert_eq!(says(&queue, "a", OutageReport::Ongoing, true).await, AlertLeader::Nobody);
        assert_eq!(says(&queue, "b", OutageReport::Ongoing, false).await, AlertLeader::Nobody);
        // For one it is over, and comes back while another still sees it: that is the same outage.
        assert_eq!(says(&queue, "a", OutageReport::Over, true).await, AlertLeader::Nobody);
        assert_eq!(says(&queue, "a", OutageReport::Ongoing, false).await, AlertLeader::Nobody);
        for name in ["a", "b"] {
            assert_eq!(says(&queue, name, OutageReport::Over, false).await, AlertLeader::Nobody);
        }
        let left: Vec<String> = world.ask("KEYS", key("*e*:api")).await;
        assert_eq!(left, [""; 0]);
    }
    let other = queue.worker.outage("spawn", &worker("b"), OutageReport::Ongoing, false).await.unwrap();
    assert_eq!(other, AlertLeader::Us, "another thing is another outage");
}

#[tokio::test]
async fn a_leader_whose_outage_ends_before_the_others_leaves_it_reported() {
    let world = World::new().await;
    let queue = world.queue().await;
    assert_eq!(says(&queue, "a", OutageReport::Ongoing, false).await, AlertLeader::Us);
    assert_eq!(says(&queue, "b", OutageReport::Ongoing, false).await, AlertLeader::Another);
    assert_eq!(says(&queue, "a", OutageReport::Over, true).await, AlertLeader::Nobody);
    assert_eq!(says(&queue, "b", OutageReport::Ongoing, false).await, AlertLeader::Nobody);
}

#[tokio::test]
async fn a_leader_that_dies_before_it_reported_is_followed_by_another() {
    let world = World::new().await;
    let queue =
        Roles::connect(&Config { lease: Duration::from_millis(400), ..world.config.clone() }).await.unwrap();
    assert_eq!(says(&queue, "dies", OutageReport::Ongoing, false).await, AlertLeader::Us);
    assert_eq!(says(&queue, "lives", OutageReport::Ongoing, false).await, AlertLeader::Another);
    until("its word runs out", async || {
        says(&queue, "lives", OutageReport::Ongoing, false).await == AlertLeader::Us
    })
    .await;
    assert_eq!(says(&queue, "lives", OutageReport::Ongoing, true).await, AlertLeader::Nobody);
    assert_eq!(says(&queue, "lives", OutageReport::Over, true).await, AlertLeader::Nobody);
    assert_eq!(
        says(&queue, "next", OutageReport::Ongoing, false).await,
        AlertLeader::Us,
        "the dead one's word is over too"
    );
    for key in ["outage:api", "alert_leader:api"].map(key) {
        let ms: i64 = world.ask("PTTL", &key).await;
        assert!((1..=400).contains(&ms), "{key}: {ms}");
    }
}

#[tokio::test]
async fn a_full_redis_lets_workers_agree() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _: () = world.ask("CONFIG", &["SET", "maxmemory", "1"]).await;
    assert_eq!(says(&queue, "a", OutageReport::Ongoing, false).await, AlertLeader::Us);
    assert_eq!(says(&queue, "b", OutageReport::Ongoing, false).await, AlertLeader::Another);
}
