//! The db app's HTTP API, in both directions: versions are read from it, annotations are posted to it.
//!
//! It handles versions, their order on a page, and the endpoint for annotations; it fetches no bodies (the
//! addresses it resolves may point anywhere), retries nothing and makes no decision about a failure.
//!
//! Invariants: credentials go to the configured origin only, never along a redirect, and of the addresses that a job
//! names to that of the version's own body in the app alone; at most `max_concurrent` calls run at once, each of their
//! requests ends within `timeout`; no failure's text contains a secret.
//!
//! # Why
//! - Two endings are *skips*, not failures, because they are normal: a page's first version has no previous
//!   one, and a version whose capture failed has no body. `AnalyzeChangeJob` ignored both silently.
//! - A version's own `links.previous` is used before `changes/..{to}` is requested: it is the same query in
//!   the app, and saves a call.
//! - An error of the app's own (500) that follows one version is that version's, of which there are some in today's app
//!   (those without a page): if it stopped claims, each of them would be an outage.
//! - A job is blamed only for a response in the app's own error format (`{"errors": …}`): with a mistyped
//!   `api.url` every request gets a 404, and that must not dead-letter the whole queue.

mod address;
mod auth;
mod cache;
mod client;
mod examine;
mod list;
mod login;
mod post;
mod raw;
mod version;

use std::time::Duration;

use bytesize::ByteSize;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::address::ApiUrl;
use self::cache::VersionCache;
use self::client::ApiClient;
pub use self::examine::ObservedApp;
pub(crate) use self::list::position_at;
pub use self::list::{CaptureWindow, ChunkRequest, ListedVersion, VersionChunk};
pub use self::post::{PostMode, PostOutcome, PostPartial};
pub use self::raw::RawHeaders;
use self::version::{PreviousVersion, VersionRecord};
use crate::job::failure::{Failure, FailureKind};
use crate::job::outcome::EarlyExit;
use crate::job::page::{PagePair, Side, Version};
use crate::job::redact::Secret;
use crate::job::skip::{Skip, SkipReason};
use crate::job::{Job, OlderVersion, VersionRef};

/// Address, credentials and limits of the db app.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The app's address, with or without `/api/v0`; empty if no app is used.
    #[serde(with = "crate::job::blank")]
    pub url: Option<ApiUrl>,
    /// User of the annotations; empty for none.
    pub email: String,
    /// Password for `email`; empty for none.
    pub password: Secret,
    /// Token for Bearer authentication, instead of `email` and `password`.
    pub token: Secret,
    /// How `email` and `password` are used.
    pub login: LoginMode,
    /// Further headers of every call, `Name: value`, for a proxy before the app.
    pub headers: Vec<Secret>,
    /// Whether annotations are posted.
    pub post: PostMode,
    /// Whether an annotation is posted in which a diff is missing.
    pub post_partial: PostPartial,
    /// Limit on one request, from connecting to the last byte.
    #[serde(with = "crate::job::duration")]
    pub timeout: Duration,
    /// Limit on concurrent calls of this process; at least 1.
    pub max_concurrent: usize,
    /// Limit on one response, in bytes.
    pub max_response: ByteSize,
    /// Limit on the number of cached versions; 0 disables the cache.
    pub cache_entries: usize,
    /// Lifetime of a cached version.
    #[serde(with = "crate::job::duration")]
    pub cache_ttl: Duration,
    /// Upper bound for a `Retry-After`.
    #[serde(with = "crate::job::duration")]
    pub max_retry_after: Duration,
}

/// How an email and a password are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginMode {
    /// A token is asked for with them, and used until it expires.
    Token,
    /// Each call carries them.
    Basic,
}

impl Config {
    /// Checks values that parsed but are invalid together; returns each key with a sentence.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        auth::problem(self).into_iter().collect()
    }
}

/// An invalid configuration of the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiConfigError {
    /// Basic and Bearer both set, or only half of Basic.
    #[error("api.{0} {1}")]
    Credentials(&'static str, String),
    /// The HTTP client could not be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// A few versions, of which any will do.
const SOME_VERSIONS: &str = "versions?sort=capture_time:asc&chunk_size=10";

/// Where a version is read. `different=false` because older apps otherwise hide versions that do not differ from their
/// predecessor.
fn version_path(uuid: Uuid) -> String {
    format!("versions/{uuid}?different=false")
}

/// Client of the db app with a version cache.
#[derive(Debug)]
pub struct Api {
    client: ApiClient,
    cache: VersionCache,
    /// The version that was read last: what to ask the app for when it fails for another one.
    last_read: Mutex<Option<Uuid>>,
    post: PostMode,
    post_partial: PostPartial,
}

/// Resolves a job's references into versions; a job with inline versions makes no call and needs no API.
///
/// # Errors
/// Those of [`Api::resolve`]; `bad_reference` if the API is needed but not configured, or if an annotation
/// could not be posted because the page is unknown.
pub async fn resolve(api: Option<&Api>, job: &Job) -> Result<PagePair, EarlyExit> {
    if let (Some(VersionRef::Inline(from)), VersionRef::Inline(to)) = (job.from.given(), &job.to) {
        if job.page.is_none() && api.is_some_and(|api| api.post != PostMode::Off) {
            let detail = "field `page` is missing: an annotation is posted to a page's change";
            return Err(Failure::new(FailureKind::BadReference, detail).into());
        }
        let (from, to) = (Version::clone(from), Version::clone(to));
        return Ok(PagePair { page: job.page, from, to, from_is_earliest: false });
    }
    let Some(api) = api else {
        let detail = "versions named by uuid alone are looked up in the db app, and api.url is not set: \
                      set it, or send objects with `uuid` and `body_url`";
        return Err(Failure::new(FailureKind::BadReference, detail).into());
    };
    api.resolve(job).await
}

impl Api {
    /// The client, or `None` if `api.url` is not set.
    ///
    /// # Errors
    /// If the configuration is contradictory or invalid.
    pub fn new(config: &Config) -> Result<Option<Self>, ApiConfigError> {
        let Some(url) = &config.url else { return Ok(None) };
        let client = ApiClient::new(url.base(), config)?;
        let cache = VersionCache::new(config.cache_entries, config.cache_ttl);
        let last_read = Mutex::default();
        Ok(Some(Self { client, cache, last_read, post: config.post, post_partial: config.post_partial }))
    }

    /// Looks up the versions of a job; the older one may be a place in the page's history.
    ///
    /// # Errors
    /// Skips `no_previous` and `not_http`; fails with `version_missing`, `bad_reference`, `api_refused` or
    /// `api_unavailable`.
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
                    let detail = "neither the db app nor the job has the page of this version";
                    Failure::new(FailureKind::BadReference, detail).on(Side::To)
                })?;
                let version = self.earliest(page).await?;
                (ResolvedVersion { page: Some(page), version, is_first: true }, to)
            }
            OlderVersion::Previous => {
                let to = to.await?;
                let uuid = self.previous_uuid(&job.to, to.page.or(job.page)).await?;
                (self.side(Side::From, &VersionRef::Uuid(uuid)).await?, to)
            }
        };
        let page = to.page.or(from.page).or(job.page);
        let from_is_earliest = from.is_first;
        Ok(PagePair { page, from: from.version, to: to.version, from_is_earliest })
    }

    /// The first version of a page, for a job that also compares with it.
    ///
    /// # Errors
    /// As for [`Api::resolve`].
    pub async fn earliest(&self, page: Uuid) -> Result<Version, EarlyExit> {
        let path = format!("pages/{page}/versions?different=false&sort=capture_time:asc&chunk_size=1");
        let answer = self.get_of_one(&path).await?;
        let Some(first) = answer.pointer("/data/0") else {
            let detail = format!("page {page} has no version");
            return Err(Failure::new(FailureKind::VersionMissing, detail).into());
        };
        let record = VersionRecord::read(first, &Value::Null, self.client.base());
        let record = record.ok_or_else(|| self.client.malformed_answer(&path))?;
        record.version.map_err(|skip| skip.on(Side::From).into())
    }

    async fn side(&self, side: Side, reference: &VersionRef) -> Result<ResolvedVersion, EarlyExit> {
        match reference {
            VersionRef::Inline(version) => {
                Ok(ResolvedVersion { page: None, version: Version::clone(version), is_first: false })
            }
            VersionRef::Uuid(uuid) => {
                let record = self.record(*uuid).await.map_err(|failure| failure.on(side))?;
                let version = record.version.map_err(|skip| skip.on(side))?;
                let is_first = record.previous == PreviousVersion::Absent;
                Ok(ResolvedVersion { page: record.page, version, is_first })
            }
        }
    }

    /// The uuid of the version before `to`.
    async fn previous_uuid(&self, to: &VersionRef, page: Option<Uuid>) -> Result<Uuid, EarlyExit> {
        let to = to.uuid();
        let record = self.record(to).await.map_err(|failure| failure.on(Side::To))?;
        let nothing = || Skip::new(SkipReason::NoPrevious, format!("version {to} is the first of its page"));
        match (record.previous, record.page.or(page)) {
            (PreviousVersion::Known(uuid), _) => Ok(uuid),
            (PreviousVersion::Absent, _) => Err(nothing().into()),
            (PreviousVersion::Unknown, None) => {
                let detail = format!("neither the db app nor the job has the page of version {to}");
                Err(Failure::new(FailureKind::BadReference, detail).on(Side::To).into())
            }
            (PreviousVersion::Unknown, Some(page)) => {
                let path = format!("pages/{page}/changes/..{to}");
                match self.get_of_one(&path).await {
                    Ok(answer) => {
                        Ok(version::uuid_from(&answer).ok_or_else(|| self.client.malformed_answer(&path))?)
                    }
                    Err(failure) if failure.kind == FailureKind::VersionMissing => Err(nothing().into()),
                    Err(failure) => Err(failure.into()),
                }
            }
        }
    }

    /// A lookup of one version or one page. An error of the app's own is that one's fault only if the app answers for
    /// others: it is asked for any other version right then.
    async fn get_of_one(&self, path: &str) -> Result<Value, Failure> {
        let failure = match self.client.get(path).await {
            Err(failure) if failure.kind == FailureKind::VersionUnreadable => failure,
            ended => return ended,
        };
        match self.answers_for_another(path).await {
            // Without a host: it is no fault of the app's host.
            true => Err(Failure { host: None, ..failure }),
            false => Err(Failure { kind: FailureKind::ApiUnavailable, ..failure }),
        }
    }

    /// Whether the app has an answer for a version that this path does not name: the one that was read last or, where
    /// none was, one of the oldest.
    async fn answers_for_another(&self, path: &str) -> bool {
        let is_another = |uuid: &Uuid| !path.contains(&uuid.to_string());
        let last_read = self.last_read.lock().filter(is_another);
        let another = match last_read {
            Some(uuid) => Some(uuid),
            None => {
                let listed = self.client.get(SOME_VERSIONS).await.unwrap_or_default();
                let rows = listed["data"].as_array().cloned().unwrap_or_default();
                let with_page = rows.iter().filter(|row| !row["page_uuid"].is_null());
                with_page.filter_map(|row| version::uuid(row, "uuid")).find(is_another)
            }
        };
        match another {
            Some(uuid) => self.client.get(&version_path(uuid)).await.is_ok(),
            None => false,
        }
    }

    /// The app's record of a version, from the cache or by a call.
    async fn record(&self, uuid: Uuid) -> Result<VersionRecord, Failure> {
        if let Some(record) = self.cache.get(uuid) {
            return Ok(record);
        }
        let path = version_path(uuid);
        let answer = self.get_of_one(&path).await?;
        let record = VersionRecord::read(&answer["data"], &answer["links"], self.client.base());
        let record = record.filter(|record| record.uuid == uuid);
        let record = record.ok_or_else(|| self.client.malformed_answer(&path))?;
        *self.last_read.lock() = Some(uuid);
        self.cache.put(record.clone());
        Ok(record)
    }
}

/// One side of a pair, resolved.
struct ResolvedVersion {
    page: Option<Uuid>,
    version: Version,
    /// True where it is known to be its page's first.
    is_first: bool,
}
