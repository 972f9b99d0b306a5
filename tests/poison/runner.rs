//! The default limits, children of the real binary, and two documents on their way through one.

use std::sync::{Mutex, PoisonError};

use wm_analyzer::config::{Config, ConfigSources, LoadedConfig};
use wm_analyzer::job::analysis_request::{AnalysisReply, AnalysisRequest, AnalysisSummary, BodyInput};
use wm_analyzer::job::failure::Failure;
use wm_analyzer::job::measured::ChildUsage;
use wm_analyzer::job::report::DiffName;
use wm_analyzer::pipeline::Pipeline;
use wm_analyzer::sandbox::{Limits, Pool, Request, Slot, hooks};

use crate::fixtures::{Body, DiffResult, ExpectedOutcome};

pub(crate) const MIB: u64 = 1 << 20;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_wm-analyzer");

/// Tests share one process, and count what it holds: each has it for itself, its runtime included.
pub(crate) fn run_serially(test: impl Future<Output = ()>) {
    static SERIAL: Mutex<()> = Mutex::new(());
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
}

/// The configuration of somebody who configured nothing, and what it makes of limits.
pub(crate) fn defaults() -> (Config, Pipeline) {
    let config = LoadedConfig::load(&ConfigSources::default()).unwrap().config;
    let pipeline = config.pipeline().unwrap();
    (config, pipeline)
}

/// As many slots as there are processors: a machine that is full, and not more than that.
pub(crate) async fn pool(config: &Config) -> Pool {
    let slots = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    config.pool(u32::try_from(slots).unwrap(), PROGRAM.into()).await.unwrap()
}

/// A job that misbehaves by this hook of the sandbox.
pub(crate) fn act(name: &str) -> Request {
    Request { options: hooks::options(name), ..Request::default() }
}

/// A good job, whose answer is known.
pub(crate) async fn run_good_job(slot: &mut Slot, limits: Limits) {
    let request = Request { a: b"hello ".to_vec(), b: b"world".to_vec(), ..act("echo") };
    let reply = slot.run(request, limits).await.unwrap();
    assert_eq!(reply.product.attachment, b"hello world");
}

/// Two documents as a job would bring them.
pub(crate) fn request(pipeline: &Pipeline, [from, to]: [Body; 2]) -> Request {
    let side = |body: &Body| BodyInput {
        content_type: body.content_type.map(str::to_owned),
        content_encoding: body.content_encoding.clone(),
        body_hash: body.body_hash.map(str::to_owned),
        status: Some(200),
        ..BodyInput::default()
    };
    let order = AnalysisRequest {
        from: side(&from),
        to: side(&to),
        max_decoded_bytes: pipeline.max_decoded_bytes,
        max_result_bytes: 0,
    };
    Request { options: serde_json::to_vec(&order).unwrap(), a: from.bytes, b: to.bytes }
}

/// What became of two documents, and what that took.
pub(crate) async fn analyse(
    slot: &mut Slot,
    request: Request,
    limits: Limits,
) -> (Result<AnalysisReply, Failure>, ChildUsage) {
    match slot.run(request, limits).await {
        Ok(reply) => (Ok(serde_json::from_slice(&reply.product.answer).unwrap()), reply.measured),
        Err(failure) => {
            let measured = failure.measured.clone().unwrap_or_else(|| panic!("no evidence: {failure:?}"));
            (Err(failure), *measured)
        }
    }
}

/// The same as one word.
pub(crate) fn outcome_of(answer: &Result<AnalysisReply, Failure>) -> ExpectedOutcome {
    match answer {
        Ok(AnalysisReply::Analysed(summary)) => ExpectedOutcome::Reported(diff_results(summary)),
        Ok(AnalysisReply::Skipped { reason, .. }) => ExpectedOutcome::Skipped((*reason).into()),
        Ok(AnalysisReply::Failed { kind, .. }) => ExpectedOutcome::Dead((*kind).into()),
        Err(failure) => ExpectedOutcome::Dead(failure.kind),
    }
}

/// What became of each diff.
fn diff_results(report: &AnalysisSummary) -> [DiffResult; 3] {
    let changes = &report.changes;
    let each = [
        (DiffName::HtmlTextDmp, changes.html_text_dmp.as_ref().map(|diff| diff.approximate)),
        (DiffName::HtmlSourceDmp, changes.html_source_dmp.as_ref().map(|diff| diff.approximate)),
        (DiffName::LinksJson, changes.links_json.as_ref().map(|diff| diff.approximate)),
    ];
    let any = each.iter().any(|(_, approximate)| *approximate == Some(true));
    assert_eq!(report.approximate, any, "a report is what its diffs are");
    each.map(|(name, approximate)| {
        let is_missing = report.missing.iter().any(|missing| missing.diff == name);
        assert_eq!(
            is_missing,
            approximate.is_none(),
            "what is missing, and nothing else, is said to be: {name}"
        );
        match approximate {
            None => DiffResult::Missing,
            Some(true) => DiffResult::Approximate,
            Some(false) => DiffResult::Exact,
        }
    })
}
