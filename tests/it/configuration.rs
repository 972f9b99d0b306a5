//! What is set wrongly is refused at the start, all at once, in words; and nothing secret is shown.

use std::collections::BTreeMap;

use wm_testbed::redis::{PrivateRedis, RedisOptions};

use crate::harness::{World, env_var_name, run};

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_their_source_and_exit_78() {
    let environment = settings(&[
        ("WM__SANDBOX__WAL", "7s"),
        ("WM__FETCH__TOTAL_TIMEOUT", "soon"),
        ("WM__POLICY__ATTEMPTS", "many"),
        ("ANALYSIS_REQUIRE_MEDIA_TYPE", "perhaps"),
    ]);
    let needles = ["did you mean sandbox.wall?", "fetch.total_timeout", "policy.attempts", "perhaps"];
    run(&["config", "check"], &environment, b"").await.exited_with(78).stderr_contains(&needles);
    let json = run(&["config", "check", "-o", "json"], &environment, b"").await.exited_with(78).json();
    assert_eq!(json["errors"].as_array().unwrap().len(), 4, "{json}");
    run(&["status"], &environment, b"").await.exited_with(78).stderr_contains(&needles);
    run(&["config", "check"], &BTreeMap::new(), b"").await.exited_with(0).stderr_contains(&["sound"]);
}

#[tokio::test]
async fn config_show_names_every_origin_and_hides_every_secret() {
    let environment = settings(&[
        ("REDIS_URL", "redis://user:hunter2@cache.test/0"),
        ("SENTRY_DSN", "https://hunter2@sentry.test/1"),
        ("WEB_MONITORING_DB_URL", "https://db.test"),
        ("WEB_MONITORING_DB_EMAIL", "a@db.test"),
        ("WEB_MONITORING_DB_PASSWORD", "hunter2"),
        ("WM__SANDBOX__WALL", "7s"),
    ]);
    let json = run(&["config", "show", "-o", "json"], &environment, b"").await.exited_with(0);
    assert!(!json.stdout.contains("hunter2"), "{}", json.stdout);
    let json = json.json();
    assert_eq!(json["sandbox.wall"]["origin"], "environment WM__SANDBOX__WALL");
    assert_eq!(json["sandbox.heap"]["origin"], "built-in default");
    assert!(json["queue.url"]["value"].as_str().unwrap().contains("***@cache.test"), "{json}");

    let text = run(&["config", "show", "--origin"], &environment, b"").await.exited_with(0);
    assert!(!text.stdout.contains("hunter2"), "{}", text.stdout);
    let shown = run(&["config", "show"], &environment, b"").await.exited_with(0).stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), shown.replace("\"***\"", "\"\"").replace("email = \"a@db.test\"", ""))
        .unwrap();
    let again = ["config", "check", "--config", file.path().to_str().unwrap()];
    run(&again, &BTreeMap::new(), b"").await.exited_with(0);
}

/// What `config check` and `work` say of this environment, which they refuse.
async fn refusals(pairs: &[(&str, &str)]) -> String {
    let environment = settings(pairs);
    let check = run(&["config", "check"], &environment, b"").await.exited_with(78).stderr;
    let work = run(&["work"], &environment, b"").await.exited_with(78).stderr;
    assert_eq!(check, work, "what work refuses, config check refuses");
    check
}

#[tokio::test]
async fn config_check_refuses_what_work_refuses_with_key_value_origin_and_way_out() {
    for (name, value, key, way_out) in [
        ("WM__QUEUE__NAME", "Bad Name", "queue.name = \"Bad Name\"", "1 to 63 of a-z 0-9 _ -"),
        ("WM__API__URL", "ftp://x", "api.url = \"ftp://x\"", "write an http or https address"),
        ("RUST_LOG", "wm=!!!", "log.filter = \"wm=!!!\"", "write e.g. info"),
        ("SENTRY_DSN", "nonsense", "sentry.dsn = \"***\"", "write https://<key>@<host>/<project>"),
        ("REDIS_URL", "not a url", "queue.url = \"***\"", "write redis://"),
        ("REDIS_URL", "", "queue.url = \"\"", "the address is empty"),
        ("WM__API__EMAIL", "a@db.test", "api.email = \"a@db.test\"", "set both, or neither"),
        ("WM__API__PASSWORD", "geheim", "api.password = \"***\"", "set both, or neither"),
        ("WM__API__TOKEN", "ge\nheim", "api.token = \"***\"", "write visible ASCII"),
        ("WM__FETCH__USER_AGENT", "a\u{7}b", "fetch.user_agent", "write visible ASCII"),
        ("WM__FETCH__ALLOW_NETWORKS", "10.0.0.0", "fetch.allow_networks = [\"10.0.0.0\"]", "write ["),
        ("WM__QUEUE__ADOPT", "celery", "queue.adopt = [\"celery\"]", "write sidekiq:queue:<name>"),
        ("WM__WEB__BIND", "everywhere", "web.bind = \"everywhere\"", "write 127.0.0.1:9464, or off"),
        ("WM__SANDBOX__SLOTS", "100000", "sandbox.slots = 100000", "lower sandbox.slots"),
        ("WM__SANDBOX__HEAP", "1 KiB", "sandbox.heap = \"1 KiB\"", "below the least"),
        ("WM__SANDBOX__STACK", "1 KiB", "sandbox.stack = \"1 KiB\"", "below the least"),
    ] {
        let refused = refusals(&[(name, value)]).await;
        for needle in [key, way_out, &format!("(environment {name})")] {
            assert!(refused.contains(needle), "{name}={value}: {needle} is not in {refused}");
        }
        assert!(!refused.contains("geheim"), "{refused}");
    }
    let flag = run(&["config", "check", "-Q", "Bad Name"], &settings(&[]), b"").await.exited_with(78);
    assert!(flag.stderr.contains("queue.name = \"Bad Name\" (flag"), "{flag:?}");
}

#[tokio::test]
async fn a_mistake_in_one_section_does_not_hide_those_of_another() {
    let refused = refusals(&[
        ("WM__SANDBOX__WALL", "soon"),
        ("WM__SANDBOX__HEAP", "lots"),
        ("WM__POLICY__ATTEMPTS", "0"),
        ("WM__QUEUE__LEASE", "1s"),
        ("SENTRY_DSN", "nonsense"),
        ("WM__SANDBOX__SLOT", "1"),
    ])
    .await;
    for needle in [
        "sandbox.wall",
        "sandbox.heap",
        "policy.attempts",
        "queue.lease",
        "sentry.dsn",
        "did you mean sandbox.slots?",
    ] {
        assert!(refused.contains(needle), "{needle} is not in {refused}");
    }
    assert_eq!(refused.trim_end().lines().count(), 6, "{refused}");
}

#[tokio::test]
async fn a_pasted_password_is_answered_by_percent_encoding_and_no_part_of_it_is_shown() {
    for url in [
        "redis://:hunt@er2/xyz#zy%@cache.test",
        "redis://:hunt@er2@cache.test",
        "redis://:hunt/er2@cache.test:6379/0",
        "rediss://user:hunt#er2@cache.test",
        "redis://user:hunt%er2@cache.test",
        "redis://user:hunt:er2@cache.test",
        "redis+sentinel://user:hunt/er2@a.test,b.test/main",
        "redis+unix:///run/redis.sock?pass=hunt#er2",
    ] {
        let refused = refusals(&[("REDIS_URL", url)]).await;
        assert!(refused.contains("percent-encode it"), "{url}: {refused}");
        for part in ["hunt", "er2", "xyz", "zy%", "certificate"] {
            assert!(!refused.contains(part), "{url}: {part} is in {refused}");
        }
    }
}

#[tokio::test]
async fn an_unknown_word_in_the_query_of_an_address_is_refused_by_name_and_without_its_value() {
    for (url, word) in [
        ("redis+unix:///run/redis.sock?password=hunter2", "password="),
        ("redis+unix:///run/redis.sock?username=hunter2", "username="),
        ("redis://cache.test/0?password=hunter2", "password="),
        ("rediss://cache.test/0?ssl_cert_reqs=hunter2", "ssl_cert_reqs="),
        ("redis+sentinel://a.test/main?password=hunter2", "password="),
        ("redis+sentinel://a.test/main?db=hunter2", "db="),
    ] {
        let refused = refusals(&[("REDIS_URL", url)]).await;
        assert!(refused.contains(&format!("{word} of the query is unknown")), "{url}: {refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    for url in [
        "redis+unix:///run/redis.sock?db=1&user=u&pass=p&protocol=resp3",
        "redis+sentinel://:pw@a.test/main/1?sentinel_user=u&sentinel_pass=p",
        "rediss://u:p%40@cache.test:6380/0?protocol=resp3",
    ] {
        run(&["config", "check"], &settings(&[("REDIS_URL", url)]), b"").await.exited_with(0);
    }
}

#[tokio::test]
async fn a_list_in_the_environment_may_be_written_as_in_a_file() {
    for text in [r#"["10.0.0.0/8", "192.168.0.0/16"]"#, "10.0.0.0/8,192.168.0.0/16"] {
        let environment = settings(&[("WM__FETCH__ALLOW_NETWORKS", text)]);
        let json = run(&["config", "show", "-o", "json"], &environment, b"").await.exited_with(0).json();
        let shown = &json["fetch.allow_networks"]["value"];
        assert_eq!(shown, r#"["10.0.0.0/8", "192.168.0.0/16"]"#, "{text}");
    }
}

#[tokio::test]
async fn tls_that_the_server_does_not_speak_is_named() {
    for password in ["", "hunter2"] {
        let redis = PrivateRedis::start(RedisOptions::default().tcp()).unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let protect = ["SET", "requirepass", password];
        redis::cmd("CONFIG").arg(&protect).exec_async(&mut connection).await.unwrap();
        let url = redis.url().replace("redis://", "rediss://");
        let environment = settings(&[("REDIS_URL", &url), (&env_var_name("queue.connect_timeout"), "1s")]);
        run(&["status"], &environment, b"")
            .await
            .exited_with(69)
            .stderr_contains(&["rediss://", "the server does not speak TLS; use redis://"]);
    }
}

#[tokio::test]
async fn slots_that_do_not_fit_the_memory_are_refused_with_the_arithmetic() {
    let world = World::new().await;
    world.run(&["work", "--slots", "100000"]).await.exited_with(78).stderr_contains(&[
        "100000 x (",
        "address space",
        "buffers",
        "lower sandbox.slots or sandbox.heap",
    ]);
    let small = world.with("worker.memory_limit", "256 MiB");
    small.run(&["work"]).await.exited_with(78).stderr_contains(&["of 256.0 MiB"]);
}

#[tokio::test]
async fn more_fetches_than_this_process_may_open_files_are_refused_with_both_numbers() {
    let world =
        World::new().await.with("worker.memory_limit", "1 PiB").with("fetch.in_flight_max", "4294967295");
    world.run(&["work"]).await.exited_with(78).stderr_contains(&[
        "fetch.in_flight_max = 4294967295",
        "open files",
        "ulimit -Hn",
    ]);
    let tight = world.with("fetch.in_flight_max", "512").with("fetch.memory", "40 MiB");
    tight.run(&["work"]).await.exited_with(78).stderr_contains(&["fetch.memory", "write 45.0 MiB or more"]);
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_is_exit_69_and_named_without_its_password() {
    let environment = settings(&[
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:1/0"),
        (&env_var_name("queue.connect_timeout"), "300ms"),
        (&env_var_name("queue.response_timeout"), "300ms"),
    ]);
    for args in [
        &["status"][..],
        &["queue", "pause", "--reason", "x"],
        &["queue", "resume"],
        &["dead", "ls"],
        &["dead", "discard", "--yes"],
        &["enqueue", "--to", "00000000-0000-4000-8000-000000000001"],
    ] {
        let ran =
            run(args, &environment, b"").await.exited_with(69).stderr_contains(&["Redis", "127.0.0.1:1"]);
        assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    }
}

#[tokio::test]
async fn work_waits_for_a_redis_that_is_not_there_yet() {
    let mut world = World::new().await;
    world.redis.kill();
    let mut worker = world.worker();
    worker.until_logged("working").await;
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.get("/readyz").await.0, 503);
    tokio::task::spawn_blocking(move || {
        world.redis.restart().unwrap();
        world
    })
    .await
    .map(async |world| {
        worker.until_status("/readyz", 200).await;
        assert!(worker.is_running());
        drop(world);
    })
    .unwrap()
    .await;
}
