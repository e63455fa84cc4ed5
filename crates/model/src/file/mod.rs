//! The file format: TOML text in, typed tables or every error with its place out.
//!
//! [`parse`] reads one file of the config dir with its drop-ins, [`parse_settings`] the agent's settings. What a
//! key is called and takes, and whether it works yet, is said once, in [`keys`].

mod container;
mod image_ref;
pub mod keys;
mod known;
mod network;
mod reader;
mod render;
mod schema;
mod settings;
mod shell;
mod source;
pub(crate) mod suggest;
mod tables;
mod tree;
mod values;
mod volume;

use std::collections::BTreeMap;

pub use image_ref::ImageError;
pub use known::{signal_name, signal_number};
pub use render::render;
pub use schema::{schema, settings_schema};
pub use source::Source;

use crate::diagnostic::{Diagnostic, Location};
use crate::image::ImageSource;
use crate::name::Name;
use crate::spec::{Origin, Parsed, ParsedFile, Settings};

use reader::{Item, Report, Table};
use tree::{Entry, Map, Node, Value};

/// The kinds of tables a file may have.
const KINDS: [&str; 6] = ["container", "network", "volume", "image", "config", "secret"];

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Parsed(ParsedFile),
    /// At least one error: nothing of the file counts.
    Broken {
        /// In the order of the places.
        diagnostics: Vec<Diagnostic>,
        /// Kind and name of the tables that can still be recognised, so that they can be held.
        declares: Vec<(String, Name)>,
    },
}

/// A file with its drop-ins as one tree.
struct Document {
    sources: Vec<Source>,
    root: Node,
    syntax: Vec<Diagnostic>,
}

/// Reads one file with its drop-ins (in name order, each merged over what came before).
///
/// `image = "NAME"` finds `[image.NAME]` of the same file only; see [`parse_all`].
pub fn parse(main: &Source, drop_ins: &[Source]) -> Outcome {
    let document = Document::read(main, drop_ins);
    let search = Settings::default().search;
    let images = document.images(&search);
    document.outcome(images, &search)
}

/// Reads all files of a config dir: as [`parse`], but `image = "NAME"` finds `[image.NAME]` in every file, and images that
/// name no registry are those of the settings' `registries.search`.
pub fn parse_all(files: &[(Source, Vec<Source>)], search: &[String]) -> Vec<Outcome> {
    let documents: Vec<Document> = files
        .iter()
        .map(|(main, drop_ins)| Document::read(main, drop_ins))
        .collect();
    let mut images = BTreeMap::new();
    for document in &documents {
        images.extend(document.images(search));
    }
    documents
        .into_iter()
        .map(|document| document.outcome(images.clone(), search))
        .collect()
}

/// Reads what `image = "…"` may say, as a command line has it: a local layout or archive, else a registry's reference by
/// docker.io's rules, and `search` as [`parse_all`] has it.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn image(text: &str, search: &[String]) -> Result<ImageSource, ImageError> {
    image_ref::parse(text, search)
}

/// Reads the agent's settings.
///
/// # Errors
/// Every error in the file, in the order of the places.
pub fn parse_settings(source: &Source) -> Result<Settings, Vec<Diagnostic>> {
    let sources = std::slice::from_ref(source);
    let (root, syntax) = tree::read(sources);
    if !syntax.is_empty() {
        return Err(syntax);
    }
    let report = Report::new(sources, keys::SETTINGS);
    let settings = root_table(&report, &root).map(|table| settings::read(&table));
    match (report.into_diagnostics(), settings) {
        (errors, Some(settings)) if errors.is_empty() => Ok(settings),
        (errors, _) => Err(errors),
    }
}

/// Opens the file itself as a table.
fn root_table<'a>(report: &'a Report<'a>, root: &'a Node) -> Option<Table<'a>> {
    let item = Item {
        report,
        path: "".into(),
        label: String::new(),
        node: root,
        place: root.span.clone(),
        shown: Some(String::new()),
        refused: false,
    };
    Table::open(&item, String::new())
}

impl Document {
    fn read(main: &Source, drop_ins: &[Source]) -> Self {
        let sources: Vec<Source> = std::iter::once(main).chain(drop_ins).cloned().collect();
        let (root, syntax) = tree::read(&sources);
        Self {
            sources,
            root,
            syntax,
        }
    }

    /// The tables of a kind.
    fn tables(&self, kind: &str) -> impl Iterator<Item = (&String, &Entry)> {
        table_of(&self.root)
            .and_then(|root| root.get(kind))
            .and_then(|entry| table_of(&entry.node))
            .into_iter()
            .flatten()
    }

    /// What the `[image.NAME]` tables pull, as far as they can be read.
    fn images(&self, search: &[String]) -> BTreeMap<Name, ImageSource> {
        let read = |(name, entry): (&String, &Entry)| {
            let Value::String(text) = &table_of(&entry.node)?.get("pull")?.node.value else {
                return None;
            };
            Some((name.parse().ok()?, image_ref::parse(text, search).ok()?))
        };
        self.tables("image").filter_map(read).collect()
    }

    fn declares(&self) -> Vec<(String, Name)> {
        let named = |kind: &'static str| {
            self.tables(kind)
                .filter_map(move |(name, _)| Some((kind.to_owned(), name.parse().ok()?)))
        };
        KINDS.into_iter().flat_map(named).collect()
    }

    fn outcome(mut self, images: BTreeMap<Name, ImageSource>, search: &[String]) -> Outcome {
        let mut diagnostics = std::mem::take(&mut self.syntax);
        let mut parsed = None;
        // Behind a syntax error everything else would be guesswork.
        if diagnostics.is_empty() {
            let mut report = Report::new(&self.sources, keys::DESIRED);
            report.images = images;
            report.search = search.to_vec();
            parsed = root_table(&report, &self.root).map(|root| self.file(&report, &root));
            diagnostics = report.into_diagnostics();
        }
        match parsed.filter(|_| diagnostics.is_empty()) {
            Some(parsed) => Outcome::Parsed(parsed),
            None => Outcome::Broken {
                diagnostics,
                declares: self.declares(),
            },
        }
    }

    fn file(&self, report: &Report<'_>, root: &Table<'_>) -> ParsedFile {
        let networks = each(report, root, "network", |table| Some(network::read(table)));
        let file = ParsedFile {
            file: self.sources.first().map(|s| s.file.clone()).unwrap_or_default(),
            containers: each(report, root, "container", |table| Some(container::read(table))),
            networks,
            volumes: each(report, root, "volume", |table| Some(volume::volume(table))),
            images: each(report, root, "image", |table| Some(tables::image(table))),
            configs: each(report, root, "config", tables::config),
            secrets: each(report, root, "secret", tables::secret),
        };
        report.enter("");
        file
    }
}

fn table_of(node: &Node) -> Option<&Map> {
    match &node.value {
        Value::Table(map) => Some(map),
        _ => None,
    }
}

/// Reads every table of a kind.
fn each<T>(
    report: &Report<'_>,
    root: &Table<'_>,
    kind: &str,
    read: impl Fn(&Table<'_>) -> Option<T>,
) -> Vec<Parsed<T>> {
    let mut found = Vec::new();
    for (name, entry, item) in root.get(kind).and_then(|item| item.entries()).unwrap_or_default() {
        report.enter(&format!("{kind}.{name}"));
        let valid = name.parse::<Name>();
        if let Err(error) = &valid {
            let message = format!("{name:?} is no name for a {kind}: {error}");
            let hint = (kind == "container" && name.contains(|c: char| c.is_ascii_uppercase()))
                .then(|| format!("write [{kind}.{}]", name.to_ascii_lowercase()));
            report.push(&entry.key, message, hint);
        }
        let Some(table) = item.member(kind, name, entry) else {
            continue;
        };
        if let (Some(spec), Ok(name)) = (read(&table), valid) {
            let origin = origin(report, entry);
            found.push(Parsed { name, spec, origin });
        }
    }
    found
}

/// Where the table and its keys are.
fn origin(report: &Report<'_>, entry: &Entry) -> Origin {
    let at = report.location(entry.place());
    let mut keys = BTreeMap::new();
    if let Value::Table(map) = &entry.node.value {
        places(report, "", map, &mut keys);
    }
    Origin {
        file: at.file,
        line: at.line.unwrap_or(1),
        column: at.column.unwrap_or(1),
        keys,
    }
}

fn places(report: &Report<'_>, prefix: &str, map: &Map, keys: &mut BTreeMap<String, Location>) {
    for (name, entry) in map {
        let path = format!("{prefix}{name}");
        if let Value::Table(inner) = &entry.node.value {
            places(report, &format!("{path}."), inner, keys);
        }
        keys.insert(path, report.location(entry.place()));
    }
}
