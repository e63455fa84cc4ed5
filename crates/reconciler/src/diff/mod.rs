//! What differs between a definition and what was accepted, field by field, and what that asks for.

pub mod classes;
pub mod docs;

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

/// The strongest thing the changes ask for.
pub fn strongest(changes: &[Change]) -> Option<Class> {
    changes.iter().map(|c| c.class).max()
}

fn fields<T: Serialize + PartialEq>(table: &str, from: &T, to: &T, origin: &Origin) -> Vec<Change> {
    if from == to {
        return Vec::new();
    }
    let (Value::Object(from), Value::Object(to)) = (object(from), object(to)) else {
        return Vec::new();
    };
    let changed = to.iter().filter_map(|(field, b)| {
        let a = from.get(field).unwrap_or(&Value::Null);
        (a != b).then(|| Change {
            class: class(&format!("{table}.{field}"), a, b),
            reason: reason(field, a, b, &place(origin, field)),
        })
    });
    changed.collect()
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
    Reason {
        field: field.to_owned(),
        from: Some(text::of(field, from)),
        to: Some(match text::of(field, to) {
            // Of what is not shown (values that may be secrets, the end of a long text), all the same.
            same if same == text::of(field, from) => "another value".to_owned(),
            other => other,
        }),
        file: Some(at.file.clone()).filter(|f| !f.is_empty()),
        line: at.line,
    }
}

mod text {
    //! Values as people wrote them, near enough to recognise, and short.

    use model::spec::{NetworkUse, VolumeSource, VolumeUse};
    use serde_json::Value;

    const LONGEST: usize = 60;

    pub(super) fn of(field: &str, value: &Value) -> String {
        let text = match (field, value) {
            ("ports" | "networks" | "volumes", Value::Array(list)) if !list.is_empty() => {
                let one = match field {
                    "ports" => port,
                    "networks" => network,
                    _ => volume,
                };
                list.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            ("image", _) => image(value),
            ("env", Value::Object(map)) => {
                // Values may be secrets: the names are enough to find the line.
                format!(
                    "{{{}}}",
                    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                )
            }
            _ => plain(value),
        };
        short(&text)
    }

    fn plain(value: &Value) -> String {
        match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(list) if list.is_empty() => "none".to_owned(),
            Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
            Value::Object(map) if map.values().all(Value::is_null) => "none".to_owned(),
            Value::Object(map) => match (map.get("secs"), map.get("nanos")) {
                (Some(secs), Some(nanos)) => duration(secs, nanos),
                _ => {
                    let part = |(k, v): (&String, &Value)| format!("{k} = {}", plain(v));
                    map.iter()
                        .filter(|(_, v)| !v.is_null())
                        .map(part)
                        .collect::<Vec<_>>()
                        .join(", ")
                }
            },
            other => other.to_string(),
        }
    }

    fn duration(secs: &Value, nanos: &Value) -> String {
        let nanos = nanos.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        model::units::format_duration(std::time::Duration::new(secs.as_u64().unwrap_or(0), nanos))
    }

    fn image(value: &Value) -> String {
        let source: Result<model::image::ImageSource, _> = serde_json::from_value(value.clone());
        source.map_or_else(|_| plain(value), |s| s.key())
    }

    fn network(value: &Value) -> String {
        let Ok(usage) = serde_json::from_value::<NetworkUse>(value.clone()) else {
            return plain(value);
        };
        let mut more = Vec::new();
        more.extend(usage.ip.map(|ip| format!("ip {ip}")));
        more.extend(usage.mac.map(|mac| format!("mac {mac}")));
        more.extend((usage.priority != 0).then(|| format!("priority {}", usage.priority)));
        let aliases: Vec<&str> = usage.aliases.iter().map(|a| a.as_str()).collect();
        more.extend((!aliases.is_empty()).then(|| format!("aliases {}", aliases.join(" "))));
        match more.is_empty() {
            true => usage.network.to_string(),
            false => format!("{} ({})", usage.network, more.join(", ")),
        }
    }

    fn volume(value: &Value) -> String {
        let Ok(usage) = serde_json::from_value::<VolumeUse>(value.clone()) else {
            return plain(value);
        };
        let target = &usage.target;
        let text = match &usage.source {
            VolumeSource::Named(name) => format!("{name}:{target}"),
            VolumeSource::Anonymous => target.clone(),
            VolumeSource::Bind { source, .. } => format!("{}:{target}", source.display()),
            VolumeSource::Tmpfs { .. } => format!("tmpfs:{target}"),
        };
        if usage.read_only { text + ":ro" } else { text }
    }

    fn port(value: &Value) -> String {
        let Ok(port) = serde_json::from_value::<model::spec::PortSpec>(value.clone()) else {
            return plain(value);
        };
        let range = |(a, b): (u16, u16)| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let mut text = String::new();
        if let Some(ip) = port.ip {
            text = format!("{ip}:");
        }
        match port.host {
            Some(host) => text.push_str(&format!("{}:", range(host))),
            None if port.ip.is_some() => text.push(':'),
            None => {}
        }
        text.push_str(&range(port.container));
        if port.protocol != model::firewall::Protocol::Tcp {
            text.push_str(&format!("/{}", port.protocol));
        }
        let allow: Vec<String> = port.allow.iter().map(ToString::to_string).collect();
        if !allow.is_empty() {
            text.push_str(&format!(" (allow {})", allow.join(", ")));
        }
        text
    }

    fn short(text: &str) -> String {
        if text.chars().count() <= LONGEST {
            return text.to_owned();
        }
        let start: String = text.chars().take(LONGEST - 1).collect();
        format!("{start}…")
    }
}
