//! `doctor` and the refusals of `work`: what would go wrong, found before it does.

use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use wm_testbed::http::{HttpServer, Request, Response};
use wm_testbed::redis::RedisOptions;

use crate::annotations::{job_for_versions, world_with_app};
use crate::harness::{World, until};

fn levels(json: &Value, check: &str) -> Vec<(String, String)> {
    let findings = json["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings.map(|finding| (text(finding, "level"), text(finding, "message"))).collect()
}

#[tokio::test]
async fn a_good_redis_gets_a_clean_bill() {
    let small = World::with_redis_options(RedisOptions::default().persistent())
        .await
        .with("queue.backlog_max", "40000");
    let world = small.with("queue.dead_max_bytes", "64 MiB");
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(0).json();
    let redis = levels(&json, "redis");
    assert!(redis.iter().all(|(level, _)| level == "ok"), "{redis:?}");
    for needle in ["master", "noeviction", "maxmemory 256", "append-only file on"] {
        assert!(redis.iter().any(|(_, what)| what.contains(needle)), "{needle:?} is not in {redis:?}");
    }
    let memory = levels(&json, "memory");
    assert!(memory[0].0 == "ok" && memory[0].1.contains("2 x ("), "{memory:?}");
    let isolation = levels(&json, "isolation");
    assert!(!isolation.is_empty() && isolation.iter().all(|(level, _)| level != "fail"), "{isolation:?}");
    world.run(&["doctor"]).await.exited_with(0).stdout_contains(&["ok", "noeviction"]);
}

#[tokio::test]
async fn a_backlog_that_does_not_fit_into_redis_is_told_with_the_sum() {
    let world = World::with_redis_options(RedisOptions::default().persistent())
        .await
        .with("queue.backlog_max", "300000");
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(0).json();
    let warned: Vec<_> = levels(&json, "redis").into_iter().filter(|(level, _)| level == "warn").collect();
    let [(_, what)] = &warned[..] else { panic!("{warned:?}") };
    assert!(what.starts_with("maxmemory 256.0 MiB is less than queue.backlog_max 300000 x "), "{what}");
}

#[tokio::test]
async fn a_redis_that_may_lose_jobs_fails_the_doctor_and_is_refused_by_work() {
    let world =
        World::with_redis_options(RedisOptions::default().set("maxmemory-policy", "allkeys-lru")).await;
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(1).json();
    assert_eq!(json["worst"], "fail");
    let redis = levels(&json, "redis");
    assert!(redis.iter().any(|(level, what)| level == "fail" && what.contains("allkeys-lru")), "{redis:?}");
    assert!(
        redis.iter().any(|(level, what)| level == "warn" && what.contains("appendonly yes")),
        "{redis:?}"
    );
    world.run(&["doctor"]).await.exited_with(1).stdout_contains(&["FAIL", "set it to noeviction"]);
    world.run(&["work"]).await.exited_with(78).stderr_contains(&["allkeys-lru", "set it to noeviction"]);
}

#[tokio::test]
async fn a_doctor_without_redis_still_looks_at_the_rest() {
    let mut world = World::new().await;
    world.redis.kill();
    let world = world.with("queue.connect_timeout", "300ms").with("queue.response_timeout", "300ms");
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(1).json();
    assert_eq!(levels(&json, "redis")[0].0, "fail");
    assert_eq!(levels(&json, "memory")[0].0, "ok");
    assert_ne!(levels(&json, "isolation")[0].0, "fail");
    let narrow = [("worker.memory_limit", "1 GiB"), ("sandbox.slots", "2")];
    let json = world.run_with(&narrow, &["doctor", "-o", "json"]).await.exited_with(1).json();
    let memory = levels(&json, "memory");
    assert_eq!((&memory[0].0[..], &memory[1].0[..]), ("ok", "warn"), "{memory:?}");
    assert!(
        memory[1].1.contains("sandbox.max_heap 1.0 GiB, an address space limit of 1.3 GiB"),
        "{memory:?}"
    );
    let tight = world.with("worker.memory_limit", "300 MiB");
    let json = tight.run(&["doctor", "-o", "json"]).await.exited_with(1).json();
    let memory = levels(&json, "memory");
    assert!(memory[0].0 == "fail" && memory[0].1.contains("worker.memory_limit"), "{memory:?}");
}

#[tokio::test]
async fn a_results_store_is_tried_and_one_that_is_not_there_is_refused_by_work() {
    let world = World::new().await;
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(0).json();
    assert_eq!(levels(&json, "results"), [], "none is configured");

    let directory = TempDir::new().unwrap();
    let store = format!("file://{}", directory.path().display());
    let world = world.with("results.store", &store);
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(0).json();
    assert_eq!(levels(&json, "results"), [("ok".to_owned(), format!("{store} takes and gives results"))]);
    assert!(levels(&json, "memory")[0].1.contains(" + 16.0 MiB results + "), "{json}");

    drop(directory);
    let json = world.run(&["doctor", "-o", "json"]).await.exited_with(1).json();
    let results = levels(&json, "results");
    assert!(results[0].0 == "fail" && results[0].1.contains("create the directory"), "{results:?}");
    world
        .run(&["work"])
        .await
        .exited_with(78)
        .stderr_contains(&["results.store = file://", "create the directory"]);
}

#[tokio::test]
async fn a_bucket_that_refuses_us_is_named_and_no_proxy_of_the_environment_is_used() {
    let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    let refuses = |_: &Request| Response::new(403, &[], body.as_bytes());
    let (server, proxy) = (
        HttpServer::start(Arc::new(refuses)).await.unwrap(),
        HttpServer::start(Arc::new(refuses)).await.unwrap(),
    );
    let world = World::new().await.with("results.store", "s3://results/wm");
    let world = world.with("results.endpoint", format!("http://{}", server.address()));
    let world = world.with("results.access_key_id", "worker").with("results.secret_access_key", "hunter2");
    let proxy_url = proxy.url("/").to_string();
    let variables =
        ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, proxy_url.as_str()));
    let output = world.run_with_env(&variables, &["doctor", "-o", "json"]).await.exited_with(1);
    let results = levels(&output.json(), "results");
    let [(level, what)] = &results[..] else { panic!("{results:?}") };
    assert_eq!(level, "fail");
    for needle in ["s3://results/wm answered 403 (AccessDenied: Access Denied)", "s3:PutObject"] {
        assert!(what.contains(needle), "{needle} is not in {what}");
    }
    assert!(!output.stdout.contains("hunter2"));
    assert_eq!((server.requests().len(), proxy.connections()), (1, 0));
}

#[tokio::test]
async fn the_db_app_is_asked_who_we_are_there_and_whether_it_takes_annotations() {
    let (world, db, _, _) = world_with_app().await;
    let looked = async |world: &World| {
        let json = world.run(&["doctor", "-o", "json"]).await.json();
        levels(&json, "db app")
    };
    let host = "127.0.0.1 answers, logged in as analyst@db.test";
    assert_eq!(looked(&world).await, [("ok".to_owned(), format!("{host}, who may annotate"))]);
    assert!(db.with_state(|db| db.annotations.is_empty()), "nothing was written");
    for (read_only, may_not_annotate, needle) in
        [(true, false, "is read-only"), (false, true, "who may not annotate")]
    {
        db.with_state(|db| (db.read_only, db.may_not_annotate) = (read_only, may_not_annotate));
        let [(level, message)] = &looked(&world).await[..] else { panic!("one finding") };
        assert!(level == "fail" && message.starts_with(host) && message.contains(needle), "{message}");
    }
    db.with_state(|db| (db.read_only, db.may_not_annotate) = (false, false));
    let world = world.with("api.password", "another");
    let [(level, message)] = &looked(&world).await[..] else { panic!("one finding") };
    assert!(level == "fail" && message.contains("refuses api.email and api.password"), "{message}");
    let world = world.with("api.password", "hunter2").with("api.post", "off");
    assert!(looked(&world).await[0].1.contains("annotations are not posted"));
    let world = world.with("api.url", "http://127.0.0.1:1");
    assert!(looked(&world).await[0].1.contains("cannot be reached"));
    assert!(looked(&world.with("api.url", "")).await.is_empty());
}

#[tokio::test]
async fn status_and_doctor_say_what_a_worker_knows_of_the_app_and_why_its_breaker_is_open() {
    let (world, db, _, [from, to]) = world_with_app().await;
    db.with_state(|db| db.read_only = true);
    let _worker = world.worker();
    let pair = job_for_versions("pair", Some(from), to);
    world.send(std::slice::from_ref(&pair)).await;
    until("the heartbeat says so", async || {
        let workers = world.queue.status().await.unwrap().workers;
        workers.first().is_some_and(|worker| !worker.info.breaker_reasons.is_empty())
    })
    .await;
    let status = world.run(&["status"]).await;
    for needle in
        ["breaker api", "the db app answered 423", "db app  127.0.0.1 as analyst@db.test, read-only"]
    {
        assert!(status.stdout.contains(needle), "{needle} is not in {}", status.stdout);
    }
    let json = world.run(&["status", "-o", "json"]).await.json();
    assert!(json["workers"][0]["breaker_reasons"]["api"].as_str().unwrap().contains("read-only"), "{json}");
    let json = world.run(&["doctor", "-o", "json"]).await.json();
    let told = levels(&json, "queue");
    assert!(told.iter().any(|(level, what)| level == "fail" && what.contains("breaker api: ")), "{told:?}");
}
