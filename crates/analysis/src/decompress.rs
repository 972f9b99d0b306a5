//! Decodes the content encodings of a body, within a size limit.
//!
//! Invariant: the output never exceeds the limit, whatever a stream claims, and the number of decoder
//! restarts per stream is bounded.
//!
//! # Why
//! This is the first code that processes a hostile body, so it runs in the child only. Decoders written in
//! safe Rust are used instead of the C ones. A window is memory too: brotli's large windows are refused, and
//! zstd's are limited to the 8 MiB that web browsers allow (RFC 9659).
//!
//! A stream without its end differs from a damaged one: the decoder asks for more bytes than there are.

mod undeclared;

use std::io::{BufRead, ErrorKind, Read};

use brotli_decompressor::{BrotliDecoderParameter, Decompressor};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, StreamingDecoder};

pub(super) use self::undeclared::{Proof, by_signature, ends_with_body, undo_undeclared};

/// Maximum number of stacked encodings; no server uses more on purpose.
pub(super) const MAX_LAYERS: usize = 3;
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

/// What a body was behind its content encodings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decompressed {
    /// It is not encoded: a decoder produced nothing from it.
    NotEncoded,
    /// All of it.
    Whole(Vec<u8>),
    /// The stream lacks its end; this came out before.
    CutShort(Vec<u8>),
    /// The stream is damaged; this came out before, and why.
    Damaged(Vec<u8>, String),
}

/// A body that exceeds the limit, or has too many stacked encodings or members; and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bomb(pub(super) String);

/// Why a stream ended before its end.
enum StreamError {
    Bomb(Bomb),
    /// It asks for more bytes than there are.
    CutShort,
    Damaged(String),
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

/// Decodes all encodings, the last one first.
///
/// # Errors
/// [`Bomb`].
pub(super) fn decompress(
    body: &[u8],
    encodings: &[ContentEncoding],
    cap: usize,
) -> Result<Decompressed, Bomb> {
    if encodings.len() > MAX_LAYERS {
        return Err(Bomb(format!("{} content encodings; {MAX_LAYERS} at most", encodings.len())));
    }
    let mut decoded: Option<Vec<u8>> = None;
    let mut is_cut = false;
    for encoding in encodings.iter().rev() {
        match decompress_one(decoded.as_deref().unwrap_or(body), *encoding, cap)? {
            Decompressed::NotEncoded => {}
            Decompressed::Whole(bytes) => decoded = Some(bytes),
            Decompressed::CutShort(bytes) => {
                is_cut = true;
                decoded = Some(bytes);
            }
            damaged @ Decompressed::Damaged(..) => return Ok(damaged),
        }
    }
    Ok(match decoded {
        None => Decompressed::NotEncoded,
        Some(bytes) if is_cut => Decompressed::CutShort(bytes),
        Some(bytes) => Decompressed::Whole(bytes),
    })
}

/// Decodes one encoding.
fn decompress_one(body: &[u8], encoding: ContentEncoding, cap: usize) -> Result<Decompressed, Bomb> {
    let mut out = CappedOutput { bytes: Vec::new(), cap };
    let decoded = match encoding {
        ContentEncoding::Gzip => gunzip(body, &mut out),
        ContentEncoding::Deflate => inflate(body, &mut out),
        ContentEncoding::Brotli => {
            let mut source = Source::new(body);
            let mut decoder = Decompressor::new(&mut source, CHUNK_BYTES);
            decoder.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
            let read = out.read_to_end(decoder);
            source.judge(read)
        }
        ContentEncoding::Zstd => unzstd(body, &mut out),
    };
    match decoded {
        Err(StreamError::Bomb(bomb)) => Err(bomb),
        Err(StreamError::CutShort | StreamError::Damaged(_)) if out.bytes.is_empty() => {
            Ok(Decompressed::NotEncoded)
        }
        Err(StreamError::CutShort) => Ok(Decompressed::CutShort(out.bytes)),
        Err(StreamError::Damaged(why)) => {
            let why = format!("after {} bytes: {why}", out.bytes.len());
            Ok(Decompressed::Damaged(out.bytes, why))
        }
        Ok(()) => Ok(Decompressed::Whole(out.bytes)),
    }
}

/// Decodes all members; trailing data that is not a member is ignored, as in gzip.
fn gunzip(body: &[u8], out: &mut CappedOutput) -> Result<(), StreamError> {
    let mut rest = body;
    for member in 0.. {
        if member > 0 && !rest.starts_with(&[0x1F, 0x8B]) {
            break;
        }
        check_member_count(member, "gzip members")?;
        let mut decoder = GzDecoder::new(Source::new(rest));
        let read = out.read_to_end(&mut decoder);
        let source = decoder.into_inner();
        rest = source.rest;
        source.judge(read)?;
    }
    Ok(())
}

/// Decodes zlib or, where that yields nothing, raw deflate.
fn inflate(body: &[u8], out: &mut CappedOutput) -> Result<(), StreamError> {
    match inflate_as(Decompress::new(true), body, out) {
        Err(StreamError::CutShort | StreamError::Damaged(_)) if out.bytes.is_empty() => {
            inflate_as(Decompress::new(false), body, out)
        }
        other => other,
    }
}

fn inflate_as(mut decoder: Decompress, body: &[u8], out: &mut CappedOutput) -> Result<(), StreamError> {
    let mut step = vec![0; CHUNK_BYTES];
    loop {
        // Neither exceeds the length of a slice.
        let (read, written) = (decoder.total_in() as usize, decoder.total_out() as usize);
        let status = decoder.decompress(&body[read..], &mut step, FlushDecompress::None);
        let produced = decoder.total_out() as usize - written;
        out.push(&step[..produced])?;
        match status {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(Status::Ok | Status::BufError) => {
                if produced == 0 && decoder.total_in() as usize == read {
                    return Err(StreamError::CutShort);
                }
            }
            Err(error) => return Err(StreamError::Damaged(error.to_string())),
        }
    }
}

/// Decodes all frames; trailing data that is not a frame is ignored.
fn unzstd(body: &[u8], out: &mut CappedOutput) -> Result<(), StreamError> {
    let mut source = Source::new(body);
    for frame in 0.. {
        check_member_count(frame, "zstd frames")?;
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        match StreamingDecoder::new_with_decoder(&mut source, decoder) {
            Ok(mut stream) => {
                let read = out.read_to_end(&mut stream);
                let mut decoder = stream.into_frame_decoder();
                let judged = source.judge(read);
                if let Err(StreamError::CutShort) = judged {
                    // The decoder keeps a window back until the frame ends.
                    let _ = decoder.decode_blocks(ZSTD_LAST_BLOCK, BlockDecodingStrategy::UptoBlocks(1));
                    out.push(&decoder.collect().unwrap_or_default())?;
                }
                judged?;
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                source.rest = source.rest.get(length as usize..).unwrap_or_default();
            }
            Err(_) if frame > 0 => break,
            Err(error) => return Err(StreamError::Damaged(error.to_string())),
        }
    }
    Ok(())
}

/// An empty last block and a checksum, which the decoder does not verify.
const ZSTD_LAST_BLOCK: &[u8] = b"\x01\0\0\0\0\0\0";

fn check_member_count(members: usize, what: &str) -> Result<(), StreamError> {
    if members < MAX_MEMBERS {
        Ok(())
    } else {
        Err(StreamError::Bomb(Bomb(format!("more than {MAX_MEMBERS} {what}"))))
    }
}

/// The bytes of a stream that are left, and whether a decoder asked for more.
struct Source<'b> {
    rest: &'b [u8],
    is_exhausted: bool,
}

impl<'b> Source<'b> {
    fn new(rest: &'b [u8]) -> Self {
        Self { rest, is_exhausted: false }
    }

    /// Tells a stream that lacks its end from a damaged one.
    fn judge(&self, read: Result<(), StreamError>) -> Result<(), StreamError> {
        match read {
            Err(StreamError::Damaged(_)) if self.is_exhausted => Err(StreamError::CutShort),
            other => other,
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.is_exhausted |= self.rest.is_empty() && !out.is_empty();
        self.rest.read(out)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.is_exhausted |= self.rest.is_empty();
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest.consume(count);
    }
}

/// Output so far, limited to `cap` bytes.
struct CappedOutput {
    bytes: Vec<u8>,
    cap: usize,
}

impl CappedOutput {
    fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        if self.bytes.len() + bytes.len() > self.cap {
            let bomb = Bomb(format!("decompresses to more than {} bytes", self.cap));
            return Err(StreamError::Bomb(bomb));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads from a decoder until its end, or until the output would exceed the limit.
    fn read_to_end(&mut self, mut decoder: impl Read) -> Result<(), StreamError> {
        let mut step = vec![0; CHUNK_BYTES];
        loop {
            match decoder.read(&mut step) {
                Ok(0) => return Ok(()),
                Ok(count) => self.push(&step[..count])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StreamError::Damaged(error.to_string())),
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

    /// All that came out; `None` if the body is not encoded.
    fn decompressed(body: &[u8], label: &str) -> Result<Option<Vec<u8>>, Bomb> {
        Ok(match decompress(body, &encodings_of(Some(label)), 10_000)? {
            Decompressed::NotEncoded => None,
            Decompressed::Whole(bytes) => Some(bytes),
            other @ (Decompressed::CutShort(_) | Decompressed::Damaged(..)) => panic!("{other:?}"),
        })
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
    fn what_lacks_only_its_end_comes_out_and_what_is_damaged_is_broken() {
        let page = PAGE.repeat(40);
        let mut flushed = GzEncoder::new(Vec::new(), Compression::fast());
        flushed.write_all(&page).unwrap();
        flushed.flush().unwrap();
        let flushed = flushed.get_ref().clone();
        let without = |bytes: Vec<u8>, end: usize| bytes[..bytes.len() - end].to_vec();
        for (body, label) in [
            (without(gzip(&page), 8), "gzip"),
            (without(gzip(&page), 3), "gzip"),
            (flushed.clone(), "gzip"),
            (gzip(&flushed), "gzip, gzip"),
            (without(zlib(&page), 4), "deflate"),
            (without(zlib(&page), 1), "deflate"),
            (without(zstd(&page), 4), "zstd"),
        ] {
            let found = decompress(&body, &encodings_of(Some(label)), 10_000);
            assert_eq!(found, Ok(Decompressed::CutShort(page.clone())), "{label}");
        }
        // A part of the content is missing, too.
        let noise: Vec<u8> = (0..9_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for (body, label) in [
            (gzip(&noise), "gzip"),
            (zlib(&noise), "deflate"),
            (deflate(&noise), "deflate"),
            (brotli(&noise), "br"),
        ] {
            let cut = &body[..body.len() / 2];
            let Ok(Decompressed::CutShort(out)) = decompress(cut, &encodings_of(Some(label)), 10_000) else {
                panic!("{label} is not cut short")
            };
            assert!(!out.is_empty() && noise.starts_with(&out), "{label}: {}", out.len());
        }
        let mut damaged = gzip(&page);
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        let found = decompress(&damaged, &encodings_of(Some("gzip")), 10_000);
        assert!(matches!(&found, Ok(Decompressed::Damaged(out, _)) if *out == page), "{found:?}");
        let text: Vec<u8> = (0..3_000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let mut damaged = zlib(&text);
        let middle = damaged.len() / 2;
        damaged[middle..middle + 20].fill(0xFF);
        let found = decompress(&damaged, &encodings_of(Some("deflate")), 100_000);
        assert!(matches!(found, Ok(Decompressed::Damaged(..))), "{found:?}");
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
            assert!(matches!(decompressed(&body, label), Err(Bomb(_))), "{label} of {size}");
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
