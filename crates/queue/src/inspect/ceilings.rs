//! Use of the ceilings that apply over all workers, and the hosts that jobs wait for.
//!
//! The cost does not depend on how many jobs wait: hosts are indexed by their number of waiters, and only
//! those with the most are read.

use serde::{Deserialize, Serialize};

use crate::Queue;
use crate::error::Error;
use crate::inspect::parts::{Reads, UnreadableKey};

/// Most hosts listed in a status.
const HOSTS_MAX: usize = 10;

/// The ceilings over all workers, and the hosts that jobs wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostWaiters {
    /// Host name without port.
    pub host: String,
    /// Jobs with a start permit at it.
    pub in_flight: u64,
    /// Jobs that wait for one.
    pub waiting: u64,
}

impl Queue {
    pub(crate) async fn ceilings(
        &self,
        in_flight_max: u32,
        host_in_flight_max: u32,
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Ceilings, Error> {
        let keys = &self.inner.keys;
        let mut reads = Reads::default();
        reads.add(&["ZCARD"], &keys.waiting_hosts(), &[]);
        let last = (HOSTS_MAX - 1).to_string();
        reads.add(&["ZREVRANGE"], &keys.waiting_hosts(), &["0", &last, "WITHSCORES"]);
        reads.add_plain("TIME");
        let mut replies = self.read(reads).await?;
        let (hosts_full, waiters): (u64, Vec<(String, u64)>) = (replies.next(), replies.next());
        unreadable.append(&mut replies.unreadable);
        let mut reads = Reads::default();
        for (host, _) in &waiters {
            reads.add(&["SCARD"], &keys.host(host), &[]);
        }
        let mut replies = self.read(reads).await?;
        let mut one = |(host, waiting)| HostWaiters { host, in_flight: replies.next(), waiting };
        let longest_host_waiters = waiters.into_iter().map(&mut one).collect();
        Ok(Ceilings { in_flight_max, host_in_flight_max, hosts_full, longest_host_waiters })
    }
}
