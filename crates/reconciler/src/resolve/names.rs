//! A name is declared once per kind, over all files.

use model::desired::Held;
use model::diagnostic::{Diagnostic, Location};
use model::name::Name;

use super::{ByName, Party, Tables, contradiction, replicas};

/// Finds names declared twice. What a broken file seems to declare as well is left to that file's own error.
pub(super) fn check(tables: &mut Tables<'_>, held: &Held, errors: &mut Vec<Diagnostic>) {
    tables.known_containers.extend(held.containers.iter().cloned());
    tables.known_networks.extend(held.networks.iter().cloned());
    tables.known_configs.extend(held.configs.iter().cloned());
    tables.known_secrets.extend(held.secrets.iter().cloned());
    twice("container", &tables.containers, errors);
    twice("network", &tables.networks, errors);
    twice("volume", &tables.volumes, errors);
    for (name, list) in tables.images.iter().filter(|(_, list)| list.len() > 1) {
        let places: Vec<Location> = list.iter().map(|(_, origin)| origin.location()).collect();
        report("image", name, places, errors);
    }
    twice("config", &tables.configs, errors);
    twice("secret", &tables.secrets, errors);
    replicas::check(tables, errors);
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
