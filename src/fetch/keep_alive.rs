//! Which hosts' connections are kept open between requests.
//!
//! It opens and closes nothing: the fetcher asks before each request and takes the client with or without a
//! pool.
//!
//! Invariant: at any time connections of at most [`MAX_KEPT_HOSTS`] hosts are idle, so at most [`MAX_IDLE`] are.
//!
//! # Why
//! The HTTP client limits idle connections per host, and a name with a wildcard makes hosts for free: the total
//! needs a limit of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::{Position, Url};

/// How long idle connections are kept: fetches at a busy host follow each other within a second, and servers
/// close idle connections after 5 s and more, so that a longer one would often be found closed.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections kept per host. Beside hundreds of fetches few connections are idle at any moment; it is
/// those that one batch of jobs leaves and the next one takes.
pub(super) const MAX_IDLE_PER_HOST: usize = 16;

/// Hosts whose connections are kept: a job's two bodies come from one archive or a few.
const MAX_KEPT_HOSTS: usize = 16;

/// Greatest number of idle connections.
pub(super) const MAX_IDLE: usize = MAX_IDLE_PER_HOST * MAX_KEPT_HOSTS;

/// The hosts whose connections are kept now.
#[derive(Debug, Clone, Default)]
pub(super) struct KeptHosts {
    hosts: Arc<Mutex<HashMap<String, KeptHost>>>,
}

#[derive(Debug)]
struct KeptHost {
    requests: usize,
    last_used: Instant,
}

impl KeptHost {
    /// True if none of its connections can be open any more.
    fn is_over(&self, now: Instant) -> bool {
        self.requests == 0 && now.saturating_duration_since(self.last_used) > IDLE_TIMEOUT
    }
}

/// One request whose connection may be kept; lasts as long as the request and its response.
#[derive(Debug)]
pub(super) struct KeptRequest {
    hosts: Arc<Mutex<HashMap<String, KeptHost>>>,
    origin: String,
}

impl KeptHosts {
    /// A request to this URL's host whose connection may be kept; `None` if enough hosts are kept already.
    pub(super) fn request(&self, url: &Url) -> Option<KeptRequest> {
        let origin = url[..Position::BeforePath].to_owned();
        let now = Instant::now();
        let mut hosts = self.hosts.lock();
        if !hosts.contains_key(&origin) && hosts.len() >= MAX_KEPT_HOSTS {
            hosts.retain(|_, host| !host.is_over(now));
            if hosts.len() >= MAX_KEPT_HOSTS {
                return None;
            }
        }
        hosts.entry(origin.clone()).or_insert(KeptHost { requests: 0, last_used: now }).requests += 1;
        Some(KeptRequest { hosts: Arc::clone(&self.hosts), origin })
    }
}

impl Drop for KeptRequest {
    fn drop(&mut self) {
        if let Some(host) = self.hosts.lock().get_mut(&self.origin) {
            host.requests -= 1;
            host.last_used = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(n: usize) -> Url {
        format!("http://h{n}.test/page?{n}").parse().unwrap()
    }

    #[test]
    fn hosts_without_end_do_not_push_out_those_in_use_and_get_their_turn_afterwards() {
        let kept = KeptHosts::default();
        let requests: Vec<_> = (0..MAX_KEPT_HOSTS).map(|n| kept.request(&url(n)).unwrap()).collect();
        assert!(kept.request(&url(MAX_KEPT_HOSTS)).is_none());
        assert!(kept.request(&url(0)).is_some(), "its connections are kept already");
        drop(requests);
        assert!(kept.request(&url(MAX_KEPT_HOSTS)).is_none(), "their connections are idle");
        let idle_since = Instant::now() - IDLE_TIMEOUT * 2;
        kept.hosts.lock().values_mut().for_each(|host| host.last_used = idle_since);
        assert!(kept.request(&url(MAX_KEPT_HOSTS)).is_some());
        assert_eq!(kept.hosts.lock().len(), 1);
    }
}
