//! Entry point in the sandboxed child: decodes content encodings, checks the hash,
//! filters by content, analyses.
//!
//! Bytes in, bytes out: an [`AnalysisRequest`] as JSON and two bodies as received become an [`AnalysisReply`]
//! as JSON. All code that looks inside a hostile body runs here; none of it opens a file or socket, starts a
//! thread or writes anywhere.
//!
//! Invariant: the only failures that a child reports itself are [`FailureKind::DecompressionBomb`] and
//! [`FailureKind::HashMismatch`]; exceeded time and memory limits are reported by the sandbox.
//!
//! # Why
//! An archive often stores a body decompressed and still repeats the `Content-Encoding` it was captured
//! with. So the header is only a claim: bytes with the captured hash are the body, whatever is claimed;
//! bytes from which the decoder produces no output were not encoded; and if the decoder fails half-way, the
//! bytes are the body if they are text as they are. Otherwise the body is broken: a hash mismatch if a hash
//! is known, undecodable if not.

use std::time::Instant;

use wm_job::analysis_request::{AnalysisReply, AnalysisRequest, BodyInput};
use wm_job::failure::{Failure, FailureKind};
use wm_job::outcome::EarlyExit;
use wm_job::page::Side;
use wm_job::report::{ANALYSIS_VERSION, BodyFacts, Report, SCHEMA_VERSION};
use wm_job::skip::{Skip, SkipReason};
use wm_job::text::sha256_hex;

use crate::decompress::{self, DecompressError};
use crate::sniff::{self, ContentFamily, Sniffed};
use crate::{AnalysisOptions, AnalysisResult, MAX_PAGE_BYTES, PageInput, analyse};

/// Executes an [`AnalysisRequest`] on two bodies; returns an [`AnalysisReply`] as JSON.
///
/// If `order` cannot be parsed the result is empty, which the worker treats as a bad reply.
pub fn answer(
    order: &[u8],
    from: Vec<u8>,
    to: Vec<u8>,
    soft_deadline: Instant,
    phase: fn(&'static str),
) -> Vec<u8> {
    let Ok(order) = serde_json::from_slice::<AnalysisRequest>(order) else { return Vec::new() };
    let answer = match analyse_order(&order, from, to, soft_deadline, phase) {
        Ok(report) => AnalysisReply::Reported(Box::new(report)),
        Err(stop) => stop.into(),
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

fn analyse_order(
    order: &AnalysisRequest,
    from: Vec<u8>,
    to: Vec<u8>,
    soft_deadline: Instant,
    phase: fn(&'static str),
) -> Result<Report, EarlyExit> {
    phase("decompress");
    let cap = usize::try_from(order.max_decoded_bytes).unwrap_or(usize::MAX).min(MAX_PAGE_BYTES);
    let from = CapturedBody::decode(&order.from, Side::From, from, cap)?;
    let to = CapturedBody::decode(&order.to, Side::To, to, cap)?;

    phase("sniff");
    let declared = [order.from.declared(), order.to.declared()];
    let [old, new] = sniff::filter_by_content(&from.bytes, &to.bytes, declared)?;

    let options = AnalysisOptions {
        soft_deadline,
        max_ops_bytes: usize::try_from(order.max_ops_bytes).unwrap_or(usize::MAX),
        max_passages: order.max_passages.into(),
    };
    let analysed = analyse(from.page(old), to.page(new), &options, phase)?;
    Ok(report(order, [from, to], [old, new], analysed))
}

/// One body of the pair, decoded and verified.
struct CapturedBody<'o> {
    order: &'o BodyInput,
    side: Side,
    bytes: Vec<u8>,
    wire_bytes: u64,
    wire_sha256: String,
}

impl<'o> CapturedBody<'o> {
    /// Decodes the content encodings and checks the hash.
    fn decode(order: &'o BodyInput, side: Side, wire: Vec<u8>, cap: usize) -> Result<Self, EarlyExit> {
        let wire_bytes = wire.len() as u64;
        let wire_sha256 = sha256_hex(&wire);
        let bytes = decode_body(order, side, wire, &wire_sha256, cap)?;
        Ok(Self { order, side, bytes, wire_bytes, wire_sha256 })
    }

    fn page(&self, sniffed: Sniffed) -> PageInput<'_> {
        PageInput {
            bytes: &self.bytes,
            content_type: self.order.charset_source(),
            status: self.order.status,
            html_like: sniffed.html_like,
        }
    }

    fn facts(self, sniffed: Sniffed, encoding: String) -> BodyFacts {
        BodyFacts {
            side: self.side,
            url: self.order.url.clone(),
            wire_bytes: self.wire_bytes,
            wire_sha256: Some(self.wire_sha256),
            decoded_bytes: Some(self.bytes.len() as u64),
            declared: self.order.declared().map(str::to_owned),
            sniffed: Some(sniffed.media_type.to_owned()),
            encoding: Some(encoding),
        }
    }
}

/// Determines the body from the declared encoding, the expected hash and the bytes.
fn decode_body(
    order: &BodyInput,
    side: Side,
    wire: Vec<u8>,
    wire_sha256: &str,
    cap: usize,
) -> Result<Vec<u8>, EarlyExit> {
    let bomb = |why: String| Failure::new(FailureKind::DecompressionBomb, why).on(side);
    let expected = order.body_hash.as_deref().map(|hash| hash.trim().to_ascii_lowercase());
    let is_body = |hash: &str| expected.as_deref().is_none_or(|expected| expected == hash);
    let known = expected.is_some() && is_body(wire_sha256);

    let encodings = decompress::encodings_of(order.content_encoding.as_deref());
    let undone = if known { Ok(None) } else { decompress::decompress(&wire, &encodings, cap) };
    let (bytes, hash) = match undone {
        Ok(None) => (wire, wire_sha256.to_owned()),
        Ok(Some(bytes)) => {
            let hash = sha256_hex(&bytes);
            (bytes, hash)
        }
        Err(DecompressError::Bomb(why)) => return Err(bomb(why).into()),
        Err(DecompressError::Broken(_))
            if expected.is_none() && sniff::classify(&wire).family != ContentFamily::Binary =>
        {
            (wire, wire_sha256.to_owned())
        }
        Err(DecompressError::Broken(why)) => return Err(broken_encoding(order, side, &why)),
    };
    if bytes.len() > cap {
        return Err(bomb(format!("{} bytes; {cap} at most", bytes.len())).into());
    }
    if !is_body(&hash) {
        let detail = format!("SHA-256 is {hash}, captured was {}", expected.unwrap_or_default());
        return Err(Failure::new(FailureKind::HashMismatch, detail).on(side).into());
    }
    Ok(bytes)
}

/// Outcome for a body that the decoder failed on half-way.
fn broken_encoding(order: &BodyInput, side: Side, why: &str) -> EarlyExit {
    let claimed = order.content_encoding.as_deref().unwrap_or_default();
    let detail = format!("the content encoding ({claimed}) is damaged {why}");
    if order.body_hash.is_some() {
        Failure::new(FailureKind::HashMismatch, detail).on(side).into()
    } else {
        Skip::new(SkipReason::Undecodable, detail).on(side).into()
    }
}

fn report(
    order: &AnalysisRequest,
    [from, to]: [CapturedBody<'_>; 2],
    [old, new]: [Sniffed; 2],
    analysed: AnalysisResult,
) -> Report {
    let [old_encoding, new_encoding] = analysed.encodings;
    Report {
        schema_version: SCHEMA_VERSION,
        analysis_version: ANALYSIS_VERSION,
        from: order.from.uuid,
        to: order.to.uuid,
        page: order.page,
        annotation: analysed.annotation,
        diffs: analysed.diffs,
        approximate: analysed.approximate,
        missing: analysed.missing,
        passages: analysed.passages,
        omitted: analysed.omitted,
        bodies: vec![from.facts(old, old_encoding), to.facts(new, new_encoding)],
        timings: None,
        measured: None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    const PAGE: &[u8] = b"<!doctype html><title>x</title><p>Hello <a href='/a'>old</a> world, how are you?";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn side() -> BodyInput {
        BodyInput { uuid: Uuid::from_u128(1), url: "https://example.org/".to_owned(), ..BodyInput::default() }
    }

    fn order(from: BodyInput, to: BodyInput) -> AnalysisRequest {
        AnalysisRequest {
            page: None,
            from,
            to,
            max_decoded_bytes: 1_000_000,
            max_ops_bytes: 1_000_000,
            max_passages: 0,
        }
    }

    fn answer_to(order: &AnalysisRequest, from: &[u8], to: &[u8]) -> AnalysisReply {
        let order = serde_json::to_vec(order).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        serde_json::from_slice(&answer(&order, from.to_vec(), to.to_vec(), deadline, |_| {})).unwrap()
    }

    /// The reply for this older body, with a plain page as the newer one.
    fn answer_about(from: BodyInput, body: &[u8]) -> AnalysisReply {
        answer_to(&order(from, side()), body, PAGE)
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
        let AnalysisReply::Reported(report) = answer_to(&order(from, side()), &gzip(PAGE), to.as_bytes())
        else {
            panic!("no report")
        };
        assert_eq!(report.annotation.text.unwrap().text_diff_count, 2);
        assert_eq!(report.annotation.links.unwrap().links_diff_count, 1);
        assert_eq!(report.annotation.source.unwrap().source_diff_length, 6);
        let [old, new] = &report.bodies[..] else { panic!("{:?}", report.bodies) };
        assert_eq!((old.side, new.side), (Side::From, Side::To));
        assert_eq!(old.wire_bytes, gzip(PAGE).len() as u64);
        assert_eq!(old.wire_sha256, Some(sha256_hex(&gzip(PAGE))));
        assert_eq!(old.decoded_bytes, Some(PAGE.len() as u64));
        assert_eq!((old.declared.as_deref(), old.sniffed.as_deref()), (Some("text/html"), Some("text/html")));
        assert_eq!(old.encoding.as_deref(), Some("UTF-8"));
        assert_eq!((new.declared.as_deref(), new.wire_bytes), (None, PAGE.len() as u64));
    }

    #[test]
    fn the_incident_is_a_skip_whatever_the_header_says() {
        let pdf = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n";
        for declared in ["application/pdf", "text/html", "text/html; charset=iso-8859-1"] {
            let from = BodyInput { content_type: Some(declared.to_owned()), ..side() };
            let AnalysisReply::Skipped(skip) = answer_about(from, pdf) else { panic!("not skipped") };
            assert_eq!((skip.reason, skip.side), (SkipReason::Content, Some(Side::From)));
            assert_eq!(skip.detail, format!("from is application/pdf (declared {declared})"));
        }
    }

    #[test]
    fn a_label_is_a_claim_and_the_hash_decides() {
        let reported = |answer| matches!(answer, AnalysisReply::Reported(_));
        let failed = |answer| match answer {
            AnalysisReply::Failed(failure) => Some((failure.kind, failure.side)),
            AnalysisReply::Reported(_) | AnalysisReply::Skipped(_) => None,
        };
        let mismatch = Some((FailureKind::HashMismatch, Some(Side::From)));
        let hash = || Some(sha256_hex(PAGE));
        // Encoded as declared; stored decoded but still declared; not encoded and no hash known.
        assert!(reported(answer_about(gzipped(hash()), &gzip(PAGE))));
        assert!(reported(answer_about(gzipped(hash()), PAGE)));
        assert!(reported(answer_about(gzipped(None), PAGE)));
        // The page itself is an archive, stored as it is.
        let archive = gzip(PAGE);
        let AnalysisReply::Skipped(skip) = answer_about(gzipped(Some(sha256_hex(&archive))), &archive) else {
            panic!("not skipped")
        };
        assert_eq!((skip.reason, skip.side), (SkipReason::Content, Some(Side::From)));
        // A different body, encoded or not, declared or not.
        assert_eq!(failed(answer_about(gzipped(hash()), &gzip(b"<p>other"))), mismatch);
        assert_eq!(failed(answer_about(gzipped(hash()), b"<p>other")), mismatch);
        assert_eq!(failed(answer_about(BodyInput { body_hash: hash(), ..side() }, b"<p>other")), mismatch);
        // A truncated body.
        let cut = &gzip(PAGE)[..60];
        assert_eq!(failed(answer_about(gzipped(hash()), cut)), mismatch);
        let AnalysisReply::Skipped(skip) = answer_about(gzipped(None), cut) else { panic!("not skipped") };
        assert_eq!((skip.reason, skip.side), (SkipReason::Undecodable, Some(Side::From)));
        // Text that brotli decodes partially.
        let brotli = BodyInput { content_encoding: Some("br".to_owned()), ..side() };
        assert!(reported(answer_about(brotli, PAGE)));
    }

    #[test]
    fn more_than_the_cap_is_a_bomb_encoded_or_not() {
        let large = vec![b'x'; 1_000_001];
        for (from, body) in [(gzipped(None), gzip(&large)), (side(), large)] {
            let AnalysisReply::Failed(failure) = answer_about(from, &body) else { panic!("not failed") };
            assert_eq!((failure.kind, failure.side), (FailureKind::DecompressionBomb, Some(Side::From)));
        }
    }

    #[test]
    fn a_page_that_became_empty_is_compared() {
        let AnalysisReply::Reported(report) = answer_to(&order(side(), side()), PAGE, b"") else {
            panic!("no report")
        };
        assert_eq!(report.annotation.text.unwrap().text_diff_ratio, 1.0);
        assert!(report.missing.is_empty());
    }

    #[test]
    fn two_texts_that_are_no_pages_have_a_partial_report() {
        let AnalysisReply::Reported(report) = answer_to(&order(side(), side()), b"{\"a\":1}", b"{\"a\":22}")
        else {
            panic!("no report")
        };
        assert!(report.annotation.text.is_none() && report.annotation.links.is_none());
        assert_eq!(report.annotation.source.unwrap().source_diff_count, 2);
        assert_eq!(report.missing.len(), 2);
        assert_eq!(report.bodies[0].sniffed.as_deref(), Some("application/json"));
        let AnalysisReply::Skipped(skip) = answer_to(&order(side(), side()), PAGE, b"{\"a\":1}") else {
            panic!("not skipped")
        };
        assert_eq!(skip.reason, SkipReason::UnlikeContent);
        assert!(
            skip.detail.contains("text/html") && skip.detail.contains("application/json"),
            "{}",
            skip.detail
        );
    }

    #[test]
    fn an_order_that_is_none_is_answered_by_nothing() {
        assert!(answer(b"{}", Vec::new(), Vec::new(), Instant::now(), |_| {}).is_empty());
    }
}
