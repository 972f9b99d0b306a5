//! Poison through the real binary's children, under the default limits: each document ends as it must, for every diff,
//! within its time and its memory, and whoever ran it is as before.
//!
//! Everything here must pass as root and as an ordinary user.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod corpus;
mod fixtures;
mod neighbours;
mod runner;
