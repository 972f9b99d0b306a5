//! The links of a page, and the comparison of two link lists.
//!
//! Links are compared as sorted sets. Equal links (same target, same text ignoring case) get code 0. Of the
//! rest, links with the same target, then links with the same text, are paired with code 100; the remaining
//! ones were removed (-1) or added (1). Steps are ordered by the text of the links.
//!
//! Invariant: every link of either page is in exactly one step.
//!
//! # Why
//! The old service compares with "same target or same text" using Python's `SequenceMatcher`, which is
//! quadratic, gets worse if many links share a text or a target (12,000 links: a minute), and only pairs
//! neighbours. Three joins over sorted lists are linear apart from the sorting. Links are stored as offsets
//! into one string: 20 bytes each instead of a hundred.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Maximum number of links per page, several times more than the largest real pages
/// have; further links are ignored.
const MAX_LINKS: usize = 200_000;
/// Maximum size of all links of a page, including lower-case copies: 1.5 times the largest allowed page, and
/// just below a power of two, at which the string would grow.
const MAX_BYTES: usize = 15 * 1024 * 1024;

/// Offsets of a link in [`Links::text`]: its text (only if it differs from its lower case), followed
/// by the sort key `lower(href)`.
#[derive(Debug, Clone, Copy)]
struct LinkSpan {
    start: u32,
    key: u32,
    href: u32,
    end: u32,
}

/// The links of one page.
#[derive(Debug, Default)]
pub(super) struct Links {
    text: String,
    spans: Vec<LinkSpan>,
}

/// Borrowed view of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkRef<'l> {
    /// Text of the link, as spelled in the page.
    pub(super) text: &'l str,
    /// Target, with scheme and host in lower case.
    pub(super) href: &'l str,
    lower: &'l str,
    key: &'l str,
}

impl LinkRef<'_> {
    /// Sort order of links; links that compare equal are the same link.
    fn cmp_key(self, other: LinkRef<'_>) -> Ordering {
        // The key alone is ambiguous: `a (b)` with target `c` and `a ` with target `b)(c` have the same key.
        self.key.cmp(other.key).then_with(|| self.lower.cmp(other.lower))
    }
}

impl Links {
    /// Adds a link, unless a limit has been reached.
    pub(super) fn push(&mut self, text: &str, href: &str) {
        if self.is_full() {
            return;
        }
        let start = self.text.len();
        self.text.push_str(text);
        let mut key = self.text.len();
        self.text.extend(text.chars().flat_map(char::to_lowercase));
        if self.text[start..key] == self.text[key..] {
            self.text.truncate(key);
            key = start;
        }
        self.text.push('(');
        let href_at = self.text.len();
        self.text.push_str(href);
        lowercase_origin(&mut self.text, href_at);
        self.text.push(')');
        let [start, key, href, end] = [start, key, href_at, self.text.len()].map(|at| at as u32);
        self.spans.push(LinkSpan { start, key, href, end });
    }

    /// Whether a limit has been reached, so that links may be missing.
    pub(super) fn is_full(&self) -> bool {
        self.spans.len() >= MAX_LINKS || self.text.len() >= MAX_BYTES
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The link at index `at`.
    pub(super) fn get(&self, at: u32) -> LinkRef<'_> {
        resolve(&self.text, self.spans[at as usize])
    }

    /// Sorts the links and removes duplicates.
    pub(super) fn sort(&mut self) {
        let text = &self.text;
        // Most links differ in these bytes. Looked up in the text for each comparison they take a page of links twice as
        // long to sort.
        let head = |span: LinkSpan| {
            let key = resolve(text, span).key.as_bytes();
            let mut head = [0; size_of::<u128>()];
            let length = key.len().min(head.len());
            head[..length].copy_from_slice(&key[..length]);
            u128::from_be_bytes(head)
        };
        let mut by_head: Vec<(u128, LinkSpan)> = self.spans.iter().map(|span| (head(*span), *span)).collect();
        // Ties are broken by spelling, so that the duplicate that is kept does not depend on
        // the order in the page.
        by_head.sort_unstable_by(|(head, a), (other_head, b)| {
            let by_text = || {
                let (a, b) = (resolve(text, *a), resolve(text, *b));
                a.cmp_key(b).then_with(|| a.text.cmp(b.text))
            };
            head.cmp(other_head).then_with(by_text)
        });
        self.spans.clear();
        self.spans.extend(by_head.into_iter().map(|(_, span)| span));
        self.spans.dedup_by(|a, b| resolve(text, *a).cmp_key(resolve(text, *b)).is_eq());
        self.spans.shrink_to_fit();
        self.text.shrink_to_fit();
    }
}

fn resolve(text: &str, span: LinkSpan) -> LinkRef<'_> {
    let [start, key, href, end] = [span.start, span.key, span.href, span.end].map(|at| at as usize);
    let lower = &text[key..href - 1];
    let own = if start == key { lower } else { &text[start..key] };
    LinkRef { text: own, href: &text[href..end - 1], lower, key: &text[key..end] }
}

/// Converts scheme and host of the target, which starts at offset `at` and ends the text, to lower case.
fn lowercase_origin(text: &mut String, at: usize) {
    let href = &text[at..];
    let Some(slashes) = href.find("//") else { return };
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '+' | '-');
    let scheme =
        href[..slashes].strip_suffix(':').is_some_and(|name| !name.is_empty() && name.chars().all(plain));
    if slashes > 0 && !scheme {
        return;
    }
    let host = slashes + 2;
    let end = href[host..].find('/').map_or(href.len(), |slash| host + slash);
    if end > host {
        let lower = href[..end].to_lowercase();
        text.replace_range(at..at + end, &lower);
    }
}

/// Change of one link, as indices into the older and newer list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkStep {
    /// On both pages; index into the newer list.
    Same(u32),
    /// Removed; index into the older list.
    Removed(u32),
    /// Added; index into the newer list.
    Added(u32),
    /// Text or target changed; index into the older and into the newer list.
    Changed(u32, u32),
}

/// Compares two sorted link lists.
pub(super) fn compare(old: &Links, new: &Links) -> Vec<LinkStep> {
    let mut steps = Vec::with_capacity(old.len().max(new.len()));
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while (i as usize) < old.len() || (j as usize) < new.len() {
        let order = if i as usize == old.len() {
            Ordering::Greater
        } else if j as usize == new.len() {
            Ordering::Less
        } else {
            old.get(i).cmp_key(new.get(j))
        };
        match order {
            Ordering::Equal => steps.push(LinkStep::Same(j)),
            Ordering::Less => removed.push(i),
            Ordering::Greater => added.push(j),
        }
        i += u32::from(order.is_le());
        j += u32::from(order.is_ge());
    }
    pair_by_part(&mut removed, &mut added, &mut steps, |at| old.get(at).href, |at| new.get(at).href);
    pair_by_part(&mut removed, &mut added, &mut steps, |at| old.get(at).lower, |at| new.get(at).lower);
    steps.extend(removed.into_iter().map(LinkStep::Removed));
    steps.extend(added.into_iter().map(LinkStep::Added));
    let key = |step: &LinkStep| match *step {
        LinkStep::Removed(at) => old.get(at).key,
        LinkStep::Same(at) | LinkStep::Added(at) | LinkStep::Changed(_, at) => new.get(at).key,
    };
    steps.sort_by(|a, b| key(a).cmp(key(b)));
    steps
}

/// Pairs links with an equal part in order of occurrence, and removes them from both lists.
fn pair_by_part<'l>(
    removed: &mut Vec<u32>,
    added: &mut Vec<u32>,
    steps: &mut Vec<LinkStep>,
    old_part: impl Fn(u32) -> &'l str,
    new_part: impl Fn(u32) -> &'l str,
) {
    const NONE: u32 = u32::MAX;
    // Entries of `added` with an equal part form a linked list: `first` maps to its
    // head, `next` to each successor.
    let mut first: HashMap<&str, u32> = HashMap::with_capacity(added.len());
    let mut next = vec![NONE; added.len()];
    for (place, at) in added.iter().enumerate().rev() {
        next[place] = first.insert(new_part(*at), place as u32).unwrap_or(NONE);
    }
    removed.retain(|&old| match first.get_mut(old_part(old)) {
        Some(place) if *place != NONE => {
            let taken = std::mem::replace(place, next[*place as usize]) as usize;
            steps.push(LinkStep::Changed(old, std::mem::replace(&mut added[taken], NONE)));
            false
        }
        Some(_) | None => true,
    });
    added.retain(|&at| at != NONE);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(list: &[(&str, &str)]) -> Links {
        let mut links = Links::default();
        list.iter().for_each(|(text, href)| links.push(text, href));
        links.sort();
        links
    }

    /// Formats steps as `code text > href`.
    fn step_texts(old: &[(&str, &str)], new: &[(&str, &str)]) -> Vec<String> {
        let (old, new) = (links(old), links(new));
        let show = |link: LinkRef<'_>| format!("{} > {}", link.text, link.href);
        let tell = |step: LinkStep| match step {
            LinkStep::Same(at) => format!("0 {}", show(new.get(at))),
            LinkStep::Removed(at) => format!("-1 {}", show(old.get(at))),
            LinkStep::Added(at) => format!("1 {}", show(new.get(at))),
            LinkStep::Changed(a, b) => format!("100 {} | {}", show(old.get(a)), show(new.get(b))),
        };
        compare(&old, &new).into_iter().map(tell).collect()
    }

    #[test]
    fn links_are_sorted_by_text_and_each_is_there_once() {
        let twice = [("B", "/b"), ("a", "/a"), ("b", "/b"), ("A", "/a2"), ("B", "/b")];
        assert_eq!(step_texts(&twice, &twice), ["0 a > /a", "0 A > /a2", "0 B > /b"]);
        assert_eq!(step_texts(&[], &[]), [""; 0]);
        // The same spelling is kept, whichever comes first in the page.
        assert_eq!(
            step_texts(&[], &[("b", "/b"), ("B", "/b")]),
            step_texts(&[], &[("B", "/b"), ("b", "/b")])
        );
    }

    #[test]
    fn a_link_that_shares_its_target_or_its_text_changed() {
        assert_eq!(step_texts(&[("old", "/x")], &[("new", "/x")]), ["100 old > /x | new > /x"]);
        assert_eq!(step_texts(&[("Same", "/x")], &[("same", "/y")]), ["100 Same > /x | same > /y"]);
        assert_eq!(step_texts(&[("a", "/x")], &[("b", "/y")]), ["-1 a > /x", "1 b > /y"]);
        // An equal target takes precedence over an equal text.
        assert_eq!(
            step_texts(&[("t", "/1")], &[("t", "/2"), ("u", "/1")]),
            ["1 t > /2", "100 t > /1 | u > /1"]
        );
        // Equal links are never reported as changed.
        assert_eq!(
            step_texts(&[("pony", "/a"), ("pony", "/b")], &[("donkey", "/z"), ("pony", "/b")]),
            ["1 donkey > /z", "-1 pony > /a", "0 pony > /b"]
        );
    }

    #[test]
    fn only_scheme_and_host_are_lowered() {
        for (href, expected) in [
            ("HTTP://Example.ORG/Path", "http://example.org/Path"),
            ("//Example.ORG", "//example.org"),
            ("/A//B", "/A//B"),
            ("MAILTO:X@Y", "MAILTO:X@Y"),
            ("Path?u=HTTP://X/", "Path?u=HTTP://X/"),
            ("svn+SSH://H/x", "svn+ssh://h/x"),
            ("://X/", "://X/"),
            ("//", "//"),
        ] {
            assert_eq!(links(&[("", href)]).get(0).href, expected);
        }
    }

    #[test]
    fn keys_that_look_alike_do_not_mix_links() {
        assert_eq!(step_texts(&[("a(b)", "c")], &[("a", "b)(c")]), ["-1 a(b) > c", "1 a > b)(c"]);
    }

    #[test]
    fn thousands_of_links_with_one_text_or_one_target_are_joined_at_once() {
        let many = |prefix: &'static str| (0..50_000).map(move |i| format!("{prefix}{i}"));
        let (old, new): (Vec<_>, Vec<_>) = (many("/old").collect(), many("/new").collect());
        let same_text = |hrefs: &[String]| {
            let mut links = Links::default();
            hrefs.iter().for_each(|href| links.push("Read more", href));
            links.sort();
            links
        };
        let steps = compare(&same_text(&old), &same_text(&new));
        assert_eq!(steps.len(), 50_000);
        assert!(steps.iter().all(|step| matches!(step, LinkStep::Changed(..))));
    }
}
