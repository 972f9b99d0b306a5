//! Logs, metrics and alerts: how the worker is seen from outside.
//!
//! This room tells facts that others established; it decides nothing about a job, and only `worker/observe.rs` turns
//! a verdict into what is told here. It talks to standard error, to whoever reads `/metrics`, and to the configured
//! Sentry, to nobody else.
//!
//! Invariant: text that a page, a site or a producer may have written leaves this room only through
//! [`text::sanitize`], and text that may hold a secret only through [`text::scrub`].

pub mod logs;
pub mod metrics;
pub mod sentry;
pub mod text;

use serde::{Deserialize, Serialize};

pub use self::text::sanitize;

/// What can be configured of this room.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The log lines.
    pub logs: logs::Config,
    /// The alerts.
    pub sentry: sentry::Config,
}
