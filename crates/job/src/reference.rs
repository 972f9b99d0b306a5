//! How a job names its two versions: the newer one always, the older one by name or by its place in the page's history.
//!
//! Says what is wrong with a reference in the producer's words; whether there is such a version the db app knows.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::failure::{Failure, Kind};
use super::page::Version;
use super::text::quote;

/// A version as the producer named it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VersionRef {
    /// Only its uuid: to be resolved through the db app's API.
    Uuid(Uuid),
    /// All that is needed: no API call at all.
    Whole(Box<Version>),
}

impl VersionRef {
    /// The version's uuid, in either form.
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::Uuid(uuid) => *uuid,
            Self::Whole(version) => version.uuid,
        }
    }
}

/// The older version of a pair. All but a given one need the API, and only resolving tells which pair it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Option<Wire>", into = "Option<Wire>")]
pub enum Older {
    /// The one before `to` on its page: `"previous"`, null, or no field at all.
    #[default]
    Previous,
    /// The first one of the page: `"earliest"`.
    Earliest,
    /// This one.
    Given(VersionRef),
}

impl Older {
    /// The version, where the job names it.
    pub fn given(&self) -> Option<&VersionRef> {
        match self {
            Self::Given(version) => Some(version),
            Self::Previous | Self::Earliest => None,
        }
    }

    /// The same, to be changed.
    pub fn given_mut(&mut self) -> Option<&mut VersionRef> {
        match self {
            Self::Given(version) => Some(version),
            Self::Previous | Self::Earliest => None,
        }
    }

    /// True where nothing is said on the wire.
    pub(super) fn is_previous(&self) -> bool {
        *self == Self::Previous
    }
}

/// The left side of a pair's name: a uuid, `earliest`, or nothing for the previous version.
impl std::fmt::Display for Older {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Previous => Ok(()),
            Self::Earliest => f.write_str("earliest"),
            Self::Given(version) => version.uuid().fmt(f),
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Place(Place),
    Given(VersionRef),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    Previous,
    Earliest,
}

impl From<Option<Wire>> for Older {
    fn from(wire: Option<Wire>) -> Self {
        match wire {
            None | Some(Wire::Place(Place::Previous)) => Self::Previous,
            Some(Wire::Place(Place::Earliest)) => Self::Earliest,
            Some(Wire::Given(version)) => Self::Given(version),
        }
    }
}

impl From<Older> for Option<Wire> {
    fn from(older: Older) -> Self {
        match older {
            Older::Previous => None,
            Older::Earliest => Some(Wire::Place(Place::Earliest)),
            Older::Given(version) => Some(Wire::Given(version)),
        }
    }
}

/// Judges `from`, which may be left out or be a place in the page's history.
pub(super) fn check_older(value: Option<&Value>) -> Result<(), Failure> {
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(place)) if place == "previous" || place == "earliest" => Ok(()),
        Some(value) => check("from", value),
    }
}

/// Judges `to`.
pub(super) fn check_newer(value: Option<&Value>) -> Result<(), Failure> {
    match value {
        None | Some(Value::Null) => {
            let detail =
                "field `to` is missing: give a version's uuid, or an object with `uuid` and `body_url`";
            Err(Failure::new(Kind::BadReference, detail))
        }
        Some(value) => check("to", value),
    }
}

/// Says what is wrong before serde would only say "no variant fits".
fn check(field: &str, value: &Value) -> Result<(), Failure> {
    let bad = |what: String| Err(Failure::new(Kind::BadReference, what));
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
