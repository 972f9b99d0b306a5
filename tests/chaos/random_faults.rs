//! Random faults: workers and children killed, Redis restarted and frozen, wires cut, processes stopped, in any order; and
//! in the end every job is accounted for once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;
use uuid::Uuid;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, LimitsRequest};
use wm_testbed::body::Body;
use wm_testbed::db_app::{DbState, FakeDb};
use wm_testbed::pages::{self, Rng};
use wm_testbed::poison;
use wm_testbed::redis::RedisOptions;
use wm_testbed::site::Resource;
use wm_testbed::tcp_proxy::{TcpProxy, Upstream};

use crate::harness::{GatedSite, Worker, World, job};
use crate::results::{self, JobHistory};
use crate::small_pair;

/// Workers at a time: a crash leaves two to take over.
const WORKERS: usize = 3;
/// A heap that no honest page fits into.
const TINY_HEAP: u64 = 2 << 20;
/// Workers that vanish while they fetch a job, until it is buried.
const FETCH_CRASHES: u64 = 6;
/// How long the rest may take once the faults are over, on a machine that does other things too.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);

/// What is to become of a job, chaos aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpectedEnd {
    Good,
    NoPage,
    Gone,
    TooLarge,
    Bomb,
    Deadly,
}

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillWorker,
    KillChild,
    StopWorker,
    RollWorker,
    RestartRedis,
    FreezeRedis,
    CutConnections,
}

/// Drawn from as it stands: children and wires are the commonest to break.
const FAULTS: [Fault; 10] = [
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::KillChild,
    Fault::KillChild,
    Fault::StopWorker,
    Fault::RollWorker,
    Fault::RestartRedis,
    Fault::FreezeRedis,
    Fault::CutConnections,
    Fault::CutConnections,
];

struct ChaosRun {
    world: World,
    db: FakeDb,
    proxy: TcpProxy,
    /// Nothing comes back from there.
    gate: GatedSite,
    rng: Rng,
    page: Uuid,
    workers: Vec<Worker>,
    leaving: Vec<Worker>,
    jobs: Vec<(Job, ExpectedEnd)>,
    faults: BTreeMap<Fault, u32>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_in_whatever_order_every_job_ends_once() {
    run_faults(24, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes of it: the same with thousands of jobs"]
async fn whatever_breaks_for_minutes_every_job_of_thousands_ends_once() {
    run_faults(400, 12).await;
}

async fn run_faults(faults: usize, jobs_per_fault: usize) {
    let chosen = std::env::var("WM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = chosen.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    println!("WM_SEED={seed}");
    let mut run = ChaosRun::start(seed).await;
    for _ in 0..faults {
        run.send(jobs_per_fault).await;
        let pause = run.rng.below(150) as u64;
        sleep(Duration::from_millis(pause)).await;
        let fault = FAULTS[run.rng.below(FAULTS.len())];
        run.inject(fault).await;
    }
    run.run_worker_killing_job().await;
    run.settle_and_check().await;
}

impl ChaosRun {
    async fn start(seed: u64) -> Self {
        let durable = RedisOptions::default().persistent().set("appendfsync", "always").tcp();
        let world = World::with_redis_options(durable).await;
        let upstream = Upstream::Tcp((Ipv4Addr::LOCALHOST, world.redis.port()).into());
        let proxy = TcpProxy::to(upstream).await;
        let (db, gate) = (FakeDb::with(DbState::default()).await, GatedSite::closed().await);
        let world = world
            .with("queue.url", proxy.url())
            // A lease is fifteen beats, and short enough that each fault is felt.
            .with("queue.lease", "1500ms")
            .with("queue.events_max", "1000000")
            .with("queue.response_timeout", "1s")
            .with("sandbox.wall", "6s")
            .with("worker.drain", "7s")
            .with("api.url", format!("http://{}", db.address()))
            .with("api.email", "analyst@db.test")
            .with("api.password", "hunter2")
            .with("api.post", "post");
        let workers = (0..WORKERS).map(|_| world.worker()).collect();
        let (rng, page) = (Rng::new(seed), Uuid::new_v4());
        let (leaving, jobs, faults) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { world, db, proxy, gate, rng, page, workers, leaving, jobs, faults }
    }

    /// Sends so many jobs, mostly good ones.
    async fn send(&mut self, count: usize) {
        let mut batch = Vec::new();
        for _ in 0..count {
            let n = self.jobs.len();
            let expected = match self.rng.below(12) {
                0 => ExpectedEnd::NoPage,
                1 => ExpectedEnd::Gone,
                2 => ExpectedEnd::TooLarge,
                3 => ExpectedEnd::Bomb,
                _ => ExpectedEnd::Good,
            };
            let job = Job { page: Some(self.page), ..self.job(&format!("{expected:?}-{n}"), expected) };
            batch.push(job.clone());
            self.jobs.push((job, expected));
        }
        self.world.send(&batch).await;
    }

    fn job(&mut self, name: &str, expected: ExpectedEnd) -> Job {
        let html = |bytes: Vec<u8>| -> Resource { Body::html(bytes).into() };
        match expected {
            ExpectedEnd::Good => {
                let (from, to) = small_pair(self.jobs.len() as u64);
                self.world.bodies(name, html(from), html(to))
            }
            ExpectedEnd::NoPage => {
                let pdf = || Body::raw(poison::pdf(3, 20_000)).header("content-type", "text/html");
                self.world.bodies(name, pdf(), pdf())
            }
            ExpectedEnd::Gone => {
                let (from, _) = small_pair(5);
                self.world.bodies(name, html(from), Resource::Status(404))
            }
            ExpectedEnd::TooLarge => {
                let (from, to) = pages::pair(6, 600_000);
                let limits = LimitsRequest { wall_ms: None, heap_bytes: Some(TINY_HEAP) };
                Job { limits, ..self.world.bodies(name, html(from), html(to)) }
            }
            ExpectedEnd::Bomb => {
                let (from, _) = small_pair(7);
                self.world.bodies(name, poison::gzip_bomb(64 << 20), html(from))
            }
            ExpectedEnd::Deadly => job(name, self.gate.url("/"), self.world.page()),
        }
    }

    async fn inject(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
        let one = self.rng.below(WORKERS);
        match fault {
            Fault::KillWorker => {
                self.workers[one].signal(Signal::KILL);
                self.workers[one] = self.world.worker();
            }
            Fault::KillChild => {
                // One that loses a child before it works gives up, as it should where it cannot start.
                let starting = self.workers[one].log_lines("working").is_empty();
                let children = self.workers[one].descendants();
                if !starting && !children.is_empty() {
                    let pid = children[self.rng.below(children.len())];
                    // It may be gone by now.
                    let _ = kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL);
                }
            }
            Fault::StopWorker => {
                // Up to twice its lease: some come back in time, others have lost all they had.
                self.workers[one].signal(Signal::STOP);
                let pause = self.rng.below(3_000) as u64;
                sleep(Duration::from_millis(pause)).await;
                self.workers[one].signal(Signal::CONT);
            }
            Fault::RollWorker => {
                let leaving = std::mem::replace(&mut self.workers[one], self.world.worker());
                leaving.signal(Signal::TERM);
                self.leaving.push(leaving);
            }
            Fault::RestartRedis => self.world.redis.restart().unwrap(),
            Fault::FreezeRedis => {
                self.world.redis.freeze();
                let pause = self.rng.below(1_500) as u64;
                sleep(Duration::from_millis(pause)).await;
                self.world.redis.thaw();
            }
            Fault::CutConnections => self.proxy.cut_connections(),
        }
    }

    /// A job that no worker survives which fetches it: a few take it beside others, one alone, and there is no seventh.
    async fn run_worker_killing_job(&mut self) {
        results::until_settled(&self.world, SETTLE_TIMEOUT).await;
        let deadly = Job { page: Some(self.page), ..self.job("Deadly", ExpectedEnd::Deadly) };
        self.world.send(std::slice::from_ref(&deadly)).await;
        self.send(12).await;
        for death in 1..=FETCH_CRASHES {
            self.gate.until_requested(death).await;
            let holder = self.world.field(&deadly.id, "worker").await.unwrap();
            let has_it = |worker: &Worker| holder.split(':').any(|part| part == worker.pid().to_string());
            let one = self.workers.iter().position(has_it).expect("one of these has it");
            self.workers[one].signal(Signal::KILL);
            self.workers[one] = self.world.worker();
        }
        self.world.until_event(&deadly.id, "buried").await;
        assert_eq!(self.gate.requests(), FETCH_CRASHES, "there was no seventh");
        self.jobs.push((deadly, ExpectedEnd::Deadly));
    }

    /// The faults are over: all that is left is worked off, everybody leaves, and the histories are checked.
    async fn settle_and_check(mut self) {
        assert!(self.workers.iter_mut().all(Worker::is_running), "a worker gave up");
        results::until_settled(&self.world, SETTLE_TIMEOUT).await;
        for worker in self.leaving.iter_mut() {
            let status = worker.wait_for_exit().await;
            // Told so before it could hear, it had nothing in flight yet.
            let unheard = status.signal() == Some(Signal::TERM.as_raw()) && worker.log_text().is_empty();
            assert!(unheard || status.code() == Some(0), "{status}\n{}", worker.log_text());
        }
        for worker in self.workers.drain(..) {
            worker.stop().await;
        }
        let histories = results::collect_histories(&self.world, self.jobs.iter().map(|(job, _)| job)).await;
        let mut ends: BTreeMap<String, u32> = BTreeMap::new();
        for (job, expected) in &self.jobs {
            let history = &histories[&job.id];
            self.check(job, *expected, history).await;
            let end = history.kind.map_or_else(|| history.end.clone(), |kind| kind.to_string());
            *ends.entry(end).or_default() += 1;
        }
        assert_eq!(self.db.with_state(|db| db.rewritten.clone()), [""; 0], "two annotations that differ");
        let again = histories.values().filter(|history| history.runs > 1).count();
        println!("{} jobs {ends:?}, {again} ran again; {:?}", self.jobs.len(), self.faults);
    }

    async fn check(&self, job: &Job, expected: ExpectedEnd, history: &JobHistory) {
        let (id, end) = (&job.id, history.end.as_str());
        if history.ended_by_chaos() && expected != ExpectedEnd::Deadly {
            return;
        }
        match expected {
            ExpectedEnd::Good => {
                assert_eq!((end, history.kind), ("done", None), "{id}");
                let report = self.world.report(job).await.expect("a report");
                let change = format!("{}..{}", report["from"].as_str().unwrap(), job.to.uuid());
                let posted =
                    self.db.with_state(|db| db.annotations.keys().any(|(posted, _)| *posted == change));
                assert!(posted, "{id} is done, and nobody was told");
            }
            ExpectedEnd::NoPage => assert_eq!(end, "skipped", "{id}"),
            ExpectedEnd::Gone => assert_eq!(history.kind, Some(FailureKind::Gone), "{id}"),
            ExpectedEnd::TooLarge => assert_eq!(history.kind, Some(FailureKind::MemoryExceeded), "{id}"),
            ExpectedEnd::Bomb => assert_eq!(history.kind, Some(FailureKind::DecompressionBomb), "{id}"),
            ExpectedEnd::Deadly => assert_eq!(history.kind, Some(FailureKind::CrashLoop), "{id}"),
        }
        let poison = matches!(expected, ExpectedEnd::TooLarge | ExpectedEnd::Bomb);
        assert!(
            !poison || history.returns > 0 || history.runs == 1,
            "{id}: poison ran {} times",
            history.runs
        );
    }
}
