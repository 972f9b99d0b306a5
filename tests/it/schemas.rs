//! The JSON Schemas that `config schema` prints hold for what producers send and for what really comes out.

use std::process::Command;

use serde_json::{Map, Value, json};
use wm_analyzer::job::Job;
use wm_analyzer::queue::Selection;
use wm_testbed::body::Body;
use wm_testbed::pages;
use wm_testbed::peers::{is_available, run};

use crate::harness::{World, until};

/// Reads `[{schema, name, value, holds}]`, and says of which the schema and we disagree.
const VALIDATOR_SCRIPT: &str = r#"
import json, sys
from jsonschema import Draft202012Validator as Validator
for case in json.load(sys.stdin):
    Validator.check_schema(case["schema"])
    errors = [error.message[:300] for error in Validator(case["schema"]).iter_errors(case["value"])]
    if bool(errors) == case["holds"]:
        print(case["name"], "should hold" if case["holds"] else "should not hold", errors, json.dumps(case["value"])[:300])
"#;

fn assert_schema_agrees(cases: &[Value]) {
    let disagreements =
        run(Command::new("python3").args(["-c", VALIDATOR_SCRIPT]), &serde_json::to_string(cases).unwrap());
    assert!(disagreements.is_empty(), "{disagreements}");
}

fn case(schema: &Value, name: &str, value: Value, holds: bool) -> Value {
    json!({ "schema": schema, "name": name, "value": value, "holds": holds })
}

async fn schema(world: &World, of: &str) -> Value {
    world.run(&["config", "schema", of]).await.json()
}

#[tokio::test]
async fn the_schema_of_a_job_and_the_decoder_agree() {
    if !is_available("python3", &["-c", "import jsonschema"]) {
        return;
    }
    let world = World::new().await;
    let schema = schema(&world, "job").await;
    let uuid = "0c2f9d24-df8e-48b4-919b-7d1eca02d3c4";
    let whole = json!({ "uuid": uuid, "body_url": "http://a.test/b", "title": "ignored", "status": null });
    let mut values = vec![
        json!({ "v": 1, "to": uuid }),
        json!({ "v": 1, "id": "a.b:c_d-1", "page": uuid, "from": whole, "to": whole, "priority": "high", "again": true,
            "run_at": "2026-01-02T03:04:05Z", "expires_at": null, "limits": { "wall_ms": 1 }, "traceparent": "00-x" }),
        json!({ "v": 1, "from": "earliest", "to": uuid, "compare_earliest": true }),
        json!({ "v": 1, "from": "previous", "to": uuid }),
        json!({ "v": 1, "from": null, "to": { "uuid": uuid, "uri": "http://a.test/b" } }),
        json!({ "v": 2, "to": uuid }),
        json!({ "to": uuid }),
        json!({ "v": 1 }),
        json!({ "v": 1, "to": null }),
        json!({ "v": 1, "to": "7" }),
        json!({ "v": 1, "to": "earliest" }),
        json!({ "v": 1, "from": "latest", "to": uuid }),
        json!({ "v": 1, "to": { "uuid": uuid } }),
        json!({ "v": 1, "to": uuid, "expires": 1 }),
        json!({ "v": 1, "to": uuid, "id": "a b" }),
        json!({ "v": 1, "to": uuid, "id": "-a" }),
        json!({ "v": 1, "to": uuid, "priority": "urgent" }),
        json!({ "v": 1, "to": uuid, "again": "yes" }),
        json!({ "v": 1, "to": uuid, "limits": { "wall_ms": -1 } }),
        json!({ "v": 1, "to": uuid, "limits": { "wall": 1 } }),
    ];
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jobs");
    for file in std::fs::read_dir(fixtures).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let fixture: Value = serde_json::from_str(&text).unwrap();
        for one in fixture["jobs"].as_array().unwrap() {
            values.push(one["expected"].clone());
            let sent = Job::decode(one["payload"].to_string().as_bytes()).unwrap();
            values.push(serde_json::from_slice(&sent.encode()).unwrap());
        }
    }
    let cases: Vec<Value> = values
        .into_iter()
        .map(|value| {
            let holds = Job::decode(value.to_string().as_bytes()).is_ok();
            case(&schema, "job", value, holds)
        })
        .collect();
    assert!(cases.len() > 50 && cases.iter().any(|case| case["holds"] == false));
    assert_schema_agrees(&cases);
}

#[tokio::test]
async fn reports_and_events_of_a_real_worker_hold_to_their_schemas() {
    if !is_available("python3", &["-c", "import jsonschema"]) {
        return;
    }
    let world = World::new().await;
    let (old, new) = pages::pair(1, 20_000);
    let good = world.bodies("good", Body::html(old), Body::html(new));
    let pdf =
        world.bodies("pdf", Body::raw(&b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"[..]), Body::html(&b"<p>a</p>"[..]));
    let jobs = [good, pdf];
    let _ = world.queue.producer.enqueue(&jobs).await.unwrap();
    world.queue.producer.push(&[b"no job".to_vec()]).await.unwrap();
    let _worker = world.worker();
    let mut cases = Vec::new();
    let report = schema(&world, "report").await;
    for job in &jobs {
        let (from, to) = (job.from.given().unwrap().uuid(), job.to.uuid());
        let mut stored = None;
        until("there is a report", async || {
            stored = world.queue.report(from, to).await.unwrap();
            stored.is_some()
        })
        .await;
        let stored: Value = serde_json::from_str(&stored.unwrap()).unwrap();
        cases.push(case(&report, "report", stored.clone(), true));
        let mut broken = stored;
        broken["schema_version"] = json!(1);
        cases.push(case(&report, "report", broken, false));
    }
    until("the payload that is no job is buried", async || {
        !world.queue.operator.dead(&Selection::default(), 1).await.unwrap().is_empty()
    })
    .await;
    let event = schema(&world, "event").await;
    let entries: Vec<(String, Map<String, Value>)> = events(&world).await;
    for (_, fields) in entries {
        cases.push(case(&event, "event", fields.into(), true));
    }
    assert!(cases.len() >= 7, "{cases:?}");
    assert_schema_agrees(&cases);
}

async fn events(world: &World) -> Vec<(String, Map<String, Value>)> {
    let entries: Vec<(String, Vec<(String, String)>)> =
        world.redis_cmd("XRANGE", &["wm:{analysis}:events", "-", "+"]).await;
    let read = |(at, fields): (String, Vec<(String, String)>)| {
        (at, fields.into_iter().map(|(name, value)| (name, Value::from(value))).collect())
    };
    entries.into_iter().map(read).collect()
}
