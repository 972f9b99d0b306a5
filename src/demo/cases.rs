//! What the demo enqueues: good pairs, and every class of hostile or skippable pair with how it must end.
//!
//! It enqueues nothing itself. Invariant: every payload is a job that [`Job::decode`] reads, but where being
//! unreadable is the point; ids and version uuids are the same in every run and occur once.
//!
//! # What it assumes of the configuration
//! `127.0.0.0/8` may be fetched from; no db API is configured; bodies are capped at 10 MiB on the wire and after
//! decompression; 3 attempts (two failures, then recovery, is then a success). For a demo that does not bore: a
//! fetch takes 2 s at most and a retry comes after some 50 ms. Everything else as by default.
//!
//! # Why
//! The jobs that must be killed do honest work under limits of their own that are too small for it: a hang made
//! for the occasion would prove less. What killed the old service and is linear here is shown as analysed.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;

use super::pages::{self, Rng};
use super::poison;
use super::site::{Body, Resource, Site};
use crate::job::failure::Kind;
use crate::job::outcome::SkipReason;
use crate::job::page::Version;
use crate::job::{Job, JobId, VersionRef};

/// Captured pages of this kind are mostly within these sizes.
const SMALLEST_PAGE: f64 = 5_000.0;
const LARGEST_PAGE: f64 = 300_000.0;
/// The most that any class here decompresses to: a hundred times the cap.
const BOMB_BYTES: u64 = 1 << 30;

/// How every job of a class must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Analysed, at the first attempt.
    Done,
    /// Analysed, after attempts that failed.
    DoneAfterRetries,
    /// Rightly not analysed.
    Skipped(SkipReason),
    /// Buried, as this.
    Dead(Kind),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::DoneAfterRetries => f.write_str("done after retries"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            Self::Dead(kind) => write!(f, "dead: {kind}"),
        }
    }
}

/// One class of jobs.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, in ids and in JSON.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// The payloads to put into the inbox.
    pub jobs: Vec<Vec<u8>>,
    /// How each of them must end.
    pub expected: Ending,
}

impl Case {
    /// The id of this class's nth job; no id at all reaches the queue where the payload cannot be read.
    pub fn id(&self, n: usize) -> JobId {
        id(self.name, n)
    }
}

/// That many good pairs of 5 to 300 kB; every third is sent compressed.
pub fn good(site: &Site, count: usize) -> Case {
    let mut class = Class::new(site, "good", "ordinary pages with ordinary edits", Ending::Done);
    let mut rng = Rng::new(2018);
    for n in 0..count {
        let share = rng.below(1 << 20) as f64 / f64::from(1 << 20);
        let size = SMALLEST_PAGE * (LARGEST_PAGE / SMALLEST_PAGE).powf(share);
        let (from, to) = pages::pair(n as u64, size as usize);
        let send = |bytes: &[u8]| if n % 3 == 0 { Body::html(bytes).gzipped() } else { Body::html(bytes) };
        let hashes = [hash(&from), hash(&to)];
        class.pair_with(send(&from), send(&to), |job| {
            for (version, hash) in versions(job).into_iter().zip(&hashes) {
                version.media_type = Some("text/html".to_owned());
                version.body_hash = Some(hash.clone());
            }
        });
    }
    class.case
}

/// Every other class, in the order in which the story tells them.
pub fn hostile(site: &Site) -> Vec<Case> {
    [not_pages(site), slow_for_the_old(site), lying(site), unwell(site), unreadable(site), over_limits(site)]
        .concat()
}

/// What must be skipped: by its references, or by its bytes.
fn not_pages(site: &Site) -> Vec<Case> {
    let class = |name, title, reason| Class::new(site, name, title, Ending::Skipped(reason));
    let pdf: Arc<[u8]> = poison::pdf(1, 3_500_000).into();
    let (page, _) = pages::pair(1, 150_000);
    vec![
        // In 2018 nobody had declared anything, and a page was presumed.
        class("incident", "the incident of 2018: a PDF against an HTML page", SkipReason::Content)
            .pair(Body::raw(Arc::clone(&pdf)), Body::html(page)),
        class("pdf_as_html", "a PDF that claims text/html; charset=iso-8859-1", SkipReason::Content)
            .declared(Body::raw(pdf).header("content-type", LATIN_1), small(2), LATIN_1),
        class("png_as_html", "a PNG called .html", SkipReason::Content).addressed(
            Body::raw(poison::png(3, 80_000)),
            small(3),
            "https://www.example.gov/map.html",
        ),
        class("pdf_url", "an address that ends in .pdf", SkipReason::Extension).addressed(
            small(4),
            small(5),
            "https://www.example.gov/annual-report.pdf",
        ),
        class("declared_image", "a version that declares image/png", SkipReason::MediaType).declared(
            small(6),
            small(7),
            "image/png",
        ),
        class("became_json", "a page that became a JSON error message", SkipReason::UnlikeContent)
            .pair(small(8), Body::raw(&br#"{"error": {"code": 404, "message": "no such page"}}"#[..])),
        class("same_version", "a version against itself", SkipReason::SameVersion).change(
            small(9),
            small(9),
            |job| job.to = job.from.clone().unwrap_or(VersionRef::Uuid(Uuid::nil())),
        ),
    ]
}

const LATIN_1: &str = "text/html; charset=iso-8859-1";

/// What took the old service seconds to minutes, or all memory, and is analysed here.
fn slow_for_the_old(site: &Site) -> Vec<Case> {
    let class = |name, title| Class::new(site, name, title, Ending::Done);
    vec![
        class("blank_run", "100,000 spaces after a newline (quadratic pattern)")
            .pair(Body::html(poison::blank_run(100_000, "b")), Body::html(poison::blank_run(100_000, "c"))),
        class("nested_divs", "200,000 nested divs (deep recursion)").pair(
            Body::html(poison::nested_divs(200_000, "inside")),
            Body::html(poison::nested_divs(200_000, "still inside")),
        ),
        class("links", "12,000 links with the same targets and changed texts").pair(
            Body::html(poison::links(12_000, "Read more about item")),
            Body::html(poison::links(12_000, "All there is on item")),
        ),
        class("unrelated", "two unrelated pages of 5 MB").pair(unrelated(1), unrelated(2)),
    ]
}

/// What must be buried at once: it would be the same the next time.
fn lying(site: &Site) -> Vec<Case> {
    let class = |name, title, kind| Class::new(site, name, title, Ending::Dead(kind));
    let inside = "/redirect-to?u=http%3A%2F%2F169.254.169.254%2Flatest%2Fmeta-data%2F";
    vec![
        class("gzip_bomb", "a gzip bomb: 1 MB that becomes 1 GB", Kind::DecompressionBomb)
            .pair(poison::gzip_bomb(BOMB_BYTES), small(20)),
        class("endless", "a chunked body that passes the cap", Kind::TooLarge)
            .pair(Resource::Endless, small(21)),
        class("redirect_inside", "a redirect to 169.254.169.254", Kind::ForbiddenAddress)
            .at(site.url(inside), small(22)),
        class("redirect_loop", "a redirect to itself", Kind::TooManyRedirects)
            .at(site.url("/loop"), small(23)),
        class("gone", "a body that is gone (404)", Kind::Gone).pair(Resource::Status(404), small(24)),
        class("wrong_hash", "a body that is not the one captured", Kind::HashMismatch).change(
            small(25),
            small(26),
            |job| {
                versions(job).into_iter().for_each(|version| version.body_hash = Some(hash(b"another body")))
            },
        ),
    ]
}

/// Sites in trouble: tried again, for a while.
fn unwell(site: &Site) -> Vec<Case> {
    let class = |name, title, ending| Class::new(site, name, title, ending);
    let recovers = Resource::FailsFirst { times: 2, status: 503, then: small(30) };
    let short = Resource::Short { body: small(31), missing: 10_000 };
    let exhausted = Ending::Dead(Kind::Exhausted);
    vec![
        class("recovers", "a 503 that recovers on the third try", Ending::DoneAfterRetries)
            .pair(recovers, small(32)),
        class("short", "a body shorter than its Content-Length", exhausted).pair(short, small(33)),
        class("hang", "a server that never answers", exhausted).pair(Resource::Hang, small(34)),
    ]
}

/// Payloads that are no job, or none that this worker can do.
fn unreadable(site: &Site) -> Vec<Case> {
    let class = |name, title, kind, payloads: &[&[u8]]| Case {
        jobs: payloads.iter().map(|payload| payload.to_vec()).collect(),
        ..Class::new(site, name, title, Ending::Dead(kind)).case
    };
    let pair = br#"{"v":1,"id":"demo-no_api-0","from":"00000000-0000-4000-8000-000000000001","to":"00000000-0000-4000-8000-000000000002"}"#;
    let future =
        br#"{"v":2,"id":"demo-version_2-0","pair":["00000000-0000-4000-8000-000000000003","latest"]}"#;
    let broken: [&[u8]; 3] = [br#"{"v":1,"from":"0000"#, b"\xFF\xFE{\x00}", br#"["a list","is no job"]"#];
    vec![
        class("not_json", "undecodable JSON", Kind::Decode, &broken),
        class("version_2", "a job of a version to come", Kind::UnsupportedVersion, &[future]),
        class("no_api", "only uuids, and no db API to ask", Kind::BadReference, &[pair]),
    ]
}

/// Honest work under limits that are too small for it: the child is killed, and only the child.
fn over_limits(site: &Site) -> Vec<Case> {
    let class = |name, title, kind| Class::new(site, name, title, Ending::Dead(kind));
    vec![
        // Parsing 10 MB alone takes several times as long on the fastest machine.
        class("wall", "5 MB pages under a wall clock of 30 ms", Kind::WallExceeded).change(
            unrelated(3),
            unrelated(4),
            |job| job.limits.wall_ms = Some(30),
        ),
        // The two bodies and their decoded text alone are 20 MB.
        class("memory", "5 MB pages under a heap of 16 MiB", Kind::MemoryExceeded).change(
            unrelated(5),
            unrelated(6),
            |job| job.limits.heap_bytes = Some(16 << 20),
        ),
    ]
}

/// A page of 20 kB.
fn small(seed: u64) -> Body {
    Body::html(pages::pair(1_000 + seed, 20_000).0)
}

/// A page of 5 MB that shares no sentence with that of another seed.
fn unrelated(seed: u64) -> Body {
    Body::html(pages::pair(2_000 + seed, 5_000_000).0)
}

fn id(class: &str, n: usize) -> JobId {
    let id = JobId::parse(&format!("demo-{class}-{n}"));
    id.unwrap_or_else(|_| unreachable!("class names are plain and short"))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Both versions of a job that carries them whole.
fn versions(job: &mut Job) -> Vec<&mut Version> {
    let both = job.from.iter_mut().chain([&mut job.to]);
    let whole = both.filter_map(|version| match version {
        VersionRef::Whole(version) => Some(version.as_mut()),
        VersionRef::Uuid(_) => None,
    });
    whole.collect()
}

/// A case in the making.
struct Class<'a> {
    site: &'a Site,
    case: Case,
}

impl<'a> Class<'a> {
    fn new(site: &'a Site, name: &'static str, title: &'static str, expected: Ending) -> Self {
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
        VersionRef::Whole(Box::new(version))
    }
}
