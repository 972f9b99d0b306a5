//! Ending jobs as done or skipped: those that end at the same moment are settled in one call.
//!
//! Invariant: each of them gets an answer of its own, and where a call for several fails each tries again by itself, so
//! that no job is held up by another one's trouble.
//!
//! # Why
//! A call costs Redis more than the job in it. Nobody waits for company: whoever finds no call under way makes one, and
//! what comes meanwhile goes with the next.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::Queue;
use crate::error::Error;
use crate::lease::settled::{Settled, settled};
use crate::redis::scripts::{self, ScriptReply};
use wm_job::duration::millis;

/// Most jobs that one call ends: some 2 ms of Redis.
const MOST: usize = 100;
/// Most bytes of reports in one call, unless it is a single one: what Redis takes in within a millisecond.
const MOST_BYTES: usize = 1 << 20;

/// One job's end, as the script wants it: `job`, `unique`, `report`, `done`; id, token, state, why, pair, report.
#[derive(Debug)]
pub(crate) struct SettleCall {
    pub(crate) keys: [String; 4],
    pub(crate) args: [String; 6],
}

impl SettleCall {
    fn bytes(&self) -> usize {
        self.args.iter().map(String::len).sum()
    }
}

/// A job's end that waits for its call, and where its answer goes.
struct Waiting {
    call: Arc<SettleCall>,
    answer: oneshot::Sender<Result<Settled, Error>>,
}

/// The ends that wait for a call, and the right to make one.
#[derive(Default)]
pub(crate) struct SettleBatcher {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

impl SettleBatcher {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock()
    }

    /// The next ones that fit into a call; who was given up meanwhile is left out.
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
    /// Ends a job, together with those that end now.
    pub(crate) async fn settle_in_batch(&self, call: SettleCall) -> Result<Settled, Error> {
        let call = Arc::new(call);
        let (answer, mut answered) = oneshot::channel();
        self.inner.batcher.waiting().push(Waiting { call: Arc::clone(&call), answer });
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => match answer {
                    Ok(answer) => return answer,
                    // The call that it was part of failed, or was given up: by itself it meets no trouble but its own.
                    Err(_) => return settled(&mut self.settle_all(&[&call]).await?),
                },
                _turn = self.inner.batcher.turn.lock() => self.settle_next().await,
            }
        }
    }

    /// Makes one call, where anybody is left to make it for.
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
            // The trouble of a single one is its own; of several each hears only that there is no answer.
            Err(e) => {
                if let (Some(only), []) = (next.pop(), &next[..]) {
                    let _ = only.answer.send(Err(e));
                }
            }
        }
    }

    async fn settle_all(&self, calls: &[&SettleCall]) -> Result<ScriptReply, Error> {
        let config = &self.inner.config;
        let mut call =
            self.call(&scripts::SETTLE).arg(millis(config.report_ttl)).arg(millis(config.done_ttl));
        for settle in calls {
            for key in &settle.keys {
                call = call.key(key);
            }
            call = call.arg(&settle.args);
        }
        call.reply().await
    }
}
