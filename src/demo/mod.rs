//! The demo: the whole worker on this one machine, against a small site that misbehaves.
//!
//! Its parts stand alone and know no other room: a private [`redis`], a [`site`] on loopback, the [`pages`] it
//! serves, the hostile [`cases`], and an [`ingest`] that plays Sentry. Tests and benches use them as they are.

pub mod cases;
mod http;
pub mod ingest;
pub mod pages;
pub mod poison;
pub mod redis;
pub mod site;
pub mod story;
mod tally;
