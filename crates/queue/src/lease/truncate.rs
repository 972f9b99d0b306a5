//! Truncates reports and evidence to their caps for storage in Redis. Pure.
//!
//! Invariant: the output is within its cap, and names every part that was left out.

use wm_job::failure::Failure;
use wm_job::report::Report;
use wm_job::verdict::DeadLetterReason;

/// Largest stored report: small enough to read at once, and far below the 512 MB that a Redis value can hold.
pub const REPORT_MAX_BYTES: usize = 256 * 1024;
/// Largest stored evidence of one dead letter, so that thousands fit within the cap on all of them.
const REASON_MAX_BYTES: usize = 64 * 1024;
/// Longest detail of shortened evidence, in characters.
const SHORT_DETAIL_CHARS: usize = 200;
/// Longest failure detail kept when evidence is truncated, in characters.
const DETAIL_MAX_CHARS: usize = 4096;

/// A part of a report that can be left out: its name in `omitted`, and the function that removes it.
type Part = (&'static str, fn(&mut Report));

const BODIES: Part = ("bodies", |report| report.bodies.clear());
const PASSAGES: Part = ("passages", |report| report.passages.clear());
const MISSING: Part = ("missing", |report| report.missing.clear());

/// The report as JSON of at most `max` bytes. Leaves out, as needed: the steps of the largest diff, of the next
/// ones, passages, bodies, `missing`.
pub(crate) fn truncate_report(report: &Report, max: usize) -> String {
    let whole = json(report);
    if whole.len() <= max {
        return whole;
    }
    let mut report = report.clone();
    let mut parts = diffs_by_size(&report);
    parts.extend((!report.passages.is_empty()).then_some(PASSAGES));
    parts.extend([BODIES, MISSING]);
    for (name, leave_out) in parts {
        leave_out(&mut report);
        report.omitted.push(name.to_owned());
        let smaller = json(&report);
        if smaller.len() <= max {
            return smaller;
        }
    }
    json(&report)
}

/// The diffs that have steps, largest first.
fn diffs_by_size(report: &Report) -> Vec<Part> {
    let diffs = &report.diffs;
    let mut sized: Vec<(usize, Part)> = Vec::new();
    if let Some(steps) = diffs.html_text_dmp.as_ref().and_then(|d| d.diff.as_ref()) {
        sized.push((
            json(steps).len(),
            ("html_text_dmp.diff", |r| r.diffs.html_text_dmp.iter_mut().for_each(|d| d.diff = None)),
        ));
    }
    if let Some(steps) = diffs.html_source_dmp.as_ref().and_then(|d| d.diff.as_ref()) {
        sized.push((
            json(steps).len(),
            ("html_source_dmp.diff", |r| r.diffs.html_source_dmp.iter_mut().for_each(|d| d.diff = None)),
        ));
    }
    if let Some(steps) = diffs.links_json.as_ref().and_then(|d| d.diff.as_ref()) {
        sized.push((
            json(steps).len(),
            ("links_json.diff", |r| r.diffs.links_json.iter_mut().for_each(|d| d.diff = None)),
        ));
    }
    sized.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    sized.into_iter().map(|(_, part)| part).collect()
}

/// The evidence as JSON of at most 1 KiB, for a Redis near `maxmemory`: kind, stage, counts and the start of the
/// detail.
pub(crate) fn shorten_reason(reason: &DeadLetterReason) -> String {
    let mut reason = reason.clone();
    reason.bodies.clear();
    let detail: String = reason.failure.detail.chars().take(SHORT_DETAIL_CHARS).collect();
    let host = reason.failure.host.take().filter(|host| host.len() <= SHORT_DETAIL_CHARS);
    reason.failure =
        Failure { host, ..Failure::new(reason.kind, format!("{detail} (shortened: Redis was full)")) };
    json(&reason)
}

/// The evidence as JSON of at most [`REASON_MAX_BYTES`]: cuts a long detail first, then leaves out the
/// bodies.
pub(crate) fn truncate_reason(reason: &DeadLetterReason) -> String {
    let whole = json(reason);
    if whole.len() <= REASON_MAX_BYTES {
        return whole;
    }
    let mut reason = reason.clone();
    if let Some((end, _)) = reason.failure.detail.char_indices().nth(DETAIL_MAX_CHARS) {
        reason.failure.detail.truncate(end);
        reason.failure.detail.push('…');
    }
    let shorter = json(&reason);
    if shorter.len() <= REASON_MAX_BYTES {
        return shorter;
    }
    reason.bodies.clear();
    reason.failure.detail.push_str(" (facts about the bodies left out: too large)");
    json(&reason)
}

/// The JSON of `value`; serializing these types cannot fail.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use wm_job::counts::DeliveryCounts;
    use wm_job::failure::{Failure, FailureKind};
    use wm_job::page::Side;
    use wm_job::report::{Annotation, BodyFacts, Diff, Diffs, Op};

    fn steps(bytes: usize) -> Option<Diff<Op>> {
        let diff = Some(vec![Op(1, "x".repeat(bytes))]);
        Some(Diff { change_count: 1, diff, approximate: false })
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
        }
    }

    fn report(text: usize, source: usize, url: usize) -> Report {
        Report {
            schema_version: 1,
            analysis_version: 1,
            from: Uuid::nil(),
            to: Uuid::nil(),
            page: None,
            annotation: Annotation { text: None, source: None, links: None, priority: 0.0 },
            diffs: Diffs { html_text_dmp: steps(text), html_source_dmp: steps(source), links_json: None },
            approximate: false,
            missing: Vec::new(),
            passages: Vec::new(),
            omitted: Vec::new(),
            bodies: vec![body(url)],
            timings: None,
            measured: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_largest_first_and_named() {
        let cases: [(usize, usize, usize, &[&str]); 5] = [
            (10, 10, 10, &[]),
            (500, 900, 10, &["html_source_dmp.diff"]),
            (900, 500, 10, &["html_text_dmp.diff"]),
            (2000, 3000, 10, &["html_source_dmp.diff", "html_text_dmp.diff"]),
            (2000, 3000, 2000, &["html_source_dmp.diff", "html_text_dmp.diff", "bodies"]),
        ];
        for (text, source, url, omitted) in cases {
            let fitted = truncate_report(&report(text, source, url), 1200);
            assert!(fitted.len() <= 1200, "{}", fitted.len());
            let read: Report = serde_json::from_str(&fitted).unwrap();
            assert_eq!(read.omitted, omitted);
            let text_kept = read.diffs.html_text_dmp.unwrap();
            assert_eq!(text_kept.change_count, 1, "the count stays");
            assert_eq!(text_kept.diff.is_some(), !omitted.contains(&"html_text_dmp.diff"));
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
