//! Whether a runtime still runs its tasks, seen from outside of it.
//!
//! Invariant: the age of a pulse is at most `BEAT` while its runtime runs, and grows while it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the runtime is asked for a sign of life.
const BEAT: Duration = Duration::from_secs(1);

/// A task of the runtime that notes the time again and again.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Milliseconds from the start to the last beat.
    last: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Pulse {
    /// Starts the task in the current runtime.
    pub fn start() -> Self {
        let (started, last) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let noted = Arc::clone(&last);
        let task = tokio::spawn(async move {
            loop {
                noted.store(millis_since(started), Ordering::Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        });
        Self { started, last, task }
    }

    /// Time since the last beat.
    pub fn age(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(millis_since(self.started).saturating_sub(last))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn millis_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_that_is_blocked_has_no_pulse_until_it_goes_on() {
        let pulse = Pulse::start();
        tokio::task::yield_now().await;
        assert!(pulse.age() < BEAT);
        let blocked = Instant::now();
        while blocked.elapsed() < BEAT * 2 {
            std::thread::park_timeout(BEAT);
        }
        assert!(pulse.age() >= BEAT * 2);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(pulse.age() < BEAT);
    }
}
