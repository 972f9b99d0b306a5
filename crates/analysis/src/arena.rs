//! The nodes of a page as small records in one vector, linked by index, and the text of all of them in one string.
//!
//! It keeps what the visible text and the links need and nothing else: of attributes four, of scripts nothing.
//!
//! Invariant: of two linked nodes each knows the other. More nodes, depth or text than a page may have are remembered
//! as the reason to give it up; whoever fills the arena has to look.

use html5ever::interface::NodeOrText;
use html5ever::{Attribute, LocalName, local_name};

use super::collect::{Collector, Kind, image_label, leads_out, link_label};

/// As deep as browsers go.
const MAX_DEPTH: u32 = 512;
/// The most nodes of one page: 40 bytes each, twice what the largest real pages of 10 MiB have. Just below a power of
/// two, where a vector grows.
const MAX_NODES: usize = 1_000_000;

/// Why a page is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// An element is nested deeper than [`MAX_DEPTH`].
    Depth,
    /// There are more than [`MAX_NODES`] nodes.
    Nodes,
    /// There is more text than the page has: elements, and their attributes, are repeated by the parser.
    Text,
    /// The deadline passed.
    Time,
}

/// Which node.
pub(super) type Id = u32;
/// No node.
const NONE: Id = Id::MAX;
/// The document itself.
pub(super) const ROOT: Id = 0;

struct Node {
    parent: Id,
    first: Id,
    last: Id,
    previous: Id,
    next: Id,
    kind: Kind,
    /// Into [`Arena::text`]. First an image's or a link's label, then a link's target or a text.
    start: u32,
    middle: u32,
    end: u32,
}

/// A page's nodes.
pub(super) struct Arena {
    nodes: Vec<Node>,
    text: String,
    max_text_bytes: usize,
    /// The first reason to give the page up.
    pub(super) given_up: Option<GivenUp>,
    /// Steps since the clock was looked at.
    pub(super) work: u32,
}

impl Arena {
    /// A document without anything in it, for a page of so many bytes.
    pub(super) fn new(page_bytes: usize) -> Self {
        // Labels and character references may make a small page's text longer than the page.
        let max_text_bytes = page_bytes.saturating_mul(2).saturating_add(4096);
        let mut arena =
            Self { nodes: Vec::new(), text: String::new(), max_text_bytes, given_up: None, work: 0 };
        arena.add(Kind::Document, [0; 3]);
        arena
    }

    /// Remembers why, the first time.
    pub(super) fn give_up(&mut self, why: GivenUp) {
        self.given_up.get_or_insert(why);
    }

    fn add(&mut self, kind: Kind, [start, middle, end]: [u32; 3]) -> Id {
        if self.nodes.len() >= MAX_NODES {
            self.give_up(GivenUp::Nodes);
        }
        let [parent, first, last, previous, next] = [NONE; 5];
        self.nodes.push(Node { parent, first, last, previous, next, kind, start, middle, end });
        (self.nodes.len() - 1) as Id
    }

    /// Where some text is from now on.
    fn keep(&mut self, text: &str) -> u32 {
        if self.text.len() + text.len() > self.max_text_bytes {
            self.give_up(GivenUp::Text);
        } else {
            self.text.push_str(text);
        }
        self.text.len() as u32
    }

    /// A comment: nothing but a separator.
    pub(super) fn add_comment(&mut self) -> Id {
        self.add(Kind::Comment, [0; 3])
    }

    /// An element, with what its attributes say for text and links.
    pub(super) fn add_element(&mut self, name: &str, attributes: &[Attribute]) -> Id {
        let value = |name: LocalName| attributes.iter().find(|a| a.name.local == name).map(|a| &*a.value);
        let start = self.text.len() as u32;
        let (kind, middle, end) = match Kind::of_name(name) {
            Kind::Link => match value(local_name!("href")) {
                Some(href) if leads_out(href) => {
                    let middle = self.keep(&link_label(value(local_name!("title"))));
                    (Kind::Link, middle, self.keep(href))
                }
                Some(_) | None => (Kind::Plain, start, start),
            },
            Kind::Image => {
                let end = self.keep(&image_label(value(local_name!("alt")).unwrap_or_default()));
                (Kind::Image, end, end)
            }
            other => (other, start, start),
        };
        self.add(kind, [start, middle, end])
    }

    /// Puts a node or a text below `parent`, before `before` or at the end.
    pub(super) fn put<H>(
        &mut self,
        parent: Id,
        before: Option<Id>,
        child: NodeOrText<H>,
        id: impl Fn(H) -> Id,
    ) {
        let before = before.unwrap_or(NONE);
        match child {
            NodeOrText::AppendText(text) => self.add_text(parent, before, &text),
            NodeOrText::AppendNode(node) => {
                let node = id(node);
                self.detach(node);
                self.attach(parent, before, node);
            }
        }
    }

    /// Appends text to what stands before, where that is text that ended just now, or else as a new node.
    fn add_text(&mut self, parent: Id, before: Id, text: &str) {
        if self.nodes[parent as usize].kind == Kind::Hidden {
            return;
        }
        let previous = self.before(parent, before);
        let start = self.text.len() as u32;
        let end = self.keep(text);
        if let Some(node) = self.nodes.get_mut(previous as usize)
            && node.kind == Kind::Text
            && node.end == start
        {
            node.end = end;
            return;
        }
        let id = self.add(Kind::Text, [start, start, end]);
        self.attach(parent, before, id);
    }

    /// The child of `parent` that stands before `before`, or is its last one.
    fn before(&self, parent: Id, before: Id) -> Id {
        match before {
            NONE => self.nodes[parent as usize].last,
            _ => self.nodes[before as usize].previous,
        }
    }

    fn attach(&mut self, parent: Id, before: Id, id: Id) {
        let previous = self.before(parent, before);
        let node = &mut self.nodes[id as usize];
        (node.parent, node.previous, node.next) = (parent, previous, before);
        match previous {
            NONE => self.nodes[parent as usize].first = id,
            _ => self.nodes[previous as usize].next = id,
        }
        match before {
            NONE => self.nodes[parent as usize].last = id,
            _ => self.nodes[before as usize].previous = id,
        }
        // The adoption agency moves subtrees about, so depths are walked, not stored.
        let mut depth = 0;
        let mut ancestor = parent;
        while ancestor != NONE && depth <= MAX_DEPTH {
            depth += 1;
            ancestor = self.nodes[ancestor as usize].parent;
        }
        self.work = self.work.saturating_add(depth);
        if depth > MAX_DEPTH {
            self.give_up(GivenUp::Depth);
        }
    }

    /// Takes a node, with all that is below it, out of its family.
    pub(super) fn detach(&mut self, id: Id) {
        let Node { parent, previous, next, .. } = self.nodes[id as usize];
        if parent == NONE {
            return;
        }
        match previous {
            NONE => self.nodes[parent as usize].first = next,
            _ => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.nodes[parent as usize].last = previous,
            _ => self.nodes[next as usize].previous = previous,
        }
        let node = &mut self.nodes[id as usize];
        (node.parent, node.previous, node.next) = (NONE, NONE, NONE);
    }

    /// Moves all children of a node to the end of another one.
    pub(super) fn move_children(&mut self, from: Id, to: Id) {
        loop {
            let child = self.nodes[from as usize].first;
            if child == NONE {
                return;
            }
            self.detach(child);
            self.attach(to, NONE, child);
        }
    }

    /// The parent of a node, if it has one.
    pub(super) fn parent(&self, id: Id) -> Option<Id> {
        let parent = self.nodes[id as usize].parent;
        (parent != NONE).then_some(parent)
    }

    /// Tells everything below the document in order, without recursion.
    pub(super) fn walk(&mut self, collector: &mut Collector) {
        // It grows no more, and what is told now needs the room.
        self.nodes.shrink_to_fit();
        self.text.shrink_to_fit();
        let mut id = ROOT;
        loop {
            self.enter(&self.nodes[id as usize], collector);
            if self.nodes[id as usize].first != NONE {
                id = self.nodes[id as usize].first;
                continue;
            }
            loop {
                let node = &self.nodes[id as usize];
                match node.kind {
                    Kind::Link => collector.close_link(),
                    Kind::Hidden | Kind::Muted => collector.unmute(),
                    Kind::Text | Kind::Image | Kind::Document | Kind::Comment | Kind::Plain => {}
                }
                if node.next != NONE {
                    id = node.next;
                    break;
                }
                if node.parent == NONE {
                    return;
                }
                id = node.parent;
            }
        }
    }

    fn enter(&self, node: &Node, collector: &mut Collector) {
        let former = &self.text[node.start as usize..node.middle as usize];
        let latter = &self.text[node.middle as usize..node.end as usize];
        match node.kind {
            Kind::Text => {
                let previous = self.nodes.get(node.previous as usize);
                collector.text(latter, previous.is_some_and(|previous| previous.kind == Kind::Text));
            }
            Kind::Image => collector.image(former),
            Kind::Link => collector.open_link(latter, former),
            Kind::Hidden | Kind::Muted => collector.mute(),
            Kind::Document | Kind::Comment | Kind::Plain => {}
        }
    }
}
