//! Listings of indexes that others write meanwhile: who stays is listed, and who is listed is listed once.

use std::collections::BTreeSet;

use wm_analyzer::job::JobId;
use wm_analyzer::queue::{CLAIM_MOST, ExportPage, JobState, Selection};
use wm_testbed::roles::Roles;

use crate::start::{in_line, inside};
use crate::world::*;

const JOBS: usize = 250;

async fn admitted(queue: &Roles) -> Vec<JobId> {
    let jobs: Vec<_> = (0..JOBS).map(|_| job()).collect();
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    jobs.into_iter().map(|job| job.id).collect()
}

/// Gives all entries of an index the same score; returns them in the order in which Redis has them.
async fn at_one_score(world: &World, index: &str, score: u64) -> Vec<String> {
    let ids: Vec<String> = world.ask("ZRANGE", &[&key(index), "0", "-1"]).await;
    let entries = ids.iter().flat_map(|id| [score.to_string(), id.clone()]);
    let args: Vec<String> = [key(index), "XX".to_owned()].into_iter().chain(entries).collect();
    let _: u64 = world.ask("ZADD", &args).await;
    world.ask("ZRANGE", &[&key(index), "0", "-1"]).await
}

fn of(state: JobState) -> Selection {
    Selection { states: vec![state], ..Selection::default() }
}

/// What a listing finds while `meanwhile` happens after its first page.
async fn listed(
    queue: &Roles,
    selection: &Selection,
    meanwhile: impl AsyncFnOnce(Vec<JobId>),
) -> Vec<String> {
    let mut pages = queue.operator.job_pages(selection);
    let mut found: Vec<JobId> = pages.next().await.unwrap().into_iter().map(|job| job.id).collect();
    meanwhile(found.clone()).await;
    loop {
        let page = pages.next().await.unwrap();
        if page.is_empty() {
            return found.into_iter().map(|id| id.to_string()).collect();
        }
        found.extend(page.into_iter().map(|job| job.id));
    }
}

#[tokio::test]
async fn jobs_that_are_claimed_while_a_listing_is_read_hide_none_of_those_that_wait() {
    let world = World::new().await;
    let queue = world.queue().await;
    admitted(&queue).await;
    let in_order = at_one_score(&world, "ready", 5).await;
    let found = listed(&queue, &of(JobState::Ready), async |_| {
        let _ = queue.worker.claim_many(&worker("w"), CLAIM_MOST.min(50)).await.unwrap();
    })
    .await;
    assert_eq!(found, in_order, "the first page was read before");
}

#[tokio::test]
async fn a_job_whose_lease_is_renewed_while_a_listing_is_read_is_listed_once() {
    let world = World::new().await;
    let queue = world.queue().await;
    let ids = admitted(&queue).await;
    let mut claimed = 0;
    while claimed < JOBS {
        claimed += queue.worker.claim_many(&worker("w"), CLAIM_MOST).await.unwrap().len();
    }
    let soon = world.now_ms().await + 60_000;
    at_one_score(&world, "lease", soon).await;
    let found = listed(&queue, &of(JobState::InFlight), async |_| {
        at_one_score(&world, "lease", soon + 5_000).await;
    })
    .await;
    assert_eq!(found.len(), JOBS);
    let wanted: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
}

#[tokio::test]
async fn letters_that_are_discarded_while_a_listing_is_read_hide_none_of_the_others() {
    let world = World::new().await;
    let queue = world.queue().await;
    for n in 0..JOBS {
        world.push(format!("no job {n}")).await;
    }
    while queue.status().await.unwrap().dead < JOBS as u64 {
        let _ = queue.worker.ingest().await.unwrap();
    }
    let mut in_order = at_one_score(&world, "dead", 1_700_000_000_000).await;
    in_order.reverse();
    let found = listed(&queue, &of(JobState::Dead), async |page: Vec<JobId>| {
        assert_eq!(queue.operator.discard(&page[..50]).await.unwrap(), 50);
    })
    .await;
    assert_eq!(found, in_order);
}

#[tokio::test]
async fn an_export_leaves_out_nothing_that_waits_all_the_time() {
    let world = World::new().await;
    let queue = world.queue().await;
    admitted(&queue).await;
    let in_order = at_one_score(&world, "ready", 5).await;
    let (mut pages, mut found) = (queue.operator.export(), Vec::new());
    while let Some(page) = pages.next().await.unwrap() {
        let ExportPage::Jobs(jobs) = page else { panic!("{page:?}") };
        found.extend(jobs.into_iter().map(|job| job.id.to_string()));
        if found.len() == 50 {
            let _ = queue.worker.claim_many(&worker("w"), 20).await.unwrap();
        }
    }
    assert_eq!(found, in_order);
}

#[tokio::test]
async fn a_job_that_waits_for_its_host_has_no_time_at_which_it_is_due() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let _inside = inside(&queue, "w", &somewhere("a.test")).await;
    let id = in_line(&queue, "a.test").await;
    let waits = queue.operator.stored_job(&id).await.unwrap().unwrap();
    assert_eq!((waits.state, waits.due_ms), (JobState::Scheduled, None));
    assert_eq!(waits.waits_for_host.as_deref(), Some("a.test"));
}
