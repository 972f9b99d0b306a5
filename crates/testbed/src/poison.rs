//! Bodies that brought the old service down, or would have: built here, so that no such file needs to be
//! kept.
//!
//! Sizes and shapes are those that were measured against it; each is honest input, none is made for one of
//! our limits. All are deterministic.

use std::io::Write;

use super::body::Body;
use super::pages::Rng;

/// A PDF of about this size: objects with compressed streams, as a scanner or a word processor makes them.
pub fn pdf(seed: u64, size_bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut file = b"%PDF-1.6\n%\xE2\xE3\xCF\xD3\n".to_vec();
    let mut offsets = Vec::new();
    while file.len() < size_bytes {
        offsets.push(file.len());
        let length = 2_000 + rng.below(30_000);
        let stream = rng.bytes(length);
        let head =
            format!("{} 0 obj\n<< /Length {} /Filter /FlateDecode >>\nstream\n", offsets.len(), stream.len());
        file.extend([head.as_bytes(), &stream, b"\nendstream\nendobj\n"].concat());
    }
    let (table, count) = (file.len(), offsets.len() + 1);
    let mut end = format!("xref\n0 {count}\n0000000000 65535 f \n");
    for offset in offsets {
        end.push_str(&format!("{offset:010} 00000 n \n"));
    }
    end.push_str(&format!("trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n"));
    file.extend(end.as_bytes());
    file
}

/// A PNG: signature, header chunk, noise as its data.
pub fn png(seed: u64, size_bytes: usize) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1A\n".to_vec();
    let header = [0, 0, 2, 0, 0, 0, 2, 0, 8, 2, 0, 0, 0];
    let data = Rng::new(seed).bytes(size_bytes);
    for (kind, data) in [(b"IHDR", &header[..]), (b"IDAT", &data), (b"IEND", &[])] {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        file.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        file.extend(kind);
        file.extend(data);
        file.extend(crc.sum().to_be_bytes());
    }
    file
}

/// `<p>a`, a newline, that many spaces, `b</p>`: quadratic for a pattern that looks for blank lines.
pub fn blank_run(spaces: usize, last: &str) -> Vec<u8> {
    format!("<!DOCTYPE html><title>x</title><p>a\n{}{last}</p>", " ".repeat(spaces)).into_bytes()
}

/// That many `<div>` inside each other, never closed: quadratic, or the end of the stack, for a tree walk.
pub fn nested_divs(depth: usize, innermost: &str) -> Vec<u8> {
    format!("<!DOCTYPE html><title>x</title>{}{innermost}", "<div>".repeat(depth)).into_bytes()
}

/// That many links to the same places with texts that hold `word`: quadratic for a sequence matcher.
pub fn links(count: usize, word: &str) -> Vec<u8> {
    let mut page = String::from("<!DOCTYPE html><title>x</title>");
    for n in 0..count {
        page.push_str(&format!("<a href=\"/item/{n}\">{word} {n}</a>\n"));
    }
    page.into_bytes()
}

/// A page that decompresses to that many bytes, in a thousandth of them.
///
/// # Panics
/// Never: writing to memory does not fail.
pub fn gzip_bomb(size_bytes: u64) -> Body {
    /// Zeros are packed once, up to a byte boundary; the same block follows itself any number of times.
    const BLOCK: u64 = 1 << 20;
    let mut zeros = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    let block = vec![0; 1 << 20];
    zeros.write_all(&block).and_then(|()| zeros.flush()).expect("memory takes every write");
    let packed = zeros.get_ref().clone();
    let mut once = flate2::Crc::new();
    once.update(&block);
    let mut crc = flate2::Crc::new();
    let mut file = b"\x1F\x8B\x08\0\0\0\0\0\x02\xFF".to_vec();
    for _ in 0..size_bytes / BLOCK {
        file.extend(&packed);
        crc.combine(&once);
    }
    // An empty last block, then the checksum and the length modulo 2^32 (RFC 1952).
    file.extend([0x03, 0x00]);
    file.extend(crc.sum().to_le_bytes());
    file.extend(crc.amount().to_le_bytes());
    Body::raw(file).header("content-type", "text/html; charset=utf-8").header("content-encoding", "gzip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pdf_and_a_png_are_what_they_claim() {
        let (pdf, png) = (pdf(1, 100_000), png(1, 5_000));
        assert_eq!(infer::get(&pdf).map(|kind| kind.mime_type()), Some("application/pdf"));
        assert_eq!(infer::get(&png).map(|kind| kind.mime_type()), Some("image/png"));
        assert!((100_000..140_000).contains(&pdf.len()), "{}", pdf.len());
        let table: usize = String::from_utf8_lossy(&pdf).lines().rev().nth(1).unwrap().parse().unwrap();
        assert!(pdf[table..].starts_with(b"xref\n"));
    }

    #[test]
    fn a_bomb_is_a_whole_and_valid_gzip_file_a_thousandth_of_its_size() {
        let (packed, size_bytes) = (gzip_bomb(64 << 20).bytes().to_vec(), 64 << 20);
        assert!(packed.len() < 70_000, "{}", packed.len());
        let read = std::io::copy(&mut flate2::read::GzDecoder::new(&packed[..]), &mut std::io::sink());
        assert_eq!(read.unwrap(), size_bytes);
    }

    #[test]
    fn shapes_have_the_size_that_was_asked_for() {
        assert!(blank_run(100_000, "b").ends_with(b"  b</p>"));
        assert_eq!(nested_divs(200_000, "x").len(), 5 * 200_000 + "<!DOCTYPE html><title>x</title>x".len());
        assert_eq!(String::from_utf8(links(12_000, "w")).unwrap().matches("<a href=").count(), 12_000);
    }
}
