//! Secrets in addresses: the job keeps them, and nothing else shows them.

use std::collections::BTreeMap;

use serde_json::json;
use url::Url;
use uuid::Uuid;
use wm_analyzer::job::{Job, JobId};
use wm_testbed::body::Body;
use wm_testbed::redis::RedisOptions;
use wm_testbed::site::Resource;

use crate::harness::{CommandOutput, World, job};

const SIGNATURE: &str = "s1gnature5ecret";
const PASSWORD: &str = "pa55word5ecret";

#[track_caller]
fn assert_no_secret(place: &str, text: &str) {
    for secret in [SIGNATURE, PASSWORD] {
        let near = text.find(secret).map(|at| text[..at].chars().rev().take(300).collect::<String>());
        let near = near.map(|near| near.chars().rev().collect::<String>());
        assert_eq!(near, None, "{secret} is shown in {place}, behind this");
    }
}

/// A page of the site under a signed address.
fn signed(world: &World, path: &str, page: impl Into<Resource>) -> Url {
    let mut url = world.site.put(path, page);
    url.set_query(Some(&format!("X-Amz-Signature={SIGNATURE}&page=2")));
    url
}

fn page(text: &str) -> Body {
    Body::html(format!("<!DOCTYPE html><title>t</title><p>{text}</p>").into_bytes())
}

/// A job for each way in which a delivery ends, all with secrets in both addresses.
fn jobs_with_secrets(world: &World) -> Vec<Job> {
    let good = || signed(world, "/good", page("old"));
    let mut login = good();
    login.set_username("user").unwrap();
    login.set_password(Some(PASSWORD)).unwrap();
    let mut elsewhere = world.site.url("/redirect-to");
    elsewhere.query_pairs_mut().append_pair("u", signed(world, "/lost", Resource::Status(404)).as_str());
    vec![
        job("done", good(), signed(world, "/new", page("new"))),
        job("gone", good(), signed(world, "/gone", Resource::Status(404))),
        job("login", good(), login),
        job("redirected", good(), elsewhere),
        job("unavailable", good(), signed(world, "/ill", Resource::Status(503))),
        job("skipped", good(), signed(world, "/report.pdf", page("x"))),
        job("a-pdf", good(), signed(world, "/a", Body::html(&b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"[..]))),
    ]
}

/// Payloads that are not jobs, with secrets in what a refusal quotes.
fn payloads_with_secrets() -> Vec<Vec<u8>> {
    let address = format!("https://user:{PASSWORD}@archive.test/x?sig={SIGNATURE}");
    let escaped = address.replace('/', r"\/");
    let refused = |to: serde_json::Value| json!({ "v": 1, "to": to }).to_string();
    [
        refused(json!(address)),
        refused(
            json!({ "uuid": Uuid::nil(), "body_url": format!("user:{PASSWORD}@a.test/x?sig={SIGNATURE}") }),
        ),
        refused(json!({ "uuid": 7, "body_url": address })),
        format!("{{\"u\":\"{escaped}\""),
        format!("\u{9b}31m see {address}"),
    ]
    .map(String::into_bytes)
    .into()
}

/// All that the queue has stored, by key and field, without the fields that hold what a producer sent.
async fn stored(world: &World) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for key in world.redis_cmd::<Vec<String>>("KEYS", "*").await {
        let kind: String = world.redis_cmd("TYPE", &key).await;
        let values: Vec<Vec<u8>> = match kind.as_str() {
            "hash" => {
                let fields: BTreeMap<Vec<u8>, Vec<u8>> = world.redis_cmd("HGETALL", &key).await;
                let sent = |field: &[u8]| key.contains(":job:") && [&b"payload"[..], b"raw"].contains(&field);
                fields.into_iter().filter(|(field, _)| !sent(field)).flat_map(<[_; 2]>::from).collect()
            }
            "string" => vec![world.redis_cmd("GET", &key).await],
            "list" => world.redis_cmd("LRANGE", &[&key, "0", "-1"]).await,
            "set" => world.redis_cmd("SMEMBERS", &key).await,
            "zset" => world.redis_cmd("ZRANGE", &[&key, "0", "-1"]).await,
            "stream" => {
                let entries: redis::Value = world.redis_cmd("XRANGE", &[&key, "-", "+"]).await;
                vec![format!("{entries:?}").into_bytes()]
            }
            "none" => Vec::new(), // it has gone since it was listed
            other => panic!("{key} is a {other}"),
        };
        all.extend(values.iter().map(|value| (key.clone(), String::from_utf8_lossy(value).into_owned())));
    }
    all
}

async fn both_formats(world: &World, args: &[&str]) -> [CommandOutput; 2] {
    [world.run(args).await, world.run(&[args, &["-o", "json"]].concat()).await]
}

#[tokio::test]
async fn secrets_of_addresses_are_in_the_job_and_nowhere_else() {
    let world = World::new().await.with("log.filter", "debug").with("policy.attempts", "2");
    let jobs = jobs_with_secrets(&world);
    let worker = world.worker();
    world.send(&jobs).await;
    let payloads = payloads_with_secrets();
    world.push(&payloads.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
    for (id, end) in [("done", "done"), ("skipped", "skipped"), ("a-pdf", "skipped")] {
        world.until_event(&JobId::parse(id).unwrap(), end).await;
    }
    let dead = world.until_dead_letters(4 + payloads.len()).await;

    let kept = world.field(&jobs[1].id, "payload").await.unwrap();
    assert!(kept.contains(SIGNATURE), "{kept}");
    let stored = stored(&world).await;
    assert!(stored.iter().any(|(_, value)| value.contains("X-Amz-Signature=***&page=2")), "{stored:#?}");
    for (place, value) in &stored {
        assert_no_secret(place, place);
        assert_no_secret(place, value);
    }
    let ids = dead.iter().map(|letter| letter.id.to_string()).collect::<Vec<_>>();
    let shows = ids.iter().map(|id| vec!["dead", "show", id]);
    let results = jobs.iter().map(|job| vec!["results", "show", job.id.as_str()]);
    let others =
        [&["status"][..], &["doctor"], &["dead", "ls"], &["results", "ls"], &["diff", "--job", "gone"]];
    let dry_run = vec!["dead", "replay", "--dry-run"];
    for args in others.map(<[_]>::to_vec).into_iter().chain(shows).chain(results).chain([dry_run]) {
        for ran in both_formats(&world, &args).await {
            assert_no_secret(&format!("{args:?}"), &format!("{ran:?}"));
        }
    }
    assert_no_secret("/metrics", &worker.get("/metrics").await.1);
    assert_no_secret("the log", &worker.log_text());
    worker.stop().await;
    let events = world.sentry.events();
    assert!(!events.is_empty());
    assert_no_secret("Sentry", &format!("{events:?}"));
    assert_eq!(world.site.hits("/lost"), 1, "what is fetched has its whole query");
}

#[tokio::test]
async fn a_job_whose_addresses_hold_secrets_is_reproduced_and_replayed_by_its_id() {
    let world = World::new().await;
    let gone =
        job("gone", signed(&world, "/old", page("old")), signed(&world, "/gone", Resource::Status(404)));
    let plain = world.bodies("plain", page("old"), Resource::Status(404));
    let worker = world.worker();
    world.send(&[gone.clone(), plain]).await;
    world.until_dead_letters(2).await;
    worker.stop().await;

    let shown = world.run(&["dead", "show", "plain"]).await.exited_with(0);
    shown.stderr_contains(&["wm-analyzer diff 'http://127.0.0.1"]);
    let shown = world.run(&["dead", "show", "gone"]).await.exited_with(0);
    shown.stderr_contains(&["reproduce it here:  wm-analyzer job diff gone -v"]);
    let diff = ["job", "diff", "gone", "-v"];
    world.run(&diff).await.exited_with(11).stdout_contains(&["poison: gone", "404"]);
    signed(&world, "/gone", page("new"));
    world.run(&diff).await.exited_with(0).stdout_contains(&["[-old-]{+new+}", "child"]);
    world.run(&["diff", "--job", "nobody"]).await.exited_with(3).stderr_contains(&["no job nobody"]);
    world.run(&["diff", "--job", "gone", "a.html"]).await.exited_with(2);
    assert_eq!(world.dead().await.len(), 2, "looking changes nothing");

    world.run(&["dead", "replay", "gone", "--yes"]).await.exited_with(0);
    world.run(&diff).await.exited_with(0);
    let _worker = world.worker();
    world.until_event(&gone.id, "done").await;
    let copies = world.run(&["dead", "discard", "plain", "--now", "--yes"]).await.exited_with(0);
    assert!(copies.stdout.contains("\"body_url\""), "{copies:?}");
}

#[tokio::test]
async fn json_for_programs_steers_no_terminal_and_keeps_its_value() {
    let world = World::new().await;
    let hostile = "\u{9b}31m \u{202e}gpj.exe\u{2069} \u{e0041}\u{3164}\u{7f} n\u{f6} job";
    world.push(&[hostile.as_bytes()]).await;
    let worker = world.worker();
    let id = world.until_dead_letters(1).await.remove(0).id.to_string();
    worker.stop().await;
    let only_visible = |ran: &CommandOutput| {
        let steers = |c: &char| *c != '\n' && wm_analyzer::job::invisible::is_control_or_invisible(*c);
        assert_eq!(ran.stdout.chars().find(steers), None, "{ran:?}");
    };
    for args in [&["dead", "ls"][..], &["dead", "show", &id]] {
        let [text, json] = both_formats(&world, args).await;
        only_visible(&text);
        only_visible(&json);
        let letter = json.json();
        let letter = letter.pointer("/jobs/0").unwrap_or(&letter);
        assert_eq!(letter["raw"]["head"], hostile);
    }
    let copy = world.run(&["dead", "discard", &id, "--now", "--yes"]).await.exited_with(0);
    only_visible(&copy);
    assert_eq!(copy.json()["raw"]["head"], hostile);
}

#[tokio::test]
async fn a_printed_command_repeats_how_this_redis_was_found_but_no_password() {
    let world = World::with_redis_options(RedisOptions::default().tcp()).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let (file, address) = (file.path().to_str().unwrap(), world.redis.url());
    let pause = ["queue", "pause", "--reason", "why", "-c", file, "--redis"];
    let paused = world.run(&[&pause[..], &[&address]].concat()).await.exited_with(0);
    let resume = format!("queue resume -c {file} --redis {address}");
    let paused = paused.stderr_contains(&[&format!("Undo: wm-analyzer {resume}")]);
    assert_eq!(paused.stderr.matches("wm-analyzer").count(), 1);
    let status = world.run(&["status", "--redis", &address]).await.exited_with(0);
    status.stdout_contains(&["queue resume default", &format!("--redis {address}")]);
    world
        .run(&resume.split(' ').collect::<Vec<_>>())
        .await
        .exited_with(0)
        .stderr_contains(&["resumed analysis"]);

    let user = ["SETUSER", "op", "on", ">hunter2", "~*", "&*", "+@all"];
    world.redis_cmd::<()>("ACL", &user).await;
    let with_password = address.replace("redis://", "redis://op:hunter2@");
    let paused = world.run(&[&pause[..], &[&with_password]].concat()).await.exited_with(0);
    let masked = address.replace("redis://", "redis://***@");
    let paused = paused.stderr_contains(&[&format!("queue resume -c {file} --redis '{masked}'")]);
    assert!(!format!("{paused:?}").contains("hunter2"), "{paused:?}");
}
