//! Entry point in the sandboxed child: decodes content encodings, checks the hash,
//! filters by content, analyses.
//!
//! Bytes in, bytes out: an [`AnalysisRequest`] as JSON and two bodies as received become an [`AnalysisReply`]
//! as JSON and, if asked for, the whole result, compressed. All code that looks inside a hostile body runs here; none
//! of it opens a file or socket, starts a thread or writes anywhere.
//!
//! # Why
//! An archive often stores a body decompressed and still repeats the `Content-Encoding` it was captured
//! with. So the header is only a claim: bytes with the captured hash are the body, whatever is claimed;
//! bytes from which the decoder produces no output were not encoded; and if the decoder fails half-way, the
//! bytes are the body if they are text as they are. Otherwise the body is broken: a hash mismatch if a hash
//! is known, undecodable if not.

use std::time::Instant;

use wm_job::analysis_request::{
    AnalysisReply, AnalysisRequest, AnalysisSummary, BodyInput, ChildFailure, ChildSkip, DecodedBody,
};
use wm_job::page::Side;
use wm_job::skip::{Skip, SkipReason};
use wm_job::text::{clip, quote, sha256_hex};

use crate::decompress::{self, DecompressError};
use crate::sniff::{self, ContentFamily, Sniffed};
use crate::{AnalysisOptions, MAX_PAGE_BYTES, PageInput, PageNumbers, Whole, analyse};

/// Executes an [`AnalysisRequest`] on two bodies; returns an [`AnalysisReply`] as JSON, and the whole result.
///
/// If the request cannot be parsed both are empty, which the worker treats as a bad reply.
pub fn answer(
    request: &[u8],
    from: Vec<u8>,
    to: Vec<u8>,
    soft_deadline: Instant,
    phase: fn(&'static str),
) -> (Vec<u8>, Vec<u8>) {
    let Ok(request) = serde_json::from_slice::<AnalysisRequest>(request) else { return Default::default() };
    let (reply, whole) = match analyse_bodies(&request, from, to, soft_deadline, phase) {
        Ok((summary, whole)) => (AnalysisReply::Analysed(Box::new(summary)), whole),
        Err(reply) => (reply, Vec::new()),
    };
    (serde_json::to_vec(&reply).unwrap_or_default(), whole)
}

fn analyse_bodies(
    request: &AnalysisRequest,
    from: Vec<u8>,
    to: Vec<u8>,
    soft_deadline: Instant,
    phase: fn(&'static str),
) -> Result<(AnalysisSummary, Vec<u8>), AnalysisReply> {
    phase("decompress");
    let cap = usize::try_from(request.max_decoded_bytes).unwrap_or(usize::MAX).min(MAX_PAGE_BYTES);
    let from = decode_body(&request.from, Side::From, from, cap)?;
    let to = decode_body(&request.to, Side::To, to, cap)?;

    phase("sniff");
    let declared = [request.from.declared(), request.to.declared()];
    let [old, new] = sniff::filter_by_content(&from, &to, declared).map_err(skipped)?;

    let max_result_bytes = usize::try_from(request.max_result_bytes).unwrap_or(usize::MAX);
    let options = AnalysisOptions { soft_deadline, max_result_bytes };
    let pages = [page(&request.from, &from, old), page(&request.to, &to, new)];
    let result = analyse(pages[0], pages[1], &options, phase).map_err(skipped)?;
    let [old_encoding, new_encoding] = result.encodings;
    let decoded = |bytes: &[u8], sniffed: Sniffed, encoding| DecodedBody {
        bytes: bytes.len() as u64,
        sniffed: sniffed.media_type.to_owned(),
        encoding,
    };
    let PageNumbers { text, source, links } = result.numbers;
    let (whole, result_too_large) = match result.whole {
        Whole::None => (Vec::new(), false),
        Whole::Written(bytes) => (bytes, false),
        Whole::TooLarge => (Vec::new(), true),
    };
    let summary = AnalysisSummary {
        text,
        source,
        links,
        priority: result.priority,
        changes: result.changes,
        approximate: result.approximate,
        missing: result.missing,
        bodies: [decoded(&from, old, old_encoding), decoded(&to, new, new_encoding)],
        result_too_large,
    };
    Ok((summary, whole))
}

fn page<'b>(body: &'b BodyInput, bytes: &'b [u8], sniffed: Sniffed) -> PageInput<'b> {
    PageInput {
        bytes,
        content_type: body.charset_source(),
        status: body.status,
        html_like: sniffed.html_like,
    }
}

/// Length in characters at which a sentence about hostile text is cut: within what a reply may hold.
const DETAIL_MAX_CHARS: usize = 240;

fn skipped(skip: Skip) -> AnalysisReply {
    // Every reason that is found by looking into bytes.
    let reason = match skip.reason {
        SkipReason::UnlikeContent => ChildSkip::UnlikeContent,
        SkipReason::Undecodable => ChildSkip::Undecodable,
        SkipReason::Content
        | SkipReason::SameVersion
        | SkipReason::NoPrevious
        | SkipReason::AlreadyDone
        | SkipReason::NotHttp
        | SkipReason::MediaType
        | SkipReason::MediaTypeUnknown
        | SkipReason::Extension
        | SkipReason::Expired
        | SkipReason::Cancelled => ChildSkip::Content,
    };
    AnalysisReply::Skipped { reason, detail: clip(&skip.detail, DETAIL_MAX_CHARS), side: skip.side }
}

fn failed(kind: ChildFailure, side: Side, detail: &str) -> AnalysisReply {
    AnalysisReply::Failed { kind, detail: clip(detail, DETAIL_MAX_CHARS), side }
}

/// Determines the body from the declared encoding, the expected hash and the bytes.
fn decode_body(body: &BodyInput, side: Side, wire: Vec<u8>, cap: usize) -> Result<Vec<u8>, AnalysisReply> {
    let bomb = |why: &str| failed(ChildFailure::DecompressionBomb, side, why);
    let expected = body.body_hash.as_deref().map(|hash| hash.trim().to_ascii_lowercase());
    let is_body = |bytes: &[u8]| expected.as_deref().is_none_or(|expected| expected == sha256_hex(bytes));
    let known = expected.is_some() && is_body(&wire);

    let encodings = decompress::encodings_of(body.content_encoding.as_deref());
    let undone = if known { Ok(None) } else { decompress::decompress(&wire, &encodings, cap) };
    let bytes = match undone {
        Ok(None) => wire,
        Ok(Some(bytes)) => bytes,
        Err(DecompressError::Bomb(why)) => return Err(bomb(&why)),
        Err(DecompressError::Broken(_))
            if expected.is_none() && sniff::classify(&wire).family != ContentFamily::Binary =>
        {
            wire
        }
        Err(DecompressError::Broken(why)) => return Err(broken_encoding(body, side, &why)),
    };
    if bytes.len() > cap {
        return Err(bomb(&format!("{} bytes; {cap} at most", bytes.len())));
    }
    if !known && !is_body(&bytes) {
        let captured = expected.as_deref().unwrap_or_default();
        let detail = format!("SHA-256 is {}, captured was {captured}", sha256_hex(&bytes));
        return Err(failed(ChildFailure::HashMismatch, side, &detail));
    }
    Ok(bytes)
}

/// Reply for a body that the decoder failed on half-way.
fn broken_encoding(body: &BodyInput, side: Side, why: &str) -> AnalysisReply {
    let claimed = quote(body.content_encoding.as_deref().unwrap_or_default());
    let detail = format!("the content encoding ({claimed}) is damaged {why}");
    if body.body_hash.is_some() {
        failed(ChildFailure::HashMismatch, side, &detail)
    } else {
        skipped(Skip::new(SkipReason::Undecodable, detail).on(side))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const PAGE: &[u8] = b"<!doctype html><title>x</title><p>Hello <a href='/a'>old</a> world, how are you?";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn side() -> BodyInput {
        BodyInput::default()
    }

    fn request(from: BodyInput, to: BodyInput) -> AnalysisRequest {
        AnalysisRequest { from, to, max_decoded_bytes: 1_000_000, max_result_bytes: 0 }
    }

    fn answer_to(request: &AnalysisRequest, from: &[u8], to: &[u8]) -> AnalysisReply {
        let request = serde_json::to_vec(request).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let (reply, whole) = answer(&request, from.to_vec(), to.to_vec(), deadline, |_| {});
        assert!(whole.is_empty(), "it was not requested");
        serde_json::from_slice(&reply).unwrap()
    }

    /// The reply for this older body, with a plain page as the newer one.
    fn answer_about(from: BodyInput, body: &[u8]) -> AnalysisReply {
        answer_to(&request(from, side()), body, PAGE)
    }

    fn gzipped(hash: Option<String>) -> BodyInput {
        BodyInput { content_encoding: Some("gzip".to_owned()), body_hash: hash, ..side() }
    }

    #[test]
    fn a_pair_becomes_a_report_with_the_facts_of_both_bodies() {
        let from = BodyInput {
            media_type: Some("text/html".to_owned()),
            ..gzipped(Some(sha256_hex(PAGE).to_uppercase()))
        };
        let to = String::from_utf8_lossy(PAGE).replace("old", "new");
        let AnalysisReply::Analysed(summary) = answer_to(&request(from, side()), &gzip(PAGE), to.as_bytes())
        else {
            panic!("no summary")
        };
        assert_eq!(summary.text.unwrap().count, 2);
        assert_eq!(summary.links.unwrap().count, 1);
        assert_eq!(summary.source.unwrap().length, 6);
        let [old, new] = &summary.bodies;
        assert_eq!((old.bytes, old.sniffed.as_str()), (PAGE.len() as u64, "text/html"));
        assert_eq!((old.encoding.as_str(), new.encoding.as_str()), ("UTF-8", "UTF-8"));
    }

    #[test]
    fn the_incident_is_a_skip_whatever_the_header_says() {
        let pdf = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n";
        for declared in ["application/pdf", "text/html", "text/html; charset=iso-8859-1"] {
            let from = BodyInput { content_type: Some(declared.to_owned()), ..side() };
            let detail = format!("from is application/pdf (declared {declared})");
            assert_eq!(
                answer_about(from, pdf),
                AnalysisReply::Skipped { reason: ChildSkip::Content, detail, side: Some(Side::From) }
            );
        }
    }

    #[test]
    fn a_label_is_a_claim_and_the_hash_decides() {
        let reported = |answer| matches!(answer, AnalysisReply::Analysed(_));
        let failed = |answer| match answer {
            AnalysisReply::Failed { kind, side, .. } => Some((kind, side)),
            AnalysisReply::Analysed(_) | AnalysisReply::Skipped { .. } => None,
        };
        let skipped = |answer| match answer {
            AnalysisReply::Skipped { reason, side, .. } => Some((reason, side)),
            AnalysisReply::Analysed(_) | AnalysisReply::Failed { .. } => None,
        };
        let mismatch = Some((ChildFailure::HashMismatch, Side::From));
        let hash = || Some(sha256_hex(PAGE));
        // Encoded as declared; stored decoded but still declared; not encoded and no hash known.
        assert!(reported(answer_about(gzipped(hash()), &gzip(PAGE))));
        assert!(reported(answer_about(gzipped(hash()), PAGE)));
        assert!(reported(answer_about(gzipped(None), PAGE)));
        // The page itself is an archive, stored as it is.
        let archive = gzip(PAGE);
        let answer = answer_about(gzipped(Some(sha256_hex(&archive))), &archive);
        assert_eq!(skipped(answer), Some((ChildSkip::Content, Some(Side::From))));
        // A different body, encoded or not, declared or not.
        assert_eq!(failed(answer_about(gzipped(hash()), &gzip(b"<p>other"))), mismatch);
        assert_eq!(failed(answer_about(gzipped(hash()), b"<p>other")), mismatch);
        assert_eq!(failed(answer_about(BodyInput { body_hash: hash(), ..side() }, b"<p>other")), mismatch);
        // A truncated body.
        let cut = &gzip(PAGE)[..60];
        assert_eq!(failed(answer_about(gzipped(hash()), cut)), mismatch);
        let undecodable = Some((ChildSkip::Undecodable, Some(Side::From)));
        assert_eq!(skipped(answer_about(gzipped(None), cut)), undecodable);
        // Text that brotli decodes partially.
        let brotli = BodyInput { content_encoding: Some("br".to_owned()), ..side() };
        assert!(reported(answer_about(brotli, PAGE)));
    }

    #[test]
    fn more_than_the_cap_is_a_bomb_encoded_or_not() {
        let large = vec![b'x'; 1_000_001];
        for (from, body) in [(gzipped(None), gzip(&large)), (side(), large)] {
            let AnalysisReply::Failed { kind, side, .. } = answer_about(from, &body) else {
                panic!("not failed")
            };
            assert_eq!((kind, side), (ChildFailure::DecompressionBomb, Side::From));
        }
    }

    #[test]
    fn a_page_that_became_empty_is_compared() {
        let AnalysisReply::Analysed(summary) = answer_to(&request(side(), side()), PAGE, b"") else {
            panic!("no summary")
        };
        assert_eq!(summary.text.unwrap().ratio, 1.0);
        assert!(summary.missing.is_empty());
    }

    #[test]
    fn two_texts_that_are_no_pages_are_compared_in_part() {
        let AnalysisReply::Analysed(summary) =
            answer_to(&request(side(), side()), b"{\"a\":1}", b"{\"a\":22}")
        else {
            panic!("no summary")
        };
        assert!(summary.text.is_none() && summary.links.is_none());
        assert_eq!(summary.source.unwrap().count, 2);
        assert_eq!(summary.missing.len(), 2);
        assert_eq!(summary.bodies[0].sniffed, "application/json");
        let AnalysisReply::Skipped { reason, detail, .. } =
            answer_to(&request(side(), side()), PAGE, b"{\"a\":1}")
        else {
            panic!("not skipped")
        };
        assert_eq!(reason, ChildSkip::UnlikeContent);
        assert!(detail.contains("text/html") && detail.contains("application/json"), "{detail}");
    }

    #[test]
    fn the_whole_result_is_written_if_asked_for_and_fits() {
        let whole = |max_result_bytes| {
            let request = AnalysisRequest { max_result_bytes, ..request(side(), side()) };
            let deadline = Instant::now() + Duration::from_secs(60);
            let request = serde_json::to_vec(&request).unwrap();
            let (reply, whole) = answer(&request, PAGE.to_vec(), b"<p>other".to_vec(), deadline, |_| {});
            match serde_json::from_slice(&reply).unwrap() {
                AnalysisReply::Analysed(summary) => (summary.result_too_large, whole),
                AnalysisReply::Skipped { .. } | AnalysisReply::Failed { .. } => panic!("not analysed"),
            }
        };
        let (too_large, gzip) = whole(10_000);
        assert!(!too_large);
        let read: wm_job::whole_result::WholeResult =
            serde_json::from_reader(flate2::read::GzDecoder::new(&gzip[..])).unwrap();
        assert_eq!(read.html_text_dmp.unwrap().change_count, 2);
        assert!(read.html_source_dmp.is_some() && read.links_json.is_some());
        assert_eq!(whole(10), (true, Vec::new()));
        assert_eq!(whole(0), (false, Vec::new()));
    }

    #[test]
    fn a_request_that_is_none_is_answered_by_nothing() {
        assert_eq!(answer(b"{}", Vec::new(), Vec::new(), Instant::now(), |_| {}), Default::default());
    }
}
