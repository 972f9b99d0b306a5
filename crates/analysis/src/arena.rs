//! The nodes of a page as compact records in one vector, linked by index, with all their text in one string.
//!
//! It stores only what visible text, links and metadata need: a few attributes, and no scripts.
//!
//! Invariant: links between nodes are always mutual. Exceeding the limit on nodes, depth or text records a
//! reason to give up on the page; the caller that fills the arena has to check it.

use html5ever::{Attribute, LocalName, local_name};

use super::collect::{Collector, NodeKind, image_label, leads_to_other_page, link_label};
use super::metadata::PageMetadata;

/// Maximum nesting depth, the same as in browsers.
const MAX_DEPTH: u32 = 512;
/// Maximum number of nodes, 40 bytes each: twice what the largest real pages of 10 MiB have, and just below a
/// power of two, at which the vector would grow.
const MAX_NODES: usize = 1_000_000;

/// Reason for giving up on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GiveUpReason {
    /// An element is nested deeper than [`MAX_DEPTH`].
    Depth,
    /// The page has more than [`MAX_NODES`] nodes.
    Nodes,
    /// The text exceeds the limit derived from the page size: the parser repeats
    /// elements and their attributes.
    Text,
    /// Building the tree takes more steps than allowed.
    Work,
}

/// Index of a node in its [`Arena`].
pub(super) type NodeId = u32;
/// Marker for an absent node.
pub(super) const NONE: NodeId = NodeId::MAX;
/// Id of the document node.
pub(super) const ROOT: NodeId = 0;

struct Node {
    parent: NodeId,
    first: NodeId,
    last: NodeId,
    previous: NodeId,
    next: NodeId,
    kind: NodeKind,
    /// Offsets into [`Arena::text`]: `start..middle` is the label of an image or link, `middle..end` the
    /// target of a link or the text of a text node.
    start: u32,
    middle: u32,
    end: u32,
}

/// The nodes of one page.
pub(super) struct Arena {
    nodes: Vec<Node>,
    text: String,
    max_text_bytes: usize,
    metadata: PageMetadata,
    /// The first title element.
    title: NodeId,
    /// First reason to give up on the page, if any.
    pub(super) give_up_reason: Option<GiveUpReason>,
    /// Number of steps up the tree so far.
    pub(super) work: u64,
}

impl Arena {
    /// An empty document, with limits for a page of `page_bytes` bytes.
    pub(super) fn new(page_bytes: usize) -> Self {
        // Labels and character references can make the text of a small page longer than the page.
        let max_text_bytes = page_bytes.saturating_mul(2).saturating_add(4096);
        let mut arena = Self {
            nodes: Vec::new(),
            text: String::new(),
            max_text_bytes,
            metadata: PageMetadata::default(),
            title: NONE,
            give_up_reason: None,
            work: 0,
        };
        arena.add(NodeKind::Document, [0; 3]);
        arena
    }

    /// Records a reason to give up, unless there is one already.
    pub(super) fn give_up(&mut self, why: GiveUpReason) {
        self.give_up_reason.get_or_insert(why);
    }

    fn add(&mut self, kind: NodeKind, [start, middle, end]: [u32; 3]) -> NodeId {
        if self.nodes.len() >= MAX_NODES {
            self.give_up(GiveUpReason::Nodes);
        }
        let [parent, first, last, previous, next] = [NONE; 5];
        self.nodes.push(Node { parent, first, last, previous, next, kind, start, middle, end });
        (self.nodes.len() - 1) as NodeId
    }

    /// Appends text and returns its end offset; over the limit, gives up and appends nothing.
    fn push_text(&mut self, text: &str) -> u32 {
        if self.text.len() + text.len() > self.max_text_bytes {
            self.give_up(GiveUpReason::Text);
        } else {
            self.text.push_str(text);
        }
        self.text.len() as u32
    }

    /// Adds a comment, which only separates text nodes.
    pub(super) fn add_comment(&mut self) -> NodeId {
        self.add(NodeKind::Comment, [0; 3])
    }

    /// Adds an element, with the attributes that matter for text, links and metadata.
    pub(super) fn add_element(&mut self, name: &str, attributes: &[Attribute]) -> NodeId {
        let value = |name: LocalName| attributes.iter().find(|a| a.name.local == name).map(|a| &*a.value);
        let start = self.text.len() as u32;
        let (kind, middle, end) = match NodeKind::of_name(name) {
            NodeKind::Link => match value(local_name!("href")) {
                Some(href) if leads_to_other_page(href) => {
                    let middle = self.push_text(&link_label(value(local_name!("title"))));
                    (NodeKind::Link, middle, self.push_text(href))
                }
                Some(_) | None => (NodeKind::Plain, start, start),
            },
            NodeKind::Image => {
                let alt = value(local_name!("alt")).unwrap_or_default();
                self.metadata.add_image_label(alt);
                let end = self.push_text(&image_label(alt));
                (NodeKind::Image, end, end)
            }
            other => (other, start, start),
        };
        if name == "meta"
            && let Some(content) = value(local_name!("content"))
            && let Some(meta) = value(local_name!("name")).or_else(|| value(local_name!("property")))
        {
            self.metadata.add_named(meta, content);
        }
        let id = self.add(kind, [start, middle, end]);
        if name == "title" && self.title == NONE {
            self.title = id;
        }
        id
    }

    /// Adds text as child of `parent`, before `before` or at the end: extends the preceding node if it is the text node created last, otherwise adds a new node.
    pub(super) fn add_text(&mut self, parent: NodeId, before: NodeId, text: &str) {
        if self.nodes[parent as usize].kind == NodeKind::Hidden {
            if parent == self.title {
                self.metadata.add_title(text);
            }
            return;
        }
        let previous = self.previous_sibling(parent, before);
        let start = self.text.len() as u32;
        let end = self.push_text(text);
        if let Some(node) = self.nodes.get_mut(previous as usize)
            && node.kind == NodeKind::Text
            && node.end == start
        {
            node.end = end;
            return;
        }
        let id = self.add(NodeKind::Text, [start, start, end]);
        self.attach(parent, before, id);
    }

    /// The sibling that precedes `before`, or the last child of `parent` if `before` is [`NONE`].
    fn previous_sibling(&self, parent: NodeId, before: NodeId) -> NodeId {
        match before {
            NONE => self.nodes[parent as usize].last,
            _ => self.nodes[before as usize].previous,
        }
    }

    /// Adds a detached node as child of `parent`, before `before` or at the end.
    pub(super) fn attach(&mut self, parent: NodeId, before: NodeId, id: NodeId) {
        let previous = self.previous_sibling(parent, before);
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
        // The adoption agency algorithm moves subtrees, so the depth is computed instead of stored.
        let mut depth = 0;
        let mut ancestor = parent;
        while ancestor != NONE && depth <= MAX_DEPTH {
            depth += 1;
            ancestor = self.nodes[ancestor as usize].parent;
        }
        self.work += u64::from(depth);
        if depth > MAX_DEPTH {
            self.give_up(GiveUpReason::Depth);
        }
    }

    /// Unlinks a node and its subtree from its parent and siblings.
    pub(super) fn detach(&mut self, id: NodeId) {
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

    /// Moves all children of `from` to the end of `to`.
    pub(super) fn move_children(&mut self, from: NodeId, to: NodeId) {
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
    pub(super) fn parent(&self, id: NodeId) -> Option<NodeId> {
        let parent = self.nodes[id as usize].parent;
        (parent != NONE).then_some(parent)
    }

    /// Visits all nodes in document order, without recursion, and passes them to the collector.
    pub(super) fn walk(&mut self, collector: &mut Collector) {
        // The arena is complete; release spare capacity before the collector allocates.
        collector.metadata = std::mem::take(&mut self.metadata);
        self.nodes.shrink_to_fit();
        self.text.shrink_to_fit();
        let mut id = ROOT;
        loop {
            self.visit_node(&self.nodes[id as usize], collector);
            if self.nodes[id as usize].first != NONE {
                id = self.nodes[id as usize].first;
                continue;
            }
            loop {
                let node = &self.nodes[id as usize];
                match node.kind {
                    NodeKind::Link => collector.close_link(),
                    NodeKind::Hidden | NodeKind::Muted => collector.unmute(),
                    NodeKind::Text
                    | NodeKind::Image
                    | NodeKind::Document
                    | NodeKind::Comment
                    | NodeKind::Plain => {}
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

    fn visit_node(&self, node: &Node, collector: &mut Collector) {
        let former = &self.text[node.start as usize..node.middle as usize];
        let latter = &self.text[node.middle as usize..node.end as usize];
        match node.kind {
            NodeKind::Text => {
                let previous = self.nodes.get(node.previous as usize);
                collector.text(latter, previous.is_some_and(|previous| previous.kind == NodeKind::Text));
            }
            NodeKind::Image => collector.link_text(former),
            NodeKind::Link => collector.open_link(latter, former),
            NodeKind::Hidden | NodeKind::Muted => collector.mute(),
            NodeKind::Document | NodeKind::Comment | NodeKind::Plain => {}
        }
    }
}

#[cfg(test)]
impl Arena {
    /// The nodes below the document in document order: how deep each is, its id if it is an element, and its text
    /// if it is text. Text nodes beside each other are one.
    pub(super) fn outline(&self) -> Vec<(usize, Option<NodeId>, String)> {
        let mut outline: Vec<(usize, Option<NodeId>, String)> = Vec::new();
        let mut open = vec![(0, self.nodes[ROOT as usize].first)];
        while let Some((depth, id)) = open.pop() {
            let Some(node) = self.nodes.get(id as usize) else { continue };
            open.push((depth, node.next));
            open.push((depth + 1, node.first));
            let is_text = node.kind == NodeKind::Text;
            let text = if is_text { &self.text[node.middle as usize..node.end as usize] } else { "" };
            let follows_text =
                self.nodes.get(node.previous as usize).is_some_and(|n| n.kind == NodeKind::Text);
            match outline.last_mut() {
                Some((.., before)) if is_text && follows_text => before.push_str(text),
                Some(_) | None => {
                    let is_element = !is_text && node.kind != NodeKind::Comment;
                    outline.push((depth, is_element.then_some(id), text.to_owned()));
                }
            }
        }
        outline
    }
}
