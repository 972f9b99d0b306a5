//! Reads one body, bounded by the size limit, the budget and the clock.
//!
//! Invariant: never holds more than the limit, whatever length is declared, nor more than was taken from the
//! budget but for the one chunk in hand; a body that ends early is a failure, never a shorter body.

use bytesize::ByteSize;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};

use super::budget::BudgetPermit;
use super::clock::FetchClock;
use super::error::{self, FetchError, FetchProgress};
use crate::job::failure::{Failure, FailureKind};
use crate::job::page::Body;

/// Limit on a header value in bytes; real ones are a tenth of that.
const MAX_HEADER_TEXT_BYTES: usize = 1024;

/// Bytes are taken from the budget in multiples of this. A page of ordinary size needs few of them, and the
/// smallest pair holds two.
const GRANULE: u64 = 64 * 1024;

/// hyper's read buffer doubles with each read that fills it, up to this size.
const MAX_READ_BUFFER: u64 = 8192 + 4096 * 100;

/// Buffers of hyper's size at their most: the chunk in hand, the one that waits to be taken, and what both were
/// read into beyond them.
const MAX_READ_BUFFERS: u64 = 3 * MAX_READ_BUFFER;

/// How many times the largest chunk so far is held at most before more is taken: the next chunk has twice its
/// size, and the one after that, read meanwhile, four times.
const READ_BUFFERS_PER_CHUNK: u64 = 6;

/// The most that one body takes of the budget while it is read: itself and hyper's buffers.
pub(super) fn worst_bytes(max: ByteSize) -> u64 {
    let max = max.as_u64();
    granules(max.saturating_add(read_buffers(max)))
}

/// What hyper's buffers of one connection hold at most, with `largest_chunk` the largest so far.
fn read_buffers(largest_chunk: u64) -> u64 {
    READ_BUFFERS_PER_CHUNK.saturating_mul(largest_chunk).min(MAX_READ_BUFFERS)
}

fn granules(bytes: u64) -> u64 {
    bytes.div_ceil(GRANULE).saturating_mul(GRANULE)
}

/// One body's share of its pair's permit.
struct Share<'a> {
    permit: &'a BudgetPermit,
    taken: u64,
}

impl Share<'_> {
    /// Takes what is missing to `bytes`, while the clock stands still.
    async fn grow_to(&mut self, bytes: u64, clock: &mut FetchClock) {
        let wanted = granules(bytes);
        if wanted > self.taken {
            clock.paused(self.permit.take(wanted - self.taken)).await;
            self.taken = wanted;
        }
    }

    /// Gives back all but `bytes`.
    fn shrink_to(self, bytes: u64) {
        self.permit.give_back(self.taken.saturating_sub(bytes));
    }
}

/// Reads a response's body to its end, taking its bytes from the budget before more are read.
pub(super) async fn read(
    mut response: Response,
    max: ByteSize,
    permit: &BudgetPermit,
    clock: &mut FetchClock,
    progress: &mut FetchProgress,
) -> Result<Body, FetchError> {
    let cap = usize::try_from(max.as_u64()).unwrap_or(usize::MAX);
    let announced = response.content_length();
    if announced.is_some_and(|announced| announced > max.as_u64()) {
        let what = format!("announces {} bytes", announced.unwrap_or_default());
        return Err(too_large(&what, progress, max).into());
    }
    // No more than this comes, so no more is reserved.
    let most = announced.and_then(|announced| usize::try_from(announced).ok()).unwrap_or(cap);
    let mut bytes = Vec::new();
    let mut share = Share { permit, taken: 0 };
    let mut largest_chunk = 0;
    share.grow_to(1, clock).await;
    clock.body_begins();
    loop {
        let next = clock.bytes(response.chunk(), |next| match next {
            Ok(Some(chunk)) => chunk.len(),
            Ok(None) | Err(_) => 0,
        });
        let Some(chunk) = next.await?.map_err(|e| error::body_failure(&e, progress))? else { break };
        if chunk.len() > cap - bytes.len() {
            return Err(too_large("sends more", progress, max).into());
        }
        largest_chunk = largest_chunk.max(chunk.len() as u64);
        let capacity = capacity_for(&bytes, chunk.len(), most);
        share.grow_to(capacity as u64 + read_buffers(largest_chunk), clock).await;
        bytes.reserve_exact(capacity - bytes.len());
        bytes.extend_from_slice(&chunk);
        progress.read(bytes.len());
    }
    bytes.shrink_to_fit();
    share.shrink_to(bytes.len() as u64);
    let headers = response.headers();
    let (content_type, content_encoding) =
        (header_text(headers, CONTENT_TYPE), header_text(headers, CONTENT_ENCODING));
    Ok(Body { bytes, content_type, content_encoding })
}

/// The capacity with which `more` bytes fit: growing by doubling as a vector does, but never beyond `most`
/// unless they need it.
fn capacity_for(bytes: &Vec<u8>, more: usize, most: usize) -> usize {
    let needed = bytes.len() + more;
    match needed > bytes.capacity() {
        true => bytes.capacity().saturating_mul(2).min(most).max(needed),
        false => bytes.capacity(),
    }
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
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..100 {
            let capacity = capacity_for(&bytes, 10, 1_000);
            bytes.reserve_exact(capacity - bytes.len());
            bytes.extend_from_slice(&[0; 10]);
            assert!(bytes.capacity() <= 1_000, "{}", bytes.capacity());
        }
        assert_eq!(bytes.len(), 1_000);
    }

    #[test]
    fn the_worst_body_is_itself_and_the_buffers_of_the_largest_reads() {
        assert_eq!(worst_bytes(ByteSize::mib(10)), (10 << 20) + 20 * GRANULE);
        assert_eq!(worst_bytes(ByteSize::b(10)), GRANULE);
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
