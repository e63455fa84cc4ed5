//! What differs between a definition and what was accepted, field by field, and what that asks for.

pub mod classes;
pub mod docs;
mod text;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use model::diagnostic::Location;
use model::plan::Reason;
use model::spec::{ContainerSpec, NetworkSpec, Origin, VolumeSpec};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

pub use classes::Class;

/// One field that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub class: Class,
    pub reason: Reason,
}

/// What changed from one container definition to another, in order of the fields' names.
pub fn container(from: &ContainerSpec, to: &ContainerSpec, origin: &Origin) -> Vec<Change> {
    let [from, to] = brief(from, to);
    fields("container.*", &*from, &*to, origin)
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
    let [from, to] = brief(from, to);
    let all = changed(&*from, &*to, |field, both| {
        class_of(&format!("container.*.{field}"), both)
    });
    all.into_iter().max()
}

/// More ports than a reason has room for.
const MOST_PORTS: usize = 32;

/// The two without most of their ports, where those are many: what is compared is text, and that of a thousand ports is long.
/// They differ in their ports if they did so before, and so does what is said of them.
fn brief<'s>(from: &'s ContainerSpec, to: &'s ContainerSpec) -> [Cow<'s, ContainerSpec>; 2] {
    let short = |spec: &ContainerSpec| spec.ports.len() <= MOST_PORTS;
    if short(from) && short(to) {
        return [from, to].map(Cow::Borrowed);
    }
    let mut both = [from, to].map(Clone::clone);
    both.iter_mut().for_each(|spec| spec.ports.truncate(MOST_PORTS));
    if both[0].ports == both[1].ports && from.ports != to.ports {
        // One of them goes on, or both do.
        let next = |spec: &ContainerSpec| spec.ports.get(MOST_PORTS).cloned();
        match next(to) {
            Some(port) => both[1].ports.push(port),
            None => both[0].ports.extend(next(from)),
        }
    }
    both.map(Cow::Owned)
}

fn fields<T: Serialize + PartialEq>(table: &str, from: &T, to: &T, origin: &Origin) -> Vec<Change> {
    changed(from, to, |field, both| Change {
        class: class_of(&format!("{table}.{field}"), both),
        reason: reason(field, both.from(), both.to(), &place(origin, field)),
    })
}

/// A field's values before and after, which differ. They are text until they are asked for: most of what is asked is
/// only which field it is, and the ports of one container may be a thousand.
struct Both<'t> {
    texts: [&'t str; 2],
    values: [OnceCell<Value>; 2],
}

impl Both<'_> {
    fn from(&self) -> &Value {
        self.value(0)
    }

    fn to(&self) -> &Value {
        self.value(1)
    }

    fn value(&self, which: usize) -> &Value {
        // It is a part of what was written a moment ago.
        self.values[which].get_or_init(|| serde_json::from_str(self.texts[which]).unwrap_or(Value::Null))
    }
}

/// What is to be said of each field that differs.
fn changed<T: Serialize + PartialEq, R>(from: &T, to: &T, say: impl Fn(&str, &Both<'_>) -> R) -> Vec<R> {
    if from == to {
        return Vec::new();
    }
    let texts = [from, to].map(|all| serde_json::to_string(all).unwrap_or_default());
    let [from, to] = [0, 1].map(|which| keys(&texts[which]));
    let both = to.iter().map(|(field, b)| {
        let a = from.get(field).map_or("null", |a| a.get());
        (field, [a, b.get()])
    });
    let differing = both.filter(|(_, [a, b])| a != b);
    let said = differing.map(|(field, texts)| {
        let values = [OnceCell::new(), OnceCell::new()];
        say(field, &Both { texts, values })
    });
    said.collect()
}

/// The texts of an object's values; of anything else none. Equal values have equal texts, for maps are sorted.
fn keys(text: &str) -> BTreeMap<&str, &RawValue> {
    serde_json::from_str(text).unwrap_or_default()
}

fn class_of(path: &str, both: &Both<'_>) -> Class {
    match classes::has_parts(path) {
        true => class(path, both.from(), both.to()),
        false => classes::of(path).unwrap_or(Class::Replace),
    }
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

#[cfg(test)]
mod tests {
    use model::image::ImageSource;

    use super::*;

    fn with_ports(count: u16, change: impl FnOnce(&mut Vec<model::spec::PortSpec>)) -> ContainerSpec {
        let one = |number| model::spec::PortSpec {
            ip: None,
            host: Some((number, number)),
            container: (80, 80),
            protocol: model::firewall::Protocol::Tcp,
            allow: Vec::new(),
        };
        let mut spec = ContainerSpec::new(ImageSource::Rootfs {
            dir: "/srv/root".into(),
        });
        spec.ports = (1..=count).map(one).collect();
        change(&mut spec.ports);
        spec
    }

    /// The first that are shown, and whether there are more.
    fn shown(spec: &ContainerSpec, other: &ContainerSpec) -> Vec<(String, String)> {
        let changes = container(spec, other, &Origin::default());
        assert_eq!(
            changes.first().map(|c| c.class),
            strongest(spec, other),
            "{changes:?}"
        );
        let texts = changes.into_iter().map(|c| c.reason);
        texts
            .map(|r| {
                assert_eq!(r.field, "ports");
                (r.from.unwrap(), r.to.unwrap())
            })
            .collect()
    }

    #[test]
    fn of_many_ports_one_that_differs_is_seen_wherever_it_is() {
        let start = "1:80, 2:80, 3:80, 4:80, 5:80, 6:80, 7:80, 8:80, 9:80, 10:80…";
        let all = with_ports(1000, |_| ());
        assert_eq!(shown(&all, &all.clone()), []);
        type Edit = fn(&mut Vec<model::spec::PortSpec>);
        let after: [(&str, Edit); 5] = [
            ("the last is gone", |ports| drop(ports.pop())),
            ("one more", |ports| ports.push(ports[0].clone())),
            ("another one in the middle", |ports| {
                ports[500].container = (81, 81)
            }),
            ("the last that is compared", |ports| {
                ports[MOST_PORTS - 1].container = (81, 81)
            }),
            ("all but those", |ports| ports.truncate(MOST_PORTS)),
        ];
        for (what, change) in after {
            let other = with_ports(1000, change);
            let expected = [(start.to_owned(), "another value".to_owned())];
            assert_eq!(shown(&all, &other), expected, "{what}");
            assert_eq!(shown(&other, &all), expected, "{what}, back");
        }
        let none = with_ports(0, |_| ());
        assert_eq!(shown(&none, &all), [("none".to_owned(), start.to_owned())]);
        assert_eq!(shown(&all, &none), [(start.to_owned(), "none".to_owned())]);
    }
}
