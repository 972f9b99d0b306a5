//! Undoes a body's content encodings, within a cap.
//!
//! Invariant: no more than the cap is ever held, whatever a stream claims; and a stream costs a bounded number of
//! restarts, whatever it consists of.
//!
//! # Why
//! This is the first thing that a hostile body meets, so it happens in the child and nowhere else. Decoders that are
//! safe code stand in for the C ones. A window is memory too: brotli's large windows are refused, zstd's are held to
//! the 8 MiB that a web browser grants (RFC 9659).

use std::io::{ErrorKind, Read};

use brotli_decompressor::{BrotliDecoderParameter, Decompressor};
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The most encodings on top of each other: no server means more.
const MAX_LAYERS: usize = 3;
/// The most members of a gzip stream, or frames of a zstd one: each costs a fresh decoder.
const MAX_MEMBERS: usize = 1000;
/// zstd's window, as RFC 9659 bounds it for the web.
const MAX_ZSTD_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// How much is decompressed at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A content encoding that we can undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    /// `gzip`, `x-gzip`.
    Gzip,
    /// `deflate`: zlib as the standard has it, or raw as some servers do.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// Why a body could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DecompressError {
    /// It is larger than the cap, or stacked too high, or a heap of empty members.
    Bomb(String),
    /// It breaks off or is damaged, after something came out.
    Broken(String),
}

/// The encodings that a `Content-Encoding` names, in the order in which they were applied. What is not a compression
/// (`identity`, `utf-8`, `aws-chunked`, ...) or not one of ours is left out: the bytes then speak for themselves.
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

/// Undoes all encodings, the last one first; `None` where there was nothing to undo, whatever was claimed.
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

/// Undoes one encoding; `None` where not one byte came out, so that it was none.
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

/// All members; what stands behind the last one and is none is ignored, as gzip does.
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

/// All frames, and nothing behind the last one.
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

/// What came out so far.
struct CappedOutput {
    bytes: Vec<u8>,
    cap: usize,
}

impl CappedOutput {
    /// Reads a decoder to its end, or to the cap and one byte beyond.
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
                        "behind {} bytes: {error}",
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
        // Applied once, said twice.
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
        // A frame with a window of 64 MiB around one stored block, and an empty stream with a window of 1 GiB.
        let zstd = b"\x28\xB5\x2F\xFD\x00\x80\x29\x00\x00hello";
        let brotli = b"\x11\xDE";
        assert_eq!(decompressed(zstd, "zstd"), Ok(None));
        assert_eq!(decompressed(brotli, "br"), Ok(None));
    }
}
