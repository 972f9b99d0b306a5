//! What the fetcher does to real sockets, and what real sockets can do to it.
//!
//! Every other side here is a small server of this file's [`http_server`] on loopback, which the fetcher may only reach
//! because a test lists its network. Host names are resolved by [`FakeResolver`]; no packet leaves the machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bodies;
mod connections;
mod http_server;
mod redirects;
mod ssrf;
mod tls;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytesize::ByteSize;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use wm_analyzer::fetch::{Config, Fetcher};

/// Long enough for a loaded machine, short enough to notice.
const TEST_TIMEOUT: Duration = Duration::from_secs(10);

fn config(allowed: &[&str]) -> Config {
    Config {
        connect_timeout: TEST_TIMEOUT,
        total_timeout: TEST_TIMEOUT,
        header_timeout: TEST_TIMEOUT,
        min_rate: ByteSize::kib(1),
        max_body: ByteSize::kib(64),
        memory: ByteSize::mib(4),
        in_flight_max: NonZeroU32::new(512).unwrap(),
        redirects: 5,
        max_retry_after: Duration::from_secs(3_600),
        allow_networks: allowed.iter().map(|network| network.parse().unwrap()).collect(),
        user_agent: "wm-analyzer-test/1".to_owned(),
    }
}

/// A fetcher that may ask loopback.
fn fetcher() -> Fetcher {
    Fetcher::new(&config(&["127.0.0.0/8"])).unwrap()
}

/// A resolver whose answers are written down: each name's answers in turn, the last of them for ever.
#[derive(Default)]
struct FakeResolver(Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>);

impl FakeResolver {
    /// What `name` resolves to the first time, the second time, and so on.
    fn with(self, name: &str, answers: &[&[IpAddr]]) -> Self {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), answers);
        self
    }

    fn shared(self) -> Arc<dyn Resolve> {
        Arc::new(self)
    }
}

impl Resolve for FakeResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let mut names = self.0.lock().unwrap();
        let answer = names.get_mut(name.as_str()).and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        Box::pin(async move {
            let found = answer.ok_or("no such name")?;
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
