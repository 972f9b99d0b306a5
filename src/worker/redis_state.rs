//! What this worker knows of Redis; shared with the readiness probe.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Whether Redis answers, and whether it refuses writes.
#[derive(Debug, Default)]
pub struct RedisState {
    answers: AtomicBool,
    refusal: Mutex<Option<String>>,
}

impl RedisState {
    /// Whether Redis answered the last command.
    pub fn answers(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// Why Redis refuses writes; None where it takes them.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    /// Records an answer or its absence; returns what was known before.
    pub(super) fn set_answers(&self, answers: bool) -> bool {
        self.answers.swap(answers, Ordering::Relaxed)
    }

    /// Records whether it takes writes.
    pub(super) fn set_refusal(&self, refusal: Option<String>) {
        *self.refusal.lock() = refusal;
    }
}
