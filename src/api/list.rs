//! Lists versions by capture time, one chunk at a time, in the app's own paging order.
//!
//! Invariant: a chunk's `next` is never followed as an address; only the position in the list is taken from
//! it and the URL is built anew, so that no response can direct our credentials elsewhere.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::Api;
use super::version::uuid;
use crate::job::failure::Failure;

/// Versions per chunk: the app's default, about a third of a MiB.
const CHUNK_SIZE: usize = 100;

/// A range of capture times, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureWindow {
    /// Earliest capture time to include.
    pub since: OffsetDateTime,
    /// Latest capture time to include.
    pub until: OffsetDateTime,
}

/// One version in a list, with what a backfill needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    /// Uuid of the version.
    pub uuid: Uuid,
    /// Uuid of its page.
    pub page: Uuid,
    /// Time of the capture.
    pub captured: OffsetDateTime,
    /// Whether the app has a change from the previous version. Only returned to authenticated users.
    pub has_change: bool,
}

/// One chunk of a list, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionChunk {
    /// The chunk's versions, oldest first.
    pub versions: Vec<ListedVersion>,
    /// Position of the next chunk; `None` for the last one.
    pub next: Option<String>,
}

impl Api {
    /// Lists versions that differ from the previous one and were captured in this window, starting at the
    /// position that an earlier chunk returned.
    ///
    /// # Errors
    /// As for any lookup; `api_unavailable` also if a response is malformed or does not advance.
    pub(crate) async fn list_captured(
        &self,
        span: CaptureWindow,
        from: Option<&str>,
    ) -> Result<VersionChunk, Failure> {
        let path = path(span, from, self.client.has_credentials());
        let answer = self.client.get(&path).await?;
        let chunk = read(&answer).filter(|chunk| {
            // The app truncates positions to seconds: a chunk full of versions from one second would repeat
            // for ever.
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

/// The `chunk` parameter of a link, which may be relative.
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
