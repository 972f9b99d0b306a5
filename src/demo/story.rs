//! The story: a private Redis, a misbehaving site, the real worker, good and poison pairs, and what became of each.
//!
//! Nothing in it is played: jobs go in as any producer sends them, and what became of them is read from the queue, as
//! any consumer reads it. The alerts are counted where they arrive.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::cases::{self, Case};
use super::tally::{Measures, Tally};
use crate::config::assemble::{build, executable};
use crate::config::{Config, Loaded, Sources};
use crate::job::report::Report;
use crate::ops::Exit;
use crate::ops::render::{self, BOLD, DIM, styled};
use crate::queue::{ProducerHandle, Queue, WorkerHandle};
use crate::sandbox::Pool;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::{Alerts, Guard};
use crate::worker::Ended;
use crate::worker::shutdown::{Phase, Phases};
use wm_testbed::ingest::Ingest;
use wm_testbed::redis::{Options, PrivateRedis};
use wm_testbed::site::Site;

/// What the demo sets, with the reasons beside the numbers.
const SETTINGS: &str = include_str!("../../config/demo.toml");
/// How often the queue is asked what became of the jobs.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often progress is told where there is no terminal to draw on.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// A demo that has not ended by then is broken, and says what is missing.
const PATIENCE: Duration = Duration::from_secs(600);
/// Events read in one step.
const EVENTS_BATCH: usize = 500;

/// Plays it, tells it, and judges it: `Ok` only if every class ended as it should.
pub async fn run(pairs: u32, json: bool) -> Exit {
    match play(pairs as usize).await {
        Ok(tally) => {
            if json {
                render::json(&tally.to_json());
            } else {
                render::line(tally.to_table());
                render::line(tally.to_summary());
            }
            match tally.problems().as_slice() {
                [] => Exit::Ok,
                problems => {
                    problems.iter().for_each(render::failure);
                    Exit::Failed
                }
            }
        }
        Err(what) => {
            render::failure(what);
            Exit::Failed
        }
    }
}

async fn play(pairs: usize) -> Result<Tally, String> {
    let stage = Stage::set().await?;
    let mut cast = vec![cases::good(&stage.site, pairs)];
    cast.extend(cases::hostile(&stage.site));
    let payloads = shuffled(&cast);
    say(&format!(
        "{} jobs of {} classes: {pairs} good pairs, {} that are not",
        payloads.len(),
        cast.len(),
        payloads.len() - pairs
    ));
    let mut tally = Tally::new(cast);

    let running = stage.start_worker()?;
    stage.producer.push(&payloads).await.map_err(|e| e.to_string())?;
    watch(&stage.queue, &mut tally).await?;
    stage.end(running, tally).await
}

/// Everything the story needs, standing.
struct Stage {
    config: Config,
    site: Site,
    ingest: Ingest,
    producer: ProducerHandle,
    queue: WorkerHandle,
    pool: Pool,
    alerts: Alerts,
    guard: Guard,
    phases: Phases,
    // Last, so that it outlives what talks to it.
    _redis: PrivateRedis,
}

impl Stage {
    async fn set() -> Result<Self, String> {
        let redis = tokio::task::spawn_blocking(|| PrivateRedis::start_saying(Options::default(), &mut say))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        let site = Site::start().await.map_err(|e| format!("no site on loopback: {e}"))?;
        let ingest = Ingest::start().await.map_err(|e| format!("no ingest on loopback: {e}"))?;
        let config = settings(&redis.url(), &ingest.dsn())?;
        // A second initialisation, in tests, is no reason not to play.
        let _ = logs::init(&config.log);
        let (alerts, guard) = Alerts::start(&config.sentry, &build()).map_err(|e| e.to_string())?;
        let producer =
            ProducerHandle::connect(&config.queue, config.sink()).await.map_err(|e| e.to_string())?;
        let queue = WorkerHandle::connect(&config.queue, config.sink()).await.map_err(|e| e.to_string())?;
        let slots = config.slots()?;
        let pool = config.pool(slots, executable()).await.map_err(|e| e.to_string())?;
        say(&format!(
            "{} {} on a private socket, {slots} children with {}, nothing leaves this machine",
            redis.server().program().file_name().unwrap_or_default().to_string_lossy(),
            redis.version(),
            pool.isolation().join(" + ")
        ));
        Ok(Self {
            config,
            site,
            ingest,
            producer,
            queue,
            pool,
            alerts,
            guard,
            phases: Phases::default(),
            _redis: redis,
        })
    }

    fn start_worker(&self) -> Result<JoinHandle<Ended>, String> {
        let (queue, pool, alerts) = (self.queue.clone(), self.pool.clone(), self.alerts.clone());
        let mut worker = self.config.worker(
            queue,
            pool,
            alerts,
            Metrics::new(self.queue.name(), env!("CARGO_PKG_VERSION"), "demo"),
            false,
        )?;
        worker.phases = self.phases.clone();
        Ok(tokio::spawn(worker.run()))
    }

    async fn end(self, running: JoinHandle<Ended>, mut tally: Tally) -> Result<Tally, String> {
        let good = good_times(&self.queue, &tally).await?;
        self.phases.advance(Phase::Draining);
        running.await.map_err(|e| format!("the worker did not end well: {e}"))?;
        let stats = self.pool.stats();
        // Closing sends what the gate still holds back; only then is the count complete.
        tokio::task::spawn_blocking(|| self.guard.close()).await.map_err(|e| e.to_string())?;
        tally.measures = Measures {
            peak_bytes_max: stats.peak_heap_bytes,
            wall_ms_max: stats.longest_ms,
            good_ms: good,
            children_respawned: stats.respawned,
            alerts: self.ingest.alerts(),
        };
        Ok(tally)
    }
}

fn settings(redis: &str, dsn: &str) -> Result<Config, String> {
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let sources = Sources {
        texts: vec![("config/demo.toml".to_owned(), SETTINGS.to_owned())],
        flags: vec![set("queue.url", redis), set("sentry.dsn", dsn)],
        ..Sources::default()
    };
    Loaded::load(&sources).map(|loaded| loaded.config).map_err(|errors| errors.join("\n"))
}

/// All payloads, the classes evenly mixed, so that the poison runs beside the good pairs.
fn shuffled(cast: &[Case]) -> Vec<Vec<u8>> {
    let mut placed: Vec<(f64, &Vec<u8>)> = Vec::new();
    for (class, case) in cast.iter().enumerate() {
        let step = 1.0 / case.jobs.len().max(1) as f64;
        // Each class is spread over the whole run, and begins a little later than the one before it.
        let shift = class as f64 / cast.len() as f64 * step;
        placed.extend(case.jobs.iter().enumerate().map(|(n, job)| (n as f64 * step + shift, job)));
    }
    placed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    placed.into_iter().map(|(_, job)| job.clone()).collect()
}

async fn watch(queue: &Queue, tally: &mut Tally) -> Result<(), String> {
    let bar = Progress::new(tally.enqueued());
    let start = Instant::now();
    let mut cursor = String::from("0");
    while tally.open() > 0 {
        if start.elapsed() > PATIENCE {
            return Err(format!("{} jobs have no ending after {PATIENCE:?}", tally.open()));
        }
        let events = queue.events(&cursor, EVENTS_BATCH).await.map_err(|e| e.to_string())?;
        if let Some(last) = events.last() {
            cursor.clone_from(&last.at);
        }
        let full = events.len() == EVENTS_BATCH;
        events.iter().for_each(|event| tally.note(event));
        bar.show(tally);
        if !full {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    bar.finish(tally);
    Ok(())
}

/// Milliseconds that each good pair took, fetching and analysing, as its report says.
async fn good_times(queue: &Queue, tally: &Tally) -> Result<Vec<u64>, String> {
    let mut times = Vec::new();
    for (from, to) in tally.good_pairs() {
        let text = queue.report(from, to).await.map_err(|e| e.to_string())?;
        let report: Option<Report> = text.and_then(|text| serde_json::from_str(&text).ok());
        times.extend(report.and_then(|report| report.timings).map(|t| t.fetch_ms + t.analyse_ms));
    }
    times.sort_unstable();
    Ok(times)
}

fn say(text: &str) {
    render::note(format!("{} {text}", styled(BOLD, "demo")));
}

/// A bar where a terminal can draw one, a line now and then where it cannot.
struct Progress {
    bar: Option<ProgressBar>,
    said: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40.cyan/blue} {pos}/{len}  {msg}");
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, said: std::cell::Cell::new(Instant::now()) }
    }

    fn show(&self, tally: &Tally) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(tally.enqueued() - tally.open());
                bar.set_message(counts(tally));
            }
            None if self.said.get().elapsed() > SAY_EVERY => {
                self.said.set(Instant::now());
                say(&format!("{}/{}  {}", tally.enqueued() - tally.open(), tally.enqueued(), counts(tally)));
            }
            None => {}
        }
    }

    fn finish(&self, tally: &Tally) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => say(&format!("{0}/{0}  {1}", tally.enqueued(), counts(tally))),
        }
        render::note(styled(DIM, ""));
    }
}

fn counts(tally: &Tally) -> String {
    let jobs: HashMap<&str, u64> = tally.jobs().into_iter().collect();
    format!(
        "done {} · skipped {} · retried {} · dead {}",
        jobs["done"], jobs["skipped"], jobs["retried"], jobs["dead"]
    )
}
