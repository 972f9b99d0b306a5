//! The db app's HTTP API, both ways: versions come from it, annotations go to it.
//!
//! It knows versions, their order on a page, and the one place where an annotation belongs; it fetches no body (the
//! addresses it resolves may be anybody's), retries nothing and decides nothing about a failure.
//!
//! Invariants: credentials go to the configured origin only, never along a redirect; at most `max_concurrent`
//! calls are under way, each ends within `timeout`; no failure's text holds a secret.
//!
//! # Why
//! - Two endings are *skips*, not failures, because they are everyday and nobody's fault: a page's first version has
//!   no previous one, and a version whose capture failed has no body. The old job passed over both in silence.
//! - A version's own `links.previous` is believed before `changes/..{to}` is asked: the same query in the app, one call less.
//! - An answer blames a job only in the app's own words (`{"errors": …}`): a mistyped `api.url` answers 404 to everything,
//!   and must not bury the queue.

mod auth;
mod cache;
mod client;
mod list;
mod version;

use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use self::cache::VersionCache;
use self::client::ApiClient;
pub use self::list::{CaptureWindow, ListedVersion, VersionChunk};
use self::version::{PreviousVersion, VersionRecord};
use crate::job::failure::{Failure, FailureKind};
use crate::job::outcome::EarlyExit;
use crate::job::page::{PagePair, Side, Version};
use crate::job::report::Annotation;
use crate::job::skip::{Skip, SkipReason};
use crate::job::{Job, OlderVersion, VersionRef};

/// Where the db app is, who we are there, and how much of it we may use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The app's address, with or without `/api/v0`; empty where there is none.
    #[serde(with = "auth::blank_is_none")]
    pub url: Option<Url>,
    /// Who annotates, for Basic authentication; empty for nobody.
    pub email: String,
    /// The password that goes with `email`.
    #[serde(serialize_with = "crate::job::redact::secret")]
    pub password: SecretString,
    /// A token, for Bearer authentication, instead of `email` and `password`.
    #[serde(serialize_with = "crate::job::redact::secret")]
    pub token: SecretString,
    /// Whether annotations are posted.
    pub post: PostMode,
    /// Whether annotations are posted that lack a diff.
    pub post_partial: bool,
    /// From the connection to the last byte of one call.
    #[serde(with = "crate::job::duration")]
    pub timeout: Duration,
    /// Calls under way at the same time, from this process; at least one.
    pub max_concurrent: usize,
    /// Bytes of one answer.
    pub max_response: ByteSize,
    /// Versions that are remembered.
    pub cache_entries: usize,
    /// How long they are.
    #[serde(with = "crate::job::duration")]
    pub cache_ttl: Duration,
    /// The longest `Retry-After` that is believed.
    #[serde(with = "crate::job::duration")]
    pub max_retry_after: Duration,
}

/// Whether annotations are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostMode {
    /// Post them.
    Post,
    /// Do everything but the call: the annotation stays in the report.
    DryRun,
    /// The API is for looking up versions only.
    Off,
}

/// What became of an annotation that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostOutcome {
    /// The app has it.
    Posted,
    /// It would have been posted.
    DryRun,
    /// Nothing is posted here.
    Off,
}

/// A configuration that cannot be put into force.
#[derive(Debug, thiserror::Error)]
pub enum ApiConfigError {
    /// The address is none that can be called.
    #[error("api.url is {0}: it must be an http or https address without credentials, query or fragment")]
    Url(String),
    /// Basic and Bearer at once, or half of Basic.
    #[error("api.{0} is set and {1}")]
    Credentials(&'static str, &'static str),
    /// The client refuses to be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// The db app, as seen from here.
#[derive(Debug)]
pub struct Api {
    client: ApiClient,
    cache: VersionCache,
    post: PostMode,
    post_partial: bool,
}

/// Turns a job's references into versions; a job that carries everything needs no API and makes no call.
///
/// # Errors
/// Those of [`Api::resolve`]; `bad_reference` where the API would be needed and is not configured, or where an
/// annotation could not be posted for want of a page.
pub async fn resolve(api: Option<&Api>, job: &Job) -> Result<PagePair, EarlyExit> {
    if let (Some(VersionRef::Inline(from)), VersionRef::Inline(to)) = (job.from.given(), &job.to) {
        if job.page.is_none() && api.is_some_and(|api| api.post != PostMode::Off) {
            let detail = "field `page` is missing: an annotation is posted to a page's change";
            return Err(Failure::new(FailureKind::BadReference, detail).into());
        }
        return Ok(PagePair { page: job.page, from: Version::clone(from), to: Version::clone(to) });
    }
    let Some(api) = api else {
        let detail = "versions named by uuid alone are looked up in the db app, and api.url is not set: \
                      set it, or send objects with `uuid` and `body_url`";
        return Err(Failure::new(FailureKind::BadReference, detail).into());
    };
    api.resolve(job).await
}

impl Api {
    /// The app, or `None` where no `api.url` is configured.
    ///
    /// # Errors
    /// When the configuration contradicts itself or cannot be put into force.
    pub fn new(config: &Config) -> Result<Option<Self>, ApiConfigError> {
        let Some(url) = &config.url else { return Ok(None) };
        let client = ApiClient::new(client::base(url)?, config)?;
        let cache = VersionCache::new(config.cache_entries, config.cache_ttl);
        Ok(Some(Self { client, cache, post: config.post, post_partial: config.post_partial }))
    }

    /// Whether annotations are posted here, and not only prepared.
    pub fn posts(&self) -> bool {
        self.post == PostMode::Post
    }

    /// Whether an annotation is posted although a diff could not be made.
    pub fn posts_partial(&self) -> bool {
        self.posts() && self.post_partial
    }

    /// Looks up the versions of a job; the older one may be a place in the page's history.
    ///
    /// # Errors
    /// Skips `no_previous` and `not_http`; fails as `version_missing`, `bad_reference`, `api_refused` or `api_unavailable`.
    pub async fn resolve(&self, job: &Job) -> Result<PagePair, EarlyExit> {
        let to = self.side(Side::To, &job.to);
        let (from, to) = match &job.from {
            OlderVersion::Given(from) => tokio::try_join!(self.side(Side::From, from), to)?,
            OlderVersion::Earliest => {
                let to = to.await?;
                let page = match to.page.or(job.page) {
                    Some(page) => Some(page),
                    None => self.record(job.to.uuid()).await.map_err(|failure| failure.on(Side::To))?.page,
                };
                let page = page.ok_or_else(|| {
                    let detail = "the db app names no page of this version, and the job names none";
                    Failure::new(FailureKind::BadReference, detail).on(Side::To)
                })?;
                (ResolvedVersion { page: Some(page), version: self.earliest(page).await? }, to)
            }
            OlderVersion::Previous => {
                let to = to.await?;
                let uuid = self.previous_uuid(&job.to, to.page.or(job.page)).await?;
                (self.side(Side::From, &VersionRef::Uuid(uuid)).await?, to)
            }
        };
        let page = to.page.or(from.page).or(job.page);
        Ok(PagePair { page, from: from.version, to: to.version })
    }

    /// The first version of a page, for a job that also compares with it.
    ///
    /// # Errors
    /// As [`Api::resolve`].
    pub async fn earliest(&self, page: Uuid) -> Result<Version, EarlyExit> {
        let path = format!("pages/{page}/versions?different=false&sort=capture_time:asc&chunk_size=1");
        let answer = self.client.get(&path).await?;
        let Some(first) = answer.pointer("/data/0") else {
            let detail = format!("page {page} has no version");
            return Err(Failure::new(FailureKind::VersionMissing, detail).into());
        };
        let record = VersionRecord::read(first, &Value::Null, self.client.base());
        let record = record.ok_or_else(|| self.client.malformed_answer(&path))?;
        record.version.map_err(|skip| skip.on(Side::From).into())
    }

    /// Posts an annotation. The app keeps one per change and author, so that a repeat overwrites it and does no harm.
    ///
    /// # Errors
    /// `rejected` with the app's words, `version_missing`, `api_refused` or `api_unavailable`.
    pub async fn post_annotation(
        &self,
        pair: &PagePair,
        annotation: &Annotation,
    ) -> Result<PostOutcome, Failure> {
        if self.post == PostMode::Off {
            return Ok(PostOutcome::Off);
        }
        let Some(page) = pair.page else {
            let detail = "the page is not known, and an annotation is posted to a page's change";
            return Err(Failure::new(FailureKind::BadReference, detail));
        };
        if self.post == PostMode::DryRun {
            return Ok(PostOutcome::DryRun);
        }
        let path = format!("pages/{page}/changes/{}..{}/annotations", pair.from.uuid, pair.to.uuid);
        self.client.post(&path, annotation).await?;
        Ok(PostOutcome::Posted)
    }

    async fn side(&self, side: Side, reference: &VersionRef) -> Result<ResolvedVersion, EarlyExit> {
        match reference {
            VersionRef::Inline(version) => {
                Ok(ResolvedVersion { page: None, version: Version::clone(version) })
            }
            VersionRef::Uuid(uuid) => {
                let record = self.record(*uuid).await.map_err(|failure| failure.on(side))?;
                let version = record.version.map_err(|skip| skip.on(side))?;
                Ok(ResolvedVersion { page: record.page, version })
            }
        }
    }

    /// The uuid of the version before this one.
    async fn previous_uuid(&self, to: &VersionRef, page: Option<Uuid>) -> Result<Uuid, EarlyExit> {
        let to = to.uuid();
        let record = self.record(to).await.map_err(|failure| failure.on(Side::To))?;
        let nothing = || Skip::new(SkipReason::NoPrevious, format!("version {to} is the first of its page"));
        match (record.previous, record.page.or(page)) {
            (PreviousVersion::Known(uuid), _) => Ok(uuid),
            (PreviousVersion::Absent, _) => Err(nothing().into()),
            (PreviousVersion::Unknown, None) => {
                let detail = format!("the db app names no page of version {to}, and the job names none");
                Err(Failure::new(FailureKind::BadReference, detail).on(Side::To).into())
            }
            (PreviousVersion::Unknown, Some(page)) => {
                let path = format!("pages/{page}/changes/..{to}");
                match self.client.get(&path).await {
                    Ok(answer) => {
                        Ok(version::uuid_from(&answer).ok_or_else(|| self.client.malformed_answer(&path))?)
                    }
                    Err(failure) if failure.kind == FailureKind::VersionMissing => Err(nothing().into()),
                    Err(failure) => Err(failure.into()),
                }
            }
        }
    }

    /// What the app says of a version, now or a moment ago. `different=false` because older apps hide versions
    /// that do not differ from their predecessor, unless asked.
    async fn record(&self, uuid: Uuid) -> Result<VersionRecord, Failure> {
        if let Some(record) = self.cache.get(uuid) {
            return Ok(record);
        }
        let path = format!("versions/{uuid}?different=false");
        let answer = self.client.get(&path).await?;
        let record = VersionRecord::read(&answer["data"], &answer["links"], self.client.base());
        let record = record.filter(|record| record.uuid == uuid);
        let record = record.ok_or_else(|| self.client.malformed_answer(&path))?;
        self.cache.put(record.clone());
        Ok(record)
    }
}

/// One side of a pair, found.
struct ResolvedVersion {
    page: Option<Uuid>,
    version: Version,
}
