//! Logs, metrics and alerts: everything an operator can observe of the worker.
//!
//! This module reports facts that others established; it makes no decision about a job, and only
//! `worker/observe.rs` reports verdicts here. Its outputs are standard error, `/metrics` and the configured
//! Sentry, nothing else.
//!
//! Invariant: text that a page, a site or a producer may have written leaves this module only through
//! [`text::sanitize`], and text that may contain a secret only through [`scrub`](crate::job::redact::scrub).

pub mod logs;
pub mod metrics;
pub mod sentry;
pub mod text;

pub use self::text::sanitize;
