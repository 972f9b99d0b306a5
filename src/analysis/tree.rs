//! Parses a page as browsers do and walks its tree once.
//!
//! html5ever builds into an arena of small nodes that keeps what the visible text and the links need and nothing else:
//! no attributes but four, no text of scripts. Where a page would make the parser quadratic it gives up and says why;
//! the caller then reads the page without a tree (`linear`).
//!
//! Invariant: memory and time are bounded by [`MAX_NODES`], [`MAX_DEPTH`] and the deadline, not by the page.
//!
//! # Why
//! html5ever takes seconds for 20,000 nested elements and for 200,000 attributes on one tag, because it searches its
//! stack of open elements, and a tag's attributes, one by one; browsers stop at a depth of 512. `scraper` and `rcdom`
//! inherit that, need several times the memory, and read noscript as raw text. The tokens are looked at before the
//! tree builder gets them, so that a page is given up between two tokens, not between two slices.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use html5ever::buffer_queue::BufferQueue;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{Attribute, LocalName, QualName, TokenizerResult, local_name, ns};

use super::collect::{Collector, Kind, image_label, leads_out, link_label};

/// As deep as browsers go.
const MAX_DEPTH: usize = 512;
/// The most nodes of one page: 40 bytes each, twice what the largest real pages of 10 MiB have. Just below a power of
/// two, where a vector grows.
const MAX_NODES: usize = 1_000_000;
/// How much the tokenizer is given at a time, so that it holds no second copy of the page.
const SLICE_BYTES: usize = 8 * 1024;
/// The clock is looked at after so many tokens and steps up the tree: a fraction of a millisecond.
const WORK_PER_LOOK: u32 = 10_000;

/// Why a page was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// An element is nested deeper than [`MAX_DEPTH`].
    Depth,
    /// There are more than [`MAX_NODES`] nodes.
    Nodes,
    /// The deadline passed.
    Time,
}

/// Parses a page and tells the collector what is in it, in document order.
///
/// # Errors
/// Says why where the page is one that cannot be parsed in bounded time; the collector is untouched then.
pub(super) fn read(html: &str, deadline: Instant, collector: &mut Collector) -> Result<(), GivenUp> {
    let builder = TreeBuilder::new(
        Arena::new(),
        TreeBuilderOpts { scripting_enabled: false, drop_doctype: true, ..TreeBuilderOpts::default() },
    );
    let guard = Guard { builder, deadline };
    let tokenizer = Tokenizer::new(guard, TokenizerOpts { discard_bom: false, ..TokenizerOpts::default() });
    let queue = BufferQueue::default();
    let mut rest = html;
    while !rest.is_empty() {
        let mut cut = rest.len().min(SLICE_BYTES);
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (slice, after) = rest.split_at(cut);
        queue.push_back(StrTendril::from_slice(slice));
        while !matches!(tokenizer.feed(&queue), TokenizerResult::Done) {}
        let arena = &tokenizer.sink.builder.sink;
        if Instant::now() >= deadline {
            arena.give_up(GivenUp::Time);
        }
        if let Some(why) = arena.given_up.get() {
            return Err(why);
        }
        rest = after;
    }
    tokenizer.end();
    let arena = &tokenizer.sink.builder.sink;
    match arena.given_up.get() {
        Some(why) => Err(why),
        None => {
            arena.walk(collector);
            Ok(())
        }
    }
}

/// Stands between tokenizer and tree builder, and lets nothing through once the page is given up.
struct Guard {
    builder: TreeBuilder<Handle, Arena>,
    deadline: Instant,
}

impl TokenSink for Guard {
    type Handle = Handle;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<Handle> {
        let arena = &self.builder.sink;
        arena.work.set(arena.work.get() + 1);
        if arena.work.get() > WORK_PER_LOOK {
            arena.work.set(0);
            if Instant::now() >= self.deadline {
                arena.give_up(GivenUp::Time);
            }
        }
        if arena.given_up.get().is_some() {
            return TokenSinkResult::Continue;
        }
        self.builder.process_token(token, line)
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// A node as the tree builder knows it. Names live here and not in the arena: only open elements are asked for them.
#[derive(Clone)]
struct Handle {
    id: u32,
    name: Rc<QualName>,
}

/// No node: what `parent`, `first` and so on are where there is none.
const NONE: u32 = u32::MAX;
/// The document itself.
const ROOT: u32 = 0;

/// A node of the arena, linked to its family by index.
struct Node {
    parent: u32,
    first: u32,
    last: u32,
    previous: u32,
    next: u32,
    kind: Kind,
    /// Into [`Arena::text`]. First an image's or a link's label, then a link's target or a text.
    start: u32,
    middle: u32,
    end: u32,
}

struct Arena {
    nodes: RefCell<Vec<Node>>,
    text: RefCell<String>,
    given_up: Cell<Option<GivenUp>>,
    /// Tokens and steps since the clock was looked at.
    work: Cell<u32>,
    nameless: Rc<QualName>,
}

impl Arena {
    fn new() -> Self {
        let arena = Self {
            nodes: RefCell::default(),
            text: RefCell::default(),
            given_up: Cell::default(),
            work: Cell::default(),
            nameless: Rc::new(QualName::new(None, ns!(), local_name!(""))),
        };
        arena.add(Kind::Document, [0; 3]);
        arena
    }

    /// Remembers the first reason only.
    fn give_up(&self, why: GivenUp) {
        self.given_up.set(self.given_up.get().or(Some(why)));
    }

    fn add(&self, kind: Kind, [start, middle, end]: [u32; 3]) -> u32 {
        let mut nodes = self.nodes.borrow_mut();
        if nodes.len() >= MAX_NODES {
            self.give_up(GivenUp::Nodes);
        }
        let [parent, first, last, previous, next] = [NONE; 5];
        nodes.push(Node { parent, first, last, previous, next, kind, start, middle, end });
        (nodes.len() - 1) as u32
    }

    /// An element, with what its attributes say for text and links.
    fn add_element(&self, kind: Kind, attributes: &[Attribute]) -> u32 {
        let value = |name: &LocalName| attributes.iter().find(|a| a.name.local == *name).map(|a| &*a.value);
        let (kind, former, latter) = match kind {
            Kind::Link => match value(&local_name!("href")) {
                Some(href) if leads_out(href) => (kind, link_label(value(&local_name!("title"))), href),
                Some(_) | None => (Kind::Plain, String::new(), ""),
            },
            Kind::Image => (kind, image_label(value(&local_name!("alt")).unwrap_or_default()), ""),
            Kind::Document | Kind::Text | Kind::Comment | Kind::Hidden | Kind::Muted | Kind::Plain => {
                (kind, String::new(), "")
            }
        };
        let mut text = self.text.borrow_mut();
        let start = text.len();
        text.push_str(&former);
        let middle = text.len();
        text.push_str(latter);
        self.add(kind, [start, middle, text.len()].map(|at| at as u32))
    }

    /// Appends text to what stands before, where that is text that ended just now, or else as a new node.
    fn add_text(&self, parent: u32, before: u32, text: &str) {
        let (previous, kind) = {
            let nodes = self.nodes.borrow();
            let parent = &nodes[parent as usize];
            let previous = if before == NONE { parent.last } else { nodes[before as usize].previous };
            (previous, parent.kind)
        };
        if kind == Kind::Hidden {
            return;
        }
        let mut buffer = self.text.borrow_mut();
        let start = buffer.len() as u32;
        buffer.push_str(text);
        let end = buffer.len() as u32;
        if previous != NONE {
            let node = &mut self.nodes.borrow_mut()[previous as usize];
            if node.kind == Kind::Text && node.end == start {
                node.end = end;
                return;
            }
        }
        let id = self.add(Kind::Text, [start, start, end]);
        self.attach(parent, before, id);
    }

    /// Puts a node below `parent`, before `before` or at the end.
    fn attach(&self, parent: u32, before: u32, id: u32) {
        let mut nodes = self.nodes.borrow_mut();
        let previous =
            if before == NONE { nodes[parent as usize].last } else { nodes[before as usize].previous };
        let node = &mut nodes[id as usize];
        (node.parent, node.previous, node.next) = (parent, previous, before);
        match previous {
            NONE => nodes[parent as usize].first = id,
            _ => nodes[previous as usize].next = id,
        }
        match before {
            NONE => nodes[parent as usize].last = id,
            _ => nodes[before as usize].previous = id,
        }
        // The adoption agency moves subtrees about, so depths are walked, not stored.
        let mut depth = 0;
        let mut ancestor = parent;
        while ancestor != NONE && depth <= MAX_DEPTH {
            depth += 1;
            ancestor = nodes[ancestor as usize].parent;
        }
        self.work.set(self.work.get() + depth as u32);
        if depth > MAX_DEPTH {
            self.give_up(GivenUp::Depth);
        }
    }

    fn detach(&self, id: u32) {
        let mut nodes = self.nodes.borrow_mut();
        let Node { parent, previous, next, .. } = nodes[id as usize];
        if parent == NONE {
            return;
        }
        match previous {
            NONE => nodes[parent as usize].first = next,
            _ => nodes[previous as usize].next = next,
        }
        match next {
            NONE => nodes[parent as usize].last = previous,
            _ => nodes[next as usize].previous = previous,
        }
        let node = &mut nodes[id as usize];
        (node.parent, node.previous, node.next) = (NONE, NONE, NONE);
    }

    fn put(&self, parent: u32, before: u32, child: NodeOrText<Handle>) {
        match child {
            NodeOrText::AppendText(text) => self.add_text(parent, before, &text),
            NodeOrText::AppendNode(node) => {
                self.detach(node.id);
                self.attach(parent, before, node.id);
            }
        }
    }

    fn parent_of(&self, id: u32) -> u32 {
        self.nodes.borrow()[id as usize].parent
    }

    /// Tells everything below the document in order, without recursion.
    fn walk(&self, collector: &mut Collector) {
        let (nodes, text) = (self.nodes.borrow(), self.text.borrow());
        let mut id = ROOT;
        loop {
            let node = &nodes[id as usize];
            let former = &text[node.start as usize..node.middle as usize];
            let latter = &text[node.middle as usize..node.end as usize];
            match node.kind {
                Kind::Text => {
                    let continues = node.previous != NONE && nodes[node.previous as usize].kind == Kind::Text;
                    collector.text(latter, continues);
                }
                Kind::Image if collector.in_link() => collector.image(former),
                Kind::Link => collector.open_link(latter, former),
                Kind::Hidden | Kind::Muted => collector.mute(),
                Kind::Image | Kind::Document | Kind::Comment | Kind::Plain => {}
            }
            if node.first != NONE {
                id = node.first;
                continue;
            }
            loop {
                let node = &nodes[id as usize];
                match node.kind {
                    Kind::Link => collector.close_link(),
                    Kind::Hidden | Kind::Muted => collector.unmute(),
                    Kind::Text | Kind::Image | Kind::Document | Kind::Comment | Kind::Plain => {}
                }
                id = if node.next == NONE { node.parent } else { node.next };
                if node.next != NONE {
                    break;
                }
                if id == NONE {
                    return;
                }
            }
        }
    }
}

impl TreeSink for Arena {
    type Handle = Handle;
    type Output = ();
    type ElemName<'a> = &'a QualName;

    fn finish(self) {}

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> Handle {
        Handle { id: ROOT, name: Rc::clone(&self.nameless) }
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> &'a QualName {
        &target.name
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> Handle {
        Handle { id: self.add_element(Kind::of_name(&name.local), &attributes), name: Rc::new(name) }
    }

    fn create_comment(&self, _: StrTendril) -> Handle {
        Handle { id: self.add(Kind::Comment, [0; 3]), name: Rc::clone(&self.nameless) }
    }

    fn create_pi(&self, _: StrTendril, data: StrTendril) -> Handle {
        self.create_comment(data)
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        self.put(parent.id, NONE, child);
    }

    fn append_based_on_parent_node(&self, element: &Handle, previous: &Handle, child: NodeOrText<Handle>) {
        match self.parent_of(element.id) {
            NONE => self.put(previous.id, NONE, child),
            parent => self.put(parent, element.id, child),
        }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    fn get_template_contents(&self, target: &Handle) -> Handle {
        // A template's contents are its children here: their text counts as it does for the old service.
        target.clone()
    }

    fn same_node(&self, x: &Handle, y: &Handle) -> bool {
        x.id == y.id
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &Handle, child: NodeOrText<Handle>) {
        match self.parent_of(sibling.id) {
            NONE => {}
            parent => self.put(parent, sibling.id, child),
        }
    }

    fn add_attrs_if_missing(&self, _: &Handle, _: Vec<Attribute>) {}

    fn remove_from_parent(&self, target: &Handle) {
        self.detach(target.id);
    }

    fn reparent_children(&self, node: &Handle, new_parent: &Handle) {
        loop {
            let child = self.nodes.borrow()[node.id as usize].first;
            if child == NONE {
                return;
            }
            self.detach(child);
            self.attach(new_parent.id, NONE, child);
        }
    }
}
