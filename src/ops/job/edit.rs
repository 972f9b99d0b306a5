//! `--edit FIELD=VALUE`: another value in the payload of a job that is replayed.

use serde_json::Value;

use crate::job::Job;

/// A field of a payload, and its new value.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Edit {
    /// Names from the outside in: `to`, `body_url`.
    path: Vec<String>,
    value: Value,
}

impl Edit {
    /// Reads `to.body_url=https://...`; the value is JSON or else text.
    ///
    /// # Errors
    /// A sentence with the form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (field, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not FIELD=VALUE, like to.media_type=text/html"))?;
        let path: Vec<String> = field.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) || path.len() > 3 {
            return Err(format!("{field:?} is not a field of a job, like again or to.body_url"));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { path, value })
    }
}

/// The job with these edits.
///
/// # Errors
/// The field and why it may not be so: what comes out must be a job for the same pair, under the same id.
pub(super) fn edited(job: &Job, edits: &[Edit]) -> Result<Job, String> {
    let mut payload = serde_json::to_value(job).unwrap_or_default();
    for Edit { path, value } in edits {
        let mut place = &mut payload;
        for name in path {
            if place.is_null() {
                *place = Value::Object(serde_json::Map::new());
            }
            let Value::Object(fields) = place else {
                return Err(format!("{} has no field {name:?}", path[..path.len() - 1].join(".")));
            };
            place = fields.entry(name.clone()).or_insert(Value::Null);
        }
        *place = value.clone();
    }
    let text = serde_json::to_vec(&payload).unwrap_or_default();
    let edited = Job::decode(&text).map_err(|failure| failure.detail)?;
    if edited.id != job.id || edited.pair() != job.pair() {
        return Err("its id and its two versions must stay: enqueue another job instead".to_owned());
    }
    Ok(edited)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Priority, VersionRef};
    use uuid::Uuid;

    fn job() -> Job {
        Job::new(VersionRef::Uuid(Uuid::from_u128(1)), VersionRef::Uuid(Uuid::from_u128(2)))
    }

    #[test]
    fn a_field_of_the_payload_is_replaced() {
        let edits = [Edit::parse("priority=low").unwrap(), Edit::parse("limits.wall_ms=500").unwrap()];
        let edited = edited(&job(), &edits).unwrap();
        assert_eq!((edited.priority, edited.limits.wall_ms), (Priority::Low, Some(500)));
    }

    #[test]
    fn what_comes_out_must_be_a_job_for_the_same_pair() {
        for (edit, said) in [
            ("priority=urgent", "priority"),
            ("to=00000000-0000-0000-0000-000000000009", "must stay"),
            ("id=another", "must stay"),
            ("nonsense=1", "nonsense"),
            ("priority.high=1", "has no field"),
        ] {
            let error = edited(&job(), &[Edit::parse(edit).unwrap()]).unwrap_err();
            assert!(error.contains(said), "{edit}: {error}");
        }
        assert!(Edit::parse("priority").is_err() && Edit::parse(".=1").is_err());
    }
}
