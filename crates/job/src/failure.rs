//! Why a job could not be done, and whose fault that is.
//!
//! [`FailureKind`] is the finite set of labels that metrics, logs, dead letters, pages and alerts use as they are
//! (design 7). A failure never says what to do about it: that is the judge's, in `policy/`.
//!
//! Invariant: every kind has exactly one stage and one blame, by an exhaustive match.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::measured::ChildUsage;
use super::page::Side;

/// What went wrong.
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
    /// The payload is not a job.
    Decode,
    /// The payload's `v` is not one we read.
    UnsupportedVersion,
    /// A version reference is malformed, or cannot be resolved with what is configured.
    BadReference,
    /// The db app does not know the version.
    VersionMissing,
    /// The db app refuses our credentials (401, 403).
    ApiRefused,
    /// The db app cannot answer now (5xx, 408, 423, 429, no connection).
    ApiUnavailable,
    /// The db app refuses the annotation (422).
    Rejected,
    /// The body's host is a private or special address that is not listed.
    ForbiddenAddress,
    /// The body's address redirects too often.
    TooManyRedirects,
    /// The body is larger than the cap.
    TooLarge,
    /// The body is gone (404, 410).
    Gone,
    /// The archive refuses (another 4xx).
    Refused,
    /// The archive did not answer in time.
    Timeout,
    /// The host's name does not resolve.
    Dns,
    /// No connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The archive is in trouble (5xx, 429).
    Upstream,
    /// The body ended before its announced length.
    Truncated,
    /// The body decompresses to more than the cap.
    DecompressionBomb,
    /// The body is not the one that was captured.
    HashMismatch,
    /// The child ran longer than its wall clock.
    WallExceeded,
    /// The child used more CPU time than it may.
    CpuExceeded,
    /// The child wanted more memory than its budget.
    MemoryExceeded,
    /// The child ran out of stack.
    StackOverflow,
    /// The child panicked: a bug of ours that this input finds.
    Panicked,
    /// The child's answer was not one.
    BadReply,
    /// The child's answer was larger than the cap.
    ReplyTooLarge,
    /// The child tried something that no analysis needs.
    ForbiddenSyscall,
    /// The child died of another signal.
    Crashed,
    /// Somebody else killed the child: the kernel's OOM killer, as a rule.
    KilledFromOutside,
    /// A child could not be started.
    CannotSpawn,
    /// The fork-server died.
    ForkServerLost,
    /// The worker died with this job in flight, too often, alone.
    CrashLoop,
    /// A target failed until the attempts were spent.
    Exhausted,
    /// We could not do it: for too long, or at all, because this worker has not the room that it was granted.
    Stranded,
}

/// Whose fault it is, and thereby which remedy fits (design 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The job itself: it would happen again.
    Job,
    /// The site that the body is fetched from: it may pass.
    Target,
    /// Our own house.
    Infrastructure,
}

/// Where on its way the job was.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr, strum::Display,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the payload.
    Ingest,
    /// Asking the db app for the versions.
    Resolve,
    /// Fetching the bodies.
    Fetch,
    /// In the sandboxed child.
    Analyse,
    /// Posting the annotation.
    Deliver,
    /// In the queue's own accounting.
    Queue,
}

impl FailureKind {
    /// Every kind, for tables and tests.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Reads a label.
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == label)
    }

    /// Whose fault it is.
    pub fn blame(self) -> Blame {
        match self {
            Self::Decode
            | Self::UnsupportedVersion
            | Self::BadReference
            | Self::VersionMissing
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
            | Self::KilledFromOutside
            | Self::CannotSpawn
            | Self::ForkServerLost
            | Self::Stranded => Blame::Infrastructure,
        }
    }

    /// Where it happens.
    pub fn stage(self) -> Stage {
        match self {
            Self::Decode | Self::UnsupportedVersion => Stage::Ingest,
            Self::BadReference | Self::VersionMissing | Self::ApiRefused | Self::ApiUnavailable => {
                Stage::Resolve
            }
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
            Self::Rejected => Stage::Deliver,
            Self::CrashLoop | Self::Stranded => Stage::Queue,
        }
    }
}

impl Stage {
    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One failure with what was seen of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The label.
    pub kind: FailureKind,
    /// One sentence for people: the field, the value, the way out. Holds no secret; may hold hostile text.
    pub detail: String,
    /// Which version it was about, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The host it was about, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When the target asked to be left alone until.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// What was measured of the child, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Box<ChildUsage>>,
}

impl Failure {
    /// A failure of which only the kind and a sentence are known.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), side: None, host: None, retry_after: None, measured: None }
    }

    /// The same, said of one side.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// The same, said of a host.
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
