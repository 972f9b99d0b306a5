//! `diff A B`, `diff --job ID`: one pair through the same filter, sandbox and analysis as in the worker.
//!
//! It is what a dead letter's reproduction command runs, so it must not be kinder than the worker.

mod job;

use std::path::Path;

use url::Url;
use uuid::Uuid;

use super::Exit;
use super::render::{self, BAD, BOLD, DIM, GOOD, WARN, sanitize, styled};
use crate::filter;
use crate::job::failure::{Blame, Failure, FailureKind};
use crate::job::measured::ChildUsage;
use crate::job::outcome::{EarlyExit, Outcome};
use crate::job::page::{Bodies, Body, PagePair, Side, Version};
use crate::job::redact::page_address;
use crate::job::report::{Diff, LinkOp, Op, Report};
use crate::job::{Job, LimitsRequest};
use crate::pipeline::Pipeline;
use crate::sandbox::{Limits, Pool};

/// Changes shown for each diff; the rest is counted.
const MAX_SHOWN: usize = 20;
/// Characters of unchanged text shown on each side of a change.
const CONTEXT_CHARS: usize = 30;
/// Characters of one change that are shown.
const CHANGE_CHARS: usize = 200;

/// What to compare and how to tell.
pub struct DiffOptions {
    /// The pair.
    pub compared: Compared,
    /// Other limits than the configured ones.
    pub limits: LimitsRequest,
    /// Print the report as JSON.
    pub json: bool,
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
    let outcome = match compare(sources, hashes, limits, pipeline, pool).await {
        Ok(report) => Outcome::Reported(report),
        Err(stop) => stop.into(),
    };
    conclude(&outcome, options)
}

/// Prints the outcome; its exit code.
fn conclude(outcome: &Outcome, options: &DiffOptions) -> Exit {
    if options.json {
        render::json(&as_json(outcome));
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
) -> Result<Box<Report>, EarlyExit> {
    [from.body_hash, to.body_hash] = hashes.clone();
    let pair = PagePair { page: None, from, to };
    filter::filter_by_type(&pair, &pipeline.filter)?;
    let bodies = Bodies {
        from: body(from_body, &pair.from, Side::From, pipeline).await?,
        to: body(to_body, &pair.to, Side::To, pipeline).await?,
    };
    let mut slot = pool.acquire().await;
    pipeline.analyse(&pair, bodies, limits, &mut slot).await
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
        Outcome::Reported(report) => print_report(report, options.verbose),
        Outcome::Skipped(skip) => {
            render::line(format!(
                "{}  {}",
                styled(WARN, format!("skipped: {}", skip.reason)),
                sanitize(&skip.detail, 500)
            ));
            if options.verbose {
                print_child_usage(skip.measured.as_deref());
            }
        }
        Outcome::Failed(failure) => {
            let word = if failure.kind.blame() == Blame::Job { "poison" } else { "failed" };
            render::line(format!(
                "{}  {}",
                styled(BAD, format!("{word}: {}", failure.kind)),
                sanitize(&failure.detail, 500)
            ));
            print_child_usage(failure.measured.as_deref());
        }
    }
}

fn print_report(report: &Report, verbose: bool) {
    let about = if report.approximate { "  (approximate)" } else { "" };
    render::line(styled(BOLD, format!("analysed  priority {:.4}{about}", report.annotation.priority)));
    let (text, source, links) =
        (&report.annotation.text, &report.annotation.source, &report.annotation.links);
    if let Some(n) = text {
        print_heading("text", n.text_diff_count, Some(n.text_diff_length), n.text_diff_ratio);
        print_steps(report.diffs.html_text_dmp.as_ref());
    }
    if let Some(n) = links {
        print_heading("links", n.links_diff_count, None, n.links_diff_ratio);
        print_links(report.diffs.links_json.as_ref());
    }
    if let Some(n) = source {
        print_heading("source", n.source_diff_count, Some(n.source_diff_length), n.source_diff_ratio);
        // The source is shown only where nothing visible explains it.
        if text.as_ref().is_none_or(|t| t.text_diff_count == 0) {
            print_steps(report.diffs.html_source_dmp.as_ref());
        }
    }
    for missing in &report.missing {
        render::line(format!(
            "{} {}: {}",
            styled(WARN, "missing"),
            missing.diff,
            sanitize(&missing.skip.detail, 300)
        ));
    }
    if verbose {
        print_child_usage(report.measured.as_ref());
    }
}

fn print_child_usage(measured: Option<&ChildUsage>) {
    let Some(measured) = measured else { return };
    render::line(styled(DIM, format!("child  {}", render::format_measured(measured))));
    if let Some(words) = &measured.stderr {
        render::line(styled(DIM, format!("stderr {}", sanitize(words, 2500))));
    }
}

fn print_heading(name: &str, count: u64, characters: Option<u64>, ratio: f64) {
    let characters = characters.map_or(String::new(), |n| format!("  {n} characters"));
    let plural = if count == 1 { "change" } else { "changes" };
    render::line(format!(
        "{}{characters}  ratio {ratio:.4}",
        styled(BOLD, format!("{name:<7}{count} {plural}"))
    ));
}

fn print_steps(diff: Option<&Diff<Op>>) {
    let Some(steps) = diff.and_then(|diff| diff.diff.as_ref()) else { return };
    let mut shown = 0;
    let mut open = false;
    for (at, Op(code, text)) in steps.iter().enumerate() {
        if *code == 0 {
            if open {
                render::line(styled(DIM, sanitize(&head(text, CONTEXT_CHARS), 4 * CONTEXT_CHARS)));
                open = false;
            }
            continue;
        }
        if shown == MAX_SHOWN {
            let rest = steps[at..].iter().filter(|Op(code, _)| *code != 0).count();
            return render::line(styled(DIM, format!("{}  … {rest} more", if open { "\n" } else { "" })));
        }
        if !open {
            let before = at.checked_sub(1).map_or("", |before| steps[before].1.as_str());
            render::text(format!(
                "  {}",
                styled(DIM, sanitize(&tail(before, CONTEXT_CHARS), 4 * CONTEXT_CHARS))
            ));
            open = true;
        }
        render::text(highlight(*code, text));
        shown += 1;
    }
    if open {
        render::line("");
    }
}

/// A change in the form of a word diff: `[-gone-]{+come+}`, coloured where there is colour.
fn highlight(code: i8, text: &str) -> String {
    let text = sanitize(&text.chars().map(visible_line_end).collect::<String>(), CHANGE_CHARS);
    if code < 0 { styled(BAD, format!("[-{text}-]")) } else { styled(GOOD, format!("{{+{text}+}}")) }
}

fn print_links(diff: Option<&Diff<LinkOp>>) {
    let Some(steps) = diff.and_then(|diff| diff.diff.as_ref()) else { return };
    let changed = steps.iter().filter(|step| !matches!(step, LinkOp::Plain(0, _)));
    for step in changed.clone().take(MAX_SHOWN) {
        render::line(match step {
            LinkOp::Plain(code, link) => {
                let (style, sign) = if *code < 0 { (BAD, '-') } else { (GOOD, '+') };
                styled(
                    style,
                    format!("  {sign} {} -> {}", sanitize(&link.text, 80), sanitize(&link.href, 120)),
                )
            }
            LinkOp::Changed(_, link) => {
                let text: String =
                    link.text.iter().map(|Op(code, text)| highlight_or_plain(*code, text)).collect();
                let href: String =
                    link.href.iter().map(|Op(code, text)| highlight_or_plain(*code, text)).collect();
                format!("  {} {text} -> {href}", styled(WARN, "~"))
            }
        });
    }
    let rest = changed.count().saturating_sub(MAX_SHOWN);
    if rest > 0 {
        render::line(styled(DIM, format!("  … {rest} more")));
    }
}

fn highlight_or_plain(code: i8, text: &str) -> String {
    if code == 0 { sanitize(text, CHANGE_CHARS) } else { highlight(code, text) }
}

fn head(text: &str, chars: usize) -> String {
    text.chars().take(chars).map(visible_line_end).collect()
}

fn tail(text: &str, chars: usize) -> String {
    let count = text.chars().count();
    text.chars().skip(count.saturating_sub(chars)).map(visible_line_end).collect()
}

/// A line end that takes one column, so that a change stays on one line.
fn visible_line_end(c: char) -> char {
    if c == '\n' { '↵' } else { c }
}
