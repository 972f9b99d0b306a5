//! What the demo enqueues: good pairs, and every class of hostile or skippable pair with how it must end.
//!
//! It enqueues nothing itself. Invariant: every payload is a job that [`Job::decode`] reads, but where being
//! unreadable is the point; ids and version uuids are the same in every run and occur once.
//!
//! # What it assumes of the configuration
//! `127.0.0.0/8` may be fetched from; no db API is configured; bodies are capped at 10 MiB on the wire and
//! after decompression; 3 attempts (two failures, then recovery, is then a success). For a demo that does not
//! bore: a fetch takes 2 s at most and a retry comes after some 50 ms. Everything else as by default.

mod hostile;

use sha2::{Digest, Sha256};
use url::Url;

use crate::job::failure::FailureKind;
use crate::job::page::Version;
use crate::job::skip::SkipReason;
use crate::job::text::sha256_hex;
use crate::job::{Job, JobId, VersionRef};
use wm_testbed::body::Body;
use wm_testbed::pages::{self, Rng};
use wm_testbed::site::{Resource, Site};

pub use self::hostile::hostile;

/// Captured pages of this kind are mostly within these sizes.
const SMALLEST_PAGE: f64 = 5_000.0;
const LARGEST_PAGE: f64 = 300_000.0;

/// How every job of a class must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseOutcome {
    /// Analysed, at the first attempt.
    Done,
    /// Analysed, after attempts that failed.
    DoneAfterRetries,
    /// Skipped, for this reason.
    Skipped(SkipReason),
    /// Dead letter of this kind.
    Dead(FailureKind),
}

impl std::fmt::Display for CaseOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::DoneAfterRetries => f.write_str("done after retries"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            Self::Dead(kind) => write!(f, "dead: {kind}"),
        }
    }
}

/// Jobs of one class, with the outcome they must have.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, in ids and in JSON.
    pub name: &'static str,
    /// One line of the table.
    pub title: &'static str,
    /// The payloads to put into the inbox.
    pub jobs: Vec<Vec<u8>>,
    /// How each of them must end.
    pub expected: CaseOutcome,
}

impl Case {
    /// The id of this class's nth job; no id at all reaches the queue where the payload cannot be read.
    pub fn id(&self, n: usize) -> JobId {
        let id = JobId::parse(&format!("demo-{}-{n}", self.name));
        id.unwrap_or_else(|_| unreachable!("class names are plain and short"))
    }
}

/// That many good pairs of 5 to 300 kB; every third is sent compressed.
pub fn good(site: &Site, count: usize) -> Case {
    let mut class = CaseBuilder::new(site, "good", "ordinary pages with ordinary edits", CaseOutcome::Done);
    let mut rng = Rng::new(2018);
    for n in 0..count {
        let share = rng.below(1 << 20) as f64 / f64::from(1 << 20);
        let size = SMALLEST_PAGE * (LARGEST_PAGE / SMALLEST_PAGE).powf(share);
        let (from, to) = pages::pair(n as u64, size as usize);
        let send = |bytes: &[u8]| if n % 3 == 0 { Body::html(bytes).gzipped() } else { Body::html(bytes) };
        let hashes = [sha256_hex(&from), sha256_hex(&to)];
        class.pair_with(send(&from), send(&to), |job| {
            for (version, hash) in versions(job).into_iter().zip(&hashes) {
                version.media_type = Some("text/html".to_owned());
                version.body_hash = Some(hash.clone());
            }
        });
    }
    class.case
}

/// Both versions of a job that carries them whole.
fn versions(job: &mut Job) -> Vec<&mut Version> {
    let both = job.from.given_mut().into_iter().chain([&mut job.to]);
    let whole = both.filter_map(|version| match version {
        VersionRef::Inline(version) => Some(version.as_mut()),
        VersionRef::Uuid(_) => None,
    });
    whole.collect()
}

/// Builds a [`Case`] job by job.
struct CaseBuilder<'a> {
    site: &'a Site,
    case: Case,
}

impl<'a> CaseBuilder<'a> {
    fn new(site: &'a Site, name: &'static str, title: &'static str, expected: CaseOutcome) -> Self {
        Self { site, case: Case { name, title, jobs: Vec::new(), expected } }
    }

    /// The class of this one pair.
    fn pair(self, from: impl Into<Resource>, to: impl Into<Resource>) -> Case {
        self.change(from, to, |_| {})
    }

    /// The same, both versions declared to be of this media type.
    fn declared(self, from: impl Into<Resource>, to: impl Into<Resource>, media_type: &str) -> Case {
        let declare = |version: &mut Version| version.media_type = Some(media_type.to_owned());
        self.change(from, to, |job| versions(job).into_iter().for_each(declare))
    }

    /// The same, both versions captured at this address.
    fn addressed(self, from: impl Into<Resource>, to: impl Into<Resource>, address: &str) -> Case {
        let readdress = |version: &mut Version| version.url = Some(address.to_owned());
        self.change(from, to, |job| versions(job).into_iter().for_each(readdress))
    }

    /// The class of one pair whose older body is at this address.
    fn at(self, from: Url, to: impl Into<Resource>) -> Case {
        self.change(Resource::Status(404), to, |job| {
            versions(job).into_iter().take(1).for_each(|version| version.body_url = from.clone());
        })
    }

    /// The class of one pair whose job is changed before it is written down.
    fn change(
        mut self,
        from: impl Into<Resource>,
        to: impl Into<Resource>,
        change: impl Fn(&mut Job),
    ) -> Case {
        self.pair_with(from, to, change);
        self.case
    }

    /// Puts two bodies on the site and adds the job that compares them.
    fn pair_with(&mut self, from: impl Into<Resource>, to: impl Into<Resource>, change: impl Fn(&mut Job)) {
        let n = self.case.jobs.len();
        let (from, to) = (self.version(n, "from", from), self.version(n, "to", to));
        let mut job = Job::new(from, to);
        job.id = self.case.id(n);
        change(&mut job);
        self.case.jobs.push(job.encode());
    }

    fn version(&self, n: usize, side: &str, body: impl Into<Resource>) -> VersionRef {
        let path = format!("/{}/{n}/{side}", self.case.name);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(&path)[..16]);
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let mut version = Version::at(uuid, self.site.put(&path, body));
        version.url = Some(format!("https://www.example.gov{path}"));
        VersionRef::Inline(Box::new(version))
    }
}
