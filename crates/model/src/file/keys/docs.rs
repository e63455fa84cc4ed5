//! The key tables of the docs, written from the one table. A test compares them with the pages.

use super::{Key, Status, Type, below};

/// A Markdown table of the keys that work below each path, by path, in the table's order.
pub fn key_tables(keys: &'static [Key]) -> Vec<(&'static str, String)> {
    let mut paths: Vec<&'static str> = Vec::new();
    for key in keys.iter().filter(|key| key.status.works() && key.name() != "*") {
        if !paths.contains(&key.parent()) {
            paths.push(key.parent());
        }
    }
    paths.into_iter().map(|path| (path, rows(keys, path))).collect()
}

fn rows(keys: &'static [Key], path: &'static str) -> String {
    let mut text = "| key | takes | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for key in below(keys, path).filter(|key| key.status.works() && key.name() != "*") {
        let default = match key.default {
            "" => String::new(),
            sample if sample.starts_with(['"', '[', '{']) || matches!(sample, "true" | "false") => {
                format!("`{sample}`")
            }
            other => other.to_owned(),
        };
        let row = format!(
            "| `{}` | {} | {default} | {} |\n",
            key.name(),
            describe(&key.ty),
            cell(key.doc)
        );
        text += &row;
    }
    text
}

/// A `|` would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn describe(ty: &'static Type) -> String {
    match ty {
        Type::Table => "table".to_owned(),
        Type::Named => "tables by name".to_owned(),
        Type::Boolean => "boolean".to_owned(),
        Type::Integer(i64::MIN, i64::MAX) => "integer".to_owned(),
        Type::Integer(min, i64::MAX) => format!("integer from {min}"),
        Type::Integer(min, max) => format!("integer {min} to {max}"),
        Type::Number => "number".to_owned(),
        Type::Text => "string".to_owned(),
        Type::Pattern(_, name) => (*name).to_owned(),
        Type::Words(words) => {
            let works = words.iter().filter(|(_, status)| status.works());
            works
                .map(|(word, _)| format!("`\"{word}\"`"))
                .collect::<Vec<_>>()
                .join(", ")
        }
        Type::Off => "`false`".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Size => "size".to_owned(),
        Type::Path => "absolute path".to_owned(),
        Type::List(inner) => format!("list: {}", describe(inner)),
        Type::Map(inner) => format!("table: {}", describe(inner)),
        Type::OneOf(types) => types.iter().map(describe).collect::<Vec<_>>().join("; or "),
        Type::Image => "image".to_owned(),
        Type::Port => "port".to_owned(),
        Type::Volume => "volume".to_owned(),
    }
}

/// A Markdown list of what is known but refused: keys and words. A refused table stands for its keys.
pub fn refused_list(keys: &'static [Key]) -> String {
    let mut lines = Vec::new();
    for key in keys.iter().filter(|key| !within_refused(keys, key)) {
        lines.extend(line(&format!("`{}`", key.path.replace('*', "NAME")), key.status));
        lines.extend(refused_words(key));
    }
    lines.join("")
}

/// Whether a table around the key is refused already.
fn within_refused(keys: &'static [Key], key: &Key) -> bool {
    let around = |outer: &Key| {
        key.path
            .strip_prefix(outer.path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    keys.iter().any(|outer| around(outer) && !outer.status.works())
}

fn refused_words(key: &Key) -> Vec<String> {
    let Type::Words(words) = key.ty else {
        return Vec::new();
    };
    let shown = |word: &str| {
        let name = if word.ends_with(':') { "NAME" } else { "" };
        format!("`{} = \"{word}{name}\"`", key.path.replace('*', "NAME"))
    };
    words
        .iter()
        .filter(|_| key.status.works())
        .filter_map(|(word, status)| line(&shown(word), *status))
        .collect()
}

fn line(what: &str, status: Status) -> Option<String> {
    match status {
        Status::Works => None,
        Status::Later(area) => Some(format!("- {what} ({area})\n")),
    }
}
