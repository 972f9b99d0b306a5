//! Every document of the corpus, several at a time.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wm_analyzer::job::measured::Measured;
use wm_analyzer::pipeline::Pipeline;
use wm_analyzer::sandbox::{Limits, Pool, Slot};

use crate::fixtures::{self, DiffResult, ExpectedOutcome, PoisonCase, floods};
use crate::stage::{analyse, defaults, ending, in_turn, pool, request};
use crate::world::{MIB, good, holdings, resident};

#[test]
fn the_corpus_has_two_documents_for_each_idea_and_is_the_same_every_time() {
    in_turn(async { the_corpus_is_whole() });
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
const TRIES: usize = 5;

/// How one poison ended.
struct Line {
    poison: PoisonCase,
    bytes: u64,
    ending: ExpectedOutcome,
    measured: Measured,
}

impl Line {
    /// Tries a document, and again where it hardly ran and that may be why it ended otherwise, as the judge would.
    async fn of(poison: PoisonCase, slot: &mut Slot, pipeline: &Pipeline) -> Self {
        let bodies = (poison.make)();
        let bytes = bodies.iter().map(|body| body.bytes.len() as u64).sum();
        let mut tries = 0;
        loop {
            tries += 1;
            let (answer, measured) = analyse(slot, request(pipeline, bodies.clone()), pipeline.limits).await;
            let line = Self { poison, bytes, ending: ending(&answer), measured };
            if line.is_right() || !line.starved() || tries == TRIES {
                return line;
            }
        }
    }

    /// It had less than half a processor.
    fn starved(&self) -> bool {
        self.measured.cpu_ms * 2 < self.measured.wall_ms
    }

    fn is_right(&self) -> bool {
        match (self.ending, self.poison.ending) {
            (ExpectedOutcome::Reported(made), ExpectedOutcome::Reported(expected)) => {
                made.into_iter().zip(expected).all(|(made, expected)| self.is_allowed(made, expected))
            }
            (ending, expected) => ending == expected,
        }
    }

    /// Who has no time makes do with less, and says so.
    fn is_allowed(&self, made: DiffResult, expected: DiffResult) -> bool {
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
    in_turn(every_poison());
}

async fn every_poison() {
    let (config, pipeline) = defaults();
    let limits = pipeline.limits;
    let pool = pool(&config).await;
    everybody_can_still_work(&pool).await;
    let (before, resident_before) = (holdings(), resident());

    let waiting = Arc::new(Mutex::new(fixtures::all().into_iter()));
    let mut hands = tokio::task::JoinSet::new();
    for _ in 0..pool.stats().slots {
        let (pool, pipeline, waiting) = (pool.clone(), pipeline.clone(), waiting.clone());
        hands.spawn(async move {
            let mut slot = pool.acquire().await;
            let mut lines = Vec::new();
            loop {
                let next = waiting.lock().unwrap().next();
                let Some(poison) = next else { return lines };
                lines.push(Line::of(poison, &mut slot, &pipeline).await);
            }
        });
    }
    let lines: Vec<Line> = hands.join_all().await.into_iter().flatten().collect();

    let wrong = judged(&lines, &limits);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    everybody_can_still_work(&pool).await;
    assert!(before.cover_those_now(), "{before:?} became {:?}", holdings());
    // The allocator keeps what was in hand at once; if anybody kept each document, that would be several times as much.
    let all = lines.iter().map(|line| line.bytes).sum::<u64>();
    assert!(resident() < resident_before + all / 3, "{resident_before} bytes became {} of {all}", resident());
    assert_eq!(pool.stats().respawned, 0, "no document reached a zygote");
    pool.shutdown().await;
}

async fn everybody_can_still_work(pool: &Pool) {
    let mut slots = Vec::new();
    for _ in 0..pool.stats().slots {
        slots.push(pool.acquire().await);
    }
    for slot in &mut slots {
        good(slot).await.unwrap();
    }
}

/// Prints all lines, and says all that is wrong.
#[expect(clippy::print_stdout, reason = "a table, shown where something failed, and by --nocapture")]
fn judged(lines: &[Line], limits: &Limits) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in lines {
        let Line { poison, ending, measured, .. } = line;
        let name = format!("{}: {}", poison.technique, poison.name);
        let (heap, resident) = (measured.peak_heap_bytes / MIB, measured.max_rss_bytes / MIB);
        println!(
            "{name:<75} {:<35} {:>5} ms, {:>4} ms CPU, {heap:>3} MiB heap, {resident:>3} MiB resident",
            told(*ending),
            measured.wall_ms,
            measured.cpu_ms,
        );
        if !line.is_right() {
            wrong.push(format!("{name} ended as {}, and not as {}", told(*ending), told(poison.ending)));
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

fn told(ending: ExpectedOutcome) -> String {
    match ending {
        ExpectedOutcome::Skipped(reason) => format!("skipped: {}", reason.as_str()),
        ExpectedOutcome::Dead(kind) => format!("dead: {}", kind.as_str()),
        ExpectedOutcome::Reported(made) => made.map(|made| format!("{made:?}").to_lowercase()).join(" "),
    }
}
