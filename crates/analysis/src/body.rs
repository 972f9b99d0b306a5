//! Finds the body in the bytes that were received: undoes its content encodings, and compares its hash.
//!
//! # Why
//! An archive often stores a body decompressed and still repeats the `Content-Encoding` it was captured with, or has lost
//! the header and kept the compression. So the header is only a claim, and a missing one, too: bytes with the captured
//! hash are the body, whatever is claimed; bytes from which the decoder produces no output were not encoded; what
//! is no text is undone if it has the signature of a compressed stream, or is one from its first byte to its last, and
//! text comes out; and if the decoder fails half-way, the bytes are
//! the body if they are text as they are. A stream that only lacks its end is used as far as it goes. Otherwise the body
//! is broken: a hash mismatch if a hash is known, undecodable if not.

use wm_job::analysis_request::BodyInput;
use wm_job::report::BodyNote;
use wm_job::text::{quote, sha256_hex};

use crate::decompress::{self, Bomb, ContentEncoding, Decompressed, MAX_LAYERS, Proof};
use crate::sniff::{self, ContentFamily};

/// A body without its content encodings.
#[derive(Debug)]
pub(super) struct UnpackedBody {
    pub(super) bytes: Vec<u8>,
    /// What is unusual about how it was packed.
    pub(super) notes: Vec<BodyNote>,
}

/// Why there is no body, in a sentence.
#[derive(Debug)]
pub(super) enum BodyError {
    /// It is larger than allowed.
    Bomb(String),
    /// It is not the one that was captured.
    HashMismatch(String),
    /// Its content encoding is damaged.
    Damaged(String),
}

impl From<Bomb> for BodyError {
    fn from(Bomb(why): Bomb) -> Self {
        Self::Bomb(why)
    }
}

/// Determines the body from the declared encodings, the captured hash and the bytes; `cap` is its largest size.
///
/// # Errors
/// See [`BodyError`].
pub(super) fn unpack(input: &BodyInput, wire: Vec<u8>, cap: usize) -> Result<UnpackedBody, BodyError> {
    let captured = Captured::of(input);
    if captured.is_received(input, &wire) {
        return finished(wire, Vec::new(), cap);
    }
    let is_body = |bytes: &[u8]| captured.is_or_else(bytes, || is_text(bytes, input));
    let is_plain = |bytes: &[u8]| captured.is_unknown() && is_text(bytes, input);
    let is_likely = |out: &[u8]| !out.is_empty() && is_text(out, input);
    let declared = decompress::encodings_of(input.content_encoding.as_deref());
    let (mut bytes, mut notes) = (wire, Vec::new());
    // What came out of a stream without its end, where that may be chance.
    let mut doubtful = None;
    match decompress::decompress(&bytes, &declared, cap)? {
        Decompressed::NotEncoded => {}
        // The label is stale: the body is stored as text, and what a decoder made of it is chance.
        Decompressed::Whole(out)
            if is_plain(&bytes) && !(is_likely(&out) && is_whole_stream(&bytes, &declared, cap)) => {}
        Decompressed::CutShort(out) if is_plain(&bytes) && !(is_likely(&out) && has_signature(&bytes)) => {}
        Decompressed::Whole(out) => bytes = out,
        Decompressed::CutShort(out) if is_body(&out) => {
            bytes = out;
            notes.push(BodyNote::CutShort);
        }
        Decompressed::CutShort(out) => doubtful = Some(out),
        Decompressed::Damaged(out, _) if captured.is(&out) => bytes = out,
        Decompressed::Damaged(..) if captured.is_unknown() && is_text(&bytes, input) => {}
        Decompressed::Damaged(_, why) => {
            let claimed = quote(input.content_encoding.as_deref().unwrap_or_default());
            let detail = format!("the content encoding ({claimed}) is damaged {why}");
            let error = if captured.is_unknown() { BodyError::Damaged } else { BodyError::HashMismatch };
            return Err(error(detail));
        }
    }
    if is_body(&bytes) {
        return finished(bytes, notes, cap);
    }
    let layers = MAX_LAYERS - declared.len();
    let proof = if captured.is_unknown() { Proof::Text } else { Proof::Hash };
    match decompress::undo_undeclared(&bytes, cap, layers, proof, &is_body) {
        Ok(Some(found)) => {
            bytes = found.bytes;
            notes.push(BodyNote::UndeclaredCompression);
            if found.is_cut && !notes.contains(&BodyNote::CutShort) {
                notes.push(BodyNote::CutShort);
            }
        }
        Ok(None) => {
            if let Some(out) = doubtful {
                bytes = out;
                notes.push(BodyNote::CutShort);
            }
        }
        // Without a hash it is an archive that is no page.
        Err(_) if captured.is_unknown() => {}
        Err(bomb) => return Err(bomb.into()),
    }
    if !captured.is_unknown() && !captured.is(&bytes) {
        let cut =
            if notes.contains(&BodyNote::CutShort) { "; its compressed stream lacks its end" } else { "" };
        let expected = captured.0.unwrap_or_default();
        let detail = format!("SHA-256 is {}, captured was {expected}{cut}", sha256_hex(&bytes));
        return Err(BodyError::HashMismatch(detail));
    }
    finished(bytes, notes, cap)
}

fn finished(bytes: Vec<u8>, notes: Vec<BodyNote>, cap: usize) -> Result<UnpackedBody, BodyError> {
    if bytes.len() > cap {
        return Err(BodyError::Bomb(format!("{} bytes; {cap} at most", bytes.len())));
    }
    Ok(UnpackedBody { bytes, notes })
}

/// Whether a stream was there: it has a signature, or needs all of the bytes.
fn is_whole_stream(bytes: &[u8], declared: &[ContentEncoding], cap: usize) -> bool {
    let outermost = declared.last().copied();
    has_signature(bytes) || outermost.is_some_and(|encoding| decompress::ends_with_body(bytes, encoding, cap))
}

fn has_signature(bytes: &[u8]) -> bool {
    decompress::by_signature(bytes).is_some()
}

fn is_text(bytes: &[u8], input: &BodyInput) -> bool {
    sniff::classify(bytes, input.charset_source()).family != ContentFamily::Binary
}

/// The hash of the captured body, if it is known.
struct Captured(Option<String>);

impl Captured {
    fn of(input: &BodyInput) -> Self {
        Self(input.body_hash.as_deref().map(|hash| hash.trim().to_ascii_lowercase()))
    }

    fn is_unknown(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the bytes as they were received are known to be the captured body, by the hash that the worker has of
    /// them.
    fn is_received(&self, input: &BodyInput, wire: &[u8]) -> bool {
        match (&self.0, &input.wire_sha256) {
            (Some(captured), Some(received)) => captured == received,
            (Some(_), None) | (None, _) => self.is(wire),
        }
    }

    /// Whether bytes are known to be the captured body.
    fn is(&self, bytes: &[u8]) -> bool {
        self.is_or_else(bytes, || false)
    }

    /// Whether bytes are the captured body; if its hash is not known, by another rule.
    fn is_or_else(&self, bytes: &[u8], rule: impl Fn() -> bool) -> bool {
        self.0.as_deref().map_or_else(rule, |hash| hash == sha256_hex(bytes))
    }
}
