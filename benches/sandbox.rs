//! What the sandbox costs and how well it holds, as eight ratios of one run each: printed, never asserted, because a
//! busy machine is no defect.
//!
//! Both sides of a ratio are measured in turns, so that they share the machine's moods; a side's figure is its best
//! batch's median. Run it on a quiet machine: `cargo bench --bench sandbox`.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use wm_analyzer::sandbox::{Config, Isolation, Limits, Pool, ProcessModel, Request, Slot, hooks};

const MIB: u64 = 1 << 20;
const BATCHES: usize = 5;
/// Set where this program is run as the process beside the children.
const BYSTANDER: &str = "WM_BYSTANDER";

#[tokio::main]
async fn main() {
    if std::env::var_os(BYSTANDER).is_some() {
        return bystander();
    }
    let pool = start(ProcessModel::ForkServer, 2).await;
    println!("isolation in force: {}\n", pool.isolation().join(" "));
    println!("{:<58} {:>9} {:>9}", "ratio", "measured", "at most");
    let mut slot = pool.acquire().await;
    trivial_job(&mut slot).await;
    real_work(&mut slot).await;
    large_worker(&mut slot).await;
    kill_delay(&mut slot).await;
    memory(&mut slot).await;
    counting_cost(&mut slot).await;
    endurance(&mut slot).await;
    drop(slot);
    neighbours(&pool).await;
    pool.shutdown().await;
}

fn config(process: ProcessModel) -> Config {
    Config {
        slots: 2,
        wall: Duration::from_secs(10),
        heap: ByteSize::mib(256),
        stack: ByteSize::mib(8),
        max_decoded: ByteSize::mib(10),
        reply: ByteSize::mib(16),
        max_wall: Duration::from_secs(60),
        max_heap: ByteSize::gib(1),
        isolation: Isolation::BestEffort,
        process,
    }
}

async fn start(process: ProcessModel, slots: usize) -> Pool {
    Pool::start(&config(process), slots, env!("CARGO_BIN_EXE_wm-analyzer").into()).await.unwrap()
}

fn limits() -> Limits {
    Limits::from_config(&config(ProcessModel::ForkServer))
}

fn request(act: &str, a: &[u8], b: &[u8]) -> Request {
    Request { options: hooks::options(act), a: a.to_vec(), b: b.to_vec() }
}

fn print(name: &str, measured: f64, at_most: f64) {
    let verdict = if measured <= at_most { "" } else { "  <- does not hold here" };
    println!("{name:<58} {measured:>9.3} {at_most:>9.3}{verdict}");
}

fn median(times: Vec<f64>) -> f64 {
    percentile(times, 50)
}

fn percentile(mut times: Vec<f64>, of_hundred: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() * of_hundred / 100]
}

/// Microseconds of one run of an act, with its bodies already in memory.
async fn run_once_us(slot: &mut Slot, request: Request) -> f64 {
    let began = Instant::now();
    black_box(slot.run(request, limits()).await.unwrap());
    micros(began)
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// The best batch's median of an act.
async fn batch_median_us(slot: &mut Slot, act: &str, a: &[u8], b: &[u8], runs: usize) -> f64 {
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(run_once_us(slot, request(act, a, b)).await);
    }
    median(times)
}

/// 1. A trivial job: fork-server against an exec for each job.
async fn trivial_job(slot: &mut Slot) {
    let exec = start(ProcessModel::ExecPerJob, 1).await;
    let mut exec_slot = exec.acquire().await;
    let (mut forked, mut executed) = (f64::MAX, f64::MAX);
    for _ in 0..BATCHES {
        forked = forked.min(batch_median_us(slot, "echo", b"", b"", 300).await);
        executed = executed.min(batch_median_us(&mut exec_slot, "echo", b"", b"", 100).await);
    }
    print("1 trivial job, fork / exec per job", forked / executed, 0.5);
    println!("  ({forked:.0} us, {executed:.0} us)");
    drop(exec_slot);
    exec.shutdown().await;
}

/// Two texts of about so many bytes, one line in twenty changed.
fn texts(bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let line = |i: usize, word: &str| format!("line {i} of a page that somebody {word}, and so on\n");
    let count = bytes / line(0, "kept").len();
    let text = |changed: &str| {
        (0..count)
            .map(|i| line(i, if i % 20 == 7 { changed } else { "kept" }))
            .collect::<String>()
            .into_bytes()
    };
    (text("wrote"), text("rewrote"))
}

/// 2. Real work in the sandbox against the same in this process.
async fn real_work(slot: &mut Slot) {
    for (name, bytes, at_most) in [("100 KB", 100_000, 4.0), ("1 MB", 1_000_000, 2.0)] {
        let (a, b) = texts(bytes);
        let (mut inside, mut here) = (f64::MAX, f64::MAX);
        for _ in 0..BATCHES {
            inside = inside.min(batch_median_us(slot, "diff", &a, &b, 20).await);
            here = here.min(in_process(20, || hooks::diff(&a, &b)));
        }
        print(&format!("2 diff of two times {name}, sandbox / in-process"), inside / here, at_most);
        println!("  ({inside:.0} us, {here:.0} us)");
    }
    let (mut inside, mut here) = (f64::MAX, f64::MAX);
    for _ in 0..BATCHES {
        inside = inside.min(batch_median_us(slot, "tree 190000", b"", b"", 5).await);
        here = here.min(in_process(5, || hooks::tree(190_000)));
    }
    print("2 tree of 190,000 nodes, sandbox / in-process", inside / here, 1.5);
}

fn in_process(runs: usize, work: impl Fn() -> usize) -> f64 {
    let time = |_| {
        let began = Instant::now();
        black_box(work());
        micros(began)
    };
    median((0..runs).map(time).collect())
}

/// 3. A trivial job while the worker holds 1 GiB: nobody forks the worker.
async fn large_worker(slot: &mut Slot) {
    let (mut light, mut heavy) = (f64::MAX, f64::MAX);
    for _ in 0..BATCHES {
        light = light.min(batch_median_us(slot, "echo", b"", b"", 300).await);
        let held = black_box(vec![1_u8; 1 << 30]);
        heavy = heavy.min(batch_median_us(slot, "echo", b"", b"", 300).await);
        drop(held);
    }
    print("3 trivial job, worker of 1 GiB / small worker", heavy / light, 1.2);
}

/// 4. How late a kill comes, of what it may: 5 % of the wall clock and 0.1 ms for each MiB.
async fn kill_delay(slot: &mut Slot) {
    let wall = Duration::from_millis(500);
    for (name, act, mebibytes) in
        [("spinning", "spin".to_owned(), 0.0), ("with 200 MiB", resident(200), 200.0)]
    {
        let mut late = f64::MAX;
        for _ in 0..BATCHES {
            let began = Instant::now();
            slot.run(request(&act, b"", b""), Limits { wall, ..limits() }).await.unwrap_err();
            late = late.min(micros(began) / 1000.0 - wall.as_secs_f64() * 1000.0);
        }
        let allowed = 0.05 * wall.as_secs_f64() * 1000.0 + 0.1 * mebibytes;
        print(&format!("4 kill, {name}: late / allowed ({late:.1} ms)"), late / allowed, 1.0);
    }
}

fn resident(mebibytes: u64) -> String {
    format!("resident_then_spin {}", mebibytes * MIB)
}

/// 5. Where the heap is stopped, and what the process took by then.
async fn memory(slot: &mut Slot) {
    for pattern in ["tiny", "small", "mixed", "chunks"] {
        let act = format!("{pattern} 1000000000");
        let failure = slot.run(request(&act, b"", b""), limits()).await.unwrap_err();
        let measured = failure.measured.unwrap();
        let budget = limits().heap_bytes as f64;
        let name = |what: &str| format!("5 {pattern} objects, {what} / budget");
        // From both sides: neither over it, nor stopped long before.
        print(&name("heap when stopped"), measured.peak_heap_bytes as f64 / budget, 1.0);
        print(
            &format!("5 {pattern} objects, 0.95 of budget / that"),
            0.95 * budget / measured.peak_heap_bytes as f64,
            1.0,
        );
        let allowed = 1.05 + 16.0 * MIB as f64 / budget;
        print(&name("resident set"), measured.max_rss_bytes as f64 / budget, allowed);
    }
}

/// 6. The same diff in a job with and without the counting.
async fn counting_cost(slot: &mut Slot) {
    let (a, b) = texts(1_000_000);
    let (mut counted, mut plain) = (f64::MAX, f64::MAX);
    for _ in 0..BATCHES * 2 {
        for (act, best) in [("diff_us", &mut counted), ("diff_us_uncounted", &mut plain)] {
            let mut times = Vec::new();
            for _ in 0..10 {
                let reply = slot.run(request(act, &a, &b), limits()).await.unwrap();
                times.push(String::from_utf8(reply.product.answer).unwrap().parse().unwrap());
            }
            *best = best.min(median(times));
        }
    }
    print("6 diff of 1 MB in a job, counted / uncounted", counted / plain, 1.05);
}

/// 7. Ten thousand jobs through one fork-server: the last thousand against the first.
async fn endurance(slot: &mut Slot) {
    let mut times = Vec::new();
    for _ in 0..10_000 {
        times.push(run_once_us(slot, request("echo", b"", b"")).await);
    }
    let best = |times: &[f64]| times.chunks(200).map(|batch| median(batch.to_vec())).fold(f64::MAX, f64::min);
    let (first, last) = (best(&times[..1000]), best(&times[9000..]));
    print("7 ten thousand jobs, last / first thousand", last / first, 1.1);
}

/// 8. Good jobs a second, clean against beside 10 % poison; and what a bystander on the machine feels of it.
async fn neighbours(pool: &Pool) {
    let (mut clean, mut poisoned) = (0_f64, 0_f64);
    let (mut calm, mut crowded) = ([f64::MAX; 2], [f64::MAX; 2]);
    for _ in 0..BATCHES {
        for (poison, rate, latency) in [(false, &mut clean, &mut calm), (true, &mut poisoned, &mut crowded)] {
            let (per_second, bystander) = good_jobs(pool, poison).await;
            *rate = rate.max(per_second);
            for (best, percent) in latency.iter_mut().zip([50, 99]) {
                *best = best.min(percentile(bystander.clone(), percent));
            }
        }
    }
    print("8 good jobs a second, clean / with 10 % poison", clean / poisoned, 2.0);
    println!("  ({clean:.0} a second, {poisoned:.0} a second)");
    for (i, name) in ["p50", "p99"].into_iter().enumerate() {
        let name = format!("8 a bystander's 1 ms of work, {name}, with poison / clean");
        print(&name, crowded[i] / calm[i], 2.0);
        println!("  ({:.0} us, {:.0} us)", crowded[i], calm[i]);
    }
}

/// Good jobs a second over 160 jobs on all slots, and the times of the millisecond of work of a process beside them.
async fn good_jobs(pool: &Pool, poison: bool) -> (f64, Vec<f64>) {
    let this = std::env::current_exe().unwrap();
    let beside = Command::new(this).env(BYSTANDER, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut beside = beside.unwrap();
    let began = Instant::now();
    let mut jobs = tokio::task::JoinSet::new();
    let (a, b) = texts(1_000_000);
    for i in 0..160 {
        let (pool, a, b) = (pool.clone(), a.clone(), b.clone());
        jobs.spawn(async move {
            let mut slot = pool.acquire().await;
            let tight = Limits { wall: Duration::from_millis(100), heap_bytes: 64 * MIB, ..limits() };
            // Memory, stack, time and violation in turn.
            let act = ["small 100000000", "overflow", "spin", "socket"][i / 10 % 4];
            if poison && i % 10 == 0 {
                slot.run(request(act, b"", b""), tight).await.unwrap_err();
                return 0;
            }
            slot.run(request("diff", &a, &b), limits()).await.unwrap();
            1
        });
    }
    let good: u32 = jobs.join_all().await.into_iter().sum();
    let took = began.elapsed().as_secs_f64();
    drop(beside.stdin.take());
    let said = beside.wait_with_output().unwrap();
    let times = String::from_utf8(said.stdout).unwrap();
    (f64::from(good) / took, times.lines().map(|time| time.parse().unwrap()).collect())
}

/// Times a fixed piece of work again and again, with a rest in between, until its input ends; then says the times.
fn bystander() {
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut times = Vec::new();
    while !ended.is_finished() || times.is_empty() {
        let began = Instant::now();
        black_box((0..1_000_000_u64).fold(0, |sum, i| black_box(sum ^ i)));
        times.push(micros(began));
        std::thread::park_timeout(Duration::from_millis(2));
    }
    times.iter().for_each(|time| println!("{time}"));
}
