//! The line of a host: whom it calls, and whom it does not.

use crate::start::{in_line, inside};
use crate::world::*;

#[tokio::test]
async fn each_permit_that_comes_free_calls_one_however_much_room_those_called_before_have_not_taken_yet() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 2;
    let queue = world.queue().await;
    let held = [
        inside(&queue, "w", &somewhere("slow.test")).await,
        inside(&queue, "w", &somewhere("slow.test")).await,
    ];
    let mut line = Vec::new();
    for _ in 0..3 {
        line.push(in_line(&queue, "slow.test").await);
    }
    for (called, delivery) in held.into_iter().enumerate() {
        let verdict = done(&delivery.job);
        let _ = queue.worker.settle(delivery, verdict).await.unwrap();
        let states = world.check_invariants().await;
        let ready = line.iter().filter(|id| states[id.as_str()] == "ready");
        assert_eq!(ready.collect::<Vec<_>>(), line[..=called].iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_name_in_the_line_that_waits_for_nothing_is_passed_over_and_costs_nobody_the_call() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let held = inside(&queue, "w", &somewhere("slow.test")).await;
    let waits = in_line(&queue, "slow.test").await;
    // As after a restore from an old backup: the line knows of a job that is gone.
    let _: u64 = world.ask("ZADD", &[&key("host_waiters:slow.test"), "0", "gone"]).await;
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let states = world.check_invariants().await;
    assert_eq!(states.into_iter().collect::<Vec<_>>(), [(waits.to_string(), "ready".to_owned())]);
}
