//! Parses the db app's version records, with the field names of any year.
//!
//! Names before June 2021 were `uri`, `version_hash` and `capture_url`; if both are present, the new one is
//! used. Nothing here makes a call.
//!
//! # Why
//! Parsed by hand, not by serde: a response may mix old and new names, nulls, and a status as a number or a
//! string, and only a missing uuid makes it invalid.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;
use uuid::Uuid;

use crate::job::page::{self, Version};
use crate::job::redact::page_address;
use crate::job::skip::{Skip, SkipReason};
use crate::job::text::quote;

/// A version with its page and its predecessor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VersionRecord {
    /// The version's primary key.
    pub(super) uuid: Uuid,
    /// Uuid of its page, if given.
    pub(super) page: Option<Uuid>,
    /// The version before it on the page.
    pub(super) previous: PreviousVersion,
    /// The version, or why there is nothing to fetch.
    pub(super) version: Result<Version, Skip>,
}

/// What a response states about the previous version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreviousVersion {
    Known(Uuid),
    /// This is the page's first version.
    Absent,
    /// The response does not include it.
    Unknown,
}

impl VersionRecord {
    /// Parses a version and its links; `None` if it has no uuid. Relative addresses are resolved against
    /// `base`.
    pub(super) fn read(data: &Value, links: &Value, base: &Url) -> Option<Self> {
        let uuid = uuid(data, "uuid")?;
        let previous = match links.get("previous") {
            None => PreviousVersion::Unknown,
            Some(Value::Null) => PreviousVersion::Absent,
            Some(link) => {
                link.as_str().and_then(last_segment).map_or(PreviousVersion::Unknown, PreviousVersion::Known)
            }
        };
        Some(Self { uuid, page: self::uuid(data, "page_uuid"), previous, version: version(uuid, data, base) })
    }
}

/// The uuid of a change's older version.
pub(super) fn uuid_from(answer: &Value) -> Option<Uuid> {
    uuid(&answer["data"], "uuid_from")
}

fn version(uuid: Uuid, data: &Value, base: &Url) -> Result<Version, Skip> {
    let skip = |what: String| Skip::new(SkipReason::NotHttp, format!("version {uuid} {what}"));
    if let Some(error) = text(data, &["network_error"]) {
        return Err(skip(format!("has no body, because its capture failed: {}", quote(&error))));
    }
    let body_url = text(data, &["body_url", "uri"]).ok_or_else(|| skip("has no body".to_owned()))?;
    let body_hash = text(data, &["body_hash", "version_hash"]);
    // The current app sets an address even if there is no body: only a missing hash shows that.
    if body_hash.is_none() && body_url.ends_with(&format!("/versions/{uuid}/raw")) {
        return Err(skip("has no body".to_owned()));
    }
    let parsed = base.join(&body_url);
    let parsed = parsed.map_err(|e| {
        skip(format!("is kept at {:?}, which is not a valid address: {e}", quote(&page_address(&body_url))))
    })?;
    let capture_time = text(data, &["capture_time"]);
    Ok(Version {
        url: text(data, &["url", "capture_url"]),
        body_hash,
        media_type: text(data, &["media_type"]),
        content_length: data["content_length"].as_u64(),
        capture_time: capture_time.and_then(|time| OffsetDateTime::parse(&time, &Rfc3339).ok()),
        // What the app's own job read, so that it caps the priority of the same pairs: not `status`.
        source_status: page::app_status(&data["source_metadata"]),
        ..Version::at(uuid, parsed)
    })
}

/// A field that contains a uuid.
pub(super) fn uuid(data: &Value, field: &str) -> Option<Uuid> {
    Uuid::parse_str(data.get(field)?.as_str()?).ok()
}

/// The first of these fields that contains a non-blank string.
fn text(data: &Value, fields: &[&str]) -> Option<String> {
    let texts = fields.iter().filter_map(|field| data.get(field)?.as_str()).map(str::trim);
    texts.filter(|text| !text.is_empty()).map(ToOwned::to_owned).next()
}

/// The uuid at the end of a link such as `…/api/v0/versions/<uuid>`.
fn last_segment(link: &str) -> Option<Uuid> {
    let path = link.split(['?', '#']).next()?.trim_end_matches('/');
    Uuid::parse_str(path.rsplit('/').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const UUID: &str = "795e6ff4-fcc0-444c-9f31-2b156f7dd4d4";
    const PAGE: &str = "3d068c64-967a-4ec7-af49-f8fa0f19e6f1";
    const PREVIOUS: &str = "0c2f9d24-df8e-48b4-919b-7d1eca02d3c4";

    fn read(data: &Value, links: &Value) -> Option<VersionRecord> {
        VersionRecord::read(data, links, &Url::parse("https://db.test/api/v0/").unwrap())
    }

    #[test]
    fn old_and_new_field_names_say_the_same() {
        let new = json!({"uuid": UUID, "page_uuid": PAGE, "capture_time": "2017-11-26T11:15:44.000Z", "media_type": "text/html",
            "url": "https://agency.test/a.pdf", "body_url": "https://archive.test/1", "body_hash": "86e6", "content_length": 9,
            "status": 200, "headers": null, "source_metadata": {}, "network_error": null, "different": true});
        let old = json!({"uuid": UUID, "page_uuid": PAGE, "capture_time": "2017-11-26T11:15:44.000Z", "media_type": "text/html",
            "capture_url": "https://agency.test/a.pdf", "uri": "https://archive.test/1", "version_hash": "86e6",
            "content_length": 9, "status": null, "source_metadata": {"status_code": "200"}});
        let both = json!({"uuid": UUID, "page_uuid": PAGE, "capture_time": "2017-11-26T11:15:44.000Z", "media_type": "text/html",
            "url": null, "capture_url": "https://agency.test/a.pdf", "body_url": "https://archive.test/1", "uri": "s3://old/1",
            "body_hash": "86e6", "version_hash": "", "content_length": 9, "status": "200"});
        let record = read(&new, &Value::Null).unwrap();
        let version = record.version.clone().unwrap();
        assert_eq!(version.uuid.to_string(), UUID);
        assert_eq!(record.page.unwrap().to_string(), PAGE);
        assert_eq!(version.body_url.as_str(), "https://archive.test/1");
        assert_eq!(version.url.as_deref(), Some("https://agency.test/a.pdf"));
        assert_eq!(version.body_hash.as_deref(), Some("86e6"));
        assert_eq!((version.worst_status(), version.content_length), (None, Some(9)));
        assert_eq!(version.capture_time.unwrap().unix_timestamp(), 1_511_694_944);
        let with_status = read(&old, &Value::Null).unwrap();
        assert_eq!(with_status.version.clone().unwrap().worst_status(), Some(200));
        let without = with_status.version.map(|v| Version { source_status: None, ..v });
        assert_eq!(VersionRecord { version: without, ..record.clone() }, record);
        assert_eq!(read(&both, &Value::Null).unwrap(), record);
    }

    #[test]
    fn the_status_is_the_one_that_the_apps_own_job_reads() {
        for (data, status) in [
            (json!({"status": 503}), None),
            (json!({"status": 200, "source_metadata": {"status_code": 503}}), Some(503)),
            (json!({"source_metadata": {"status_code": "200", "error_code": 503}}), Some(200)),
            (json!({"source_metadata": {"status_code": null, "error_code": "503"}}), Some(503)),
            (json!({"source_metadata": {"status": 503}}), None),
        ] {
            let mut version =
                json!({"uuid": UUID, "body_url": "https://archive.test/1", "body_hash": "86e6"});
            version.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
            assert_eq!(
                read(&version, &Value::Null).unwrap().version.unwrap().worst_status(),
                status,
                "{data}"
            );
        }
    }

    #[test]
    fn the_previous_version_is_named_denied_or_not_spoken_of() {
        let named = PreviousVersion::Known(Uuid::parse_str(PREVIOUS).unwrap());
        for (links, expected) in [
            (json!({"previous": format!("https://elsewhere.test/api/v0/versions/{PREVIOUS}")}), named),
            (json!({"previous": format!("/api/v0/pages/{PAGE}/versions/{PREVIOUS}/?a=b")}), named),
            (json!({"previous": null}), PreviousVersion::Absent),
            (json!({"previous": "https://db.test/api/v0/versions/7"}), PreviousVersion::Unknown),
            (json!({"previous": 7}), PreviousVersion::Unknown),
            (json!({"next": null}), PreviousVersion::Unknown),
            (Value::Null, PreviousVersion::Unknown),
        ] {
            assert_eq!(read(&json!({"uuid": UUID}), &links).unwrap().previous, expected, "{links}");
        }
    }

    #[test]
    fn a_version_without_a_body_is_a_skip_and_one_without_a_uuid_is_senseless() {
        for (data, needle) in [
            (json!({"uuid": UUID}), "has no body"),
            (json!({"uuid": UUID, "body_url": null, "uri": " "}), "has no body"),
            (
                json!({"uuid": UUID, "body_url": format!("https://db.test/api/v0/versions/{UUID}/raw")}),
                "has no body",
            ),
            (json!({"uuid": UUID, "body_url": "http://["}), "not a valid address"),
            (json!({"uuid": UUID, "body_url": "http://a.test/raw", "network_error": "net::ERR"}), "net::ERR"),
        ] {
            let skip = read(&data, &Value::Null).unwrap().version.unwrap_err();
            assert_eq!(skip.reason, SkipReason::NotHttp);
            assert!(skip.detail.contains(needle), "{}", skip.detail);
        }
        for senseless in [json!({}), json!(null), json!([]), json!({"uuid": 7}), json!({"uuid": "7"})] {
            assert_eq!(read(&senseless, &Value::Null), None, "{senseless}");
        }
    }

    #[test]
    fn a_relative_address_is_the_apps_own() {
        let data =
            json!({"uuid": UUID, "body_hash": "86e6", "body_url": format!("/api/v0/versions/{UUID}/raw")});
        let version = read(&data, &Value::Null).unwrap().version.unwrap();
        assert_eq!(version.body_url.as_str(), format!("https://db.test/api/v0/versions/{UUID}/raw"));
    }
}
