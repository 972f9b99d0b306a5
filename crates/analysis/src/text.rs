//! Extracts visible text, links and metadata from a pair of pages.
//!
//! A page of HTML is parsed into a tree, as in browsers, unless that takes too long for its length; then both pages
//! of the pair are read tag by tag. XHTML is read as XML, unless it is not well-formed; plain text is visible as it is.
//!
//! Invariant: both pages of a pair that are HTML are read by the same reader, so that every
//! difference comes from the pages.

use super::collect::Collector;
use super::links::Links;
use super::metadata::PageMetadata;
use super::sniff::Markup;
use super::{linear, tree, xml};

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
pub(super) fn read_pair(pages: [(&str, Markup); 2]) -> PairContent {
    let not_html = pages.map(|(page, markup)| match markup {
        Markup::Html => None,
        Markup::Xhtml => xml::read(page).ok(),
        Markup::PlainText => Some(plain_text(page)),
    });
    let not_well_formed = [0, 1].map(|i| pages[i].1 == Markup::Xhtml && not_html[i].is_none());
    let (collected, without_tree) = read_html(pages, not_html);
    let any_full = collected.iter().any(|collector| collector.links.is_full());
    PairContent { pages: collected.map(page_content), simplified: without_tree || any_full, not_well_formed }
}

/// Reads those pages that have not been read as something else, both by the same reader; the flag is true if that
/// was the one without a tree.
fn read_html(pages: [(&str, Markup); 2], [old, new]: [Option<Collector>; 2]) -> ([Collector; 2], bool) {
    let by_tree = |(html, markup): (&str, Markup)| {
        let mut collector = Collector::default();
        let read = tree::read(html, markup == Markup::Xhtml, &mut collector).is_ok();
        read.then_some(collector)
    };
    let by_tag = |(html, _): (&str, Markup)| {
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
