//! The hosts that hold jobs up: jobs wait for them, they rest, or what is being fetched from them takes long.
//!
//! The cost does not depend on the number of jobs: the hosts with the most waiters and those that rest are known from
//! indexes, and of the jobs in flight only those that have been fetched longest are asked for their hosts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Queue;
use crate::error::Error;
use crate::inspect::ceilings::{Ceilings, HostWaiters};
use crate::inspect::hosts::{RestingHost, RestingHosts};
use crate::inspect::parts::{Reads, UnreadableKey};
use crate::inspect::workers::WorkerStatus;
use wm_job::failure::Stage;

/// Most hosts listed.
const HOSTS_MAX: usize = 10;
/// Jobs whose hosts are asked, those that are fetched longest: more than one host may have in flight by default, so that
/// a second one that hangs is seen too.
const JOBS_LOOK: usize = 200;
/// Hosts whose waiters are added up; a queue with more has its smallest left out.
const WAITED_FOR_LOOK: usize = 1000;
/// Time after which a fetch hangs: twice what a slow archive needs for a body.
const HANGS_MS: u64 = 10_000;

/// How the name of a worker's share of new hosts begins, where a host's name would stand.
const NEW_HOSTS: &str = "~new:";

/// A host that holds jobs up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLoad {
    /// Host name without port.
    pub host: String,
    /// Jobs with a start permit at it.
    pub in_flight: u64,
    /// Jobs that wait for it.
    pub waiting: u64,
    /// Time since the start of the fetch that lasts longest, of a job that visits it; in milliseconds.
    pub oldest_fetch_ms: Option<u64>,
    /// Its rest, while it has one.
    pub resting: Option<RestingHost>,
}

impl HostLoad {
    /// True where a fetch takes far longer than it should.
    pub fn hangs(&self) -> bool {
        self.oldest_fetch_ms.is_some_and(|ms| ms >= HANGS_MS)
    }

    /// Jobs that it holds up.
    pub fn held_up(&self) -> u64 {
        self.waiting + if self.hangs() { self.in_flight } else { 0 }
    }
}

impl Queue {
    /// The hosts that hold up most jobs, most first.
    pub(crate) async fn host_loads(
        &self,
        ceilings: &Ceilings,
        resting: &RestingHosts,
        workers: &[WorkerStatus],
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Vec<HostLoad>, Error> {
        let mut loads: BTreeMap<String, HostLoad> = BTreeMap::new();
        for HostWaiters { host, waiting, .. } in &ceilings.longest_host_waiters {
            loads.entry(host.clone()).or_default().waiting = *waiting;
        }
        for one in &resting.most_waited_for {
            let load = loads.entry(one.host.clone()).or_default();
            (load.waiting, load.resting) = (one.waiting, Some(one.clone()));
        }
        for (hosts, stage_ms) in self.longest_fetches(workers, unreadable).await? {
            for host in hosts.split_whitespace() {
                let load = loads.entry(host.to_owned()).or_default();
                load.oldest_fetch_ms = load.oldest_fetch_ms.max(Some(stage_ms));
            }
        }
        loads.retain(|host, load| {
            let holds_up = load.waiting > 0 || load.resting.is_some() || load.hangs();
            holds_up && !host.starts_with(NEW_HOSTS)
        });
        let mut reads = Reads::default();
        for host in loads.keys() {
            reads.add(&["SCARD"], &self.inner.keys.host(host), &[]);
        }
        let mut replies = self.read(reads).await?;
        let with_name = |(host, load)| HostLoad { host, in_flight: replies.next(), ..load };
        let mut loads: Vec<HostLoad> = loads.into_iter().map(with_name).collect();
        unreadable.append(&mut replies.unreadable);
        loads.sort_by_key(|load| std::cmp::Reverse((load.held_up(), load.oldest_fetch_ms)));
        loads.truncate(HOSTS_MAX);
        Ok(loads)
    }

    /// The hosts of the jobs that are fetched longest, and for how long they are.
    async fn longest_fetches(
        &self,
        workers: &[WorkerStatus],
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Vec<(String, u64)>, Error> {
        let running =
            workers.iter().filter(|worker| !worker.silent).flat_map(|worker| &worker.info.in_flight);
        let mut fetched: Vec<_> = running.filter(|job| job.stage == Stage::Fetch).collect();
        fetched.sort_by_key(|job| std::cmp::Reverse(job.stage_ms));
        fetched.truncate(JOBS_LOOK);
        let mut reads = Reads::default();
        for job in &fetched {
            reads.add(&["HGET"], &self.inner.keys.job(&job.id), &["hosts"]);
        }
        let mut replies = self.read(reads).await?;
        let found = fetched.iter().map(|job| (replies.next::<String>(), job.stage_ms)).collect();
        unreadable.append(&mut replies.unreadable);
        Ok(found)
    }

    /// Jobs that wait for a host, over all hosts.
    pub(crate) async fn waiting_for_hosts(&self, unreadable: &mut Vec<UnreadableKey>) -> Result<u64, Error> {
        let mut reads = Reads::default();
        let last = (WAITED_FOR_LOOK - 1).to_string();
        reads.add(&["ZREVRANGE"], &self.inner.keys.waiting_hosts(), &["0", &last, "WITHSCORES"]);
        reads.add_plain("TIME");
        let mut replies = self.read(reads).await?;
        let waiting: Vec<(String, u64)> = replies.next();
        unreadable.append(&mut replies.unreadable);
        Ok(waiting.iter().map(|(_, waiting)| waiting).sum())
    }
}
