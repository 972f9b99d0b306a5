//! What the sections mean together, and what each room finds wrong with its own.

use super::Config;
use super::read::Reader;

/// Keys on which the check of another key depends.
const DEPENDS: [(&str, &str); 8] = [
    ("queue.tls_ca", "queue.url"),
    ("api.email", "api.password"),
    ("api.password", "api.email"),
    ("results.access_key_id", "results.store"),
    ("results.secret_access_key", "results.store"),
    ("results.instance_credentials", "results.store"),
    ("dash.view_token", "dash.operate_token"),
    ("dash.bind", "dash.user_header"),
];

/// Reports everything that is wrong with what could be read.
pub(super) fn check(
    config: &Config,
    slots: impl FnOnce(&Config) -> Result<u32, String>,
    reader: &mut Reader,
) {
    for (section, problems) in [
        ("queue", config.queue.problems()),
        ("policy", config.policy.problems()),
        ("fetch", config.fetch.problems()),
        ("api", config.api.problems()),
        ("results", config.results.problems()),
        ("sandbox", config.sandbox.problems()),
        ("dash", config.dash.problems()),
    ] {
        for (key, what) in problems {
            let key = format!("{section}.{key}");
            match DEPENDS.iter().find(|(dependent, _)| *dependent == key) {
                Some((_, on)) => reader.refuse(&[&key, on], &what),
                None => reader.refuse(&[&key], &what),
            }
        }
    }
    let (queue, worker, sandbox) = (&config.queue, &config.worker, &config.sandbox);
    let heartbeats = queue.lease.as_secs_f64() / worker.heartbeat.as_secs_f64().max(0.001);
    for (holds, keys, what) in [
        (
            heartbeats >= 3.0,
            ["queue.lease", "worker.heartbeat"],
            "queue.lease must be at least three times worker.heartbeat: raise the first or lower the second",
        ),
        (
            sandbox.wall <= sandbox.max_wall,
            ["sandbox.wall", "sandbox.max_wall"],
            "sandbox.wall is above sandbox.max_wall: lower the first or raise the second",
        ),
        (
            sandbox.heap <= sandbox.max_heap,
            ["sandbox.heap", "sandbox.max_heap"],
            "sandbox.heap is above sandbox.max_heap: lower the first or raise the second",
        ),
        (
            worker.drain > sandbox.wall,
            ["worker.drain", "sandbox.wall"],
            "worker.drain must be longer than sandbox.wall: raise the first or lower the second",
        ),
    ] {
        if !holds {
            reader.refuse(&keys, what);
        }
    }
    if let Err(arithmetic) = slots(config) {
        let sizes =
            ["sandbox.slots", "sandbox.heap", "worker.memory_limit", "fetch.memory", "fetch.max_body"];
        reader.refuse(&sizes, &arithmetic);
    }
}
