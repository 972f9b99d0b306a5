//! What a slot tells the queue: that a job is about to enter a child, and that a job is done or skipped. Both go into
//! one call, so a slot that ends one job and begins the next costs one.
//!
//! # Why
//! Only what was in a child when its worker vanished may be blamed for it with its content; so Redis must know it
//! before the child starts, and not of the hundreds of jobs whose bodies are still being fetched.

use crate::Queue;
use crate::error::Error;
use crate::ids::LeaseRef;
use crate::lease::batch::{Batched, Batcher};
use crate::lease::result::Ending;
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// One job for `settle.lua`.
#[derive(Debug)]
pub(crate) enum SlotCall {
    /// It is done or skipped.
    Settle(Box<SettleCall>),
    /// It enters a child.
    EnterChild {
        /// Its `job` key.
        job: String,
        /// Its lease.
        lease: LeaseRef,
    },
}

/// A job that is done or skipped.
#[derive(Debug)]
pub(crate) struct SettleCall {
    /// `job` and `unique`.
    pub(crate) keys: [String; 2],
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) ending: Ending,
    /// How it ended (JSON), by its id.
    pub(crate) ended: String,
    /// The pair's name in `done`; empty when it is not to be remembered.
    pub(crate) done: Vec<u8>,
    /// Its follow-up job is not wanted.
    pub(crate) without_follow_up: bool,
}

impl Batched for SlotCall {
    /// Whether the lease was still held.
    type Reply = bool;

    fn bytes(&self) -> usize {
        match self {
            Self::Settle(call) => call.ending.report.len() + call.ending.summary.len() + call.ended.len(),
            Self::EnterChild { .. } => 0,
        }
    }

    fn batcher(queue: &Queue) -> &Batcher<Self> {
        &queue.inner.slot_calls
    }

    async fn call(queue: &Queue, batch: &[&Self]) -> Result<Vec<bool>, Error> {
        let settles = batch.iter().filter(|call| matches!(call, Self::Settle(_))).count();
        let mut call = queue.call(&scripts::SETTLE).arg(settles);
        // The script takes all settles first: a stable sort by kind, undone for the replies.
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|&at| matches!(batch[at], Self::EnterChild { .. }));
        for &at in &order {
            match batch[at] {
                Self::Settle(settle) => {
                    let SettleCall { keys: [job, unique], id, token, ending, ended, done, without_follow_up } =
                        &**settle;
                    let Ending { state, why, pair, report, summary, posted, marked: _, sniffed } = ending;
                    call = call.key(job).key(unique);
                    call = call.arg(&[id, token, *state, why, pair, ended, report, summary]);
                    call = call.arg(done).arg(if *posted { "1" } else { "" });
                    call = call.arg(if *without_follow_up { "1" } else { "" }).arg(sniffed);
                }
                Self::EnterChild { job, lease } => {
                    call = call.key(job).arg(&[lease.id.as_str(), &lease.token]);
                }
            }
        }
        let mut reply = call.reply().await?;
        let mut held = vec![false; batch.len()];
        for at in order {
            held[at] = match reply.text()?.as_str() {
                "settled" | "entered" => true,
                "superseded" | "lost" => false,
                other => return Err(reply.unexpected(other)),
            };
        }
        Ok(held)
    }
}

impl WorkerHandle {
    /// Records that a job enters a child, and renews its lease; call it right before the child starts. From then on
    /// a worker that vanishes puts the blame on this job's content. False when the lease was lost: stop.
    ///
    /// # Errors
    /// Those of Redis; it may be recorded all the same.
    pub async fn enter_child(&self, lease: &LeaseRef) -> Result<bool, Error> {
        let job = self.inner.keys.job(&lease.id);
        self.in_batch(SlotCall::EnterChild { job, lease: lease.clone() }).await
    }
}
