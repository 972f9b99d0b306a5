//! Parses a page as browsers do and visits the resulting tree once.
//!
//! html5ever builds into our own [`Arena`]. If a page would make the parser quadratic, parsing is given up
//! with a reason; the caller then reads it without a tree (`linear`).
//!
//! Invariant: memory and time are bounded by the limits of the arena and of the steps, not by the content of the page;
//! what is given up is a function of the page alone.
//!
//! # Why
//! html5ever takes seconds for 20,000 nested elements and for 200,000 attributes on one tag, because it
//! searches its stack of open elements and the attributes of a tag linearly; browsers stop at a depth of
//! 512. `scraper` and `rcdom` inherit that and need several times the memory, and `scraper` reads
//! noscript as raw text. Tokens are checked before they reach the tree builder, so that parsing can be
//! given up between two tokens. Each look at an element of its stack is a call of our sink, and so can be counted.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use html5ever::buffer_queue::BufferQueue;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{Attribute, LocalName, QualName, TokenizerResult, local_name, ns};

use super::arena::{Arena, GiveUpReason, NONE, NodeId, ROOT};
use super::collect::Collector;
use super::prescan;
use wm_job::text::floor_char_boundary;

/// Bytes passed to the tokenizer at a time, so that it holds no second copy of the page.
const SLICE_BYTES: usize = 8 * 1024;
/// Maximum number of tokens, looks at open elements and steps up the tree for one page: some tenths of a second,
/// and 25 times what a real page of 10 MiB would need.
const MAX_WORK: u64 = 50_000_000;
/// Comparisons of attributes that take as long as one look at an element. Each attribute of a tag is compared with all
/// previous ones, so a tag has half the square of their number.
const COMPARISONS_PER_LOOK: u64 = 4;
/// Maximum number of attributes of one tag.
const MAX_ATTRIBUTES: usize = 20_000;

/// Elements whose content is text, so that one that is not closed takes the rest of the page.
const TEXT_ELEMENTS: [LocalName; 8] = [
    local_name!("script"),
    local_name!("style"),
    local_name!("title"),
    local_name!("textarea"),
    local_name!("iframe"),
    local_name!("noembed"),
    local_name!("noframes"),
    local_name!("xmp"),
];

/// Parses a page and passes its content to the collector, in document order. In one that was `meant_as_xml`, `<title/>`
/// and its like are empty.
///
/// # Errors
/// The reason why the page cannot be parsed in bounded time and memory; the collector
/// is unchanged in that case.
pub(super) fn read(html: &str, meant_as_xml: bool, collector: &mut Collector) -> Result<(), GiveUpReason> {
    match parse(html, meant_as_xml, Slices::Large, collector) {
        Err(ParseError::LongTag) => match parse(html, meant_as_xml, Slices::AtTags, collector) {
            Err(ParseError::LongTag) => Err(GiveUpReason::Work),
            Err(ParseError::GivenUp(why)) => Err(why),
            Ok(()) => Ok(()),
        },
        Err(ParseError::GivenUp(why)) => Err(why),
        Ok(()) => Ok(()),
    }
}

/// How a page is cut before it is passed to the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slices {
    /// At [`SLICE_BYTES`]. A tag may be longer, and then there are no tokens at which to count its attributes; what has
    /// more words than [`MAX_ATTRIBUTES`] may be one.
    Large,
    /// Before each `<`, too: half as fast. What ends without a token then begins a tag, a comment or the like, so that
    /// the attributes can be counted.
    AtTags,
}

/// Why a page was not parsed.
enum ParseError {
    GivenUp(GiveUpReason),
    /// It has a tag that is too long, or may have one.
    LongTag,
}

fn parse(
    html: &str,
    meant_as_xml: bool,
    slices: Slices,
    collector: &mut Collector,
) -> Result<(), ParseError> {
    build(html, meant_as_xml, slices)?.arena.borrow_mut().walk(collector);
    Ok(())
}

/// Builds the tree of a page.
fn build(html: &str, meant_as_xml: bool, slices: Slices) -> Result<ArenaSink, ParseError> {
    let options =
        TreeBuilderOpts { scripting_enabled: false, drop_doctype: true, ..TreeBuilderOpts::default() };
    let sink = LimitedTokenSink {
        builder: TreeBuilder::new(ArenaSink::new(html.len()), options),
        tokens: Cell::new(0),
        attribute_work: Cell::new(0),
        meant_as_xml,
    };
    let tokenizer = Tokenizer::new(sink, TokenizerOpts { discard_bom: false, ..TokenizerOpts::default() });
    let queue = BufferQueue::default();
    let mut rest = html;
    // Words of what no token has ended yet, and the start of what is not counted of it.
    let (mut words, mut not_counted, mut is_in_tag) = (0, 0, false);
    while !rest.is_empty() {
        let whole = rest;
        let (slice, after) = rest.split_at(slice_end(rest, slices));
        rest = after;
        let tokens = tokenizer.sink.tokens.get();
        queue.push_back(StrTendril::from_slice(slice));
        while !matches!(tokenizer.feed(&queue), TokenizerResult::Done) {}
        tokenizer.sink.check_given_up().map_err(ParseError::GivenUp)?;
        let has_ended = tokenizer.sink.tokens.get() != tokens;
        let fed = html.len() - rest.len();
        if has_ended {
            (words, not_counted) = (0, fed - slice.len());
        } else {
            words += count_words(&html[not_counted..fed]);
            not_counted = fed;
        }
        let is_too_long = match slices {
            Slices::Large => words > MAX_ATTRIBUTES,
            Slices::AtTags => !has_ended && !is_in_tag && prescan::has_more_attributes(whole, MAX_ATTRIBUTES),
        };
        is_in_tag = !has_ended;
        if is_too_long {
            return Err(ParseError::LongTag);
        }
    }
    tokenizer.end();
    tokenizer.sink.check_given_up().map_err(ParseError::GivenUp)?;
    Ok(tokenizer.sink.builder.sink)
}

fn slice_end(rest: &str, slices: Slices) -> usize {
    let end = floor_char_boundary(rest, SLICE_BYTES);
    match slices {
        Slices::Large => end,
        Slices::AtTags => memchr::memchr(b'<', &rest.as_bytes()[1..end.max(1)]).map_or(end, |at| at + 1),
    }
}

/// The number of words that a tag could have as attributes.
fn count_words(text: &str) -> usize {
    text.split(|c: char| c.is_ascii_whitespace() || c == '/').filter(|word| !word.is_empty()).count()
}

/// Filter between tokenizer and tree builder that drops all tokens once parsing has been given up.
struct LimitedTokenSink {
    builder: TreeBuilder<NodeHandle, ArenaSink>,
    tokens: Cell<u64>,
    attribute_work: Cell<u64>,
    meant_as_xml: bool,
}

impl LimitedTokenSink {
    fn check_given_up(&self) -> Result<(), GiveUpReason> {
        self.builder.sink.arena.borrow().give_up_reason.map_or(Ok(()), Err)
    }

    fn count_token(&self, token: &Token) {
        // One is made of each attribute that a tag has twice, before the tag.
        if matches!(token, Token::ParseError(_)) {
            return;
        }
        self.tokens.set(self.tokens.get() + 1);
        if let Token::TagToken(tag) = token {
            let attributes = tag.attrs.len() as u64;
            self.attribute_work
                .set(self.attribute_work.get() + attributes * attributes / 2 / COMPARISONS_PER_LOOK);
        }
        let sink = &self.builder.sink;
        let mut arena = sink.arena.borrow_mut();
        if self.tokens.get() + self.attribute_work.get() + sink.looks.get() + arena.work > MAX_WORK {
            arena.give_up(GiveUpReason::Work);
        }
    }
}

impl LimitedTokenSink {
    /// The end tag that an empty element of XML implies, if its content would be text in HTML.
    fn end_tag_of_empty(&self, token: &Token) -> Option<Token> {
        let Token::TagToken(tag) = token else { return None };
        let is_empty = self.meant_as_xml
            && tag.self_closing
            && tag.kind == TagKind::StartTag
            && TEXT_ELEMENTS.contains(&tag.name);
        is_empty.then(|| {
            Token::TagToken(Tag {
                kind: TagKind::EndTag,
                self_closing: false,
                attrs: Vec::new(),
                ..tag.clone()
            })
        })
    }
}

impl TokenSink for LimitedTokenSink {
    type Handle = NodeHandle;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<NodeHandle> {
        self.count_token(&token);
        if self.check_given_up().is_err() {
            return TokenSinkResult::Continue;
        }
        match self.end_tag_of_empty(&token) {
            Some(end) => {
                // What it says would make the tokenizer read text.
                let _ = self.builder.process_token(token, line);
                let _ = self.builder.process_token(end, line);
                TokenSinkResult::Continue
            }
            None => self.builder.process_token(token, line),
        }
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// Handle of the tree builder to a node. Names are stored here and not in the arena, as
/// only open elements need them.
#[derive(Clone)]
struct NodeHandle {
    id: NodeId,
    name: Rc<QualName>,
}

/// Adapts the arena to html5ever's `TreeSink`.
struct ArenaSink {
    arena: RefCell<Arena>,
    /// How often the tree builder looked at an element.
    looks: Cell<u64>,
    empty_name: Rc<QualName>,
    /// Of the elements.
    #[cfg(test)]
    names: RefCell<std::collections::HashMap<NodeId, QualName>>,
}

impl ArenaSink {
    fn new(page_bytes: usize) -> Self {
        let empty_name = Rc::new(QualName::new(None, ns!(), local_name!("")));
        Self {
            arena: RefCell::new(Arena::new(page_bytes)),
            looks: Cell::new(0),
            empty_name,
            #[cfg(test)]
            names: RefCell::default(),
        }
    }

    fn insert(&self, parent: NodeId, before: Option<NodeId>, child: NodeOrText<NodeHandle>) {
        let (mut arena, before) = (self.arena.borrow_mut(), before.unwrap_or(NONE));
        match child {
            NodeOrText::AppendText(text) => arena.add_text(parent, before, &text),
            NodeOrText::AppendNode(node) => {
                arena.detach(node.id);
                arena.attach(parent, before, node.id);
            }
        }
    }

    fn count_look(&self) {
        self.looks.set(self.looks.get() + 1);
    }

    fn parent(&self, handle: &NodeHandle) -> Option<NodeId> {
        self.arena.borrow().parent(handle.id)
    }
}

impl TreeSink for ArenaSink {
    type Handle = NodeHandle;
    type Output = ();
    type ElemName<'a> = &'a QualName;

    fn finish(self) {}

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> NodeHandle {
        NodeHandle { id: ROOT, name: Rc::clone(&self.empty_name) }
    }

    fn elem_name<'a>(&'a self, target: &'a NodeHandle) -> &'a QualName {
        self.count_look();
        &target.name
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> NodeHandle {
        let id = self.arena.borrow_mut().add_element(&name.local, &attributes);
        #[cfg(test)]
        self.names.borrow_mut().insert(id, name.clone());
        NodeHandle { id, name: Rc::new(name) }
    }

    fn create_comment(&self, _: StrTendril) -> NodeHandle {
        NodeHandle { id: self.arena.borrow_mut().add_comment(), name: Rc::clone(&self.empty_name) }
    }

    fn create_pi(&self, _: StrTendril, data: StrTendril) -> NodeHandle {
        self.create_comment(data)
    }

    fn append(&self, parent: &NodeHandle, child: NodeOrText<NodeHandle>) {
        self.insert(parent.id, None, child);
    }

    fn append_based_on_parent_node(
        &self,
        element: &NodeHandle,
        previous: &NodeHandle,
        child: NodeOrText<NodeHandle>,
    ) {
        match self.parent(element) {
            Some(parent) => self.insert(parent, Some(element.id), child),
            None => self.insert(previous.id, None, child),
        }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    /// The contents of a template are its children here: their text counts, as in the old service.
    fn get_template_contents(&self, target: &NodeHandle) -> NodeHandle {
        target.clone()
    }

    fn same_node(&self, x: &NodeHandle, y: &NodeHandle) -> bool {
        self.count_look();
        x.id == y.id
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &NodeHandle, child: NodeOrText<NodeHandle>) {
        if let Some(parent) = self.parent(sibling) {
            self.insert(parent, Some(sibling.id), child);
        }
    }

    fn add_attrs_if_missing(&self, _: &NodeHandle, _: Vec<Attribute>) {}

    fn remove_from_parent(&self, target: &NodeHandle) {
        self.arena.borrow_mut().detach(target.id);
    }

    fn reparent_children(&self, node: &NodeHandle, new_parent: &NodeHandle) {
        self.arena.borrow_mut().move_children(node.id, new_parent.id);
    }
}

#[cfg(test)]
mod tests {
    mod html5lib;

    use super::*;

    fn reading(html: &str) -> Result<(), GiveUpReason> {
        read(html, false, &mut Collector::default())
    }

    #[test]
    fn a_page_is_given_up_for_a_reason() {
        let repeated = format!("<p><a href={}>x{}", "u".repeat(10_000), "</p><p>y".repeat(100));
        let formatted: String = (0..600).map(|i| format!("<p><font color={i}>x")).collect();
        let attributes =
            |count: usize| format!("<p {}>", (0..count).map(|i| format!("a{i} ")).collect::<String>());
        let nested = |depth: usize| "<div>".repeat(depth) + "x";
        for (name, html, expected) in [
            ("a page", "<p>x".to_owned(), Ok(())),
            ("as deep as browsers go", nested(505), Ok(())),
            ("deeper", nested(600), Err(GiveUpReason::Depth)),
            ("deep by formatting", formatted, Err(GiveUpReason::Depth)),
            ("many", "<br>".repeat(1_000_100), Err(GiveUpReason::Nodes)),
            ("a link that is repeated", repeated, Err(GiveUpReason::Text)),
            ("many at depth", nested(500) + &"<br>".repeat(200_000), Err(GiveUpReason::Work)),
            ("attributes of one tag", format!("<p {}>", "a b ".repeat(100_000)), Err(GiveUpReason::Work)),
            ("attributes of many tags", attributes(1_000).repeat(500), Err(GiveUpReason::Work)),
            (
                "attributes hidden in a quote",
                format!("<textarea><a x='</textarea>{}", attributes(200_000)),
                Err(GiveUpReason::Work),
            ),
            (
                "attributes of a style in foreign content",
                format!("<svg><style>{}", attributes(200_000)),
                Err(GiveUpReason::Work),
            ),
            ("a long comment", format!("<!-- {} -->", "<a b c d> ".repeat(30_000)), Ok(())),
            ("a long doctype", format!("<!doctype {}>", "a ".repeat(100_000)), Ok(())),
            ("a comment in a quote", format!("<a x='<!--' {}", attributes(200_000)), Err(GiveUpReason::Work)),
            ("a long value", format!("<img src='data:{}'>", "x/ y".repeat(500_000)), Ok(())),
        ] {
            assert_eq!(reading(&html), expected, "{name}");
        }
    }
}
