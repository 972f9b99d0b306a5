//! Batches settles as done or skipped: those that arrive during one call are settled together in the next.
//!
//! Invariant: each settle gets its own result. When a call for several fails, each retries on its own, so
//! that one job's error does not delay another.
//!
//! # Why
//! The call costs Redis more than the job in it. A settle never waits for a batch to fill: it starts a call
//! when none is running, and otherwise joins the next.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::Queue;
use crate::error::Error;
use crate::lease::result::Ending;
use crate::lease::settled::{Settled, settled};
use crate::redis::scripts::{self, ScriptReply};

/// Most jobs settled in one call: about 2 ms of Redis time.
const MOST: usize = 100;
/// Most bytes of arguments in one call, unless it has only one job: what Redis reads within a millisecond, and may
/// hold beyond `maxmemory` for that long.
const MOST_BYTES: usize = 1 << 20;

/// One job for `settle.lua`.
#[derive(Debug)]
pub(crate) struct SettleCall {
    /// `job` and `unique`.
    pub(crate) keys: [String; 2],
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) ending: Ending,
    /// How it ended (JSON), by its id.
    pub(crate) ended: String,
    /// The pair's name in `done`.
    pub(crate) done: Vec<u8>,
}

impl SettleCall {
    fn bytes(&self) -> usize {
        self.ending.report.len() + self.ending.summary.len() + self.ended.len()
    }
}

/// A settle that waits for a call, and the channel for its result.
struct Waiting {
    call: Arc<SettleCall>,
    answer: oneshot::Sender<Result<Settled, Error>>,
}

/// The settles that wait for a call; holding `turn` is the right to make one.
#[derive(Default)]
pub(crate) struct SettleBatcher {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

impl SettleBatcher {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock()
    }

    /// Removes and returns the next settles that fit into one call; drops those whose future was dropped.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        waiting.retain(|one| !one.answer.is_closed());
        let mut bytes = 0;
        let fit = waiting.iter().take(MOST).take_while(|one| {
            let first = bytes == 0;
            bytes += one.call.bytes();
            first || bytes <= MOST_BYTES
        });
        let fit = fit.count();
        waiting.drain(..fit).collect()
    }
}

impl Queue {
    /// Settles a job as done or skipped, in one call with the others that wait.
    pub(crate) async fn settle_in_batch(&self, call: SettleCall) -> Result<Settled, Error> {
        let call = Arc::new(call);
        let (answer, mut answered) = oneshot::channel();
        self.inner.batcher.waiting().push(Waiting { call: Arc::clone(&call), answer });
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => match answer {
                    Ok(answer) => return answer,
                    // The shared call failed or was dropped: retry alone, to get this job's own result.
                    Err(_) => return settled(&mut self.settle_all(&[&call]).await?),
                },
                _turn = self.inner.batcher.turn.lock() => self.settle_next().await,
            }
        }
    }

    /// Makes one call for the settles that wait, if any.
    async fn settle_next(&self) {
        let mut next = self.inner.batcher.next();
        if next.is_empty() {
            return;
        }
        let parts: Vec<&SettleCall> = next.iter().map(|one| &*one.call).collect();
        match self.settle_all(&parts).await {
            Ok(mut reply) => {
                for one in next {
                    let _ = one.answer.send(settled(&mut reply));
                }
            }
            // The error of a single settle is returned to it; of several, each channel closes and each
            // retries alone.
            Err(e) => {
                if let (Some(only), []) = (next.pop(), &next[..]) {
                    let _ = only.answer.send(Err(e));
                }
            }
        }
    }

    async fn settle_all(&self, calls: &[&SettleCall]) -> Result<ScriptReply, Error> {
        let mut call = self.call(&scripts::SETTLE);
        for SettleCall { keys: [job, unique], id, token, ending, ended, done } in calls {
            let Ending { state, why, pair, report, summary, posted } = ending;
            call = call.key(job).key(unique);
            call = call.arg(&[id, token, *state, *why, pair, ended, report, summary]);
            call = call.arg(done).arg(if *posted { "1" } else { "" });
        }
        call.reply().await
    }
}
