//! A no-op worker of the crate `bullmq-official` on a Redis that somebody else started: what our queue is measured
//! against (`cargo bench --bench queue -- --peer`). Prints one line: seconds to enqueue, seconds from the first
//! completion to the last, and how many completed between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bullmq::options::RedisConnectionOptions;
use bullmq::queue::BulkJob;
use bullmq::{Queue, QueueOptions, Worker, WorkerOptions};
use tokio::sync::mpsc;

/// Jobs per bulk call, as ours are enqueued.
const BATCH: usize = 100;
/// A worker that completes nothing for so long has stalled.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, jobs, hands] = &args[..] else { panic!("usage: queue-peer URL JOBS HANDS") };
    let (jobs, hands): (usize, usize) = (jobs.parse().unwrap(), hands.parse().unwrap());
    let connection = RedisConnectionOptions::new().url(url);
    let name = "peer";

    let enqueue = fill(name, &connection, jobs, hands).await;

    let (tell, mut completed) = mpsc::unbounded_channel();
    let begun = Arc::new(AtomicUsize::new(0));
    let processor = {
        let begun = Arc::clone(&begun);
        move |_job, _token| {
            begun.fetch_add(1, Ordering::Relaxed);
            async { Ok(serde_json::Value::Null) }
        }
    };
    let options = WorkerOptions { connection, concurrency: hands, ..WorkerOptions::default() };
    let worker = Arc::new(Worker::with_options(name, processor, options).await.unwrap());
    let events = Arc::clone(&worker);
    tokio::spawn(async move {
        while let Some(event) = events.next_event().await {
            if matches!(event, bullmq::worker::WorkerEvent::Completed { .. })
                && tell.send(Instant::now()).is_err()
            {
                break;
            }
        }
    });
    // Not on the main thread: to wake that for every job would be what is measured.
    let counting = tokio::spawn(async move {
        let first = tokio::time::timeout(PATIENCE, completed.recv()).await.unwrap().unwrap();
        let mut last = first;
        for done in 1..jobs {
            match tokio::time::timeout(PATIENCE, completed.recv()).await {
                Ok(Some(at)) => last = at,
                Ok(None) | Err(_) => panic!("stalled after {done} of {jobs}"),
            }
        }
        last - first
    });
    let span = counting.await.unwrap();
    println!("{} {} {}", enqueue.as_secs_f64(), span.as_secs_f64(), jobs - 1);
    worker.close(5_000).await.unwrap();
}

async fn fill(name: &str, connection: &RedisConnectionOptions, jobs: usize, hands: usize) -> Duration {
    let options = || QueueOptions { connection: connection.clone(), ..QueueOptions::default() };
    let start = Instant::now();
    let mut fillers = tokio::task::JoinSet::new();
    for n in 0..hands {
        let (share, options) = (jobs / hands + usize::from(n < jobs % hands), options());
        let name = name.to_owned();
        fillers.spawn(async move {
            let queue = Queue::with_options(&name, options).await.unwrap();
            for from in (0..share).step_by(BATCH) {
                let batch = from..share.min(from + BATCH);
                // As many bytes as our smallest job: two uuids.
                let data = serde_json::json!({ "from": "0".repeat(36), "to": "1".repeat(36) });
                queue.add_bulk(batch.map(|_| BulkJob::new("noop", &data)).collect()).await.unwrap();
            }
        });
    }
    fillers.join_all().await;
    start.elapsed()
}
