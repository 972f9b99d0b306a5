//! The demo: the whole worker on this one machine, against a small site that misbehaves.
//!
//! Its site, ingest and Redis are those of `wm-testbed`; here are the [`cases`], the run, and what became of
//! each job.

pub mod cases;
mod results;
pub mod scenario;
