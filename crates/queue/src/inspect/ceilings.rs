//! Use of the ceilings that apply over all workers, and the hosts that jobs wait for.
//!
//! The cost does not depend on how many jobs wait: hosts are indexed by their number of waiters, and only
//! those with the most are read.

use serde::Serialize;

use crate::Queue;
use crate::error::Error;

/// Most hosts listed in a status.
const HOSTS_MAX: usize = 10;

/// The ceilings over all workers, and the hosts that jobs wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ceilings {
    /// Most jobs in flight at a time over all workers; 0 is unlimited.
    pub in_flight_max: u32,
    /// Most of them at one host; 0 is unlimited.
    pub host_in_flight_max: u32,
    /// Number of hosts that jobs wait for.
    pub hosts_full: u64,
    /// The ten of them with the most waiters, most first.
    pub longest_host_waiters: Vec<HostWaiters>,
}

/// A host that jobs wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostWaiters {
    /// Host name without port.
    pub host: String,
    /// Jobs with a start permit at it.
    pub in_flight: u64,
    /// Jobs that wait for one.
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
