//! What an analysis costs, alone, in the sandbox and through the worker, beside its goals and beside web-monitoring-diff:
//!
//! `cargo bench --bench engine [-- [--pairs DIR] [--peer [PYTHON]] [--plot FILE] [--only PART]]`
//!
//! `--pairs` takes real pages, `DIR/<pair>/a.html` and `b.html`, instead of generated ones; `--peer` measures
//! web-monitoring-diff, which PYTHON must have, in turns with ours; `--plot` writes cost against size as SVG. PART is one of
//! `pairs`, `sandbox`, `worker`, `sizes` and `shapes`.
//!
//! CPU time and ratios of one run mean something on a busy machine, too; wall-clock times and rates belong to a machine.
//! A goal that is not met is printed as such and fails nothing.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench talks to whoever runs it, and stops at a surprise"
)]

mod corpus;
mod measure;
mod plot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wm_analyzer::sandbox::{Limits, Pool};

use self::corpus::Pair;
use self::measure::{AnalysisTime, Peer, Round};
use self::plot::Series;

/// Rounds over all pairs; the best is compared, because others on the machine only ever add time.
const ROUNDS: usize = 3;
/// Runs of the median page on each side.
const MEDIAN_RUNS: usize = 1000;
/// Runs of a side before it is the turn of the other.
const MEDIAN_BATCH: usize = 20;
/// Jobs that go through the worker.
const WORKER_JOBS: usize = 400;
const SIZES: [usize; 7] = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];
/// Larger pages take the peer minutes.
const PEER_MAX_BYTES: usize = 1_000_000;
const MIB: f64 = 1024.0 * 1024.0;

/// The command line.
#[derive(Default)]
struct Options {
    pairs: Option<PathBuf>,
    peer: Option<String>,
    plot: Option<PathBuf>,
    only: Option<String>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self::default();
        let mut arguments = std::env::args().skip(1).peekable();
        while let Some(argument) = arguments.next() {
            let value = arguments.next_if(|next| !next.starts_with("--"));
            match argument.as_str() {
                "--pairs" => options.pairs = Some(value.unwrap().into()),
                "--peer" => options.peer = Some(value.unwrap_or_else(|| "python3".to_owned())),
                "--plot" => options.plot = Some(value.unwrap().into()),
                "--only" => options.only = Some(value.unwrap()),
                "--bench" => {} // from cargo
                other => panic!("{other:?} is no option of this bench"),
            }
        }
        options
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let pairs = Arc::new(corpus::pairs(options.pairs.as_deref()));
    let mut peer = options.peer.as_deref().map(Peer::start);
    let files = tempfile::tempdir().unwrap();
    let mut goals = Goals::default();
    let megabytes = pairs.iter().map(Pair::bytes).sum::<usize>() as f64 / 1e6;
    println!("{} pairs, {megabytes:.1} MB on both sides\n", pairs.len());
    if options.wants("sandbox") {
        sandbox_overhead(&pairs, &mut goals).await;
    }
    let mut children_bytes = None;
    if options.wants("pairs") {
        alone(&pairs, &mut goals);
        children_bytes = Some(rounds(&pairs, peer.as_mut(), files.path(), &mut goals).await);
    }
    if options.wants("worker") {
        worker(children_bytes, &mut goals).await;
    }
    if options.wants("sizes") {
        let series = sizes(peer.as_mut(), files.path());
        if let Some(path) = &options.plot {
            std::fs::write(path, plot::svg(&series)).unwrap();
        }
    }
    if options.wants("shapes") {
        shapes(&mut goals);
    }
    goals.print();
}

/// What was to be reached, and what was.
#[derive(Default)]
struct Goals(Vec<(&'static str, f64, Bound)>);

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goals {
    fn add(&mut self, name: &'static str, measured: f64, bound: Bound) {
        self.0.push((name, measured, bound));
    }

    fn print(&self) {
        println!("\n{:<54}{:>10}  {:<15}", "goal", "measured", "bound");
        for (name, measured, bound) in &self.0 {
            let (bound, met) = match bound {
                Bound::AtMost(most) => (format!("at most {most}"), measured <= most),
                Bound::AtLeast(least) => (format!("at least {least}"), measured >= least),
            };
            println!("{name:<54}{measured:>10.2}  {bound:<15} {}", if met { "met" } else { "NOT MET" });
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which so many of a hundred are.
fn percentile(mut values: Vec<f64>, of_hundred: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * of_hundred / 100).min(values.len() - 1)]
}

/// The least of some runs.
fn best_in_process(pair: &Pair, runs: usize) -> AnalysisTime {
    let runs: Vec<AnalysisTime> = (0..runs).map(|_| measure::in_process(pair)).collect();
    let least = |time: fn(&AnalysisTime) -> Duration| runs.iter().map(time).min().unwrap_or_default();
    AnalysisTime { wall: least(|took| took.wall), cpu: least(|took| took.cpu) }
}

/// Each pair by itself, in this process.
fn alone(pairs: &[Pair], goals: &mut Goals) {
    let took: Vec<AnalysisTime> = pairs.iter().map(|pair| best_in_process(pair, ROUNDS)).collect();
    let of = |time: fn(&AnalysisTime) -> Duration, percent| {
        percentile(took.iter().map(|took| ms(time(took))).collect(), percent)
    };
    let mean = took.iter().map(|took| ms(took.cpu)).sum::<f64>() / took.len() as f64;
    println!("in process, best of {ROUNDS}");
    println!(
        "  CPU ms a pair: mean {mean:.2}, p50 {:.2}, p99 {:.2}, most {:.2}",
        of(|took| took.cpu, 50),
        of(|took| took.cpu, 99),
        of(|took| took.cpu, 100)
    );
    println!("  ms a pair: p50 {:.2}, p99 {:.2}", of(|took| took.wall, 50), of(|took| took.wall, 99));
    goals.add("p99 of a pair, CPU ms", of(|took| took.cpu, 99), Bound::AtMost(80.0));
}

/// All pairs on all slots, in turns with the peer; the memory of the children.
async fn rounds(pairs: &Arc<Vec<Pair>>, peer: Option<&mut Peer>, files: &Path, goals: &mut Goals) -> u64 {
    let limits = Limits::from_config(&measure::config(&[]).sandbox);
    let pool = measure::pool(measure::SLOTS, &[]).await;
    let paths: Vec<(PathBuf, PathBuf)> =
        pairs.iter().enumerate().map(|(nth, pair)| write(files, nth, pair)).collect();
    let (mut ours, mut theirs, mut peer) = (Vec::new(), Vec::new(), peer);
    for _ in 0..ROUNDS {
        ours.push(measure::sandbox_round(&pool, pairs, limits).await);
        if let Some(peer) = &mut peer {
            theirs.push(peer.round(&paths));
        }
    }
    pool.0.shutdown().await;
    println!("\n{} at once, {ROUNDS} rounds", measure::SLOTS);
    let ours = print_round("ours", &ours, pairs.len());
    goals.add("CPU ms a pair, with its sandbox", ours.cpu_ms(pairs.len()), Bound::AtMost(7.0));
    if let Some(theirs) =
        (!theirs.is_empty()).then(|| print_round("web-monitoring-diff", &theirs, pairs.len()))
    {
        let count = pairs.len();
        let rate = ours.per_second(count) / theirs.per_second(count);
        let cpu = theirs.cpu_ms(count) / ours.cpu_ms(count);
        let memory = ours.peak_bytes as f64 / theirs.peak_bytes as f64;
        goals.add("pairs a second, times the peer's", rate, Bound::AtLeast(40.0));
        goals.add("CPU of the peer, times ours", cpu, Bound::AtLeast(60.0));
        goals.add("memory of the children, in the peer's", memory, Bound::AtMost(0.5));
    }
    ours.peak_bytes
}

fn print_round(name: &str, rounds: &[Round], pairs: usize) -> Round {
    let best = Round {
        wall: rounds.iter().map(|round| round.wall).min().unwrap_or_default(),
        cpu: rounds.iter().map(|round| round.cpu).min().unwrap_or_default(),
        peak_bytes: rounds.iter().map(|round| round.peak_bytes).max().unwrap_or_default(),
    };
    println!(
        "  {name:<20} {:>8.1} pairs/s, {:>8.2} CPU ms a pair, {:>6.0} MiB at most",
        best.per_second(pairs),
        best.cpu_ms(pairs),
        best.peak_bytes as f64 / MIB
    );
    best
}

fn write(directory: &Path, nth: usize, pair: &Pair) -> (PathBuf, PathBuf) {
    let [a, b] = ["a", "b"].map(|side| directory.join(format!("{nth}.{side}.html")));
    std::fs::write(&a, &pair.from).unwrap();
    std::fs::write(&b, &pair.to).unwrap();
    (a, b)
}

/// What the sandbox adds at the page of median size, and what a job pays that no fork server has warmed up for.
async fn sandbox_overhead(pairs: &Arc<Vec<Pair>>, goals: &mut Goals) {
    let mut by_size: Vec<usize> = (0..pairs.len()).collect();
    by_size.sort_by_key(|&nth| pairs[nth].bytes());
    let median = by_size[by_size.len() / 2];
    let pair = &pairs[median];
    let limits = Limits::from_config(&measure::config(&[]).sandbox);
    let (warmed, cold) = (measure::pool(1, &[]).await, measure::pool(1, &["warm_up"]).await);
    let mut here = Vec::new();
    let [mut boxed, mut not_warmed] = [SandboxRuns::default(), SandboxRuns::default()];
    for _ in 0..MEDIAN_RUNS / MEDIAN_BATCH {
        here.extend((0..MEDIAN_BATCH).map(|_| measure::in_process(pair)));
        boxed.run(&warmed, pairs, median, limits).await;
        not_warmed.run(&cold, pairs, median, limits).await;
    }
    // Of a shared machine the lower quartile says more than the median.
    let of_here = |time: fn(&AnalysisTime) -> Duration| {
        percentile(here.iter().map(|took| ms(time(took))).collect(), 25)
    };
    let (wall, cpu) = (of_here(|took| took.wall), of_here(|took| took.cpu));
    println!(
        "median page ({}, {} bytes on both sides), {MEDIAN_RUNS} runs in turns",
        pair.name,
        pair.bytes()
    );
    println!("{:<24}{:>10}{:>10}{:>14}", "", "ms", "CPU ms", "page faults");
    println!("{:<24}{wall:>10.2}{cpu:>10.2}{:>14}", "  in process", "-");
    boxed.print("  in the sandbox", &warmed);
    not_warmed.print("  without a warm-up", &cold);
    goals.add("what the sandbox adds at the median page, ms", boxed.wall_ms() - wall, Bound::AtMost(0.6));
    for (pool, _) in [warmed, cold] {
        pool.shutdown().await;
    }
}

/// Runs of one pair in one slot.
#[derive(Default)]
struct SandboxRuns {
    wall_ms: Vec<f64>,
    cpu: Duration,
}

impl SandboxRuns {
    /// In a task, as in the worker: what blocks on the main thread is awakened by another one at each step.
    async fn run(
        &mut self,
        (pool, fork_servers): &(Pool, Vec<u32>),
        pairs: &Arc<Vec<Pair>>,
        nth: usize,
        limits: Limits,
    ) {
        let before = measure::cpu_of(fork_servers.iter().copied());
        let (pool, pairs) = (pool.clone(), Arc::clone(pairs));
        let batch = tokio::spawn(async move {
            let mut slot = pool.acquire().await;
            let mut wall_ms = Vec::with_capacity(MEDIAN_BATCH);
            for _ in 0..MEDIAN_BATCH {
                wall_ms.push(ms(measure::in_sandbox(&mut slot, &pairs[nth], limits).await));
            }
            wall_ms
        });
        self.wall_ms.extend(batch.await.unwrap());
        self.cpu += measure::cpu_of(fork_servers.iter().copied()) - before;
    }

    fn wall_ms(&self) -> f64 {
        percentile(self.wall_ms.clone(), 25)
    }

    fn print(&self, name: &str, (pool, _): &(Pool, Vec<u32>)) {
        let (wall, cpu) = (self.wall_ms(), ms(self.cpu) / MEDIAN_RUNS as f64);
        let faults = pool.stats().minor_faults / MEDIAN_RUNS as u64;
        println!("{name:<24}{wall:>10.2}{cpu:>10.2}{faults:>14}");
    }
}

/// From the inbox to the report.
async fn worker(children_bytes: Option<u64>, goals: &mut Goals) {
    let cost = measure::worker(WORKER_JOBS).await;
    let each = |time: Duration| ms(time) / cost.jobs as f64;
    println!("\nworker: {} jobs, {:.0} a second", cost.jobs, cost.jobs as f64 / cost.wall.as_secs_f64());
    println!(
        "  CPU ms a job: {:.2} of the worker, {:.2} of the children; the worker holds {:.0} MiB{}",
        each(cost.worker_cpu),
        each(cost.children_cpu),
        cost.worker_bytes as f64 / MIB,
        children_bytes.map_or_else(String::new, |bytes| format!(", the children {:.0}", bytes as f64 / MIB))
    );
    goals.add("CPU ms of the worker a job", each(cost.worker_cpu), Bound::AtMost(0.5));
}

/// One page in several sizes.
fn sizes(mut peer: Option<&mut Peer>, files: &Path) -> Vec<Series> {
    println!("\n| bytes of a version | edited, CPU ms | ns a byte | unrelated, CPU ms | peer, edited |");
    println!("|---|---|---|---|---|");
    let [mut edited, mut unrelated, mut theirs] = [const { Vec::new() }; 3];
    for bytes in SIZES {
        let pair = corpus::edited(bytes);
        let ours = ms(best_in_process(&pair, ROUNDS).cpu);
        let other = ms(best_in_process(&corpus::unrelated(bytes), 1).cpu);
        let peer = peer.as_mut().filter(|_| bytes <= PEER_MAX_BYTES).map(|peer| {
            let (a, b) = write(files, usize::MAX, &pair);
            ms(peer.cpu_of_one(&a, &b))
        });
        let shown = peer.map_or_else(|| "-".to_owned(), |peer| format!("{peer:.0}"));
        let each = ours * 1e6 / pair.bytes() as f64;
        println!("| {bytes} | {ours:.2} | {each:.0} | {other:.2} | {shown} |");
        let at = |cost| (bytes as f64, cost);
        edited.push(at(ours));
        unrelated.push(at(other));
        theirs.extend(peer.map(at));
    }
    let mut series = vec![
        Series { name: "an edited page", colour: "#1f77b4", points: edited },
        Series { name: "unrelated pages", colour: "#d62728", points: unrelated },
    ];
    if !theirs.is_empty() {
        series.push(Series { name: "web-monitoring-diff, edited", colour: "#7f7f7f", points: theirs });
    }
    series
}

/// What is hard to compare, at the largest size.
fn shapes(goals: &mut Goals) {
    println!("\n| 10 MB on each side | CPU s |\n|---|---|");
    let mut most = 0.0_f64;
    for pair in corpus::shapes() {
        let took = best_in_process(&pair, 1).cpu.as_secs_f64();
        println!("| {} | {took:.2} |", pair.name);
        most = most.max(took);
    }
    goals.add("slowest shape of 10 MB, CPU s", most, Bound::AtMost(1.0));
}
