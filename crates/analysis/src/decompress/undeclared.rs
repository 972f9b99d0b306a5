//! Undoes a compression that no label declares, or a wrong one.
//!
//! # Why
//! Archives have lost the label of years of gzip bodies. gzip, zstd and zlib begin with a signature. brotli and raw
//! deflate have none, so they are tried on what is no text, and only a stream that ends with the body is believed:
//! some bytes of a picture may begin one. Where the captured hash is known it decides alone.

use super::{Bomb, ContentEncoding, Decompressed, decompress_one};

/// What came out of the layers of compression.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Undeclared {
    /// The content.
    pub(in super::super) bytes: Vec<u8>,
    /// The stream lacks its end.
    pub(in super::super) is_cut: bool,
}

/// Undoes up to so many layers; `None` if there is none, or if what comes out is not accepted.
///
/// # Errors
/// [`Bomb`]: what begins as a compressed stream exceeds the limit.
pub(in super::super) fn undo_undeclared(
    body: &[u8],
    cap: usize,
    layers: usize,
    proof: Proof,
    accept: &impl Fn(&[u8]) -> bool,
) -> Result<Option<Undeclared>, Bomb> {
    if layers == 0 {
        return Ok(None);
    }
    let signature = by_signature(body);
    if let Some(encoding) = signature {
        let (bytes, is_cut) = match decompress_one(body, encoding, cap)? {
            Decompressed::Whole(bytes) => (bytes, false),
            Decompressed::CutShort(bytes) => (bytes, true),
            Decompressed::NotEncoded | Decompressed::Damaged(..) => (Vec::new(), false),
        };
        if !bytes.is_empty() && accept(&bytes) {
            return Ok(Some(Undeclared { bytes, is_cut }));
        }
        if !bytes.is_empty()
            && let Some(inner) = undo_undeclared(&bytes, cap, layers - 1, proof, accept)?
        {
            return Ok(Some(Undeclared { is_cut: is_cut || inner.is_cut, ..inner }));
        }
    }
    for encoding in [ContentEncoding::Brotli, ContentEncoding::Deflate] {
        if Some(encoding) == signature {
            continue;
        }
        // Without a signature a stream that is too large is chance, too.
        let (bytes, is_cut) = match decompress_one(body, encoding, cap) {
            Ok(Decompressed::Whole(bytes)) => (bytes, false),
            Ok(Decompressed::CutShort(bytes)) if proof == Proof::Hash => (bytes, true),
            Ok(Decompressed::CutShort(_) | Decompressed::NotEncoded | Decompressed::Damaged(..)) | Err(_) => {
                continue;
            }
        };
        if !bytes.is_empty()
            && accept(&bytes)
            && (proof == Proof::Hash || ends_with_body(body, encoding, cap))
        {
            return Ok(Some(Undeclared { bytes, is_cut }));
        }
    }
    Ok(None)
}

/// What shows that the right bytes came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Proof {
    /// They have the captured hash.
    Hash,
    /// They are text.
    Text,
}

/// Whether a stream that decodes needs all of the body, but for white space and NULs behind it.
pub(in super::super) fn ends_with_body(body: &[u8], encoding: ContentEncoding, cap: usize) -> bool {
    let end = body.iter().rposition(|b| !b.is_ascii_whitespace() && *b != 0).unwrap_or_default();
    !matches!(decompress_one(&body[..end], encoding, cap), Ok(Decompressed::Whole(_)))
}

/// The compression that the first bytes are the signature of.
pub(in super::super) fn by_signature(body: &[u8]) -> Option<ContentEncoding> {
    match body {
        [0x1F, 0x8B, 8, ..] => Some(ContentEncoding::Gzip),
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(ContentEncoding::Zstd),
        // RFC 1950: method 8, a window of at most 32 KiB, no preset dictionary, and the check of both bytes.
        [method, flags, ..]
            if method & 15 == 8
                && method >> 4 <= 7
                && flags & 0x20 == 0
                && u16::from_be_bytes([*method, *flags]) % 31 == 0 =>
        {
            Some(ContentEncoding::Deflate)
        }
        _ => None,
    }
}
