//! Reads one body, bounded by the size limit.
//!
//! Invariant: never holds more than the limit, whatever length is declared; a body that ends early is a
//! failure, never a shorter body.

use bytesize::ByteSize;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};

use super::error::{self, FetchProgress};
use crate::job::failure::{Failure, FailureKind};
use crate::job::page::Body;

/// Limit on a header value in bytes; real ones are a tenth of that.
const MAX_HEADER_TEXT_BYTES: usize = 1024;

/// Reads a response's body to its end.
pub(super) async fn read(
    mut response: Response,
    max: ByteSize,
    progress: &mut FetchProgress,
) -> Result<Body, Failure> {
    let cap = usize::try_from(max.as_u64()).unwrap_or(usize::MAX);
    let announced = response.content_length();
    if announced.is_some_and(|announced| announced > max.as_u64()) {
        return Err(too_large(&format!("announces {} bytes", announced.unwrap_or_default()), progress, max));
    }
    let mut bytes = Vec::with_capacity(announced.and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
    while let Some(chunk) = response.chunk().await.map_err(|e| error::body_failure(&e, progress))? {
        if chunk.len() > cap - bytes.len() {
            return Err(too_large("sends more", progress, max));
        }
        extend(&mut bytes, &chunk, cap);
        progress.read(bytes.len());
    }
    let headers = response.headers();
    let (content_type, content_encoding) =
        (header_text(headers, CONTENT_TYPE), header_text(headers, CONTENT_ENCODING));
    Ok(Body { bytes, content_type, content_encoding })
}

/// Appends, growing by doubling as a vector does, but never beyond the limit: it is part of the memory
/// budget.
fn extend(bytes: &mut Vec<u8>, chunk: &[u8], cap: usize) {
    let needed = bytes.len() + chunk.len();
    if needed > bytes.capacity() {
        let target = bytes.capacity().saturating_mul(2).min(cap).max(needed);
        bytes.reserve_exact(target - bytes.len());
    }
    bytes.extend_from_slice(chunk);
}

fn too_large(what: &str, progress: &FetchProgress, max: ByteSize) -> Failure {
    Failure::new(FailureKind::TooLarge, format!("{} {what}, and the cap is {max}", progress.display_url()))
}

/// A header value verbatim, multiple lines joined as HTTP allows; invalid UTF-8 is replaced.
fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    let joined = lines.join(&b", "[..]);
    let kept = &joined[..joined.len().min(MAX_HEADER_TEXT_BYTES)];
    (!lines.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn a_growing_body_never_reserves_more_than_the_cap() {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            extend(&mut bytes, &[0; 10], 1_000);
            assert!(bytes.capacity() <= 1_000, "{}", bytes.capacity());
        }
        assert_eq!(bytes.len(), 1_000);
    }

    #[test]
    fn a_label_keeps_every_line_and_survives_what_is_no_text() {
        let mut headers = HeaderMap::new();
        assert_eq!(header_text(&headers, CONTENT_ENCODING), None);
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(CONTENT_ENCODING, HeaderValue::from_bytes(b"br\xff").unwrap());
        assert_eq!(header_text(&headers, CONTENT_ENCODING).as_deref(), Some("gzip, br\u{fffd}"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(&"x".repeat(5_000)).unwrap());
        assert_eq!(header_text(&headers, CONTENT_TYPE).unwrap().len(), MAX_HEADER_TEXT_BYTES);
    }
}
