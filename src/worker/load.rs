//! Takes fewer jobs at a time on a busy machine, and says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::Shared;
use crate::policy::load::LoadSample;
use crate::sandbox::{PoolStats, machine};

/// Time between two steps. Pressure is an average of ten seconds: more steps in that time would each count the same
/// moment of it again.
const STEP_INTERVAL: Duration = Duration::from_secs(5);

/// Adapts the number of slots in use to the machine, as long as the worker runs.
pub(super) async fn keep_to_the_machine(shared: Arc<Shared>) {
    let mut before = shared.worker.pool.stats();
    loop {
        sleep(STEP_INTERVAL).await;
        let now = shared.worker.pool.stats();
        shared.step_load(sample(&before, &now));
        before = now;
    }
}

/// What the pool did between two moments, and the pressure now.
fn sample(before: &PoolStats, now: &PoolStats) -> LoadSample {
    let since = |now: u64, before: u64| Duration::from_millis(now.saturating_sub(before));
    let pressure = machine::pressure();
    LoadSample {
        ran: since(now.cpu_ms, before.cpu_ms),
        waited: since(now.waiting_ms, before.waiting_ms),
        busy: now.busy > 0,
        cpu_pressure: pressure.cpu,
        memory_pressure: pressure.memory,
    }
}

impl Shared {
    fn step_load(&self, sample: LoadSample) {
        let (limit, before, overload) = {
            let mut load = self.load_limit.lock();
            let before = load.overload();
            (load.step(sample), before, load.overload())
        };
        self.worker.pool.limit_to(limit);
        match (before, overload) {
            (None, Some(why)) => {
                warn!(limit, why = why.as_str(), "busy machine: taking fewer jobs at a time");
            }
            (Some(_), None) => info!(limit, "the machine has room again: using all slots"),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}
