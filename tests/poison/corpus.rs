//! Every document of the corpus, several at a time.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wm_analyzer::job::measured::ChildUsage;
use wm_analyzer::pipeline::Pipeline;
use wm_analyzer::sandbox::{Limits, Pool, Slot};
use wm_testbed::processes::{ProcessResources, resident_bytes};

use crate::fixtures::{self, DiffResult, ExpectedOutcome, PoisonCase, floods};
use crate::runner::{MIB, analyse, defaults, outcome_of, pool, request, run_good_job, run_serially};

#[test]
fn the_corpus_has_two_documents_for_each_idea_and_is_the_same_every_time() {
    run_serially(async { the_corpus_is_whole() });
}

fn the_corpus_is_whole() {
    let all = fixtures::all();
    let mut techniques = BTreeMap::<_, usize>::new();
    let mut names = HashSet::new();
    for poison in &all {
        *techniques.entry(poison.technique).or_default() += 1;
        assert!(names.insert((poison.technique, poison.name)), "{}: {} twice", poison.technique, poison.name);
        let [once, again] = [(poison.make)(), (poison.make)()];
        for (one, other) in once.iter().zip(&again) {
            assert!(one.bytes == other.bytes, "{}: {}", poison.technique, poison.name);
            let least = if poison.technique == "the largest pair" { floods::LARGEST / 100 * 98 } else { 0 };
            assert!(one.bytes.len() >= least, "{}: {} is too small", poison.technique, poison.name);
            assert!(
                one.bytes.len() <= floods::LARGEST,
                "{}: {} is never fetched",
                poison.technique,
                poison.name
            );
        }
    }
    assert!(all.len() >= 60, "{} documents", all.len());
    assert!(techniques.values().all(|documents| *documents >= 2), "{techniques:?}");
}

/// How often a document is tried on a machine that has no time for it.
const MAX_TRIES: usize = 5;

/// How one poison ended.
struct CaseResult {
    poison: PoisonCase,
    bytes: u64,
    ending: ExpectedOutcome,
    measured: ChildUsage,
}

impl CaseResult {
    /// Tries a document, and again where it hardly ran and that may be why it ended otherwise, as the judge would.
    async fn run(poison: PoisonCase, slot: &mut Slot, pipeline: &Pipeline) -> Self {
        let bodies = (poison.make)();
        let bytes = bodies.iter().map(|body| body.bytes.len() as u64).sum();
        let mut tries = 0;
        loop {
            tries += 1;
            let (answer, measured) = analyse(slot, request(pipeline, bodies.clone()), pipeline.limits).await;
            let result = Self { poison, bytes, ending: outcome_of(&answer), measured };
            if result.is_expected() || !result.starved() || tries == MAX_TRIES {
                return result;
            }
        }
    }

    /// It had less than half a processor.
    fn starved(&self) -> bool {
        self.measured.cpu_ms * 2 < self.measured.wall_ms
    }

    fn is_expected(&self) -> bool {
        match (self.ending, self.poison.ending) {
            (ExpectedOutcome::Reported(made), ExpectedOutcome::Reported(expected)) => {
                made.into_iter().zip(expected).all(|(made, expected)| self.is_allowed_diff(made, expected))
            }
            (ending, expected) => ending == expected,
        }
    }

    /// Who has no time makes do with less, and says so.
    fn is_allowed_diff(&self, made: DiffResult, expected: DiffResult) -> bool {
        match expected {
            DiffResult::Hurried => matches!(made, DiffResult::Exact | DiffResult::Approximate),
            DiffResult::Exact => {
                made == DiffResult::Exact || (self.starved() && made == DiffResult::Approximate)
            }
            DiffResult::Approximate | DiffResult::Missing => made == expected,
        }
    }
}

#[test]
fn every_poison_ends_as_it_must_within_its_limits_and_leaves_nothing_behind() {
    run_serially(every_poison());
}

async fn every_poison() {
    let (config, pipeline) = defaults();
    let limits = pipeline.limits;
    let pool = pool(&config).await;
    assert_every_slot_works(&pool, limits).await;
    let (before, resident_before) = (ProcessResources::current(), resident_bytes());

    let waiting = Arc::new(Mutex::new(fixtures::all().into_iter()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..pool.stats().slots {
        let (pool, pipeline, waiting) = (pool.clone(), pipeline.clone(), waiting.clone());
        tasks.spawn(async move {
            let mut slot = pool.acquire().await;
            let mut results = Vec::new();
            loop {
                let next = waiting.lock().unwrap().next();
                let Some(poison) = next else { return results };
                results.push(CaseResult::run(poison, &mut slot, &pipeline).await);
            }
        });
    }
    let results: Vec<CaseResult> = tasks.join_all().await.into_iter().flatten().collect();

    let wrong = violations(&results, &limits);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert_every_slot_works(&pool, limits).await;
    assert!(before.has_no_leak_now(), "{before:?} became {:?}", ProcessResources::current());
    // The allocator keeps what was in use at once; if anybody kept each document, that would be several times as much.
    let all = results.iter().map(|result| result.bytes).sum::<u64>();
    assert!(
        resident_bytes() < resident_before + all / 3,
        "{resident_before} bytes became {} of {all}",
        resident_bytes()
    );
    assert_eq!(pool.stats().respawned, 0, "no document reached a fork-server");
    pool.shutdown().await;
}

async fn assert_every_slot_works(pool: &Pool, limits: Limits) {
    let mut slots = Vec::new();
    for _ in 0..pool.stats().slots {
        slots.push(pool.acquire().await);
    }
    for slot in &mut slots {
        run_good_job(slot, Limits { wall: Duration::from_secs(30), ..limits }).await;
    }
}

/// Prints all results, and says all that is wrong.
#[expect(clippy::print_stdout, reason = "a table, shown where something failed, and by --nocapture")]
fn violations(results: &[CaseResult], limits: &Limits) -> Vec<String> {
    let mut wrong = Vec::new();
    for result in results {
        let CaseResult { poison, ending, measured, .. } = result;
        let name = format!("{}: {}", poison.technique, poison.name);
        let (heap, resident) = (measured.peak_heap_bytes / MIB, measured.max_rss_bytes / MIB);
        println!(
            "{name:<75} {:<35} {:>5} ms, {:>4} ms CPU, {heap:>3} MiB heap, {resident:>3} MiB resident",
            outcome_text(*ending),
            measured.wall_ms,
            measured.cpu_ms,
        );
        if !result.is_expected() {
            wrong.push(format!(
                "{name} ended as {}, and not as {}",
                outcome_text(*ending),
                outcome_text(poison.ending)
            ));
        }
        if Duration::from_millis(measured.wall_ms) > limits.wall.mul_f64(1.05) + Duration::from_millis(500) {
            wrong.push(format!("{name} took {} ms", measured.wall_ms));
        }
        let most = limits.heap_bytes / 20 * 21 + 16 * MIB;
        if measured.peak_heap_bytes > most || measured.max_rss_bytes > most {
            wrong.push(format!("{name} had {heap} MiB of heap and {resident} MiB resident"));
        }
    }
    wrong
}

fn outcome_text(ending: ExpectedOutcome) -> String {
    match ending {
        ExpectedOutcome::Skipped(reason) => format!("skipped: {}", reason.as_str()),
        ExpectedOutcome::Dead(kind) => format!("dead: {}", kind.as_str()),
        ExpectedOutcome::Reported(made) => made.map(|made| format!("{made:?}").to_lowercase()).join(" "),
    }
}
