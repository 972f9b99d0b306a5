//! Whole results outside Redis: written before a job is done, and what happens while they cannot be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wm_analyzer::job::Job;
use wm_analyzer::job::report::ANALYSIS_VERSION;
use wm_testbed::http::{HttpServer, Request, Response};
use wm_testbed::s3::S3Server;

use crate::harness::{World, until};

const PAUSE: Duration = Duration::from_millis(300);
/// The most that a worker with two slots has claimed when it learns of the first failure: what it claims ahead, and
/// what it claimed as those ended.
const CLAIMED_AHEAD: usize = 16;

/// A world whose results go to a bucket of the server at this address.
async fn world_with_bucket(endpoint: &str) -> World {
    let world =
        World::new().await.with("results.store", "s3://results/wm").with("results.endpoint", endpoint);
    world.with("results.access_key_id", "worker").with("results.secret_access_key", "hunter2")
}

/// A server that takes every object, or refuses each with this status while it is down.
async fn switched(down: Arc<AtomicBool>, status: u16) -> HttpServer {
    let respond = move |_: &Request| match down.load(Ordering::SeqCst) {
        true => Response::new(status, &[], b"<Code>SlowDown</Code><Message>busy</Message>".as_slice()),
        false => Response::new(200, &[("etag", "\"1\"")], []),
    };
    HttpServer::start(Arc::new(respond)).await.unwrap()
}

async fn postponed_events(world: &World) -> usize {
    world.events().await.iter().filter(|event| event.what == "postponed").count()
}

#[tokio::test]
async fn a_whole_result_is_in_the_bucket_before_its_job_is_done() {
    let Some(server) = S3Server::start().await else { return };
    server.create_bucket("results");
    let world = world_with_bucket(&server.endpoint()).await;
    let job = world.pair("good", 5_000);
    let worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    let (from, to) = (job.from.given().unwrap().uuid(), job.to.uuid());
    let answer = server.request("HEAD", &format!("/results/wm/v{ANALYSIS_VERSION}/{from}..{to}.json.gz"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    worker.stop().await;
}

#[tokio::test]
async fn a_results_store_that_is_down_stops_claims_costs_no_job_anything_and_is_one_alert() {
    for status in [503, 403] {
        let down = Arc::new(AtomicBool::new(true));
        let server = switched(Arc::clone(&down), status).await;
        let world = world_with_bucket(&format!("http://{}", server.address())).await;
        let pause = format!("{}ms", PAUSE.as_millis());
        let world = world.with("policy.probe_base", &pause).with("policy.probe_max", &pause);
        let world = world.with("policy.backoff_max", "1s");
        let jobs: Vec<Job> = (0..30).map(|n| world.pair(&format!("job-{n}"), 3_000)).collect();
        let worker = world.worker();
        world.send(&jobs).await;
        until("some probes failed", async || postponed_events(&world).await >= CLAIMED_AHEAD + 4).await;

        let mut counted = 0;
        for job in &jobs {
            counted += world.field(&job.id, "postponements").await.map_or(0, |count| count.parse().unwrap());
        }
        assert_eq!(counted, 1, "the failure that opened it is counted, and no other");
        let status = world.queue.status().await.unwrap();
        assert_eq!((status.backlog() + status.in_flight + status.inbox, status.dead), (30, 0));
        assert_eq!(worker.metric("breaker_open{dependency=\"results_store\"}").await, 1.0);
        assert_eq!(worker.metric("breaker_open{dependency=\"spawn\"}").await, 0.0);
        assert_eq!(world.sentry.fingerprints(), [["outage", "results_store"]]);

        down.store(false, Ordering::SeqCst);
        for job in &jobs {
            world.until_event(&job.id, "done").await;
        }
        assert_eq!(worker.metric("breaker_open{dependency=\"results_store\"}").await, 0.0);
        assert_eq!(world.dead().await.len(), 0);
        let log = worker.log_text();
        assert!(!log.contains("hunter2"));
        worker.stop().await;
        let events = world.sentry.events();
        let told: Vec<&str> = events.iter().map(|event| event["message"].as_str().unwrap()).collect();
        assert_eq!(told.len(), 2, "{told:#?}");
        assert!(told[0].starts_with("outage: the results store takes no results"), "{}", told[0]);
        assert!(told[0].contains("nothing is claimed until a probe goes through"), "{}", told[0]);
        assert!(told[1].starts_with("resolved: the results store takes results again"), "{}", told[1]);
    }
}
