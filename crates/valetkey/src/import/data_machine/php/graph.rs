//! Reading where references are: the values of a text are a graph before they are a tree.
//!
//! PHP numbers every value it reads (its *slot*; keys and `R:` have none). A slot is a **place**: the root, or one
//! entry of an array or object. `R:n` lets its own place share what stands in that place, `r:n` takes the object that
//! stands there. A later entry of the same key stands in the place of the first, so an earlier slot can mean a later
//! value. When all is read, the graph is unfolded into a tree: what was shared is copied, within a limit, and what stands
//! in itself ends in [`Value::Recursive`].

use std::{borrow::Cow, collections::HashMap};

use super::{
    Custom, Entries, Error, Fault, Key, MAX_DEPTH, Object, Value, key,
    token::{Token, Tokens},
};

/// What stands in a place.
enum Node<'a> {
    Leaf(Value<'a>),
    Array(Vec<(Key<'a>, usize)>),
    Object(&'a [u8], Vec<(Key<'a>, usize)>),
}

impl Node<'_> {
    /// How many bytes stand in it, without what stands in the places of its entries.
    fn bytes(&self) -> usize {
        fn keys(entries: &[(Key<'_>, usize)]) -> usize {
            entries.iter().map(|(key, _)| if let Key::Text(text) = key { text.len() } else { 0 }).sum()
        }
        match self {
            Node::Leaf(Value::Text(text)) => text.len(),
            Node::Leaf(Value::Custom(custom)) => custom.class.len() + custom.payload.len(),
            Node::Leaf(_) => 0,
            Node::Array(entries) => keys(entries),
            Node::Object(class, entries) => class.len() + keys(entries),
        }
    }
}

struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    /// The node in each place.
    places: Vec<usize>,
    /// The place of each slot.
    slots: Vec<usize>,
}

/// An array or object whose end was not read yet.
struct Open<'a> {
    node: usize,
    left: usize,
    /// The place of each key so far.
    index: HashMap<Key<'a>, usize>,
}

/// Reads one value with references in it, as [`super::read_prefix`] does, of at most so many values.
pub(super) fn read(bytes: &[u8], most: usize) -> Result<(Value<'_>, usize), Error> {
    let mut tokens = Tokens::new(bytes);
    let mut left = most;
    let mut graph = Graph { nodes: vec![Node::Leaf(Value::Null)], places: vec![0], slots: Vec::new() };
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut place = 0;
    loop {
        let offset = tokens.at();
        left = left.checked_sub(1).ok_or(Error { offset, fault: Fault::Values })?;
        let token = tokens.next()?;
        if !matches!(token, Token::Reference { shared: true, .. }) {
            graph.slots.push(place);
        }
        match token {
            Token::Reference { shared, slot } => {
                graph.places[place] = graph.named(place, shared, slot).ok_or(Error { offset, fault: Fault::Reference })?;
            }
            Token::Array(0) => {
                tokens.expect(b'}')?;
                graph.put(place, Node::Array(Vec::new()));
            }
            Token::Array(count) => {
                let node = graph.put(place, Node::Array(Vec::new()));
                begin(&mut open, node, count, offset)?;
            }
            Token::Object { class, count } => {
                let node = graph.put(place, Node::Object(class, Vec::new()));
                begin(&mut open, node, count, offset)?;
            }
            leaf => {
                graph.put(place, Node::Leaf(leaf.into_value().unwrap_or_default()));
            }
        }
        loop {
            let Some(top) = open.last_mut() else {
                return graph.unfold(bytes.len(), tokens.at(), most).map(|value| (value, tokens.at()));
            };
            if top.left > 0 {
                top.left -= 1;
                let object = matches!(graph.nodes[top.node], Node::Object(..));
                place = graph.entry(top, key(&mut tokens, object)?);
                break;
            }
            tokens.expect(b'}')?;
            open.pop();
        }
    }
}

fn begin(open: &mut Vec<Open<'_>>, node: usize, left: usize, offset: usize) -> Result<(), Error> {
    if open.len() == MAX_DEPTH {
        return Err(Error { offset, fault: Fault::Depth });
    }
    open.push(Open { node, left, index: HashMap::new() });
    Ok(())
}

impl<'a> Graph<'a> {
    /// Puts a new node into a place.
    fn put(&mut self, place: usize, node: Node<'a>) -> usize {
        self.nodes.push(node);
        self.places[place] = self.nodes.len() - 1;
        self.places[place]
    }

    /// The node that a reference in a place names, if it may.
    fn named(&self, own: usize, shared: bool, slot: u64) -> Option<usize> {
        let slot = usize::try_from(slot.checked_sub(1)?).ok()?;
        let place = *self.slots.get(slot)?;
        let node = self.places[place];
        let object = matches!(self.nodes[node], Node::Object(..) | Node::Leaf(Value::Custom(_)));
        (place != own && (shared || object)).then_some(node)
    }

    /// The place of an entry: that of the first with its key, emptied, or a new one.
    fn entry(&mut self, open: &mut Open<'a>, key: Key<'a>) -> usize {
        if let Some(place) = open.index.get(&key) {
            // Node 0 is null.
            self.places[*place] = 0;
            return *place;
        }
        let place = self.places.len();
        self.places.push(0);
        if let Node::Array(entries) | Node::Object(_, entries) = &mut self.nodes[open.node] {
            entries.push((key.clone(), place));
        }
        open.index.insert(key, place);
        place
    }

    /// The tree of the graph, without recursion. A copy costs the bytes that stand in it, whoever owns them: where it is written
    /// down, all of them are written.
    fn unfold(&self, length: usize, end: usize, most: usize) -> Result<Value<'a>, Error> {
        struct Frame<'a> {
            node: usize,
            entries: Vec<(Key<'a>, Value<'a>)>,
        }
        let mut left = length.saturating_add(4096);
        let mut values = most;
        let mut on_path = vec![false; self.nodes.len()];
        let mut unfolded = vec![false; self.nodes.len()];
        let mut path: Vec<Frame<'a>> = Vec::new();
        let mut node = self.places[0];
        loop {
            let mut done = match &self.nodes[node] {
                _ if on_path[node] => Some(Value::Recursive),
                Node::Leaf(leaf) => Some(copy(leaf)),
                Node::Array(_) | Node::Object(..) => {
                    if path.len() == MAX_DEPTH {
                        return Err(Error { offset: end, fault: Fault::Depth });
                    }
                    on_path[node] = true;
                    path.push(Frame { node, entries: Vec::new() });
                    None
                }
            };
            let is_copy = std::mem::replace(&mut unfolded[node], true) && !matches!(done, Some(Value::Recursive));
            let cost = if is_copy { self.nodes[node].bytes().saturating_add(1) } else { 1 };
            values = values.checked_sub(1).ok_or(Error { offset: end, fault: Fault::Values })?;
            left = left.checked_sub(cost).ok_or(Error { offset: end, fault: Fault::Copies })?;
            loop {
                let Some(top) = path.last_mut() else { return Ok(done.unwrap_or_default()) };
                let (Node::Array(entries) | Node::Object(_, entries)) = &self.nodes[top.node] else {
                    return Err(Error { offset: end, fault: Fault::Reference });
                };
                if let Some(value) = done.take() {
                    top.entries.push((entries[top.entries.len()].0.clone(), value));
                }
                if let Some((_, place)) = entries.get(top.entries.len()) {
                    node = self.places[*place];
                    break;
                }
                on_path[top.node] = false;
                let entries = Entries(std::mem::take(&mut top.entries));
                done = Some(match &self.nodes[top.node] {
                    Node::Object(class, _) => Value::Object(Box::new(Object { class: Cow::Borrowed(class), members: entries })),
                    _ => Value::Array(entries),
                });
                path.pop();
            }
        }
    }
}

/// A copy of a value that holds no other.
fn copy<'a>(leaf: &Value<'a>) -> Value<'a> {
    match leaf {
        Value::Bool(value) => Value::Bool(*value),
        Value::Int(value) => Value::Int(*value),
        Value::Float(value) => Value::Float(*value),
        Value::Text(value) => Value::Text(value.clone()),
        Value::Custom(custom) => Value::Custom(Box::new(Custom { class: custom.class.clone(), payload: custom.payload.clone() })),
        _ => Value::Null,
    }
}
