//! Extracts visible text, links and metadata from a pair of pages.
//!
//! A page is parsed into a tree, as in browsers, unless that takes too long for its length; then both pages
//! of the pair are read tag by tag.
//!
//! Invariant: both pages of a pair are read by the same reader, so that every
//! difference comes from the pages.

use std::time::Instant;

use super::collect::Collector;
use super::links::Links;
use super::metadata::PageMetadata;
use super::{linear, tree};

/// Maximum number of attributes per tag: html5ever compares each with all previous
/// ones. Real pages have dozens.
const MAX_ATTRIBUTES: usize = 2000;
/// Fraction (one fourth) of the remaining time that building a tree may take. With the usual six seconds this
/// is fifteen times what the largest allowed page needs.
const TREE_SHARE: u32 = 4;

/// What is compared of one page.
#[derive(Debug)]
pub(super) struct PageContent {
    /// Visible text, with blank lines collapsed.
    pub(super) text: String,
    /// Links, sorted and without duplicates.
    pub(super) links: Links,
    /// Title, descriptions and labels of images.
    pub(super) metadata: PageMetadata,
}

/// Reads both pages; the flag is true if they were read without a tree or links are missing.
pub(super) fn read_pair(from: &str, to: &str, deadline: Instant) -> ([PageContent; 2], bool) {
    let by_tree = |html: &str| {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut collector = Collector::default();
        let fits = !has_overloaded_tag(html);
        let read = fits && tree::read(html, Instant::now() + left / TREE_SHARE, &mut collector).is_ok();
        read.then_some(collector)
    };
    if let Some(from) = by_tree(from)
        && let Some(to) = by_tree(to)
    {
        let any_full = from.links.is_full() || to.links.is_full();
        return ([page_content(from), page_content(to)], any_full);
    }
    let by_tag = |html: &str| {
        let mut collector = Collector::default();
        linear::read(html, &mut collector);
        page_content(collector)
    };
    ([by_tag(from), by_tag(to)], true)
}

fn page_content(collector: Collector) -> PageContent {
    let Collector { visible, mut links, metadata, .. } = collector;
    links.sort();
    PageContent { text: visible.finish(), links, metadata }
}

/// Searches for a tag with more than [`MAX_ATTRIBUTES`] attributes, without parsing. A page that hides one in
/// unusual comments or scripts only costs the time limit of the tree.
fn has_overloaded_tag(html: &str) -> bool {
    let html = html.as_bytes();
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'<', &html[at..]) {
        at += found + 1;
        let rest = &html[at..];
        at += match rest {
            [b'!', b'-', b'-', ..] => {
                memchr::memmem::find(&rest[1..], b"-->").map_or(rest.len(), |end| end + 4)
            }
            [b'/', b'a'..=b'z' | b'A'..=b'Z', ..] | [b'a'..=b'z' | b'A'..=b'Z', ..] => {
                let (length, attributes) = measure_tag(rest);
                if attributes > MAX_ATTRIBUTES {
                    return true;
                }
                length + raw_text_len(rest, length)
            }
            _ => 0,
        };
    }
    false
}

/// Length of a tag, and its number of attributes, counted up to one more than allowed.
fn measure_tag(tag: &[u8]) -> (usize, usize) {
    let skip_while = |at: usize, test: fn(&u8) -> bool| {
        tag[at..].iter().position(|b| !test(b)).map_or(tag.len(), |length| at + length)
    };
    let blank = |b: &u8| b.is_ascii_whitespace() || *b == b'/';
    let mut at = skip_while(1, |b| !b.is_ascii_whitespace() && !matches!(b, b'/' | b'>'));
    let mut attributes = 0;
    loop {
        at = skip_while(at, blank);
        if at == tag.len() || tag[at] == b'>' || attributes > MAX_ATTRIBUTES {
            return (at, attributes);
        }
        attributes += 1;
        at = skip_while(at + 1, |b| !b.is_ascii_whitespace() && !matches!(b, b'/' | b'>' | b'='));
        let sign = skip_while(at, u8::is_ascii_whitespace);
        if tag.get(sign) == Some(&b'=') {
            at = skip_while(sign + 1, u8::is_ascii_whitespace);
            at = match tag.get(at) {
                Some(&quote @ (b'"' | b'\'')) => {
                    memchr::memchr(quote, &tag[at + 1..]).map_or(tag.len(), |length| at + length + 2)
                }
                Some(_) | None => skip_while(at, |b| !b.is_ascii_whitespace() && *b != b'>'),
            };
        }
    }
}

/// Length of the raw text that follows a script or style tag, up to its end tag; 0 for other tags.
fn raw_text_len(tag: &[u8], length: usize) -> usize {
    let begins = |name: &[u8]| tag.get(..name.len()).is_some_and(|tag| tag.eq_ignore_ascii_case(name));
    let Some(name) = [b"script".as_slice(), b"style"].into_iter().find(|name| begins(name)) else { return 0 };
    let text = &tag[length..];
    let ends =
        |at: &usize| text.get(at + 2..at + 2 + name.len()).is_some_and(|end| end.eq_ignore_ascii_case(name));
    memchr::memmem::find_iter(text, b"</").find(ends).unwrap_or(text.len())
}
