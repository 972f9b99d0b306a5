//! Versions by the time of their capture, a chunk at a time, in the order in which the app pages through them.
//!
//! Invariant: a chunk's `next` is never followed as an address; of it a place in the list is kept, and the way there is
//! built anew, so that no answer leads our credentials elsewhere.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::Api;
use super::version::uuid;
use crate::job::failure::Failure;

/// Versions of one chunk; the app's own default, and a third of a MiB.
const CHUNK_SIZE: usize = 100;

/// Captured when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureWindow {
    /// Not before.
    pub since: OffsetDateTime,
    /// Not after.
    pub until: OffsetDateTime,
}

/// One version of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    /// The version.
    pub uuid: Uuid,
    /// Its page.
    pub page: Uuid,
    /// When it was captured.
    pub captured: OffsetDateTime,
    /// Does the app hold a change from the version before? Told only to those who are logged in.
    pub has_change: bool,
}

/// Some versions, oldest first, and where the following ones begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionChunk {
    /// The versions.
    pub versions: Vec<ListedVersion>,
    /// Where the next chunk begins; `None` where there is none.
    pub next: Option<String>,
}

impl Api {
    /// Versions that differ from the one before them and were captured in this span, from a place on that an earlier
    /// chunk gave.
    ///
    /// # Errors
    /// As any lookup; `api_unavailable` also where an answer makes no sense or leads nowhere.
    pub async fn list_captured(
        &self,
        span: CaptureWindow,
        from: Option<&str>,
    ) -> Result<VersionChunk, Failure> {
        let path = path(span, from, self.client.has_credentials());
        let answer = self.client.get(&path).await?;
        let chunk = read(&answer).filter(|chunk| {
            // The app cuts its places to seconds: a chunk that is one second's goes round in circles.
            chunk.next.is_none() || (chunk.next.as_deref() != from && !chunk.versions.is_empty())
        });
        chunk.ok_or_else(|| self.client.malformed_answer(&path))
    }
}

fn path(span: CaptureWindow, from: Option<&str>, logged_in: bool) -> String {
    let time = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let list = "versions?".to_owned();
    let at = list.len();
    let mut query = form_urlencoded::Serializer::for_suffix(list, at);
    query
        .append_pair("capture_time", &format!("{}..{}", time(span.since), time(span.until)))
        .append_pair("different", "true")
        .append_pair("sort", "capture_time:asc")
        .append_pair("chunk_size", &CHUNK_SIZE.to_string());
    if logged_in {
        query.append_pair("include_change_from_previous", "true");
    }
    if let Some(place) = from {
        query.append_pair("chunk", place);
    }
    query.finish()
}

fn read(answer: &Value) -> Option<VersionChunk> {
    let versions = answer["data"].as_array()?.iter().map(listed).collect::<Option<Vec<_>>>()?;
    let next = match &answer["links"]["next"] {
        Value::Null => None,
        link => Some(chunk_token(link.as_str()?)?),
    };
    Some(VersionChunk { versions, next })
}

fn listed(version: &Value) -> Option<ListedVersion> {
    let captured = OffsetDateTime::parse(version["capture_time"].as_str()?, &Rfc3339).ok()?;
    let has_change = version.get("change_from_previous").is_some_and(|change| !change.is_null());
    Some(ListedVersion {
        uuid: uuid(version, "uuid")?,
        page: uuid(version, "page_uuid")?,
        captured,
        has_change,
    })
}

/// The `chunk` of a link, which may be relative.
fn chunk_token(link: &str) -> Option<String> {
    let anywhere = Url::parse("http://db.invalid/").ok()?;
    let link = anywhere.join(link).ok()?;
    link.query_pairs().find(|(name, _)| name == "chunk").map(|(_, place)| place.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::macros::datetime;

    const ID: &str = "795e6ff4-fcc0-444c-9f31-2b156f7dd4d4";

    fn span() -> CaptureWindow {
        CaptureWindow { since: datetime!(2018-10-01 0:00 UTC), until: datetime!(2018-11-01 0:00 UTC) }
    }

    #[test]
    fn a_chunk_is_asked_for_as_the_app_reads_it() {
        let plain = "versions?capture_time=2018-10-01T00%3A00%3A00Z..2018-11-01T00%3A00%3A00Z&different=true\
                     &sort=capture_time%3Aasc&chunk_size=100";
        assert_eq!(path(span(), None, false), plain);
        let place = format!("2018-10-02T00:00:00Z,{ID}");
        assert_eq!(
            path(span(), Some(&place), true),
            format!("{plain}&include_change_from_previous=true&chunk=2018-10-02T00%3A00%3A00Z%2C{ID}")
        );
    }

    #[test]
    fn a_chunk_is_read_whole_or_not_at_all() {
        let version = json!({"uuid": ID, "page_uuid": ID, "capture_time": "2018-10-10T15:30:00.123Z"});
        let next = format!(
            "https://elsewhere.test/api/v0/versions?chunk_size=100&chunk=2018-10-10T15%3A30%3A00Z%2C{ID}"
        );
        let chunk = read(&json!({"links": {"next": next}, "data": [version]})).unwrap();
        assert_eq!(chunk.next.unwrap(), format!("2018-10-10T15:30:00Z,{ID}"));
        assert!(!chunk.versions[0].has_change);
        assert_eq!(read(&json!({"links": {"next": null}, "data": []})).unwrap().next, None);
        for senseless in [
            json!({"data": {"uuid": ID}}),
            json!({"data": [{"uuid": ID, "page_uuid": ID}]}),
            json!({"data": [{"uuid": ID, "page_uuid": null, "capture_time": "2018-10-10T15:30:00Z"}]}),
            json!({"links": {"next": "https://db.test/api/v0/versions?page=2"}, "data": []}),
            json!({"links": {"next": 7}, "data": []}),
        ] {
            assert_eq!(read(&senseless), None, "{senseless}");
        }
    }

    #[test]
    fn a_change_that_is_there_is_told_from_none() {
        for (change, has) in [(json!({"uuid": ID, "priority": 0.5}), true), (Value::Null, false)] {
            let version = json!({"uuid": ID, "page_uuid": ID, "capture_time": "2018-10-10T15:30:00Z", "change_from_previous": change});
            assert_eq!(listed(&version).unwrap().has_change, has);
        }
    }
}
