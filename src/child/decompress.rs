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
const STEP_BYTES: usize = 64 * 1024;

/// A content encoding that we can undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
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
pub(super) enum Trouble {
    /// It is larger than the cap, or stacked too high, or a heap of empty members.
    Bomb(String),
    /// It breaks off or is damaged, after something came out.
    Broken(String),
}

/// The encodings that a `Content-Encoding` names, in the order in which they were applied. What is not a compression
/// (`identity`, `utf-8`, `aws-chunked`, ...) or not one of ours is left out: the bytes then speak for themselves.
pub(super) fn encodings_of(label: Option<&str>) -> Vec<Encoding> {
    let names = label.unwrap_or_default().split(',').map(|name| name.trim().to_ascii_lowercase());
    names
        .filter_map(|name| match name.as_str() {
            "gzip" | "x-gzip" => Some(Encoding::Gzip),
            "deflate" => Some(Encoding::Deflate),
            "br" => Some(Encoding::Brotli),
            "zstd" => Some(Encoding::Zstd),
            _ => None,
        })
        .collect()
}

/// Undoes all encodings, the last one first; `None` where there was nothing to undo, whatever was claimed.
pub(super) fn undo(body: &[u8], encodings: &[Encoding], cap: usize) -> Result<Option<Vec<u8>>, Trouble> {
    if encodings.len() > MAX_LAYERS {
        return Err(Trouble::Bomb(format!("{} content encodings; {MAX_LAYERS} at most", encodings.len())));
    }
    let mut decoded: Option<Vec<u8>> = None;
    for encoding in encodings.iter().rev() {
        let layer = undo_one(decoded.as_deref().unwrap_or(body), *encoding, cap)?;
        decoded = layer.or(decoded);
    }
    Ok(decoded)
}

/// Undoes one encoding; `None` where not one byte came out, so that it was none.
fn undo_one(body: &[u8], encoding: Encoding, cap: usize) -> Result<Option<Vec<u8>>, Trouble> {
    let mut out = Sink { bytes: Vec::new(), cap };
    let decoded = match encoding {
        Encoding::Gzip => gunzip(body, &mut out),
        Encoding::Deflate => inflate(body, &mut out),
        Encoding::Brotli => {
            let mut decoder = Decompressor::new(body, STEP_BYTES);
            decoder.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
            out.drain(decoder)
        }
        Encoding::Zstd => unzstd(body, &mut out),
    };
    match decoded {
        Err(Trouble::Broken(_)) if out.bytes.is_empty() => Ok(None),
        Err(trouble) => Err(trouble),
        Ok(()) => Ok(Some(out.bytes)),
    }
}

/// All members; what stands behind the last one and is none is ignored, as gzip does.
fn gunzip(body: &[u8], out: &mut Sink) -> Result<(), Trouble> {
    let mut rest = body;
    for member in 0.. {
        if member > 0 && !rest.starts_with(&[0x1F, 0x8B]) {
            break;
        }
        bounded(member, "gzip members")?;
        let mut decoder = GzDecoder::new(rest);
        out.drain(&mut decoder)?;
        rest = decoder.into_inner();
    }
    Ok(())
}

fn inflate(body: &[u8], out: &mut Sink) -> Result<(), Trouble> {
    match out.drain(ZlibDecoder::new(body)) {
        Err(Trouble::Broken(_)) if out.bytes.is_empty() => out.drain(DeflateDecoder::new(body)),
        other => other,
    }
}

/// All frames, and nothing behind the last one.
fn unzstd(body: &[u8], out: &mut Sink) -> Result<(), Trouble> {
    let mut rest = body;
    for frame in 0.. {
        bounded(frame, "zstd frames")?;
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        match StreamingDecoder::new_with_decoder(&mut rest, decoder) {
            Ok(decoder) => out.drain(decoder)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                rest = rest.get(length as usize..).unwrap_or_default();
            }
            Err(_) if frame > 0 => break,
            Err(error) => return Err(Trouble::Broken(error.to_string())),
        }
    }
    Ok(())
}

fn bounded(members: usize, what: &str) -> Result<(), Trouble> {
    if members < MAX_MEMBERS { Ok(()) } else { Err(Trouble::Bomb(format!("more than {MAX_MEMBERS} {what}"))) }
}

/// What came out so far.
struct Sink {
    bytes: Vec<u8>,
    cap: usize,
}

impl Sink {
    /// Reads a decoder to its end, or to the cap and one byte beyond.
    fn drain(&mut self, mut decoder: impl Read) -> Result<(), Trouble> {
        let mut step = vec![0; STEP_BYTES];
        loop {
            match decoder.read(&mut step) {
                Ok(0) => return Ok(()),
                Ok(count) if self.bytes.len() + count > self.cap => {
                    return Err(Trouble::Bomb(format!("decompresses to more than {} bytes", self.cap)));
                }
                Ok(count) => self.bytes.extend_from_slice(&step[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Trouble::Broken(format!("behind {} bytes: {error}", self.bytes.len())));
                }
            }
        }
    }
}
