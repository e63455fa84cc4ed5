//! What differs between a definition and what was accepted, field by field, and what that asks for.

pub mod classes;
pub mod docs;
mod text;

use model::diagnostic::Location;
use model::plan::Reason;
use model::spec::{ContainerSpec, NetworkSpec, Origin, VolumeSpec};
use serde::Serialize;
use serde_json::Value;

pub use classes::Class;

/// One field that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub class: Class,
    pub reason: Reason,
}

/// What changed from one container definition to another, in order of the fields' names.
pub fn container(from: &ContainerSpec, to: &ContainerSpec, origin: &Origin) -> Vec<Change> {
    fields("container.*", from, to, origin)
}

/// The same of a network.
pub fn network(from: &NetworkSpec, to: &NetworkSpec, origin: &Origin) -> Vec<Change> {
    fields("network.*", from, to, origin)
}

/// The same of a volume.
pub fn volume(from: &VolumeSpec, to: &VolumeSpec, origin: &Origin) -> Vec<Change> {
    fields("volume.*", from, to, origin)
}

/// The strongest thing that the changes from one container definition to another ask for; none where there are none.
pub fn strongest(from: &ContainerSpec, to: &ContainerSpec) -> Option<Class> {
    let all = changed(from, to, |field, a, b| {
        class(&format!("container.*.{field}"), a, b)
    });
    all.into_iter().max()
}

fn fields<T: Serialize + PartialEq>(table: &str, from: &T, to: &T, origin: &Origin) -> Vec<Change> {
    changed(from, to, |field, a, b| Change {
        class: class(&format!("{table}.{field}"), a, b),
        reason: reason(field, a, b, &place(origin, field)),
    })
}

/// What is to be said of each field that differs.
fn changed<T: Serialize + PartialEq, R>(from: &T, to: &T, say: impl Fn(&str, &Value, &Value) -> R) -> Vec<R> {
    if from == to {
        return Vec::new();
    }
    let (Value::Object(from), Value::Object(to)) = (object(from), object(to)) else {
        return Vec::new();
    };
    let both = to
        .iter()
        .map(|(field, b)| (field, from.get(field).unwrap_or(&Value::Null), b));
    let differing = both.filter(|(_, a, b)| a != b);
    differing.map(|(field, a, b)| say(field, a, b)).collect()
}

/// What a key's change from one value to another asks for. Where parts of it have classes of their own, those that
/// changed say; a field that is in no table of keys is replaced with its container, which is never wrong.
fn class(path: &str, from: &Value, to: &Value) -> Class {
    let parts: Option<Class> = match (from, to) {
        _ if !classes::has_parts(path) => None,
        (Value::Object(from), Value::Object(to)) => {
            let changed = to.iter().filter(|(key, b)| from.get(*key) != Some(b));
            let of = |(key, b): (&String, &Value)| class(&format!("{path}.{key}"), &from[key], b);
            changed.map(of).max()
        }
        (Value::Array(from), Value::Array(to)) if from.len() == to.len() => {
            let changed = from.iter().zip(to).filter(|(a, b)| a != b);
            changed.map(|(a, b)| class(&format!("{path}.*"), a, b)).max()
        }
        _ => None,
    };
    parts.or_else(|| classes::of(path)).unwrap_or(Class::Replace)
}

fn object<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A key of the table, or the first of a sub-table's keys.
fn place(origin: &Origin, field: &str) -> Location {
    let below = format!("{field}.");
    let mut keys = origin.keys.iter();
    let nested = keys.find(|(k, _)| k.as_str() == field || k.starts_with(&below));
    nested.map_or_else(|| origin.location(), |(_, at)| at.clone())
}

fn reason(field: &str, from: &Value, to: &Value, at: &Location) -> Reason {
    let (from, to) = text::pair(field, from, to);
    Reason {
        field: field.to_owned(),
        to: Some(match to {
            // Of what is not shown (values that may be secrets, the end of a long text), all the same.
            same if same == from => "another value".to_owned(),
            other => other,
        }),
        from: Some(from),
        file: Some(at.file.clone()).filter(|f| !f.is_empty()),
        line: at.line,
    }
}
