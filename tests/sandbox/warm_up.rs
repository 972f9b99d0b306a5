//! What a fork server does once, so that no job has to.

use wm_analyzer::job::analysis_request::{AnalysisRequest, BodyInput};
use wm_analyzer::sandbox::{Pool, Request};
use wm_testbed::pages;

use crate::harness::{config, generous_limits, pool_with, shared_process};

/// A page and its next version, as the worker hands them to a child.
fn pair_of_pages() -> Request {
    let (a, b) = pages::pair(1, 20_000);
    let body = BodyInput::default;
    let request =
        AnalysisRequest { from: body(), to: body(), max_decoded_bytes: 1 << 20, max_result_bytes: 0 };
    Request { options: serde_json::to_vec(&request).unwrap(), a, b }
}

/// Page faults of a job, on average.
async fn faults_of_a_job(pool: &Pool) -> u64 {
    const JOBS: u64 = 10;
    let before = pool.stats().minor_faults;
    let mut slot = pool.acquire().await;
    for _ in 0..JOBS {
        let reply = slot.run(pair_of_pages(), generous_limits()).await.unwrap();
        assert!(reply.product.answer.starts_with(b"{\"analysed\""));
    }
    (pool.stats().minor_faults - before) / JOBS
}

#[tokio::test]
async fn a_job_of_a_warmed_fork_server_has_fewer_page_faults() {
    let _process = shared_process().await;
    let (warmed, cold) = (pool_with(&config(), 1, &[]).await, pool_with(&config(), 1, &["warm_up"]).await);
    let (of_warmed, of_cold) = (faults_of_a_job(&warmed).await, faults_of_a_job(&cold).await);
    println!("page faults of a job: {of_warmed} warmed, {of_cold} not warmed");
    assert!(of_warmed < of_cold, "{of_warmed} warmed, {of_cold} not warmed");
    warmed.shutdown().await;
    cold.shutdown().await;
}
