//! Recognises content that is not text.
//!
//! Documents that may be plain ASCII (PDF, PostScript, RTF) are recognised by their first line. Everything
//! else needs a binary byte, as defined by the WHATWG standard, in its first 1445 bytes; `infer` is only used
//! to name its type.

use memchr::memmem::find;

use super::html::trim_blank;

/// Length of the standard's resource header, the part that a sniffer examines.
const RESOURCE_HEADER_BYTES: usize = 1445;
/// PDF readers accept the header anywhere in the first KiB (PDF Reference 1.4, H.3.4.1).
const PDF_HEADER_BYTES: usize = 1024;

/// Media type of a document that begins with a textual signature.
pub(super) fn document_type(text: &[u8]) -> Option<&'static str> {
    let text = trim_blank(text);
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

/// Media type of a body that has a binary byte in its head, or a PDF header after some junk lines.
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

/// Recognises `%PDF-1.4` up to the end of its line. Prose may begin like that too; then
/// a PDF object must follow.
fn is_pdf_header(text: &[u8]) -> bool {
    let Some([major, b'.', minor, rest @ ..]) = text.strip_prefix(b"%PDF-") else { return false };
    if !major.is_ascii_digit() || !minor.is_ascii_digit() {
        return false;
    }
    let line = rest.split(|b| matches!(b, b'\n' | b'\r')).next().unwrap_or_default();
    let prose = line.iter().any(u8::is_ascii_alphabetic) && line.is_ascii();
    !prose || find(text, b" obj").is_some()
}

/// The standard's binary data bytes: control characters that do not occur in text.
fn is_binary_byte(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0B | 0x0E..=0x1A | 0x1C..=0x1F)
}
