//! The worker's HTTP endpoints: health and metrics.
//!
//! Invariant: no client can make this code wait, grow or fail: connections are limited in lifetime, bytes and
//! number.

pub mod health;
mod listener;
pub mod pulse;
