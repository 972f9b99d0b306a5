//! Work that one worker, the looker, does for the whole queue: admit jobs, promote due ones, reclaim expired leases,
//! evict what is beyond its cap, publish what it sees.
//!
//! Each step is one bounded script; an error skips one round. Nothing here interprets a job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::Shared;
use super::redis_backoff::RedisBackoff;
use crate::queue::{self, Adopter, Ingested, ListState, Looked, Server, Status, Upkeep, WorkerId};
use crate::telemetry::sanitize;

/// How often adopted lists are checked for workers of another system: these change with a deploy, not by the
/// second.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(10);
/// How often a worker asks whether there is a looker, and what it saw.
const LOOK_AT_LOOKER_EVERY: Duration = Duration::from_secs(2);
/// How often an idle looker renews its turn, which lasts 4 s after a look, and how often it looks at
/// everything: memory may be filled by others.
const IDLE_HOLD_EVERY: Duration = Duration::from_secs(3);
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(40);
/// A looker that has published nothing for so long is gone, whatever its key says: two looks of an idle one.
const LOOKER_SILENT: Duration = Duration::from_secs(90);
/// The longest a look at the inbox waits for a payload: it is woken by one.
const INBOX_WAIT: Duration = Duration::from_secs(10);
/// Looks that tell how fast Redis fills.
const GROWTH_WINDOW: Duration = Duration::from_secs(60);
/// Length limit in bytes for another system's worker name in a log line.
const WORKER_BYTES: usize = 200;

/// Whether this worker is the looker: the one that looks after the queue for all.
#[derive(Debug)]
pub(super) struct LookerRole {
    is_looker: watch::Sender<bool>,
    /// The queue is empty no more.
    woken: Notify,
    /// This worker has seen the queue, or made it: its keys may not go any more.
    saw_queue: AtomicBool,
}

impl Default for LookerRole {
    fn default() -> Self {
        Self { is_looker: watch::channel(false).0, woken: Notify::new(), saw_queue: AtomicBool::new(false) }
    }
}

impl LookerRole {
    fn set(&self, is_looker: bool) {
        self.is_looker.send_if_modified(|now| std::mem::replace(now, is_looker) != is_looker);
    }

    /// True while this worker is the looker.
    pub(super) fn is_looker(&self) -> bool {
        *self.is_looker.borrow()
    }

    /// True once this worker has seen the queue, or made it.
    pub(super) fn knows_queue(&self) -> bool {
        self.saw_queue.load(Ordering::Relaxed)
    }

    /// Records that it has.
    pub(super) fn saw_queue(&self) {
        self.saw_queue.store(true, Ordering::Relaxed);
    }

    /// Waits until this worker is the looker.
    async fn taken(&self) {
        // The sender lives as long as the worker, so this cannot fail.
        let _ = self.is_looker.subscribe().wait_for(|is_looker| *is_looker).await;
    }
}

/// While this worker is the looker, empties adopted lists into the inbox and the inbox into the queue, without a pause
/// while it finds full batches.
pub(super) async fn ingest(shared: Arc<Shared>) {
    let queue = &shared.worker.queue;
    let mut adopter = queue.adopter(LOOK_AROUND_EVERY);
    let mut backoff = RedisBackoff::default();
    loop {
        if !shared.worker.until_empty {
            shared.looker.taken().await;
        }
        let moved = adopt(&shared, &mut adopter).await;
        match queue.ingest().await {
            Ok(ingested) => {
                backoff.reset();
                ingested.buried.iter().for_each(|buried| shared.observer.buried(buried));
                if ingested.admitted + ingested.duplicates + ingested.already_done > 0 {
                    let Ingested { admitted, duplicates, already_done, .. } = ingested;
                    debug!(admitted, duplicates, already_done, "ingested");
                }
                if ingested.admitted > 0 {
                    shared.looker.woken.notify_one();
                }
                let every = shared.worker.config.ingest_every;
                match ingested {
                    Ingested { full: true, .. } => pause(every).await,
                    Ingested { more: true, .. } => {}
                    _ if moved => {}
                    _ if queue.adopts() => pause(every).await,
                    _ => queue.wait_for_inbox(INBOX_WAIT).await,
                }
            }
            Err(e) => {
                shared.observer.redis_failed(&e);
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Moves payloads from adopted lists to the inbox; true if any were moved.
async fn adopt(shared: &Shared, adopter: &mut Adopter) -> bool {
    let adopted = match adopter.look().await {
        Ok(adopted) => adopted,
        Err(e) => {
            shared.observer.redis_failed(&e);
            return false;
        }
    };
    for (list, state) in &adopted.changed {
        match state {
            ListState::Adopted => info!(list, "adopted: its jobs are moved to the inbox"),
            ListState::Shared(worker) => {
                let worker = sanitize(worker, WORKER_BYTES);
                warn!(
                    list,
                    worker, "adopted beside a live worker: each job goes to the worker that takes it first"
                );
            }
            ListState::Theirs(worker) => {
                let worker = sanitize(worker, WORKER_BYTES);
                warn!(
                    list,
                    worker,
                    "not adopted: this worker is alive on it; stop it, or set queue.adopt_beside_others"
                );
            }
            ListState::Refused(why) => warn!(list, why, "not adopted"),
        }
    }
    shared.adoptable.store(adopted.left, Ordering::Relaxed);
    adopted.moved > 0
}

/// Looks after the queue while this worker is the looker, and otherwise exports what the looker sees.
pub(super) async fn look_after_queue(shared: Arc<Shared>) {
    let mut backoff = RedisBackoff::default();
    let (mut growth, mut others) = (Growth::default(), OthersLooks::default());
    loop {
        match look(&shared, &mut growth, &mut others).await {
            Ok(Pace::Busy) => {
                backoff.reset();
                pause(shared.worker.config.upkeep_every).await;
            }
            Ok(Pace::Idle) => {
                backoff.reset();
                hold_while_idle(&shared).await;
            }
            Ok(Pace::Elsewhere) => {
                backoff.reset();
                pause(LOOK_AT_LOOKER_EVERY).await;
            }
            Err(e) => {
                shared.looker.set(false);
                shared.observer.redis_failed(&e);
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// What a look found, and so how soon to look again.
enum Pace {
    /// This worker is the looker, and there are jobs.
    Busy,
    /// This worker is the looker, and the queue is empty.
    Idle,
    /// Another worker is the looker.
    Elsewhere,
}

async fn look(shared: &Shared, growth: &mut Growth, others: &mut OthersLooks) -> Result<Pace, queue::Error> {
    let (queue, id) = (&shared.worker.queue, &shared.worker.id);
    let (looker, seen) = queue.published().await?;
    if let Some(looker) = looker.filter(|looker| looker != id.as_str()) {
        shared.looker.set(false);
        if others.have_stopped(seen.as_deref(), Instant::now()) {
            warn!(looker, "the looker has published nothing for too long: another worker takes its turn");
            if let Ok(looker) = WorkerId::parse(&looker) {
                queue.stop_looking(&looker).await?;
            }
        }
        let seen = seen.as_deref().and_then(Status::from_glance);
        if let Some(seen) = seen.filter(|_| !shared.observer.was_refused()) {
            shared.observer.look(&seen);
        }
        return Ok(Pace::Elsewhere);
    }
    let mut upkeep = Upkeep::default();
    let looked = queue.look(id, &mut upkeep).await;
    upkeep.buried.iter().for_each(|buried| shared.observer.buried(buried));
    shared.observer.evicted(upkeep.evicted);
    shared.observer.refiled(upkeep.orphans);
    if upkeep.reclaimed > 0 {
        info!(reclaimed = upkeep.reclaimed, "reclaimed expired leases");
    }
    let failed = match looked {
        Ok(Looked::Here) => None,
        Ok(Looked::Elsewhere) => {
            shared.looker.set(false);
            return Ok(Pace::Elsewhere);
        }
        // A Redis that answers is looked at also where it refuses; and what one key refuses, as one of another type,
        // must not end intake: the rest of the queue works.
        Err(queue::Error::Full(_) | queue::Error::Refusing(_)) => None,
        Err(e) if !e.is_transient() => Some(e.to_string()),
        Err(e) => return Err(e),
    };
    shared.looker.set(true);
    shared.check_lost_queue().await?;
    let mut status = queue.glance().await?;
    if status.wrong_types.is_empty() {
        status.wrong_types.extend(failed);
    }
    let write = queue.write_health().await?;
    if let Some(server) = &mut status.server {
        server.write = write;
        status.memory.full_in_ms = growth.full_in(server);
    }
    match queue.publish_glance(&status).await {
        Ok(()) | Err(queue::Error::Full(_) | queue::Error::Refusing(_)) => {}
        Err(e) => return Err(e),
    }
    shared.observer.look(&status);
    shared.check_in(&status).await;
    let empty = status.inbox + status.backlog() + status.in_flight == 0;
    // What was buried since this look's eviction is evicted by the next one.
    let settled = status.dead_filled() <= 1.0 && !upkeep.orphans_suspected;
    Ok(if empty && settled { Pace::Idle } else { Pace::Busy })
}

/// Keeps the turn as looker while the queue stays empty: the inbox has its own waiter, so this looks at little.
async fn hold_while_idle(shared: &Shared) {
    let queue = &shared.worker.queue;
    let end = Instant::now() + IDLE_LOOK_EVERY.min(queue.lease() * 2 / 5);
    while Instant::now() < end {
        tokio::select! {
            () = sleep(IDLE_HOLD_EVERY.min(queue.lease() / 4)) => {}
            () = shared.looker.woken.notified() => return,
        }
        match queue.hold_look(&shared.worker.id).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// What this worker saw of another one's looks. The turn of a dead looker ends by the clock of Redis, so it would last
/// an hour when that clock falls back by an hour.
#[derive(Default)]
struct OthersLooks {
    last: Option<(Option<String>, Instant)>,
}

impl OthersLooks {
    /// Whether what is published has been the same for too long.
    fn have_stopped(&mut self, published: Option<&str>, now: Instant) -> bool {
        match &self.last {
            Some((last, since)) if last.as_deref() == published => {
                let stopped = now.duration_since(*since) > LOOKER_SILENT;
                if stopped {
                    self.last = None;
                }
                stopped
            }
            Some(_) | None => {
                self.last = Some((published.map(str::to_owned), now));
                false
            }
        }
    }
}

/// How fast Redis fills, from the looks of the last minute.
#[derive(Default)]
struct Growth {
    looks: VecDeque<(Instant, u64)>,
}

impl Growth {
    /// Time until `maxmemory`, in milliseconds, if it goes on as in the last minute.
    fn full_in(&mut self, server: &Server) -> Option<u64> {
        let now = Instant::now();
        self.looks.retain(|(at, _)| now.duration_since(*at) <= GROWTH_WINDOW);
        self.looks.push_back((now, server.used_bytes));
        let (first_at, first) = *self.looks.front()?;
        let grown = server.used_bytes.checked_sub(first).filter(|grown| *grown > 0)?;
        let left = server.maxmemory_bytes.checked_sub(server.used_bytes)?;
        let took = now.duration_since(first_at).as_secs_f64();
        (took >= 5.0).then(|| (left as f64 / grown as f64 * took * 1000.0) as u64)
    }
}

/// Between 0.5 and 1.5 times `time`, so that workers do not run in lockstep.
async fn pause(time: Duration) {
    sleep(time.mul_f64(0.5 + fastrand::f64())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_looker_that_publishes_the_same_for_too_long_is_gone_and_one_that_goes_on_is_not() {
        let (mut looks, start) = (OthersLooks::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!looks.have_stopped(Some("1"), start));
        assert!(!looks.have_stopped(Some("1"), after(80)));
        assert!(!looks.have_stopped(Some("2"), after(85)));
        assert!(!looks.have_stopped(Some("2"), after(170)));
        assert!(looks.have_stopped(Some("2"), after(176)));
        assert!(!looks.have_stopped(Some("2"), after(177)), "once");
        assert!(!looks.have_stopped(None, after(178)));
        assert!(looks.have_stopped(None, after(300)), "or nothing at all");
    }
}
