//! The whole worker through its front door: the real binary as processes, a real Redis, real sockets.
//!
//! Rules for writing a test here:
//! - Its name is a sentence that states the property; its file is the subject.
//! - It has a world of its own (`World::new()`), so that all of them run at once; it never asks whose turn it is.
//! - It asserts what the world saw: keys and reports in Redis, hits at the site, alerts at the ingest, what a person
//!   would read on a terminal. Never a private state, and a log line only where the line is the promise.
//! - It waits for moments (`until`), not for times; what must *not* happen is watched until something later did.
//! - What must be slow waits at a `GatedSite` that the test opens; what must be heavy is honest work.
//! - Timings come from `harness::FAST_TIMINGS`, short and in the proportions of the defaults; change one by `with`.
//! - A process ends with its guard, by its own pid. A failing test prints the end of its workers' logs.
//! - A test that cannot fail is a defect: break the code once to see it fail.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod harness;

mod alerts;
mod annotations;
mod backfill;
mod breaker;
mod ceilings;
mod changes;
mod check;
mod clocks;
mod configuration;
mod crashes;
mod dash;
mod dead_letters;
mod demo;
mod diff;
mod doctor;
mod failover;
mod fairness;
mod fleet;
mod grants;
mod help;
mod hosts;
mod memory;
mod operators;
mod outages;
mod page_cases;
mod payloads;
mod poison;
mod probes;
mod prometheus;
mod queue;
mod rails;
mod registry;
mod replies;
mod results_docs;
mod results_store;
mod retries;
mod schemas;
mod secrets;
mod sentry_test;
mod settings;
mod skips;
mod snapshots;
mod status;
mod stopping;
mod transfer;
mod truth;
mod workers;
