//! Runs the pairs: in this process, in the sandbox, through the worker, and by the peer.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wm_analyzer::analysis::child;
use wm_analyzer::config::{Config, ConfigSources, LoadedConfig};
use wm_analyzer::demo::cases;
use wm_analyzer::job::analysis_request::{AnalysisRequest, BodyInput};
use wm_analyzer::sandbox::{Limits, Pool, Request, Slot};
use wm_testbed::processes::{cpu_time, descendants, resident_bytes_of};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;
use wm_testbed::site::Site;

use crate::corpus::Pair;

/// Slots of the sandbox, and processes of the peer.
pub(crate) const SLOTS: usize = 2;
/// A worker that takes longer than this has failed.
const WORKER_TIMEOUT: Duration = Duration::from_secs(300);
/// How often the memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(10);

pub(crate) fn config(more: &[(&str, &str)]) -> Config {
    let flags = more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    LoadedConfig::load(&ConfigSources { flags, ..ConfigSources::default() }).unwrap().config
}

fn executable() -> PathBuf {
    env!("CARGO_BIN_EXE_wm-analyzer").into()
}

/// What the worker asks a child about a pair.
fn options() -> Vec<u8> {
    let body = || BodyInput { media_type: Some("text/html".to_owned()), ..BodyInput::default() };
    let request =
        AnalysisRequest { from: body(), to: body(), max_decoded_bytes: 10 << 20, max_result_bytes: 0 };
    serde_json::to_vec(&request).unwrap()
}

/// Time that one analysis took.
#[derive(Clone, Copy)]
pub(crate) struct AnalysisTime {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// CPU time that this thread has used.
fn thread_cpu_time() -> Duration {
    // The kernel brings its count up to date when a thread yields, else at its next tick.
    std::thread::yield_now();
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}

/// Analyses a pair in this thread.
pub(crate) fn in_process(pair: &Pair) -> AnalysisTime {
    let (options, from, to) = (options(), pair.from.clone(), pair.to.clone());
    let (began, cpu) = (Instant::now(), thread_cpu_time());
    let (reply, _) = child::answer(&options, from, to, |_| {});
    let took = AnalysisTime { wall: began.elapsed(), cpu: thread_cpu_time() - cpu };
    assert!(!reply.is_empty(), "{}", pair.name);
    took
}

/// A pool without these parts of a fork server, and its fork servers.
pub(crate) async fn pool(slots: usize, without: &[&str]) -> (Pool, Vec<u32>) {
    let before = descendants(std::process::id());
    let sandbox = config(&[]).sandbox;
    let pool = Pool::start_with_layers_disabled(&sandbox, slots, executable(), without).await.unwrap();
    (pool, descendants(std::process::id()).difference(&before).copied().collect())
}

/// Analyses a pair in a child; the wall-clock time that it took.
pub(crate) async fn in_sandbox(slot: &mut Slot, pair: &Pair, limits: Limits) -> Duration {
    let request = Request { options: options(), a: pair.from.clone(), b: pair.to.clone() };
    let began = Instant::now();
    let reply = slot.run(request, limits).await;
    let took = began.elapsed();
    assert!(reply.is_ok(), "{}: {reply:?}", pair.name);
    took
}

/// What one round over all pairs took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) wall: Duration,
    /// Of every process that took part.
    pub(crate) cpu: Duration,
    /// Most resident memory of the processes that analyse.
    pub(crate) peak_bytes: u64,
}

impl Round {
    pub(crate) fn per_second(&self, pairs: usize) -> f64 {
        pairs as f64 / self.wall.as_secs_f64()
    }

    pub(crate) fn cpu_ms(&self, pairs: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / pairs as f64
    }
}

/// CPU time of processes, with that of the children that they have waited for.
pub(crate) fn cpu_of(pids: impl IntoIterator<Item = u32>) -> Duration {
    pids.into_iter().map(cpu_time).map(|time| time.own + time.children).sum()
}

/// Looks at the resident memory of processes and of their children until it is stopped.
struct MemoryWatch(Arc<AtomicBool>, std::thread::JoinHandle<u64>);

/// Children of a process with a single thread.
fn children_of(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

impl MemoryWatch {
    fn start(processes: Vec<u32>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let watch = std::thread::spawn(move || {
            let mut peak = 0;
            while !stop.load(Relaxed) {
                let children = processes.iter().flat_map(|&process| children_of(process));
                let all = children.chain(processes.iter().copied());
                peak = peak.max(all.filter_map(resident_bytes_of).sum());
                std::thread::park_timeout(MEMORY_EVERY);
            }
            peak
        });
        Self(stopped, watch)
    }

    fn stop(self) -> u64 {
        self.0.store(true, Relaxed);
        self.1.thread().unpark();
        self.1.join().unwrap()
    }
}

/// All pairs in the sandbox, on every slot at once.
pub(crate) async fn sandbox_round(
    (pool, fork_servers): &(Pool, Vec<u32>),
    pairs: &Arc<Vec<Pair>>,
    limits: Limits,
) -> Round {
    let watch = MemoryWatch::start(fork_servers.clone());
    let cpu = || cpu_of(fork_servers.iter().copied()) + cpu_time(std::process::id()).own;
    let (began, before) = (Instant::now(), cpu());
    let next = Arc::new(AtomicUsize::new(0));
    let mut slots = tokio::task::JoinSet::new();
    for _ in 0..SLOTS {
        let (pool, pairs, next) = (pool.clone(), Arc::clone(pairs), Arc::clone(&next));
        slots.spawn(async move {
            let mut slot = pool.acquire().await;
            while let Some(pair) = pairs.get(next.fetch_add(1, Relaxed)) {
                in_sandbox(&mut slot, pair, limits).await;
            }
        });
    }
    slots.join_all().await;
    Round { wall: began.elapsed(), cpu: cpu() - before, peak_bytes: watch.stop() }
}

/// What a job costs from the inbox to its report, by a worker that is a process of its own.
pub(crate) struct WorkerCost {
    pub(crate) jobs: usize,
    pub(crate) wall: Duration,
    /// Of the worker alone.
    pub(crate) worker_cpu: Duration,
    /// Of fork servers and jobs.
    pub(crate) children_cpu: Duration,
    /// Resident memory of the worker alone, at the end.
    pub(crate) worker_bytes: u64,
}

/// Runs the demo's good pairs through a worker.
pub(crate) async fn worker(jobs: usize) -> WorkerCost {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    let site = Site::start().await.unwrap();
    let config = config(&[("queue.url", &redis.url())]);
    let queue = Roles::connect_for(&config.queue, config.sink()).await.unwrap();
    let mut worker = Command::new(executable())
        .arg("work")
        .env_clear()
        .env("WM__QUEUE__URL", redis.url())
        .env("WM__FETCH__ALLOW_NETWORKS", "127.0.0.0/8")
        .env("WM__WEB__BIND", "")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let payloads = cases::good(&site, SLOTS + jobs).jobs;
    let mut done = 0;
    let mut run = async |payloads: &[Vec<u8>]| {
        queue.producer.push(payloads).await.unwrap();
        done += payloads.len() as u64;
        let began = Instant::now();
        while queue.status().await.unwrap().last_day.get("done").copied().unwrap_or(0) < done {
            assert!(began.elapsed() < WORKER_TIMEOUT, "the worker does not get through its jobs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    };
    run(&payloads[..SLOTS]).await; // what happens once: connections, scripts, fork servers
    let pid = worker.id();
    let cpu = || (cpu_time(pid).own, cpu_of(descendants(pid)));
    let before = cpu();
    let wall = run(&payloads[SLOTS..]).await;
    let (after, worker_bytes) = (cpu(), resident_bytes_of(pid).unwrap_or(0));
    worker.kill().unwrap();
    worker.wait().unwrap();
    let (worker_cpu, children_cpu) = (after.0 - before.0, after.1 - before.1);
    WorkerCost { jobs, wall, worker_cpu, children_cpu, worker_bytes }
}

/// Processes that run web-monitoring-diff.
pub(crate) struct Peer(Vec<PeerProcess>);

struct PeerProcess {
    child: Child,
    pairs: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts them with this Python, which has the package.
    pub(crate) fn start(python: &str) -> Self {
        Self((0..SLOTS).map(|_| PeerProcess::start(python)).collect())
    }

    /// All pairs, on every process at once.
    pub(crate) fn round(&mut self, files: &[(PathBuf, PathBuf)]) -> Round {
        let pids: Vec<u32> = self.0.iter().map(|process| process.child.id()).collect();
        let watch = MemoryWatch::start(pids.clone());
        let (began, before) = (Instant::now(), cpu_of(pids.clone()));
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for process in &mut self.0 {
                let next = &next;
                scope.spawn(move || {
                    while let Some((a, b)) = files.get(next.fetch_add(1, Relaxed)) {
                        process.diff(a, b);
                    }
                });
            }
        });
        Round { wall: began.elapsed(), cpu: cpu_of(pids) - before, peak_bytes: watch.stop() }
    }

    /// CPU time of one pair.
    pub(crate) fn cpu_of_one(&mut self, a: &Path, b: &Path) -> Duration {
        let process = &mut self.0[0];
        let before = cpu_of([process.child.id()]);
        process.diff(a, b);
        cpu_of([process.child.id()]) - before
    }
}

impl PeerProcess {
    fn start(python: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer/diffs.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{python}: {error}"));
        let (pairs, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, pairs, answers };
        assert_eq!(process.read(), "ready", "web-monitoring-diff does not start by {python}");
        process
    }

    fn diff(&mut self, a: &Path, b: &Path) {
        writeln!(self.pairs, "{}\t{}", a.display(), b.display()).unwrap();
        assert_eq!(self.read(), "ok", "{}", a.display());
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
