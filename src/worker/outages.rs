//! Trouble that all workers of a queue share, and who of them alerts: one alert for an outage, not one per process.
//!
//! With each beat a worker tells the others, through Redis, what it sees (`queue/outage.rs`), and hears who tells people.
//!
//! Invariant: what is seen is told by somebody. Where Redis does not answer nobody can agree, so each worker that has not
//! heard of a telling tells; all of these have one fingerprint, and are one issue in Sentry.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;

use crate::queue::{Sight, Teller, WorkerHandle, WorkerId};
use crate::telemetry::sentry::{Alerts, Trouble};

/// What this worker sees, and what of it was told.
pub(super) struct Troubles {
    alerts: Alerts,
    queue: WorkerHandle,
    worker: WorkerId,
    seen: Mutex<HashMap<Trouble, Seen>>,
}

#[derive(Default)]
struct Seen {
    /// It ended here and the others do not know yet; and whether our alert of it had arrived.
    ended: Option<bool>,
    lasts: Option<Lasting>,
}

struct Lasting {
    detail: String,
    /// Nothing is left to do for us: we have noted the alert, or know that somebody told.
    told: bool,
}

impl Troubles {
    pub(super) fn new(alerts: Alerts, queue: WorkerHandle, worker: WorkerId) -> Self {
        Self { alerts, queue, worker, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Trouble, Seen>> {
        // A panic while holding it leaves a whole map: each change is one assignment.
        self.seen.lock()
    }

    /// It begins; somebody alerts soon after the next beat.
    pub(super) fn begins(&self, what: Trouble, detail: String) {
        self.seen().entry(what).or_default().lasts = Some(Lasting { detail, told: false });
    }

    /// It is over for us; who alerted says so.
    pub(super) fn ends(&self, what: Trouble) {
        let mut seen = self.seen();
        let Some(trouble) = seen.get_mut(&what).filter(|trouble| trouble.lasts.is_some()) else { return };
        *trouble = Seen { ended: Some(self.alerts.told(what)), lasts: None };
        self.alerts.recovered(what);
    }

    /// Tells the others what is seen, where Redis `answers`, and alerts where that falls to us.
    pub(super) async fn agree(&self, answers: bool) {
        // Who cannot alert must not be the one to.
        if !self.alerts.are_on() {
            return;
        }
        for (what, told) in self.ended() {
            // A word that is not heard is said again: else the next outage would pass for this one.
            if answers && self.queue.outage(what.as_str(), &self.worker, Sight::Over, told).await.is_ok() {
                self.seen().entry(what).and_modify(|trouble| trouble.ended = None);
            }
        }
        for what in self.lasting() {
            let told = self.alerts.told(what);
            let teller = match answers {
                true => self.queue.outage(what.as_str(), &self.worker, Sight::Lasts, told).await,
                false => Ok(Teller::Us),
            };
            match teller {
                Ok(Teller::Us) | Err(_) => self.tell(what),
                Ok(Teller::Another) => {}
                Ok(Teller::Nobody) => self.leave_it(what),
            }
        }
    }

    fn ended(&self) -> Vec<(Trouble, bool)> {
        self.seen().iter().filter_map(|(what, trouble)| Some((*what, trouble.ended?))).collect()
    }

    fn lasting(&self) -> Vec<Trouble> {
        self.seen().iter().filter(|(_, trouble)| trouble.lasts.is_some()).map(|(what, _)| *what).collect()
    }

    fn tell(&self, what: Trouble) {
        let mut seen = self.seen();
        let lasting = seen.get_mut(&what).and_then(|trouble| trouble.lasts.as_mut());
        if let Some(lasting) = lasting.filter(|lasting| !lasting.told) {
            lasting.told = true;
            self.alerts.trouble(what, &lasting.detail);
        }
    }

    fn leave_it(&self, what: Trouble) {
        if let Some(lasting) = self.seen().get_mut(&what).and_then(|trouble| trouble.lasts.as_mut()) {
            lasting.told = true;
        }
    }
}
