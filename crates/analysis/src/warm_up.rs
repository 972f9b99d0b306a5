//! Does once, before any page is seen, what an analysis does the first time it runs in a process.
//!
//! Invariant: nothing that it leaves behind depends on a page, and it takes milliseconds.
//!
//! # Why
//! Every job is a fork of a process that has not analysed anything, and would ask the CPU what it can do, build the
//! table of names, draw the keys of its hash tables and write to the pages that hold them, each for itself. Done in
//! front of the fork, jobs find it done.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use wm_job::analysis_request::{AnalysisRequest, BodyInput};
use wm_job::text::sha256_hex;

use crate::child::answer;

/// A page with what pages have: names that HTML knows and one that it does not, a link, an entity, metadata.
const FROM: &[u8] = b"<!doctype html><html lang=en><head><meta charset=utf-8><title>A page</title>\
    <meta name=description content='Ours'><style>p { color: red }</style><script>let a = 1;</script></head><body>\
    <main><h1>Fees &amp; dates</h1><p class=a>The fee is 10 dollars \xe2\x80\x94 until May.<table><tr><td>1<td>2</table>\
    <ul><li><a href='/old'>An old link</a><li><a href='/kept'>A kept link</a></ul><x-unknown>Own</x-unknown></main>";
/// The same, edited, in an encoding that it does not declare.
const TO: &[u8] = b"<!doctype html><html lang=fr><head><title>Une page</title>\
    <meta name=description content='La n\xf4tre'><style>p { color: red }</style><script>let a = 2;</script></head><body>\
    <main><h1>Fees &amp; dates</h1><p class=a>The fee is 12 dollars \x96 d\xe9j\xe0 \xe9lev\xe9.<table><tr><td>1<td>3</table>\
    <ul><li><a href='/new'>A new link</a><li><a href='/kept'>One kept link</a></ul><x-unknown>Own</x-unknown></main>";
/// Larger than both pages, and than their whole result.
const MAX_BYTES: u64 = 64 * 1024;

/// Analyses two built-in pages, and drops the result: for a process that forks jobs, before the first.
pub fn warm_up() {
    let _ = warm_up_answer();
}

fn warm_up_answer() -> (Vec<u8>, Vec<u8>) {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed.write_all(FROM).and_then(|()| packed.finish()).unwrap_or_default();
    let from = BodyInput {
        content_encoding: Some("gzip".to_owned()),
        body_hash: Some(sha256_hex(FROM)),
        ..BodyInput::default()
    };
    let request = AnalysisRequest {
        from,
        to: BodyInput::default(),
        max_decoded_bytes: MAX_BYTES,
        max_result_bytes: MAX_BYTES,
    };
    let request = serde_json::to_vec(&request).unwrap_or_default();
    answer(&request, packed, TO.to_vec(), |_| {})
}

#[cfg(test)]
mod tests {
    use wm_job::analysis_request::AnalysisReply;

    use super::*;

    #[test]
    fn a_warm_up_goes_through_the_whole_analysis() {
        let (reply, whole) = warm_up_answer();
        let AnalysisReply::Analysed(summary) = AnalysisReply::read(&reply).unwrap() else {
            panic!("refused")
        };
        assert!(summary.text.unwrap().count > 0 && summary.source.unwrap().count > 0);
        assert!(summary.links.unwrap().count > 0);
        assert_eq!([&summary.bodies[0].encoding, &summary.bodies[1].encoding], ["UTF-8", "windows-1252"]);
        assert!(!whole.is_empty() && !summary.result_too_large);
    }
}
