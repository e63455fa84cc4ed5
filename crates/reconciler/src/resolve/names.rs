//! A name is declared once per kind, over all files.

use model::desired::Held;
use model::diagnostic::{Diagnostic, Location};
use model::name::Name;

use super::{ByName, Party, Tables, contradiction};

/// Finds names declared twice. What a broken file seems to declare as well is left to that file's own error.
pub(super) fn check(tables: &mut Tables<'_>, held: &Held, errors: &mut Vec<Diagnostic>) {
    tables.known_containers.extend(held.containers.iter().cloned());
    tables.known_networks.extend(held.networks.iter().cloned());
    twice("container", &tables.containers, errors);
    twice("network", &tables.networks, errors);
    twice("volume", &tables.volumes, errors);
    for (name, list) in tables.images.iter().filter(|(_, list)| list.len() > 1) {
        let places: Vec<Location> = list.iter().map(|(_, origin)| origin.location()).collect();
        report("image", name, places, errors);
    }
    for ((kind, name), places) in tables.others.iter().filter(|(_, places)| places.len() > 1) {
        report(kind, name, places.clone(), errors);
    }
    replicas(tables, errors);
}

fn twice<T>(kind: &'static str, tables: &ByName<'_, T>, errors: &mut Vec<Diagnostic>) {
    for (name, list) in tables.iter().filter(|(_, list)| list.len() > 1) {
        report(
            kind,
            name,
            list.iter().map(|t| t.origin.location()).collect(),
            errors,
        );
    }
}

fn report(kind: &'static str, name: &Name, places: Vec<Location>, errors: &mut Vec<Diagnostic>) {
    let times = if places.len() == 2 {
        "twice".to_owned()
    } else {
        format!("{} times", places.len())
    };
    let parties: Vec<Party<'_>> = places.into_iter().map(|at| Party { kind, name, at }).collect();
    let message = format!("{kind} {name} is declared {times}");
    errors.extend(contradiction(
        message,
        "names are unique over all files: rename or remove one of them",
        &parties,
    ));
}

/// `NAME-2` and so on of a replicated container count as taken.
fn replicas(tables: &Tables<'_>, errors: &mut Vec<Diagnostic>) {
    for service in tables.containers() {
        for number in 2..=service.spec.replicas {
            let taken = format!("{}-{number}", service.name);
            let Some((_, list)) = tables.containers.get_key_value(taken.as_str()) else {
                continue;
            };
            let Some(other) = list.first() else { continue };
            let parties = [
                Party {
                    kind: "container",
                    name: &other.name,
                    at: other.origin.location(),
                },
                Party {
                    kind: "container",
                    name: &service.name,
                    at: service.origin.key("replicas"),
                },
            ];
            let message = format!(
                "container {taken} has the name of an instance of {}",
                service.name
            );
            errors.extend(contradiction(message, "rename it, or lower replicas", &parties));
        }
    }
}
