//! The app's list of versions, read whole although some of them make it fail.
//!
//! Invariant: a version is returned once (but for those of one millisecond, where a walk is gone on with), and each call
//! goes forward, by a version or by a millisecond.
//!
//! # Why
//! - Today's app fails for a whole chunk, if changes are asked for, when one of its versions has no page. So the chunk is
//!   asked for again in smaller ones, down to that version, which is then asked for without its change.
//! - The app shows times to the millisecond and orders by microseconds, so that the versions of the last millisecond may
//!   come again: they are dropped here. Where they fill a chunk, a larger one is asked for.

use std::collections::HashSet;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::api::{Api, CaptureWindow, ChunkRequest, VersionChunk, position_at};
use crate::job::failure::{Failure, FailureKind};
use crate::ops::render::{self, sanitize};
use crate::policy::backoff;

/// Versions per chunk: the app's default, about a third of a MiB.
const CHUNK_SIZE: usize = 100;
/// Versions per chunk where more than [`CHUNK_SIZE`] were captured in one millisecond: about 1.5 MiB, below the default of
/// `api.max_response`.
const LARGE_CHUNK_SIZE: usize = 500;
/// How much smaller a chunk is that is asked for again.
const SHRINK: usize = 10;
/// How often a chunk is asked for while the app cannot answer.
const MAX_ATTEMPTS: u32 = 5;
/// The longest wait before the second try; it doubles, and a `Retry-After` counts more.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// The longest wait of all: who asks for more is asked again by a person.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A walk over the versions of a window.
pub(super) struct Listing<'a> {
    api: &'a Api,
    window: CaptureWindow,
    /// Sizes of the chunks in which a chunk that failed is read again, each with how many versions of it are left.
    smaller: Vec<(usize, usize)>,
    /// The versions returned of the last millisecond.
    boundary: Option<(OffsetDateTime, HashSet<Uuid>)>,
}

impl<'a> Listing<'a> {
    /// A walk that has not begun.
    pub(super) fn new(api: &'a Api, window: CaptureWindow) -> Self {
        Self { api, window, smaller: Vec::new(), boundary: None }
    }

    /// The next chunk with a version that was not returned before, from this position on; asked for again for as long as
    /// the fault is the app's.
    pub(super) async fn next_chunk(&mut self, from: Option<&str>) -> Result<VersionChunk, Failure> {
        let mut position = from.map(str::to_owned);
        let mut unreadable = 0;
        loop {
            let size = self.smaller.last().map_or(CHUNK_SIZE, |(size, _)| *size);
            let mut chunk = self.read(position.as_deref(), size, true).await?;
            let mut repeats = self.drop_repeats(&mut chunk)?;
            if chunk.versions.is_empty() && chunk.next.is_some() && repeats > 0 {
                chunk = self.read(position.as_deref(), LARGE_CHUNK_SIZE, false).await?;
                repeats = self.drop_repeats(&mut chunk)?;
            }
            unreadable += chunk.unreadable;
            if !chunk.versions.is_empty() || chunk.next.is_none() {
                return Ok(VersionChunk { unreadable, ..chunk });
            }
            let next = if repeats > 0 { self.after_boundary() } else { chunk.next };
            if next == position {
                return Err(no_progress());
            }
            position = next;
        }
    }

    /// The position after the last millisecond that a version was returned of.
    fn after_boundary(&self) -> Option<String> {
        let (time, _) = self.boundary.as_ref()?;
        render::note(format!(
            "more versions were captured at {time} than the app lists at once: the others are passed over"
        ));
        Some(position_at(*time + time::Duration::milliseconds(1)))
    }

    /// Drops the versions that were returned before, and remembers those of the last millisecond. Fails where the list
    /// goes back.
    fn drop_repeats(&mut self, chunk: &mut VersionChunk) -> Result<usize, Failure> {
        let before = chunk.versions.len();
        if let Some((time, returned)) = &self.boundary {
            chunk.versions.retain(|version| !returned.contains(&version.uuid));
            if chunk.versions.iter().any(|version| version.captured < *time) {
                return Err(no_progress());
            }
        }
        let repeats = before - chunk.versions.len();
        if let Some(last) = chunk.versions.last().map(|last| last.captured) {
            let of_last = chunk.versions.iter().filter(|version| version.captured == last);
            let of_last = of_last.map(|version| version.uuid);
            match &mut self.boundary {
                Some((time, returned)) if *time == last => returned.extend(of_last),
                Some(_) | None => self.boundary = Some((last, of_last.collect())),
            }
        }
        Ok(repeats)
    }

    async fn read(
        &mut self,
        from: Option<&str>,
        mut size: usize,
        with_changes: bool,
    ) -> Result<VersionChunk, Failure> {
        let mut attempts = 1;
        loop {
            let mut ended = self.ask(from, size, with_changes).await;
            if with_changes && is_about_a_version(&ended) {
                if size > 1 {
                    self.smaller.push((size.div_ceil(SHRINK), size));
                    size = size.div_ceil(SHRINK);
                    continue;
                }
                ended = self.ask(from, size, false).await;
            }
            let failure = match ended {
                Ok(chunk) => return Ok(self.passed(chunk)),
                Err(failure) => failure,
            };
            let may_pass =
                failure.kind == FailureKind::ApiUnavailable || failure.kind == FailureKind::VersionUnreadable;
            if !may_pass || attempts == MAX_ATTEMPTS {
                return Err(failure);
            }
            let drawn = backoff::full_jitter(BACKOFF_BASE, BACKOFF_MAX, attempts, fastrand::f64());
            let wait = failure.retry_after.unwrap_or(drawn).min(BACKOFF_MAX);
            render::note(format!("{}; trying again", sanitize(&failure.detail, 300)));
            tokio::time::sleep(wait).await;
            attempts += 1;
        }
    }

    /// Counts what was read of the chunks that failed.
    fn passed(&mut self, chunk: VersionChunk) -> VersionChunk {
        let read = chunk.versions.len() + usize::try_from(chunk.unreadable).unwrap_or(usize::MAX);
        self.smaller.iter_mut().for_each(|(_, left)| *left = left.saturating_sub(read));
        self.smaller.retain(|(_, left)| *left > 0 && chunk.next.is_some());
        chunk
    }

    async fn ask(
        &self,
        from: Option<&str>,
        size: usize,
        with_changes: bool,
    ) -> Result<VersionChunk, Failure> {
        self.api.list_captured(ChunkRequest { window: self.window, from, size, with_changes }).await
    }
}

fn is_about_a_version(ended: &Result<VersionChunk, Failure>) -> bool {
    ended.as_ref().is_err_and(|failure| failure.kind == FailureKind::VersionUnreadable)
}

fn no_progress() -> Failure {
    let detail = "the db app's list goes back to versions that it has shown already";
    Failure::new(FailureKind::ApiUnavailable, detail)
}
