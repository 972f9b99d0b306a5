//! The permits to use slots, of which some can be withheld.
//!
//! Invariant: at most as many permits are withheld as the limit leaves unused, and those are in nobody's hands.
//!
//! # Why
//! A lower limit withholds permits as they become free: it neither waits for jobs nor ends any.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit for each slot.
#[derive(Debug)]
pub(super) struct SlotPermits {
    slots: usize,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    withheld: usize,
}

impl SlotPermits {
    pub(super) fn new(slots: usize) -> Self {
        let state = Mutex::new(State { limit: slots, withheld: 0 });
        Self { slots, permits: Arc::new(Semaphore::new(slots)), state }
    }

    /// Waits for a permit; `None` once they are closed.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// A permit if one is free now.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Returns a permit, or withholds it where the limit asks for that.
    pub(super) fn give_back(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.state.lock();
        if state.limit + state.withheld < self.slots {
            permit.forget();
            state.withheld += 1;
        } else {
            drop(permit);
        }
    }

    /// Sets the limit, at least one and at most the slots; never waits.
    pub(super) fn limit_to(&self, most: usize) {
        let mut state = self.state.lock();
        state.limit = most.clamp(1, self.slots.max(1));
        let withhold = self.slots.saturating_sub(state.limit);
        if let Some(more) = withhold.checked_sub(state.withheld) {
            state.withheld += self.permits.forget_permits(more);
        } else {
            self.permits.add_permits(state.withheld - withhold);
            state.withheld = withhold;
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The limit, and how many permits are in use.
    pub(super) fn limit_and_busy(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.limit, self.slots.saturating_sub(self.permits.available_permits() + state.withheld))
    }

    /// Lifts the limit, and waits until no permit is in use.
    pub(super) async fn all_returned(&self) {
        self.limit_to(self.slots);
        let all = u32::try_from(self.slots).unwrap_or(u32::MAX);
        let _all = self.permits.acquire_many(all).await;
    }

    /// Refuses permits from now on.
    pub(super) fn close(&self) {
        self.permits.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.permits.is_closed()
    }
}
