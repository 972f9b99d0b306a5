//! Collects the visible text, the links and the metadata of a page, in document order, from either reader.
//!
//! The rules are those of web-monitoring-diff. Text: every text node whose parent is not style, script, head
//! or title, joined by spaces; white space with two or more line breaks becomes two line breaks; the ends are
//! trimmed. Links: every `a` whose target is neither empty nor on the same page. The text of a link is its
//! content without scripts, drawings and form fields, with images replaced by their `alt`; if it is empty,
//! the title is used.
//!
//! Invariant: the collected text is linear in the page: a character is added to
//! at most [`MAX_OPEN_LINKS`] links.
//!
//! # Why
//! The old service collapses blank lines with a regular expression that takes minutes for 200,000 spaces. A
//! scanner that remembers the start of the current run of white space is linear and has the same result.
//! Joining nodes by a space even within a word is odd, but kept because counts and hashes depend on it.

use super::links::Links;
use super::metadata::PageMetadata;
use wm_job::text::floor_char_boundary;

/// Number of nested links that receive text: the innermost two. Links may be nested by tables or by mistake.
const MAX_OPEN_LINKS: usize = 2;
/// Length in bytes at which the text of a link is truncated; an unclosed link extends to the end of the page.
const MAX_LINK_BYTES: usize = 64 * 1024;

/// Kind of node, as far as it matters for text and links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// Root of the page.
    Document,
    /// Text between tags.
    Text,
    /// A comment; it only separates text nodes.
    Comment,
    /// An element whose own text is not visible.
    Hidden,
    /// An element whose text is visible but not part of a link's text.
    Muted,
    /// An `a` element with a target on another page.
    Link,
    /// An `img` element; its label is added to open links.
    Image,
    /// Any other element, which has no effect of its own.
    Plain,
}

impl NodeKind {
    /// Kind of an element by its lower-case name.
    pub(super) fn of_name(name: &str) -> Self {
        match name {
            "style" | "script" | "head" | "title" => Self::Hidden,
            "datalist" | "math" | "option" | "rp" | "select" | "svg" | "template" | "textarea" => Self::Muted,
            "a" => Self::Link,
            "img" => Self::Image,
            _ => Self::Plain,
        }
    }
}

/// Accumulates text, links and metadata.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// Visible text so far.
    pub(super) visible: VisibleText,
    /// Links closed so far.
    pub(super) links: Links,
    /// Title, descriptions and labels of images so far.
    pub(super) metadata: PageMetadata,
    open: Vec<OpenLink>,
    muted: u32,
}

#[derive(Debug)]
struct OpenLink {
    text: String,
    href: String,
    fallback_text: String,
    /// How many elements around it are muted: only those inside it take text from it.
    muted_around: u32,
}

impl Collector {
    /// Adds visible text; `continues` is true if it belongs to the same node as the previous text.
    pub(super) fn text(&mut self, text: &str, continues: bool) {
        self.visible.push(text, continues);
        self.link_text(text);
    }

    /// From here to the matching [`Collector::unmute`], text is not added to the links that are open now.
    pub(super) fn mute(&mut self) {
        self.muted += 1;
    }

    /// Ends the latest [`Collector::mute`].
    pub(super) fn unmute(&mut self) {
        self.muted = self.muted.saturating_sub(1);
    }

    /// Ends all [`Collector::mute`]s within the innermost link.
    pub(super) fn unmute_link(&mut self) {
        self.muted = self.open.last().map_or(0, |link| link.muted_around);
    }

    /// Opens a link; `fallback_text` is used if it has no text.
    pub(super) fn open_link(&mut self, href: &str, fallback_text: &str) {
        self.open.push(OpenLink {
            text: String::new(),
            href: href.to_owned(),
            fallback_text: fallback_text.to_owned(),
            muted_around: self.muted,
        });
    }

    /// Closes the innermost link.
    pub(super) fn close_link(&mut self) {
        if let Some(link) = self.open.pop() {
            match trim(&link.text) {
                "" => self.links.push(&link.fallback_text, &link.href),
                text => self.links.push(text, &link.href),
            }
        }
    }

    /// Whether a link is open.
    pub(super) fn in_link(&self) -> bool {
        !self.open.is_empty()
    }

    /// Adds text, or the label of an image, to the open links.
    pub(super) fn link_text(&mut self, text: &str) {
        for link in self.open.iter_mut().rev().take(MAX_OPEN_LINKS) {
            if self.muted > link.muted_around {
                continue;
            }
            let room = MAX_LINK_BYTES.saturating_sub(link.text.len());
            link.text.push_str(&text[..floor_char_boundary(text, room)]);
        }
    }
}

/// Whether the target of a link is on another page.
pub(super) fn leads_to_other_page(href: &str) -> bool {
    !href.is_empty() && !href.starts_with('#')
}

/// Label for a link without text.
pub(super) fn link_label(title: Option<&str>) -> String {
    title.map_or_else(|| "[no text]".to_owned(), |title| format!("[tooltip: {title}]"))
}

/// Label for an image within a link.
pub(super) fn image_label(alt: &str) -> String {
    if alt.is_empty() { "[image]".to_owned() } else { format!("[image: {alt}]") }
}

/// Visible text under construction, with blank lines collapsed.
#[derive(Debug, Default)]
pub(super) struct VisibleText {
    text: String,
    begun: bool,
    /// Trailing white space of `text`: its start offset and number of line breaks.
    run: Option<(usize, usize)>,
}

impl VisibleText {
    /// Appends the text of a node, preceded by a space unless it continues the previous node.
    pub(super) fn push(&mut self, text: &str, continues: bool) {
        if self.begun && !continues {
            self.scan(" ");
        }
        self.begun = true;
        self.scan(text);
    }

    /// Appends text. White space is looked at only beside a line break, and at both ends.
    fn scan(&mut self, text: &str) {
        let mut rest = text;
        loop {
            let blank = rest.find(|c| !is_space(c)).unwrap_or(rest.len());
            if blank > 0 {
                let (_, breaks) = self.run.get_or_insert((self.text.len(), 0));
                *breaks += memchr::memchr_iter(b'\n', &rest.as_bytes()[..blank]).count();
                self.text.push_str(&rest[..blank]);
                rest = &rest[blank..];
            }
            if rest.is_empty() {
                return;
            }
            self.end_run();
            let line = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            let words = rest[..line].trim_end_matches(is_space).len();
            self.text.push_str(&rest[..words]);
            rest = &rest[words..];
        }
    }

    /// Replaces a run of white space that contains two or more line breaks with two line breaks.
    fn end_run(&mut self) {
        if let Some((start, breaks)) = self.run.take()
            && breaks >= 2
        {
            self.text.truncate(start);
            self.text.push_str("\n\n");
        }
    }

    /// Returns the text, trimmed.
    pub(super) fn finish(mut self) -> String {
        self.end_run();
        self.text.truncate(self.text.trim_end_matches(is_space).len());
        let leading = self.text.len() - self.text.trim_start_matches(is_space).len();
        self.text.drain(..leading);
        self.text.shrink_to_fit();
        self.text
    }
}

/// White space as defined by Python's `str.isspace` and `\s`: Unicode white space and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Trims white space as defined by [`is_space`].
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collapsed(text: &str) -> String {
        let mut visible = VisibleText::default();
        visible.push(text, false);
        visible.finish()
    }

    /// Reference implementation that tries every length: replaces `([^\S\n]*\n\s*){2,}` with
    /// two line breaks, then strips.
    fn by_the_regular_expression(text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let group = |at: usize| -> Vec<usize> {
            let blank = |i: &usize| chars.get(*i).is_some_and(|c| is_space(*c) && *c != '\n');
            let mut line_break = at;
            while blank(&line_break) {
                line_break += 1;
            }
            if chars.get(line_break) != Some(&'\n') {
                return Vec::new();
            }
            let mut end = line_break + 1;
            let mut ends = vec![end];
            while chars.get(end).is_some_and(|c| is_space(*c)) {
                end += 1;
                ends.push(end);
            }
            ends.reverse();
            ends
        };
        fn longest(at: usize, times: usize, group: &dyn Fn(usize) -> Vec<usize>) -> Option<usize> {
            let more = group(at).into_iter().find_map(|end| longest(end, times + 1, group));
            more.or((times >= 2).then_some(at))
        }
        let (mut out, mut at) = (String::new(), 0);
        while at < chars.len() {
            match longest(at, 0, &group) {
                Some(end) => {
                    out.push_str("\n\n");
                    at = end;
                }
                None => {
                    out.push(chars[at]);
                    at += 1;
                }
            }
        }
        trim(&out).to_owned()
    }

    #[test]
    fn blank_lines_collapse_and_other_white_space_stays() {
        for (text, expected) in [
            ("", ""),
            (" \n\n ", ""),
            ("a\nb", "a\nb"),
            ("a \n b", "a \n b"),
            ("a\n\nb", "a\n\nb"),
            ("a \t\n \u{a0}\n  \n b", "a\n\nb"),
            ("a  b", "a  b"),
            ("a\r\n\r\nb", "a\n\nb"),
            ("a\u{1c}\n\u{85}\nb", "a\n\nb"),
        ] {
            assert_eq!(collapsed(text), expected, "{text:?}");
            assert_eq!(by_the_regular_expression(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nodes_are_joined_by_a_space_and_runs_reach_across_them() {
        let mut visible = VisibleText::default();
        for (text, continues) in [("a", false), ("b", true), ("c\n", false), ("\nd", false)] {
            visible.push(text, continues);
        }
        assert_eq!(visible.finish(), "ab c\n\nd");
    }

    proptest! {
        #[test]
        fn the_scanner_means_what_the_regular_expression_means(text in "[a \n\t\u{a0}\r]{0,14}") {
            prop_assert_eq!(collapsed(&text), by_the_regular_expression(&text));
        }
    }
}
