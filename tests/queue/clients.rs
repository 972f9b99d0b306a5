//! The clients that producers have: what they really send is the job that was meant.
//!
//! What docs/producers.md shows is run as it is written there.

use std::process::Command;

use wm_analyzer::job::Job;
use wm_analyzer::queue::ForeignList;
use wm_testbed::peers::{is_available, run};

use crate::world::*;

const RECIPES: &str = include_str!("../../docs/producers.md");
const PRODUCER: &str = include_str!("clients/producer.rb");

/// The first block of this language in docs/producers.md that holds this text.
fn block(language: &str, text: &str) -> &'static str {
    let fence = format!("\n```{language}\n");
    let mut blocks = RECIPES.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(text)).unwrap()
}

fn has_ruby() -> bool {
    is_available("ruby", &["-e", r#"require "active_job"; require "redis"; require "sidekiq""#])
}

/// Lets a Ruby process enqueue in one of its ways; answers what it meant.
fn ruby(world: &World, way: &str) -> Vec<Job> {
    let script = format!("require \"active_job\"\n{}\n{PRODUCER}", block("ruby", "class WmAnalysisAdapter"));
    let url = format!("unix://{}", world.redis.socket().display());
    let printed = run(Command::new("ruby").args(["-", way]).env("ANALYSIS_REDIS_URL", url), &script);
    printed.lines().map(|line| Job::decode(line.as_bytes()).unwrap()).collect()
}

/// Exactly these jobs are in the queue, as they were meant.
async fn are_in(world: &World, meant: &[Job]) {
    assert_eq!(world.check_invariants().await.len(), meant.len());
    for job in meant {
        let stored = world.field(&job.id, "payload").await.unwrap_or_else(|| panic!("{} is not in", job.id));
        assert_eq!(Job::restore(stored.as_bytes()).unwrap(), *job);
    }
}

#[tokio::test]
async fn a_rails_job_with_the_documented_adapter_is_the_job_that_was_meant() {
    if !has_ruby() {
        return;
    }
    let world = World::new().await;
    let meant = ruby(&world, "adapter");
    assert_eq!(meant.len(), 6);
    let ingested = world.queue().await.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.buried.len()), (6, 0));
    are_in(&world, &meant).await;
    assert_eq!(world.state(&meant[0].id).await.as_deref(), Some("scheduled"), "scheduled_at is honoured");
}

#[tokio::test]
async fn what_sidekiqs_own_client_pushes_is_adopted_as_it_was_meant() {
    if !has_ruby() {
        return;
    }
    let mut world = World::new().await;
    world.config.adopt = vec![ForeignList::try_from("sidekiq:queue:analysis".to_owned()).unwrap()];
    let meant = ruby(&world, "sidekiq");
    let queue = world.queue().await;
    let adopted = queue.worker.adopter(std::time::Duration::ZERO).look().await.unwrap();
    assert_eq!(adopted.moved, 4);
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 4);
    are_in(&world, &meant).await;
    let first = claimed(&queue, "w").await;
    assert_eq!(first.job, meant[0], "in the order in which they were pushed");
    let scheduled: u64 = world.ask("ZCARD", "schedule").await;
    assert_eq!(scheduled, 1, "what is not yet due is Sidekiq's");
}

#[tokio::test]
async fn a_list_of_resque_is_adopted_as_it_was_meant() {
    if !has_ruby() {
        return;
    }
    let mut world = World::new().await;
    world.config.adopt = vec![ForeignList::try_from("resque:resque:queue:analysis".to_owned()).unwrap()];
    let meant = ruby(&world, "resque");
    let queue = world.queue().await;
    let _ = queue.worker.adopter(std::time::Duration::ZERO).look().await.unwrap();
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 3);
    are_in(&world, &meant).await;
    assert_eq!(claimed(&queue, "w").await.job, meant[0]);
}

#[tokio::test]
async fn a_plain_ruby_client_needs_nothing_of_ours() {
    if !has_ruby() {
        return;
    }
    let world = World::new().await;
    let meant = ruby(&world, "plain");
    assert_eq!(world.queue().await.worker.ingest().await.unwrap().admitted, 1);
    are_in(&world, &meant).await;
}

/// What the documented examples send, which have no id of their own.
async fn the_documented_pair_is_in(world: &World) {
    let queue = world.queue().await;
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.buried.len()), (1, 0));
    let pair = "0c2f9d24-df8e-48b4-919b-7d1eca02d3c4..7c9904f4-c090-4f0d-8c3f-ba3dc4fade25";
    assert_eq!(claimed(&queue, "w").await.job.pair(), pair);
}

#[tokio::test]
async fn the_documented_python_enqueues() {
    if !is_available("python3", &["-c", "import redis"]) {
        return;
    }
    let world = World::new().await;
    let script = format!("import json, os, redis\n{}", block("python", "rpush"));
    let url = format!("unix://{}", world.redis.socket().display());
    run(Command::new("python3").arg("-").env("REDIS_URL", url), &script);
    the_documented_pair_is_in(&world).await;
}

#[tokio::test]
async fn the_documented_shell_line_enqueues() {
    if !is_available("redis-cli", &["--version"]) {
        return;
    }
    let world = World::new().await;
    let here = format!("alias redis-cli=\"redis-cli -s '{}'\"\n", world.redis.socket().display());
    run(&mut Command::new("sh"), &format!("{here}{}", block("sh", "redis-cli RPUSH")));
    the_documented_pair_is_in(&world).await;
}
