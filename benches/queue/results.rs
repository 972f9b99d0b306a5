//! What finished pairs leave in Redis: reports of an analysis, settled as a worker settles them.
//!
//! Of generated pages, or of the real ones in a directory that has a directory for each pair, with `a.html` and `b.html`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;
use wm_analyzer::analysis::child;
use wm_analyzer::job::analysis_request::{AnalysisReply, AnalysisRequest, AnalysisSummary, BodyInput};
use wm_analyzer::job::measured::ChildUsage;
use wm_analyzer::job::page::Side;
use wm_analyzer::job::report::{BodyFacts, Report, TextChanges, Timings};
use wm_analyzer::job::text::sha256_hex;
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::queue::{Claim, Config, WorkerId};
use wm_testbed::pages;
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;

use crate::{job, memory};

/// Finished pairs that are measured.
const PAIRS: usize = 10_000;
/// Tokens of settled deliveries are kept for two leases: so short that none is left when memory is read.
const LEASE: Duration = Duration::from_secs(5);
/// Events are capped, so they are not of any one pair: a cap that is reached at once.
const EVENTS: u64 = 100;

/// Settles [`PAIRS`] analyses and prints what is left of each.
pub(crate) async fn measure(directory: Option<PathBuf>, config: impl Fn(&str) -> Config) {
    let pairs = match &directory {
        Some(directory) => read_pairs(directory),
        None => (0..50).map(|n| generated(n, [3_000, 12_000, 40_000, 120_000][n as usize % 4])).collect(),
    };
    let summaries: Vec<(usize, AnalysisSummary)> =
        pairs.iter().map(|pair| (pair[0].len(), analysed(pair))).collect();
    let redis = PrivateRedis::start(RedisOptions::default().set("maxmemory", "0")).unwrap();
    let config = Config { lease: LEASE, events_max: EVENTS, ..config(&redis.url()) };
    let queue = Roles::connect(&config).await.unwrap();
    let mut eye = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut sizes = Vec::new();
    let mut before = 0;
    let worker = WorkerId::fresh("bench");
    for (n, (bytes, summary)) in summaries.iter().cycle().take(PAIRS + summaries.len()).enumerate() {
        if n == summaries.len() {
            // What the first ones made is not of any one pair: tables, settings, counters.
            before = memory(&mut eye).await;
        }
        let job = job();
        let _ = queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap();
        let Claim::Delivery(delivery) = queue.worker.claim(&worker).await.unwrap() else { panic!("empty") };
        let report = report(&job, *bytes, summary.clone());
        let (from, to) = (report.from, report.to);
        let _ = queue.worker.settle(*delivery, Verdict::Done(Box::new(report))).await.unwrap();
        if n < summaries.len() {
            sizes.push(queue.producer.report(from, to).await.unwrap().unwrap().len());
        }
    }
    tokio::time::sleep(3 * LEASE).await;
    let each = (memory(&mut eye).await - before) / PAIRS as u64;
    sizes.sort_unstable();
    let texts: Vec<&TextChanges> =
        summaries.iter().filter_map(|(_, summary)| summary.changes.html_text_dmp.as_ref()).collect();
    let [changes, left_out]: [u64; 2] =
        [texts.iter().map(|text| text.change_count).sum(), texts.iter().map(|text| text.left_out).sum()];
    println!(
        "{{\"pairs\":{},\"report_bytes\":{{\"median\":{},\"mean\":{},\"max\":{}}},\"text_kept_whole\":{},\
         \"text_changes\":{changes},\"text_changes_kept\":{},\"redis_bytes_per_finished_pair\":{each},\
         \"finished_pairs_in_1_gib\":{}}}",
        sizes.len(),
        sizes[sizes.len() / 2],
        sizes.iter().sum::<usize>() / sizes.len(),
        sizes[sizes.len() - 1],
        texts.iter().filter(|text| text.left_out == 0).count(),
        changes - left_out,
        (1 << 30) / each
    );
}

fn read_pairs(directory: &Path) -> Vec<[Vec<u8>; 2]> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
        .iter()
        .map(|pair| ["a.html", "b.html"].map(|name| std::fs::read(pair.join(name)).unwrap()))
        .collect()
}

fn generated(seed: u64, bytes: usize) -> [Vec<u8>; 2] {
    let (from, to) = pages::pair(seed, bytes);
    [from, to]
}

fn analysed([from, to]: &[Vec<u8>; 2]) -> AnalysisSummary {
    let request = AnalysisRequest {
        from: BodyInput::default(),
        to: BodyInput::default(),
        max_decoded_bytes: 10 << 20,
        max_result_bytes: 0,
    };
    let request = serde_json::to_vec(&request).unwrap();
    let (reply, _) = child::answer(&request, from.clone(), to.clone(), |_| {});
    match AnalysisReply::read(&reply).unwrap() {
        AnalysisReply::Analysed(summary) => *summary,
        other @ (AnalysisReply::Skipped { .. } | AnalysisReply::Failed { .. }) => panic!("{other:?}"),
    }
}

/// A report as a worker makes it of captures whose hashes are known, with addresses as long as an archive's.
fn report(job: &Job, bytes: usize, summary: AnalysisSummary) -> Report {
    let from = job.from.given().map(VersionRef::uuid).unwrap_or_default();
    let body = |side| {
        let hash = sha256_hex(job.id.as_str().as_bytes());
        BodyFacts {
            side,
            url: format!("https://archive.example.org/{hash}"),
            wire_bytes: bytes as u64,
            wire_sha256: None,
            decoded_bytes: None,
            declared: Some("text/html; charset=utf-8".to_owned()),
            sniffed: None,
            encoding: None,
            notes: Vec::new(),
        }
    };
    let mut report = Report::of_pair(from, job.to.uuid());
    report.page = Some(Uuid::new_v4());
    report.bodies = vec![body(Side::From), body(Side::To)];
    report.timings = Some(Timings { resolve_ms: 1, fetch_ms: 120, analyse_ms: 21 });
    report.measured = Some(ChildUsage {
        wall_ms: 21,
        cpu_ms: 19,
        peak_heap_bytes: 12_345_678,
        max_rss_bytes: 23_456_789,
        ..ChildUsage::default()
    });
    summary.add_to(&mut report);
    report
}
