//! One job's way, as a steps line: resolve, filter by address, fetch both, analyse in a child, deliver.
//!
//! No loops, no retries, no Redis. Every room's error is an [`EarlyExit`], and `?` is the exit door of every room. What
//! follows from the result is decided elsewhere, and so is whether the way is free: a [`LeaseGate`] is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{self, Api};
use crate::fetch::Fetcher;
use crate::filter;
use crate::job::analysis_request::{AnalysisReply, AnalysisRequest, BodyInput};
use crate::job::duration::millis;
use crate::job::failure::{Failure, FailureKind, Stage};
use crate::job::outcome::{EarlyExit, Outcome};
use crate::job::page::{Bodies, Body, PagePair, Version};
use crate::job::report::{BodyFacts, Report, Timings};
use crate::job::skip::Skip;
use crate::job::text::sha256_hex;
use crate::job::verdict::PostponeReason;
use crate::job::{Job, LimitsRequest};
use crate::sandbox::{Limits, Reply, Request, Slot};

/// The rooms that one job passes, and what they are told.
#[derive(Clone)]
pub struct Pipeline {
    /// The db app, where one is configured.
    pub api: Option<Arc<Api>>,
    /// What is not worth fetching.
    pub filter: filter::Config,
    /// The way to the bodies.
    pub fetcher: Fetcher,
    /// Limits of a child, before a job lowers them.
    pub limits: Limits,
    /// How far an operator may raise them.
    pub ceiling: Limits,
    /// Cap on each decompressed body in bytes; enforced in the child.
    pub max_decoded_bytes: u64,
    /// Largest step list of one diff, as JSON bytes, that a report carries.
    pub max_steps_bytes: u64,
    /// Changed passages that a report quotes.
    pub max_passages: u16,
}

/// The right to go on, asked at the two places where a job's way leads out of this house.
pub trait LeaseGate {
    /// Before its hosts are visited: stops what must not run beside others, or would be one visitor too many.
    fn start(&self, pair: &PagePair) -> impl Future<Output = Result<(), Interrupted>> + Send;
    /// The job has come to another slow room, where it may stay for so long: told, not asked.
    fn stage_started(&self, stage: Stage, limit: Option<Duration>);
    /// Right before something is written outside: fails where the job is no longer ours.
    fn confirm(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Why a job did not come to the end of its way.
#[derive(Debug)]
pub enum Interrupted {
    /// A room stopped it.
    Stopped(EarlyExit),
    /// The way is not free now.
    Postponed(PostponeReason),
}

impl From<EarlyExit> for Interrupted {
    fn from(stop: EarlyExit) -> Self {
        Self::Stopped(stop)
    }
}

impl From<Skip> for Interrupted {
    fn from(skip: Skip) -> Self {
        Self::Stopped(skip.into())
    }
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self::Stopped(failure.into())
    }
}

/// How a job's way ended, with what was seen on it.
#[derive(Debug)]
pub struct PipelineRun {
    /// The outcome, or what it must wait for before it goes on.
    pub result: Result<Outcome, PostponeReason>,
    /// What was known of the bodies.
    pub bodies: Vec<BodyFacts>,
    /// Where the time went.
    pub timings: StageTimings,
}

impl PipelineRun {
    /// A way that ended before it began.
    pub fn of(outcome: Outcome) -> Self {
        Self { result: Ok(outcome), bodies: Vec::new(), timings: StageTimings::default() }
    }
}

/// Wall-clock time in the slow rooms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimings {
    /// Resolving ids.
    pub resolve: Duration,
    /// Fetching bodies.
    pub fetch: Duration,
    /// In the child.
    pub analyse: Duration,
}

impl StageTimings {
    fn in_millis(self) -> Timings {
        let ms = millis;
        Timings { resolve_ms: ms(self.resolve), fetch_ms: ms(self.fetch), analyse_ms: ms(self.analyse) }
    }
}

impl Pipeline {
    /// Takes one job all the way, or as far as its gate goes.
    ///
    /// `granted` are other limits than the configured ones, by an operator's word.
    pub async fn run(
        &self,
        job: &Job,
        granted: LimitsRequest,
        slot: &mut Slot,
        gate: &impl LeaseGate,
    ) -> PipelineRun {
        let mut run =
            PipelineRun::of(Outcome::Failed(Failure::new(FailureKind::BadReply, "the run did not end")));
        let steps = self.steps(job, granted, slot, gate, &mut run.bodies, &mut run.timings);
        run.result = match steps.await {
            Ok(mut report) => {
                report.timings = Some(run.timings.in_millis());
                Ok(Outcome::Reported(report))
            }
            Err(Interrupted::Stopped(stop)) => Ok(stop.into()),
            Err(Interrupted::Postponed(because)) => Err(because),
        };
        run
    }

    async fn steps(
        &self,
        job: &Job,
        granted: LimitsRequest,
        slot: &mut Slot,
        gate: &impl LeaseGate,
        seen: &mut Vec<BodyFacts>,
        timings: &mut StageTimings,
    ) -> Result<Box<Report>, Interrupted> {
        let limits = self.limits_of(job, granted)?;
        let pair = timed(&mut timings.resolve, api::resolve(self.api.as_deref(), job)).await?;
        filter::filter_by_address(&pair, &self.filter)?;
        gate.start(&pair).await?;
        gate.stage_started(Stage::Fetch, Some(self.fetcher.total_timeout()));
        let bodies = timed(&mut timings.fetch, self.fetcher.pair(&pair)).await?;
        *seen = body_facts(&pair, &bodies);
        gate.stage_started(Stage::Analyse, Some(limits.wall));
        let report = timed(&mut timings.analyse, self.analyse(&pair, bodies, limits, slot)).await?;
        self.deliver(&pair, &report, gate).await?;
        Ok(report)
    }

    /// A producer may lower what is configured; an operator says what it shall be, up to this worker's ceiling.
    fn limits_of(&self, job: &Job, granted: LimitsRequest) -> Result<Limits, Failure> {
        let limits = self.limits.lowered(job.limits).granted(granted, &self.ceiling);
        limits.map_err(|what| Failure::new(FailureKind::Stranded, format!("{what} of this worker")))
    }

    /// The annotation to the db app, where one is to have it, and only while the job is ours.
    async fn deliver(&self, pair: &PagePair, report: &Report, gate: &impl LeaseGate) -> Result<(), Failure> {
        let Some(api) = self.api.as_ref().filter(|api| api.posts()) else { return Ok(()) };
        // A partial annotation looks like one of a page without links or text: the report says what is missing.
        if report.missing.is_empty() || api.posts_partial() {
            gate.stage_started(Stage::Deliver, None);
            gate.confirm().await?;
            api.post_annotation(pair, &report.annotation).await?;
        }
        Ok(())
    }

    /// Both bodies to a child, its report back.
    ///
    /// # Errors
    /// A skip for what the bytes turned out to be; a failure for what became of the child.
    pub async fn analyse(
        &self,
        pair: &PagePair,
        bodies: Bodies,
        limits: Limits,
        slot: &mut Slot,
    ) -> Result<Box<Report>, EarlyExit> {
        let analysis_request = AnalysisRequest {
            page: pair.page,
            from: body_input(&pair.from, &bodies.from),
            to: body_input(&pair.to, &bodies.to),
            max_decoded_bytes: self.max_decoded_bytes,
            max_ops_bytes: self.max_steps_bytes,
            max_passages: self.max_passages,
        };
        let options = serde_json::to_vec(&analysis_request)
            .map_err(|e| Failure::new(FailureKind::BadReply, e.to_string()))?;
        let request = Request { options, a: bodies.from.bytes, b: bodies.to.bytes };
        let reply = slot.run(request, limits).await?;
        parse_reply(reply, pair)
    }
}

/// Reads the child's answer, believing it nothing that a hostile page could gain from.
fn parse_reply(reply: Reply, pair: &PagePair) -> Result<Box<Report>, EarlyExit> {
    let bad = |what: String| Failure {
        measured: Some(Box::new(reply.measured.clone())),
        ..Failure::new(FailureKind::BadReply, what)
    };
    let answer = serde_json::from_slice(&reply.body)
        .map_err(|e| bad(format!("the child's answer is not one: {e}")))?;
    match answer {
        AnalysisReply::Reported(report) if (report.from, report.to) != (pair.from.uuid, pair.to.uuid) => {
            Err(bad("the child's report is about another pair".to_owned()).into())
        }
        AnalysisReply::Reported(mut report) => {
            report.measured = Some(reply.measured);
            Ok(report)
        }
        AnalysisReply::Skipped(skip) => Err(Skip { measured: Some(Box::new(reply.measured)), ..skip }.into()),
        AnalysisReply::Failed(failure)
            if matches!(failure.kind, FailureKind::DecompressionBomb | FailureKind::HashMismatch) =>
        {
            Err(Failure { measured: Some(Box::new(reply.measured)), ..failure }.into())
        }
        AnalysisReply::Failed(failure) => {
            Err(bad(format!("the child may not judge itself {}", failure.kind)).into())
        }
    }
}

fn body_input(version: &Version, body: &Body) -> BodyInput {
    BodyInput {
        uuid: version.uuid,
        url: version.body_url.to_string(),
        media_type: version.media_type.clone(),
        content_type: body.content_type.clone(),
        content_encoding: body.content_encoding.clone(),
        body_hash: version.body_hash.clone(),
        status: version.worst_status(),
    }
}

/// What is known of both bodies before a child has seen them.
pub fn body_facts(pair: &PagePair, bodies: &Bodies) -> Vec<BodyFacts> {
    let raw = [&bodies.from, &bodies.to];
    pair.sides()
        .into_iter()
        .zip(raw)
        .map(|((side, version), body)| BodyFacts {
            side,
            url: version.body_url.to_string(),
            wire_bytes: body.bytes.len() as u64,
            wire_sha256: Some(sha256_hex(&body.bytes)),
            decoded_bytes: None,
            declared: version.media_type.clone().or_else(|| body.content_type.clone()),
            sniffed: None,
            encoding: None,
        })
        .collect()
}

async fn timed<T>(timings: &mut Duration, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.await;
    *timings = start.elapsed();
    done
}
