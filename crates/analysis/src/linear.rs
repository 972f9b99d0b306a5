//! Reads a page tag by tag, without building a tree: for pages that would make a tree builder quadratic.
//!
//! Invariant: time and memory are linear in the page, whatever it holds.
//!
//! # Why
//! `html5gum` tokenises as the standard says, at 200 MB/s, and keeps nothing. Without a tree some things can only be
//! approximated: where an unclosed link ends, and that a table's stray text moves before it. On real pages the text
//! was the same as the tree's on 95 of 100; on the pages that come here a tree would mean little anyway.

use std::borrow::Cow;
use std::convert::Infallible;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};

use super::collect::{Collector, NodeKind, image_label, leads_to_other_page, link_label};

/// Tells the collector what is in a page, in order.
pub(super) fn read(html: &str, collector: &mut Collector) {
    read_at(html, collector, false);
    while collector.in_link() {
        collector.close_link();
    }
}

fn read_at(html: &str, collector: &mut Collector, in_noscript: bool) {
    let mut reader =
        TagReader { collector, in_noscript, tag: StartTag::default(), text_mode: TextMode::Visible };
    let mut emitter =
        CallbackEmitter::new(move |event: CallbackEvent<'_>, _: Span<()>| -> Option<Infallible> {
            reader.on_event(event);
            None
        });
    emitter.naively_switch_states(true);
    Tokenizer::new_with_emitter(html, emitter).for_each(drop);
}

/// The start tag that is being read.
#[derive(Default)]
struct StartTag {
    kind: Option<NodeKind>,
    attribute: TagAttribute,
    href: Option<String>,
    title: Option<String>,
    alt: Option<String>,
}

/// The attribute whose value comes next.
#[derive(Default, Clone, Copy)]
enum TagAttribute {
    Href,
    Title,
    Alt,
    #[default]
    Other,
}

/// What the next text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextMode {
    /// Text.
    Visible,
    /// Not visible.
    Hidden,
    /// Markup that the tokenizer took for text, because with scripting it would be.
    Noscript,
}

struct TagReader<'c> {
    collector: &'c mut Collector,
    in_noscript: bool,
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
            b"script" | b"style" | b"title" => TextMode::Hidden,
            b"noscript" => TextMode::Noscript,
            _ => TextMode::Visible,
        };
        self.tag = StartTag { kind: kind_of(name), ..StartTag::default() };
    }

    fn on_attribute_name(&mut self, name: &[u8]) {
        let (attribute, slot) = match name {
            b"href" => (TagAttribute::Href, &mut self.tag.href),
            b"title" => (TagAttribute::Title, &mut self.tag.title),
            b"alt" => (TagAttribute::Alt, &mut self.tag.alt),
            _ => {
                self.tag.attribute = TagAttribute::Other;
                return;
            }
        };
        // The first of two attributes with one name counts.
        self.tag.attribute = if slot.is_none() { attribute } else { TagAttribute::Other };
        slot.get_or_insert_default();
    }

    fn on_attribute_value(&mut self, value: &[u8]) {
        let slot = match self.tag.attribute {
            TagAttribute::Href => &mut self.tag.href,
            TagAttribute::Title => &mut self.tag.title,
            TagAttribute::Alt => &mut self.tag.alt,
            TagAttribute::Other => return,
        };
        *slot = Some(String::from_utf8_lossy(value).into_owned());
    }

    fn on_start_tag_end(&mut self, self_closing: bool) {
        let tag = std::mem::take(&mut self.tag);
        match tag.kind {
            Some(NodeKind::Link) => {
                self.end_link();
                if let Some(href) = tag.href.filter(|href| leads_to_other_page(href)) {
                    self.collector.open_link(&href, &link_label(tag.title.as_deref()));
                }
            }
            Some(NodeKind::Image) => {
                self.collector.image(&image_label(tag.alt.as_deref().unwrap_or_default()))
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

    /// A link ends where the next one begins, and so does what was muted in it and never closed.
    fn end_link(&mut self) {
        if self.collector.in_link() {
            self.collector.close_link();
            self.collector.unmute_all();
        }
    }

    fn on_text(&mut self, text: &str) {
        match self.text_mode {
            TextMode::Visible => self.collector.text(text, false),
            TextMode::Hidden => {}
            // Once: what a noscript within a noscript holds is text, as no parser without scripting would have it.
            TextMode::Noscript if self.in_noscript => self.collector.text(text, false),
            TextMode::Noscript => read_at(text, self.collector, true),
        }
    }
}

/// The kind of an element that has both tags, or needs none. An `option` and an `rp` hardly ever end.
fn kind_of(name: &[u8]) -> Option<NodeKind> {
    match name {
        b"option" | b"rp" => None,
        _ => match String::from_utf8_lossy(name) {
            Cow::Borrowed(name) => Some(NodeKind::of_name(name)),
            Cow::Owned(_) => None,
        },
    }
}
