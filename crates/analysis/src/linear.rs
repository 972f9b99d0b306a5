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

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};

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
    Tokenizer::new_with_emitter(html, emitter).for_each(drop);
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
