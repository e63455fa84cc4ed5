//! The JSON Schema of the files, for editors: draft 2020-12, and only what works.

use serde_json::{Map, Value, json};

use super::keys::{self, Key, Type};

/// Keys without which a table means nothing.
const REQUIRED: &[(&str, &str)] = &[("container.*.ports", "container"), ("image.*", "pull")];

/// Of the files in the config dir.
pub fn schema() -> Value {
    whole("wharf: desired state", keys::DESIRED)
}

/// Of `wharf.toml`.
pub fn settings_schema() -> Value {
    whole("wharf: settings", keys::SETTINGS)
}

fn whole(title: &str, keys: &'static [Key]) -> Value {
    let mut schema = table(keys, "");
    schema.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".to_owned(), json!(title));
    Value::Object(schema)
}

/// A table with the keys one level below `path`.
fn table(keys: &'static [Key], path: &str) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in keys::below(keys, path).filter(|key| key.status.works() && key.name() != "*") {
        let mut schema = of(keys, key.path, &key.ty);
        schema.insert("description".to_owned(), json!(description(key)));
        properties.insert(key.name().to_owned(), Value::Object(schema));
    }
    let mut schema = object(json!({ "type": "object", "additionalProperties": false }));
    schema.insert("properties".to_owned(), Value::Object(properties));
    let required: Vec<&str> = REQUIRED
        .iter()
        .filter(|(of, _)| *of == path)
        .map(|(_, key)| *key)
        .collect();
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    if path == "container.*" {
        let one = json!([{ "required": ["image"] }, { "required": ["rootfs"] }]);
        schema.insert("oneOf".to_owned(), one);
    }
    schema
}

fn description(key: &Key) -> String {
    let start = key
        .doc
        .chars()
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    let rest: String = key.doc.chars().skip(1).collect();
    let default = match key.default {
        "" => String::new(),
        default => format!(" Default: {default}."),
    };
    format!("{start}{rest}.{default}")
}

fn of(keys: &'static [Key], path: &str, ty: &'static Type) -> Map<String, Value> {
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    object(match ty {
        Type::Table => return table(keys, path),
        Type::Named => {
            let inner = table(keys, &format!("{path}.*"));
            let names = match path {
                "registry" => json!({ "pattern": r"^[A-Za-z0-9.\[\]:-]+$" }),
                _ => json!({ "pattern": "^[a-z0-9][a-z0-9_.-]{0,62}$" }),
            };
            json!({ "type": "object", "propertyNames": names, "additionalProperties": inner })
        }
        Type::Boolean => json!({ "type": "boolean" }),
        Type::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Type::Number => json!({ "type": "number", "minimum": 0.01, "maximum": 1024 }),
        Type::Text => json!({ "type": "string" }),
        Type::Pattern(regex, _) => pattern(regex),
        Type::Words(words) => words_of(words),
        Type::Off => json!({ "const": false }),
        Type::Duration => pattern("^([0-9]+(ms|s|m|h|d))+$"),
        Type::Size => {
            json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, pattern("^[0-9]+[BKMGTkmgt]?$")] })
        }
        Type::Path => pattern("^/"),
        Type::List(inner) => json!({ "type": "array", "items": of(keys, path, inner) }),
        Type::Map(inner) => json!({ "type": "object", "additionalProperties": of(keys, path, inner) }),
        Type::OneOf(types) => {
            let schemas = types.iter().map(|ty| Value::Object(of(keys, path, ty)));
            json!({ "anyOf": schemas.collect::<Vec<_>>() })
        }
        Type::Image => pattern(r"^\S+$"),
        Type::Port => pattern(&port()),
        Type::Volume => pattern("^[^:]+(:[^:]+){0,2}$"),
    })
}

fn words_of(words: &[keys::Word]) -> Value {
    let works: Vec<&str> = words
        .iter()
        .filter(|(_, status)| status.works())
        .map(|(word, _)| *word)
        .collect();
    let plain: Vec<&str> = works
        .iter()
        .copied()
        .filter(|word| !word.ends_with(':'))
        .collect();
    let named: Vec<Value> = works
        .iter()
        .filter(|word| word.ends_with(':'))
        .map(|word| json!({ "type": "string", "pattern": format!("^{word}.+$") }))
        .collect();
    if named.is_empty() {
        return json!({ "enum": plain });
    }
    let mut all = vec![json!({ "enum": plain })];
    all.extend(named);
    json!({ "anyOf": all })
}

fn port() -> String {
    let v4 = r"[0-9]{1,3}(\.[0-9]{1,3}){3}";
    let ip = format!(r"({v4}|\[[0-9a-fA-F:.]+\])");
    let range = "[0-9]{1,5}(-[0-9]{1,5})?";
    format!("^((({ip}):)?({range}):|({ip})::)?{range}(/(tcp|udp))?$")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
