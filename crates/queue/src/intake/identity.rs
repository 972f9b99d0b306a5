//! The id and the pair of a payload that is not a job, as far as they can be read, so that its producer finds it.

use serde_json::Value;

use wm_job::JobId;

/// Longest text taken as one side of a pair: a uuid, or a word such as `previous`.
const SIDE_MAX_BYTES: usize = 64;

/// What could be read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Identity {
    /// The id that the payload gives itself: of a native object, of ActiveJob, of Sidekiq.
    pub(crate) id: Option<JobId>,
    /// `<from>..<to>`; empty where neither side could be read.
    pub(crate) pair: String,
}

impl Identity {
    /// Reads a payload that may be no JSON at all, or cut off.
    pub(crate) fn read(payload: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(payload) {
            Ok(outer) => Self::of(&outer),
            Err(_) => Self { id: first_id(&String::from_utf8_lossy(payload)), pair: String::new() },
        }
    }

    fn of(outer: &Value) -> Self {
        let inner = outer.get("args").and_then(|args| args.get(0)).filter(|first| first.get("to").is_some());
        let id = inner.and_then(|inner| inner.get("id"));
        let id = id.or_else(|| ["id", "job_id", "jid"].iter().find_map(|name| outer.get(name)));
        let id = id.and_then(Value::as_str).and_then(|id| JobId::parse(id).ok());
        let native = inner.unwrap_or(outer);
        let (from, to) = (side(native.get("from")), side(native.get("to")));
        let pair = if from.is_empty() && to.is_empty() { String::new() } else { format!("{from}..{to}") };
        Self { id, pair }
    }
}

/// The uuid of a version, given alone or in an object; empty where there is none.
fn side(version: Option<&Value>) -> String {
    let text = version.and_then(|version| version.as_str().or_else(|| version.get("uuid")?.as_str()));
    let plain = |text: &&str| {
        text.len() <= SIDE_MAX_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.filter(plain).unwrap_or_default().to_owned()
}

/// The first `"id":"..."` in text that is not JSON.
fn first_id(text: &str) -> Option<JobId> {
    let rest = text.split_once("\"id\"")?.1.trim_start().strip_prefix(':')?.trim_start();
    JobId::parse(rest.strip_prefix('"')?.split('"').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_keeps_the_id_and_the_pair_that_it_names() {
        let read = |text: &str| {
            let Identity { id, pair } = Identity::read(text.as_bytes());
            (id.map(|id| id.to_string()).unwrap_or_default(), pair)
        };
        let is = |id: &str, pair: &str| (id.to_owned(), pair.to_owned());
        assert_eq!(read(r#"{"v":9,"id":"a-1","from":"x","to":{"uuid":"y"}}"#), is("a-1", "x..y"));
        assert_eq!(read(r#"{"v":1,"id":"a-1","from":7}"#), is("a-1", ""));
        assert_eq!(read(r#"{"job_class":"Other","job_id":"r-1","arguments":[]}"#), is("r-1", ""));
        assert_eq!(
            read(r#"{"class":"X","jid":"s-1","args":[{"v":1,"id":"n-1","to":"y"}]}"#),
            is("n-1", "..y")
        );
        assert_eq!(read(r#"{"id": "cut-1", "to": {"#), is("cut-1", ""));
        assert_eq!(read("no json"), is("", ""));
        assert_eq!(read(r#"{"id":"has space","to":"a\nb"}"#), is("", ""));
    }
}
