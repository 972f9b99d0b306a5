//! An index that is read page by page while others write it.
//!
//! Invariant: an entry that stands in the index all the time, and whose score does not change against the direction of
//! reading, is read. One whose score rises while it is read upwards may be read again: see [`ReadIds`].

use std::collections::HashSet;

use wm_job::JobId;

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;

/// The way through an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the lowest score.
    Up,
    /// From the highest.
    Down,
}

/// Where an index is read on: behind an entry, not at a rank, which moves when entries before it leave.
#[derive(Debug)]
pub(crate) struct IndexPages {
    index: String,
    direction: Direction,
    low: String,
    high: String,
    /// Id and score of the entry that was read last.
    last: Option<(String, String)>,
}

impl IndexPages {
    /// All of an index.
    pub(crate) fn of(index: String, direction: Direction) -> Self {
        Self { index, direction, low: "-inf".to_owned(), high: "+inf".to_owned(), last: None }
    }

    /// Only what has a score within these bounds.
    pub(crate) fn within(mut self, low: Option<u64>, high: Option<u64>) -> Self {
        self.low = low.map_or(self.low, |score| score.to_string());
        self.high = high.map_or(self.high, |score| score.to_string());
        self
    }

    /// The next ids with their scores, at most `most`; none at the end.
    ///
    /// # Errors
    /// Those of Redis; the page is read again.
    pub(crate) async fn next(&mut self, queue: &Queue, most: usize) -> Result<Vec<(JobId, String)>, Error> {
        loop {
            let (id, score) = self.last.clone().unwrap_or_default();
            let down = u8::from(self.direction == Direction::Down);
            let call = queue.call(&scripts::PAGE).key(&self.index);
            let call = call.arg(&[&score, &id, &self.low, &self.high]).arg(most).arg(down);
            let (mut reply, mut page, mut read) = (call.reply().await?, Vec::new(), None);
            while let Some(id) = reply.next() {
                let score = reply.text()?;
                page.extend(JobId::parse(&id).ok().map(|id| (id, score.clone())));
                read = Some((id, score));
            }
            match read {
                None => return Ok(page),
                // A page of nothing but names that are no ids is not the end.
                Some(_) if page.is_empty() => self.last = read,
                Some(_) => {
                    self.last = read;
                    return Ok(page);
                }
            }
        }
    }
}

/// Most ids that a listing remembers: as many as one bulk action takes, 10 MB. Beyond it what moves on while it is
/// read (a lease that is renewed, a job that is claimed) may be listed twice.
const SEEN_MAX: usize = 100_000;

/// Ids that were read, so that a job which moves on is listed once.
#[derive(Debug, Default)]
pub(crate) struct ReadIds(HashSet<JobId>);

impl ReadIds {
    /// Notes an id; false when it was noted before.
    pub(crate) fn is_first(&mut self, id: &JobId) -> bool {
        if self.0.len() >= SEEN_MAX { !self.0.contains(id) } else { self.0.insert(id.clone()) }
    }
}
