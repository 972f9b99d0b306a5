//! A compromised child with arbitrary replies: the worker rejects them, stays small and continues.

use wm_analyzer::sandbox::{ANSWER_MAX_BYTES, hooks};

use wm_testbed::body::Body;

use crate::harness::World;

/// What the worker may grow by, whatever three children answer: what reading one of the largest takes, per slot.
const ROOM_KIB: u64 = 8 * 1024;

#[tokio::test]
async fn hostile_replies_are_dead_letters_of_their_pairs_and_the_worker_stays_small() {
    let world = World::with_default_settings().await;
    let worker = world.worker();
    let warm = world.pair("warm", 40_000);
    world.send(std::slice::from_ref(&warm)).await;
    world.until_event(&warm.id, "done").await;
    let before = peak_kib(worker.pid());

    let room = usize::try_from(ANSWER_MAX_BYTES).unwrap() - 100;
    let answers = [
        ("nested", "[".repeat(room)),
        ("wide", format!("[{}[]]", "[],".repeat(room / 3 - 2))),
        ("unknown", format!(r#"{{"analysed":{{"uuid":"{}"}}}}"#, "x".repeat(room - 100))),
        ("priority", r#"{"analysed":{"priority":1e300}}"#.to_owned()),
        ("version", r#"{"analysed":{"analysis_version":77}}"#.to_owned()),
        ("blame", r#"{"failed":{"kind":"api_unavailable","detail":"","side":"from"}}"#.to_owned()),
        ("skip", r#"{"skipped":{"reason":"already_done","detail":"","side":null}}"#.to_owned()),
        ("empty", String::new()),
    ];
    let jobs: Vec<_> = answers
        .iter()
        .map(|(name, answer)| {
            let body = format!("{}{answer}", hooks::REPLY_BODY).into_bytes();
            world.bodies(name, Body::html(body), Body::html(b"<p>other".to_vec()))
        })
        .collect();
    world.send(&jobs).await;
    let dead = world.until_dead_letters(jobs.len()).await;
    for letter in &dead {
        let reason = letter.reason.as_ref().unwrap();
        assert_eq!(reason.kind.as_str(), "bad_reply", "{reason:?}");
        assert!(serde_json::to_string(reason).unwrap().len() < 4096, "{reason:?}");
    }
    assert_eq!(world.field(&warm.id, "state").await, None, "done and gone");
    let grown = peak_kib(worker.pid()).saturating_sub(before);
    assert!(grown <= ROOM_KIB, "{grown} KiB");

    let good = world.pair("good", 4_000);
    world.send(std::slice::from_ref(&good)).await;
    world.until_event(&good.id, "done").await;
}

/// The most that a process was resident with, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
