//! Captured versions, the pair to compare, and the raw bytes that were fetched for it.
//!
//! Nothing here looks inside a body: it stays the bytes that the archive sent, content encoding and all, until a
//! sandboxed child takes them apart.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;
use uuid::Uuid;

/// Which of the two versions something is said of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        match self {
            Self::From => "from",
            Self::To => "to",
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
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
        }
    }

    /// The address whose extension counts: the captured one, else where the body is kept.
    pub fn address(&self) -> &str {
        self.url.as_deref().unwrap_or(self.body_url.as_str())
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
