//! Reads a page tag by tag without building a tree, for pages on which a tree builder would be quadratic.
//!
//! Invariant: time and memory are linear in the size of the page, whatever its content.
//!
//! # Why
//! `html5gum` tokenises according to the standard, at 200 MB/s, and keeps nothing. Without a tree some
//! rules can only be approximated: the end of an unclosed link, and moving the stray text of a table
//! before it. On 95 of 100 real pages the text was the same as from the tree; for the pages read here a
//! tree would have little meaning anyway.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Reader, Span, Tokenizer};

use super::collect::{Collector, NodeKind, image_label, leads_to_other_page, link_label};

/// Passes the content of a page to the collector, in document order.
pub(super) fn read(html: &str, collector: &mut Collector) {
    read_at(html, collector, false);
    while collector.in_link() {
        collector.close_link();
    }
}

fn read_at(html: &str, collector: &mut Collector, in_noscript: bool) {
    let mut reader = TagReader {
        collector,
        in_noscript,
        title_seen: in_noscript,
        tag: StartTag::default(),
        text_mode: TextMode::Visible,
    };
    let mut emitter =
        CallbackEmitter::new(move |event: CallbackEvent<'_>, _: Span<()>| -> Option<Infallible> {
            reader.on_event(event);
            None
        });
    emitter.naively_switch_states(true);
    let pausing = PausingReader { rest: html.as_bytes(), since_pause: 0, since_tag_end: 0 };
    // What it returns are its pauses.
    Tokenizer::new_with_emitter(pausing, emitter).for_each(drop);
}

/// Bytes without a `>` from which on there are pauses: few tags are longer.
const LONG_TAG_BYTES: usize = 1024;
/// Bytes between two pauses.
const PAUSE_BYTES: usize = 512;

/// A reader that makes the tokenizer return from time to time while it reads a long tag. `html5gum` 0.9 calls the state of
/// each attribute from that of the one before, so that a tag of 25,000 attributes is deeper than a stack. Where it goes
/// on, an attribute may be torn in two.
struct PausingReader<'h> {
    rest: &'h [u8],
    since_pause: usize,
    since_tag_end: usize,
}

/// The tokenizer is to return, and to go on where it was.
#[derive(Debug)]
struct Pause;

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pause")
    }
}

impl std::error::Error for Pause {}

impl PausingReader<'_> {
    fn pause_after(&mut self, bytes: usize) -> Result<(), Pause> {
        if self.since_tag_end < LONG_TAG_BYTES || self.since_pause < bytes {
            return Ok(());
        }
        self.since_pause = 0;
        Err(Pause)
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        self.since_pause += count;
        self.since_tag_end = if taken.ends_with(b">") { 0 } else { self.since_tag_end + count };
        taken
    }
}

impl Reader for PausingReader<'_> {
    type Error = Pause;

    fn read_byte(&mut self) -> Result<Option<u8>, Pause> {
        // Only where states read single bytes for long: between two bytes of a character reference its state would
        // be lost.
        self.pause_after(2 * PAUSE_BYTES)?;
        Ok(if self.rest.is_empty() { None } else { self.take(1).first().copied() })
    }

    fn try_read_string(&mut self, text: &[u8], case_sensitive: bool) -> Result<bool, Pause> {
        let is_next = self.rest.get(..text.len()).is_some_and(|next| match case_sensitive {
            true => next == text,
            false => next.eq_ignore_ascii_case(text),
        });
        if is_next {
            self.take(text.len());
        }
        Ok(is_next)
    }

    fn read_until<'b>(&'b mut self, ends: &[u8], _: &'b mut [u8; 4]) -> Result<Option<&'b [u8]>, Pause> {
        self.pause_after(PAUSE_BYTES)?;
        let count = match self.rest.iter().position(|b| ends.contains(b)) {
            _ if self.rest.is_empty() => return Ok(None),
            Some(0) => 1,
            Some(count) => count,
            None => self.rest.len(),
        };
        Ok(Some(self.take(count)))
    }
}

/// State of the start tag being read.
#[derive(Default)]
struct StartTag {
    kind: Option<NodeKind>,
    is_meta: bool,
    attribute: TagAttribute,
    href: Option<String>,
    title: Option<String>,
    alt: Option<String>,
    meta: Option<String>,
    content: Option<String>,
}

/// The attribute that the next value belongs to.
#[derive(Default, Clone, Copy)]
enum TagAttribute {
    Href,
    Title,
    Alt,
    /// `name` or `property`.
    Meta,
    Content,
    #[default]
    Other,
}

/// How the next text is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextMode {
    /// Visible text of the page.
    Visible,
    /// Text of a script or style element.
    Hidden,
    /// Text of the page's first title element.
    Title,
    /// Markup that the tokenizer returns as text, because it would be text with scripting enabled.
    Noscript,
}

struct TagReader<'c> {
    collector: &'c mut Collector,
    in_noscript: bool,
    title_seen: bool,
    tag: StartTag,
    text_mode: TextMode,
}

impl TagReader<'_> {
    fn on_event(&mut self, event: CallbackEvent<'_>) {
        match event {
            CallbackEvent::OpenStartTag { name } => self.on_start_tag(name),
            CallbackEvent::AttributeName { name } => self.on_attribute_name(name),
            CallbackEvent::AttributeValue { value } => self.on_attribute_value(value),
            CallbackEvent::CloseStartTag { self_closing } => self.on_start_tag_end(self_closing),
            CallbackEvent::EndTag { name } => self.on_end_tag(name),
            CallbackEvent::String { value } => self.on_text(&String::from_utf8_lossy(value)),
            CallbackEvent::Comment { .. } | CallbackEvent::Doctype { .. } | CallbackEvent::Error(_) => {}
        }
    }

    fn on_start_tag(&mut self, name: &[u8]) {
        self.text_mode = match name {
            b"title" if !self.title_seen => {
                self.title_seen = true;
                TextMode::Title
            }
            b"script" | b"style" | b"title" => TextMode::Hidden,
            b"noscript" => TextMode::Noscript,
            _ => TextMode::Visible,
        };
        self.tag = StartTag { kind: kind_of(name), is_meta: name == b"meta", ..StartTag::default() };
    }

    fn on_attribute_name(&mut self, name: &[u8]) {
        let (attribute, slot) = match name {
            b"href" => (TagAttribute::Href, &mut self.tag.href),
            b"title" => (TagAttribute::Title, &mut self.tag.title),
            b"alt" => (TagAttribute::Alt, &mut self.tag.alt),
            b"name" | b"property" => (TagAttribute::Meta, &mut self.tag.meta),
            b"content" => (TagAttribute::Content, &mut self.tag.content),
            _ => {
                self.tag.attribute = TagAttribute::Other;
                return;
            }
        };
        // Of two attributes with the same name the first one counts.
        self.tag.attribute = if slot.is_none() { attribute } else { TagAttribute::Other };
        slot.get_or_insert_default();
    }

    fn on_attribute_value(&mut self, value: &[u8]) {
        let slot = match self.tag.attribute {
            TagAttribute::Href => &mut self.tag.href,
            TagAttribute::Title => &mut self.tag.title,
            TagAttribute::Alt => &mut self.tag.alt,
            TagAttribute::Meta => &mut self.tag.meta,
            TagAttribute::Content => &mut self.tag.content,
            TagAttribute::Other => return,
        };
        *slot = Some(String::from_utf8_lossy(value).into_owned());
    }

    fn on_start_tag_end(&mut self, self_closing: bool) {
        let tag = std::mem::take(&mut self.tag);
        if let (true, Some(name), Some(content)) = (tag.is_meta, &tag.meta, &tag.content) {
            self.collector.metadata.add_named(name, content);
        }
        match tag.kind {
            Some(NodeKind::Link) => {
                self.end_link();
                if let Some(href) = tag.href.filter(|href| leads_to_other_page(href)) {
                    self.collector.open_link(&href, &link_label(tag.title.as_deref()));
                }
            }
            Some(NodeKind::Image) => {
                let alt = tag.alt.as_deref().unwrap_or_default();
                self.collector.metadata.add_image_label(alt);
                self.collector.link_text(&image_label(alt));
            }
            Some(NodeKind::Muted) if !self_closing => self.collector.mute(),
            Some(
                NodeKind::Muted
                | NodeKind::Hidden
                | NodeKind::Plain
                | NodeKind::Text
                | NodeKind::Comment
                | NodeKind::Document,
            )
            | None => {}
        }
    }

    fn on_end_tag(&mut self, name: &[u8]) {
        self.text_mode = TextMode::Visible;
        match kind_of(name) {
            Some(NodeKind::Link) => self.end_link(),
            Some(NodeKind::Muted) => self.collector.unmute(),
            Some(
                NodeKind::Image
                | NodeKind::Hidden
                | NodeKind::Plain
                | NodeKind::Text
                | NodeKind::Comment
                | NodeKind::Document,
            )
            | None => {}
        }
    }

    /// Closes the current link, as the start of the next link does, and ends mutes left open within it.
    fn end_link(&mut self) {
        if self.collector.in_link() {
            self.collector.unmute_link();
            self.collector.close_link();
        }
    }

    fn on_text(&mut self, text: &str) {
        match self.text_mode {
            TextMode::Visible => self.collector.text(text, false),
            TextMode::Hidden => {}
            TextMode::Title => self.collector.metadata.add_title(text),
            // One level only: a noscript within a noscript is text, as in a parser without scripting.
            TextMode::Noscript if self.in_noscript => self.collector.text(text, false),
            TextMode::Noscript => read_at(text, self.collector, true),
        }
    }
}

/// Kind of an element that always has an end tag or never needs one; `option` and `rp` are rarely closed.
fn kind_of(name: &[u8]) -> Option<NodeKind> {
    match name {
        b"option" | b"rp" => None,
        _ => match String::from_utf8_lossy(name) {
            Cow::Borrowed(name) => Some(NodeKind::of_name(name)),
            Cow::Owned(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(html: &str) -> String {
        let mut collector = Collector::default();
        read(html, &mut collector);
        collector.visible.finish()
    }

    #[test]
    fn a_tag_of_any_number_of_attributes_is_read_on_a_small_stack() {
        for attribute in ["a=\"1\" ", "a='1' ", "a=1 ", "a ", "a=\"1\"", "a=\"&amp;\" ", "/ "] {
            let page = format!("<p {}>seen", attribute.repeat(200_000));
            assert_eq!(text(&page), "seen", "{attribute}");
        }
    }

    #[test]
    fn pauses_change_nothing_outside_long_tags() {
        for before in 0..60 {
            let page = format!(
                "<p>{}&amp;<b title=\"a 'b' c\" class='x'>one &amp; two</b>\r\n<script>x</script>three",
                "x".repeat(LONG_TAG_BYTES + PAUSE_BYTES - 30 + before)
            );
            assert!(text(&page).ends_with("x& one & two \n three"), "{before}: {}", text(&page));
        }
    }
}
