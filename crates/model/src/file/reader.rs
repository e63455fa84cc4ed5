//! Reading values out of the tree against the key table, collecting every error on the way.
//!
//! Readers return `None` where the value is wrong; the error is reported already, so callers just go on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::diagnostic::{Diagnostic, Location};
use crate::image::ImageSource;
use crate::name::Name;
use crate::spec::Settings;

use super::keys::{self, Key, Type};
use super::source::Source;
use super::suggest;
use super::tree::{Entry, Map, Node, Span, Value};

/// What is being read, and the errors so far.
pub(super) struct Report<'a> {
    pub sources: &'a [Source],
    pub keys: &'static [Key],
    /// Images that `[image.NAME]` tables name.
    pub images: BTreeMap<Name, ImageSource>,
    /// Where images that name no registry are looked for.
    pub search: Vec<String>,
    /// Where the lines of each source begin.
    lines: Vec<Vec<usize>>,
    found: RefCell<Vec<Diagnostic>>,
    /// The table being read, as `container.web`; empty outside of one.
    inside: RefCell<String>,
}

impl<'a> Report<'a> {
    pub fn new(sources: &'a [Source], keys: &'static [Key]) -> Self {
        Self {
            sources,
            keys,
            images: BTreeMap::new(),
            search: Settings::default().search,
            lines: sources.iter().map(Source::line_starts).collect(),
            found: RefCell::default(),
            inside: RefCell::default(),
        }
    }

    /// Errors from here on are about this table.
    pub fn enter(&self, table: &str) {
        table.clone_into(&mut self.inside.borrow_mut());
    }

    pub fn location(&self, span: &Span) -> Location {
        let source = &self.sources[span.source];
        let (line, column) = source.position_in(&self.lines[span.source], span.range.start);
        Location {
            file: source.file.clone(),
            line: Some(line),
            column: Some(column),
        }
    }

    pub fn push(&self, span: &Span, message: String, hint: Option<String>) {
        let mut diagnostic = Diagnostic::new(self.location(span), message);
        diagnostic.span = Some((span.range.start, span.range.end));
        diagnostic.hint = hint;
        let inside = self.inside.borrow();
        if !inside.is_empty() {
            diagnostic.tables.push(inside.clone());
        }
        self.found.borrow_mut().push(diagnostic);
    }

    /// All errors in the order of the files and of the places in them.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        let order: BTreeMap<&str, usize> = self
            .sources
            .iter()
            .enumerate()
            .map(|(n, s)| (s.file.as_str(), n))
            .collect();
        found.sort_by_key(|d| (order.get(d.at.file.as_str()).copied(), d.span));
        found
    }
}

/// One value with the key it was written under.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub report: &'a Report<'a>,
    /// Path in the key table; all items of a list share it.
    pub path: Rc<str>,
    /// As messages call it, from the named table on: `ports[1].host`.
    pub label: String,
    pub node: &'a Node,
    /// Where it is declared: a header, a key, or the value itself in a list.
    pub place: Span,
    /// What messages call it when it is a table: `[container.web.restart]`; none where that is its label, in quotes.
    pub shown: Option<String>,
    /// An enclosing key or this one is refused already; say it once.
    pub refused: bool,
}

/// A table with fixed keys.
pub(super) struct Table<'a> {
    report: &'a Report<'a>,
    path: Rc<str>,
    label: String,
    /// As messages call the table itself; empty for the file.
    shown: String,
    /// Where to point at when something is missing.
    pub place: Span,
    map: &'a Map,
    refused: bool,
}

impl<'a> Table<'a> {
    /// Opens a table and reports its unknown and refused keys. `label` goes before its keys in messages.
    pub fn open(item: &Item<'a>, label: String) -> Option<Self> {
        let Value::Table(map) = &item.node.value else {
            item.mismatch("a table", None);
            return None;
        };
        let table = Self {
            report: item.report,
            path: Rc::clone(&item.path),
            label,
            shown: item.shown(),
            place: item.place.clone(),
            map,
            refused: item.refused,
        };
        table.check_keys();
        Some(table)
    }

    fn check_keys(&self) {
        for (name, entry) in self.map {
            match keys::find(self.report.keys, &self.path_of(name)) {
                None => self.unknown(name, entry),
                // Of tables by name each one is refused by itself.
                Some(key) if !self.refused && !matches!(key.ty, Type::Named) => {
                    if let Some(refusal) = key.status.refusal() {
                        let message = format!("`{}{name}` {refusal}", self.label);
                        let hint = "take it out for now; wharf does not ignore what it cannot do";
                        self.report.push(&entry.key, message, Some(hint.to_owned()));
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn unknown(&self, name: &str, entry: &Entry) {
        let known: Vec<&str> = keys::below(self.report.keys, &self.path).map(Key::name).collect();
        let inside = if self.shown.is_empty() {
            String::new()
        } else {
            format!(" in {}", self.shown)
        };
        let message = format!("unknown key `{name}`{inside}");
        let hint = suggest::key(self.report.keys, &self.path, name, &known);
        self.report.push(&entry.key, message, Some(hint));
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether the key is written.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value of a key, where it is written. The key has to be in the key table.
    pub fn get(&self, key: &str) -> Option<Item<'a>> {
        let path = self.path_of(key);
        let row = keys::find(self.report.keys, &path);
        debug_assert!(row.is_some(), "{path} is not in the key table");
        let entry = self.map.get(key)?;
        Some(Item {
            report: self.report,
            path: path.into(),
            label: format!("{}{key}", self.label),
            node: &entry.node,
            place: entry.place().clone(),
            shown: Some(self.shown_of(key)),
            refused: self.refused || row.is_some_and(|row| !row.status.works()),
        })
    }

    fn shown_of(&self, key: &str) -> String {
        match self.shown.strip_suffix(']') {
            Some(outer) => format!("{outer}.{key}]"),
            None if self.shown.is_empty() => format!("[{key}]"),
            None => format!("`{}{key}`", self.label),
        }
    }

    /// Reads a key into a slot that has its default.
    pub fn set<T>(&self, key: &str, slot: &mut T, read: impl FnOnce(&Item<'a>) -> Option<T>) {
        if let Some(value) = self.get(key).and_then(|item| read(&item)) {
            *slot = value;
        }
    }

    /// Reads a key into a slot that is empty where the key is not written.
    pub fn fill<T>(&self, key: &str, slot: &mut Option<T>, read: impl FnOnce(&Item<'a>) -> Option<T>) {
        if let Some(item) = self.get(key) {
            *slot = read(&item);
        }
    }

    /// A sub-table, where it is written.
    pub fn table(&self, key: &str) -> Option<Table<'a>> {
        self.get(key)?.table()
    }

    /// An error about the table as a whole, or about one of its keys.
    pub fn fault(&self, key: Option<&str>, message: String, hint: &str) {
        let place = key
            .and_then(|key| self.map.get(key))
            .map_or(&self.place, |entry| &entry.key);
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.report.push(place, message, hint);
    }

    /// A required key is not there.
    pub fn missing(&self, key: &str, hint: &str) {
        let message = format!("{} needs `{key}`", self.shown);
        self.fault(None, message, hint);
    }
}

impl<'a> Item<'a> {
    /// An error at this value: its name and the rest of the sentence.
    pub fn fault(&self, rest: impl AsRef<str>, hint: &str) {
        let message = format!("`{}` {}", self.label, rest.as_ref());
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.report.push(&self.node.span, message, hint);
    }

    /// The value is of another kind than wanted.
    pub fn mismatch(&self, wanted: &str, hint: Option<&str>) {
        let found = self.node.value.kind();
        self.fault(format!("must be {wanted}, not {found}"), hint.unwrap_or(""));
    }

    fn shown(&self) -> String {
        self.shown.clone().unwrap_or_else(|| format!("`{}`", self.label))
    }

    /// This value under a longer label.
    pub fn part(&self, node: &'a Node, label: String) -> Item<'a> {
        Item {
            report: self.report,
            path: Rc::clone(&self.path),
            label,
            node,
            place: node.span.clone(),
            shown: None,
            refused: self.refused,
        }
    }

    /// The items of an array.
    pub fn list(&self) -> Option<impl ExactSizeIterator<Item = Item<'a>>> {
        let Value::Array(items) = &self.node.value else {
            let hint = matches!(self.node.value, Value::String(_)).then_some("put it in brackets: [\"…\"]");
            self.mismatch("an array", hint);
            return None;
        };
        let number = move |(n, node)| self.part(node, format!("{}[{n}]", self.label));
        Some(items.iter().enumerate().map(number))
    }

    /// Every item of an array, read; those that are wrong are left out.
    pub fn each<T>(&self, mut read: impl FnMut(&Item<'a>) -> Option<T>) -> Option<Vec<T>> {
        Some(self.list()?.filter_map(|item| read(&item)).collect())
    }

    /// The entries of a table whose keys are free.
    pub fn entries(&self) -> Option<Vec<(&'a str, &'a Entry, Item<'a>)>> {
        let Value::Table(map) = &self.node.value else {
            self.mismatch("a table", None);
            return None;
        };
        let entry = |(name, entry): (&'a String, &'a Entry)| {
            let item = self.part(&entry.node, format!("{}.{name}", self.label));
            (name.as_str(), entry, item)
        };
        Some(map.iter().map(entry).collect())
    }

    /// A table among tables by name, `kind` being the messages' word for them.
    pub fn member(&self, kind: &str, name: &str, entry: &'a Entry) -> Option<Table<'a>> {
        let status = keys::find(self.report.keys, &self.path).map(|key| key.status);
        let shown = format!("[{kind}.{name}]");
        if let Some(refusal) = status.and_then(keys::Status::refusal) {
            let message = format!("{shown} {refusal}");
            let hint = "take it out for now; wharf does not ignore what it cannot do";
            self.report.push(entry.place(), message, Some(hint.to_owned()));
        }
        let inner = Item {
            path: format!("{}.*", self.path).into(),
            label: format!("{kind}.{name}"),
            node: &entry.node,
            place: entry.place().clone(),
            shown: Some(shown),
            refused: status.is_some_and(|status| !status.works()),
            report: self.report,
        };
        Table::open(&inner, String::new())
    }

    /// This value as a table with fixed keys.
    pub fn table(&self) -> Option<Table<'a>> {
        Table::open(self, format!("{}.", self.label))
    }
}
