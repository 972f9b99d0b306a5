//! Plans of bulk actions, from when they are asked for until they are begun.
//!
//! A selection of 100,000 jobs takes seconds to read, and as long to record: each in a task of its own, so that neither is
//! cut by the end of a request. What was read is kept, and what was shown is what is done.
//!
//! Invariants:
//! - At most [`PLANS_MAX`] are kept and read; the reading of an evicted one is aborted.
//! - A plan is begun once, within its [`LIFETIME`], and by the page that showed it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::bulk::BulkPage;
use super::running::RunningActions;
use crate::ops::job::{Plan, Prepared};
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
    /// Its selection is being read, by a task that ends with this.
    Reading { _task: AbortOnDropHandle<()> },
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
    /// The page that shows it.
    act: BulkPage,
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
    /// Has a selection read in a task of its own, for the page that will show it.
    pub(super) fn ask(
        &self,
        act: BulkPage,
        reading: impl Future<Output = Result<Prepared, String>> + Send + 'static,
    ) -> Uuid {
        let name = Uuid::new_v4();
        let mut kept = self.kept();
        if kept.len() >= PLANS_MAX {
            let giving_way = kept.iter().filter(|(_, plan)| !matches!(plan.state, PlanState::Recording));
            let oldest = giving_way.min_by_key(|(_, plan)| plan.asked).map(|(name, _)| *name);
            oldest.map(|name| kept.remove(&name));
        }
        let plans = self.clone();
        let task = tokio::spawn(async move {
            let state = match reading.await {
                Ok(prepared) => PlanState::Ready(Box::new(prepared)),
                Err(why) => PlanState::Refused(why),
            };
            plans.put(name, state);
        });
        let state = PlanState::Reading { _task: AbortOnDropHandle::new(task) };
        kept.insert(name, KeptPlan { asked: Instant::now(), act, state });
        name
    }

    /// Records a plan and carries it out in this room, in a task of its own; once, however often it is asked for.
    pub(super) fn begin(
        &self,
        name: Uuid,
        queue: OperatorHandle,
        (running, room): (RunningActions, OwnedSemaphorePermit),
        by: String,
        reason: String,
    ) {
        let prepared = {
            let mut kept = self.kept();
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
                Ok(run) => PlanState::Begun(running.start(run, queue, room)),
                Err(error) => PlanState::Refused(format!("it was not begun: {error}")),
            };
            plans.put(name, state);
        });
    }

    /// Frees expired plans from time to time, so that their selections do not stay in memory until another is asked for.
    pub(in crate::web::dash) async fn expire(&self) {
        let mut tick = tokio::time::interval(LIFETIME / 10);
        loop {
            tick.tick().await;
            drop(self.kept());
        }
    }

    /// Where it is, once that is more than waiting or a page has waited long enough.
    pub(super) async fn shown(&self, act: BulkPage, name: Uuid) -> ShownPlan {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                match self.look(act, name) {
                    ShownPlan::Waits(_) => changed.await,
                    other => return other,
                }
            }
        };
        timeout(PATIENCE, settled).await.unwrap_or_else(|_| self.look(act, name))
    }

    fn look(&self, act: BulkPage, name: Uuid) -> ShownPlan {
        match self.kept().get(&name).filter(|plan| plan.act == act) {
            None => ShownPlan::Unknown,
            Some(KeptPlan { asked, act: _, state }) => match state {
                PlanState::Reading { .. } | PlanState::Recording => ShownPlan::Waits(asked.elapsed()),
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

    /// Those that may still be shown. What is being recorded stays: asked for again, it would be done twice.
    fn kept(&self) -> MutexGuard<'_, HashMap<Uuid, KeptPlan>> {
        let mut kept = self.kept.lock();
        kept.retain(|_, plan| matches!(plan.state, PlanState::Recording) || plan.asked.elapsed() < LIFETIME);
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn an_expired_plan_is_freed_without_another_being_asked_for() {
        let plans = Plans::default();
        let asked = Instant::now().checked_sub(LIFETIME).unwrap();
        let state = PlanState::Refused("no dead letters match".to_owned());
        plans.kept.lock().insert(Uuid::new_v4(), KeptPlan { asked, act: BulkPage::Replay, state });
        let _ = timeout(Duration::from_millis(50), plans.expire()).await;
        assert!(plans.kept.lock().is_empty());
    }

    #[tokio::test]
    async fn a_plan_that_gives_way_is_read_no_further() {
        let (plans, read) = (Plans::default(), Arc::new(()));
        for _ in 0..PLANS_MAX * 4 {
            let read = Arc::clone(&read);
            plans.ask(BulkPage::Replay, async move {
                let _read = read;
                pending().await
            });
        }
        let given_way = async {
            while Arc::strong_count(&read) - 1 > PLANS_MAX {
                yield_now().await;
            }
        };
        let given_way = timeout(Duration::from_secs(10), given_way).await;
        assert!(given_way.is_ok(), "{} are read", Arc::strong_count(&read) - 1);
        assert_eq!(plans.kept().len(), PLANS_MAX);
    }

    #[tokio::test]
    async fn a_plan_is_known_to_the_page_that_asked_for_it_alone() {
        let plans = Plans::default();
        let name = plans.ask(BulkPage::Replay, ready(Err("nothing matches".to_owned())));
        assert!(matches!(plans.shown(BulkPage::Replay, name).await, ShownPlan::Refused(_)));
        assert!(matches!(plans.shown(BulkPage::Discard, name).await, ShownPlan::Unknown));
    }
}
