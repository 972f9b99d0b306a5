//! What the demo, the tests and the benches run the worker against: a private Redis, a misbehaving site, a Sentry
//! ingest, the three handles on a queue.
//!
//! Everything listens on loopback or a private socket, and ends when its guard is dropped.

pub mod body;
pub mod fake_sentry;
mod http;
pub mod pages;
pub mod poison;
pub mod redis;
pub mod roles;
pub mod site;
