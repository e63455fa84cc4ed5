//! A table with replicas is as many containers: `NAME`, `NAME-2`, …, all of the same definition.

use std::collections::BTreeMap;

use model::desired::Declared;
use model::diagnostic::Diagnostic;
use model::name::Name;
use model::replica::Place;
use model::spec::{ContainerSpec, Parsed};

use super::{Party, Tables, contradiction};

/// The containers by their own names, and which of them are instances of what.
pub(super) fn expand(
    tables: BTreeMap<Name, Declared<ContainerSpec>>,
) -> (BTreeMap<Name, Declared<ContainerSpec>>, BTreeMap<Name, Place>) {
    let mut containers = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (service, table) in tables {
        for place in places(&service, &table.spec) {
            // Names that would be too long were refused.
            if let Some(name) = place.name() {
                containers.insert(name.clone(), table.clone());
                all.insert(name, place);
            }
        }
        containers.entry(service).or_insert(table);
    }
    (containers, all)
}

/// The places of a replicated service; none of one that stands alone.
fn places<'a>(service: &'a Name, spec: &ContainerSpec) -> impl Iterator<Item = Place> + use<'a> {
    let count = if spec.replicas > 1 { spec.replicas } else { 0 };
    (1..=count).map(move |number| Place {
        service: service.clone(),
        number,
    })
}

/// `NAME-1`, `NAME-2` and so on of a replicated container count as taken, and have to be names.
pub(super) fn check(tables: &Tables<'_>, errors: &mut Vec<Diagnostic>) {
    for service in tables.containers() {
        let mut places = places(&service.name, &service.spec);
        if places.any(|place| place.name().is_none()) {
            let message = format!(
                "container {0} has too long a name for {1} replicas: the last one would be {0}-{1}",
                service.name, service.spec.replicas
            );
            let parties = [Party::of("container", service, "replicas")];
            errors.extend(contradiction(
                message,
                "names have at most 63 characters: shorten it",
                &parties,
            ));
            continue;
        }
        for place in self::places(&service.name, &service.spec) {
            errors.extend(taken(tables, service, &place.numbered()));
        }
    }
}

/// Another table has the name of an instance.
fn taken(tables: &Tables<'_>, service: &Parsed<ContainerSpec>, name: &str) -> Option<Diagnostic> {
    let other = tables.containers.get(name)?.first()?;
    let parties = [
        Party {
            kind: "container",
            name: &other.name,
            at: other.origin.location(),
        },
        Party::of("container", service, "replicas"),
    ];
    let message = format!("container {name} has the name of an instance of {}", service.name);
    contradiction(message, "rename it, or lower replicas", &parties)
}
