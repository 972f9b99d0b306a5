//! How far a backfill has come, in a file, so that it can be ended at any moment and gone on with later.
//!
//! Invariant: the file is whole at every moment, and never ahead of what the queue has taken.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::api::CaptureWindow;

/// The version of the file's shape.
const VERSION: u32 = 1;
/// The largest file that is read: a cursor has some hundred bytes.
const MAX_CURSOR_BYTES: u64 = 64 << 10;

/// What became of the versions so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BackfillCounts {
    /// Versions that were looked at.
    pub(super) seen: u64,
    /// Versions with the body of the version before them.
    pub(super) unchanged: u64,
    /// Versions without a page, which the app cannot show, and those that it does not list whole.
    pub(super) unreadable: u64,
    /// Versions whose change the app holds already.
    pub(super) has_change: u64,
    /// Jobs that the queue took.
    pub(super) enqueued: u64,
    /// Jobs that were waiting or running already.
    pub(super) duplicate: u64,
    /// Pairs that were analysed before.
    pub(super) already_done: u64,
    /// Jobs of an earlier run that were skipped for good, or died of a fault of their own.
    pub(super) ended_before: u64,
}

/// The position of a backfill, as its file stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    v: u32,
    queue: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    /// Where the next chunk begins.
    pub(super) next: Option<String>,
    /// True when every version was seen.
    pub(super) finished: bool,
    /// Counts so far.
    pub(super) count: BackfillCounts,
}

impl Cursor {
    /// A cursor at the start of `span`.
    pub(super) fn begin(queue: &str, span: CaptureWindow) -> Self {
        let CaptureWindow { since, until } = span;
        Self {
            v: VERSION,
            queue: queue.to_owned(),
            since,
            until,
            next: None,
            finished: false,
            count: BackfillCounts::default(),
        }
    }

    /// The range of capture times.
    pub(super) fn span(&self) -> CaptureWindow {
        CaptureWindow { since: self.since, until: self.until }
    }

    /// True when at least one chunk was taken.
    pub(super) fn is_started(&self) -> bool {
        self.next.is_some() || self.finished
    }

    /// Where the file says, if it is about the same walk; the beginning where there is no file.
    ///
    /// # Errors
    /// A sentence: the file is unreadable, or about another backfill.
    pub(super) fn resume(
        path: &Path,
        queue: &str,
        since: OffsetDateTime,
        until: Option<OffsetDateTime>,
    ) -> Result<Option<Self>, String> {
        let bad = |why: String| format!("{}: {why}", path.display());
        let size = match path.metadata() {
            Ok(about) => about.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(e.to_string())),
        };
        if size > MAX_CURSOR_BYTES {
            return Err(bad(format!("{size} bytes are no cursor")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
        let cursor: Self = serde_json::from_str(&text).map_err(|e| bad(format!("not a cursor: {e}")))?;
        let same = cursor.v == VERSION
            && cursor.queue == queue
            && cursor.since == since
            && until.is_none_or(|until| until == cursor.until);
        if !same {
            return Err(bad(format!(
                "this cursor is of another backfill (queue {}, {} until {}): name another file, or remove it",
                cursor.queue, cursor.since, cursor.until
            )));
        }
        Ok(Some(cursor))
    }

    /// Replaces the file atomically.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, path: &Path) -> std::io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|e| e.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_cursor_is_resumed_by_the_same_walk_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursor.json");
        let (since, until) = (datetime!(2018-10-01 0:00 UTC), datetime!(2018-11-01 0:00 UTC));
        assert_eq!(Cursor::resume(&path, "analysis", since, Some(until)), Ok(None));
        let mut cursor = Cursor::begin("analysis", CaptureWindow { since, until });
        cursor.next = Some("2018-10-02T00:00:00Z,uuid".to_owned());
        cursor.count.enqueued = 7;
        cursor.save(&path).unwrap();
        for until in [Some(until), None] {
            assert_eq!(Cursor::resume(&path, "analysis", since, until), Ok(Some(cursor.clone())));
        }
        for (queue, since, until) in
            [("other", since, until), ("analysis", until, until), ("analysis", since, since)]
        {
            assert!(
                Cursor::resume(&path, queue, since, Some(until)).unwrap_err().contains("another backfill")
            );
        }
        std::fs::write(&path, "{}").unwrap();
        assert!(Cursor::resume(&path, "analysis", since, None).unwrap_err().contains("not a cursor"));
    }
}
