//! Decodes the content encodings of a body, within a size limit.
//!
//! Invariant: the output never exceeds the limit, whatever a stream claims, and the number of decoder
//! restarts per stream is bounded.
//!
//! # Why
//! This is the first code that processes a hostile body, so it runs in the child only. Decoders written in
//! safe Rust are used instead of the C ones. A window is memory too: brotli's large windows are refused, and
//! zstd's are limited to the 8 MiB that web browsers allow (RFC 9659).

use std::io::{ErrorKind, Read};

use brotli_decompressor::{BrotliDecoderParameter, Decompressor};
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Maximum number of stacked encodings; no server uses more on purpose.
const MAX_LAYERS: usize = 3;
/// Maximum number of gzip members or zstd frames; each needs a new decoder.
const MAX_MEMBERS: usize = 1000;
/// Maximum window size of zstd, as set by RFC 9659 for the web.
const MAX_ZSTD_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Number of bytes decompressed per read.
const CHUNK_BYTES: usize = 64 * 1024;

/// A supported content encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    /// `gzip` or `x-gzip`.
    Gzip,
    /// `deflate`: zlib as in the standard, or raw as some servers send it.
    Deflate,
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878).
    Zstd,
}

/// Reason why a body could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DecompressError {
    /// The output exceeds the limit, or there are too many stacked encodings or members.
    Bomb(String),
    /// The stream is truncated or damaged, after some output.
    Broken(String),
}

/// Parses a `Content-Encoding` header, in the order in which the encodings were applied. Names that are not a
/// compression (`identity`, `utf-8`, `aws-chunked`, ...) or are unsupported are ignored; the content is then
/// classified by its bytes.
pub(super) fn encodings_of(label: Option<&str>) -> Vec<ContentEncoding> {
    let names = label.unwrap_or_default().split(',').map(|name| name.trim().to_ascii_lowercase());
    names
        .filter_map(|name| match name.as_str() {
            "gzip" | "x-gzip" => Some(ContentEncoding::Gzip),
            "deflate" => Some(ContentEncoding::Deflate),
            "br" => Some(ContentEncoding::Brotli),
            "zstd" => Some(ContentEncoding::Zstd),
            _ => None,
        })
        .collect()
}

/// Decodes all encodings, the last one first; `None` if the body is not actually encoded.
pub(super) fn decompress(
    body: &[u8],
    encodings: &[ContentEncoding],
    cap: usize,
) -> Result<Option<Vec<u8>>, DecompressError> {
    if encodings.len() > MAX_LAYERS {
        return Err(DecompressError::Bomb(format!(
            "{} content encodings; {MAX_LAYERS} at most",
            encodings.len()
        )));
    }
    let mut decoded: Option<Vec<u8>> = None;
    for encoding in encodings.iter().rev() {
        let layer = decompress_one(decoded.as_deref().unwrap_or(body), *encoding, cap)?;
        decoded = layer.or(decoded);
    }
    Ok(decoded)
}

/// Decodes one encoding; `None` if the decoder produced no output, which means the body
/// is not encoded this way.
fn decompress_one(
    body: &[u8],
    encoding: ContentEncoding,
    cap: usize,
) -> Result<Option<Vec<u8>>, DecompressError> {
    let mut out = CappedOutput { bytes: Vec::new(), cap };
    let decoded = match encoding {
        ContentEncoding::Gzip => gunzip(body, &mut out),
        ContentEncoding::Deflate => inflate(body, &mut out),
        ContentEncoding::Brotli => {
            let mut decoder = Decompressor::new(body, CHUNK_BYTES);
            decoder.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
            out.read_to_end(decoder)
        }
        ContentEncoding::Zstd => unzstd(body, &mut out),
    };
    match decoded {
        Err(DecompressError::Broken(_)) if out.bytes.is_empty() => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(out.bytes)),
    }
}

/// Decodes all members; trailing data that is not a member is ignored, as in gzip.
fn gunzip(body: &[u8], out: &mut CappedOutput) -> Result<(), DecompressError> {
    let mut rest = body;
    for member in 0.. {
        if member > 0 && !rest.starts_with(&[0x1F, 0x8B]) {
            break;
        }
        check_member_count(member, "gzip members")?;
        let mut decoder = GzDecoder::new(rest);
        out.read_to_end(&mut decoder)?;
        rest = decoder.into_inner();
    }
    Ok(())
}

fn inflate(body: &[u8], out: &mut CappedOutput) -> Result<(), DecompressError> {
    match out.read_to_end(ZlibDecoder::new(body)) {
        Err(DecompressError::Broken(_)) if out.bytes.is_empty() => out.read_to_end(DeflateDecoder::new(body)),
        other => other,
    }
}

/// Decodes all frames; trailing data that is not a frame is ignored.
fn unzstd(body: &[u8], out: &mut CappedOutput) -> Result<(), DecompressError> {
    let mut rest = body;
    for frame in 0.. {
        check_member_count(frame, "zstd frames")?;
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        match StreamingDecoder::new_with_decoder(&mut rest, decoder) {
            Ok(decoder) => out.read_to_end(decoder)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                rest = rest.get(length as usize..).unwrap_or_default();
            }
            Err(_) if frame > 0 => break,
            Err(error) => return Err(DecompressError::Broken(error.to_string())),
        }
    }
    Ok(())
}

fn check_member_count(members: usize, what: &str) -> Result<(), DecompressError> {
    if members < MAX_MEMBERS {
        Ok(())
    } else {
        Err(DecompressError::Bomb(format!("more than {MAX_MEMBERS} {what}")))
    }
}

/// Output so far, limited to `cap` bytes.
struct CappedOutput {
    bytes: Vec<u8>,
    cap: usize,
}

impl CappedOutput {
    /// Reads from a decoder until its end, or until the output would exceed the limit.
    fn read_to_end(&mut self, mut decoder: impl Read) -> Result<(), DecompressError> {
        let mut step = vec![0; CHUNK_BYTES];
        loop {
            match decoder.read(&mut step) {
                Ok(0) => return Ok(()),
                Ok(count) if self.bytes.len() + count > self.cap => {
                    return Err(DecompressError::Bomb(format!(
                        "decompresses to more than {} bytes",
                        self.cap
                    )));
                }
                Ok(count) => self.bytes.extend_from_slice(&step[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(DecompressError::Broken(format!(
                        "after {} bytes: {error}",
                        self.bytes.len()
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    const PAGE: &[u8] = b"<!doctype html><p>a page, a page, a page, a page";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Brotli without compression: one stored block (RFC 7932, section 9.2) and an empty last one.
    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let header = ((bytes.len() as u32 - 1) << 4) | (1 << 20);
        [&header.to_le_bytes()[..3], bytes, &[3]].concat()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn decompressed(body: &[u8], label: &str) -> Result<Option<Vec<u8>>, DecompressError> {
        decompress(body, &encodings_of(Some(label)), 10_000)
    }

    #[test]
    fn every_encoding_is_undone_also_on_top_of_others() {
        let table = [
            (gzip(PAGE), "gzip"),
            (gzip(PAGE), "X-GZIP "),
            (zlib(PAGE), "deflate"),
            (deflate(PAGE), "deflate"),
            (brotli(PAGE), "br"),
            (zstd(PAGE), "zstd"),
            (brotli(&gzip(PAGE)), "gzip, br"),
            (gzip(&zstd(&zlib(PAGE))), "deflate, zstd, gzip"),
            ([gzip(&PAGE[..9]), gzip(&PAGE[9..])].concat(), "gzip"),
            ([zstd(&PAGE[..9]), zstd(&PAGE[9..])].concat(), "zstd"),
            ([b"\x50\x2A\x4D\x18\x03\0\0\0xyz".to_vec(), zstd(PAGE)].concat(), "zstd"),
            ([gzip(PAGE), b"trailing rubbish".to_vec()].concat(), "gzip"),
            (gzip(PAGE), "gzip, utf-8, identity"),
        ];
        for (body, label) in table {
            assert_eq!(decompressed(&body, label).unwrap().as_deref(), Some(PAGE), "{label}");
        }
    }

    #[test]
    fn what_only_claims_to_be_encoded_is_left_alone() {
        for label in ["gzip", "deflate", "zstd", "identity", "compress", "utf-8", ""] {
            assert_eq!(decompressed(PAGE, label), Ok(None), "{label}");
        }
        assert_eq!(decompressed(b"", "gzip"), Ok(None));
        // Applied once, declared twice.
        assert_eq!(decompressed(&gzip(PAGE), "gzip, gzip").unwrap().as_deref(), Some(PAGE));
    }

    #[test]
    fn a_body_that_breaks_off_is_broken() {
        for (body, label) in [(gzip(PAGE), "gzip"), (zlib(PAGE), "deflate"), (brotli(PAGE), "br")] {
            let cut = &body[..body.len() - 12];
            assert!(
                matches!(decompressed(cut, label), Err(DecompressError::Broken(_))),
                "{label}: {:?}",
                decompressed(cut, label)
            );
        }
    }

    #[test]
    fn bombs_stop_at_the_cap() {
        let large = vec![0; 20_000_000];
        let many = gzip(b"").repeat(MAX_MEMBERS + 1);
        let table = [
            (gzip(&large), "gzip"),
            (deflate(&large), "deflate"),
            (zstd(&large), "zstd"),
            (brotli(&vec![b'x'; 10_001]), "br"),
            (gzip(&gzip(&large)), "gzip, gzip"),
            (many, "gzip"),
            (zstd(b"").repeat(MAX_MEMBERS + 1), "zstd"),
            (PAGE.to_vec(), "gzip, gzip, gzip, gzip"),
        ];
        for (body, label) in table {
            let size = body.len();
            assert!(matches!(decompressed(&body, label), Err(DecompressError::Bomb(_))), "{label} of {size}");
        }
        let fits = vec![b'x'; 10_000];
        assert_eq!(decompressed(&gzip(&fits), "gzip").unwrap(), Some(fits));
    }

    #[test]
    fn windows_that_no_browser_grants_are_refused() {
        // A frame with a window of 64 MiB around one stored block, and an empty stream with
        // a window of 1 GiB.
        let zstd = b"\x28\xB5\x2F\xFD\x00\x80\x29\x00\x00hello";
        let brotli = b"\x11\xDE";
        assert_eq!(decompressed(zstd, "zstd"), Ok(None));
        assert_eq!(decompressed(brotli, "br"), Ok(None));
    }
}
