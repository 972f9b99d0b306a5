//! HTTP: health and metrics of the worker, and the dashboard.
//!
//! Invariant: no client can make this code wait, grow or fail: connections are limited in lifetime, bytes and
//! number.

pub mod dash;
pub mod health;
mod listener;
pub mod pulse;
