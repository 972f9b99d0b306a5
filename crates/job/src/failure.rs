//! Why a job failed, and what is to blame.
//!
//! [`FailureKind`] is the finite set of labels that metrics, logs, dead letters, pages and alerts use
//! verbatim (docs/design.md, "Failures"). A failure does not decide what to do about it: the judge in
//! `policy/` does.
//!
//! Invariant: every kind has exactly one stage and one blame, by an exhaustive match.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::measured::ChildUsage;
use super::page::Side;
use super::redact::scrub;

/// What went wrong, as a label.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::Display,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The payload is not a valid job.
    Decode,
    /// The payload's `v` is not a supported version.
    UnsupportedVersion,
    /// A version reference is malformed, or cannot be resolved with the current configuration.
    BadReference,
    /// The db app has no such version.
    VersionMissing,
    /// The db app fails for this one version or page (500), and answers for others.
    VersionUnreadable,
    /// The db app refuses our credentials (401, 403).
    ApiRefused,
    /// The db app cannot answer now (5xx, 408, 423, 429, no connection).
    ApiUnavailable,
    /// The db app refuses the annotation (422).
    Rejected,
    /// The body's host has a private or special-purpose address that is not allowed by configuration.
    ForbiddenAddress,
    /// The body's address redirects too many times.
    TooManyRedirects,
    /// The body exceeds the size limit.
    TooLarge,
    /// The body is gone (404, 410).
    Gone,
    /// The archive refuses the request (another 4xx).
    Refused,
    /// The archive did not respond within the time limit.
    Timeout,
    /// The host name does not resolve.
    Dns,
    /// No TCP connection could be established.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The archive reports an error (5xx, 429).
    Upstream,
    /// The body ended before its declared length.
    Truncated,
    /// The body decompresses to more than the limit.
    DecompressionBomb,
    /// The body is not the one that was captured: its hash differs.
    HashMismatch,
    /// The child exceeded its wall-clock limit.
    WallExceeded,
    /// The child got so little CPU time that it was given up: the machine is too small or too busy.
    Starved,
    /// The child exceeded its CPU-time limit.
    CpuExceeded,
    /// The child exceeded its memory limit.
    MemoryExceeded,
    /// The child overflowed its stack.
    StackOverflow,
    /// The child panicked: a bug in our code that this input triggers.
    Panicked,
    /// The child's reply was malformed.
    BadReply,
    /// The child's reply exceeded the size limit.
    ReplyTooLarge,
    /// The child made a system call that seccomp forbids.
    ForbiddenSyscall,
    /// The child died of another signal.
    Crashed,
    /// Another process killed the child, usually the kernel's OOM killer.
    KilledFromOutside,
    /// The results store cannot take or give results now (5xx, 429, no connection, a full disk).
    StoreUnavailable,
    /// The results store refuses us: credentials, rights, a bucket that is not there.
    StoreRefused,
    /// A child could not be started.
    CannotSpawn,
    /// The fork server died.
    ForkServerLost,
    /// The worker died too often while this job was its only one in flight.
    CrashLoop,
    /// The target kept failing until all attempts were used up.
    Exhausted,
    /// Infrastructure failed for too long, or this worker lacks the memory for the limits the job was
    /// granted.
    Stranded,
}

/// What is to blame for a failure, and therefore which remedy applies (docs/design.md, "Failures").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The job itself: another run would fail the same way.
    Job,
    /// The site that the body is fetched from: it may recover.
    Target,
    /// This system or a dependency of it: Redis, the db app, the results store, the sandbox.
    Infrastructure,
}

/// The stage of processing a job was in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr, strum::Display,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Decoding the producer's payload.
    Ingest,
    /// Looking up the versions in the db app.
    Resolve,
    /// Fetching the two bodies.
    Fetch,
    /// Running in the sandboxed child.
    Analyse,
    /// Writing the whole result to the results store.
    Store,
    /// Posting the annotation to the db app.
    Deliver,
    /// The queue's own accounting.
    Queue,
}

impl FailureKind {
    /// All kinds, for tables and tests.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The snake_case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Parses a label; `None` if unknown.
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == label)
    }

    /// What is to blame for this kind of failure.
    pub fn blame(self) -> Blame {
        match self {
            Self::Decode
            | Self::UnsupportedVersion
            | Self::BadReference
            | Self::VersionMissing
            | Self::VersionUnreadable
            | Self::Rejected
            | Self::ForbiddenAddress
            | Self::TooManyRedirects
            | Self::TooLarge
            | Self::Gone
            | Self::Refused
            | Self::DecompressionBomb
            | Self::HashMismatch
            | Self::WallExceeded
            | Self::CpuExceeded
            | Self::MemoryExceeded
            | Self::StackOverflow
            | Self::Panicked
            | Self::BadReply
            | Self::ReplyTooLarge
            | Self::ForbiddenSyscall
            | Self::Crashed
            | Self::CrashLoop => Blame::Job,
            Self::Timeout
            | Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::Upstream
            | Self::Truncated
            | Self::Exhausted => Blame::Target,
            Self::ApiRefused
            | Self::ApiUnavailable
            | Self::StoreUnavailable
            | Self::StoreRefused
            | Self::KilledFromOutside
            | Self::CannotSpawn
            | Self::ForkServerLost
            | Self::Starved
            | Self::Stranded => Blame::Infrastructure,
        }
    }

    /// True where the page killed the child that analysed it, or would have.
    pub fn kills_child(self) -> bool {
        let refused_by_child = matches!(self, Self::DecompressionBomb | Self::HashMismatch);
        self.stage() == Stage::Analyse && self.blame() == Blame::Job && !refused_by_child
    }

    /// The stage that this kind of failure occurs in.
    pub fn stage(self) -> Stage {
        match self {
            Self::Decode | Self::UnsupportedVersion => Stage::Ingest,
            Self::BadReference
            | Self::VersionMissing
            | Self::VersionUnreadable
            | Self::ApiRefused
            | Self::ApiUnavailable => Stage::Resolve,
            Self::ForbiddenAddress
            | Self::TooManyRedirects
            | Self::TooLarge
            | Self::Gone
            | Self::Refused
            | Self::Timeout
            | Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::Upstream
            | Self::Truncated
            | Self::Exhausted => Stage::Fetch,
            Self::DecompressionBomb
            | Self::HashMismatch
            | Self::WallExceeded
            | Self::Starved
            | Self::CpuExceeded
            | Self::MemoryExceeded
            | Self::StackOverflow
            | Self::Panicked
            | Self::BadReply
            | Self::ReplyTooLarge
            | Self::ForbiddenSyscall
            | Self::Crashed
            | Self::KilledFromOutside
            | Self::CannotSpawn
            | Self::ForkServerLost => Stage::Analyse,
            Self::StoreUnavailable | Self::StoreRefused => Stage::Store,
            Self::Rejected => Stage::Deliver,
            Self::CrashLoop | Self::Stranded => Stage::Queue,
        }
    }
}

impl Stage {
    /// The snake_case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One failure with its details.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The label, which determines blame and stage.
    pub kind: FailureKind,
    /// One sentence for an operator: the field, the value, the fix. Scrubbed of secrets; may hold hostile text.
    pub detail: String,
    /// The version it concerns, if it concerns only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The host it concerns, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How long the target asked us to wait, by `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// Resource usage of the child, if one ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Box<ChildUsage>>,
}

impl Failure {
    /// A failure with a kind and a sentence, scrubbed of secrets, all other fields empty.
    pub fn new(kind: FailureKind, detail: impl AsRef<str>) -> Self {
        Self {
            kind,
            detail: scrub(detail.as_ref()),
            side: None,
            host: None,
            retry_after: None,
            measured: None,
        }
    }

    /// Sets the version it concerns.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// Sets the host it concerns.
    #[must_use]
    pub fn at_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.side {
            Some(side) => write!(f, "{} ({side}): {}", self.kind, self.detail),
            None => write!(f, "{}: {}", self.kind, self.detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_its_serde_name_and_reads_back() {
        for &kind in FailureKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(FailureKind::parse(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn what_the_design_calls_final_is_never_the_targets_or_our_fault() {
        for kind in [
            FailureKind::WallExceeded,
            FailureKind::MemoryExceeded,
            FailureKind::Decode,
            FailureKind::ForbiddenAddress,
            FailureKind::Gone,
        ] {
            assert_eq!(kind.blame(), Blame::Job, "{kind}");
        }
    }
}
