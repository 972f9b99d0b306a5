//! What a status says of the ceilings: who is full, and the longest lines, however many there are.

use std::time::Duration;

use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::queue::{Actor, Config, HostWaiters, Settled, StartPermit};
use wm_testbed::roles::Roles;

use crate::world::*;

const HOSTS: u64 = 12;

fn host(n: u64) -> String {
    format!("host-{n:02}.test")
}

/// One more job for this host, which goes in or stands in its line.
async fn one_more(queue: &Roles, host: &str) -> Option<wm_analyzer::queue::Delivery> {
    enqueued(queue).await;
    let delivery = claimed(queue, "w").await;
    match queue.worker.start(&delivery.lease(), &somewhere(host)).await.unwrap() {
        StartPermit::Granted => Some(delivery),
        StartPermit::HostFull { host } => {
            let full =
                Verdict::Postpone { after: Duration::ZERO, because: PostponeReason::HostFull { host } };
            assert_eq!(queue.worker.settle(delivery, full).await.unwrap(), Settled::Settled);
            None
        }
        odd => panic!("{odd:?}"),
    }
}

#[tokio::test]
async fn a_status_names_the_ten_longest_lines_and_forgets_them_as_they_end() {
    let world = World::new().await;
    let config = Config { host_in_flight_max: 1, in_flight_max: 99, ..world.config.clone() };
    let queue = Roles::connect(&config).await.unwrap();
    assert_eq!(queue.status().await.unwrap().ceilings.hosts_full, 0);
    let mut inside = Vec::new();
    for n in 1..=HOSTS {
        inside.push(one_more(&queue, &host(n)).await.expect("the first goes in"));
        for _ in 0..n {
            assert!(one_more(&queue, &host(n)).await.is_none(), "the host is full");
        }
    }
    let status = queue.status().await.unwrap();
    assert_eq!((status.in_flight, status.in_flight_filled()), (HOSTS, 12.0 / 99.0));
    let ceilings = status.ceilings;
    assert_eq!((ceilings.in_flight_max, ceilings.host_in_flight_max, ceilings.hosts_full), (99, 1, HOSTS));
    let line = |n| HostWaiters { host: host(n), in_flight: 1, waiting: n };
    assert_eq!(ceilings.longest_host_waiters, (3..=HOSTS).rev().map(line).collect::<Vec<_>>());
    world.check_invariants().await;

    // Whoever ends calls the next one, whose place is then in the order again: the lines are shorter by one.
    for delivery in inside {
        let verdict = done(&delivery.job);
        assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
    }
    let ceilings = queue.status().await.unwrap().ceilings;
    let line = |n| HostWaiters { host: host(n), in_flight: 0, waiting: n - 1 };
    assert_eq!(ceilings.hosts_full, HOSTS - 1, "one line is empty");
    assert_eq!(ceilings.longest_host_waiters, (3..=HOSTS).rev().map(line).collect::<Vec<_>>());
    world.check_invariants().await;
}

#[tokio::test]
async fn a_job_that_nobody_wants_any_more_leaves_its_line() {
    let world = World::new().await;
    let config = Config { host_in_flight_max: 1, ..world.config.clone() };
    let queue = Roles::connect(&config).await.unwrap();
    let _inside = one_more(&queue, &host(1)).await;
    assert!(one_more(&queue, &host(1)).await.is_none());
    let waiting: Vec<String> =
        world.ask("ZRANGE", &[&key(&format!("host_waiters:{}", host(1))), "0", "-1"]).await;
    let id = wm_analyzer::job::JobId::parse(&waiting[0]).unwrap();
    assert!(queue.operator.cancel(&id, Actor::default()).await.unwrap());
    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", id.as_str()]).await;
    queue.worker.upkeep().await.unwrap();
    assert_eq!(queue.status().await.unwrap().ceilings.hosts_full, 0);
    world.check_invariants().await;
}
