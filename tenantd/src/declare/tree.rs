//! A parsed TOML text that remembers where everything stood, so that what is refused later can be pointed at. A part
//! that is refused can be cut out, and the rest be read on: that is how all faults are found at once.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use stackmap::Invalid;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Faults, Place};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Bytes of the value; of a table written with a header, of the header.
    pub(super) span: Range<usize>,
    /// Bytes of its key, if it has one.
    pub(super) key: Option<Range<usize>>,
    /// Its number in the array as it was written.
    index: usize,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    Leaf(Value),
}

/// A text, to say where a byte of it is.
pub(super) struct Lines<'a> {
    name: &'a str,
    text: &'a str,
    /// First byte of each line.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name, text, starts }
    }

    pub(super) fn place(&self, byte: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= byte);
        let start = self.starts.get(line.wrapping_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(start..byte).map_or(0, |before| before.chars().count()) + 1;
        Place { file: self.name.to_owned(), line, column }
    }
}

/// Parses a text. With faults of the syntax there is no tree: what was meant would be a guess.
pub(super) fn parse(lines: &Lines<'_>, faults: &mut Faults) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(lines.text);
    if !errors.is_empty() {
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let value: String =
                error.span().and_then(|s| lines.text.get(s)).unwrap_or_default().chars().take(60).collect();
            let rule = error.message().replace('\n', ", ");
            faults.push(lines.place(at), &Invalid::new("toml", value, rule));
        }
        return None;
    }
    let span = table.span();
    let what = table_of(table.get_ref(), lines, faults);
    Some(Node { span, key: None, index: 0, what })
}

fn table_of(table: &DeTable<'_>, lines: &Lines<'_>, faults: &mut Faults) -> What {
    let mut nodes = BTreeMap::new();
    for (key, value) in table {
        if let Some(mut node) = node(value, lines, faults) {
            node.key = Some(key.span());
            nodes.insert(key.get_ref().to_string(), node);
        }
    }
    What::Table(nodes)
}

/// A value; none, and a fault, for one that no field of the file can have.
fn node(value: &Spanned<DeValue<'_>>, lines: &Lines<'_>, faults: &mut Faults) -> Option<Node> {
    let span = value.span();
    let mut refuse = |value: String, rule: &'static str| {
        faults.push(lines.place(span.start), &Invalid::new("toml", value, rule));
        None
    };
    let what = match value.get_ref() {
        DeValue::String(text) => What::Leaf(Value::String(text.to_string())),
        DeValue::Boolean(is) => What::Leaf(Value::Bool(*is)),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => What::Leaf(Value::from(number)),
            Err(_) => return refuse(number.to_string(), "must be a number of 64 bits"),
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            Some(number) => What::Leaf(Value::Number(number)),
            None => return refuse(number.as_str().to_owned(), "must be a finite number"),
        },
        DeValue::Datetime(date) => return refuse(date.to_string(), "no field is a date; text needs quotes"),
        DeValue::Array(values) => {
            let mut nodes = Vec::new();
            for (index, value) in values.iter().enumerate() {
                nodes.extend(node(value, lines, faults).map(|node| Node { index, ..node }));
            }
            What::Array(nodes)
        }
        DeValue::Table(table) => table_of(table, lines, faults),
    };
    Some(Node { span, key: None, index: 0, what })
}

impl Node {
    /// The value alone.
    pub(super) fn value(&self) -> Value {
        match &self.what {
            What::Table(nodes) => nodes.iter().map(|(key, node)| (key.clone(), node.value())).collect(),
            What::Array(nodes) => nodes.iter().map(Self::value).collect(),
            What::Leaf(value) => value.clone(),
        }
    }

    /// Cuts out what `path` leads to, and from there the field `below`; as much of the way as there is. Returns the way
    /// as an operator writes it, and the node; none when that is this node itself.
    pub(super) fn cut(&mut self, path: &Path, below: Option<&str>) -> Option<(String, Self)> {
        let mut way: Vec<Step<'_>> = Vec::new();
        for segment in path {
            match segment {
                Segment::Seq { index } => way.push(Step::Index(*index)),
                Segment::Map { key } => way.push(Step::Key(key)),
                Segment::Enum { .. } | Segment::Unknown => break,
            }
        }
        way.extend(below.map(Step::Key));
        while self.find(&way).is_none() {
            way.pop();
        }
        let text = self.find(&way)?.0;
        let last = way.pop()?;
        Some((text, self.find_mut(&way)?.take(&last)?))
    }

    /// The node that a path such as `tunnels[0].key` leads to, or as much of the way as there is.
    pub(super) fn deepest(&self, path: &str) -> &Self {
        let mut node = self;
        for part in path.split('.') {
            let (name, index) = part.split_once('[').map_or((part, None), |(name, rest)| (name, Some(rest)));
            let index = index.and_then(|rest| rest.trim_end_matches(']').parse().ok());
            let Some(next) = node.child(&Step::Key(name)) else { return node };
            node = index.and_then(|index| next.child(&Step::Index(index))).unwrap_or(next);
        }
        node
    }

    fn child(&self, step: &Step<'_>) -> Option<&Self> {
        match (&self.what, step) {
            (What::Table(nodes), Step::Key(key)) => nodes.get(*key),
            (What::Array(nodes), Step::Index(index)) => nodes.get(*index),
            _ => None,
        }
    }

    fn find(&self, way: &[Step<'_>]) -> Option<(String, &Self)> {
        let mut found = (String::new(), self);
        for step in way {
            let next = found.1.child(step)?;
            match step {
                Step::Key(key) => found.0 = below(&found.0, key),
                Step::Index(_) => found.0 += &format!("[{}]", next.index),
            }
            found.1 = next;
        }
        Some(found)
    }

    fn find_mut(&mut self, way: &[Step<'_>]) -> Option<&mut Self> {
        way.iter().try_fold(self, |node, step| match (&mut node.what, step) {
            (What::Table(nodes), Step::Key(key)) => nodes.get_mut(*key),
            (What::Array(nodes), Step::Index(index)) => nodes.get_mut(*index),
            _ => None,
        })
    }

    fn take(&mut self, step: &Step<'_>) -> Option<Self> {
        match (&mut self.what, step) {
            (What::Table(nodes), Step::Key(key)) => nodes.remove(*key),
            (What::Array(nodes), Step::Index(index)) if *index < nodes.len() => Some(nodes.remove(*index)),
            _ => None,
        }
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `path.key`, the key in quotes where TOML wants them.
pub(super) fn below(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if bare { key.to_owned() } else { toml::Value::from(key).to_string() };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
