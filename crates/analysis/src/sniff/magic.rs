//! Recognises content that is not text.
//!
//! Documents that may be plain ASCII (PDF, PostScript, RTF) are recognised by their first line, a PDF also behind what a
//! server wrote before it. Everything else needs a binary byte, as defined by the WHATWG standard, in its first 1445
//! bytes; `infer` is only used to name its type.

use memchr::memmem::{self, find};

use super::html::trim_blank;

/// Length of the standard's resource header, the part that a sniffer examines.
const RESOURCE_HEADER_BYTES: usize = 1445;
/// PDF readers accept the header anywhere in the first KiB (PDF Reference 1.4, H.3.4.1).
const PDF_HEADER_BYTES: usize = 1024;

/// Media type of PDF.
pub(super) const PDF: &str = "application/pdf";

/// Media type of a document that begins with a textual signature.
pub(super) fn document_type(text: &[u8]) -> Option<&'static str> {
    let text = trim_blank(text);
    if is_pdf_header(text) {
        Some(PDF)
    } else if text.starts_with(b"%!PS") {
        Some("application/postscript")
    } else if text.starts_with(b"{\\rtf") {
        Some("application/rtf")
    } else {
        None
    }
}

/// Elements that end behind a PDF which a page quotes. Text in a PDF may have any tag by chance, but rarely these.
const QUOTE_ENDS: &str = "\
    pre code textarea samp tt div p span body html table td th li dd blockquote script section article main font center";
/// Fewest bytes above ASCII in the comment that follows the header of a binary PDF (PDF Reference 1.4, 3.4.1).
const PDF_COMMENT_BYTES: usize = 4;

/// Whether a PDF follows markup, such as a notice of the script that sent it. A page that quotes a PDF goes on with
/// markup behind it, and is text.
pub(super) fn is_pdf_behind_markup(text: &[u8], body: &[u8]) -> bool {
    let hidden = &text[..text.len().min(PDF_HEADER_BYTES)];
    let mut headers = memmem::find_iter(hidden, b"%PDF-").map(|at| &text[at..]);
    let Some(pdf) = headers.find(|pdf| is_pdf_header(pdf)) else { return false };
    find(pdf, b" obj").is_some() && (is_binary_pdf(pdf) || !is_quoted(body))
}

/// Whether a PDF has what no text has: control characters, or the comment that marks it as binary.
fn is_binary_pdf(pdf: &[u8]) -> bool {
    let mut lines = pdf.split(|b| matches!(b, b'\n' | b'\r')).filter(|line| !line.is_empty());
    let comment = lines.nth(1).filter(|line| line.starts_with(b"%")).unwrap_or_default();
    pdf.iter().any(|&b| is_binary_byte(b))
        || comment.iter().filter(|b| !b.is_ascii()).count() >= PDF_COMMENT_BYTES
}

fn is_quoted(body: &[u8]) -> bool {
    let quoted = find(body, b"%PDF-").map_or(body, |at| &body[at..]);
    let mut ends = memmem::find_iter(quoted, b"</").map(|at| &quoted[at + 2..]);
    ends.any(|end| {
        QUOTE_ENDS.split(' ').any(|name| {
            end.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
                && end.get(name.len()) == Some(&b'>')
        })
    })
}

/// Whether there is no byte that text does not have.
pub(super) fn is_plain_text(head: &[u8]) -> bool {
    let is_utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    is_utf8 && !head.iter().any(|&b| is_binary_byte(b))
}

/// The PDF that begins at a line within the first KiB.
fn hidden_pdf(text: &[u8]) -> Option<&[u8]> {
    let hidden = &text[..text.len().min(PDF_HEADER_BYTES)];
    let mut lines = memchr::memchr2_iter(b'\n', b'\r', hidden).map(|at| &text[at + 1..]);
    lines.find(|line| is_pdf_header(line))
}

/// Media type of a body that has a binary byte in its head, or a PDF header after some junk lines.
pub(super) fn binary_type(head: &[u8], text: &[u8]) -> Option<&'static str> {
    if hidden_pdf(text).is_some() {
        return Some(PDF);
    }
    let window = &text[..text.len().min(RESOURCE_HEADER_BYTES)];
    if !window.iter().any(|&b| is_binary_byte(b)) {
        return None;
    }
    let named = infer::get(head).map(|kind| kind.mime_type()).filter(|name| !name.starts_with("text/"));
    if named.is_none() && is_padded_text(window) {
        return None;
    }
    Some(named.unwrap_or("application/octet-stream"))
}

/// Whether all binary bytes are runs of two or more NULs: padding, which browsers drop.
fn is_padded_text(window: &[u8]) -> bool {
    let mut runs = window.chunk_by(|a, b| (*a == 0) == (*b == 0));
    let is_text_or_padding = |run: &[u8]| match run {
        [0, 0, ..] => true,
        text => !text.iter().any(|&b| is_binary_byte(b)),
    };
    window.iter().any(|b| *b != 0) && runs.all(is_text_or_padding)
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
