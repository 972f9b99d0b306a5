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
//! | 0 words | [`job`] |
//! | 1 rooms | [`queue`], [`api`], [`filter`], [`fetch`], [`sandbox`], [`analysis`], [`policy`], [`telemetry`] |
//! | 2 one job's way | [`pipeline`], [`child`] |
//! | 3 those who walk between | [`worker`], [`ops`] |
//! | 4 the outside | [`web`], [`demo`], [`config`], [`cli`] |

pub mod analysis;
pub mod api;
pub mod child;
pub mod cli;
pub mod config;
pub mod demo;
pub mod fetch;
pub mod filter;
pub mod job;
pub mod ops;
pub mod pipeline;
pub mod policy;
pub mod queue;
pub mod sandbox;
pub mod telemetry;
pub mod web;
pub mod worker;
