//! The list of versions, in chunks: ordered to the microsecond, shown to the millisecond, its places cut to seconds.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use url::form_urlencoded;

use super::{DbState, errors};

/// The most versions of one chunk, where nothing else is set: as in production.
const MAX_CHUNK: usize = 1000;

impl DbState {
    /// A chunk of the versions in their order of capture, the place of the next one in its link, and changes
    /// for those who are logged in.
    pub(super) fn list(&mut self, query: &str) -> (u16, Value) {
        if let Some((after, times, (status, _, body))) = &mut self.list_fault
            && self.chunks >= *after
            && *times > 0
        {
            *times -= 1;
            return (*status, serde_json::from_str(body).unwrap());
        }
        let asked: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let changes = asked.get("include_change_from_previous").map(String::as_str) == Some("true");
        if changes && self.authorization.is_none() {
            return (
                403,
                errors(403, "You must be logged in to use the params: `include_change_from_previous`"),
            );
        }
        assert_eq!(asked["sort"].as_str(), "capture_time:asc");
        let whole = "1900-01-01T00:00:00Z..2999-01-01T00:00:00Z".to_owned();
        let (since, until) = asked.get("capture_time").unwrap_or(&whole).split_once("..").unwrap();
        let place = asked.get("chunk").map(|chunk| chunk.split_once(',').unwrap());
        let place = place.map(|(time, uuid)| (time_of(time), uuid.to_owned()));
        let key = |v: &Value| {
            (time_of(v["capture_time"].as_str().unwrap()), v["uuid"].as_str().unwrap().to_owned())
        };
        let mut found: Vec<&Value> = self.versions.iter().collect();
        found.retain(|v| (time_of(since)..=time_of(until)).contains(&key(v).0));
        found.retain(|v| place.as_ref().is_none_or(|place| key(v) > *place));
        found.sort_by_key(|v| key(v));
        let most = if self.max_chunk == 0 { MAX_CHUNK } else { self.max_chunk };
        let size = asked["chunk_size"].parse::<usize>().unwrap().clamp(1, most);
        let chunk: Vec<Value> = found.into_iter().take(size).cloned().collect();
        if changes && chunk.iter().any(|version| version["page_uuid"].is_null()) {
            return (500, errors(500, "Internal Server Error"));
        }
        let next = (chunk.len() == size).then(|| {
            let last = &chunk[size - 1];
            let (time, uuid) = (last["capture_time"].as_str().unwrap(), last["uuid"].as_str().unwrap());
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(asked.iter().filter(|(name, _)| *name != "chunk"))
                .append_pair("chunk", &format!("{}Z,{uuid}", &time[..19]))
                .finish();
            format!("https://elsewhere.test/api/v0/versions?{query}")
        });
        let data: Vec<Value> = chunk
            .into_iter()
            .map(|mut version| {
                if changes {
                    let known = self.changes.iter().any(|uuid| version["uuid"] == uuid.as_str());
                    version["change_from_previous"] =
                        if known { json!({"priority": 0.5}) } else { Value::Null };
                }
                as_shown(version)
            })
            .collect();
        self.chunks += 1;
        (200, json!({"links": {"first": "https://elsewhere.test/", "next": next}, "meta": {}, "data": data}))
    }
}

/// A time as one that can be compared: to the microsecond, as the app's database has it.
pub(super) fn time_of(text: &str) -> String {
    let text = text.trim_end_matches('Z');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}.{fraction:0<6}")
}

/// A version as the app shows it: times to the millisecond.
pub(super) fn as_shown(mut version: Value) -> Value {
    let time = time_of(version["capture_time"].as_str().unwrap());
    version["capture_time"] = format!("{}Z", &time[..23]).into();
    version
}
