//! Who tells of an outage that several workers see: one, while it lives; and again, once the outage is over and comes back.

use std::time::Duration;

use wm_analyzer::queue::{Config, Sight, Teller};
use wm_testbed::roles::Roles;

use crate::world::*;

async fn says(queue: &Roles, name: &str, sight: Sight, told: bool) -> Teller {
    queue.worker.outage("api", &worker(name), sight, told).await.unwrap()
}

#[tokio::test]
async fn one_of_the_workers_that_see_an_outage_tells_and_the_next_outage_is_told_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..2 {
        assert_eq!(says(&queue, "a", Sight::Lasts, false).await, Teller::Us);
        assert_eq!(says(&queue, "b", Sight::Lasts, false).await, Teller::Another);
        assert_eq!(says(&queue, "a", Sight::Lasts, false).await, Teller::Us, "until it has told");
        assert_eq!(says(&queue, "a", Sight::Lasts, true).await, Teller::Nobody);
        assert_eq!(says(&queue, "b", Sight::Lasts, false).await, Teller::Nobody);
        // For one it is over, and comes back while another still sees it: that is the same outage.
        assert_eq!(says(&queue, "a", Sight::Over, true).await, Teller::Nobody);
        assert_eq!(says(&queue, "a", Sight::Lasts, false).await, Teller::Nobody);
        for name in ["a", "b"] {
            assert_eq!(says(&queue, name, Sight::Over, false).await, Teller::Nobody);
        }
        let left: Vec<String> = world.ask("KEYS", key("*e*:api")).await;
        assert_eq!(left, [""; 0]);
    }
    let other = queue.worker.outage("spawn", &worker("b"), Sight::Lasts, false).await.unwrap();
    assert_eq!(other, Teller::Us, "another thing is another outage");
}

#[tokio::test]
async fn a_teller_that_is_done_with_the_outage_before_the_others_leaves_it_told() {
    let world = World::new().await;
    let queue = world.queue().await;
    assert_eq!(says(&queue, "a", Sight::Lasts, false).await, Teller::Us);
    assert_eq!(says(&queue, "b", Sight::Lasts, false).await, Teller::Another);
    assert_eq!(says(&queue, "a", Sight::Over, true).await, Teller::Nobody);
    assert_eq!(says(&queue, "b", Sight::Lasts, false).await, Teller::Nobody);
}

#[tokio::test]
async fn a_teller_that_dies_before_it_told_is_followed_by_another() {
    let world = World::new().await;
    let queue =
        Roles::connect(&Config { lease: Duration::from_millis(400), ..world.config.clone() }).await.unwrap();
    assert_eq!(says(&queue, "dies", Sight::Lasts, false).await, Teller::Us);
    assert_eq!(says(&queue, "lives", Sight::Lasts, false).await, Teller::Another);
    until("its word runs out", async || says(&queue, "lives", Sight::Lasts, false).await == Teller::Us).await;
    assert_eq!(says(&queue, "lives", Sight::Lasts, true).await, Teller::Nobody);
    assert_eq!(says(&queue, "lives", Sight::Over, true).await, Teller::Nobody);
    assert_eq!(
        says(&queue, "next", Sight::Lasts, false).await,
        Teller::Us,
        "the dead one's word is over too"
    );
    for key in ["outage:api", "teller:api"].map(key) {
        let ms: i64 = world.ask("PTTL", &key).await;
        assert!((1..=400).contains(&ms), "{key}: {ms}");
    }
}

#[tokio::test]
async fn a_full_redis_lets_workers_agree() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _: () = world.ask("CONFIG", &["SET", "maxmemory", "1"]).await;
    assert_eq!(says(&queue, "a", Sight::Lasts, false).await, Teller::Us);
    assert_eq!(says(&queue, "b", Sight::Lasts, false).await, Teller::Another);
}
