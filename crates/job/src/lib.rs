//! Jobs, outcomes and verdicts: the types that every other crate shares. A [`Job`] asks to compare version
//! `from` with version `to`.
//!
//! A [`Job`] is immutable and carries references, never bodies. This file holds the native wire form (v1),
//! `activejob.rs` the forms that a Rails app enqueues. For every invalid payload both report the invalid
//! field, its value and what to write instead. References are not resolved here: only the db app can confirm
//! that a uuid exists.
//!
//! Invariant: `Job::decode(job.encode()) == job`.
//!
//! # Why
//! Unknown fields of the job itself are refused (a misspelt `expires_at` must not silently mean no expiry);
//! unknown fields of a *version* are ignored, so that a producer can pass on an API response of the db app
//! unchanged.

mod activejob;
pub mod analysis_request;
pub mod blank;
mod bounded;
pub mod counts;
pub mod duration;
pub mod failure;
pub mod hunk;
pub mod invisible;
pub mod measured;
pub mod media_type;
pub mod outcome;
pub mod page;
pub mod redact;
mod reference;
pub mod report;
pub mod skip;
pub mod stored_result;
pub mod text;
pub mod verdict;
pub mod whole_result;

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use self::failure::{Failure, FailureKind};
pub use self::reference::{OlderVersion, VersionRef};
use self::text::quote;

/// The largest accepted payload in bytes: references need no more (docs/design.md, "Producers").
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024;
/// How far ahead `run_at` may be.
const MAX_RUN_AT_AHEAD: Duration = Duration::from_secs(366 * 86_400);
/// The longest job id in bytes: a uuid, a suffix such as `.earliest`, and room for a producer's own scheme.
pub(crate) const MAX_ID_BYTES: usize = 128;
/// Suffix of a follow-up job's id.
const EARLIEST: &str = ".earliest";

/// A job's id, stable over retries and replays: 1 to 128 of `A-Z a-z 0-9 . _ : -`, no leading `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct JobId(String);

impl JobId {
    /// Generates an id that sorts by creation time (uuid v7).
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// Parses an id, refusing what would be unsafe in a key, a URL or a shell.
    ///
    /// # Errors
    /// A sentence that lists the allowed characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=MAX_ID_BYTES).contains(&text.len());
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        // `dead show <id>` would parse a leading dash as an option.
        if fits && !text.starts_with('-') && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("a job id is 1 to {MAX_ID_BYTES} of A-Z a-z 0-9 . _ : - and does not begin with -"))
        }
    }

    /// The id of the follow-up job; `None` if it would be too long.
    fn earliest(&self) -> Option<Self> {
        Self::parse(&format!("{self}{EARLIEST}")).ok()
    }

    /// The id as a string slice.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for JobId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

/// When a job is claimed relative to others; `low` never starves (docs/design.md, "Redis").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// At the back: overtaken by at most the 90,000 normal jobs that are enqueued after it.
    Low,
    /// The default: first in, first out.
    #[default]
    Normal,
    /// Moved ahead of waiting jobs by a bounded number of places.
    High,
}

/// Limits that a producer requests; they can only lower the configured ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Wall-clock limit of the analysis in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Heap budget of the analysis in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heap_bytes: Option<u64>,
}

impl LimitsRequest {
    /// True if no limit is requested.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A request to compare one pair of versions, in its native wire form (docs/design.md, "Producers"). The field names
/// are a public contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Version of the wire form: 1.
    pub v: u64,
    /// The producer's id, or one generated at admission.
    #[serde(default = "JobId::generate", deserialize_with = "id_or_generated")]
    pub id: JobId,
    /// Uuid of the page both versions belong to, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Uuid>,
    /// The older version, given or by its place in the page's history.
    #[serde(
        default,
        deserialize_with = "older_or_previous",
        skip_serializing_if = "OlderVersion::is_previous"
    )]
    pub from: OlderVersion,
    /// The newer version: a uuid, or inline.
    pub to: VersionRef,
    /// Order of claiming relative to other jobs.
    #[serde(default)]
    pub priority: Priority,
    /// Also compare with the page's earliest version, as a job of its own.
    #[serde(default)]
    pub compare_earliest: bool,
    /// Earliest time to run it.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub run_at: Option<OffsetDateTime>,
    /// After this time the job is skipped as `expired`.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
    /// Analyse the pair even if it was analysed before.
    #[serde(default)]
    pub again: bool,
    /// Requested limits, each lower than the configured one.
    #[serde(default, skip_serializing_if = "LimitsRequest::is_empty")]
    pub limits: LimitsRequest,
    /// The sender's W3C trace context: named in the job's span, log lines and Sentry events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Reads null as no id.
fn id_or_generated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(JobId::generate))
}

/// Reads null as the previous version.
fn older_or_previous<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OlderVersion, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Job {
    /// A job for two versions with all other fields at their defaults.
    pub fn new(from: VersionRef, to: VersionRef) -> Self {
        Self {
            v: 1,
            id: JobId::generate(),
            page: None,
            from: OlderVersion::Given(from),
            to,
            priority: Priority::Normal,
            compare_earliest: false,
            run_at: None,
            expires_at: None,
            again: false,
            limits: LimitsRequest::default(),
            traceparent: None,
        }
    }

    /// Decodes a producer's payload: native v1, or an ActiveJob hash, bare or in an envelope.
    ///
    /// # Errors
    /// `decode`, `unsupported_version` or `bad_reference`, with the field, its value and the fix.
    pub fn decode(payload: &[u8]) -> Result<Self, Failure> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            let detail = format!(
                "the payload has {} bytes and a job at most {MAX_PAYLOAD_BYTES}: send references, not bodies",
                payload.len()
            );
            return Err(Failure::new(FailureKind::Decode, detail));
        }
        let job = match serde_json::from_slice(payload) {
            Ok(Value::Object(object)) if object.contains_key("v") => decode_native(object.into()),
            Ok(Value::Object(object)) => activejob::decode(object).unwrap_or_else(|| {
                let detail = "field `v` is missing: write \"v\":1, or send an ActiveJob hash";
                Err(Failure::new(FailureKind::Decode, detail))
            }),
            Ok(_) => Err(Failure::new(FailureKind::Decode, "the payload is JSON but not an object")),
            Err(e) => Err(Failure::new(FailureKind::Decode, format!("not JSON: {e}"))),
        };
        job.and_then(check_run_at)
    }

    /// Decodes what [`Job::encode`] wrote. No size limit applies: that is for producers' payloads, and
    /// spelling out all fields may have made this one longer.
    ///
    /// # Errors
    /// As [`Job::decode`], if a newer build wrote it.
    pub fn restore(stored: &[u8]) -> Result<Self, Failure> {
        let value = serde_json::from_slice(stored)
            .map_err(|e| Failure::new(FailureKind::Decode, format!("not JSON: {e}")))?;
        decode_native(value)
    }

    /// Encodes the job as its canonical native v1 payload.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The job to enqueue after this one, whatever its outcome: the same newer version against the page's
    /// earliest. `None` if `compare_earliest` is off or this job already compares with the earliest.
    pub fn follow_up(&self) -> Option<Self> {
        let wanted = self.compare_earliest && self.from != OlderVersion::Earliest;
        let id = self.id.earliest().filter(|_| wanted)?;
        Some(Self { id, from: OlderVersion::Earliest, compare_earliest: false, run_at: None, ..self.clone() })
    }

    /// The pair as shown in reports and events: `<from>..<to>`, with `from` empty for the previous version
    /// and `earliest` for the page's first.
    pub fn pair(&self) -> String {
        format!("{}..{}", self.from, self.to.uuid())
    }
}

/// Decodes the native form.
fn decode_native(value: Value) -> Result<Job, Failure> {
    match value.get("v") {
        Some(v) if v.as_u64() == Some(1) => {}
        v => {
            let v = v.unwrap_or(&Value::Null).to_string();
            let detail = format!("field `v` is {}: this worker reads version 1", quote(&v));
            return Err(Failure::new(FailureKind::UnsupportedVersion, detail));
        }
    }
    reference::check_older(value.get("from"))?;
    reference::check_newer(value.get("to"))?;
    let job = serde_path_to_error::deserialize(value).map_err(|e| {
        let field = e.path().to_string();
        Failure::new(FailureKind::Decode, format!("field `{field}`: {}", e.into_inner()))
    })?;
    validate(job)
}

/// Refuses a time so far ahead that it is a mistake: in seconds taken for milliseconds, or of another century.
fn check_run_at(job: Job) -> Result<Job, Failure> {
    let latest = OffsetDateTime::now_utc() + MAX_RUN_AT_AHEAD;
    match job.run_at.filter(|run_at| *run_at > latest) {
        None => Ok(job),
        Some(run_at) => {
            let detail = format!("field `run_at` is {run_at}: at most a year ahead");
            Err(Failure::new(FailureKind::Decode, detail))
        }
    }
}

/// Checks constraints that span several fields.
fn validate(job: Job) -> Result<Job, Failure> {
    if job.compare_earliest && job.id.earliest().is_none() {
        let detail = format!(
            "field `id` has {} bytes: with `compare_earliest` at most {}, for the job that follows is `<id>{EARLIEST}`",
            job.id.as_str().len(),
            MAX_ID_BYTES - EARLIEST.len()
        );
        return Err(Failure::new(FailureKind::Decode, detail));
    }
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "0c2f9d24-df8e-48b4-919b-7d1eca02d3c4";
    const TO: &str = "7c9904f4-c090-4f0d-8c3f-ba3dc4fade25";

    fn refused(payload: &str) -> (FailureKind, String) {
        let failure = Job::decode(payload.as_bytes()).expect_err("must be refused");
        (failure.kind, failure.detail)
    }

    #[test]
    fn a_job_survives_its_wire_form() {
        let payload = format!(
            r#"{{"v":1,"id":"a.b:c_d-1","page":"{FROM}","from":"{FROM}","to":{{"uuid":"{TO}","body_url":"http://x.test/b",
            "title":"ignored"}},"priority":"high","compare_earliest":true,"run_at":"2026-01-02T03:04:05Z","again":true,
            "limits":{{"wall_ms":100}},"traceparent":"00-x"}}"#
        );
        let job = Job::decode(payload.as_bytes()).unwrap();
        assert_eq!(job.to.uuid().to_string(), TO);
        assert_eq!(job.limits.wall_ms, Some(100));
        assert_eq!(Job::decode(&job.encode()).unwrap(), job);
    }

    #[test]
    fn the_older_version_is_given_or_a_place_in_the_pages_history() {
        let from = |field: &str| {
            let job = Job::decode(format!(r#"{{"v":1,{field}"to":"{TO}"}}"#).as_bytes()).unwrap();
            assert_eq!(Job::decode(&job.encode()).unwrap().from, job.from, "{field}");
            (job.pair(), job.from)
        };
        for field in ["", r#""from":null,"#, r#""from":"previous","#] {
            assert_eq!(from(field), (format!("..{TO}"), OlderVersion::Previous), "{field}");
        }
        assert_eq!(from(r#""from":"earliest","#), (format!("earliest..{TO}"), OlderVersion::Earliest));
        let given = OlderVersion::Given(VersionRef::Uuid(FROM.parse().unwrap()));
        assert_eq!(from(&format!(r#""from":"{FROM}","#)), (format!("{FROM}..{TO}"), given));
        let (kind, detail) = refused(&format!(r#"{{"v":1,"from":"latest","to":"{TO}"}}"#));
        assert!(kind == FailureKind::BadReference && detail.contains("latest"), "{detail}");
    }

    #[test]
    fn every_refusal_names_the_field_and_what_stood_there() {
        let cases = [
            ("nonsense".to_owned(), FailureKind::Decode, "not JSON"),
            ("[]".to_owned(), FailureKind::Decode, "not an object"),
            (format!(r#"{{"to":"{TO}"}}"#), FailureKind::Decode, "`v` is missing: write"),
            (format!(r#"{{"v":2,"to":"{TO}"}}"#), FailureKind::UnsupportedVersion, "`v` is 2"),
            (r#"{"v":1}"#.to_owned(), FailureKind::BadReference, "`to` is missing"),
            (r#"{"v":1,"to":"7"}"#.to_owned(), FailureKind::BadReference, "\"7\""),
            (r#"{"v":1,"to":7}"#.to_owned(), FailureKind::BadReference, "`to` is 7"),
            (format!(r#"{{"v":1,"to":{{"uuid":"{TO}"}}}}"#), FailureKind::BadReference, "body_url"),
            (format!(r#"{{"v":1,"to":"{TO}","expires":1}}"#), FailureKind::Decode, "expires"),
            (format!(r#"{{"v":1,"to":"{TO}","id":"a b"}}"#), FailureKind::Decode, "field `id`"),
            (
                format!(r#"{{"v":1,"to":"{TO}","run_at":"2999-01-01T00:00:00Z"}}"#),
                FailureKind::Decode,
                "field `run_at`",
            ),
            (
                format!(r#"{{"v":1,"to":"{TO}","limits":{{"wall_ms":-1}}}}"#),
                FailureKind::Decode,
                "limits.wall_ms",
            ),
        ];
        for (payload, kind, needle) in cases {
            let (got, detail) = refused(&payload);
            assert_eq!(got, kind, "{payload}: {detail}");
            assert!(detail.contains(needle), "{payload}: {detail:?} does not say {needle:?}");
        }
    }

    #[test]
    fn a_follow_up_compares_the_same_version_with_the_earliest_and_is_followed_by_nothing() {
        let asked = |from: &str, earliest: bool| {
            let payload = format!(
                r#"{{"v":1,"id":"a",{from}"to":"{TO}","priority":"low","run_at":"2026-01-02T03:04:05Z",
                "expires_at":"2031-01-02T03:04:05Z","compare_earliest":{earliest}}}"#
            );
            Job::decode(payload.as_bytes()).unwrap()
        };
        let job = asked("", true);
        let next = job.follow_up().unwrap();
        assert_eq!((next.id.as_str(), next.pair()), ("a.earliest", format!("earliest..{TO}")));
        assert_eq!((next.run_at, next.expires_at, next.priority), (None, job.expires_at, Priority::Low));
        assert_eq!(next.follow_up(), None);
        assert_eq!(asked("", false).follow_up(), None);
        assert_eq!(asked(r#""from":"earliest","#, true).follow_up(), None, "that is it already");
    }

    #[test]
    fn an_id_that_leaves_no_room_for_its_follow_up_is_refused() {
        let payload = |length: usize| {
            format!(r#"{{"v":1,"id":"{}","to":"{TO}","compare_earliest":true}}"#, "x".repeat(length))
        };
        assert!(Job::decode(payload(119).as_bytes()).unwrap().follow_up().is_some());
        assert!(refused(&payload(120)).1.contains("at most 119"));
    }

    #[test]
    fn what_is_stored_may_be_longer_than_what_was_sent() {
        let url = format!("http://a.test/{}", "ü".repeat(3000));
        let payload = format!(r#"{{"v":1,"to":{{"uuid":"{TO}","body_url":"{url}"}}}}"#);
        let job = Job::decode(payload.as_bytes()).unwrap();
        assert!(job.encode().len() > MAX_PAYLOAD_BYTES);
        assert_eq!(Job::restore(&job.encode()).unwrap(), job);
    }

    #[test]
    fn an_oversize_payload_is_refused_before_it_is_parsed() {
        let (kind, detail) = refused(&format!("{{{}", " ".repeat(MAX_PAYLOAD_BYTES)));
        assert_eq!(kind, FailureKind::Decode);
        assert!(detail.contains("8193 bytes"), "{detail}");
    }
}
