//! `exclusive = true`: a volume that is never in two instances at once has one container.

use std::collections::{BTreeMap, BTreeSet};

use model::name::Name;
use model::spec::VolumeSource;

use super::{Findings, Party, Tables};

/// One error per exclusive volume that several containers mount, naming all of them.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    let mut users: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    for container in tables.containers() {
        for usage in &container.spec.volumes {
            if let VolumeSource::Named(volume) = &usage.source {
                users.entry(volume).or_default().insert(&container.name);
            }
        }
    }
    for (name, containers) in users.iter().filter(|(_, containers)| containers.len() > 1) {
        let volume = tables.volumes.get(*name).and_then(|list| list.first());
        let Some(volume) = volume.filter(|v| v.spec.exclusive) else {
            continue;
        };
        let mut parties = vec![Party::of("volume", volume, "exclusive")];
        let users = tables.containers().filter(|c| containers.contains(&c.name));
        parties.extend(users.map(|c| Party::of("container", c, "volumes")));
        let names: Vec<&str> = containers.iter().map(|n| n.as_str()).collect();
        let message = format!(
            "volume {name} is exclusive, and containers {} mount it",
            names.join(", ")
        );
        found.contradiction(
            message,
            "give each a volume of its own, or share this one",
            &parties,
        );
    }
}
