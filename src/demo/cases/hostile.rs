//! The hostile and the skippable: every class that the demo shows besides good pairs, and how it must end.
//!
//! Invariant: a class is honest input; nothing in it knows how it will be caught.
//!
//! # Why
//! The jobs that must be killed do honest work under limits of their own that are too small for it: a hang
//! made for the occasion would prove less. What killed the old service and is linear here is shown as
//! analysed.

use std::sync::Arc;

use uuid::Uuid;

use super::{Case, CaseBuilder, CaseOutcome, versions};
use crate::job::VersionRef;
use crate::job::failure::FailureKind;
use crate::job::skip::SkipReason;
use crate::job::text::sha256_hex;
use wm_testbed::body::Body;
use wm_testbed::site::{Resource, Site};
use wm_testbed::{pages, poison};

/// What the bomb becomes: a hundred times the cap.
const BOMB_BYTES: u64 = 1 << 30;

/// Every other class, in the order in which the scenario runs them.
pub fn hostile(site: &Site) -> Vec<Case> {
    [
        not_pages(site),
        slow_for_old_service(site),
        permanent_failures(site),
        transient_failures(site),
        invalid_payloads(site),
        over_limits(site),
    ]
    .concat()
}

/// What must be skipped: by its references, or by its bytes.
fn not_pages(site: &Site) -> Vec<Case> {
    let class = |name, title, reason| CaseBuilder::new(site, name, title, CaseOutcome::Skipped(reason));
    let pdf: Arc<[u8]> = poison::pdf(1, 3_500_000).into();
    let (page, _) = pages::pair(1, 150_000);
    vec![
        // In 2018 no media type was declared, and a page was presumed.
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
            |job| job.to = job.from.given().cloned().unwrap_or(VersionRef::Uuid(Uuid::nil())),
        ),
    ]
}

const LATIN_1: &str = "text/html; charset=iso-8859-1";

/// What took the old service seconds to minutes, or all memory, and is analysed here.
fn slow_for_old_service(site: &Site) -> Vec<Case> {
    let class = |name, title| CaseBuilder::new(site, name, title, CaseOutcome::Done);
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
fn permanent_failures(site: &Site) -> Vec<Case> {
    let class = |name, title, kind| CaseBuilder::new(site, name, title, CaseOutcome::Dead(kind));
    let inside = "/redirect-to?u=http%3A%2F%2F169.254.169.254%2Flatest%2Fmeta-data%2F";
    vec![
        class("gzip_bomb", "a gzip bomb: 1 MB that becomes 1 GB", FailureKind::DecompressionBomb)
            .pair(poison::gzip_bomb(BOMB_BYTES), small(20)),
        class("endless", "a chunked body that passes the cap", FailureKind::TooLarge)
            .pair(Resource::Endless, small(21)),
        class("redirect_inside", "a redirect to 169.254.169.254", FailureKind::ForbiddenAddress)
            .at(site.url(inside), small(22)),
        class("redirect_loop", "a redirect to itself", FailureKind::TooManyRedirects)
            .at(site.url("/loop"), small(23)),
        class("gone", "a body that is gone (404)", FailureKind::Gone).pair(Resource::Status(404), small(24)),
        class("wrong_hash", "a body that is not the one captured", FailureKind::HashMismatch).change(
            small(25),
            small(26),
            |job| {
                versions(job)
                    .into_iter()
                    .for_each(|version| version.body_hash = Some(sha256_hex(b"another body")))
            },
        ),
    ]
}

/// Sites in trouble: tried again, for a while.
fn transient_failures(site: &Site) -> Vec<Case> {
    let class = |name, title, ending| CaseBuilder::new(site, name, title, ending);
    let recovers = Resource::FailsFirst { times: 2, status: 503, then: small(30) };
    let short = Resource::Short { body: small(31), missing: 10_000 };
    let exhausted = CaseOutcome::Dead(FailureKind::Exhausted);
    vec![
        class("recovers", "a 503 that recovers on the third try", CaseOutcome::DoneAfterRetries)
            .pair(recovers, small(32)),
        class("short", "a body shorter than its Content-Length", exhausted).pair(short, small(33)),
        class("hang", "a server that never answers", exhausted).pair(Resource::Hang, small(34)),
    ]
}

/// Payloads that are no job, or none that this worker can do.
fn invalid_payloads(site: &Site) -> Vec<Case> {
    let class = |name, title, kind, payloads: &[&[u8]]| Case {
        jobs: payloads.iter().map(|payload| payload.to_vec()).collect(),
        ..CaseBuilder::new(site, name, title, CaseOutcome::Dead(kind)).case
    };
    let pair = br#"{"v":1,"id":"demo-no_api-0","from":"00000000-0000-4000-8000-000000000001","to":"00000000-0000-4000-8000-000000000002"}"#;
    let future =
        br#"{"v":2,"id":"demo-version_2-0","pair":["00000000-0000-4000-8000-000000000003","latest"]}"#;
    let broken: [&[u8]; 3] = [br#"{"v":1,"from":"0000"#, b"\xFF\xFE{\x00}", br#"["a list","is no job"]"#];
    vec![
        class("not_json", "undecodable JSON", FailureKind::Decode, &broken),
        class("version_2", "a job of a version to come", FailureKind::UnsupportedVersion, &[future]),
        class("no_api", "only uuids, and no db API to ask", FailureKind::BadReference, &[pair]),
    ]
}

/// Honest work under limits that are too small for it: the child is killed, and only the child.
fn over_limits(site: &Site) -> Vec<Case> {
    let class = |name, title, kind| CaseBuilder::new(site, name, title, CaseOutcome::Dead(kind));
    vec![
        // Parsing 10 MB alone takes several times as long on the fastest machine.
        class("wall", "5 MB pages under a wall clock of 30 ms", FailureKind::WallExceeded).change(
            unrelated(3),
            unrelated(4),
            |job| job.limits.wall_ms = Some(30),
        ),
        // The two bodies and their decoded text alone are 20 MB.
        class("memory", "5 MB pages under a heap of 16 MiB", FailureKind::MemoryExceeded).change(
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
