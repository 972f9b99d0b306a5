//! Whether jobs are settled, from the counters of the last minutes: two commands, whatever the size of the queue.

use crate::error::Error;
use crate::inspect::rates::BUCKET_MS;
use crate::inspect::status::Status;
use crate::role::WorkerHandle;

/// The counters of what ended a job.
const SETTLED: [&str; 3] = ["done", "skipped", "dead"];

/// Jobs that were settled in the last minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledLately {
    bucket: u64,
    in_bucket: u64,
    in_bucket_before: u64,
}

impl SettledLately {
    /// Whether a job was settled since `before`.
    pub fn since(&self, before: &Self) -> bool {
        match self.bucket.checked_sub(before.bucket) {
            Some(0) => self.in_bucket > before.in_bucket,
            Some(1) => self.in_bucket > 0 || self.in_bucket_before > before.in_bucket,
            Some(_) => self.in_bucket + self.in_bucket_before > 0,
            None => false, // the clock of Redis fell back
        }
    }
}

impl WorkerHandle {
    /// Reads how many jobs were settled lately, at the time of this look.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn settled_lately(&self, look: &Status) -> Result<SettledLately, Error> {
        let bucket = look.at_ms / BUCKET_MS;
        let mut pipe = redis::pipe();
        for bucket in [bucket, bucket.saturating_sub(1)] {
            pipe.cmd("HMGET").arg(self.inner.keys.stats(bucket)).arg(&SETTLED);
        }
        let [now, before]: [Vec<Option<u64>>; 2] =
            self.ask(&pipe).await.map(|(now, before)| [now, before])?;
        let sum = |counts: Vec<Option<u64>>| counts.into_iter().flatten().sum();
        Ok(SettledLately { bucket, in_bucket: sum(now), in_bucket_before: sum(before) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_settled_since_is_seen_across_buckets() {
        let settled =
            |bucket, in_bucket_before, in_bucket| SettledLately { bucket, in_bucket, in_bucket_before };
        let before = settled(7, 90, 5);
        assert!(!before.since(&before));
        assert!(settled(7, 90, 6).since(&before));
        assert!(settled(8, 6, 0).since(&before) && settled(8, 5, 1).since(&before));
        assert!(!settled(8, 5, 0).since(&before));
        assert!(settled(11, 1, 0).since(&before) && !settled(11, 0, 0).since(&before));
        assert!(!settled(6, 99, 99).since(&before));
    }
}
