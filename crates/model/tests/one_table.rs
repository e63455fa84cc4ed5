//! The key table, the schema and the docs say the same.
//!
//! `WHARF_WRITE_DOCS=1 cargo nextest run -p model` writes the generated parts of the docs anew.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use model::file::keys::{self, DESIRED, Key, SETTINGS, Type};
use model::file::{Outcome, Source, parse, schema, settings_schema};
use serde_json::Value;

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name)
}

/// The page with what stands between each pair of marks generated anew.
fn generated(page: &str, keys: &'static [Key]) -> String {
    let tables = keys::key_tables(keys);
    let mut used = BTreeSet::new();
    let mut text = String::new();
    let mut inside = false;
    for line in page.lines() {
        if line == "<!-- end -->" {
            inside = false;
        }
        if !inside {
            text += line;
            text.push('\n');
        }
        if let Some(path) = line
            .strip_prefix("<!-- keys:")
            .and_then(|l| l.strip_suffix("-->"))
        {
            let path = path.trim();
            let (_, table) = tables
                .iter()
                .find(|(p, _)| *p == path)
                .unwrap_or_else(|| panic!("no key works in {path}"));
            text += table;
            used.insert(path.to_owned());
            inside = true;
        }
        if line == "<!-- refused -->" {
            text += &keys::refused_list(keys);
            inside = true;
        }
    }
    let left_out: Vec<_> = tables
        .iter()
        .filter(|(path, _)| !used.contains(*path))
        .map(|(path, _)| path)
        .collect();
    assert!(
        left_out.is_empty(),
        "the page has no place for the keys of {left_out:?}"
    );
    text
}

#[test]
fn the_docs_have_the_keys_of_the_table() {
    for (name, keys) in [("file-format.md", DESIRED), ("settings.md", SETTINGS)] {
        let written = fs::read_to_string(page(name)).unwrap();
        let wanted = generated(&written, keys);
        if std::env::var_os("WHARF_WRITE_DOCS").is_some() {
            fs::write(page(name), &wanted).unwrap();
        } else {
            assert_eq!(
                written, wanted,
                "docs/{name} differs: run this test with WHARF_WRITE_DOCS=1"
            );
        }
    }
}

/// The paths of all properties in a schema, as the key table writes them.
fn properties(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(map) = schema["properties"].as_object() {
        for (key, inner) in map {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            found.insert(path.clone());
            properties(inner, &path, found);
        }
    }
    let rest = &schema["additionalProperties"];
    if rest.is_object() {
        let named = rest["properties"].is_object() && schema["propertyNames"].is_object();
        let inner = if named {
            format!("{path}.*")
        } else {
            path.to_owned()
        };
        if named {
            found.insert(inner.clone());
        }
        properties(rest, &inner, found);
    }
    properties_of_items(schema, path, found);
}

fn properties_of_items(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if schema["items"].is_object() {
        properties(&schema["items"], path, found);
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten() {
        properties(inner, path, found);
    }
}

#[test]
fn the_schema_has_the_keys_that_work_and_no_other() {
    for (schema, keys) in [(schema(), DESIRED), (settings_schema(), SETTINGS)] {
        let mut found = BTreeSet::new();
        properties(&schema, "", &mut found);
        let works: BTreeSet<String> = keys
            .iter()
            .filter(|k| k.status.works())
            .map(|k| k.path.to_owned())
            .collect();
        assert_eq!(found, works);
    }
}

#[test]
fn the_schema_is_as_it_was() {
    insta::assert_json_snapshot!("schema", schema());
    insta::assert_json_snapshot!("settings_schema", settings_schema());
}

#[test]
fn every_row_says_something_and_stands_once() {
    for keys in [DESIRED, SETTINGS] {
        let mut seen = BTreeSet::new();
        for key in keys {
            assert!(seen.insert(key.path), "{} is there twice", key.path);
            assert!(!key.doc.is_empty() && !key.doc.ends_with('.'), "{}", key.path);
            let parent = key.parent();
            assert!(
                parent.is_empty() || seen.contains(parent),
                "{} stands before its table",
                key.path
            );
            let outer = keys::find(keys, parent).is_none_or(|outer| outer.status.works());
            assert!(
                outer || !key.status.works(),
                "{} works in a table that does not",
                key.path
            );
        }
    }
}

/// A small part of JSON Schema 2020-12: the keywords that ours use.
fn valid(schema: &Value, value: &Value) -> bool {
    let Some(schema) = schema.as_object() else {
        return schema.as_bool().unwrap_or(false);
    };
    schema.iter().all(|(keyword, rule)| match keyword.as_str() {
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64(),
            "number" => value.is_number(),
            other => panic!("type {other}"),
        },
        "enum" => rule.as_array().unwrap().contains(value),
        "const" => rule == value,
        "pattern" => value
            .as_str()
            .is_none_or(|text| regex::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)),
        "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
        "maxItems" => value
            .as_array()
            .is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()),
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| valid(rule, item))),
        "required" => value.as_object().is_none_or(|o| {
            rule.as_array()
                .unwrap()
                .iter()
                .all(|k| o.contains_key(k.as_str().unwrap()))
        }),
        "anyOf" => rule.as_array().unwrap().iter().any(|inner| valid(inner, value)),
        "oneOf" => {
            rule.as_array()
                .unwrap()
                .iter()
                .filter(|inner| valid(inner, value))
                .count()
                == 1
        }
        "propertyNames" => value
            .as_object()
            .is_none_or(|o| o.keys().all(|k| valid(rule, &Value::String(k.clone())))),
        "properties" => value.as_object().is_none_or(|o| {
            o.iter()
                .all(|(k, v)| rule.get(k).is_none_or(|inner| valid(inner, v)))
        }),
        "additionalProperties" => {
            let known = schema.get("properties").and_then(Value::as_object);
            let other = |k: &String| known.is_none_or(|known| !known.contains_key(k));
            value
                .as_object()
                .is_none_or(|o| o.iter().filter(|(k, _)| other(k)).all(|(_, v)| valid(rule, v)))
        }
        "$schema" | "title" | "description" => true,
        other => panic!("the schema uses {other}, which this test does not know"),
    })
}

fn json(text: &str) -> Option<Value> {
    serde_json::to_value(text.parse::<toml::Table>().ok()?).ok()
}

fn files(dir: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir);
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            fs::read_to_string(&path).unwrap(),
        )
    };
    fs::read_dir(dir).unwrap().map(read).collect()
}

#[test]
fn the_schema_takes_every_good_file() {
    let (desired, settings) = (schema(), settings_schema());
    for (name, text) in files("good") {
        let schema = if name.starts_with("settings") {
            &settings
        } else {
            &desired
        };
        assert!(valid(schema, &json(&text).unwrap()), "{name}");
    }
}

/// A schema cannot say everything a reader checks; what it must not take is what is not supported yet.
#[test]
fn the_schema_takes_nothing_that_is_not_supported_yet() {
    for key in DESIRED
        .iter()
        .filter(|key| !key.status.works() && key.path.starts_with("container.*."))
    {
        if key.path.matches('.').count() != 2 || matches!(key.ty, Type::Table) {
            continue;
        }
        let text = format!("[container.a]\nrootfs = '/srv'\n{} = true\n", key.name());
        assert!(!valid(&schema(), &json(&text).unwrap()), "{text}");
    }
    for value in [
        "rootfs = '/s'\nlogging = { driver = 'journald' }",
        "rootfs = '/s'\nuserns = 'auto'",
    ] {
        let text = format!("[container.a]\n{value}\n");
        assert!(
            !valid(&schema(), &json(&text).unwrap()),
            "the schema takes {value}"
        );
        let Outcome::Broken { diagnostics, .. } = parse(&Source::new("x.toml", text), &[]) else {
            panic!("{value}")
        };
        assert!(
            diagnostics
                .iter()
                .all(|d| d.message.contains("not supported yet")),
            "{diagnostics:?}"
        );
    }
}
