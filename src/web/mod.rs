//! What the worker serves over HTTP: its health and its metrics.
//!
//! Invariant: nothing here can be made to wait, grow or fail by who asks: a connection has a short life, few bytes
//! and a permit among few.

pub mod health;
mod listener;
