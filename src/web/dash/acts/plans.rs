//! Plans of bulk actions, from when they are asked for until they are begun.
//!
//! A selection of 100,000 jobs takes seconds to read, and as long to record: each in a task of its own, so that neither is
//! cut by the end of a request. What was read is kept, and what was shown is what is done.
//!
//! Invariant: at most [`PLANS_MAX`] are kept, each for [`LIFETIME`] at most; a plan is begun once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use super::running::RunningActions;
use crate::ops::job::{BulkAction, Plan, Prepared, prepare};
use crate::queue::{OperationId, OperatorHandle};

/// More than people look at; each holds its selection, at most some 10 MB.
const PLANS_MAX: usize = 8;
/// Time for a person to read a plan.
const LIFETIME: Duration = Duration::from_secs(600);
/// How long a page waits for what it shows; then it says that it waits. Twice it is less than a request may take.
const PATIENCE: Duration = Duration::from_millis(800);

/// Where a plan is.
#[derive(Debug)]
enum PlanState {
    /// Its selection is being read.
    Reading,
    /// It can be begun.
    Ready(Box<Prepared>),
    /// Nothing has changed, and why, in a sentence.
    Refused(String),
    /// It is being recorded.
    Recording,
    /// It runs, or is through.
    Begun(OperationId),
}

#[derive(Debug)]
struct KeptPlan {
    asked: Instant,
    state: PlanState,
}

/// The plans, by the name that their forms bear.
#[derive(Debug, Clone, Default)]
pub(in crate::web::dash) struct Plans {
    kept: Arc<Mutex<HashMap<Uuid, KeptPlan>>>,
    changed: Arc<Notify>,
}

/// What a page shows of one.
pub(super) enum ShownPlan {
    /// It is being read or recorded, since so long.
    Waits(Duration),
    Ready(Box<Plan>),
    Refused(String),
    Begun(OperationId),
    /// It was not asked for here, or too long ago.
    Unknown,
}

impl Plans {
    /// Reads what `action` selects, in a task of its own.
    pub(super) fn ask(&self, action: BulkAction, rate: f64, queue: OperatorHandle) -> Uuid {
        let name = Uuid::new_v4();
        let mut kept = self.kept.lock();
        kept.retain(|_, plan| plan.asked.elapsed() < LIFETIME);
        if kept.len() >= PLANS_MAX {
            let oldest = kept.iter().min_by_key(|(_, plan)| plan.asked).map(|(name, _)| *name);
            oldest.map(|name| kept.remove(&name));
        }
        kept.insert(name, KeptPlan { asked: Instant::now(), state: PlanState::Reading });
        let plans = self.clone();
        tokio::spawn(async move {
            let state = match prepare(&queue, &action, rate).await {
                Ok(Ok(prepared)) => PlanState::Ready(Box::new(prepared)),
                Ok(Err(refusal)) => PlanState::Refused(refusal.to_string()),
                Err(error) => PlanState::Refused(error.to_string()),
            };
            plans.put(name, state);
        });
        name
    }

    /// Records a plan and carries it out, in a task of its own; once, however often it is asked for.
    pub(super) fn begin(
        &self,
        name: Uuid,
        queue: OperatorHandle,
        running: RunningActions,
        by: String,
        reason: String,
    ) {
        let prepared = {
            let mut kept = self.kept.lock();
            let Some(plan) = kept.get_mut(&name) else { return };
            match std::mem::replace(&mut plan.state, PlanState::Recording) {
                PlanState::Ready(prepared) => prepared,
                other => {
                    plan.state = other;
                    return;
                }
            }
        };
        let plans = self.clone();
        tokio::spawn(async move {
            let state = match prepared.begin(&queue, &by, &reason).await {
                Ok(run) => PlanState::Begun(running.start(run, queue)),
                Err(error) => PlanState::Refused(format!("it was not begun: {error}")),
            };
            plans.put(name, state);
        });
    }

    /// Where it is, once that is more than waiting or a page has waited long enough.
    pub(super) async fn shown(&self, name: Uuid) -> ShownPlan {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                match self.look(name) {
                    ShownPlan::Waits(_) => changed.await,
                    other => return other,
                }
            }
        };
        timeout(PATIENCE, settled).await.unwrap_or_else(|_| self.look(name))
    }

    fn look(&self, name: Uuid) -> ShownPlan {
        match self.kept.lock().get(&name) {
            None => ShownPlan::Unknown,
            Some(KeptPlan { asked, state }) => match state {
                PlanState::Reading | PlanState::Recording => ShownPlan::Waits(asked.elapsed()),
                PlanState::Ready(prepared) => ShownPlan::Ready(Box::new(prepared.plan().clone())),
                PlanState::Refused(why) => ShownPlan::Refused(why.clone()),
                PlanState::Begun(id) => ShownPlan::Begun(id.clone()),
            },
        }
    }

    fn put(&self, name: Uuid, state: PlanState) {
        if let Some(plan) = self.kept.lock().get_mut(&name) {
            plan.state = state;
        }
        self.changed.notify_waiters();
    }
}
