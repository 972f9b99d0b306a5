//! What the demo, the tests and the benches run the worker against: a private Redis, a misbehaving site, a
//! fake Sentry, a fake db app, a server for S3, a TCP proxy, the three handles on a queue.
//!
//! Everything listens on loopback or a private socket, and ends when its guard is dropped.

pub mod body;
pub mod busy_loops;
pub mod cgroup;
#[expect(clippy::unwrap_used, reason = "a request that the app would not understand fails its test")]
pub mod db_app;
pub mod fake_sentry;
pub mod gated_site;
pub mod http;
pub mod kill_on_exit;
pub mod pages;
#[expect(clippy::unwrap_used, reason = "only tests run these programs: a surprise is a failure")]
pub mod peers;
pub mod poison;
#[expect(clippy::unwrap_used, reason = "only tests look at processes: a surprise is a failure")]
pub mod processes;
#[expect(clippy::unwrap_used, reason = "only tests use a Prometheus: a surprise is a failure")]
pub mod prometheus;
pub mod redis;
pub mod roles;
#[expect(clippy::unwrap_used, reason = "only tests use a server for S3: a surprise is a failure")]
pub mod s3;
#[expect(clippy::unwrap_used, reason = "only tests use sentinels: a surprise is a failure")]
pub mod sentinel;
pub mod site;
pub mod tcp_proxy;
pub mod wait;
