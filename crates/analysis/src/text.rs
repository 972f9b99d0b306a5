//! Extracts visible text, links and metadata from a pair of pages.
//!
//! A page of HTML is parsed into a tree, as in browsers, unless that takes too long for its length; then both pages
//! of the pair are read tag by tag. XHTML is read as XML, unless it is not well-formed; plain text is visible as it is.
//!
//! Invariant: both pages of a pair that are HTML are read by the same reader, so that every
//! difference comes from the pages.

use std::time::Instant;

use super::collect::Collector;
use super::links::Links;
use super::metadata::PageMetadata;
use super::sniff::Markup;
use super::{linear, tree, xml};

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

/// What is compared of a pair.
#[derive(Debug)]
pub(super) struct PairContent {
    /// The pages, older one first.
    pub(super) pages: [PageContent; 2],
    /// They were read without a tree, or links are missing.
    pub(super) simplified: bool,
    /// Which of them are XHTML that is not well-formed, and were read as HTML.
    pub(super) not_well_formed: [bool; 2],
}

/// Reads both pages.
pub(super) fn read_pair(pages: [(&str, Markup); 2], deadline: Instant) -> PairContent {
    let not_html = pages.map(|(page, markup)| match markup {
        Markup::Html => None,
        Markup::Xhtml if has_overloaded_tag(page) => None,
        Markup::Xhtml => xml::read(page).ok(),
        Markup::PlainText => Some(plain_text(page)),
    });
    let not_well_formed = [0, 1].map(|i| pages[i].1 == Markup::Xhtml && not_html[i].is_none());
    let (collected, without_tree) = read_html(pages.map(|(page, _)| page), not_html, deadline);
    let any_full = collected.iter().any(|collector| collector.links.is_full());
    PairContent { pages: collected.map(page_content), simplified: without_tree || any_full, not_well_formed }
}

/// Reads those pages that have not been read as something else, both by the same reader; the flag is true if that
/// was the one without a tree.
fn read_html(
    pages: [&str; 2],
    [old, new]: [Option<Collector>; 2],
    deadline: Instant,
) -> ([Collector; 2], bool) {
    let by_tree = |html: &str| {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut collector = Collector::default();
        let fits = !has_overloaded_tag(html);
        let read = fits && tree::read(html, Instant::now() + left / TREE_SHARE, &mut collector).is_ok();
        read.then_some(collector)
    };
    let by_tag = |html: &str| {
        let mut collector = Collector::default();
        linear::read(html, &mut collector);
        collector
    };
    match (old, new) {
        (Some(old), Some(new)) => ([old, new], false),
        (Some(old), None) => match by_tree(pages[1]) {
            Some(new) => ([old, new], false),
            None => ([old, by_tag(pages[1])], true),
        },
        (None, Some(new)) => match by_tree(pages[0]) {
            Some(old) => ([old, new], false),
            None => ([by_tag(pages[0]), new], true),
        },
        (None, None) => {
            if let Some(old) = by_tree(pages[0])
                && let Some(new) = by_tree(pages[1])
            {
                return ([old, new], false);
            }
            (pages.map(by_tag), true)
        }
    }
}

fn plain_text(page: &str) -> Collector {
    let mut collector = Collector::default();
    collector.visible.push(page, false);
    collector
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
