//! Lists versions by capture time, one chunk at a time, in the app's own paging order.
//!
//! Invariant: a chunk's `next` is never followed as an address; only the position in the list is taken from
//! it and the URL is built anew, so that no response can direct our credentials elsewhere.
//!
//! # Why
//! - A position is built from the last version of a chunk. That of the app's own link is cut to seconds while the list
//!   is ordered by the whole time, so that it leads back to where a second with more versions than a chunk begins.
//! - What the app filters by is not relied on: today's app ignores `different`, which older ones filter by.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::Api;
use super::version::uuid;
use crate::job::failure::Failure;

/// A range of capture times, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureWindow {
    /// Earliest capture time to include.
    pub since: OffsetDateTime,
    /// Latest capture time to include.
    pub until: OffsetDateTime,
}

/// A part of a list.
#[derive(Debug, Clone, Copy)]
pub struct ChunkRequest<'a> {
    /// Which versions.
    pub window: CaptureWindow,
    /// Position that an earlier chunk returned; the first chunk where there is none.
    pub from: Option<&'a str>,
    /// Most versions to return.
    pub size: usize,
    /// Whether to ask for changes, where we are logged in: the app then fails for a version without a page.
    pub with_changes: bool,
}

/// One version in a list, with what a backfill needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    /// Uuid of the version.
    pub uuid: Uuid,
    /// Uuid of its page, which a version may have lost.
    pub page: Option<Uuid>,
    /// Time of the capture, as precise as the app shows it.
    pub captured: OffsetDateTime,
    /// Whether its body is another than that of the previous version; true where the app does not say.
    pub different: bool,
    /// Whether the app has a change from the previous version. Only returned to authenticated users.
    pub has_change: bool,
}

impl ListedVersion {
    /// The position right after it.
    fn position(&self) -> String {
        format!("{},{}", rfc3339(self.captured), self.uuid)
    }
}

/// One chunk of a list, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionChunk {
    /// The chunk's versions, oldest first.
    pub versions: Vec<ListedVersion>,
    /// Versions that cannot be read: without a uuid or a time.
    pub unreadable: u64,
    /// Position of the next chunk; `None` for the last one.
    pub next: Option<String>,
}

impl Api {
    /// Lists versions that were captured in a window.
    ///
    /// # Errors
    /// As for any lookup; `version_unreadable` where the app fails for this part of the list, `api_unavailable` also if
    /// a response is malformed.
    pub(crate) async fn list_captured(&self, request: ChunkRequest<'_>) -> Result<VersionChunk, Failure> {
        let with_changes = request.with_changes && self.client.has_credentials();
        let path = path(ChunkRequest { with_changes, ..request });
        let answer = self.client.get(&path).await?;
        read(&answer).ok_or_else(|| self.client.malformed_answer(&path))
    }
}

/// The position before all versions that were captured at `time` or later.
pub(crate) fn position_at(time: OffsetDateTime) -> String {
    format!("{},{}", rfc3339(time), Uuid::nil())
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

fn path(request: ChunkRequest<'_>) -> String {
    let ChunkRequest { window: CaptureWindow { since, until }, from, size, with_changes } = request;
    let list = "versions?".to_owned();
    let at = list.len();
    let mut query = form_urlencoded::Serializer::for_suffix(list, at);
    query
        .append_pair("capture_time", &format!("{}..{}", rfc3339(since), rfc3339(until)))
        .append_pair("different", "true")
        .append_pair("sort", "capture_time:asc")
        .append_pair("chunk_size", &size.to_string());
    if with_changes {
        query.append_pair("include_change_from_previous", "true");
    }
    if let Some(place) = from {
        query.append_pair("chunk", place);
    }
    query.finish()
}

fn read(answer: &Value) -> Option<VersionChunk> {
    let rows = answer["data"].as_array()?;
    let versions: Vec<ListedVersion> = rows.iter().filter_map(listed).collect();
    let next = match &answer["links"]["next"] {
        Value::Null => None,
        link => {
            let of_link = chunk_token(link.as_str()?)?;
            Some(versions.last().map_or(of_link, ListedVersion::position))
        }
    };
    Some(VersionChunk { unreadable: (rows.len() - versions.len()) as u64, versions, next })
}

fn listed(version: &Value) -> Option<ListedVersion> {
    let captured = OffsetDateTime::parse(version["capture_time"].as_str()?, &Rfc3339).ok()?;
    let has_change = version.get("change_from_previous").is_some_and(|change| !change.is_null());
    Some(ListedVersion {
        uuid: uuid(version, "uuid")?,
        page: uuid(version, "page_uuid"),
        captured,
        different: version["different"] != Value::Bool(false),
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
        let request = ChunkRequest { window: span(), from: None, size: 100, with_changes: false };
        assert_eq!(path(request), plain);
        let place = format!("2018-10-02T00:00:00Z,{ID}");
        assert_eq!(
            path(ChunkRequest { from: Some(&place), with_changes: true, ..request }),
            format!("{plain}&include_change_from_previous=true&chunk=2018-10-02T00%3A00%3A00Z%2C{ID}")
        );
    }

    #[test]
    fn the_next_position_is_that_of_the_last_version_to_the_last_digit() {
        let version =
            |time: &str| json!({"uuid": ID, "page_uuid": null, "capture_time": time, "different": false});
        let next = format!("https://elsewhere.test/api/v0/versions?chunk=2018-10-10T15%3A30%3A00Z%2C{ID}");
        let read = |data: Value| read(&json!({"links": {"next": next}, "data": data})).unwrap();
        let chunk = read(json!([version("2018-10-10T15:30:00.123Z"), {"uuid": ID}]));
        assert_eq!(chunk.next.unwrap(), format!("2018-10-10T15:30:00.123Z,{ID}"));
        let first = &chunk.versions[0];
        assert_eq!(
            (first.page, first.different, first.has_change, chunk.unreadable),
            (None, false, false, 1)
        );
        assert_eq!(read(json!([{"uuid": 7}])).next.unwrap(), format!("2018-10-10T15:30:00Z,{ID}"));
    }

    #[test]
    fn what_is_no_list_is_not_read() {
        assert_eq!(read(&json!({"links": {"next": null}, "data": []})).unwrap().next, None);
        for senseless in [
            json!({"data": {"uuid": ID}}),
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
