//! The demo is the first thing that anybody runs: it must end well, and its numbers must add up.

use std::collections::BTreeMap;

use crate::harness::run;

#[tokio::test]
async fn the_demo_ends_with_every_class_as_it_should_and_nothing_lost() {
    let ran = run(&["demo", "-o", "json"], &BTreeMap::new(), b"").await.exited_with(0);
    let json = ran.json();
    let count = |pointer: &str| {
        json.pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or_else(|| panic!("{pointer} in {json}"))
    };
    assert_eq!(count("/jobs/lost"), 0, "{json}");
    assert!(count("/jobs/done") >= 200, "{json}");
    assert_eq!(count("/jobs/enqueued"), count("/jobs/done") + count("/jobs/skipped") + count("/jobs/dead"));
    assert!(count("/jobs/retried") >= 2, "{json}");
    let sum = |pointer: &str| -> u64 {
        json.pointer(pointer).unwrap().as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
    };
    assert_eq!(sum("/skips"), count("/jobs/skipped"));
    assert_eq!(sum("/dead"), count("/jobs/dead"));
    for kind in ["wall_exceeded", "memory_exceeded", "decompression_bomb", "forbidden_address", "decode"] {
        assert!(count(&format!("/dead/{kind}")) >= 1);
    }
    assert!(count("/child/peak_bytes_max") > 1 << 20 && count("/child/wall_ms_max") > 0);
    assert!(count("/good_ms/p50") <= count("/good_ms/p99"));
    let alerts = count("/alerts");
    assert!((1..=count("/jobs/dead")).contains(&alerts), "{alerts} alerts");
    count("/fork_servers_respawned");
    assert_eq!(json.as_object().unwrap().len(), 8, "{json}");
    assert!(ran.stderr.contains("private"), "it says where its Redis is: {}", ran.stderr);
}
