//! Good jobs beside poison: all of them come out as they do alone, and the slots serve on as if nothing had been.
//!
//! How fast they are is printed by `benches/sandbox` and asserted by nobody.

use std::sync::Arc;
use std::time::Duration;

use wm_analyzer::job::analysis_request::AnalysisReply;
use wm_analyzer::job::failure::FailureKind::{self, *};
use wm_analyzer::sandbox::{Limits, Request};
use wm_testbed::pages;
use wm_testbed::poison::{gzip_bomb, nested_divs};

use crate::fixtures::{BOMB, ExpectedOutcome, TREELESS, html, paired_with_page};
use crate::runner::{MIB, act, analyse, defaults, outcome_of, pool, request, run_serially};

/// Jobs in all; every tenth is poison.
const JOBS: usize = 200;

/// What bad neighbours do, and how that ends: memory, stack, time, violation.
const ACTS: [(&str, FailureKind); 4] = [
    ("small 160000000", MemoryExceeded),
    ("overflow", StackOverflow),
    ("spin", WallExceeded),
    ("socket", ForbiddenSyscall),
];

#[test]
fn good_jobs_beside_a_tenth_of_poison_come_out_as_they_do_alone() {
    run_serially(good_jobs_beside_poison());
}

async fn good_jobs_beside_poison() {
    let (config, pipeline) = defaults();
    let pool = pool(&config).await;
    // Whoever waits for its turn runs into no limit.
    let patient = Limits { wall: Duration::from_secs(60), ..pipeline.limits };
    let limits_for = |kind| match kind {
        WallExceeded => Limits { wall: Duration::from_millis(200), ..patient },
        _ => Limits { heap_bytes: 64 * MIB, ..patient },
    };
    let good = request(&pipeline, <[_; 2]>::from(pages::pair(1, 20_000)).map(html));
    let alone = analyse(&mut pool.acquire().await, good.clone(), patient).await.0.unwrap();
    assert!(matches!(alone, AnalysisReply::Analysed(_)));

    let mut poisons: Vec<(Request, Limits, ExpectedOutcome)> = ACTS
        .iter()
        .map(|(name, kind)| (act(name), limits_for(*kind), ExpectedOutcome::Dead(*kind)))
        .collect();
    for (document, ending) in
        [(html(gzip_bomb(1 << 30).bytes()).encoded("gzip"), BOMB), (html(nested_divs(20_000, "x")), TREELESS)]
    {
        poisons.push((request(&pipeline, paired_with_page(document)), patient, ending));
    }
    let poisons = Arc::new(poisons);

    let mut jobs = tokio::task::JoinSet::new();
    for i in 0..JOBS {
        let (pool, good, alone, poisons) = (pool.clone(), good.clone(), alone.clone(), poisons.clone());
        jobs.spawn(async move {
            let mut slot = pool.acquire().await;
            if i % 10 == 3 {
                let (request, limits, expected) = poisons[i / 10 % poisons.len()].clone();
                assert_eq!(outcome_of(&analyse(&mut slot, request, limits).await.0), expected);
                return 0;
            }
            assert!(analyse(&mut slot, good, patient).await.0.unwrap() == alone, "job {i}");
            1
        });
    }
    let good: usize = jobs.join_all().await.into_iter().sum();
    let stats = pool.stats();
    assert_eq!((good, stats.jobs, stats.respawned, stats.busy), (JOBS / 10 * 9, JOBS as u64 + 1, 0, 0));
    pool.shutdown().await;
}
