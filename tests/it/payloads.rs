//! What producers may push by mistake: each becomes a dead letter that says what it was, and keeps nobody waiting.

use sha2::{Digest, Sha256};
use wm_analyzer::queue::{Content, RawPayload, StoredJob};

use crate::harness::{World, job_by_uuid, until};

fn raw(letter: &StoredJob) -> &RawPayload {
    match &letter.content {
        Content::Raw(raw) => raw,
        Content::Job(job) => panic!("a job: {job:?}"),
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[tokio::test]
async fn what_is_no_job_is_buried_with_its_head_length_and_hash_and_what_is_behind_it_is_done() {
    let world = World::new().await;
    let good = world.pair("good", 4_000);
    let hostile = b"\x1b[2J\xff\xfe not json \n at all";
    let long = format!("{{\"v\":1,\"to\":\"{}\"}}", "x".repeat(9_000));
    let huge = vec![b'{'; 3 << 20];
    let encoded = good.encode();
    world.push(&[b"{\"v\":1,\"from\":", hostile, long.as_bytes(), &huge, &encoded]).await;
    let _worker = world.worker();
    world.until_event(&good.id, "done").await;
    let dead = world.until_dead_letters(4).await;
    let of = |length: usize| {
        let found = dead.iter().find(|letter| raw(letter).length == length as u64);
        found.unwrap_or_else(|| panic!("none of {length} bytes: {dead:?}"))
    };
    for payload in [&b"{\"v\":1,\"from\":"[..], hostile, long.as_bytes(), &huge] {
        let letter = of(payload.len());
        let reason = letter.reason.as_ref().unwrap();
        assert_eq!((reason.kind.as_str(), reason.stage.as_str()), ("decode", "ingest"));
        assert_eq!(raw(letter).head, payload[..payload.len().min(2 << 10)]);
        if payload.len() <= 1 << 20 {
            assert_eq!(raw(letter).hash, sha256(payload));
        } else {
            assert!(raw(letter).hash.starts_with("sha1-1MiB:"), "{}", raw(letter).hash);
        }
    }
    let status = world.queue.status().await.unwrap();
    assert_eq!((status.inbox, status.backlog()), (0, 0));

    let id = of(hostile.len()).id.as_str();
    let shown = world.run(&["dead", "show", id]).await.exited_with(0);
    let length = format!("{} bytes", hostile.len());
    let shown = shown.stdout_contains(&["decode", "not JSON", "\\u{1b}[2J", &sha256(hostile), &length]);
    assert!(!shown.stdout.contains('\u{1b}'), "nothing steers the terminal: {shown:?}");
    let json =
        world.run(&["dead", "show", of(long.len()).id.as_str(), "-o", "json"]).await.exited_with(0).json();
    assert_eq!(json["raw"]["length"], long.len());
    assert_eq!(json["raw"]["head"], long[..2048]);
    assert!(json["reason"]["failure"]["detail"].as_str().unwrap().contains("at most 8192"), "{json}");
}

#[tokio::test]
async fn a_job_of_a_later_version_or_with_a_bad_field_says_which_and_what_to_write() {
    let world = World::new().await;
    let _worker = world.worker();
    let payloads: [&[u8]; 3] = [
        br#"{"v":2,"id":"later"}"#,
        br#"{"v":1,"from":"00000000-0000-4000-8000-000000000001","to":"page 7"}"#,
        br#"{"v":1,"to":"00000000-0000-4000-8000-000000000001","expires":"2030-01-01T00:00:00Z"}"#,
    ];
    world.push(&payloads).await;
    let dead = world.until_dead_letters(3).await;
    let told: Vec<String> =
        dead.iter().filter_map(|letter| letter.reason.as_ref()).map(|r| r.failure.to_string()).collect();
    for needle in
        ["unsupported_version: field `v` is 2", "bad_reference: field `to` is \"page 7\"", "expires"]
    {
        assert!(told.iter().any(|text| text.contains(needle)), "{needle:?} is not in {told:#?}");
    }
}

#[tokio::test]
async fn a_job_that_names_uuids_where_no_app_is_configured_is_buried_and_names_the_setting() {
    let world = World::new().await;
    let job = job_by_uuid("uuids");
    let _worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    let reason = world.until_dead_letters(1).await.remove(0).reason.unwrap();
    assert_eq!(reason.kind.as_str(), "bad_reference");
    assert!(reason.failure.detail.contains("api.url"), "{}", reason.failure.detail);
    assert_eq!(world.job_events(&job.id).await, ["buried"]);
    until("one alert", async || world.sentry.alerts() == 1).await;
}
