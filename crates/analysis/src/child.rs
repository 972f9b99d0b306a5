//! Entry point in the sandboxed child: decodes content encodings, checks the hash,
//! filters by content, analyses.
//!
//! Bytes in, bytes out: an [`AnalysisRequest`] as JSON and two bodies as received become an [`AnalysisReply`]
//! as JSON and, if asked for, the whole result, compressed. All code that looks inside a hostile body runs here; none
//! of it opens a file or socket, starts a thread or writes anywhere.
//!

use wm_job::analysis_request::{
    AnalysisReply, AnalysisRequest, AnalysisSummary, BodyInput, ChildFailure, ChildSkip, DecodedBody,
};
use wm_job::page::Side;
use wm_job::skip::{Skip, SkipReason};
use wm_job::text::clip;

use crate::body::{self, BodyError, UnpackedBody};
use crate::sniff::{self, Markup, SniffInput, Sniffed};
use crate::{AnalysisOptions, MAX_PAGE_BYTES, PageInput, PageNumbers, Reading, Whole, analyse};

/// Executes an [`AnalysisRequest`] on two bodies; returns an [`AnalysisReply`] as JSON, and the whole result.
///
/// If the request cannot be parsed both are empty, which the worker treats as a bad reply.
pub fn answer(request: &[u8], from: Vec<u8>, to: Vec<u8>, phase: fn(&'static str)) -> (Vec<u8>, Vec<u8>) {
    let Ok(request) = serde_json::from_slice::<AnalysisRequest>(request) else { return Default::default() };
    let (reply, whole) = match analyse_bodies(&request, from, to, phase) {
        Ok((summary, whole)) => (AnalysisReply::Analysed(Box::new(summary)), whole),
        Err(reply) => (reply, Vec::new()),
    };
    (serde_json::to_vec(&reply).unwrap_or_default(), whole)
}

fn analyse_bodies(
    request: &AnalysisRequest,
    from: Vec<u8>,
    to: Vec<u8>,
    phase: fn(&'static str),
) -> Result<(AnalysisSummary, Vec<u8>), AnalysisReply> {
    phase("decompress");
    let cap = usize::try_from(request.max_decoded_bytes).unwrap_or(usize::MAX).min(MAX_PAGE_BYTES);
    let from = unpack(&request.from, Side::From, from, cap)?;
    let to = unpack(&request.to, Side::To, to, cap)?;

    phase("sniff");
    let inputs = [sniff_input(&request.from, &from), sniff_input(&request.to, &to)];
    let pair = sniff::filter_by_content(inputs).map_err(skipped)?;

    let max_result_bytes = usize::try_from(request.max_result_bytes).unwrap_or(usize::MAX);
    let options = AnalysisOptions { max_result_bytes };
    let pages = [0, 1].map(|i| page(inputs[i], pair.markup.map(|markup| markup[i])));
    let result = analyse(pages[0], pages[1], &options, phase).map_err(skipped)?;
    let [old_reading, new_reading] = result.readings;
    let decoded = |body: &UnpackedBody, sniffed: Sniffed, reading: Reading| DecodedBody {
        bytes: body.bytes.len() as u64,
        sniffed: sniffed.media_type.to_owned(),
        encoding: reading.encoding,
        notes: body.notes.iter().copied().chain(reading.notes).collect(),
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
        bodies: [decoded(&from, pair.sniffed[0], old_reading), decoded(&to, pair.sniffed[1], new_reading)],
        result_too_large,
    };
    Ok((summary, whole))
}

fn unpack(input: &BodyInput, side: Side, wire: Vec<u8>, cap: usize) -> Result<UnpackedBody, AnalysisReply> {
    body::unpack(input, wire, cap).map_err(|error| match error {
        BodyError::Bomb(detail) => failed(ChildFailure::DecompressionBomb, side, &detail),
        BodyError::HashMismatch(detail) => failed(ChildFailure::HashMismatch, side, &detail),
        BodyError::Damaged(detail) => skipped(Skip::new(SkipReason::Undecodable, detail).on(side)),
    })
}

fn sniff_input<'b>(input: &'b BodyInput, body: &'b UnpackedBody) -> SniffInput<'b> {
    SniffInput {
        bytes: &body.bytes,
        declared: input.declared(),
        content_type: input.charset_source(),
        status: input.status,
    }
}

fn page(input: SniffInput<'_>, markup: Option<Markup>) -> PageInput<'_> {
    let SniffInput { bytes, content_type, status, .. } = input;
    PageInput { bytes, content_type, status, markup }
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
        | SkipReason::WrongOrder
        | SkipReason::NoPrevious
        | SkipReason::AlreadyDone
        | SkipReason::NotHttp
        | SkipReason::MediaType
        | SkipReason::MediaTypeUnknown
        | SkipReason::Extension
        | SkipReason::Expired
        | SkipReason::Cancelled => ChildSkip::Content,
    };
    AnalysisReply::Skipped {
        reason,
        detail: clip(&skip.detail, DETAIL_MAX_CHARS),
        side: skip.side,
        sniffed: skip.sniffed,
    }
}

fn failed(kind: ChildFailure, side: Side, detail: &str) -> AnalysisReply {
    AnalysisReply::Failed { kind, detail: clip(detail, DETAIL_MAX_CHARS), side }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use wm_job::report::BodyNote;
    use wm_job::skip::SniffedTypes;
    use wm_job::text::sha256_hex;

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
        let (reply, whole) = answer(&request, from.to_vec(), to.to_vec(), |_| {});
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
            let sniffed = SniffedTypes { from: "application/pdf".to_owned(), to: "text/html".to_owned() };
            assert_eq!(
                answer_about(from, pdf),
                AnalysisReply::Skipped {
                    reason: ChildSkip::Content,
                    detail,
                    side: Some(Side::From),
                    sniffed: Some(sniffed),
                }
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
        // A body whose middle is damaged.
        let numbers: String = (0..3_000).map(|n| format!("<p>{n}")).collect();
        let mut damaged = gzip(numbers.as_bytes());
        let middle = damaged.len() / 2;
        damaged[middle..middle + 20].fill(0xFF);
        assert_eq!(failed(answer_about(gzipped(hash()), &damaged)), mismatch);
        let undecodable = Some((ChildSkip::Undecodable, Some(Side::From)));
        assert_eq!(skipped(answer_about(gzipped(None), &damaged)), undecodable);
        // Text that brotli decodes partially.
        let brotli = BodyInput { content_encoding: Some("br".to_owned()), ..side() };
        assert!(reported(answer_about(brotli, PAGE)));
    }

    #[test]
    fn a_hash_that_the_worker_has_is_not_made_again() {
        let with = |captured: &[u8], received: Option<&[u8]>| {
            let wire_sha256 = received.map(sha256_hex);
            BodyInput { body_hash: Some(sha256_hex(captured)), wire_sha256, ..side() }
        };
        let failed =
            |answer| matches!(answer, AnalysisReply::Failed { kind: ChildFailure::HashMismatch, .. });
        let other = b"<p>other".as_slice();
        // The worker's word is taken for the bytes as they came, and for no others.
        assert!(!failed(answer_about(with(PAGE, Some(PAGE)), PAGE)));
        assert!(!failed(answer_about(with(other, Some(other)), PAGE)), "it was hashed again");
        assert!(failed(answer_about(with(other, Some(PAGE)), PAGE)));
        let packed = BodyInput { content_encoding: Some("gzip".to_owned()), ..with(PAGE, Some(&gzip(PAGE))) };
        assert!(!failed(answer_about(packed, &gzip(PAGE))));
        let packed =
            BodyInput { content_encoding: Some("gzip".to_owned()), ..with(other, Some(&gzip(PAGE))) };
        assert!(failed(answer_about(packed, &gzip(PAGE))));
    }

    #[test]
    fn a_missing_label_is_a_claim_too() {
        let notes_on = |from, body: &[u8]| match answer_about(from, body) {
            AnalysisReply::Analysed(summary) => {
                assert_eq!(summary.bodies[0].bytes, PAGE.len() as u64);
                Ok(summary.bodies[0].notes.clone())
            }
            other @ (AnalysisReply::Skipped { .. } | AnalysisReply::Failed { .. }) => Err(other),
        };
        let labelled = |label: &str| BodyInput { content_encoding: Some(label.to_owned()), ..side() };
        let hashed = |input| BodyInput { body_hash: Some(sha256_hex(PAGE)), ..input };
        let zlib = |bytes: &[u8]| {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let deflate = |bytes: &[u8]| {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = ruzstd::encoding::compress_to_vec(PAGE, ruzstd::encoding::CompressionLevel::Fastest);
        // One stored block and an empty last one.
        let header = ((PAGE.len() as u32 - 1) << 4) | (1 << 20);
        let brotli = [&header.to_le_bytes()[..3], PAGE, &[3]].concat();
        let undeclared = Ok(vec![BodyNote::UndeclaredCompression]);
        for body in [gzip(PAGE), zlib(PAGE), zstd, gzip(&gzip(PAGE)), deflate(PAGE)] {
            for label in ["", " ", "none", "identity", "br", "utf-8"] {
                assert_eq!(notes_on(labelled(label), &body), undeclared, "{label} {body:02x?}");
            }
            assert_eq!(notes_on(hashed(side()), &body), undeclared);
        }
        assert_eq!(notes_on(hashed(side()), &brotli), undeclared);
        assert_eq!(notes_on(labelled("gzip"), &gzip(&gzip(PAGE))), undeclared, "one of two layers");
        assert_eq!(notes_on(labelled("gzip"), &zlib(PAGE)), undeclared, "another one");
        // Another body than the captured one, an archive of what is no text, and a bomb without a label.
        let other = BodyInput { body_hash: Some(sha256_hex(b"other")), ..side() };
        assert!(matches!(notes_on(other, &gzip(PAGE)), Err(AnalysisReply::Failed { .. })));
        for body in [gzip(b"%PDF-1.4\n%\xe2\xe3\n1 0 obj"), gzip(&vec![b'x'; 1_000_001])] {
            let AnalysisReply::Skipped { reason, detail, .. } = answer_about(side(), &body) else {
                panic!("not skipped")
            };
            assert_eq!(reason, ChildSkip::Content);
            assert!(detail.contains("application/gzip"), "{detail}");
        }
    }

    #[test]
    fn what_came_out_of_a_stream_without_its_end_is_the_body() {
        let cut = gzip(PAGE)[..gzip(PAGE).len() - 8].to_vec();
        let notes_on = |from, body: &[u8]| match answer_about(from, body) {
            AnalysisReply::Analysed(summary) => summary.bodies[0].notes.clone(),
            other @ (AnalysisReply::Skipped { .. } | AnalysisReply::Failed { .. }) => panic!("{other:?}"),
        };
        assert_eq!(notes_on(gzipped(None), &cut), [BodyNote::CutShort]);
        assert_eq!(notes_on(gzipped(Some(sha256_hex(PAGE))), &cut), [BodyNote::CutShort]);
        let both = [BodyNote::UndeclaredCompression, BodyNote::CutShort];
        assert_eq!(notes_on(side(), &cut), both);
        // A damaged checksum: the captured hash decides.
        let mut damaged = gzip(PAGE);
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        assert_eq!(notes_on(gzipped(Some(sha256_hex(PAGE))), &damaged), []);
        let AnalysisReply::Failed { kind, detail, .. } =
            answer_about(gzipped(Some(sha256_hex(b"other"))), &cut)
        else {
            panic!("not failed")
        };
        assert_eq!(kind, ChildFailure::HashMismatch);
        assert!(detail.contains("lacks its end"), "{detail}");
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
            let request = serde_json::to_vec(&request).unwrap();
            let (reply, whole) = answer(&request, PAGE.to_vec(), b"<p>other".to_vec(), |_| {});
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
        assert_eq!(answer(b"{}", Vec::new(), Vec::new(), |_| {}), Default::default());
    }
}
