//! The state machine and the real scripts beside it: any operations in any order, and after each of them both have
//! answered alike and hold the same jobs in the same places with the same counts. In the end nothing is left.
//!
//! One server for all cases, emptied between them. A failing case is shrunk to a short list of operations. `SEED` in
//! the environment repeats a run, `CASES` makes it longer.

mod agree;
mod case;
mod machine;
mod moves;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Cases, RngSeed, TestRunner};
use wm_analyzer::job::Priority;
use wm_analyzer::job::skip::SkipReason;
use wm_testbed::redis::{PrivateRedis, RedisOptions};

use self::case::{Case, WORKERS};
use self::machine::{Ask, HOSTS, How, Limits, PAIRS, When};
use crate::world::World;

/// What may happen. A `usize` chooses among what there is, modulo its number.
#[derive(Debug, Clone)]
pub enum Op {
    Enqueue(Ask),
    SendAgain(usize),
    OthersCameAndWent,
    Claim {
        who: usize,
        most: usize,
    },
    Enter(usize),
    EnterChild(usize),
    Heartbeat(usize),
    Confirm(usize),
    Settle {
        which: usize,
        how: How,
    },
    Stale {
        which: usize,
        how: How,
    },
    Crash(usize),
    /// Two workers vanished while they fetched a job that waits.
    FetchCrashes(usize),
    TurnRunsOut,
    Rested,
    Due,
    NewBuild,
    Cancel(usize),
    Replay(usize),
    Discard(usize),
    Pause,
    Resume,
    FlushScripts,
}

fn ask() -> impl Strategy<Value = Ask> {
    let priority = select(vec![Priority::Low, Priority::Normal, Priority::Normal, Priority::High]);
    let when = prop_oneof![10 => Just(When::Never), 1 => Just(When::Past), 1 => Just(When::Later)];
    (0..PAIRS, any::<bool>(), priority, when.clone(), when).prop_map(
        |(pair, again, priority, run_at, expires_at)| Ask { pair, again, priority, run_at, expires_at },
    )
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        5 => Just(How::Done),
        1 => Just(How::Skip(SkipReason::Content)),
        1 => Just(How::Skip(SkipReason::Cancelled)),
        1 => Just(How::Retry),
        1 => Just(How::Doubt),
        1 => Just(How::Postpone),
        1 => Just(How::BreakerOpen),
        1 => Just(How::Starved),
        1 => Just(How::WaitAlone),
        1 => Just(How::WaitFor(HOSTS[0])),
        1 => Just(How::WaitFor(HOSTS[1])),
        2 => Just(How::Die),
        3 => Just(How::Release),
        1 => Just(How::ReleaseWhileFetching),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..WORKERS.len();
    let which = any::<usize>();
    prop_oneof![
        40 => ask().prop_map(Op::Enqueue),
        1 => which.prop_map(Op::SendAgain),
        2 => Just(Op::OthersCameAndWent),
        25 => (who.clone(), 1..10_usize).prop_map(|(who, most)| Op::Claim { who, most }),
        25 => who.clone().prop_map(Op::Enter),
        15 => which.prop_map(Op::EnterChild),
        4 => who.clone().prop_map(Op::Heartbeat),
        1 => which.prop_map(Op::Confirm),
        20 => (which, how()).prop_map(|(which, how)| Op::Settle { which, how }),
        4 => (which, how()).prop_map(|(which, how)| Op::Stale { which, how }),
        10 => who.prop_map(Op::Crash),
        10 => which.prop_map(Op::FetchCrashes),
        1 => Just(Op::TurnRunsOut),
        10 => Just(Op::Rested),
        5 => Just(Op::Due),
        2 => Just(Op::NewBuild),
        4 => which.prop_map(Op::Cancel),
        6 => which.prop_map(Op::Replay),
        1 => which.prop_map(Op::Discard),
        1 => Just(Op::Pause),
        5 => Just(Op::Resume),
        1 => Just(Op::FlushScripts),
    ]
}

/// Each ceiling mostly as it bites most.
fn limits() -> impl Strategy<Value = Limits> {
    let backlog = select(vec![1000, 1000, 1000, 5]);
    let in_flight = select(vec![0, 0, 0, 3]);
    let at_host = select(vec![0, 1, 1, 1, 2, 2]);
    (backlog, in_flight, at_host).prop_map(|(backlog, in_flight, at_host)| Limits {
        backlog,
        in_flight,
        at_host,
    })
}

/// A number from the environment.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn the_scripts_do_what_the_model_does_whatever_happens_in_whatever_order() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(async {
        let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
        let url = redis.url();
        World::at(redis, &url).await
    });
    let seed = given("SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("SEED={seed}");
    let cases = Cases {
        cases: given("CASES").map_or(64, |cases| cases as u32),
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..Cases::default()
    };
    let outcome =
        TestRunner::new(cases).run(&(limits(), proptest::collection::vec(op(), 1..150)), |(limits, ops)| {
            runtime.block_on(async {
                let mut case = Case::begin(&world, limits).await;
                for op in &ops {
                    case.step(op).await;
                    case.assert_agrees().await;
                }
                case.end().await;
            });
            Ok(())
        });
    outcome.unwrap_or_else(|e| panic!("SEED={seed}: {e}"));
}
