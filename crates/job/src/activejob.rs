//! Decodes jobs that a Rails app enqueues: ActiveJob's hash, bare or in a Sidekiq or Resque envelope.
//!
//! The work is that of `AnalyzeChangeJob#perform(to_version, from_version = nil, compare_earliest: true)`, in
//! every form that Rails 5.2 to 8.1 serialize its arguments. An envelope is recognized by its shape, not by
//! the name of its wrapper class, which changes with every major version. Fields that are not needed (locale,
//! executions, provider ids, times) are ignored.
//!
//! # Why
//! Any other job class is refused: an adopted list may hold other jobs that also take a `Version` argument.
//! For the same reason a plain Sidekiq or Resque job of another class must carry one native object: two bare
//! uuids would not show which one is older.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::failure::{Failure, FailureKind};
use super::text::quote;
use super::{Job, JobId, OlderVersion, Priority, VersionRef};

/// The accepted job class, with or without module prefixes.
const JOB_CLASS: &str = "AnalyzeChangeJob";
/// The model that a GlobalID must name; the app name is not checked.
const MODEL: &str = "Version";
/// Keys that ActiveJob adds to a serialized hash to tell symbols from strings.
const MARKERS: [&str; 3] = ["_aj_ruby2_keywords", "_aj_symbol_keys", "_aj_hash_with_indifferent_access"];

type Object = Map<String, Value>;

/// Decodes an object without `v`. Returns `None` if it has the fields of neither form.
pub(super) fn decode(object: Object) -> Option<Result<Job, Failure>> {
    let has = |field: &str| object.contains_key(field);
    if has("job_class") || has("arguments") {
        Some(active_job(&object, None))
    } else if has("class") || has("args") {
        Some(envelope(object))
    } else {
        None
    }
}

/// Decodes a Sidekiq or Resque envelope.
fn envelope(mut envelope: Object) -> Result<Job, Failure> {
    let jid = envelope.remove("jid");
    match list(&envelope, "args")? {
        [Value::Object(inner)] if inner.contains_key("job_class") => active_job(inner, jid),
        [Value::Object(inner)] if inner.contains_key("v") => {
            let mut inner = inner.clone();
            if let Some(jid) = jid {
                inner.entry("id").or_insert(jid);
            }
            super::decode_native(inner.into())
        }
        args => {
            check_class(&envelope, "class")?;
            super::validate(Job { id: id(jid.as_ref(), "jid")?, ..arguments("args", args)? })
        }
    }
}

fn active_job(hash: &Object, jid: Option<Value>) -> Result<Job, Failure> {
    check_class(hash, "job_class")?;
    let job = arguments("arguments", list(hash, "arguments")?)?;
    let id = match given(hash.get("job_id")) {
        None => id(jid.as_ref(), "jid")?,
        job_id => id(job_id, "job_id")?,
    };
    let (priority, run_at) = (priority(hash)?, scheduled_at(hash)?);
    super::validate(Job { id, priority, run_at, ..job })
}

/// Parses `to`, optional `from` and optional `compare_earliest`, which may also be a keyword argument.
fn arguments(field: &str, list: &[Value]) -> Result<Job, Failure> {
    let (positional, keywords) = match list {
        [positional @ .., Value::Object(last)] if !last.contains_key("_aj_globalid") => {
            (positional, Some(last))
        }
        _ => (list, None),
    };
    let at = |n: usize| format!("{field}[{n}]");
    let (to, from, third) = match positional {
        [to] => (to, None, None),
        [to, from] => (to, Some(from), None),
        [to, from, third] => (to, Some(from), Some(third)),
        _ => {
            let detail = format!(
                "field `{field}` has {} arguments: give a Version, then perhaps the one before it, then perhaps \
                 compare_earliest",
                positional.len()
            );
            return Err(Failure::new(FailureKind::Decode, detail));
        }
    };
    let from = match given(from) {
        None => OlderVersion::Previous,
        Some(from) => OlderVersion::Given(version(&at(1), from)?),
    };
    let keyword = keywords.map(|keywords| keyword(field, keywords)).transpose()?.flatten();
    let compare_earliest = match (third, keyword) {
        (None, None) => true,
        (Some(third), None) => parse_bool(&at(2), third)?,
        (None, Some(keyword)) => parse_bool(&format!("{field}.compare_earliest"), keyword)?,
        (Some(_), Some(_)) => {
            let detail = format!("field `{field}` has compare_earliest twice: give it once");
            return Err(Failure::new(FailureKind::Decode, detail));
        }
    };
    let to = version(&at(0), to)?;
    Ok(Job { from, compare_earliest, ..Job::new(to.clone(), to) })
}

/// Returns the value of `compare_earliest`; any other keyword is an error.
fn keyword<'a>(field: &str, keywords: &'a Object) -> Result<Option<&'a Value>, Failure> {
    let known = |key: &str| key == "compare_earliest" || MARKERS.contains(&key);
    match keywords.keys().find(|key| !known(key)) {
        None => Ok(keywords.get("compare_earliest")),
        Some(unknown) => {
            let detail = format!(
                "field `{field}` has the keyword {:?}: the only keyword is compare_earliest",
                quote(unknown)
            );
            Err(Failure::new(FailureKind::Decode, detail))
        }
    }
}

/// Null is false, as in Ruby; numbers and strings are refused rather than guessed at.
fn parse_bool(field: &str, value: &Value) -> Result<bool, Failure> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        Value::Null => Ok(false),
        Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            Err(invalid_field(field, value, "give true or false"))
        }
    }
}

/// Parses a GlobalID of a `Version` of any app, or a bare uuid.
fn version(field: &str, value: &Value) -> Result<VersionRef, Failure> {
    let hint = "give gid://<app>/Version/<uuid> or a uuid";
    let bad = || Failure { kind: FailureKind::BadReference, ..invalid_field(field, value, hint) };
    let text = match value {
        Value::Object(object) => object.get("_aj_globalid").unwrap_or(&Value::Null),
        other => other,
    };
    let text = text.as_str().ok_or_else(bad)?;
    let uuid = match text.strip_prefix("gid://") {
        None => text,
        Some(gid) => {
            let path = gid.split('?').next().unwrap_or_default();
            let mut parts = path.splitn(3, '/');
            let named = (parts.next().is_some_and(|app| !app.is_empty()), parts.next(), parts.next());
            let (true, Some(MODEL), Some(uuid)) = named else { return Err(bad()) };
            uuid
        }
    };
    Uuid::parse_str(uuid).map(VersionRef::Uuid).map_err(|_| bad())
}

/// As in most ActiveJob backends: smaller numbers first, 0 if the field is missing.
fn priority(hash: &Object) -> Result<Priority, Failure> {
    let Some(value) = given(hash.get("priority")) else { return Ok(Priority::Normal) };
    match value.as_i64() {
        Some(..0) => Ok(Priority::High),
        Some(0) => Ok(Priority::Normal),
        Some(1..) => Ok(Priority::Low),
        None => Err(invalid_field("priority", value, "give an integer: below 0 is high, above 0 is low")),
    }
}

fn scheduled_at(hash: &Object) -> Result<Option<OffsetDateTime>, Failure> {
    let Some(value) = given(hash.get("scheduled_at")) else { return Ok(None) };
    let moment = value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let bad = || invalid_field("scheduled_at", value, "give a time such as 2026-01-02T03:04:05.678Z");
    moment.map(Some).ok_or_else(bad)
}

fn check_class(object: &Object, field: &str) -> Result<(), Failure> {
    let class = object.get(field).unwrap_or(&Value::Null);
    match class.as_str().and_then(|class| class.rsplit("::").next()) {
        Some(JOB_CLASS) => Ok(()),
        Some(_) | None => {
            let hint = "only AnalyzeChangeJob is supported; put other jobs on another queue, or send \
                           {\"v\":1,…}";
            Err(invalid_field(field, class, hint))
        }
    }
}

fn id(value: Option<&Value>, field: &str) -> Result<JobId, Failure> {
    let Some(value) = given(value) else { return Ok(JobId::generate()) };
    match value.as_str().map(JobId::parse) {
        Some(Ok(id)) => Ok(id),
        Some(Err(what)) => Err(invalid_field(field, value, &what)),
        None => Err(invalid_field(field, value, "give a string")),
    }
}

/// A value that is neither missing nor null.
fn given(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

fn list<'a>(object: &'a Object, field: &str) -> Result<&'a [Value], Failure> {
    match object.get(field) {
        Some(Value::Array(list)) => Ok(list),
        other => Err(invalid_field(field, other.unwrap_or(&Value::Null), "give a list")),
    }
}

fn invalid_field(field: &str, value: &Value, hint: &str) -> Failure {
    Failure::new(FailureKind::Decode, format!("field `{field}` is {}: {hint}", quote(&value.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from real producers where they could be run, written by hand otherwise; each with the
    /// expected job.
    const FIXTURES: [&str; 6] = [
        include_str!("../../../tests/fixtures/jobs/rails-5.2-resque.json"),
        include_str!("../../../tests/fixtures/jobs/rails-6.1-sidekiq-6.4.json"),
        include_str!("../../../tests/fixtures/jobs/rails-7.0-resque.json"),
        include_str!("../../../tests/fixtures/jobs/rails-7.1-sidekiq-7.json"),
        include_str!("../../../tests/fixtures/jobs/rails-8.1-sidekiq-8.json"),
        include_str!("../../../tests/fixtures/jobs/rails-bare.json"),
    ];
    const TO: &str = "7c9904f4-c090-4f0d-8c3f-ba3dc4fade25";
    const GID: &str = "gid://app/Version/7c9904f4-c090-4f0d-8c3f-ba3dc4fade25";

    #[test]
    fn what_every_version_of_rails_and_sidekiq_sends_is_the_job_that_was_meant() {
        let mut read = 0;
        for fixture in FIXTURES {
            let fixture: Value = serde_json::from_str(fixture).unwrap();
            for case in fixture["jobs"].as_array().unwrap() {
                let (payload, expected) = (case["payload"].to_string(), case["expected"].to_string());
                let sent =
                    Job::decode(payload.as_bytes()).unwrap_or_else(|e| panic!("{}: {e}", case["call"]));
                let mut meant = Job::decode(expected.as_bytes()).unwrap();
                if case["expected"].get("id").is_none() {
                    meant.id = sent.id.clone();
                }
                assert_eq!(sent, meant, "{} of {}", case["call"], fixture["note"]);
                assert_eq!(Job::restore(&sent.encode()).unwrap(), sent);
                read += 1;
            }
        }
        assert_eq!(read, 20);
    }

    #[test]
    fn every_refusal_names_the_field_what_stood_there_and_the_way_out() {
        let job = |fields: &str| format!(r#"{{"job_class":"AnalyzeChangeJob",{fields}}}"#);
        let arguments = |list: &str| job(&format!(r#""arguments":[{list}]"#));
        let gid = format!(r#"{{"_aj_globalid":"{GID}"}}"#);
        let cases = [
            (
                r#"{"job_class":"MailerJob","arguments":[]}"#.to_owned(),
                FailureKind::Decode,
                "`job_class` is \"MailerJob\": only",
            ),
            (r#"{"arguments":[]}"#.to_owned(), FailureKind::Decode, "`job_class` is null"),
            (job(r#""job_id":"x""#), FailureKind::Decode, "`arguments` is null: give a list"),
            (arguments(""), FailureKind::Decode, "`arguments` has 0 arguments: give a Version"),
            (arguments(&format!("{gid},null,true,1")), FailureKind::Decode, "has 4 arguments"),
            (arguments("7"), FailureKind::BadReference, "`arguments[0]` is 7: give gid://"),
            (
                arguments(&format!(r#""{TO}","gid://app/Page/{TO}""#)),
                FailureKind::BadReference,
                "`arguments[1]` is \"gid://app/Page",
            ),
            (arguments(&format!(r#""gid:///Version/{TO}""#)), FailureKind::BadReference, "gid:///Version"),
            (
                arguments(r#"{"_aj_globalid":"gid://app/Version/7"}"#),
                FailureKind::BadReference,
                "gid://app/Version/7",
            ),
            (
                arguments(&format!("{gid},null,1")),
                FailureKind::Decode,
                "`arguments[2]` is 1: give true or false",
            ),
            (
                arguments(&format!(r#"{gid},{{"compare_earliest":"no"}}"#)),
                FailureKind::Decode,
                "`arguments.compare_earliest` is \"no\"",
            ),
            (
                arguments(&format!(r#"{gid},null,true,{{"compare_earliest":true}}"#)),
                FailureKind::Decode,
                "twice",
            ),
            (
                arguments(&format!(r#"{gid},{{"compare_latest":true}}"#)),
                FailureKind::Decode,
                "\"compare_latest\"",
            ),
            (
                job(&format!(r#""arguments":[{gid}],"job_id":"a b""#)),
                FailureKind::Decode,
                "`job_id` is \"a b\": a job id is",
            ),
            (job(&format!(r#""arguments":[{gid}],"job_id":7"#)), FailureKind::Decode, "`job_id` is 7"),
            (
                job(&format!(r#""arguments":[{gid}],"priority":"high""#)),
                FailureKind::Decode,
                "`priority` is \"high\"",
            ),
            (
                job(&format!(r#""arguments":[{gid}],"scheduled_at":"soon""#)),
                FailureKind::Decode,
                "`scheduled_at` is \"soon\"",
            ),
            (
                format!(r#"{{"class":"Compare","args":["{TO}","{TO}"]}}"#),
                FailureKind::Decode,
                "`class` is \"Compare\"",
            ),
            (format!(r#"{{"class":"AnalyzeChangeJob","args":"{TO}"}}"#), FailureKind::Decode, "`args` is"),
            (
                format!(r#"{{"class":"X","jid":"j","args":[{{"v":1,"to":"{TO}","fro":1}}]}}"#),
                FailureKind::Decode,
                "fro",
            ),
            (
                format!(r#"{{"class":"X","args":[{{"v":2,"to":"{TO}"}}]}}"#),
                FailureKind::UnsupportedVersion,
                "`v` is 2",
            ),
            (
                r#"{"v":1,"job_class":"AnalyzeChangeJob"}"#.to_owned(),
                FailureKind::BadReference,
                "`to` is missing",
            ),
        ];
        for (payload, kind, needle) in cases {
            let failure = Job::decode(payload.as_bytes()).expect_err(&payload);
            assert_eq!(failure.kind, kind, "{payload}: {failure}");
            assert!(
                failure.detail.contains(needle),
                "{payload}: {:?} does not say {needle:?}",
                failure.detail
            );
        }
    }
}
