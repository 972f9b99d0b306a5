//! Starting a delivery: its start permits, requested once its versions are known and before their hosts are
//! contacted. Requests that arrive during one call go together in the next.
//!
//! Two things are known only then. Its *content*: one that crashed a worker before runs exclusively, under
//! whatever id it is enqueued again. And its *hosts*: each has a ceiling, over all workers of the queue.

use std::sync::atomic::Ordering;

use crate::BUILD;
use crate::Queue;
use crate::error::Error;
use crate::ids::LeaseRef;
use crate::lease::batch::{Batched, Batcher};
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::failure::FailureKind;
use wm_job::page::{PagePair, Version};
use wm_job::text::sha256_hex;

/// The longest DNS name: a longer one cannot be a host, so it needs no permit.
const HOST_MAX_BYTES: usize = 253;

/// Whether a delivery may start.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPermit {
    /// It may start. It holds a permit at each of its hosts until its lease ends, settled or not.
    Granted,
    /// The lease was lost: stop, the job can no longer be settled.
    Lost,
    /// This content crashed a worker before: it must run exclusively.
    Suspect,
    /// This host is at its ceiling, or rests.
    HostFull {
        /// Host name without port, as in the URL; or the name of this worker's share of new hosts.
        host: String,
    },
    /// This host rests after failures, and the job has waited for it for a week: settle it as failed by the last of
    /// these, so that it ends.
    HostFails {
        /// Host name without port.
        host: String,
        /// The kind of its last failure.
        kind: FailureKind,
    },
}

/// One job for `start.lua`.
#[derive(Debug)]
pub(crate) struct StartCall {
    lease: LeaseRef,
    content: String,
    /// A comparison with the page's earliest version would be this one.
    without_follow_up: bool,
    /// At most two, each at most [`HOST_MAX_BYTES`] long.
    hosts: Vec<String>,
}

impl Batched for StartCall {
    type Reply = StartPermit;

    fn bytes(&self) -> usize {
        0
    }

    fn batcher(queue: &Queue) -> &Batcher<Self> {
        &queue.inner.start_calls
    }

    async fn call(queue: &Queue, batch: &[&Self]) -> Result<Vec<StartPermit>, Error> {
        let keys = &queue.inner.keys;
        let mut call =
            queue.call(&scripts::START).arg(BUILD).arg(queue.inner.new_hosts.load(Ordering::Relaxed));
        for Self { lease, content, without_follow_up, hosts } in batch {
            call = call.key(keys.job(&lease.id)).key(keys.suspect(content));
            call = call.arg(&[lease.id.as_str(), &lease.token, content]);
            call = call.arg(u8::from(*without_follow_up)).arg(hosts.len());
            for host in hosts {
                call = call.key(keys.host(host)).arg(host);
            }
        }
        let mut reply = call.reply().await?;
        let mut permits = Vec::with_capacity(batch.len());
        for _ in batch {
            permits.push(match reply.text()?.as_str() {
                "started" => StartPermit::Granted,
                "lost" => StartPermit::Lost,
                "suspect" => StartPermit::Suspect,
                "full" => StartPermit::HostFull { host: reply.text()? },
                "failing" => {
                    let (host, kind) = (reply.text()?, reply.text()?);
                    StartPermit::HostFails {
                        host,
                        kind: FailureKind::parse(&kind).unwrap_or(FailureKind::Connect),
                    }
                }
                other => return Err(reply.unexpected(other)),
            });
        }
        Ok(permits)
    }
}

impl WorkerHandle {
    /// Requests start permits at the hosts of `pair`, and renews the lease. Unless granted, settle the
    /// delivery as postponed for the reason returned; the job becomes claimable when a permit is released.
    ///
    /// # Errors
    /// Those of Redis; permits may have been taken, and settling releases them.
    pub async fn start(&self, lease: &LeaseRef, pair: &PagePair) -> Result<StartPermit, Error> {
        let hosts = if self.looks_at_hosts() { hosts(pair) } else { Vec::new() };
        let (content, without_follow_up) = (content_name(pair), pair.from_is_earliest);
        self.in_batch(StartCall { lease: lease.clone(), content, without_follow_up, hosts }).await
    }
}

impl WorkerHandle {
    /// Sets how many jobs at new hosts (those without a success in the last five minutes) this worker may have in
    /// flight: half of its fetch permits, so that the other half is for hosts that answer. 0, as at first, is any
    /// number.
    pub fn set_new_hosts_max(&self, most: u32) {
        self.inner.new_hosts.store(most, Ordering::Relaxed);
    }

    /// Whether anything depends on the hosts of a job.
    fn looks_at_hosts(&self) -> bool {
        let config = &self.inner.config;
        let queue_wide = [config.host_in_flight_max, config.new_host_in_flight_max, config.host_failures_max];
        queue_wide != [0; 3] || self.inner.new_hosts.load(Ordering::Relaxed) != 0
    }
}

/// SHA-256 of the two contents to compare, whatever their uuids.
fn content_name(pair: &PagePair) -> String {
    sha256_hex(format!("{}\n{}", content_of(&pair.from), content_of(&pair.to)).as_bytes())
}

/// Identifies a body by its hash or, where none was recorded, by its URL: each capture has its own URL, and a
/// capture that is imported again gets a new uuid but keeps its URL.
fn content_of(version: &Version) -> String {
    match &version.body_hash {
        Some(hash) if !hash.is_empty() => format!("hash:{}", hash.to_ascii_lowercase()),
        _ => format!("url:{}", version.body_url),
    }
}

/// The hosts to visit, sorted and without duplicates.
fn hosts(pair: &PagePair) -> Vec<String> {
    let name = |version: &Version| version.body_url.host_str().map(str::to_owned);
    let mut hosts: Vec<_> = pair.sides().into_iter().filter_map(|(_, version)| name(version)).collect();
    hosts.retain(|host| host.len() <= HOST_MAX_BYTES);
    hosts.sort();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;
    use uuid::Uuid;

    fn version(url: &str, hash: Option<&str>) -> Version {
        let body_hash = hash.map(str::to_owned);
        Version { body_hash, ..Version::at(Uuid::new_v4(), Url::parse(url).unwrap()) }
    }

    fn pair(from: Version, to: Version) -> PagePair {
        PagePair { page: None, from, to, from_is_earliest: false }
    }

    #[test]
    fn content_is_known_by_hash_else_by_address_and_never_by_uuid() {
        let a = || version("http://a.test/1", Some("AB"));
        let moved = || version("http://mirror.test/other", Some("ab"));
        let bare = || version("http://a.test/1", None);
        let b = || version("http://b.test/2", Some("cd"));
        let name = |from, to| content_name(&pair(from, to));
        assert_eq!(name(a(), b()), name(moved(), b()), "the same bytes at another place");
        assert_eq!(name(bare(), b()), name(bare(), b()), "the same place under another uuid");
        assert_ne!(name(bare(), b()), name(version("http://a.test/2", None), b()));
        assert_ne!(name(a(), b()), name(b(), a()), "a pair has a direction");
        assert_eq!(name(bare(), b()), name(version("http://a.test/1", Some("")), b()), "no hash is no name");
    }

    #[test]
    fn hosts_are_named_once_and_in_one_order() {
        let of = |a: &str, b: &str| hosts(&pair(version(a, None), version(b, None)));
        assert_eq!(of("http://b.test/", "https://A.test:8443/"), ["a.test", "b.test"]);
        assert_eq!(of("http://b.test/1", "http://b.test:81/2"), ["b.test"]);
        assert_eq!(of(&format!("http://{}/", "x".repeat(254)), "http://[::1]/"), ["[::1]"]);
    }
}
