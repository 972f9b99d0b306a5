//! What slow hosts cost the jobs at other hosts: nothing. With default settings and two slots.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use wm_analyzer::job::Job;
use wm_testbed::body::Body;
use wm_testbed::pages;
use wm_testbed::site::{Resource, Site};

use crate::harness::{World, job, until};

/// Good jobs that are pushed while slow ones are being fetched.
const GOOD: usize = 20;
/// How long after the slow jobs the good ones are pushed: all slow ones that can be are being fetched then.
const LATER: Duration = Duration::from_secs(1);
/// The most that all of the good jobs, and all but the slowest of a hundred, may take.
const ALL_DONE: Duration = Duration::from_secs(5);

/// A site at an address of its own, which makes it another host.
async fn host(number: u8) -> Site {
    Site::start_at(Ipv4Addr::new(127, 0, 1, number)).await.unwrap()
}

/// Jobs about pages that answer at once with a body of ten bytes a second.
fn trickling(sites: &[Site], jobs: usize) -> Vec<Job> {
    let each = (0..jobs).map(|n| {
        let site = &sites[n % sites.len()];
        let side = |side: &str| site.put(&format!("/{n}/{side}"), Resource::Drip);
        job(&format!("slow-{n}"), side("from"), side("to"))
    });
    each.collect()
}

fn good(site: &Site, jobs: usize) -> Vec<Job> {
    let each = (0..jobs).map(|n| {
        let (from, to) = pages::pair(n as u64, 5_000);
        let put = |side: &str, body: Vec<u8>| site.put(&format!("/{n}/{side}"), Body::html(body));
        job(&format!("good-{n}"), put("from", from), put("to", to))
    });
    each.collect()
}

/// The time from pushing each good job until it was done, sorted, with slow ones pushed before.
async fn times_beside(slow_hosts: u8, slow_jobs: usize) -> Vec<Duration> {
    let world = World::with_default_settings().await;
    let mut slow = Vec::new();
    for number in 0..slow_hosts {
        slow.push(host(10 + number).await);
    }
    let fast = host(1).await;
    let _worker = world.worker();
    until("it works", async || !world.queue.status().await.unwrap().workers.is_empty()).await;

    world.send(&trickling(&slow, slow_jobs)).await;
    tokio::time::sleep(LATER).await;
    let (start, jobs) = (Instant::now(), good(&fast, GOOD));
    world.send(&jobs).await;
    let mut times = Vec::new();
    until("the good jobs are done", async || {
        let events = world.events().await;
        let done = events.iter().filter(|e| e.what == "done" && e.id.starts_with("good-")).count();
        times.resize(done, start.elapsed());
        done == GOOD
    })
    .await;
    times
}

#[tokio::test]
async fn eight_jobs_at_a_trickling_host_cost_the_jobs_of_another_nothing() {
    let times = times_beside(1, 8).await;
    assert!(times[GOOD - 1] < ALL_DONE, "{times:?}");
}

#[tokio::test]
async fn sixty_four_jobs_at_a_trickling_host_cost_the_jobs_of_another_nothing() {
    let times = times_beside(1, 64).await;
    assert!(times[GOOD - 1] < ALL_DONE, "{times:?}");
}

#[tokio::test]
async fn a_thousand_jobs_at_a_trickling_host_cost_the_jobs_of_another_nothing() {
    let times = times_beside(1, 1_000).await;
    assert!(times[GOOD - 1] < ALL_DONE, "{times:?}");
}

#[tokio::test]
async fn sixty_four_trickling_hosts_cost_the_jobs_of_another_at_most_two_seconds() {
    let times = times_beside(64, 64).await;
    assert!(times[GOOD - 1] < Duration::from_secs(2), "{times:?}");
}
