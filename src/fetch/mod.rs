//! Fetching bodies from hostile places: guarded, capped, timed, and exactly as they came.
//!
//! A [`Fetcher`] follows redirects by hand, so that every hop is judged like the first: scheme, credentials, address.
//! It never decompresses, decodes or looks into a body, keeps no cookie, sends no referer, asks no proxy, and carries
//! nobody's credentials.
//!
//! Invariant: one call makes at most `redirects + 1` requests, holds at most `max_body` bytes, and ends within
//! `total_timeout`, whatever the other side does.
//!
//! # Why
//! - `Accept-Encoding: identity`: the cap on the wire is then as good as always the cap on the document, and no time of
//!   the child goes into undoing what was done for our sake. Archives that replay a stored encoding do so anyway;
//!   it travels on as a label.
//! - The machine's own root certificates (and `SSL_CERT_FILE`) are trusted, by rustls on ring. A machine without any
//!   can still fetch over http; https then fails as `tls` with the way out in its message.

mod body;
mod error;
pub mod guard;
mod response;

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use reqwest::dns::Resolve;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder, redirect, retry};
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::error::FetchConfigError;
use self::error::FetchProgress;
use self::guard::{AddressGuard, GuardedResolver, SystemResolver};
use self::response::ResponseAction;
use crate::job::failure::{Failure, FailureKind};
use crate::job::page::{Bodies, Body, PagePair, Side, Version};

/// Idle connections are kept this long: the next job's bodies come from the same archive as a rule, and a descriptor
/// costs more than a handshake once the archive has changed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections to one host: both sides of a pair.
const MAX_IDLE_PER_HOST: usize = 2;

/// What the fetcher may spend, and where it may go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name lookup, TCP and TLS together, of each hop.
    #[serde(with = "crate::job::duration")]
    pub connect_timeout: Duration,
    /// Everything from the first lookup to the last byte, over all hops.
    #[serde(with = "crate::job::duration")]
    pub total_timeout: Duration,
    /// Bytes of one body as they come over the wire, content encoding and all.
    pub max_body: ByteSize,
    /// Redirects that are followed.
    pub redirects: u32,
    /// The longest `Retry-After` that is believed.
    #[serde(with = "crate::job::duration")]
    pub max_retry_after: Duration,
    /// Networks that are let through though they are private or special, as CIDRs.
    pub allow_networks: Vec<IpNet>,
    /// How we introduce ourselves; a contact address in it spares archives from guessing.
    pub user_agent: String,
}

/// Fetches bodies. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    guard: AddressGuard,
    config: Arc<Config>,
    has_roots: bool,
}

impl Fetcher {
    /// A fetcher that resolves names as the system does.
    ///
    /// # Errors
    /// When the configuration cannot be put into force.
    pub fn new(config: &Config) -> Result<Self, FetchConfigError> {
        Self::with_resolver(config, Arc::new(SystemResolver::default()))
    }

    /// A fetcher that resolves names by this resolver; what it answers is judged all the same.
    ///
    /// # Errors
    /// When the configuration cannot be put into force.
    pub fn with_resolver(config: &Config, resolver: Arc<dyn Resolve>) -> Result<Self, FetchConfigError> {
        // One process, one provider of cryptography: whoever installed the same one first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|_| FetchConfigError::UserAgent(config.user_agent.clone()))?;
        let guard = AddressGuard::new(&config.allow_networks);
        let builder = || {
            let resolver = GuardedResolver { inner: Arc::clone(&resolver), guard: guard.clone() };
            builder(config, resolver).user_agent(agent.clone())
        };
        let (client, has_roots) = match builder().build() {
            Ok(client) => (client, true),
            Err(e) if error::is_tls(&e) => (builder().tls_certs_only([]).build()?, false),
            Err(e) => return Err(e.into()),
        };
        Ok(Self { client, guard, config: Arc::new(config.clone()), has_roots })
    }

    /// True when the machine has root certificates, without which no https body can be fetched.
    pub fn has_roots(&self) -> bool {
        self.has_roots
    }

    /// How long a body may take, and so both of a pair, which are fetched at once.
    pub fn total_timeout(&self) -> Duration {
        self.config.total_timeout
    }

    /// Fetches both bodies at once; where one fails, the other is given up.
    ///
    /// # Errors
    /// The first failure, with its side and the host of the hop that failed.
    pub async fn pair(&self, pair: &PagePair) -> Result<Bodies, Failure> {
        let (from, to) = tokio::try_join!(self.side(Side::From, &pair.from), self.side(Side::To, &pair.to))?;
        Ok(Bodies { from, to })
    }

    async fn side(&self, side: Side, version: &Version) -> Result<Body, Failure> {
        self.body(&version.body_url).await.map_err(|failure| failure.on(side))
    }

    /// Fetches one body.
    ///
    /// # Errors
    /// One of the kinds of the fetch stage, with the host of the hop that failed.
    pub async fn body(&self, url: &Url) -> Result<Body, Failure> {
        let mut progress = FetchProgress::at(url);
        let ended = tokio::time::timeout(self.config.total_timeout, self.follow(url, &mut progress)).await;
        let failure = match ended {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(failure)) => failure,
            Err(_) => progress.timed_out(self.config.total_timeout),
        };
        Err(match progress.host() {
            Some(host) => failure.at_host(host),
            None => failure,
        })
    }

    async fn follow(&self, url: &Url, progress: &mut FetchProgress) -> Result<Body, Failure> {
        let mut here = url.clone();
        for _ in 0..=self.config.redirects {
            *progress = FetchProgress::at(&here);
            response::check_url(&here, &self.guard)?;
            let sent = self.client.get(here.clone()).send().await;
            let response = sent.map_err(|e| error::request_failure(&e, &here, self.has_roots))?;
            match response::classify(&response, &here, self.config.max_retry_after)? {
                ResponseAction::Content => return body::read(response, self.config.max_body, progress).await,
                ResponseAction::Redirect(next) => here = next,
            }
        }
        let detail = format!(
            "{} redirects more than {} times, at last to {}",
            error::display_url(url),
            self.config.redirects,
            error::display_url(&here)
        );
        Err(Failure::new(FailureKind::TooManyRedirects, detail))
    }
}

fn builder(config: &Config, resolver: GuardedResolver) -> ClientBuilder {
    let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    Client::builder()
        .dns_resolver(Arc::new(resolver))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .default_headers(headers)
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
}
