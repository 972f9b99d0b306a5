//! One poison job: it costs one child, once, within its limit and a second, and nobody else anything.

use std::time::Duration;

use wm_analyzer::job::{Job, LimitsRequest};
use wm_testbed::body::Body;
use wm_testbed::pages;

use crate::harness::{World, until};

/// A wall clock that is too short for honest work on two pages of 9 MB on any machine, and long enough that a busy
/// machine gives it a CPU.
const WALL: Duration = Duration::from_millis(300);

fn poison(world: &World) -> Job {
    let page = |seed| Body::html(pages::pair(seed, 9_000_000).0);
    let limits = LimitsRequest { wall_ms: Some(WALL.as_millis() as u64), heap_bytes: None };
    Job { limits, ..world.bodies("poison", page(1), page(2)) }
}

#[tokio::test]
async fn a_poison_job_is_buried_within_its_limit_and_a_second_once_while_good_jobs_go_on() {
    let world = World::new().await;
    let poison = poison(&world);
    let good: Vec<Job> = (0..20).map(|n| world.pair(&format!("good-{n}"), 20_000)).collect();
    let worker = world.worker();
    worker.until_logged("working").await;
    let mut jobs = vec![poison.clone()];
    jobs.extend(good.iter().cloned());
    world.send(&jobs).await;

    let dead = world.until_dead_letters(1).await.remove(0);
    let reason = dead.reason.as_ref().unwrap();
    assert_eq!((reason.kind.as_str(), &dead.id), ("wall_exceeded", &poison.id));
    let claimed_ms: u64 = world.field(&poison.id, "claimed_ms").await.unwrap().parse().unwrap();
    let measured = reason.failure.measured.as_ref().unwrap();
    // Without the time in which it could have run and this machine did something else.
    let took = Duration::from_millis(dead.died_ms - claimed_ms - measured.waiting_ms.unwrap_or(0));
    assert!(took < WALL + Duration::from_secs(1), "{took:?} from its claim to its burial");
    let wall_ms = measured.limits.unwrap().wall_ms;
    assert_eq!(u128::from(wall_ms), WALL.as_millis());
    assert!(measured.wall_ms >= wall_ms, "{measured:?}");

    for job in &good {
        world.until_event(&job.id, "done").await;
    }
    assert_eq!(reason.counts.deliveries, 1, "{:?}", reason.counts);
    assert_eq!(world.job_events(&poison.id).await, ["buried"], "once");
    assert_eq!((world.site.hits("/poison/from"), world.site.hits("/poison/to")), (1, 1));
    assert_eq!(worker.metric("dead_letters_total{kind=\"wall_exceeded\"}").await, 1.0);

    until("one alert", async || world.sentry.alerts() == 1).await;
    let text = world.sentry.events()[0]["message"].as_str().unwrap().to_owned();
    for needle in ["wall_exceeded", "at 127.0.0.1", "limit hit: wall 300 ms", "wm-analyzer dead show poison"]
    {
        assert!(text.contains(needle), "{needle:?} is not in:\n{text}");
    }
    world
        .run(&["dead", "show", "poison"])
        .await
        .exited_with(0)
        .stdout_contains(&["wall_exceeded", "of 300 ms"])
        .stderr_contains(&["wm-analyzer diff", "--limits wall=300ms", "wm-analyzer dead replay poison"]);
}

#[tokio::test]
async fn a_poison_job_that_is_too_large_for_its_heap_takes_its_child_with_it_and_nothing_else() {
    let world = World::new().await;
    let page = |seed| Body::html(pages::pair(seed, 5_000_000).0);
    let limits = LimitsRequest { wall_ms: None, heap_bytes: Some(16 << 20) };
    let poison = Job { limits, ..world.bodies("poison", page(1), page(2)) };
    let good = world.pair("good", 20_000);
    let _worker = world.worker();
    world.send(&[poison.clone(), good.clone()]).await;
    world.until_event(&poison.id, "buried").await;
    world.until_event(&good.id, "done").await;
    assert_eq!(
        world.until_dead_letters(1).await[0].reason.as_ref().unwrap().kind.as_str(),
        "memory_exceeded"
    );
}
