//! The whole way of the db app's own job: a Ruby process enqueues it with ActiveJob, and the app has its annotation.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use uuid::Uuid;
use wm_testbed::body::Body;
use wm_testbed::db_app::{DbState, FakeDb, version};
use wm_testbed::pages;

use crate::harness::{World, until};

/// Pages, each with two versions.
const PAGES: usize = 100;
const RECIPES: &str = include_str!("../../docs/producers.md");
const PRODUCER: &str = include_str!("rails.rb");
const GEMS: &str =
    "require 'active_job'; require 'active_support/all'; require 'global_id'; require 'redis'\n";

/// Is there a Ruby that can play the app? Where peers are required, there must be.
fn has_ruby() -> bool {
    let ruby = Command::new("ruby").args(["-e", GEMS]).stderr(Stdio::null()).status();
    let has = ruby.is_ok_and(|status| status.success());
    assert!(has || std::env::var("WM_REQUIRE_PEERS").as_deref() != Ok("1"), "ruby, its activejob and redis");
    has
}

/// The adapter as docs/producers.md shows it.
fn adapter() -> &'static str {
    let mut blocks = RECIPES.split("\n```ruby\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains("class WmAnalysisAdapter")).unwrap()
}

/// Runs the app's code behind the adapter, for these versions.
fn run_app(redis_url: Option<&str>, versions: &[Uuid], code: &str) -> Output {
    let versions: Vec<String> = versions.iter().map(Uuid::to_string).collect();
    let mut command = Command::new("ruby");
    command.args(["-e", &format!("{GEMS}{}\n{PRODUCER}\n{code}", adapter())]);
    command.env_remove("ANALYSIS_REDIS_URL").env("VERSIONS", versions.join(" "));
    command.envs(redis_url.map(|url| ("ANALYSIS_REDIS_URL", url))).output().unwrap()
}

/// Lets the app enqueue its job for these versions.
fn enqueue(world: &World, versions: &[Uuid]) {
    let url = format!("unix://{}", world.redis.socket().display());
    let ran = run_app(Some(&url), versions, "AnalyzeChangeJob.queue_adapter.enqueue_all(jobs)");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn an_app_without_the_variable_is_loaded_whole_and_a_redis_that_is_down_is_an_enqueue_error() {
    if !has_ruby() {
        return println!("SKIPPED: no ruby");
    }
    // Loading every class is what an app does when it boots in production.
    let loaded = run_app(None, &[], "puts AnalyzeChangeJob.queue_adapter.class");
    assert_eq!(String::from_utf8_lossy(&loaded.stdout).trim(), "WmAnalysisAdapter", "{loaded:?}");
    let code = "begin
        jobs.each { |job| job.class.queue_adapter.enqueue(job) }
      rescue ActiveJob::EnqueueError => error
        puts error.message
      end
      puts AnalyzeChangeJob.queue_adapter.enqueue_all(jobs)";
    for (url, needle) in [(None, "ANALYSIS_REDIS_URL"), (Some("redis://127.0.0.1:1"), "127.0.0.1:1")] {
        let ran = run_app(url, &[Uuid::new_v4()], code);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(said.starts_with("not enqueued for analysis: ") && said.contains(needle), "{ran:?}");
        assert_eq!(said.lines().last(), Some("0"), "{ran:?}");
    }
}

/// An app with many pages of two versions each, and the newer version of each.
async fn world_with_pages() -> (World, FakeDb, Vec<Uuid>) {
    let world = World::new().await;
    let (mut versions, mut newer) = (Vec::new(), Vec::new());
    for n in 0..PAGES {
        let page = Uuid::new_v4();
        let (old, new) = pages::pair(n as u64, 3_000);
        for (side, body) in [("old", old), ("new", new)] {
            let mut version = version(Uuid::new_v4(), page);
            version["body_url"] = world.site.put(&format!("/{n}/{side}"), Body::html(body)).as_str().into();
            version["body_hash"] = Value::Null;
            versions.push(version);
        }
        newer.push(versions.last().unwrap()["uuid"].as_str().unwrap().parse().unwrap());
    }
    let db = FakeDb::with(DbState { versions, ..DbState::default() }).await;
    let world = world.with("api.url", format!("http://{}", db.address())).with("api.post", "post");
    (world, db, newer)
}

#[tokio::test]
async fn a_hundred_jobs_of_a_rails_app_are_a_hundred_annotations_however_often_they_are_sent() {
    if !has_ruby() {
        return println!("SKIPPED: no ruby");
    }
    let (world, db, newer) = world_with_pages().await;
    let _worker = world.worker();
    let today = async |what: &str| {
        let status = world.queue.status().await.unwrap();
        status.last_day.get(what).copied().unwrap_or_default() as usize
    };

    // Each asks for a comparison with its page's earliest version, too: here that is the one before it, so none follows.
    enqueue(&world, &newer);
    until("all are done", async || today("done").await == PAGES).await;
    assert_eq!(today("admitted").await, PAGES);
    let annotations = db.with_state(|db| db.annotations.clone());
    assert_eq!(annotations.len(), PAGES);
    assert!(annotations.values().all(|annotation| annotation.as_object().unwrap().len() == 12));

    enqueue(&world, &newer);
    until("all are answered", async || today("skipped:already_done").await == PAGES).await;
    assert_eq!(today("done").await, PAGES, "nothing was analysed again");
    let posts = db.posts().len();
    assert_eq!((db.with_state(|db| db.annotations.len()), posts), (PAGES, PAGES));
    assert_eq!((0..PAGES).map(|n| world.site.hits(&format!("/{n}/new"))).sum::<u64>(), PAGES as u64);
    assert_eq!(world.dead().await.len(), 0);
}

#[tokio::test]
async fn a_worker_empties_an_adopted_list_before_it_calls_anything_empty() {
    const LIST: &str = "resque:queue:analysis";
    let (world, db, newer) = world_with_pages().await;
    let world = world.with("queue.adopt", format!("resque:{LIST}"));
    for to in &newer[..10] {
        let version = format!("gid://webpage-versions-db/Version/{to}");
        let job = json!({"job_class": "AnalyzeChangeJob", "job_id": Uuid::new_v4(), "queue_name": "analysis",
            "arguments": [{"_aj_globalid": version}, null, false]});
        let wrapper = "ActiveJob::QueueAdapters::ResqueAdapter::JobWrapper";
        let pushed = json!({"class": wrapper, "args": [job]}).to_string();
        world.redis_cmd::<u64>("RPUSH", &[LIST, &pushed]).await;
    }
    let ran = world.run(&["work", "--until-empty"]).await;
    ran.exited_with(0);
    assert_eq!(db.with_state(|db| db.annotations.len()), 10);
    assert_eq!(world.redis_cmd::<u64>("LLEN", LIST).await, 0);
}

#[tokio::test]
async fn a_pair_that_only_resolving_names_is_not_analysed_again_unless_that_is_asked_for() {
    let (world, db, newer) = world_with_pages().await;
    let _worker = world.worker();
    let job = |id: &str, more: Value| {
        let mut job = json!({"v": 1, "id": id, "to": newer[0]});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job.to_string()
    };
    let posts = || db.posts().len();
    for (id, more, ends, posted) in [
        ("first", json!({}), "done", 1),
        ("second", json!({}), "skipped", 1),
        ("earliest", json!({"from": "earliest"}), "skipped", 1),
        ("on-purpose", json!({"again": true}), "done", 2),
    ] {
        world.push(&[job(id, more).as_bytes()]).await;
        world.until_event(&wm_analyzer::job::JobId::parse(id).unwrap(), ends).await;
        assert_eq!(posts(), posted, "{id}");
    }
}
