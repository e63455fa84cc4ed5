//! Values as people wrote them, near enough to recognise, and short.

use std::borrow::Cow;

use model::spec::{NetworkUse, VolumeSource, VolumeUse};
use serde_json::{Map, Value};

const LONGEST: usize = 60;

/// The keys of a health check that say what is asked.
const QUESTIONS: [&str; 4] = ["exec", "shell", "http", "tcp"];

/// Keys whose value is a table, of which the lines that differ are enough.
const TABLES: [&str; 11] = [
    "depends_on",
    "extra_hosts",
    "healthcheck",
    "labels",
    "limits",
    "logging",
    "overlay",
    "restart",
    "sysctls",
    "ulimits",
    "update",
];

/// What a key was, and what it is to be. Of a table with keys of its own, those that differ.
pub(super) fn pair(field: &str, from: &Value, to: &Value) -> (String, String) {
    let shown = |value| match field {
        "healthcheck" => Cow::Owned(check(value)),
        "limits" => Cow::Owned(limits(value)),
        _ => Cow::Borrowed(value),
    };
    let (from, to) = (shown(from), shown(to));
    match (&*from, &*to) {
        (Value::Object(a), Value::Object(b)) if TABLES.contains(&field) => {
            let differing = |of: &Map<String, Value>, other: &Map<String, Value>| {
                let kept = of.iter().filter(|(key, value)| other.get(*key) != Some(value));
                Value::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect())
            };
            (of(field, &differing(a, b)), of(field, &differing(b, a)))
        }
        _ => (of(field, &from), of(field, &to)),
    }
}

/// A check as its table has it, the question first.
fn check(value: &Value) -> Value {
    let Some(Value::Object(declared)) = value.get("declared") else {
        let word = match value.as_str() {
            Some("image") => "the image's",
            _ => "false",
        };
        return Value::String(word.to_owned());
    };
    let mut keys = declared.clone();
    if let Some(Value::Object(probe)) = keys.remove("probe") {
        keys.extend(probe);
    }
    Value::Object(keys)
}

fn limits(value: &Value) -> Value {
    let Value::Object(limits) = value else {
        return value.clone();
    };
    let one = |(key, value): (&String, &Value)| match (key.as_str(), value.as_u64()) {
        ("cpus_milli", Some(milli)) => ("cpus".to_owned(), Value::String(thousandths(milli))),
        ("cpus_milli", None) => ("cpus".to_owned(), value.clone()),
        ("memory" | "memory_swap" | "memory_reservation", Some(bytes)) => {
            (key.clone(), Value::String(size(bytes)))
        }
        _ => (key.clone(), value.clone()),
    };
    Value::Object(limits.iter().map(one).collect())
}

fn thousandths(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// In the largest unit that leaves a whole number.
fn size(bytes: u64) -> String {
    let units = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    let whole = units
        .into_iter()
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(
        || bytes.to_string(),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

fn of(field: &str, value: &Value) -> String {
    let text = match (field, value) {
        ("ports" | "networks" | "volumes", Value::Array(list)) if !list.is_empty() => {
            let one = match field {
                "ports" => port,
                "networks" => network,
                _ => volume,
            };
            listed(list, one)
        }
        ("image", _) => image(value),
        ("env", Value::Object(map)) => {
            // Values may be secrets: the names are enough to find the line.
            format!(
                "{{{}}}",
                map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            )
        }
        ("healthcheck", Value::Object(map)) => {
            let (question, rest): (Vec<_>, Vec<_>) =
                map.iter().partition(|(key, _)| QUESTIONS.contains(&key.as_str()));
            let parts: Vec<String> = question.into_iter().chain(rest).map(part).collect();
            parts.join(", ")
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
        Value::Array(list) => listed(list, plain),
        Value::Object(map) if map.values().all(Value::is_null) => "none".to_owned(),
        Value::Object(map) => match (map.get("secs"), map.get("nanos")) {
            (Some(secs), Some(nanos)) => duration(secs, nanos),
            _ => {
                let written = map.iter().filter(|(_, v)| !v.is_null());
                written.map(part).collect::<Vec<_>>().join(", ")
            }
        },
        other => other.to_string(),
    }
}

/// One after the other, as far as they will be shown.
fn listed(list: &[Value], one: impl Fn(&Value) -> String) -> String {
    let mut text = String::new();
    for value in list {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&one(value));
        if text.chars().count() > LONGEST {
            break;
        }
    }
    text
}

fn part((key, value): (&String, &Value)) -> String {
    match value {
        Value::Object(map) if !map.contains_key("secs") && map.values().any(|v| !v.is_null()) => {
            format!("{key} = {{ {} }}", plain(value))
        }
        _ => format!("{key} = {}", plain(value)),
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
