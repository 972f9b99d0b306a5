//! Truncates reports and evidence to their caps for storage in Redis. Pure.
//!
//! Invariant: the output is within its cap, and names every part that was left out.

use wm_job::failure::Failure;
use wm_job::report::{Annotation, Report, TextChanges};
use wm_job::text::clip;
use wm_job::verdict::DeadLetterReason;

/// Largest stored report: hunks, not whole pages. Real ones are a thirtieth of it.
pub const REPORT_MAX_BYTES: usize = 64 * 1024;
/// Largest stored evidence of one dead letter, so that thousands fit within the cap on all of them.
const REASON_MAX_BYTES: usize = 64 * 1024;
/// Longest detail of shortened evidence, in characters.
const SHORT_DETAIL_CHARS: usize = 200;
/// Longest failure detail kept when evidence is truncated, in characters.
const DETAIL_MAX_CHARS: usize = 4096;

/// A part of a report that can be left out: its name in `omitted`, and the function that removes it.
type Part = (&'static str, fn(&mut Report));

/// The parts in the order in which they are left out, the most dispensable first.
const PARTS: [Part; 8] = [
    ("changes.html_source_dmp.hunks", |report| leave_out_hunks(report.changes.html_source_dmp.as_mut())),
    ("changes.links_json.changes", |report| {
        if let Some(links) = &mut report.changes.links_json {
            links.left_out = links.change_count;
            links.changes.clear();
        }
    }),
    ("changes.metadata", |report| report.changes.metadata.clear()),
    ("changes.html_text_dmp.hunks", |report| leave_out_hunks(report.changes.html_text_dmp.as_mut())),
    ("measured", |report| report.measured = None),
    ("bodies", |report| report.bodies.clear()),
    ("result", |report| report.result = None),
    ("missing", |report| report.missing.clear()),
];

fn leave_out_hunks(changes: Option<&mut TextChanges>) {
    if let Some(changes) = changes {
        changes.left_out = changes.change_count;
        changes.hunks.clear();
    }
}

/// The report as JSON of at most `max` bytes, leaving out as many parts as needed.
pub(crate) fn truncate_report(mut report: Report, max: usize) -> String {
    let whole = json(&report);
    if whole.len() <= max {
        return whole;
    }
    report.omitted.clear();
    for (name, leave_out) in PARTS {
        leave_out(&mut report);
        report.omitted.push(name.to_owned());
        let smaller = json(&report);
        if smaller.len() <= max {
            return smaller;
        }
    }
    // Only numbers, ids and hashes are left; an oversized hash is invalid.
    report.annotation = Annotation { priority: report.annotation.priority, ..Annotation::default() };
    report.omitted.push("annotation".to_owned());
    json(&report)
}

/// The evidence as JSON of at most 1 KiB, for a Redis near `maxmemory`: kind, stage, counts and the start of the
/// detail.
pub(crate) fn shorten_reason(reason: &DeadLetterReason) -> String {
    let mut reason = reason.clone();
    reason.bodies.clear();
    reason.worker = clip(&reason.worker, SHORT_DETAIL_CHARS);
    reason.build = clip(&reason.build, SHORT_DETAIL_CHARS);
    let detail: String = reason.failure.detail.chars().take(SHORT_DETAIL_CHARS).collect();
    let host = reason.failure.host.take().filter(|host| host.len() <= SHORT_DETAIL_CHARS);
    reason.failure =
        Failure { host, ..Failure::new(reason.kind, format!("{detail} (shortened: Redis was full)")) };
    json(&reason)
}

/// The evidence as JSON of at most [`REASON_MAX_BYTES`]: cuts long texts first, then leaves out the bodies.
pub(crate) fn truncate_reason(reason: &DeadLetterReason) -> String {
    let whole = json(reason);
    if whole.len() <= REASON_MAX_BYTES {
        return whole;
    }
    let mut reason = reason.clone();
    let failure = &mut reason.failure;
    for text in [Some(&mut failure.detail), failure.host.as_mut()].into_iter().flatten() {
        *text = clip(text, DETAIL_MAX_CHARS);
    }
    if let Some(stderr) = failure.measured.as_mut().and_then(|measured| measured.stderr.as_mut()) {
        *stderr = clip(stderr, DETAIL_MAX_CHARS);
    }
    let shorter = json(&reason);
    if shorter.len() <= REASON_MAX_BYTES {
        return shorter;
    }
    reason.bodies.clear();
    reason.failure.detail.push_str(" (facts about the bodies left out: too large)");
    let shorter = json(&reason);
    if shorter.len() <= REASON_MAX_BYTES {
        return shorter;
    }
    // Characters that JSON escapes six times as long, or a worker of a strange name.
    reason.worker = clip(&reason.worker, SHORT_DETAIL_CHARS);
    reason.build = clip(&reason.build, SHORT_DETAIL_CHARS);
    let detail = clip(&reason.failure.detail, SHORT_DETAIL_CHARS);
    let host = reason.failure.host.as_deref().map(|host| clip(host, SHORT_DETAIL_CHARS));
    reason.failure = Failure { host, ..Failure::new(reason.failure.kind, detail) };
    json(&reason)
}

/// The JSON of `value`; serializing these types cannot fail.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Longest sentence of a group of dead letters, and of an entry of a job's history, in characters.
const SENTENCE_MAX_CHARS: usize = 200;

/// A failure in a sentence, on one line.
pub(crate) fn group_sentence(detail: &str) -> String {
    detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SENTENCE_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use wm_job::counts::DeliveryCounts;
    use wm_job::failure::FailureKind;
    use wm_job::hunk::{Hunk, Step, StepKind};
    use wm_job::measured::ChildUsage;
    use wm_job::page::Side;
    use wm_job::report::{
        BodyFacts, Changes, DiffName, LinkChange, LinkChanges, MetadataChange, MissingDiff, PageLink,
        TextNumbers,
    };
    use wm_job::skip::SkipReason;
    use wm_job::stored_result::StoredResult;

    fn changes(bytes: usize) -> Option<TextChanges> {
        let step = Step { kind: StepKind::Added, text: "x".repeat(bytes).into(), left_out: 0 };
        let hunks = vec![Hunk { at: [0, 0], steps: vec![step] }];
        Some(TextChanges { change_count: 1, hunks, left_out: 0, approximate: false })
    }

    fn body(url_bytes: usize) -> BodyFacts {
        BodyFacts {
            side: Side::From,
            url: "u".repeat(url_bytes),
            wire_bytes: 1,
            wire_sha256: None,
            decoded_bytes: None,
            declared: None,
            sniffed: None,
            encoding: None,
            notes: Vec::new(),
        }
    }

    fn report(text: usize, source: usize, url: usize) -> Report {
        Report {
            changes: Changes {
                html_text_dmp: changes(text),
                html_source_dmp: changes(source),
                ..Changes::default()
            },
            bodies: vec![body(url)],
            ..Report::of_pair(Uuid::nil(), Uuid::nil())
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_in_a_fixed_order_and_named() {
        let source = "changes.html_source_dmp.hunks";
        let [links, metadata, text] =
            ["changes.links_json.changes", "changes.metadata", "changes.html_text_dmp.hunks"];
        let all = [source, links, metadata, text, "measured", "bodies"];
        for (sizes, omitted) in [
            ([10, 10, 10], &[] as &[&str]),
            ([500, 900, 10], &[source]),
            ([2000, 10, 10], &[source, links, metadata, text]),
            ([10, 10, 2000], &all),
        ] {
            let [text_bytes, source_bytes, url] = sizes;
            let fitted = truncate_report(report(text_bytes, source_bytes, url), 1200);
            assert!(fitted.len() <= 1200, "{}", fitted.len());
            let read: Report = serde_json::from_str(&fitted).unwrap();
            assert_eq!(read.omitted, omitted);
            let kept = read.changes.html_text_dmp.unwrap();
            assert_eq!(kept.change_count, 1, "the count stays");
            assert_eq!(kept.left_out, u64::from(omitted.contains(&text)));
        }
    }

    #[test]
    fn no_text_of_a_report_or_of_evidence_gets_past_the_cap() {
        let huge = || "\u{1}".repeat(REPORT_MAX_BYTES);
        let links = LinkChanges {
            changes: vec![LinkChange { from: Some(PageLink { text: huge(), href: huge() }), to: None }],
            ..LinkChanges::default()
        };
        let mut report = report(REPORT_MAX_BYTES, REPORT_MAX_BYTES, REPORT_MAX_BYTES);
        report.changes.links_json = Some(links);
        report.changes.metadata = vec![MetadataChange { name: huge(), from: None, to: Some(huge()) }];
        report.omitted = vec![huge()];
        report.result = Some(StoredResult { url: huge(), bytes: 1, sha256: huge() });
        report.annotation.text = Some(TextNumbers {
            text_diff_hash: huge(),
            text_diff_count: 1,
            text_diff_length: 1,
            text_diff_ratio: 0.5,
        });
        let diff = DiffName::LinksJson;
        report.missing = vec![MissingDiff { diff, reason: SkipReason::Content, detail: huge() }];
        report.measured = Some(ChildUsage { stderr: Some(huge()), ..ChildUsage::default() });
        let fitted = truncate_report(report, REPORT_MAX_BYTES);
        assert!(fitted.len() <= 2000, "{}", fitted.len());

        let measured = Some(Box::new(ChildUsage { phase: Some(huge()), ..ChildUsage::default() }));
        let reason = DeadLetterReason {
            kind: FailureKind::Decode,
            stage: FailureKind::Decode.stage(),
            failure: Failure { host: Some(huge()), measured, ..Failure::new(FailureKind::Decode, huge()) },
            counts: DeliveryCounts::default(),
            bodies: vec![body(REASON_MAX_BYTES)],
            worker: huge(),
            build: huge(),
        };
        for fitted in [truncate_reason(&reason), shorten_reason(&reason)] {
            assert!(fitted.len() <= REASON_MAX_BYTES, "{}", fitted.len());
            let read: DeadLetterReason = serde_json::from_str(&fitted).unwrap();
            assert_eq!(read.kind, FailureKind::Decode);
        }
    }

    #[test]
    fn evidence_is_cut_to_fit_and_stays_readable() {
        let mut reason = DeadLetterReason {
            kind: FailureKind::Decode,
            stage: FailureKind::Decode.stage(),
            failure: Failure::new(FailureKind::Decode, "ü".repeat(REASON_MAX_BYTES)),
            counts: DeliveryCounts::default(),
            bodies: vec![body(10)],
            worker: "w".into(),
            build: "0".into(),
        };
        let read: DeadLetterReason = serde_json::from_str(&truncate_reason(&reason)).unwrap();
        assert_eq!(read.failure.detail.chars().count(), DETAIL_MAX_CHARS + 1);
        assert_eq!(read.bodies.len(), 1);
        reason.bodies = vec![body(REASON_MAX_BYTES)];
        let fitted = truncate_reason(&reason);
        assert!(fitted.len() <= REASON_MAX_BYTES);
        let read: DeadLetterReason = serde_json::from_str(&fitted).unwrap();
        assert!(read.bodies.is_empty() && read.failure.detail.contains("left out"));
    }
}
