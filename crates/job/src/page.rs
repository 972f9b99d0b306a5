//! Captured versions, the pair to compare, and the raw bytes that were fetched for it.
//!
//! Nothing here looks inside a body: it stays the bytes that the archive sent, content encoding and all, until a
//! sandboxed child takes them apart.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;
use uuid::Uuid;

/// Which of the two versions something is said of.
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
    /// `from` or `to`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One capture of a page, as the db app's API shows it (field names since 2021; older aliases are read too).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The version's primary key.
    pub uuid: Uuid,
    /// Where the body is kept.
    #[serde(alias = "uri")]
    pub body_url: Url,
    /// The captured address; its extension is what the filter looks at. Absent: `body_url` stands in.
    #[serde(default, alias = "capture_url", skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// SHA-256 of the body in hex, as captured (after content encodings were undone).
    #[serde(default, alias = "version_hash", skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    /// The declared media type, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The body's length in bytes, as captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length: Option<u64>,
    /// When it was captured.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub capture_time: Option<OffsetDateTime>,
    /// The HTTP status that the page answered with when it was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The worst status that the version's source recorded, before versions had one of their own (2021), and since.
    #[serde(
        default,
        rename = "source_metadata",
        with = "source_status_serde",
        skip_serializing_if = "Option::is_none"
    )]
    pub source_status: Option<u16>,
}

impl Version {
    /// A version that is only a uuid and a place.
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

    /// The worst status that anybody told of the capture: an error page is one whoever noticed.
    pub fn worst_status(&self) -> Option<u16> {
        self.status.max(self.source_status)
    }

    /// The address whose extension counts: the captured one, else where the body is kept.
    pub fn address(&self) -> &str {
        self.url.as_deref().unwrap_or(self.body_url.as_str())
    }
}

/// `source_metadata` is whatever a source wrote: of all of it the statuses are kept, in the names of any year.
mod source_status_serde {
    use serde::ser::SerializeMap as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use serde_json::Value;

    const STATUS_KEYS: [&str; 3] = ["status_code", "error_code", "status"];

    pub(super) fn serialize<S: Serializer>(status: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(STATUS_KEYS[0], status)?;
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
        Ok(worst(&Value::deserialize(deserializer)?))
    }

    /// The worst status in it; `None` where there is none.
    pub(super) fn worst(source_metadata: &Value) -> Option<u16> {
        STATUS_KEYS.iter().filter_map(|name| super::status_of(source_metadata.get(name)?)).max()
    }
}

/// The worst status in a version's `source_metadata`; `None` where there is none.
pub fn source_status(source_metadata: &serde_json::Value) -> Option<u16> {
    source_status_serde::worst(source_metadata)
}

/// A status as a number or as text.
pub fn status_of(value: &serde_json::Value) -> Option<u16> {
    match value {
        serde_json::Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Two versions, ready to be fetched and compared.
#[derive(Debug, Clone, PartialEq)]
pub struct PagePair {
    /// The page both belong to; required only where an annotation is posted.
    pub page: Option<Uuid>,
    /// The older version.
    pub from: Version,
    /// The newer version.
    pub to: Version,
}

impl PagePair {
    /// Both versions with their side, older first.
    pub fn sides(&self) -> [(Side, &Version); 2] {
        [(Side::From, &self.from), (Side::To, &self.to)]
    }
}

/// A body exactly as it came over the wire: never decompressed, never decoded here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The `Content-Type` header, as it came.
    pub content_type: Option<String>,
    /// The `Content-Encoding` header, as it came: a label for the child.
    pub content_encoding: Option<String>,
}

/// Both bodies, older first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Of the older version.
    pub from: Body,
    /// Of the newer version.
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
