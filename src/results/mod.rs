//! The results store: whole results, compressed, in a directory or in a bucket of a server that speaks S3. Redis keeps
//! the small report with its address.
//!
//! It knows no Redis, no queue and no sandbox, and never looks into the bytes. A result has one key, by its pair and
//! the version of the analysis, so that writing it again replaces it and is harmless.
//!
//! Invariant: one call ends within 5 s; at most [`MAX_WRITES`] results are being written at once; what is
//! read is bounded by the caller.
//!
//! # Why
//! - `object_store` by default tries ten times in three minutes. A lease is 90 s: the job would be another worker's by
//!   then. One retry covers a connection that the server had closed; an outage is the circuit breaker's.
//! - A directory is not created: where it is missing, the path is wrong or a volume is not mounted, and results would
//!   fill an unwatched disk. Files are written beside their place, synced and renamed, so a reader sees a
//!   whole file or none; the write to a disk that hangs keeps its turn, so that at most [`MAX_WRITES`] threads hang
//!   with it. Names are made of two uuids and a number, so no key leaves the directory.
//! - The guard of `fetch` does not judge these addresses: the store is one of our dependencies, and usually inside.

mod config;
mod failure;
mod place;
mod s3;

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, GetResult, ObjectStore, PutOptions, PutPayload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

pub use self::config::Config;
pub use self::place::{StoreEndpoint, StorePlace};
use crate::job::failure::{Failure, FailureKind};
use crate::job::page::PagePair;
use crate::job::stored_result::StoredResult;

/// Limit on one call, retry included: a small part of a lease, and 16 MiB at 3 MiB/s.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Results that are being written at once: 80 a second where one takes 50 ms, and at most four times
/// `results.max_bytes` of memory.
pub const MAX_WRITES: usize = 4;
/// Limit on the wait for a turn: 24 others may be written before it at the slowest pace. Writes to a disk that hangs
/// keep their turns.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// What `doctor` writes and reads: one object, always the same.
const PROBE: &[u8] = b"wm-analyzer can write and read here\n";

/// What a whole result is known by: one analysis of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultKey {
    /// The older version.
    pub from: Uuid,
    /// The newer version.
    pub to: Uuid,
    /// Version of the analysis, as reports name it.
    pub analysis_version: u32,
}

impl ResultKey {
    /// The key of a pair's result.
    pub fn of(pair: &PagePair, analysis_version: u32) -> Self {
        Self { from: pair.from.uuid, to: pair.to.uuid, analysis_version }
    }

    fn path(self) -> String {
        format!("v{}/{}..{}.json.gz", self.analysis_version, self.from, self.to)
    }
}

/// Why the results store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ResultsConfigError {
    /// The directory is not there or cannot be used.
    #[error("results.store = file://{0}: {1}; create the directory, or mount the volume that holds it")]
    Directory(String, String),
    /// The client of the bucket could not be built.
    #[error("results.store: the client cannot be built: {0}")]
    Client(String),
}

/// A results store. Cheap to clone; all clones share its limits.
#[derive(Debug, Clone)]
pub struct ResultStore(Arc<OpenStore>);

#[derive(Debug)]
struct OpenStore {
    objects: Box<dyn ObjectStore>,
    place: StorePlace,
    /// What all keys begin with.
    prefix: Path,
    /// Host of the server, for failures.
    host: Option<String>,
    /// Only servers keep attributes.
    attributes: Attributes,
    max_bytes: u64,
    writes: Arc<Semaphore>,
}

/// The right to write one result. It is waited for with the slot in hand: results would otherwise pile up in
/// memory before a slow store.
#[derive(Debug)]
pub struct WriteTurn {
    store: ResultStore,
    permit: OwnedSemaphorePermit,
}

impl ResultStore {
    /// The store, or `None` if none is configured. Nothing is sent and nothing is written.
    ///
    /// # Errors
    /// If the directory cannot be used, or no client can be built.
    pub fn open(config: &Config) -> Result<Option<Self>, ResultsConfigError> {
        let mut attributes = Attributes::new();
        let (objects, prefix, host): (Box<dyn ObjectStore>, _, _) = match &config.store {
            StorePlace::None => return Ok(None),
            StorePlace::Directory(path) => {
                let shown = path.display().to_string();
                let opened = LocalFileSystem::new_with_prefix(path);
                let failed = |e| ResultsConfigError::Directory(shown, crate::job::text::innermost_cause(&e));
                // Redis must not name a file that a crash of the machine takes back.
                (Box::new(opened.map_err(failed)?.with_fsync(true)), "", None)
            }
            StorePlace::Bucket { bucket, prefix } => {
                let endpoint = match &config.endpoint {
                    Some(endpoint) => endpoint.clone(),
                    None => StoreEndpoint::of_region(&config.region).map_err(ResultsConfigError::Client)?,
                };
                attributes.insert(Attribute::ContentType, "application/gzip".into());
                let client = s3::client(bucket, &endpoint, config).map_err(ResultsConfigError::Client)?;
                (Box::new(client), prefix.as_str(), endpoint.url().host_str().map(str::to_owned))
            }
        };
        Ok(Some(Self(Arc::new(OpenStore {
            objects,
            place: config.store.clone(),
            prefix: Path::from(prefix),
            host,
            attributes,
            max_bytes: config.max_bytes.as_u64(),
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
        }))))
    }

    /// The place, as it is configured.
    pub fn place(&self) -> &StorePlace {
        &self.0.place
    }

    /// Limit on one whole result, compressed, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.0.max_bytes
    }

    /// Where the result with this key is, or would be.
    pub fn address(&self, key: &ResultKey) -> String {
        let path = self.path(&key.path());
        match &self.0.place {
            StorePlace::None => String::new(),
            StorePlace::Bucket { bucket, .. } => format!("s3://{bucket}/{path}"),
            StorePlace::Directory(directory) => {
                let file = directory.join(path.as_ref());
                Url::from_file_path(&file).map_or_else(|()| file.display().to_string(), String::from)
            }
        }
    }

    /// Waits until few enough results are being written.
    ///
    /// # Errors
    /// `store_unavailable` where those that are do not end.
    pub async fn turn(&self) -> Result<WriteTurn, Failure> {
        self.turn_within(TURN_TIMEOUT).await
    }

    async fn turn_within(&self, limit: Duration) -> Result<WriteTurn, Failure> {
        match timeout(limit, Arc::clone(&self.0.writes).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(WriteTurn { store: self.clone(), permit }),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => {
                let limit = humantime::format_duration(limit);
                let what = format!("the results store {} finished no write within {limit}", self.0.place);
                Err(self.failure(FailureKind::StoreUnavailable, what))
            }
        }
    }

    /// [`turn`](Self::turn) and [`WriteTurn::put`] in one.
    ///
    /// # Errors
    /// Those of [`WriteTurn::put`].
    pub async fn put(&self, key: &ResultKey, gzip: Vec<u8>) -> Result<StoredResult, Failure> {
        self.turn().await?.put(key, gzip).await
    }

    /// Reads a result; `None` where there is none. Whether the bytes are those that were stored is the caller's to
    /// check, by the hash that the report has.
    ///
    /// # Errors
    /// `store_unavailable` or `store_refused`; the first also where it has more than `max_bytes`.
    pub async fn get(&self, key: &ResultKey, max_bytes: u64) -> Result<Option<Vec<u8>>, Failure> {
        self.read(&self.path(&key.path()), max_bytes).await
    }

    /// Writes and reads one small object that is always the same: what the rights and the room suffice for is only
    /// known then.
    ///
    /// # Errors
    /// `store_unavailable` or `store_refused`.
    pub async fn probe(&self) -> Result<(), Failure> {
        let path = self.path("probe");
        self.turn().await?.write(path.clone(), PROBE.to_vec()).await?;
        match self.read(&path, PROBE.len() as u64).await? {
            Some(read) if read == PROBE => Ok(()),
            Some(_) | None => {
                let what = format!("the results store {} does not give back what was written", self.0.place);
                Err(self.failure(FailureKind::StoreUnavailable, what))
            }
        }
    }

    async fn read(&self, path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, Failure> {
        let read = async {
            match self.0.objects.get_opts(path, GetOptions::default()).await {
                Ok(found) => self.collect(found, max_bytes).await.map(Some),
                Err(error) if failure::is_absent(&error) => Ok(None),
                Err(error) => Err(self.explained(&error)),
            }
        };
        timeout(TOTAL_TIMEOUT, read).await.unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn collect(&self, found: GetResult, max_bytes: u64) -> Result<Vec<u8>, Failure> {
        let (mut read, mut chunks) = (Vec::new(), found.into_stream());
        while let Some(chunk) = chunks.try_next().await.map_err(|e| self.explained(&e))? {
            if (read.len() + chunk.len()) as u64 > max_bytes {
                let what =
                    format!("the results store {} has more than {max_bytes} bytes there", self.0.place);
                return Err(self.failure(FailureKind::StoreUnavailable, what));
            }
            read.extend_from_slice(&chunk);
        }
        Ok(read)
    }

    fn path(&self, rest: &str) -> Path {
        // Both are made of characters that need no encoding.
        Path::from(format!("{}/{rest}", self.0.prefix))
    }

    fn explained(&self, error: &object_store::Error) -> Failure {
        let (kind, what) = failure::explain(error, &self.0.place);
        self.failure(kind, what)
    }

    fn too_slow(&self) -> Failure {
        let limit = humantime::format_duration(TOTAL_TIMEOUT);
        let what = format!("the results store {} did not answer within {limit}", self.0.place);
        self.failure(FailureKind::StoreUnavailable, what)
    }

    fn failure(&self, kind: FailureKind, what: String) -> Failure {
        Failure { host: self.0.host.clone(), ..Failure::new(kind, what) }
    }
}

impl WriteTurn {
    /// Writes a result under its key; what is there is replaced.
    ///
    /// # Errors
    /// `store_unavailable` or `store_refused`; `reply_too_large` where it is larger than `results.max_bytes`, which
    /// a child's own limit comes before.
    pub async fn put(self, key: &ResultKey, gzip: Vec<u8>) -> Result<StoredResult, Failure> {
        let store = &self.store;
        if gzip.len() as u64 > store.0.max_bytes {
            let what = format!(
                "the whole result has {} bytes, compressed, and results.max_bytes is {}",
                gzip.len(),
                store.0.max_bytes
            );
            return Err(Failure::new(FailureKind::ReplyTooLarge, what));
        }
        let (stored, path) = (StoredResult::of(store.address(key), &gzip), store.path(&key.path()));
        self.write(path, gzip).await?;
        Ok(stored)
    }

    async fn write(self, path: Path, gzip: Vec<u8>) -> Result<(), Failure> {
        let Self { store, permit } = self;
        let open = Arc::clone(&store.0);
        let put = async move {
            let options = PutOptions { attributes: open.attributes.clone(), ..PutOptions::default() };
            let ended = open.objects.put_opts(&path, PutPayload::from(gzip), options).await;
            drop(permit);
            ended
        };
        let ended = match &store.0.place {
            StorePlace::Directory(_) => timeout(TOTAL_TIMEOUT, detached(put)).await,
            StorePlace::None | StorePlace::Bucket { .. } => timeout(TOTAL_TIMEOUT, put).await,
        };
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(store.explained(&error)),
            Err(_) => Err(store.too_slow()),
        }
    }
}

/// Goes on with a write whose caller gave up: one to a disk that hangs cannot be stopped, and keeps its thread, its
/// bytes and its turn until the disk is back.
async fn detached<T: Send + 'static>(
    write: impl Future<Output = object_store::Result<T>> + Send + 'static,
) -> object_store::Result<T> {
    tokio::spawn(write).await?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytesize::ByteSize;
    use tempfile::TempDir;
    use wm_testbed::wait::until;

    use super::*;
    use crate::job::redact::Secret;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_write_to_a_disk_that_hangs_keeps_its_turn_until_the_disk_is_back() {
        let (writes, (resume, hanging)) = (Arc::new(Semaphore::new(1)), mpsc::channel());
        let permit = Arc::clone(&writes).acquire_owned().await.unwrap();
        let write = async move {
            tokio::task::spawn_blocking(move || hanging.recv()).await?.unwrap();
            drop(permit);
            Ok(())
        };
        assert!(timeout(SHORT, detached(write)).await.is_err());
        assert_eq!(writes.available_permits(), 0, "it still has its bytes");
        resume.send(()).unwrap();
        until("the turn is free", async || writes.available_permits() == 1).await;
    }

    #[tokio::test]
    async fn who_waits_for_writes_that_do_not_end_is_told_so() {
        let directory = TempDir::new().unwrap();
        let store = StorePlace::Directory(directory.path().to_owned());
        let config = Config {
            store,
            endpoint: None,
            region: String::new(),
            access_key_id: String::new(),
            secret_access_key: Secret::default(),
            instance_credentials: false,
            max_bytes: ByteSize::mib(1),
        };
        let store = ResultStore::open(&config).unwrap().unwrap();
        let mut turns = Vec::new();
        for _ in 0..MAX_WRITES {
            turns.push(store.turn().await.unwrap());
        }
        let failure = store.turn_within(SHORT).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::StoreUnavailable);
        assert!(failure.detail.contains("finished no write within 50ms"), "{failure}");
        turns.pop();
        assert!(store.turn_within(SHORT).await.is_ok());
    }
}
