//! How far the ceilings over all workers are used up, and which of them holds jobs up.
//!
//! It costs the same however many jobs wait: the hosts with a one are indexed by its length, and only the longest are
//! looked at.

use serde::Serialize;

use crate::Queue;
use crate::error::Error;

/// Hosts that are named: more is a list, not a glance.
const HOSTS_MAX: usize = 10;

/// The ceilings, and who waits below them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ceilings {
    /// Most jobs in workers' in_flight at a time; 0 is any number.
    pub in_flight_max: u32,
    /// Most of them at one host; 0 is any number.
    pub host_in_flight_max: u32,
    /// Hosts that jobs wait for.
    pub hosts_full: u64,
    /// The ten longest of their waiters, the longest first.
    pub longest_host_waiters: Vec<HostWaiters>,
}

/// A host that jobs wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostWaiters {
    /// The host.
    pub host: String,
    /// Jobs that were let in.
    pub in_flight: u64,
    /// Jobs that wait to be.
    pub waiting: u64,
}

impl Queue {
    pub(crate) async fn ceilings(&self) -> Result<Ceilings, Error> {
        let (keys, config) = (&self.inner.keys, &self.inner.config);
        let mut pipe = redis::pipe();
        pipe.cmd("ZCARD").arg(keys.waiting_hosts());
        pipe.cmd("ZREVRANGE").arg(keys.waiting_hosts()).arg(0).arg(HOSTS_MAX - 1).arg("WITHSCORES");
        let (hosts_full, waiters): (u64, Vec<(String, u64)>) = self.ask(&pipe).await?;
        let mut inside: Vec<u64> = Vec::new();
        if !waiters.is_empty() {
            let mut pipe = redis::pipe();
            for (host, _) in &waiters {
                pipe.cmd("SCARD").arg(keys.host(host));
            }
            inside = self.ask(&pipe).await?;
        }
        let one = |((host, waiting), in_flight)| HostWaiters { host, in_flight, waiting };
        Ok(Ceilings {
            in_flight_max: config.in_flight_max,
            host_in_flight_max: config.host_in_flight_max,
            hosts_full,
            longest_host_waiters: waiters.into_iter().zip(inside).map(one).collect(),
        })
    }
}
