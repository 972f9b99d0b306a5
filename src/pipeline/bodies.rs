//! What the worker knows of two bodies without looking into them: for the report, the evidence of a failure and the
//! request to a child.

use super::aside;
use crate::job::analysis_request::BodyInput;
use crate::job::failure::{Failure, FailureKind};
use crate::job::page::{Bodies, Body, PagePair, Version};
use crate::job::redact::page_url;
use crate::job::report::BodyFacts;
use crate::job::text::sha256_hex;

/// Bodies that are hashed where they arrived: some 50 us of SHA-256.
const HASH_HERE_MAX_BYTES: usize = 64 * 1024;

/// The metadata of a body for a child.
pub(super) fn body_input(version: &Version, body: &Body, facts: Option<&BodyFacts>) -> BodyInput {
    BodyInput {
        media_type: version.media_type.clone(),
        content_type: body.content_type.clone(),
        content_encoding: body.content_encoding.clone(),
        body_hash: version.body_hash.clone(),
        wire_sha256: facts.and_then(|facts| facts.wire_sha256.clone()),
        status: version.worst_status(),
    }
}

/// The bodies, and what is known of them without decoding them: hashed here once, for the report, the evidence of a
/// failure, and the child that compares the hash with the captured one.
///
/// # Errors
/// `cannot_spawn`: there was no thread to hash them.
pub(crate) async fn with_facts(pair: &PagePair, bodies: Bodies) -> Result<(Bodies, Vec<BodyFacts>), Failure> {
    let bytes = bodies.from.bytes.len() + bodies.to.bytes.len();
    let hash = move || {
        let hashes = [&bodies.from, &bodies.to].map(|body| sha256_hex(&body.bytes));
        (bodies, hashes)
    };
    let (bodies, hashes) = aside(bytes > HASH_HERE_MAX_BYTES, hash).await.map_err(|why| {
        Failure::new(FailureKind::CannotSpawn, format!("the bodies could not be hashed: {why}"))
    })?;
    let raw = [&bodies.from, &bodies.to];
    let facts = pair
        .sides()
        .into_iter()
        .zip(raw.into_iter().zip(hashes))
        .map(|((side, version), (body, hash))| BodyFacts {
            side,
            url: page_url(&version.body_url),
            wire_bytes: body.bytes.len() as u64,
            wire_sha256: Some(hash),
            decoded_bytes: None,
            declared: version.media_type.clone().or_else(|| body.content_type.clone()),
            sniffed: None,
            encoding: None,
            notes: Vec::new(),
        })
        .collect();
    Ok((bodies, facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_of_every_size_come_back_with_the_hash_of_what_was_received() {
        let version: Version = serde_json::from_str(
            r#"{"uuid": "7c9904f4-c090-4f0d-8c3f-ba3dc4fade25", "body_url": "http://a.test/"}"#,
        )
        .unwrap();
        let pair = PagePair { page: None, from: version.clone(), from_is_earliest: false, to: version };
        for (from, to) in [(0, 10), (HASH_HERE_MAX_BYTES, 1), (1_000_000, 2_000_000)] {
            let body = |bytes| Body { bytes: vec![b'x'; bytes], ..Body::default() };
            let given = Bodies { from: body(from), to: body(to) };
            let (bodies, facts) = with_facts(&pair, given.clone()).await.unwrap();
            assert_eq!(bodies, given);
            for (facts, body) in facts.iter().zip([&bodies.from, &bodies.to]) {
                assert_eq!(facts.wire_sha256, Some(sha256_hex(&body.bytes)));
                assert_eq!(facts.wire_bytes, body.bytes.len() as u64);
            }
        }
    }
}
