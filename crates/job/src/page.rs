//! Captured versions, the pair to compare, and the raw bodies that were fetched for it.
//!
//! Nothing here parses a body: it stays exactly as the archive sent it, content encoding included, until a
//! sandboxed child decodes it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;
use uuid::Uuid;

/// One of the two versions of a pair.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr, strum::Display,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The older version.
    From,
    /// The newer version.
    To,
}

impl Side {
    /// The label: `from` or `to`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One capture of a page, as the db app's API returns it (field names since 2021; older aliases are
/// accepted).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The version's primary key in the db app.
    pub uuid: Uuid,
    /// Address of the stored body.
    #[serde(alias = "uri")]
    pub body_url: Url,
    /// The captured address; the filter uses its extension. If missing, `body_url` is used.
    #[serde(default, alias = "capture_url", skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// SHA-256 of the body in hex at capture, after content encodings were removed.
    #[serde(default, alias = "version_hash", skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    /// The declared media type, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Length of the body in bytes at capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length: Option<u64>,
    /// Time of the capture.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub capture_time: Option<OffsetDateTime>,
    /// HTTP status of the page at capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The worst status in `source_metadata`, where versions before 2021 recorded it and some still do.
    #[serde(
        default,
        rename = "source_metadata",
        with = "source_status_serde",
        skip_serializing_if = "Option::is_none"
    )]
    pub source_status: Option<u16>,
}

impl Version {
    /// A version with only a uuid and a body address.
    pub fn at(uuid: Uuid, body_url: Url) -> Self {
        Self {
            uuid,
            body_url,
            url: None,
            body_hash: None,
            media_type: None,
            content_length: None,
            capture_time: None,
            status: None,
            source_status: None,
        }
    }

    /// The worst recorded status of the capture: it is an error page if any source reports an error.
    pub fn worst_status(&self) -> Option<u16> {
        self.status.max(self.source_status)
    }

    /// The address whose extension is checked: the captured one, else that of the stored body.
    pub fn address(&self) -> &str {
        self.url.as_deref().unwrap_or(self.body_url.as_str())
    }
}

const STATUS_KEYS: [&str; 3] = ["status_code", "error_code", "status"];

/// `source_metadata` is free-form: only the statuses are kept, under the field names of any year.
mod source_status_serde {
    use serde::ser::SerializeMap as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(status: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(super::STATUS_KEYS[0], status)?;
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
        Ok(super::source_status(&Value::deserialize(deserializer)?))
    }
}

/// The status in a version's `source_metadata` that the db app's own job reads: `status_code`, else `error_code`.
pub fn app_status(source_metadata: &serde_json::Value) -> Option<u16> {
    let names = &STATUS_KEYS[..2];
    let value = names.iter().filter_map(|name| source_metadata.get(name)).find(|value| !value.is_null());
    status_of(value?)
}

/// The worst status in a version's `source_metadata`; `None` if it holds no status.
pub fn source_status(source_metadata: &serde_json::Value) -> Option<u16> {
    STATUS_KEYS.iter().filter_map(|name| status_of(source_metadata.get(name)?)).max()
}

/// Parses a status given as a number or a string.
pub fn status_of(value: &serde_json::Value) -> Option<u16> {
    match value {
        serde_json::Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Two resolved versions, ready to be fetched and compared.
#[derive(Debug, Clone, PartialEq)]
pub struct PagePair {
    /// The page of both versions; required only where an annotation is posted.
    pub page: Option<Uuid>,
    /// The older version.
    pub from: Version,
    /// The newer version.
    pub to: Version,
    /// True where the older version is known to be its page's first: a comparison with that one is this one.
    pub from_is_earliest: bool,
}

impl PagePair {
    /// Both versions with their sides, older first.
    pub fn sides(&self) -> [(Side, &Version); 2] {
        [(Side::From, &self.from), (Side::To, &self.to)]
    }
}

/// A body exactly as received: never decompressed or decoded in the worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Raw bytes, possibly compressed.
    pub bytes: Vec<u8>,
    /// The `Content-Type` header, verbatim.
    pub content_type: Option<String>,
    /// The `Content-Encoding` header, verbatim; interpreted only by the child.
    pub content_encoding: Option<String>,
}

/// The bodies of a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Body of the older version.
    pub from: Body,
    /// Body of the newer version.
    pub to: Body,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_worst_status_counts_whoever_told_it_and_survives_the_wire() {
        for (told, expected) in [
            (json!({}), None),
            (json!({"status": 404}), Some(404)),
            (
                json!({"status": 200, "source_metadata": {"status_code": 500, "statemachine": {"a": [1]}}}),
                Some(500),
            ),
            (json!({"status": 503, "source_metadata": {"status_code": "200"}}), Some(503)),
            (json!({"source_metadata": {"error_code": " 502 "}}), Some(502)),
            (json!({"source_metadata": {"status": 500, "status_code": 200}}), Some(500)),
            (json!({"source_metadata": "nonsense"}), None),
            (json!({"source_metadata": null}), None),
            (json!({"source_metadata": {"status_code": [500], "status": 99_999, "error_code": -1}}), None),
        ] {
            let mut version = json!({"uuid": Uuid::nil(), "body_url": "http://archive.test/1"});
            version.as_object_mut().unwrap().extend(told.as_object().unwrap().clone());
            let read: Version = serde_json::from_value(version).unwrap();
            assert_eq!(read.worst_status(), expected, "{told}");
            let again: Version = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
            assert_eq!(again, read);
        }
    }
}
