//! wm-analyzer: a queue worker that compares captured versions of web pages in sandboxed children, so that no
//! page can bring it down.
//!
//! The stages of one job, in order; they do not depend on each other:
//!
//! ```text
//! claim -> resolve -> filter by address -> fetch both -> sandbox( child: decompress, sniff, analyse )
//!       -> deliver -> judge -> settle -> observe
//! ```
//!
//! The workspace, by layer. A module imports lower layers only: the compiler enforces this between crates,
//! `tests/tidy.rs` within the root package.
//!
//! | layer | crates and modules |
//! |---|---|
//! | 0 types | [`job`] (crate `wm-job`): jobs, outcomes, verdicts |
//! | 1 crates | [`queue`] (`wm-queue`: Redis), [`sandbox`] (`wm-sandbox`), [`analysis`] (`wm-analysis`) |
//! | 1 modules | [`api`] (the db app), [`filter`], [`fetch`], [`results`] (the results store), [`policy`] (pure), [`telemetry`] |
//! | 2 one job | [`pipeline`] (in the worker), [`child`] (in the sandbox) |
//! | 3 drivers | [`worker`] (claim, judge, settle, observe), [`ops`] (operator commands) |
//! | 4 entry points | [`web`], [`demo`], [`config`], [`cli`] |
//!
//! The crate `wm-testbed` holds what the demo, the tests and the benches run the worker against.
//!
//! Invariants:
//!
//! - The worker never decompresses or parses a body; a child does, once, and exits.
//! - A [`queue::Delivery`] ends in exactly one way: settled, released, or lost; settling twice does not
//!   compile.
//! - [`policy::judge`] alone decides what an outcome of the pipeline leads to; without an outcome the queue
//!   ends a job by its own rules (undecodable, duplicate, already done, expired, cancelled, crash loop), and
//!   worker/task.rs puts back one that must wait for a host or for exclusive execution.
//! - Only `wm-queue` sends commands to the queue's Redis, only `worker/observe.rs` reports verdicts, and only
//!   `wm-sandbox` contains `unsafe` code.
//! - A payload that is not a job, a body that is not a page and a job that is not finished all leave
//!   evidence: a dead letter, a skip, a count.

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
pub mod results;
pub mod telemetry;
pub mod web;
pub mod worker;
