//! wm-analyzer: a worker that compares captured versions of web pages, and that no page can bring down.
//!
//! One job walks a straight line through rooms that do not know each other:
//!
//! ```text
//! claim -> resolve -> filter by address -> fetch both -> sandbox( child: decompress, sniff, analyse )
//!       -> deliver -> judge -> settle -> observe
//! ```
//!
//! Floors; a file imports its own room and lower floors, nothing else (kept by `tests/tidy.rs`):
//!
//! | floor | rooms |
//! |---|---|
//! | 0 words | [`job`]: what is asked for, what happened, what was decided |
//! | 1 rooms | [`queue`] (Redis), [`api`] (the db app), [`filter`], [`fetch`], [`sandbox`], [`analysis`], [`policy`] (pure), [`telemetry`] |
//! | 2 one job's way | [`pipeline`] (in the worker), [`child`] (in the sandbox) |
//! | 3 those who walk between | [`worker`] (claim, judge, settle, observe), [`ops`] (the operator's hands) |
//! | 4 the outside | [`web`], [`demo`], [`config`], [`cli`] |
//!
//! What always holds:
//!
//! - The worker never decompresses or parses a body; a child does, once, and dies.
//! - A [`queue::Delivery`] leaves by one door: settled, released, or lost; settling twice does not compile.
//! - Only [`policy::judge`] decides, by one exhaustive match over whose fault it was.
//! - Only `queue/` talks to Redis, only `worker/observe.rs` turns a verdict into words, only `sandbox/` holds `unsafe`.
//! - Whatever is not a job, not a page or not finished leaves evidence behind: a dead letter, a skip, a count.

pub use wm_analysis as analysis;
pub use wm_job as job;
pub use wm_queue as queue;
pub use wm_sandbox as sandbox;

pub mod api;
pub mod child;
pub mod cli;
pub mod config;
pub mod demo;
pub mod fetch;
pub mod filter;
pub mod ops;
pub mod pipeline;
pub mod policy;
pub mod telemetry;
pub mod web;
pub mod worker;
