//! What contains a job, shown on the real binary with real processes: the abuse matrix, the limits, the life of slots,
//! and the nine mistakes that a prototype of this sandbox made.
//!
//! Jobs misbehave through `sandbox::hooks`, which only the feature `test-hooks` has. Everything here must pass as root
//! and as an ordinary user.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod abuse;
mod busy;
mod harness;
mod lifecycle;
mod limits;
mod regressions;
mod warm_up;
