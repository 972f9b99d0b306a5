//! What is stored of a job once it has ended: a report under its pair, and how it ended under its id.
//!
//! Invariant: each report begins with `{"id":...,"state":...`, by which the scripts tell whose it is, and whether it
//! is an analysis that a skip or a death must not replace.

use serde::Serialize;
use serde_json::{Value, json};

use crate::lease::truncate::{REPORT_MAX_BYTES, truncate_report};
use wm_job::JobId;
use wm_job::measured::ChildUsage;
use wm_job::report::{ANALYSIS_VERSION, Report, SCHEMA_VERSION};
use wm_job::skip::Skip;
use wm_job::verdict::DeadLetterReason;

/// Largest summary of a report: less than the job that it replaces, so that settling always frees memory.
const SUMMARY_MAX_BYTES: usize = 600;
/// Longest detail of a skip or a death in a report, in characters; the whole is in the dead letter.
const DETAIL_MAX_CHARS: usize = 300;

/// What a job ended with, in the forms that `settle.lua` stores.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) state: &'static str,
    /// Skip reason; of an analysis empty, or `not_posted:` and the diffs without which its annotation was not posted.
    pub(crate) why: String,
    pub(crate) pair: String,
    /// Its report (JSON).
    pub(crate) report: String,
    /// The same where memory is short (JSON).
    pub(crate) summary: String,
    /// True when a db app has the annotation.
    pub(crate) posted: bool,
    /// True when the pair is remembered in `done`.
    pub(crate) marked: bool,
    /// Of a skip by content, what both bodies are: `text/html..application/pdf`.
    pub(crate) sniffed: String,
}

impl Ending {
    /// Of a finished analysis.
    pub(crate) fn done(id: &JobId, report: &Report, posts: bool) -> Self {
        let head = format!(r#"{{"id":"{id}","state":"done","#);
        let measured = report.measured.as_ref().map(ChildUsage::brief);
        let stored = Report { measured, ..report.clone() };
        let body = truncate_report(stored, REPORT_MAX_BYTES - head.len());
        let posted = posts && report.posted.unwrap_or(report.missing.is_empty());
        let why =
            if posts && !posted { format!("not_posted:{}", report.missing_names()) } else { String::new() };
        Self {
            state: "done",
            why,
            pair: format!("{}..{}", report.from, report.to),
            report: head + &body[1..],
            summary: summary(id, report),
            posted,
            marked: true,
            sniffed: String::new(),
        }
    }

    /// Of a skip, which is `permanent` when the same pair would be skipped again.
    pub(crate) fn skipped(id: &JobId, pair: String, skip: &Skip, permanent: bool) -> Self {
        let mut skip = skip.clone();
        skip.detail = clipped(&skip.detail);
        let why = skip.reason.as_str();
        let sniffed =
            skip.sniffed.as_ref().map_or_else(String::new, |kinds| format!("{}..{}", kinds.from, kinds.to));
        let permanently = if permanent { r#""permanent":true,"# } else { "" };
        let report = note(id, "skipped", permanently, &skip);
        Self {
            state: "skipped",
            why: why.to_owned(),
            pair,
            summary: report.clone(),
            report,
            posted: false,
            marked: permanent,
            sniffed,
        }
    }
}

/// `{"id":...,"pair":...,"state":...,"why":...}`: what a producer reads under the job's id.
pub(crate) fn ended(id: &JobId, pair: &str, state: &str, why: &str) -> String {
    json!({ "id": id.as_str(), "pair": pair, "state": state, "why": why }).to_string()
}

/// A death as a report on its pair, until an analysis replaces it.
pub(crate) fn death_report(id: &JobId, reason: &DeadLetterReason) -> String {
    let dead = json!({ "kind": reason.kind.as_str(), "detail": clipped(&reason.failure.detail) });
    note(id, "dead", "", &dead)
}

/// A report that is no analysis: `what` under the name of its state, `more` behind that.
fn note(id: &JobId, state: &str, more: &str, what: &impl Serialize) -> String {
    let what = serde_json::to_string(what).unwrap_or_default();
    format!(
        r#"{{"id":"{id}","state":"{state}",{more}"schema_version":{SCHEMA_VERSION},"analysis_version":{ANALYSIS_VERSION},"{state}":{what}}}"#
    )
}

fn clipped(detail: &str) -> String {
    match detail.char_indices().nth(DETAIL_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail.to_owned(),
    }
}

/// The numbers of a report, without hunks, bodies and hashes, which it names; its key has the pair.
fn summary(id: &JobId, report: &Report) -> String {
    let mut annotation = serde_json::to_value(&report.annotation).unwrap_or_default();
    let mut omitted = vec!["changes", "bodies"];
    if let Value::Object(fields) = &mut annotation {
        let before = fields.len();
        fields.retain(|name, _| !name.ends_with("_hash"));
        omitted.extend((fields.len() < before).then_some("annotation.hashes"));
    }
    let (annotation, omitted) = (annotation, serde_json::to_string(&omitted).unwrap_or_default());
    let Report { schema_version, analysis_version, approximate, .. } = report;
    let text = format!(
        r#"{{"id":"{id}","state":"done","schema_version":{schema_version},"analysis_version":{analysis_version},"annotation":{annotation},"approximate":{approximate},"omitted":{omitted}}}"#
    );
    debug_assert!(text.len() <= SUMMARY_MAX_BYTES || id.as_str().len() > 64, "{}", text.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use wm_job::report::{Annotation, DiffName, LinksNumbers, MissingDiff, SourceNumbers, TextNumbers};
    use wm_job::skip::SkipReason;

    fn report() -> Report {
        let hash = || "f".repeat(64);
        let ([count, length], ratio) = ([u64::from(u32::MAX), 10_485_760], 0.1234);
        Report {
            annotation: Annotation {
                text: Some(TextNumbers {
                    text_diff_hash: hash(),
                    text_diff_count: count,
                    text_diff_length: length,
                    text_diff_ratio: ratio,
                }),
                source: Some(SourceNumbers {
                    source_diff_hash: hash(),
                    source_diff_count: count,
                    source_diff_length: length,
                    source_diff_ratio: ratio,
                }),
                links: Some(LinksNumbers {
                    links_diff_hash: hash(),
                    links_diff_count: count,
                    links_diff_ratio: ratio,
                }),
                priority: 0.6543,
            },
            ..Report::of_pair(Uuid::from_u128(1), Uuid::from_u128(2))
        }
    }

    #[test]
    fn a_report_and_its_summary_say_first_whose_they_are() {
        let id = JobId::generate();
        let ending = Ending::done(&id, &report(), true);
        for text in [&ending.report, &ending.summary] {
            assert!(text.starts_with(&format!(r#"{{"id":"{id}","state":"done","#)), "{text}");
            let read: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read["annotation"]["text_diff_length"], 10_485_760);
        }
        assert!(ending.report.contains(&"f".repeat(64)), "the whole has the hashes");
    }

    #[test]
    fn the_largest_summary_has_at_most_600_bytes_and_names_what_it_lacks() {
        let summary = Ending::done(&JobId::generate(), &report(), false).summary;
        assert!(summary.len() <= SUMMARY_MAX_BYTES, "{}: {summary}", summary.len());
        let read: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(read["omitted"], json!(["changes", "bodies", "annotation.hashes"]));
    }

    #[test]
    fn only_a_posted_annotation_counts_as_posted_and_what_is_missing_is_named() {
        let id = JobId::generate();
        assert!(Ending::done(&id, &report(), true).posted);
        assert!(!Ending::done(&id, &report(), false).posted);
        let (diff, reason) = (DiffName::HtmlTextDmp, SkipReason::Content);
        let missing = vec![MissingDiff { diff, reason, detail: "no HTML".to_owned() }];
        for (posted, why) in
            [(Some(true), ""), (Some(false), "not_posted:html_text_dmp"), (None, "not_posted:html_text_dmp")]
        {
            let ending = Ending::done(&id, &Report { missing: missing.clone(), posted, ..report() }, true);
            assert_eq!((ending.posted, ending.why.as_str()), (posted == Some(true), why));
        }
    }
}
