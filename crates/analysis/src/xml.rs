//! Reads a page as XML, which is what browsers do with one that is served as `application/xhtml+xml`.
//!
//! In XML `<script .../>` and `<title/>` are empty elements; an HTML parser would take the rest of the page for their
//! content.
//!
//! Invariant: time and memory are linear in the size of the page. A DTD is never read, and no entity that it defines is
//! expanded; the named characters of HTML, which that of XHTML defines, are.

use std::borrow::Cow;

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_html5_entity;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::collect::{Collector, NodeKind, image_label, is_space, leads_to_other_page, link_label};

/// The page is not well-formed. Checked is what its reading depends on: tags and their ends, one root, quotes and
/// references; not names, prefixes, characters or whether an attribute is there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotWellFormed;

impl From<quick_xml::Error> for NotWellFormed {
    fn from(_: quick_xml::Error) -> Self {
        Self
    }
}

impl From<quick_xml::encoding::EncodingError> for NotWellFormed {
    fn from(_: quick_xml::encoding::EncodingError) -> Self {
        Self
    }
}

impl From<quick_xml::events::attributes::AttrError> for NotWellFormed {
    fn from(_: quick_xml::events::attributes::AttrError) -> Self {
        Self
    }
}

/// Reads the content of a page, in document order.
///
/// # Errors
/// [`NotWellFormed`].
pub(super) fn read(page: &str) -> Result<Collector, NotWellFormed> {
    let mut events = Reader::from_str(page);
    events.config_mut().enable_all_checks(true);
    let mut reader = ElementReader::default();
    loop {
        match events.read_event()? {
            Event::Start(tag) => reader.open(&tag)?,
            Event::Empty(tag) => {
                reader.open(&tag)?;
                reader.close();
            }
            // That it is the end of the innermost element has been checked.
            Event::End(_) => reader.close(),
            Event::Text(text) => reader.text(&text.xml10_content()?)?,
            Event::CData(text) => reader.text(&text.xml10_content()?)?,
            Event::GeneralRef(reference) => reader.text(&resolved(&reference)?)?,
            Event::Comment(_) | Event::PI(_) => reader.in_text = false,
            Event::Decl(_) | Event::DocType(_) => {}
            Event::Eof => return reader.finish(),
        }
    }
}

/// The character that a reference stands for.
fn resolved(reference: &BytesRef<'_>) -> Result<Cow<'static, str>, NotWellFormed> {
    if let Some(character) = reference.resolve_char_ref()? {
        return Ok(Cow::Owned(character.to_string()));
    }
    resolve_html5_entity(&reference.decode()?).map(Cow::Borrowed).ok_or(NotWellFormed)
}

/// State of the reader: the open elements and what they collected.
#[derive(Default)]
struct ElementReader {
    collector: Collector,
    open: Vec<NodeKind>,
    root_seen: bool,
    /// Depth of the first title element, while it is open.
    title: Option<usize>,
    title_seen: bool,
    /// The last event was text, which the next one continues.
    in_text: bool,
}

/// The attributes of a tag that matter.
#[derive(Default)]
struct TagAttributes<'t> {
    href: Option<Cow<'t, str>>,
    title: Option<Cow<'t, str>>,
    alt: Option<Cow<'t, str>>,
    name: Option<Cow<'t, str>>,
    property: Option<Cow<'t, str>>,
    content: Option<Cow<'t, str>>,
}

impl<'t> TagAttributes<'t> {
    fn read(tag: &'t BytesStart<'_>) -> Result<Self, NotWellFormed> {
        let mut read = Self::default();
        // Whether a name is there twice would be compared with every other one.
        for attribute in tag.attributes().with_checks(false) {
            let attribute = attribute?;
            let value = value(&attribute)?;
            let slot = match attribute.key.as_ref() {
                b"href" | b"xlink:href" => &mut read.href,
                b"title" => &mut read.title,
                b"alt" => &mut read.alt,
                b"name" => &mut read.name,
                b"property" => &mut read.property,
                b"content" => &mut read.content,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        Ok(read)
    }
}

fn value<'t>(attribute: &Attribute<'t>) -> Result<Cow<'t, str>, NotWellFormed> {
    // A named character of HTML contains no other.
    Ok(attribute.normalized_value_with(XmlVersion::Implicit1_0, 1, resolve_html5_entity)?)
}

impl ElementReader {
    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), NotWellFormed> {
        if self.open.is_empty() && self.root_seen {
            return Err(NotWellFormed);
        }
        (self.root_seen, self.in_text) = (true, false);
        let attributes = TagAttributes::read(tag)?;
        let local = tag.local_name();
        let name = std::str::from_utf8(local.as_ref()).map_err(|_| NotWellFormed)?;
        let mut kind = NodeKind::of_name(name);
        match kind {
            NodeKind::Link => match attributes.href.filter(|href| leads_to_other_page(href)) {
                Some(href) => {
                    self.collector.open_link(&href, &link_label(attributes.title.as_deref()));
                }
                None => kind = NodeKind::Plain,
            },
            NodeKind::Image => {
                let alt = attributes.alt.as_deref().unwrap_or_default();
                self.collector.metadata.add_image_label(alt);
                self.collector.link_text(&image_label(alt));
            }
            NodeKind::Hidden | NodeKind::Muted => self.collector.mute(),
            NodeKind::Document | NodeKind::Text | NodeKind::Comment | NodeKind::Plain => {}
        }
        if name == "meta"
            && let (Some(meta), Some(content)) = (attributes.name.or(attributes.property), attributes.content)
        {
            self.collector.metadata.add_named(&meta, &content);
        }
        if name == "title" && !self.title_seen {
            (self.title_seen, self.title) = (true, Some(self.open.len()));
        }
        self.open.push(kind);
        Ok(())
    }

    fn close(&mut self) {
        self.in_text = false;
        match self.open.pop() {
            Some(NodeKind::Link) => self.collector.close_link(),
            Some(NodeKind::Hidden | NodeKind::Muted) => self.collector.unmute(),
            Some(
                NodeKind::Document | NodeKind::Text | NodeKind::Comment | NodeKind::Image | NodeKind::Plain,
            )
            | None => {}
        }
        self.title = self.title.filter(|depth| *depth < self.open.len());
    }

    fn text(&mut self, text: &str) -> Result<(), NotWellFormed> {
        let Some(parent) = self.open.last() else {
            let blank = text.chars().all(|c| is_space(c) || c == '\u{FEFF}');
            return if blank { Ok(()) } else { Err(NotWellFormed) };
        };
        if self.title.is_some_and(|depth| depth + 1 == self.open.len()) {
            self.collector.metadata.add_title(text);
        }
        if *parent != NodeKind::Hidden {
            self.collector.text(text, self.in_text);
        }
        self.in_text = true;
        Ok(())
    }

    fn finish(self) -> Result<Collector, NotWellFormed> {
        if self.root_seen && self.open.is_empty() { Ok(self.collector) } else { Err(NotWellFormed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(page: &str) -> Result<String, NotWellFormed> {
        read(page).map(|collector| collector.visible.finish())
    }

    #[test]
    fn empty_elements_are_empty_and_characters_are_resolved() {
        for (page, expected) in [
            ("<html><head><title/><script src='x'/><style/></head><body><p>seen</p></body></html>", "seen"),
            (
                "<?xml version='1.0'?>\n<!DOCTYPE html>\n<html><iframe/><textarea/><p>seen</p></html>\n",
                "seen",
            ),
            ("<p>caf&eacute;&nbsp;&amp; &#233;&#xe9;</p>", "caf\u{e9}\u{a0}& \u{e9}\u{e9}"),
            ("<p>a<![CDATA[ < b]]> c</p>", "a < b c"),
            ("<p>a<!-- x -->b</p>", "a b"),
            ("<p>line\r\nbreak</p>", "line\nbreak"),
            ("<x:html xmlns:x='y'><x:script>hidden</x:script><x:p>seen</x:p></x:html>", "seen"),
            ("<html><script><b>inner</b>outer</script></html>", "inner"),
        ] {
            assert_eq!(text(page).as_deref(), Ok(expected), "{page}");
        }
    }

    #[test]
    fn links_and_metadata_are_those_of_the_other_readers() {
        let page = "<html><head><title>A &amp; B</title><meta name='description' content='x &gt; y'/></head>\
            <body><a href='/a?b=1&amp;c' title='t'><img src='i' alt='label'/></a><a href='#top'>up</a>\
            <svg><a href='/s'>in svg</a></svg></body></html>";
        let collector = read(page).unwrap();
        assert_eq!(collector.links.len(), 2);
        let [first, second] = [0, 1].map(|at| collector.links.get(at));
        assert_eq!((first.text, first.href), ("[image: label]", "/a?b=1&c"));
        assert_eq!((second.text, second.href), ("in svg", "/s"));
        let (changes, _) = crate::metadata::compare(collector.metadata, Default::default());
        let shown: Vec<_> = changes.iter().map(|c| (&*c.name, c.from.as_deref())).collect();
        assert_eq!(
            shown,
            [("title", Some("A & B")), ("description", Some("x > y")), ("image alt", Some("label"))]
        );
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for page in [
            "",
            "text",
            "<p>a",
            "<p>a</b>",
            "<p>a</p><p>b</p>",
            "<p>a</p>tail",
            "<p>fish & chips</p>",
            "<p>&unknown;</p>",
            "<p a=1>x</p>",
            "<p a>x</p>",
            "<p>x<br></p>",
            "<!DOCTYPE p [<!ENTITY x 'expanded'>]><p>&x;</p>",
            "<!DOCTYPE p [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><p a='&x;'/>",
        ] {
            assert_eq!(text(page), Err(NotWellFormed), "{page}");
        }
    }
}
