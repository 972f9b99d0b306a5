//! Fetches bodies from untrusted hosts: address-checked, bounded, timed, and stored exactly as received.
//!
//! A [`Fetcher`] follows redirects itself, so that every hop is checked like the first: scheme, credentials,
//! address. It never decompresses, decodes or parses a body, keeps no cookies, sends no referer, uses no
//! proxy, and sends no credentials but those that it is given for the first request of a body.
//!
//! Invariant: one call makes at most `redirects + 1` requests, holds at most `max_body` bytes, and ends
//! within `total_timeout`, whatever the peer does; time in which we do not read for want of budget does not
//! count. All pairs together hold at most `memory` bytes, until each lets go of its [`BudgetPermit`].
//!
//! # Why
//! - `Accept-Encoding: identity`: the limit on received bytes is then nearly always the limit on the
//!   document, and the child spends no time on decompressing what was compressed only for the transfer.
//!   Archives that replay a stored encoding do so anyway; it is passed on as a label.
//! - The machine's own root certificates (and `SSL_CERT_FILE`) are trusted, by rustls on ring. A machine
//!   without any can still fetch over http; https then fails as `tls`, with the fix in the message.

mod body;
mod budget;
mod clock;
mod dns;
mod error;
pub mod guard;
mod keep_alive;
mod response;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use reqwest::dns::Resolve;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder, redirect, retry};
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::budget::{BodyBudget, BudgetPermit};
use self::clock::FetchClock;
use self::dns::CachingResolver;
pub use self::error::FetchConfigError;
use self::error::{FetchError, FetchProgress};
use self::guard::{AddressGuard, GuardedResolver, SystemResolver};
use self::keep_alive::{IDLE_TIMEOUT, KeptHosts, KeptRequest, MAX_IDLE, MAX_IDLE_PER_HOST};
use self::response::ResponseAction;
use crate::job::failure::{Failure, FailureKind};
use crate::job::page::{Bodies, Body, PagePair, Side, Version};

/// Pairs of the worst size that the budget holds at least: one by the reserve, and one by the rest, so that
/// fetching goes on while one of them waits for a slot.
const LEAST_PAIRS: u64 = 2;

/// Memory of one connection without what its body takes of the budget: hyper's first buffers, 8 KiB each to
/// read and to write and one chunk of as much that waits to be taken. Over plain HTTP 27 KiB were measured
/// together with the other end of the connection (`tests/fetch/connections.rs`).
const CONNECTION_BYTES: u64 = 24 << 10;

/// Limits of the fetcher and the networks it may reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Limit on name lookup, TCP and TLS together, per hop.
    #[serde(with = "crate::job::duration")]
    pub connect_timeout: Duration,
    /// Limit on one body, from the first lookup to the last byte, over all hops.
    #[serde(with = "crate::job::duration")]
    pub total_timeout: Duration,
    /// Limit on the time from a request to its complete header, per hop.
    #[serde(with = "crate::job::duration")]
    pub header_timeout: Duration,
    /// Least number of bytes a second of a body that is being read; 0 means no limit.
    pub min_rate: ByteSize,
    /// Limit on one body as received, in bytes, content encoding included.
    pub max_body: ByteSize,
    /// Limit on all bodies together that are being read or wait for a slot, in bytes.
    pub memory: ByteSize,
    /// Limit on the number of jobs that are being fetched or wait for a slot.
    pub in_flight_max: NonZeroU32,
    /// Limit on the number of redirects followed.
    pub redirects: u32,
    /// Upper bound for a `Retry-After`.
    #[serde(with = "crate::job::duration")]
    pub max_retry_after: Duration,
    /// Private or special-purpose networks to allow, as CIDRs.
    pub allow_networks: Vec<IpNet>,
    /// The `User-Agent` header; should include a contact address for the archives.
    pub user_agent: String,
}

impl Config {
    /// Checks values that parsed but are invalid; returns each key with a sentence.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if HeaderValue::from_str(&self.user_agent).is_err() {
            problems.push((
                "user_agent",
                "is not a valid header value: write visible ASCII characters only".to_owned(),
            ));
        }
        let least = LEAST_PAIRS.saturating_mul(self.pair_worst_bytes());
        if self.memory.as_u64() < least {
            let what = format!(
                "is less than two pairs of two bodies of fetch.max_body with their read buffers: write {} or more, or \
                 lower fetch.max_body",
                ByteSize::mib(least.div_ceil(1 << 20))
            );
            problems.push(("memory", what));
        }
        problems
    }

    /// The most that one pair takes of the budget.
    fn pair_worst_bytes(&self) -> u64 {
        body::worst_bytes(self.max_body).saturating_mul(2)
    }

    /// Most memory that fetching takes, in bytes: the budget of the bodies, and every connection.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.as_u64().saturating_add(self.connections_max() * CONNECTION_BYTES)
    }

    /// Greatest number of open connections: two for each job, and those that are kept.
    pub(crate) fn connections_max(&self) -> u64 {
        u64::from(self.in_flight_max.get()) * 2 + MAX_IDLE as u64
    }
}

/// Fetches bodies. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Fetcher {
    /// Keeps connections open.
    client: Client,
    /// Closes each connection after its response.
    closing_client: Client,
    kept_hosts: KeptHosts,
    guard: AddressGuard,
    config: Arc<Config>,
    budget: BodyBudget,
    has_roots: bool,
}

/// Both bodies of a pair, and what they hold of the budget.
#[derive(Debug)]
pub struct FetchedPair {
    /// The bodies.
    pub bodies: Bodies,
    /// To be dropped once the bodies are dropped, or are accounted for elsewhere.
    pub held: BudgetPermit,
}

impl Fetcher {
    /// A fetcher that uses the system's resolver.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &Config) -> Result<Self, FetchConfigError> {
        Self::with_resolver(config, Arc::new(SystemResolver::default()))
    }

    /// A fetcher that uses this resolver; the addresses it returns are checked as well.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn with_resolver(config: &Config, resolver: Arc<dyn Resolve>) -> Result<Self, FetchConfigError> {
        // The crypto provider is process-wide; if one is already installed, it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|_| FetchConfigError::UserAgent(config.user_agent.clone()))?;
        let guard = AddressGuard::new(&config.allow_networks);
        let guarded = GuardedResolver { inner: resolver, guard: guard.clone() };
        let resolver = Arc::new(CachingResolver::new(guarded));
        let builder = |max_idle| {
            builder(config, Arc::clone(&resolver)).user_agent(agent.clone()).pool_max_idle_per_host(max_idle)
        };
        let (client, has_roots) = match builder(MAX_IDLE_PER_HOST).build() {
            Ok(client) => (client, true),
            Err(e) if error::is_tls(&e) => (builder(MAX_IDLE_PER_HOST).tls_certs_only([]).build()?, false),
            Err(e) => return Err(e.into()),
        };
        let closing_client = match has_roots {
            true => builder(0).build()?,
            false => builder(0).tls_certs_only([]).build()?,
        };
        let budget = BodyBudget::new(config.memory.as_u64(), config.pair_worst_bytes());
        let kept_hosts = KeptHosts::default();
        let config = Arc::new(config.clone());
        Ok(Self { client, closing_client, kept_hosts, guard, config, budget, has_roots })
    }

    /// True if the machine has root certificates, without which no https body can be fetched.
    pub fn has_roots(&self) -> bool {
        self.has_roots
    }

    /// Time limit on one body, and so on both of a pair, which are fetched concurrently.
    pub fn total_timeout(&self) -> Duration {
        self.config.total_timeout
    }

    /// The budget that all pairs of this fetcher share.
    pub fn budget(&self) -> &BodyBudget {
        &self.budget
    }

    /// Fetches both bodies concurrently; if one fails, the other is abandoned.
    ///
    /// # Errors
    /// The first failure, with its side and the host of the hop that failed.
    pub async fn pair(&self, pair: &PagePair) -> Result<FetchedPair, Failure> {
        self.pair_with(pair, &Default::default()).await
    }

    /// The same with further headers: each side's `headers`, older first, go
    /// along with its first request and with no redirect.
    ///
    /// # Errors
    /// The same; `api_refused` where an answer refuses what the headers say.
    pub async fn pair_with(&self, pair: &PagePair, headers: &[HeaderMap; 2]) -> Result<FetchedPair, Failure> {
        let held = self.budget.open();
        let side = async |side: Side, version: &Version, headers: &HeaderMap| {
            let body = self.fetch(&version.body_url, headers, &held);
            body.await.map_err(|failure| failure.on(side))
        };
        let [of_from, of_to] = headers;
        let (from, to) =
            tokio::try_join!(side(Side::From, &pair.from, of_from), side(Side::To, &pair.to, of_to))?;
        Ok(FetchedPair { bodies: Bodies { from, to }, held })
    }

    /// Fetches one body, following redirects. It counts in the budget only while it is fetched.
    ///
    /// # Errors
    /// A kind of the fetch stage, with the host of the hop that failed.
    pub async fn body(&self, url: &Url) -> Result<Body, Failure> {
        self.fetch(url, &HeaderMap::new(), &self.budget.open()).await
    }

    async fn fetch(&self, url: &Url, headers: &HeaderMap, permit: &BudgetPermit) -> Result<Body, Failure> {
        let mut progress = FetchProgress::at(url);
        let fetched = self.follow(url, headers, permit, &mut progress).await;
        fetched.map_err(|error| error.at(&progress, &self.config))
    }

    fn client_for(&self, kept: Option<&KeptRequest>) -> &Client {
        match kept {
            Some(_) => &self.client,
            None => &self.closing_client,
        }
    }

    async fn follow(
        &self,
        url: &Url,
        headers: &HeaderMap,
        permit: &BudgetPermit,
        progress: &mut FetchProgress,
    ) -> Result<Body, FetchError> {
        let config = &self.config;
        let mut clock =
            FetchClock::start(config.total_timeout, config.header_timeout, config.min_rate.as_u64());
        let (mut here, mut headers) = (url.clone(), headers.clone());
        for _ in 0..=config.redirects {
            *progress = FetchProgress::at(&here);
            response::check_url(&here, &self.guard)?;
            let kept = self.kept_hosts.request(&here);
            let is_signed = !headers.is_empty();
            let request =
                self.client_for(kept.as_ref()).get(here.clone()).headers(std::mem::take(&mut headers));
            let sent = clock.header(request.send()).await?;
            let response = sent.map_err(|e| error::request_failure(&e, &here, self.has_roots))?;
            if is_signed && matches!(response.status().as_u16(), 401 | 403) {
                let detail =
                    format!("{} answered {} to our login", error::display_url(&here), response.status());
                return Err(Failure::new(FailureKind::ApiRefused, detail).into());
            }
            match response::classify(&response, &here, config.max_retry_after)? {
                ResponseAction::Content => {
                    return body::read(response, config.max_body, permit, &mut clock, progress).await;
                }
                ResponseAction::Redirect(next) => here = next,
            }
        }
        let detail = format!(
            "{} redirects more than {} times, at last to {}",
            error::display_url(url),
            config.redirects,
            error::display_url(&here)
        );
        Err(Failure::new(FailureKind::TooManyRedirects, detail).into())
    }
}

fn builder(config: &Config, resolver: Arc<CachingResolver>) -> ClientBuilder {
    let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    Client::builder()
        .dns_resolver(resolver)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .default_headers(headers)
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
}
