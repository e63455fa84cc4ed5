//! A file's values with the place of each, and drop-ins merged over it.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::Diagnostic;

use super::source::Source;

/// A byte range in one of the sources that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// 0 for the file itself, from 1 on for its drop-ins.
    pub source: usize,
    pub range: Range<usize>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub span: Span,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    /// None: does not fit in 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Map),
}

/// A table's entries by key.
pub(super) type Map = BTreeMap<String, Entry>;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key stands.
    pub key: Span,
    pub node: Node,
}

impl Entry {
    /// Where it is declared: a table's header, else the key.
    pub fn place(&self) -> &Span {
        let header = self.node.span.source == self.key.source
            && self.node.span.range.start < self.key.range.start
            && matches!(self.node.value, Value::Table(_));
        if header { &self.node.span } else { &self.key }
    }
}

impl Value {
    /// What it is, with its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// Reads the file and its drop-ins into one table. Syntax errors come beside what could be understood.
pub(super) fn read(sources: &[Source]) -> (Node, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut merged: Option<Node> = None;
    for (number, source) in sources.iter().enumerate() {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        let mut found: Vec<Diagnostic> = errors.iter().map(|error| syntax(source, error)).collect();
        found.sort_by_key(|d| d.span);
        diagnostics.extend(found);
        let span = Span {
            source: number,
            range: table.span(),
        };
        let node = Node {
            span,
            value: Value::Table(map(table.get_ref(), number)),
        };
        match &mut merged {
            None => merged = Some(node),
            Some(base) => merge(base, node),
        }
    }
    diagnostics.dedup_by(|a, b| a.at == b.at);
    let empty = || Node {
        span: Span {
            source: 0,
            range: 0..0,
        },
        value: Value::Table(Map::new()),
    };
    (merged.unwrap_or_else(empty), diagnostics)
}

/// The parser's words for a bare word, and for nothing at all, where a value belongs.
const UNQUOTED: &str = "string values must be quoted";

/// One of the TOML parser's errors as a diagnostic of ours.
fn syntax(source: &Source, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let found = source.text.get(span.clone()).unwrap_or("").trim();
    let message = match error.message() {
        "duplicate key" => format!("`{found}` is set twice here"),
        other if other.starts_with(UNQUOTED) && found.is_empty() => "a value is missing here".to_owned(),
        other if other.starts_with(UNQUOTED) => format!("this is not TOML: {UNQUOTED}"),
        other => format!("this is not TOML: {other}"),
    };
    let diagnostic = source.diagnostic(span, message);
    match syntax_hint(error.message()) {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

/// What to do about the parser's commonest complaints.
fn syntax_hint(message: &str) -> Option<&'static str> {
    let table = [
        ("duplicate key", "keep one of the two"),
        (UNQUOTED, "texts stand in double quotes: key = \"value\""),
        (
            "unclosed table",
            "a table's header is [kind.name] on a line of its own",
        ),
        (
            "invalid basic string",
            "a string ends with a double quote on the same line",
        ),
        ("unclosed array", "an array ends with ]"),
        ("key with no value", "write key = value"),
        ("recurs", "nothing here needs that many levels"),
    ];
    table
        .iter()
        .find(|(part, _)| message.contains(part))
        .map(|(_, hint)| *hint)
}

fn map(table: &DeTable<'_>, source: usize) -> Map {
    let span = |range| Span { source, range };
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        let entry = Entry {
            key: span(key.span()),
            node: node(value, source),
        };
        (name.to_string(), entry)
    };
    table.iter().map(entry).collect()
}

/// Depth is bounded: the parser gives up at 80 levels.
fn node(value: &toml::Spanned<DeValue<'_>>, source: usize) -> Node {
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(n) => Value::Integer(i64::from_str_radix(n.as_str(), n.radix()).ok()),
        DeValue::Float(n) => Value::Float(n.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => Value::Array(items.iter().map(|item| node(item, source)).collect()),
        DeValue::Table(table) => Value::Table(map(table, source)),
    };
    Node {
        span: Span {
            source,
            range: value.span(),
        },
        value: converted,
    }
}

/// Tables merge, everything else replaces.
fn merge(base: &mut Node, over: Node) {
    match (&mut base.value, over) {
        (
            Value::Table(below),
            Node {
                value: Value::Table(above),
                ..
            },
        ) => {
            for (name, entry) in above {
                match below.get_mut(&name) {
                    Some(old) if both_tables(&old.node, &entry.node) => merge(&mut old.node, entry.node),
                    _ => {
                        below.insert(name, entry);
                    }
                }
            }
        }
        (_, over) => *base = over,
    }
}

fn both_tables(a: &Node, b: &Node) -> bool {
    matches!((&a.value, &b.value), (Value::Table(_), Value::Table(_)))
}
