//! Calls of one script that arrive during another call of it go together in the next one.
//!
//! Invariant: each caller gets its own answer. When a call for several fails, each retries on its own, so that one
//! job's error does not delay another; so what goes into a batch can be repeated.
//!
//! # Why
//! The call costs Redis more than the job in it. A caller never waits for a batch to fill: it starts a call when
//! none is running, and otherwise joins the next. It only lets those go first that can run already: the task that was
//! given the slot of a job that is settled now, or those of the jobs of the same claim.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::Queue;
use crate::error::Error;

/// Most jobs in one call: about 2 ms of Redis time.
const MOST: usize = 100;
/// Most bytes of arguments in one call, unless it has only one job: what Redis reads within a millisecond, and may
/// hold beyond `maxmemory` for that long.
const MOST_BYTES: usize = 1 << 20;

/// One job's part of a call.
pub(crate) trait Batched: Sized + Send + Sync {
    /// What its caller hears.
    type Reply: Send;

    /// Bytes of its arguments, where these may be many.
    fn bytes(&self) -> usize;

    /// Those of its kind that wait.
    fn batcher(queue: &Queue) -> &Batcher<Self>;

    /// Makes one call for all of `batch`; one reply for each, in their order.
    fn call(queue: &Queue, batch: &[&Self]) -> impl Future<Output = Result<Vec<Self::Reply>, Error>> + Send;
}

/// A caller that waits for a call, and the channel for its reply.
struct Waiting<B: Batched> {
    part: Arc<B>,
    reply: oneshot::Sender<Result<B::Reply, Error>>,
}

/// The callers that wait; holding `turn` is the right to make a call.
pub(crate) struct Batcher<B: Batched> {
    waiting: Mutex<Vec<Waiting<B>>>,
    turn: tokio::sync::Mutex<()>,
}

impl<B: Batched> Default for Batcher<B> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }
}

impl<B: Batched> Batcher<B> {
    /// Removes and returns the next parts that fit into one call; drops those whose caller is gone.
    fn next(&self) -> Vec<Waiting<B>> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|one| !one.reply.is_closed());
        let mut bytes = 0;
        let fit = waiting.iter().take(MOST).enumerate().take_while(|(at, one)| {
            bytes += one.part.bytes();
            *at == 0 || bytes <= MOST_BYTES
        });
        let fit = fit.count();
        waiting.drain(..fit).collect()
    }
}

impl Queue {
    /// Carries out `part` in one call with the others of its kind that wait.
    pub(crate) async fn in_batch<B: Batched>(&self, part: B) -> Result<B::Reply, Error> {
        let batcher = B::batcher(self);
        let part = Arc::new(part);
        let (reply, mut replied) = oneshot::channel();
        batcher.waiting.lock().push(Waiting { part: Arc::clone(&part), reply });
        loop {
            tokio::select! {
                biased;
                reply = &mut replied => match reply {
                    Ok(reply) => return reply,
                    // The shared call failed or was dropped: retry alone, to get this job's own reply.
                    Err(_) => return self.call_alone(&*part).await,
                },
                _turn = batcher.turn.lock() => {
                    tokio::task::yield_now().await;
                    self.call_next(batcher).await;
                }
            }
        }
    }

    async fn call_alone<B: Batched>(&self, part: &B) -> Result<B::Reply, Error> {
        let reply = B::call(self, &[part]).await?.pop();
        reply.ok_or_else(|| Error::Reply { script: "batch", reply: "no reply".to_owned() })
    }

    /// Makes one call for those that wait, if any.
    async fn call_next<B: Batched>(&self, batcher: &Batcher<B>) {
        let mut next = batcher.next();
        if next.is_empty() {
            return;
        }
        let parts: Vec<&B> = next.iter().map(|one| &*one.part).collect();
        match B::call(self, &parts).await {
            Ok(replies) => {
                for (one, reply) in next.into_iter().zip(replies) {
                    let _ = one.reply.send(Ok(reply));
                }
            }
            // The error of a single part is returned to it; of several, each channel closes and each retries alone.
            Err(e) => {
                if let (Some(only), []) = (next.pop(), &next[..]) {
                    let _ = only.reply.send(Err(e));
                }
            }
        }
    }
}
