//! `diff A B`, `job diff ID`: one pair through the same filter, sandbox and analysis as in the worker.
//!
//! It is what a dead letter's reproduction command runs, so it must not be kinder than the worker.

mod job;

use std::path::Path;

use url::Url;
use uuid::Uuid;

use super::Exit;
use super::render::{self, BAD, DIM, WARN, sanitize, styled};
use super::report;
use crate::filter;
use crate::job::failure::{Blame, Failure, FailureKind};
use crate::job::measured::ChildUsage;
use crate::job::outcome::{EarlyExit, Outcome};
use crate::job::page::{Bodies, Body, PagePair, Side, Version};
use crate::job::redact::page_address;
use crate::job::report::Report;
use crate::job::{Job, LimitsRequest};
use crate::pipeline::{Analysed, Pipeline, with_facts};
use crate::sandbox::{Limits, Pool};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Blanks before the second line of a sentence.
const INDENT: usize = 7;

/// What to compare and how to tell.
pub struct DiffOptions {
    /// The pair.
    pub compared: Compared,
    /// Other limits than the configured ones.
    pub limits: LimitsRequest,
    /// Print the report as JSON.
    pub json: bool,
    /// Show all that the report has.
    pub all: bool,
    /// Print the whole result instead.
    pub whole: bool,
    /// Also say what was measured.
    pub verbose: bool,
    /// Largest file that is read, in bytes.
    pub max_body: u64,
}

/// The pair that is compared.
pub enum Compared {
    /// Two files or URLs.
    Named {
        /// The older version.
        from: String,
        /// The newer version.
        to: String,
        /// SHA-256 in hex of both bodies as they were captured, where known.
        hashes: [Option<String>; 2],
    },
    /// That of a job.
    Job(Box<Job>),
}

/// Compares and prints.
pub async fn run(options: &DiffOptions, pipeline: &Pipeline, pool: &Pool) -> Exit {
    let limits = match pipeline.limits.granted(options.limits, &pipeline.ceiling) {
        Ok(limits) => limits,
        Err(what) => {
            render::error(what);
            return Exit::Usage;
        }
    };
    let (from, to, hashes) = match &options.compared {
        Compared::Named { from, to, hashes } => (from, to, hashes),
        Compared::Job(job) => {
            return conclude(&job::compare(job, options.limits, pipeline, pool).await, options);
        }
    };
    let sources =
        source(from, 1, options.max_body).and_then(|from| Ok([from, source(to, 2, options.max_body)?]));
    let sources = match sources {
        Ok(sources) => sources,
        Err(SourceError::Unreadable(why)) => {
            render::error(why);
            return Exit::Usage;
        }
        Err(SourceError::TooLarge(failure)) => return conclude(&Outcome::Failed(failure), options),
    };
    if options.whole && report::refuse_terminal() {
        return Exit::Usage;
    }
    let outcome = match compare(sources, hashes, limits, pipeline, pool).await {
        Ok(analysed) if options.whole => return report::print_whole(&analysed.whole),
        Ok(analysed) => Outcome::Reported(analysed.report),
        Err(stop) => stop.into(),
    };
    conclude(&outcome, options)
}

/// Prints the outcome; its exit code.
fn conclude(outcome: &Outcome, options: &DiffOptions) -> Exit {
    if options.json {
        render::json(SCHEMA_VERSION, &as_json(outcome));
    } else {
        print_outcome(outcome, options);
    }
    match outcome {
        Outcome::Reported(_) => Exit::Ok,
        Outcome::Skipped(_) => Exit::Skipped,
        Outcome::Failed(failure) if failure.kind.blame() == Blame::Job => Exit::Poison,
        Outcome::Failed(_) => Exit::Failed,
    }
}

/// Why a side that was typed cannot be compared.
enum SourceError {
    /// It cannot be read: a mistake of the caller.
    Unreadable(String),
    /// It is over `fetch.max_body`: the worker would bury this pair, too.
    TooLarge(Failure),
}

async fn compare(
    [(mut from, from_body), (mut to, to_body)]: [(Version, Option<Body>); 2],
    hashes: &[Option<String>; 2],
    limits: Limits,
    pipeline: &Pipeline,
    pool: &Pool,
) -> Result<Analysed, EarlyExit> {
    [from.body_hash, to.body_hash] = hashes.clone();
    let pair = PagePair { page: None, from, to, from_is_earliest: false };
    filter::filter_by_type(&pair, &pipeline.filter)?;
    let bodies = Bodies {
        from: body(from_body, &pair.from, Side::From, pipeline).await?,
        to: body(to_body, &pair.to, Side::To, pipeline).await?,
    };
    let (bodies, facts) = with_facts(&pair, bodies).await?;
    let mut slot = pool.acquire().await;
    pipeline.analyse(&pair, bodies, facts, limits, &mut slot).await
}

/// A version for what was named, with its body where that is a file.
fn source(name: &str, number: u128, max_body: u64) -> Result<(Version, Option<Body>), SourceError> {
    let uuid = Uuid::from_u128(number);
    if let Ok(url) = Url::parse(name)
        && matches!(url.scheme(), "http" | "https")
    {
        return Ok((Version::at(uuid, url), None));
    }
    let unreadable = |e: std::io::Error| SourceError::Unreadable(format!("{}: {e}", page_address(name)));
    let path = Path::new(name).canonicalize().map_err(unreadable)?;
    let size = path.metadata().map_err(unreadable)?.len();
    if size > max_body {
        let detail = format!("{name} has {size} bytes, fetch.max_body is {max_body}");
        return Err(SourceError::TooLarge(Failure::new(FailureKind::TooLarge, detail)));
    }
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    let url =
        Url::from_file_path(&path).map_err(|()| SourceError::Unreadable(format!("{name} is not a path")))?;
    Ok((Version::at(uuid, url), Some(Body { bytes, ..Body::default() })))
}

async fn body(
    read: Option<Body>,
    version: &Version,
    side: Side,
    pipeline: &Pipeline,
) -> Result<Body, Failure> {
    match read {
        Some(body) => Ok(body),
        None => pipeline.fetcher.body(&version.body_url).await.map_err(|failure| failure.on(side)),
    }
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Reported(report) => serde_json::json!({ "outcome": "analysed", "report": report }),
        Outcome::Skipped(skip) => serde_json::json!({ "outcome": "skipped", "skip": skip }),
        Outcome::Failed(failure) => serde_json::json!({ "outcome": "failed", "failure": failure }),
    }
}

fn print_outcome(outcome: &Outcome, options: &DiffOptions) {
    match outcome {
        Outcome::Reported(report) => print_report(report, options),
        Outcome::Skipped(skip) => {
            let what = styled(WARN, format!("skipped: {}", skip.reason));
            render::sentence(&format!("{what}  {}", sanitize(&skip.detail, 500)), INDENT);
            if options.verbose {
                print_child_usage(skip.measured.as_deref());
            }
        }
        Outcome::Failed(failure) => {
            let word = if failure.kind.blame() == Blame::Job { "poison" } else { "failed" };
            let what = styled(BAD, format!("{word}: {}", failure.kind));
            render::sentence(&format!("{what}  {}", sanitize(&failure.detail, 500)), INDENT);
            print_child_usage(failure.measured.as_deref());
        }
    }
}

fn print_report(report: &Report, options: &DiffOptions) {
    report::print(report, options.all);
    if options.verbose {
        print_child_usage(report.measured.as_ref());
    }
}

fn print_child_usage(measured: Option<&ChildUsage>) {
    let Some(measured) = measured else { return };
    render::sentence(&styled(DIM, format!("child  {}", render::format_measured(measured))), INDENT);
    if let Some(words) = &measured.stderr {
        render::sentence(&styled(DIM, format!("stderr {}", sanitize(words, 2500))), INDENT);
    }
}
