//! Tells what is not text.
//!
//! Documents that may be plain ASCII (PDF, PostScript, RTF) are told by their own first line. All else needs a binary
//! byte, as the WHATWG standard defines it, in its first 1445 bytes; `infer` then only gives it a name.

use memchr::memmem::find;

/// The standard's resource header: what a sniffer looks at.
const RESOURCE_HEADER_BYTES: usize = 1445;
/// Readers find a PDF's header anywhere in its first KiB (PDF Reference 1.4, H.3.4.1).
const PDF_HEADER_BYTES: usize = 1024;

/// A document that begins with its own name.
pub(super) fn document_type(text: &[u8]) -> Option<&'static str> {
    let start = text.iter().position(|b| !b.is_ascii_whitespace() && *b != 0)?;
    let text = &text[start..];
    if is_pdf_header(text) {
        Some("application/pdf")
    } else if text.starts_with(b"%!PS") {
        Some("application/postscript")
    } else if text.starts_with(b"{\\rtf") {
        Some("application/rtf")
    } else {
        None
    }
}

/// What holds a binary byte early, or hides a PDF behind a line of junk.
pub(super) fn binary_type(head: &[u8], text: &[u8]) -> Option<&'static str> {
    let hidden = &text[..text.len().min(PDF_HEADER_BYTES)];
    let mut lines = memchr::memchr2_iter(b'\n', b'\r', hidden);
    if lines.any(|at| is_pdf_header(&text[at + 1..])) {
        return Some("application/pdf");
    }
    let window = &text[..text.len().min(RESOURCE_HEADER_BYTES)];
    if !window.iter().any(|&b| is_binary_byte(b)) {
        return None;
    }
    let named = infer::get(head).map(|kind| kind.mime_type()).filter(|name| !name.starts_with("text/"));
    Some(named.unwrap_or("application/octet-stream"))
}

/// `%PDF-1.4` and the end of its line. Prose may begin like that too; then only an object makes it a PDF.
fn is_pdf_header(text: &[u8]) -> bool {
    let Some([major, b'.', minor, rest @ ..]) = text.strip_prefix(b"%PDF-") else { return false };
    if !major.is_ascii_digit() || !minor.is_ascii_digit() {
        return false;
    }
    let line = rest.split(|b| matches!(b, b'\n' | b'\r')).next().unwrap_or_default();
    let prose = line.iter().any(u8::is_ascii_alphabetic) && line.is_ascii();
    !prose || find(text, b" obj").is_some()
}

/// The standard's binary data bytes: controls that no text holds.
fn is_binary_byte(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0B | 0x0E..=0x1A | 0x1C..=0x1F)
}
