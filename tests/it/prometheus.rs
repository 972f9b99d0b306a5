//! The rules and the dashboard, asked of a real Prometheus that scrapes a real worker.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wm_testbed::peers;
use wm_testbed::prometheus::Prometheus;
use wm_testbed::site::Resource;

use crate::harness::{World, until};

fn config(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file)
}

/// The queries of the dashboard's panels and of its variable, as Grafana asks them of all queues.
fn dashboard_queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(config("grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(dashboard["__inputs"][0]["name"], "DS_PROMETHEUS");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${DS_PROMETHEUS}", "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${DS_PROMETHEUS}", "{panel}");
            let expr = target["expr"].as_str().unwrap();
            assert!(expr.contains("queue=~\"$queue\""), "{expr} is not about the chosen queue");
            let expr = expr.replace("$queue", ".*").replace("$__rate_interval", "1m");
            queries.push((panel["title"].as_str().unwrap().to_owned(), expr));
        }
    }
    assert!(queries.len() > 40, "{queries:?}");
    queries
}

/// The names of our metrics in a query; what a rule records has colons.
fn metrics_of(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
    words.filter(|word| word.starts_with("wm_analyzer_"))
}

#[tokio::test]
async fn every_query_of_the_rules_and_of_the_dashboard_is_answered() {
    let world = World::new().await;
    let worker = world.worker();
    let address = worker.address().await;
    let Some(prometheus) = Prometheus::start(address, &config("prometheus/rules.yml")).await else { return };
    // Between two scrapes, so that what grows is seen to grow.
    let scraped = |expr: &'static str| prometheus.query(expr).is_ok_and(|series| !series.is_empty());
    until("a worker without jobs is scraped", async || scraped("wm_analyzer_redis_up == 1")).await;
    let (done, gone) =
        (world.pair("pair", 10_000), world.bodies("gone", Resource::Status(404), Resource::Status(404)));
    world.send(&[done, gone]).await;
    for expr in [
        "wm_analyzer_jobs_total{outcome=\"done\"} == 1",
        "wm_analyzer_queue_dead == 1",
        "rate(wm_analyzer_child_wall_seconds_count[1m]) > 0",
    ] {
        until(expr, async || scraped(expr)).await;
    }

    let evaluated = async || {
        prometheus.rules().iter().all(|rule| rule["health"] == "ok" || rule["lastError"].is_string())
    };
    until("all rules are evaluated", evaluated).await;
    let rules = prometheus.rules();
    assert!(rules.len() >= 20, "{rules:?}");
    let mut asked: BTreeSet<String> = BTreeSet::new();
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule}");
        asked.extend(metrics_of(rule["query"].as_str().unwrap()).map(str::to_owned));
    }
    for (panel, expr) in dashboard_queries() {
        let series = || prometheus.query(&expr).unwrap_or_else(|e| panic!("{panel}: {expr}: {e}"));
        // A rate needs a second scrape of what the jobs have left.
        until(&format!("{panel} shows something: {expr}"), async || !series().is_empty()).await;
        asked.extend(metrics_of(&expr).map(str::to_owned));
    }
    let names = prometheus.metric_names();
    let missing: Vec<_> = asked.iter().filter(|name| !names.contains(name)).collect();
    assert!(missing.is_empty(), "no worker exports {missing:?}");
    // Nothing is wrong with this worker.
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").unwrap();
    assert_eq!(firing, [Value::Null; 0]);
}

#[tokio::test]
async fn promtool_finds_no_fault_in_the_names_of_metrics_and_in_the_rules() {
    if !peers::is_available("promtool", &["--version"]) {
        return;
    }
    let rules = |words: &[&str], file| peers::run(Command::new("promtool").args(words).arg(config(file)), "");
    rules(&["check", "rules"], "prometheus/rules.yml");
    rules(&["test", "rules"], "prometheus/rules.test.yml");

    let world = World::new().await;
    let worker = world.worker();
    let job = world.pair("pair", 10_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    let mut tcp = TcpStream::connect(worker.address().await).await.unwrap();
    tcp.write_all(b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let said = peers::run(Command::new("promtool").args(["check", "metrics"]), body);
    assert_eq!(said, "");
}
