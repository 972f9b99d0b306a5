//! Adopted lists: moves payloads that Sidekiq or Resque clients push to the inbox, while no worker of that
//! system uses the list.
//!
//! Payloads are not decoded here: the inbox accepts every form. Sidekiq's `schedule` set is not adopted; a
//! payload that moves from there to the list is adopted with the rest.
//!
//! Invariant: one script moves the payloads, in order; a list with a live worker of its own system is not
//! touched unless `adopt_beside_others` is set.
//!
//! # Why
//! Checking for foreign workers and moving are separate steps: when a worker starts in between, each payload
//! still goes to exactly one of the two, and the next check stops the adoption. Not in a cluster: the foreign
//! keys are in other slots than the queue's, and a move between slots is not atomic.

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::error::Error;
use crate::intake::admission::BATCH;
use crate::intake::foreign_list::{ForeignList, ForeignSystem};
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// Inbox length at which adoption pauses: ten times what one ingest takes.
const ROOM: usize = 1000;
/// Most foreign workers checked.
const WORKERS_MAX: usize = 1000;
/// Age of its last heartbeat at which Resque itself considers a worker dead.
const RESQUE_SILENT: Duration = Duration::from_secs(300);

/// Whether a foreign list is adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListState {
    /// Its payloads are moved to the inbox.
    Adopted,
    /// Adopted, though this worker of its own system is alive on it.
    Shared(String),
    /// Not adopted: this worker of its own system is alive on it.
    Theirs(String),
    /// Cannot be adopted, for this reason.
    Refused(String),
}

/// Results of one call to [`Adopter::look`].
#[derive(Debug, Default)]
pub struct Adopted {
    /// Payloads moved to the inbox.
    pub moved: u64,
    /// Payloads left in the adopted lists.
    pub left: u64,
    /// Key and new state of each list whose state changed.
    pub changed: Vec<(String, ListState)>,
}

/// Moves payloads from the configured lists, and remembers their state between calls.
#[derive(Debug)]
pub struct Adopter {
    queue: WorkerHandle,
    lists: Vec<(ForeignList, Option<ListState>)>,
    every: Duration,
    looked: Option<Instant>,
}

impl WorkerHandle {
    /// An adopter for the configured lists, which checks for foreign workers at most once per `every`.
    pub fn adopter(&self, every: Duration) -> Adopter {
        let lists = self.inner.config.adopt.iter().map(|list| (list.clone(), None)).collect();
        Adopter { queue: self.clone(), lists, every, looked: None }
    }
}

impl Adopter {
    /// True when no list is configured.
    pub fn is_idle(&self) -> bool {
        self.lists.is_empty()
    }

    /// Moves at most 100 payloads of each list, after checking for foreign workers when that is due.
    ///
    /// # Errors
    /// Those of Redis; earlier payloads may have been moved.
    pub async fn look(&mut self) -> Result<Adopted, Error> {
        let mut adopted = Adopted::default();
        if self.is_idle() {
            return Ok(adopted);
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= self.every) {
            adopted.changed = self.look_around().await?;
            self.looked = Some(Instant::now());
        }
        for (list, state) in &self.lists {
            match state {
                Some(ListState::Adopted | ListState::Shared(_)) => {
                    let (moved, left) = self.queue.adopt(list).await?;
                    adopted.moved += moved;
                    adopted.left += left;
                }
                None | Some(ListState::Theirs(_) | ListState::Refused(_)) => {}
            }
        }
        Ok(adopted)
    }

    async fn look_around(&mut self) -> Result<Vec<(String, ListState)>, Error> {
        let clustered = self.queue.clustered().await?;
        let beside = self.queue.inner.config.adopt_beside_others;
        let mut changed = Vec::new();
        for (list, state) in &mut self.lists {
            let now = match self.queue.unfit(list, clustered).await? {
                Some(why) => ListState::Refused(why),
                None => match self.queue.foreign_worker(list).await? {
                    None => ListState::Adopted,
                    Some(worker) if beside => ListState::Shared(worker),
                    Some(worker) => ListState::Theirs(worker),
                },
            };
            if state.as_ref() != Some(&now) {
                changed.push((list.key.clone(), now.clone()));
                *state = Some(now);
            }
        }
        Ok(changed)
    }
}

impl WorkerHandle {
    /// Moves payloads while the inbox has room; returns how many were moved and how many are left.
    async fn adopt(&self, list: &ForeignList) -> Result<(u64, u64), Error> {
        let oldest = match list.system {
            ForeignSystem::Sidekiq => "RIGHT",
            ForeignSystem::Resque => "LEFT",
        };
        let call = self.call(&scripts::ADOPT).key(list.key.clone()).arg(oldest).arg(BATCH).arg(ROOM);
        let mut reply = call.reply().await?;
        Ok((reply.number()?, reply.number()?))
    }

    async fn clustered(&self) -> Result<bool, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("cluster");
        let (info,): (String,) = self.ask(&pipe).await?;
        Ok(info.contains("cluster_enabled:1"))
    }

    /// Why this key cannot be adopted; None when it can.
    async fn unfit(&self, list: &ForeignList, clustered: bool) -> Result<Option<String>, Error> {
        if clustered {
            // No TYPE call: the reply would be a redirect to another node.
            return Ok(Some("in a Redis cluster this list is in another slot than the queue".to_owned()));
        }
        let mut pipe = redis::pipe();
        pipe.cmd("TYPE").arg(&list.key);
        let (kind,): (String,) = self.ask(&pipe).await?;
        Ok(match kind.as_str() {
            "list" | "none" => None,
            other => Some(format!("its key holds a {other}, not a list")),
        })
    }

    /// A live worker of the list's own system that takes jobs from it.
    async fn foreign_worker(&self, list: &ForeignList) -> Result<Option<String>, Error> {
        match list.system {
            ForeignSystem::Sidekiq => self.sidekiq_process(list).await,
            ForeignSystem::Resque => self.resque_worker(list).await,
        }
    }

    /// A Sidekiq process has a HASH that expires a minute after its last heartbeat; a quiet one takes none.
    async fn sidekiq_process(&self, list: &ForeignList) -> Result<Option<String>, Error> {
        let (namespace, name) = list.parts();
        let mut pipe = redis::pipe();
        pipe.cmd("SRANDMEMBER").arg(format!("{namespace}processes")).arg(WORKERS_MAX);
        let (processes,): (Vec<String>,) = self.ask(&pipe).await?;
        if processes.is_empty() {
            return Ok(None);
        }
        let mut pipe = redis::pipe();
        for process in &processes {
            pipe.cmd("HMGET").arg(format!("{namespace}{process}")).arg(&["info", "quiet"]);
        }
        let rows: Vec<(Option<String>, Option<String>)> = self.ask(&pipe).await?;
        let takes = |(info, quiet): &(Option<String>, Option<String>)| {
            let info: Value =
                info.as_deref().and_then(|info| serde_json::from_str(info).ok()).unwrap_or_default();
            let queues =
                info["queues"].as_array().is_some_and(|queues| queues.iter().any(|queue| queue == name));
            queues && quiet.as_deref() != Some("true")
        };
        Ok(processes.into_iter().zip(rows).find(|(_, row)| takes(row)).map(|(process, _)| process))
    }

    /// A Resque worker is named `host:pid:queue,queue`; a dead one stays listed, without a heartbeat.
    async fn resque_worker(&self, list: &ForeignList) -> Result<Option<String>, Error> {
        let (namespace, name) = list.parts();
        let mut pipe = redis::pipe();
        pipe.cmd("SRANDMEMBER").arg(format!("{namespace}workers")).arg(WORKERS_MAX);
        let (mut workers,): (Vec<String>,) = self.ask(&pipe).await?;
        workers.retain(|worker| resque_takes(worker.rsplit(':').next().unwrap_or_default(), name));
        if workers.is_empty() {
            return Ok(None);
        }
        let mut pipe = redis::pipe();
        pipe.cmd("TIME").cmd("HMGET").arg(format!("{namespace}workers:heartbeat")).arg(&workers);
        let ((seconds, _), heartbeats): ((i64, u64), Vec<Option<String>>) = self.ask(&pipe).await?;
        // Old Resque versions send no heartbeats: their workers count as alive.
        let alive = |heartbeat: &Option<String>| {
            let heartbeat =
                heartbeat.as_deref().and_then(|heartbeat| OffsetDateTime::parse(heartbeat, &Rfc3339).ok());
            heartbeat.is_none_or(|heartbeat| {
                seconds - heartbeat.unix_timestamp() < RESQUE_SILENT.as_secs().cast_signed()
            })
        };
        Ok(workers
            .into_iter()
            .zip(heartbeats)
            .find(|(_, heartbeat)| alive(heartbeat))
            .map(|(worker, _)| worker))
    }
}

/// True when a worker with these queues takes jobs from `name`: each is a name or a pattern with `*`; a `!`
/// in front excludes its matches.
fn resque_takes(queues: &str, name: &str) -> bool {
    let fits = |pattern: &str| match pattern.split_once('*') {
        Some((start, end)) => {
            name.starts_with(start) && name.ends_with(end.rsplit('*').next().unwrap_or_default())
        }
        None => pattern == name,
    };
    let (excluded, taken): (Vec<&str>, Vec<&str>) =
        queues.split(',').partition(|queue| queue.starts_with('!'));
    taken.into_iter().any(fits) && !excluded.into_iter().any(|queue| fits(&queue[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_named_with_its_system_and_its_key() {
        for (text, parts) in [
            ("sidekiq:queue:analysis", ("", "analysis")),
            ("resque:resque:queue:analysis", ("resque:", "analysis")),
            ("sidekiq:my:queue:a:b", ("my:", "a:b")),
        ] {
            let list = ForeignList::try_from(text.to_owned()).unwrap();
            assert_eq!(list.parts(), parts, "{text}");
            assert_eq!(String::from(list), text);
        }
        for text in [
            "",
            "queue:analysis",
            "sidekiq",
            "sidekiq:",
            "sidekiq:analysis",
            "sidekiq:queue:",
            "bull:queue:a",
        ] {
            let refused = ForeignList::try_from(text.to_owned()).unwrap_err();
            assert!(refused.contains(&format!("{text:?}")), "{refused}");
        }
    }

    #[test]
    fn a_resque_worker_takes_what_its_queues_say() {
        for queues in ["analysis", "import,analysis", "*", "ana*", "*sis", "a*s*s"] {
            assert!(resque_takes(queues, "analysis"), "{queues}");
        }
        for queues in ["", "import", "analysis2", "import*", "*,!analysis", "*,!ana*"] {
            assert!(!resque_takes(queues, "analysis"), "{queues}");
        }
    }
}
