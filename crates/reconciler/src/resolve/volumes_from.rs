//! `volumes_from`: what another container's table mounts is mounted here too.
//!
//! It is written out before anything else is looked at: each of the other's volumes becomes one of this table's own, and
//! from there on is checked, compared and made like any other. So a change over there is a change here, and the other one
//! has neither to run nor to be the same container as before. What would be its alone (anonymous volumes) is made a named
//! volume for that, one that is not kept.

use std::collections::{BTreeMap, BTreeSet};

use model::desired::{Declared, Desired};
use model::ledger::Ledger;
use model::name::Name;
use model::plan::fingerprint;
use model::shared::Shared;
use model::spec::{ContainerSpec, Parsed, ParsedFile, VolumeSource, VolumeSpec, VolumeUse};

use super::{Findings, Party, Tables};

/// How Docker marks anonymous volumes.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The name in an entry (`NAME[:ro]`), and whether all of its volumes are read-only here.
fn entry(text: &str) -> Option<(Name, bool)> {
    let (name, option) = text.split_once(':').unwrap_or((text, "rw"));
    Some((name.parse().ok()?, option == "ro"))
}

/// The containers whose volumes a table has.
pub(crate) fn owners(spec: &ContainerSpec) -> impl Iterator<Item = Name> {
    spec.volumes_from.iter().filter_map(|text| Some(entry(text)?.0))
}

/// The files with everything written out; none where no table asks for it. Names that lead nowhere, or in a circle, are
/// left out: they are errors of their own.
pub(super) fn written_out(files: &[ParsedFile]) -> Option<Vec<ParsedFile>> {
    let tables = || files.iter().flat_map(|file| &file.containers);
    let enabled = || tables().filter(|table| table.spec.enabled);
    let lenders: BTreeSet<Name> = enabled().flat_map(|table| owners(&table.spec)).collect();
    if lenders.is_empty() {
        return None;
    }
    let mut files = files.to_vec();
    for file in &mut files {
        name_the_anonymous(file, &lenders);
    }
    let lent: BTreeMap<Name, ContainerSpec> = files
        .iter()
        .flat_map(|file| &file.containers)
        .filter(|table| table.spec.enabled && lenders.contains(&table.name))
        .map(|table| (table.name.clone(), table.spec.clone()))
        .collect();
    for table in files.iter_mut().flat_map(|file| &mut file.containers) {
        if !table.spec.volumes_from.is_empty() {
            table.spec.volumes = volumes_of(&table.spec, &lent, &mut vec![table.name.clone()]);
        }
    }
    Some(files)
}

/// Gives each anonymous volume of those others mount from a name, and a table by which it goes with its container's.
fn name_the_anonymous(file: &mut ParsedFile, lenders: &BTreeSet<Name>) {
    let lending = file
        .containers
        .iter_mut()
        .filter(|table| lenders.contains(&table.name) && table.spec.enabled && table.spec.replicas == 1);
    for table in lending {
        for usage in &mut table.spec.volumes {
            let Some(name) = anonymous(&table.name, usage) else {
                continue;
            };
            usage.source = VolumeSource::Named(name.clone());
            let spec = VolumeSpec {
                keep: false,
                labels: [(ANONYMOUS.to_owned(), String::new())].into(),
                ..VolumeSpec::default()
            };
            file.volumes.push(Parsed {
                name,
                spec,
                origin: table.origin.clone(),
            });
        }
    }
}

/// The same name as long as it is the same container's at the same place.
fn anonymous(container: &Name, usage: &VolumeUse) -> Option<Name> {
    if usage.source != VolumeSource::Anonymous {
        return None;
    }
    // A name has at most 63 characters.
    let short: String = container.as_str().chars().take(40).collect();
    let digest = fingerprint(&(container, &usage.target));
    format!("{short}-{}", digest.get(..12)?).parse().ok()
}

/// A table's own, and those it has from others at places that it puts nothing at itself; of several others the last one
/// has the say, as in Docker.
fn volumes_of(
    spec: &ContainerSpec,
    lent: &BTreeMap<Name, ContainerSpec>,
    on_the_way: &mut Vec<Name>,
) -> Vec<VolumeUse> {
    let mut found: BTreeMap<String, VolumeUse> = BTreeMap::new();
    for (name, read_only) in spec.volumes_from.iter().filter_map(|text| entry(text)) {
        let Some(owner) = lent.get(&name).filter(|_| !on_the_way.contains(&name)) else {
            continue;
        };
        on_the_way.push(name);
        let theirs = volumes_of(owner, lent, on_the_way);
        on_the_way.pop();
        // What is in memory is each container's own, and what of an instance's own is nobody else's.
        let shared = theirs
            .into_iter()
            .filter(|v| !matches!(v.source, VolumeSource::Tmpfs { .. } | VolumeSource::Anonymous));
        for mut usage in shared {
            usage.read_only |= read_only;
            found.insert(usage.target.clone(), usage);
        }
    }
    for mount in &spec.tmpfs {
        found.remove(&mount.target);
    }
    for usage in &spec.volumes {
        found.insert(usage.target.clone(), usage.clone());
    }
    found.into_values().collect()
}

/// What was lent once stays what it is as long as its table wants a volume there: whoever mounts it may stand in a file
/// that cannot be read just now, and the data would be another volume's from one moment to the next.
pub fn keep_lent(desired: &mut Desired, ledger: &Ledger) {
    let mut tables = Vec::new();
    for (name, declared) in &mut desired.containers {
        let Some(entry) = ledger.containers.get(name) else {
            continue;
        };
        let before = &entry.current.spec.volumes;
        let lent = |usage: &VolumeUse| {
            let source = VolumeSource::Named(anonymous(name, usage)?);
            let kept = before
                .iter()
                .any(|b| b.target == usage.target && b.source == source);
            kept.then_some(source)
        };
        if !declared.spec.volumes.iter().any(|usage| lent(usage).is_some()) {
            continue;
        }
        let mut spec = ContainerSpec::clone(&declared.spec);
        for usage in &mut spec.volumes {
            let Some(source) = lent(usage) else { continue };
            if let VolumeSource::Named(volume) = &source
                && let Some(entry) = ledger.volumes.get(volume)
            {
                let table = Declared {
                    spec: entry.spec.clone(),
                    origin: entry.origin.clone(),
                };
                tables.push((volume.clone(), table));
            }
            usage.source = source;
        }
        declared.spec = Shared::new(spec);
    }
    for (name, table) in tables {
        desired.volumes.entry(name).or_insert(table);
    }
}

/// Which one's it is to be must be plain.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    for container in tables.containers() {
        for owner in owners(&container.spec).filter_map(|name| tables.container(&name)) {
            let own = |v: &&VolumeUse| v.source == VolumeSource::Anonymous;
            let Some(usage) = owner.spec.volumes.iter().find(own) else {
                continue;
            };
            let message = format!(
                "container {} has its volumes from {}, each of whose {} instances has one of its own at {}",
                container.name, owner.name, owner.spec.replicas, usage.target
            );
            let parties = [
                Party::of("container", container, "volumes_from"),
                Party::of("container", owner, "volumes"),
            ];
            let hint = format!("give it a name that all of them mount: \"data:{}\"", usage.target);
            found.contradiction(message, &hint, &parties);
        }
    }
}

/// What somebody mounts from a table that cannot be gone by is not known either: it stays as it was.
pub(super) fn hold(tables: &Tables<'_>, found: &mut Findings) {
    loop {
        let unknown: Vec<Name> = tables
            .containers()
            .filter(|table| !found.held.containers.contains(&table.name))
            .filter(|table| {
                owners(&table.spec)
                    .any(|owner| tables.container(&owner).is_none() || found.held.containers.contains(&owner))
            })
            .map(|table| table.name.clone())
            .collect();
        if unknown.is_empty() {
            return;
        }
        found.held.containers.extend(unknown);
    }
}
