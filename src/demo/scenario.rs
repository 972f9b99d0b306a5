//! The story: a private Redis, a misbehaving site, the real worker, good and poison pairs, and what became of
//! each.
//!
//! Nothing in it is played: jobs go in as any producer sends them, and what became of them is read from the
//! queue, as any consumer reads it. The alerts are counted where they arrive.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cases::{self, Case};
use super::results::{DemoMeasurements, DemoResults};
use crate::config::assemble::{VERSION, WorkerParts, build};
use crate::config::{Config, ConfigSources, LoadedConfig};
use crate::job::report::Report;
use crate::ops::Exit;
use crate::ops::progress::Progress;
use crate::ops::render::{self, BOLD, DIM, styled};
use crate::queue::{OperatorHandle, ProducerHandle, Queue, WorkerHandle};
use crate::results::ResultStore;
use crate::sandbox::Pool;
use crate::telemetry::logs;
use crate::telemetry::sentry::{AlertSource, Alerts, AlertsGuard};
use crate::web::dash;
use crate::worker::shutdown::{Phase, Phases};
use crate::worker::{Worker, WorkerExit};
use wm_testbed::fake_sentry::{FakeSentry, ResponseMode};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::site::Site;

/// What the demo sets, with the reasons beside the numbers.
const SETTINGS: &str = include_str!("../../config/demo.toml");
/// How often the queue is asked what became of the jobs.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of progress lines when stderr is not a terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// A demo that has not ended by then is broken, and says what is missing.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Events read in one step.
const EVENTS_BATCH: usize = 500;

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// What kept the demo from its end.
type DemoError = Box<dyn std::error::Error>;

/// Plays it, tells it, and judges it: `Ok` only if every class ended as it should. With `dash` the pages of the queue are
/// served there meanwhile and until they are interrupted.
pub async fn run(pairs: u32, dash: Option<SocketAddr>, json: bool) -> Exit {
    let problems = match run_jobs(pairs as usize, dash).await {
        Ok(results) => {
            if json {
                render::json(SCHEMA_VERSION, &results.to_json());
            } else {
                render::line(results.to_table());
                render::line(results.to_summary());
            }
            results.problems()
        }
        Err(what) => vec![what.to_string()],
    };
    problems.iter().for_each(render::error);
    if problems.is_empty() { Exit::Ok } else { Exit::Failed }
}

async fn run_jobs(pairs: usize, dash: Option<SocketAddr>) -> Result<DemoResults, DemoError> {
    let (environment, worker) = DemoEnvironment::start().await?;
    let pages = match dash {
        Some(address) => Some(environment.serve_pages(address).await?),
        None => None,
    };
    let mut cases = vec![cases::good(&environment.site, pairs)];
    cases.extend(cases::hostile(&environment.site));
    let payloads = interleaved(&cases);
    print_step(&format!(
        "{} jobs of {} classes: {pairs} good pairs, {} that are not",
        payloads.len(),
        cases.len(),
        payloads.len() - pairs
    ));
    let mut results = DemoResults::new(cases);

    let running = tokio::spawn(worker.run());
    environment.producer.push(&payloads).await?;
    collect_events(&environment.queue, &mut results).await?;
    if let Some(pages) = pages {
        print_step("all jobs have ended; the pages and the worker stay until you press Ctrl-C");
        print_step("the incident of 2018 is the job demo-incident-0: find it at the top of a page");
        tokio::signal::ctrl_c().await?;
        pages.abort();
    }
    environment.finish(running, results).await
}

/// Everything the story needs, standing.
struct DemoEnvironment {
    site: Site,
    sentry: FakeSentry,
    producer: ProducerHandle,
    queue: WorkerHandle,
    pool: Pool,
    guard: AlertsGuard,
    phases: Phases,
    config: Config,
    // Last, so that it outlives what talks to it.
    _redis: PrivateRedis,
}

impl DemoEnvironment {
    async fn start() -> Result<(Self, Worker), DemoError> {
        let redis = tokio::task::spawn_blocking(|| {
            PrivateRedis::start_with_progress(RedisOptions::default(), &mut print_step)
        })
        .await??;
        let site = Site::start().await.map_err(|e| format!("no site on loopback: {e}"))?;
        let sentry = FakeSentry::start(ResponseMode::Accept)
            .await
            .map_err(|e| format!("no sentry on loopback: {e}"))?;
        let config = demo_config(&redis.url(), &sentry.dsn())?;
        // A second initialisation, in tests, is no reason not to run.
        let _ = logs::init(&config.log);
        let (alerts, guard) = Alerts::start(&config.sentry, &build(), AlertSource::default())?;
        let producer = ProducerHandle::connect(&config.queue, config.sink()).await?;
        let queue = WorkerHandle::connect(&config.queue, config.sink()).await?;
        let phases = Phases::default();
        let parts = WorkerParts { alerts, phases: phases.clone(), ..WorkerParts::new(queue.clone()) };
        let worker = config.worker(parts).await?;
        let pool = worker.pool.clone();
        let slots = config.slots()?;
        print_step(&format!(
            "{} {} on a private socket, {slots} children with {}, nothing leaves this machine",
            redis.server().program().file_name().unwrap_or_default().to_string_lossy(),
            redis.version(),
            pool.isolation().join(" + ")
        ));
        Ok((Self { site, sentry, producer, queue, pool, guard, phases, config, _redis: redis }, worker))
    }

    /// Opens the dashboard on the demo's queue.
    async fn serve_pages(&self, address: SocketAddr) -> Result<JoinHandle<()>, DemoError> {
        let mut dash = self.config.dash.clone();
        dash.bind = address;
        let parts = dash::Parts {
            config: dash,
            queue_config: self.config.queue.clone(),
            queue: OperatorHandle::connect(&self.config.queue, self.config.sink()).await?,
            sandbox: self.config.sandbox.clone(),
            results: ResultStore::open(&self.config.results)?,
            environment: "demo".to_owned(),
            version: VERSION.to_owned(),
        };
        let server = dash::Server::bind(parts).await?;
        print_step(&format!("dashboard  http://{}/", server.address()));
        Ok(tokio::spawn(async move {
            if let Err(error) = server.serve(CancellationToken::new()).await {
                render::error(format!("the dashboard is not served any more: {error}"));
            }
        }))
    }

    async fn finish(
        self,
        running: JoinHandle<WorkerExit>,
        mut results: DemoResults,
    ) -> Result<DemoResults, DemoError> {
        let good = good_pair_times(&self.queue, &results).await?;
        self.phases.advance(Phase::Draining);
        running.await.map_err(|e| format!("the worker did not end well: {e}"))?;
        let stats = self.pool.stats();
        // Closing sends what the gate still holds back; only then is the count complete.
        tokio::task::spawn_blocking(|| self.guard.close()).await?;
        results.measurements = DemoMeasurements {
            peak_bytes_max: stats.peak_heap_bytes,
            wall_ms_max: stats.longest_ms,
            good_ms: good,
            fork_servers_respawned: stats.respawned,
            alerts: self.sentry.alerts(),
        };
        Ok(results)
    }
}

fn demo_config(redis: &str, dsn: &str) -> Result<Config, String> {
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let sources = ConfigSources {
        texts: vec![("config/demo.toml".to_owned(), SETTINGS.to_owned())],
        flags: vec![set("queue.url", redis), set("sentry.dsn", dsn)],
        ..ConfigSources::default()
    };
    LoadedConfig::load(&sources).map(|loaded| loaded.config).map_err(|errors| errors.join("\n"))
}

/// All payloads, the classes evenly mixed, so that the poison runs beside the good pairs.
fn interleaved(cases: &[Case]) -> Vec<Vec<u8>> {
    let mut placed: Vec<(f64, &Vec<u8>)> = Vec::new();
    for (class, case) in cases.iter().enumerate() {
        let step = 1.0 / case.jobs.len().max(1) as f64;
        // Each class is spread over the whole run, and begins a little later than the one before it.
        let shift = class as f64 / cases.len() as f64 * step;
        placed.extend(case.jobs.iter().enumerate().map(|(n, job)| (n as f64 * step + shift, job)));
    }
    placed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    placed.into_iter().map(|(_, job)| job.clone()).collect()
}

async fn collect_events(queue: &Queue, results: &mut DemoResults) -> Result<(), DemoError> {
    let bar = Progress::new(results.enqueued(), "{bar:40.cyan/blue} {pos}/{len}  {msg}", PROGRESS_INTERVAL);
    let start = Instant::now();
    let mut cursor = String::from("0");
    while results.open() > 0 {
        if start.elapsed() > TIMEOUT {
            return Err(format!("{} jobs have no ending after {TIMEOUT:?}", results.open()).into());
        }
        let events = queue.events(&cursor, EVENTS_BATCH).await?;
        if let Some(last) = events.last() {
            cursor.clone_from(&last.at);
        }
        let full = events.len() == EVENTS_BATCH;
        events.iter().for_each(|event| results.record(event));
        let (enqueued, ended) = (results.enqueued(), results.enqueued() - results.open());
        bar.show(ended, counts(results), |counts| demo_line(&format!("{ended}/{enqueued}  {counts}")));
        if !full {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    if !bar.is_bar() {
        print_step(&format!("{0}/{0}  {1}", results.enqueued(), counts(results)));
    }
    drop(bar);
    render::note(styled(DIM, ""));
    Ok(())
}

/// Milliseconds that each good pair took, fetching and analysing, as its report says.
async fn good_pair_times(queue: &Queue, results: &DemoResults) -> Result<Vec<u64>, DemoError> {
    let mut times = Vec::new();
    for (from, to) in results.good_pairs() {
        let text = queue.report(from, to).await?;
        let report: Option<Report> = text.and_then(|text| serde_json::from_str(&text).ok());
        times.extend(report.and_then(|report| report.timings).map(|t| t.fetch_ms + t.analyse_ms));
    }
    times.sort_unstable();
    Ok(times)
}

fn print_step(text: &str) {
    render::note(demo_line(text));
}

fn demo_line(text: &str) -> String {
    format!("{} {text}", styled(BOLD, "demo"))
}

fn counts(results: &DemoResults) -> String {
    let jobs: HashMap<&str, u64> = results.jobs().into_iter().collect();
    format!(
        "done {} · skipped {} · retried {} · dead {}",
        jobs["done"], jobs["skipped"], jobs["retried"], jobs["dead"]
    )
}
