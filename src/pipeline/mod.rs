//! One job as a straight line of stages: resolve, filter by address, fetch both bodies, analyse in a child, store the
//! whole result, deliver.
//!
//! No loops, no retries, no Redis. Every stage fails with an [`EarlyExit`], so that `?` ends the pipeline.
//! The consequences are decided elsewhere, and so is whether the job may proceed: that is up to a
//! [`LeaseGate`].
//!
//! Invariant: a slot is held only while a child runs. Neither a host that is fetched from nor the results store nor the
//! db app is waited for with one in hand, except where more results wait for them than calls may be open.

mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use uuid::Uuid;

use self::bodies::body_input;
pub(crate) use self::bodies::with_facts;
use crate::api::{self, Api};
use crate::fetch::{FetchedPair, Fetcher};
use crate::filter;
use crate::job::analysis_request::{AnalysisReply, AnalysisRequest};
use crate::job::duration::millis;
use crate::job::failure::{Failure, FailureKind, Stage};
use crate::job::measured::ChildUsage;
use crate::job::outcome::{EarlyExit, Outcome};
use crate::job::page::{Bodies, PagePair};
use crate::job::report::{ANALYSIS_VERSION, BodyFacts, Report, Timings};
use crate::job::skip::Skip;
use crate::job::stored_result::StoredResult;
use crate::job::text::clip;
use crate::job::verdict::PostponeReason;
use crate::job::{Job, LimitsRequest};
use crate::results::{ResultKey, ResultStore, WriteTurn};
use crate::sandbox::{Limits, Meter, Pool, Reply, Request, Slot};

/// Longest sentence about a reply that cannot be read, which may quote it, in characters.
const DETAIL_MAX_CHARS: usize = 500;
/// The answer that is parsed where it was read: some 50 us of JSON.
const READ_HERE_MAX_BYTES: usize = 16 * 1024;

/// The stages of one job and their configuration.
#[derive(Clone)]
pub struct Pipeline {
    /// Client of the db app, if one is configured.
    pub api: Option<Arc<Api>>,
    /// Store of whole results, if one is configured.
    pub results: Option<ResultStore>,
    /// Rules for what is not worth fetching.
    pub filter: filter::Config,
    /// HTTP client for the bodies.
    pub fetcher: Fetcher,
    /// Default limits of a child; a producer can lower them.
    pub limits: Limits,
    /// Upper bound to which an operator can raise them.
    pub ceiling: Limits,
    /// Limit on each decompressed body in bytes; enforced in the child.
    pub max_decoded_bytes: u64,
    /// Limit on the whole result in bytes, compressed; 0 asks a child for none.
    pub max_result_bytes: u64,
    /// Reports that may wait for the db app without a slot: as many as calls may be open.
    pub deliveries: Arc<Semaphore>,
}

/// Permission to proceed, checked before a job contacts an outside host and before it writes anything.
pub trait LeaseGate {
    /// Called before fetching: stops a job that must run alone, or whose host is at its limit.
    fn start(&self, pair: &PagePair) -> impl Future<Output = Result<(), Interrupted>> + Send;
    /// Called when the job enters another slow stage, with its time limit there; cannot fail.
    fn stage_started(&self, stage: Stage, limit: Option<Duration>);
    /// Called right before a child is given the bodies, with its limit and the meter of its memory: a worker
    /// that vanishes from then on may have died of them. Fails if the lease is lost.
    fn enter_child(&self, limit: Duration, meter: Meter) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Called right before an external write: fails if the lease is lost.
    fn confirm(&self) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Whether an earlier delivery of the job may have posted its annotation.
    fn may_have_posted(&self) -> bool;
}

/// Why a job did not reach the end of the pipeline.
#[derive(Debug)]
pub enum Interrupted {
    /// A stage stopped it.
    Stopped(EarlyExit),
    /// The job must wait before it can proceed.
    Postponed(PostponeReason),
}

impl<T: Into<EarlyExit>> From<T> for Interrupted {
    fn from(stop: T) -> Self {
        Self::Stopped(stop.into())
    }
}

/// The result of one pipeline run.
#[derive(Debug)]
pub struct PipelineRun {
    /// The outcome, or what the job must wait for before it can proceed.
    pub result: Result<Outcome, PostponeReason>,
    /// The older and the newer version, once they are known.
    pub versions: Option<[Uuid; 2]>,
    /// The older one is known to be its page's first.
    pub from_is_earliest: bool,
    /// Metadata of the bodies, as far as they were fetched.
    pub bodies: Vec<BodyFacts>,
    /// Time spent in each slow stage.
    pub timings: StageTimings,
}

impl PipelineRun {
    /// A run that ended before its first stage.
    pub fn of(outcome: Outcome) -> Self {
        Self {
            result: Ok(outcome),
            versions: None,
            from_is_earliest: false,
            bodies: Vec::new(),
            timings: StageTimings::default(),
        }
    }
}

/// Wall-clock time of each slow stage; zero if it was not reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimings {
    /// Looking up the versions in the db app.
    pub resolve: Duration,
    /// Fetching both bodies, concurrently.
    pub fetch: Duration,
    /// Running in the child.
    pub analyse: Duration,
    /// Writing the whole result to the results store; zero unless it was written.
    pub store: Duration,
}

impl StageTimings {
    fn in_millis(self) -> Timings {
        let ms = millis;
        Timings { resolve_ms: ms(self.resolve), fetch_ms: ms(self.fetch), analyse_ms: ms(self.analyse) }
    }
}

impl Pipeline {
    /// Runs one job to its end, or until its gate stops it.
    ///
    /// `granted` are limits that an operator set for this job; they replace the configured ones.
    pub async fn run(
        &self,
        job: &Job,
        granted: LimitsRequest,
        pool: &Pool,
        gate: &impl LeaseGate,
    ) -> PipelineRun {
        let mut run =
            PipelineRun::of(Outcome::Failed(Failure::new(FailureKind::BadReply, "the run did not end")));
        let ended = self.steps(job, granted, pool, gate, &mut run).await;
        run.result = match ended {
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
        pool: &Pool,
        gate: &impl LeaseGate,
        run: &mut PipelineRun,
    ) -> Result<Box<Report>, Interrupted> {
        let PipelineRun { versions, from_is_earliest, bodies: seen, timings, .. } = run;
        let limits = self.limits_of(job, granted)?;
        let pair = timed(&mut timings.resolve, api::resolve(self.api.as_deref(), job)).await?;
        (*versions, *from_is_earliest) = (Some([pair.from.uuid, pair.to.uuid]), pair.from_is_earliest);
        filter::filter_by_address(&pair, &self.filter)?;
        gate.start(&pair).await?;
        gate.stage_started(Stage::Fetch, Some(self.fetcher.total_timeout()));
        let FetchedPair { bodies, held } = timed(&mut timings.fetch, self.fetch(&pair)).await?;
        let (bodies, facts) = with_facts(&pair, bodies).await?;
        *seen = facts.clone();
        gate.stage_started(Stage::Queue, None);
        let mut slot = pool.acquire().await;
        drop(held); // the slot's own buffers hold the bodies from here on
        gate.enter_child(limits.wall, slot.meter()).await?;
        let analysed =
            timed(&mut timings.analyse, self.analyse(&pair, bodies, facts, limits, &mut slot)).await?;
        let Analysed { mut report, whole } = analysed;
        // Both are waited for with the slot in hand, so that neither whole results pile up in memory before a slow
        // store nor reports before a slow db app.
        let write = match &self.results {
            Some(store) if !whole.is_empty() => Some(store.turn().await?),
            Some(_) | None => None,
        };
        let post = match self.api.as_ref().filter(|api| api.takes(&report)) {
            Some(api) => Some((api, self.deliveries.acquire().await)),
            None => None,
        };
        report.posted = self.api.as_ref().filter(|api| api.posts()).map(|_| false);
        drop(slot);
        if let Some(turn) = write {
            report.result = Some(store_result(turn, &pair, whole, timings, gate).await?);
        }
        if let Some((api, _turn)) = post {
            gate.stage_started(Stage::Deliver, None);
            gate.confirm().await?;
            api.post_annotation(&pair, &report.annotation, gate.may_have_posted()).await?;
            report.posted = Some(true);
        }
        Ok(report)
    }

    /// Fetches both bodies, those that the db app keeps itself under our login there.
    async fn fetch(&self, pair: &PagePair) -> Result<FetchedPair, Failure> {
        let Some(api) = &self.api else { return self.fetcher.pair(pair).await };
        let signed = api.raw_headers(pair).await?;
        match self.fetcher.pair_with(pair, &signed.headers).await {
            Err(failure) if failure.kind == FailureKind::ApiRefused => {
                match api.renew_raw_headers(pair, &signed).await? {
                    Some(renewed) => self.fetcher.pair_with(pair, &renewed.headers).await,
                    None => Err(failure),
                }
            }
            ended => ended,
        }
    }

    /// A producer can lower the configured limits; an operator can set any, up to this worker's ceiling.
    fn limits_of(&self, job: &Job, granted: LimitsRequest) -> Result<Limits, Failure> {
        let limits = self.limits.lowered(job.limits).granted(granted, &self.ceiling);
        limits.map_err(|what| Failure::new(FailureKind::Stranded, format!("{what} of this worker")))
    }

    /// Sends both bodies, with what `with_facts` found, to a child and returns what that found.
    ///
    /// # Errors
    /// A skip if the bytes are not a page; a failure if the child failed.
    pub async fn analyse(
        &self,
        pair: &PagePair,
        bodies: Bodies,
        facts: Vec<BodyFacts>,
        limits: Limits,
        slot: &mut Slot,
    ) -> Result<Analysed, EarlyExit> {
        let analysis_request = AnalysisRequest {
            from: body_input(&pair.from, &bodies.from, facts.first()),
            to: body_input(&pair.to, &bodies.to, facts.get(1)),
            max_decoded_bytes: self.max_decoded_bytes,
            max_result_bytes: self.max_result_bytes.min(limits.reply_bytes),
        };
        let mut report = Box::new(Report::of_pair(pair.from.uuid, pair.to.uuid));
        report.page = pair.page;
        report.bodies = facts;
        let options = serde_json::to_vec(&analysis_request)
            .map_err(|e| Failure::new(FailureKind::BadReply, e.to_string()))?;
        let request = Request { options, a: bodies.from.bytes, b: bodies.to.bytes };
        let Reply { product, measured } = slot.run(request, limits).await?;
        let answer = product.answer;
        let read = aside(answer.len() > READ_HERE_MAX_BYTES, move || AnalysisReply::read(&answer)).await;
        let reply = match read.unwrap_or_else(Err) {
            Ok(reply) => reply,
            Err(what) => {
                return Err(bad_reply(format!("the child's reply is malformed: {what}"), measured).into());
            }
        };
        add_reply(reply, &mut report, measured)?;
        for (facts, (_, version)) in report.bodies.iter_mut().zip(pair.sides()) {
            // The hash of the capture, by which the child checked it, says more.
            facts.wire_sha256.take_if(|_| version.body_hash.is_some());
        }
        // An unrequested attachment is dropped.
        let whole = if analysis_request.max_result_bytes > 0 { product.attachment } else { Vec::new() };
        Ok(Analysed { report, whole })
    }
}

/// What a child found.
#[derive(Debug)]
pub struct Analysed {
    /// The report.
    pub report: Box<Report>,
    /// The whole result as the child wrote it, never looked into; empty if it was not asked for, or too large.
    pub whole: Vec<u8>,
}

fn bad_reply(detail: String, measured: ChildUsage) -> Failure {
    let detail = clip(&detail, DETAIL_MAX_CHARS);
    Failure { measured: Some(Box::new(measured)), ..Failure::new(FailureKind::BadReply, detail) }
}

/// Adds what a child said to the report, or ends the job as it said.
fn add_reply(reply: AnalysisReply, report: &mut Report, measured: ChildUsage) -> Result<(), EarlyExit> {
    match reply {
        AnalysisReply::Analysed(summary) => {
            summary.add_to(report);
            report.measured = Some(measured);
            Ok(())
        }
        AnalysisReply::Skipped { reason, detail, side, sniffed } => {
            let measured = Some(Box::new(measured));
            Err(Skip { reason: reason.into(), detail, side, sniffed, measured }.into())
        }
        AnalysisReply::Failed { kind, detail, side } => {
            let failure = Failure::new(kind.into(), detail).on(side);
            Err(Failure { measured: Some(Box::new(measured)), ..failure }.into())
        }
    }
}

/// Does work here, or on another thread if it is long: it then takes milliseconds, which the runtime's threads have
/// not; to hand over what is short takes longer than to do it.
///
/// # Errors
/// The work panicked, or there was no thread for it.
async fn aside<T: Send + 'static>(
    long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match long {
        true => tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string()),
        false => catch_unwind(AssertUnwindSafe(work)).map_err(|_| "it panicked".to_owned()),
    }
}

/// Writes a pair's whole result to the results store, if the lease is still valid, before the annotation is posted
/// and the job settled. The turn is waited for with the slot in hand, and the slot is given back before this call.
///
/// # Errors
/// Those of the store; the gate's where the lease is lost.
pub async fn store_result(
    turn: WriteTurn,
    pair: &PagePair,
    gzip: Vec<u8>,
    timings: &mut StageTimings,
    gate: &impl LeaseGate,
) -> Result<StoredResult, Failure> {
    gate.stage_started(Stage::Store, None);
    gate.confirm().await?;
    let begun = Instant::now();
    let stored = turn.put(&ResultKey::of(pair, ANALYSIS_VERSION), gzip).await?;
    timings.store = begun.elapsed();
    Ok(stored)
}

async fn timed<T>(timings: &mut Duration, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.await;
    *timings = start.elapsed();
    done
}
