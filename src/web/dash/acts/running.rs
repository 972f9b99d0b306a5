//! The bulk actions that this dashboard carries out now, and those that it has just finished.
//!
//! Invariant: at most [`RUNNING_MAX`] are recorded or run at a time, each in a task of its own. One that is cut short by
//! the end of this process is in Redis with what it did, and can be resumed here or by the command.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::ops::job::{Run, RunObserver};
use crate::queue::{OperationId, OperatorHandle};

/// A person looks after one or two; each holds its selection in memory, at most some ten MB.
const RUNNING_MAX: usize = 4;
/// Finished ones whose last words are kept.
const FINISHED_MAX: usize = 50;

/// How far one has come.
#[derive(Debug, Clone, Default)]
pub(in crate::web::dash) struct RunProgress {
    pub(in crate::web::dash) come_to: usize,
    pub(in crate::web::dash) total: usize,
    pub(in crate::web::dash) notes: Vec<String>,
    /// Its end: why it stopped before its last job, if it did; `None` while it runs.
    pub(in crate::web::dash) ended: Option<Option<String>>,
}

#[derive(Debug, Clone)]
struct TrackedRun {
    progress: RunProgress,
    stop: CancellationToken,
}

/// All of them, by their operation.
#[derive(Debug, Clone)]
pub(in crate::web::dash) struct RunningActions {
    tracked: Arc<Mutex<BTreeMap<String, TrackedRun>>>,
    room: Arc<Semaphore>,
}

impl Default for RunningActions {
    fn default() -> Self {
        Self { tracked: Arc::default(), room: Arc::new(Semaphore::new(RUNNING_MAX)) }
    }
}

struct ProgressObserver {
    running: RunningActions,
    id: String,
}

impl RunObserver for ProgressObserver {
    fn came_to(&mut self, count: usize, total: usize) {
        self.running.change(&self.id, |progress| (progress.come_to, progress.total) = (count, total));
    }

    fn note(&mut self, said: String) {
        self.running.change(&self.id, |progress| progress.notes.push(said));
    }
}

impl RunningActions {
    /// A permit for one more, held from before it is recorded until it ends; `None` at the limit.
    pub(super) fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Carries it out in a task of its own.
    pub(super) fn start(&self, run: Run, queue: OperatorHandle, room: OwnedSemaphorePermit) -> OperationId {
        let (id, stop) = (run.operation().clone(), CancellationToken::new());
        let mut entries = self.tracked.lock();
        while entries.len() >= FINISHED_MAX {
            let finished = entries.iter().find(|(_, entry)| entry.progress.ended.is_some());
            let Some(oldest) = finished.map(|(id, _)| id.clone()) else { break };
            entries.remove(&oldest);
        }
        entries.insert(id.to_string(), TrackedRun { progress: RunProgress::default(), stop: stop.clone() });
        let mut observer = ProgressObserver { running: self.clone(), id: id.to_string() };
        tokio::spawn(async move {
            let _room = room;
            let finished = run.carry_out(&queue, &mut observer, stop).await;
            let stopped = finished.result.stopped().map(str::to_owned);
            let ended = stopped.or_else(|| finished.error.map(|error| error.to_string()));
            observer.running.change(&observer.id, |progress| progress.ended = Some(ended));
        });
        id
    }

    /// How far it has come, where it runs or ran here.
    pub(super) fn progress(&self, id: &OperationId) -> Option<RunProgress> {
        self.tracked.lock().get(id.as_str()).map(|entry| entry.progress.clone())
    }

    /// Stops it after the job that it is at.
    pub(super) fn stop(&self, id: &OperationId) {
        if let Some(entry) = self.tracked.lock().get(id.as_str()) {
            entry.stop.cancel();
        }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut RunProgress)) {
        if let Some(entry) = self.tracked.lock().get_mut(id) {
            change(&mut entry.progress);
        }
    }
}
