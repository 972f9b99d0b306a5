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

use super::collect::{Collector, Kind, image_label, leads_out, link_label};

/// Tells the collector what is in a page, in order.
pub(super) fn read(html: &str, collector: &mut Collector) {
    read_at(html, collector, false);
    while collector.in_link() {
        collector.close_link();
    }
}

fn read_at(html: &str, collector: &mut Collector, in_noscript: bool) {
    let mut reader = Reader { collector, in_noscript, tag: Tag::default(), raw: Raw::No };
    let mut emitter =
        CallbackEmitter::new(move |event: CallbackEvent<'_>, _: Span<()>| -> Option<Infallible> {
            reader.on(event);
            None
        });
    emitter.naively_switch_states(true);
    Tokenizer::new_with_emitter(html, emitter).for_each(drop);
}

/// The start tag that is being read.
#[derive(Default)]
struct Tag {
    kind: Option<Kind>,
    attribute: Attribute,
    href: Option<String>,
    title: Option<String>,
    alt: Option<String>,
}

/// The attribute whose value comes next.
#[derive(Default, Clone, Copy)]
enum Attribute {
    Href,
    Title,
    Alt,
    #[default]
    Other,
}

/// What the next text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Raw {
    /// Text.
    No,
    /// Not visible.
    Hidden,
    /// Markup that the tokenizer took for text, because with scripting it would be.
    Noscript,
}

struct Reader<'c> {
    collector: &'c mut Collector,
    in_noscript: bool,
    tag: Tag,
    raw: Raw,
}

impl Reader<'_> {
    fn on(&mut self, event: CallbackEvent<'_>) {
        match event {
            CallbackEvent::OpenStartTag { name } => self.open(name),
            CallbackEvent::AttributeName { name } => self.name(name),
            CallbackEvent::AttributeValue { value } => self.value(value),
            CallbackEvent::CloseStartTag { self_closing } => self.close(self_closing),
            CallbackEvent::EndTag { name } => self.end(name),
            CallbackEvent::String { value } => self.text(&String::from_utf8_lossy(value)),
            CallbackEvent::Comment { .. } | CallbackEvent::Doctype { .. } | CallbackEvent::Error(_) => {}
        }
    }

    fn open(&mut self, name: &[u8]) {
        self.raw = match name {
            b"script" | b"style" | b"title" => Raw::Hidden,
            b"noscript" => Raw::Noscript,
            _ => Raw::No,
        };
        self.tag = Tag { kind: kind_of(name), ..Tag::default() };
    }

    fn name(&mut self, name: &[u8]) {
        let (attribute, slot) = match name {
            b"href" => (Attribute::Href, &mut self.tag.href),
            b"title" => (Attribute::Title, &mut self.tag.title),
            b"alt" => (Attribute::Alt, &mut self.tag.alt),
            _ => {
                self.tag.attribute = Attribute::Other;
                return;
            }
        };
        // The first of two attributes with one name counts.
        self.tag.attribute = if slot.is_none() { attribute } else { Attribute::Other };
        slot.get_or_insert_default();
    }

    fn value(&mut self, value: &[u8]) {
        let slot = match self.tag.attribute {
            Attribute::Href => &mut self.tag.href,
            Attribute::Title => &mut self.tag.title,
            Attribute::Alt => &mut self.tag.alt,
            Attribute::Other => return,
        };
        *slot = Some(String::from_utf8_lossy(value).into_owned());
    }

    fn close(&mut self, self_closing: bool) {
        let tag = std::mem::take(&mut self.tag);
        match tag.kind {
            Some(Kind::Link) => {
                self.end_link();
                if let Some(href) = tag.href.filter(|href| leads_out(href)) {
                    self.collector.open_link(&href, &link_label(tag.title.as_deref()));
                }
            }
            Some(Kind::Image) => self.collector.image(&image_label(tag.alt.as_deref().unwrap_or_default())),
            Some(Kind::Muted) if !self_closing => self.collector.mute(),
            Some(Kind::Muted | Kind::Hidden | Kind::Plain | Kind::Text | Kind::Comment | Kind::Document)
            | None => {}
        }
    }

    fn end(&mut self, name: &[u8]) {
        self.raw = Raw::No;
        match kind_of(name) {
            Some(Kind::Link) => self.end_link(),
            Some(Kind::Muted) => self.collector.unmute(),
            Some(Kind::Image | Kind::Hidden | Kind::Plain | Kind::Text | Kind::Comment | Kind::Document)
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

    fn text(&mut self, text: &str) {
        match self.raw {
            Raw::No => self.collector.text(text, false),
            Raw::Hidden => {}
            // Once: what a noscript within a noscript holds is text, as no parser without scripting would have it.
            Raw::Noscript if self.in_noscript => self.collector.text(text, false),
            Raw::Noscript => read_at(text, self.collector, true),
        }
    }
}

/// The kind of an element that has both tags, or needs none. An `option` and an `rp` hardly ever end.
fn kind_of(name: &[u8]) -> Option<Kind> {
    match name {
        b"option" | b"rp" => None,
        _ => match String::from_utf8_lossy(name) {
            Cow::Borrowed(name) => Some(Kind::of_name(name)),
            Cow::Owned(_) => None,
        },
    }
}
