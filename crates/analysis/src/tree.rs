//! Parses a page as browsers do and visits the resulting tree once.
//!
//! html5ever builds into our own [`Arena`]. If a page would make the parser quadratic, parsing is given up
//! with a reason; the caller then reads it without a tree (`linear`).
//!
//! Invariant: memory and time are bounded by the limits of the arena and the deadline, not by
//! the content of the page.
//!
//! # Why
//! html5ever takes seconds for 20,000 nested elements and for 200,000 attributes on one tag, because it
//! searches its stack of open elements and the attributes of a tag linearly; browsers stop at a depth of
//! 512. `scraper` and `rcdom` inherit that and need several times the memory, and `scraper` reads
//! noscript as raw text. Tokens are checked before they reach the tree builder, so that parsing can be
//! given up between two tokens.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use html5ever::buffer_queue::BufferQueue;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{Attribute, QualName, TokenizerResult, local_name, ns};

use super::arena::{Arena, GiveUpReason, NONE, NodeId, ROOT};
use super::collect::Collector;
use wm_job::text::floor_char_boundary;

/// Bytes passed to the tokenizer at a time, so that it holds no second copy of the page.
const SLICE_BYTES: usize = 8 * 1024;
/// Tokens and steps up the tree between two checks of the deadline: a fraction of a millisecond.
const WORK_PER_CLOCK_CHECK: u32 = 10_000;

/// Parses a page and passes its content to the collector, in document order.
///
/// # Errors
/// The reason why the page cannot be parsed in bounded time and memory; the collector
/// is unchanged in that case.
pub(super) fn read(html: &str, deadline: Instant, collector: &mut Collector) -> Result<(), GiveUpReason> {
    let options =
        TreeBuilderOpts { scripting_enabled: false, drop_doctype: true, ..TreeBuilderOpts::default() };
    let sink = LimitedTokenSink { builder: TreeBuilder::new(ArenaSink::new(html.len()), options), deadline };
    let tokenizer = Tokenizer::new(sink, TokenizerOpts { discard_bom: false, ..TokenizerOpts::default() });
    let queue = BufferQueue::default();
    let mut rest = html;
    while !rest.is_empty() {
        let (slice, after) = rest.split_at(floor_char_boundary(rest, SLICE_BYTES));
        rest = after;
        queue.push_back(StrTendril::from_slice(slice));
        while !matches!(tokenizer.feed(&queue), TokenizerResult::Done) {}
        // A tag may be longer than a slice, and then there are no tokens at which to check.
        tokenizer.sink.check_deadline();
        tokenizer.sink.check_given_up()?;
    }
    tokenizer.end();
    tokenizer.sink.check_given_up()?;
    tokenizer.sink.builder.sink.arena.borrow_mut().walk(collector);
    Ok(())
}

/// Filter between tokenizer and tree builder that drops all tokens once parsing has been given up.
struct LimitedTokenSink {
    builder: TreeBuilder<NodeHandle, ArenaSink>,
    deadline: Instant,
}

impl LimitedTokenSink {
    fn check_given_up(&self) -> Result<(), GiveUpReason> {
        self.builder.sink.arena.borrow().give_up_reason.map_or(Ok(()), Err)
    }

    fn check_deadline(&self) {
        if Instant::now() >= self.deadline {
            self.builder.sink.arena.borrow_mut().give_up(GiveUpReason::Time);
        }
    }

    /// Counts a token; true if the deadline should be checked.
    fn count_token(&self) -> bool {
        let work = &mut self.builder.sink.arena.borrow_mut().work;
        *work = work.saturating_add(1);
        let due = *work > WORK_PER_CLOCK_CHECK;
        *work = if due { 0 } else { *work };
        due
    }
}

impl TokenSink for LimitedTokenSink {
    type Handle = NodeHandle;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<NodeHandle> {
        if self.count_token() {
            self.check_deadline();
        }
        match self.check_given_up() {
            Ok(()) => self.builder.process_token(token, line),
            Err(_) => TokenSinkResult::Continue,
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
    empty_name: Rc<QualName>,
}

impl ArenaSink {
    fn new(page_bytes: usize) -> Self {
        let empty_name = Rc::new(QualName::new(None, ns!(), local_name!("")));
        Self { arena: RefCell::new(Arena::new(page_bytes)), empty_name }
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
        &target.name
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> NodeHandle {
        let id = self.arena.borrow_mut().add_element(&name.local, &attributes);
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
    use std::time::Duration;

    use super::*;

    fn read_within(html: &str, time: Duration) -> Result<(), GiveUpReason> {
        read(html, Instant::now() + time, &mut Collector::default())
    }

    #[test]
    fn a_page_is_given_up_for_a_reason() {
        let long = Duration::from_secs(120);
        let repeated = format!("<p><a href={}>x{}", "u".repeat(10_000), "</p><p>y".repeat(100));
        let formatted: String = (0..600).map(|i| format!("<p><font color={i}>x")).collect();
        let nested = |depth: usize| "<div>".repeat(depth) + "x";
        for (name, html, time, expected) in [
            ("a page", "<p>x".to_owned(), long, Ok(())),
            ("as deep as browsers go", nested(505), long, Ok(())),
            ("deeper", nested(600), long, Err(GiveUpReason::Depth)),
            ("deep by formatting", formatted, long, Err(GiveUpReason::Depth)),
            ("many", "<br>".repeat(1_000_100), long, Err(GiveUpReason::Nodes)),
            ("a link that is repeated", repeated, long, Err(GiveUpReason::Text)),
            ("no time at all", "<p>x".to_owned(), Duration::ZERO, Err(GiveUpReason::Time)),
            (
                "no time within a slice",
                "<i>".repeat(2000) + &"</i>".repeat(2000),
                Duration::ZERO,
                Err(GiveUpReason::Time),
            ),
        ] {
            assert_eq!(read_within(&html, time), expected, "{name}");
        }
    }
}
