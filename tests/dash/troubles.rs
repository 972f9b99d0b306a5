//! A Redis that is slow, gone or full: the pages open in time, say what is stale, and what must work then works.

use std::time::Duration;

use tokio::time::Instant;

use crate::gate::PAGES;
use crate::harness::{World, until};
use crate::world::{DashWorld, Dashboard};

/// The 2 s of a request, and what a busy machine adds to the reading of the answer.
const ANSWER_TIME: Duration = Duration::from_millis(3_000);

/// Opens every page, each in time, and gives those that say nothing of what they do not know.
async fn silent_pages(dashboard: &Dashboard) -> Vec<String> {
    let mut silent = Vec::new();
    for page in PAGES {
        let begun = Instant::now();
        let mut answer = dashboard.get(page, &[]).await;
        // A plan that must wait has a page of its own.
        if let Some(waits) =
            answer.header("location").map(str::to_owned).filter(|_| page.starts_with("/acts/"))
        {
            answer = dashboard.get(&waits, &[]).await;
        }
        let answer = answer.is(200);
        assert!(begun.elapsed() < ANSWER_TIME, "{page} took {:?}", begun.elapsed());
        let reads_nothing = page.starts_with("/switch/") || page.starts_with("/acts/edit");
        let says = answer.body.contains("role=\"alert\"") || answer.body.contains("Reading or recording");
        if !reads_nothing && !says {
            silent.push(format!("{page}: {}", answer.body));
        }
    }
    silent
}

#[tokio::test]
async fn while_redis_hangs_every_page_opens_in_time_and_says_how_old_its_numbers_are() {
    let dash = DashWorld::new().await;
    let dashboard = dash.dashboard(&[]).await;
    dashboard.get("/", &[]).await.is(200).says("Why jobs die");
    dash.world.redis.freeze();
    until("the overview is stale", async || {
        dashboard.get("/", &[]).await.is(200).body.contains("These numbers are")
    })
    .await;
    let silent = silent_pages(&dashboard).await;
    let overview = dashboard.get("/", &[]).await.is(200);
    let act = dashboard.post("/switch/pause", &[], &[("reason", "it hangs")]).await;
    dash.world.redis.thaw();
    assert_eq!(silent, [""; 0]);
    assert!(overview.body.contains("These numbers are") && overview.body.contains(" old"), "{overview:?}");
    assert!(overview.body.contains("gone"), "what was read before is shown: {overview:?}");
    assert!([200, 503].contains(&act.status), "{act:?}");
    until("it reads again", async || {
        !dashboard.get("/", &[]).await.is(200).body.contains("These numbers are")
    })
    .await;
}

#[tokio::test]
async fn while_redis_is_gone_every_page_opens_in_time_and_says_so() {
    let mut world = World::new().await;
    let dashboard = Dashboard::start(&world, &[]).await;
    world.redis.kill();
    until("what was read before is old", async || {
        dashboard.get("/", &[]).await.is(200).body.contains("Redis is not available")
    })
    .await;
    let silent = silent_pages(&dashboard).await;
    assert_eq!(silent, [""; 0]);
    let refused = dashboard.post("/switch/pause", &[], &[("reason", "it is gone")]).await;
    assert!([200, 503].contains(&refused.status), "{refused:?}");
    world.redis.restart().unwrap();
    until("it reads again", async || dashboard.get("/", &[]).await.is(200).body.contains("No worker lives"))
        .await;
}

#[tokio::test]
async fn on_a_full_redis_pauses_rests_and_replays_are_done() {
    let dash = DashWorld::new().await;
    let dashboard = dash.dashboard(&[]).await;
    // Full by a tenth: at a limit far below what is kept the dead letters would go, too.
    let info: String = dash.world.redis_cmd("INFO", "memory").await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let max = used.trim().parse::<u64>().unwrap() * 9 / 10;
    dash.world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory", &max.to_string()]).await;
    until("the overview says so", async || dashboard.get("/", &[]).await.is(200).body.contains("maxmemory"))
        .await;
    dashboard.post("/switch/pause", &[], &[("name", "full"), ("reason", "it is full")]).await.is(303);
    let rest = [("host", "web.example.gov"), ("time", "15m"), ("reason", "it is full")];
    dashboard.post("/switch/rest-host", &[], &rest).await.is(303);
    let status = dash.world.queue.status().await.unwrap();
    assert_eq!(status.pauses[0].name.as_str(), "full", "{status:?}");
    dashboard.post("/switch/resume", &[], &[("name", "full")]).await.is(303);
    let replay = [("q", DashWorld::FORBIDDEN[0]), ("reason", "it is full")];
    let answer = dashboard.post("/acts/replay", &[], &replay).await.is(303);
    let operation = answer.header("location").unwrap();
    until("it is through", async || {
        dashboard.get(operation, &[]).await.is(200).body.contains("It is through.")
    })
    .await;
    for page in PAGES {
        dashboard.get(page, &[]).await.is(200);
    }
}
