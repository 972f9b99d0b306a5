//! References to the two versions of a job: the newer one always given, the older one given or by its place
//! in the page's history.
//!
//! Validates the form of a reference and reports errors by the producer's field names. Only the db app can
//! confirm that the version exists.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::failure::{Failure, FailureKind};
use super::page::Version;
use super::text::quote;

/// A version as the producer refers to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VersionRef {
    /// A uuid, resolved through the db app's API.
    Uuid(Uuid),
    /// A full version: needs no API call.
    Inline(Box<Version>),
}

impl VersionRef {
    /// The version's uuid, in either form.
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::Uuid(uuid) => *uuid,
            Self::Inline(version) => version.uuid,
        }
    }
}

/// The older version of a pair. All but a given one need the API, and the pair is known only once it is
/// resolved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OlderVersion {
    /// The version before `to` on its page: `"previous"`, null, or no field at all.
    #[default]
    Previous,
    /// The page's first version: `"earliest"`.
    Earliest,
    /// A version that the job refers to directly.
    #[serde(untagged)]
    Given(VersionRef),
}

impl OlderVersion {
    /// The version, if the job refers to it directly.
    pub fn given(&self) -> Option<&VersionRef> {
        match self {
            Self::Given(version) => Some(version),
            Self::Previous | Self::Earliest => None,
        }
    }

    /// The version for in-place changes, if the job refers to it directly.
    pub fn given_mut(&mut self) -> Option<&mut VersionRef> {
        match self {
            Self::Given(version) => Some(version),
            Self::Previous | Self::Earliest => None,
        }
    }

    /// True for the default, which is omitted on the wire.
    pub(super) fn is_previous(&self) -> bool {
        *self == Self::Previous
    }
}

/// The left side of a pair's name: a uuid, `earliest`, or nothing for the previous version.
impl std::fmt::Display for OlderVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Previous => Ok(()),
            Self::Earliest => f.write_str("earliest"),
            Self::Given(version) => version.uuid().fmt(f),
        }
    }
}

/// Validates `from`, which may be missing or a place in the page's history.
pub(super) fn check_older(value: Option<&Value>) -> Result<(), Failure> {
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(place)) if place == "previous" || place == "earliest" => Ok(()),
        Some(value) => check("from", value),
    }
}

/// Validates `to`, which is required.
pub(super) fn check_newer(value: Option<&Value>) -> Result<(), Failure> {
    match value {
        None | Some(Value::Null) => {
            let detail =
                "field `to` is missing: give a version's uuid, or an object with `uuid` and `body_url`";
            Err(Failure::new(FailureKind::BadReference, detail))
        }
        Some(value) => check("to", value),
    }
}

/// Reports a specific error before serde would only report that no variant matches.
fn check(field: &str, value: &Value) -> Result<(), Failure> {
    let bad = |what: String| Err(Failure::new(FailureKind::BadReference, what));
    match value {
        Value::String(text) => match Uuid::parse_str(text) {
            Ok(_) => Ok(()),
            Err(e) => bad(format!("field `{field}` is {:?}, which is not a uuid: {e}", quote(text))),
        },
        Value::Object(_) => match serde_path_to_error::deserialize::<_, Version>(value.clone()) {
            Ok(_) => Ok(()),
            Err(e) => {
                let path = e.path().to_string();
                let path = if path == "." { field.to_owned() } else { format!("{field}.{path}") };
                bad(format!("field `{path}`: {}", quote(&e.into_inner().to_string())))
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            bad(format!("field `{field}` is {}: give a uuid or an object", quote(&value.to_string())))
        }
    }
}
