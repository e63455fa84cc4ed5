//! Configs and secrets: those a container names are declared, and each appears at a place of its own.

use model::content::{ContentKind, Delivered};
use model::name::Name;
use model::spec::{ContainerSpec, MountedFileSpec, Parsed, VolumeSource};

use super::references::unknown;
use super::{ByName, Findings, Party, Tables};

/// Finds undeclared ones, and places that several want.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    for container in tables.containers() {
        undeclared(container, tables, found);
        let files = files_of(container, tables);
        for (index, (file, table)) in files.iter().enumerate() {
            if let Some((other, with)) = files[..index]
                .iter()
                .find(|(o, _)| clash(&o.target, &file.target))
            {
                between(container, (file, table), (other, with), found);
            }
            volumes(container, file, table, found);
        }
    }
}

fn undeclared(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    let lists = [
        (
            "config",
            "configs",
            &container.spec.configs,
            &tables.known_configs,
        ),
        (
            "secret",
            "secrets",
            &container.spec.secrets,
            &tables.known_secrets,
        ),
    ];
    for (kind, key, names, known) in lists {
        for name in names.iter().filter(|name| !known.contains(*name)) {
            unknown(container, kind, name.as_str(), key, known, found);
        }
    }
}

/// The files a container sees, with their tables, as far as those can be trusted.
fn files_of<'a>(
    container: &Parsed<ContainerSpec>,
    tables: &Tables<'a>,
) -> Vec<(Delivered, &'a Parsed<MountedFileSpec>)> {
    let of = |kind: ContentKind, names: &[Name], all: &ByName<'a, MountedFileSpec>| -> Vec<_> {
        let one = |name: &Name| {
            let table = all.get(name).and_then(|list| list.first().copied())?;
            Some((table.spec.delivered(kind, name), table))
        };
        names.iter().filter_map(one).collect()
    };
    let spec = &container.spec;
    let mut files = of(ContentKind::Config, &spec.configs, &tables.configs);
    files.extend(of(ContentKind::Secret, &spec.secrets, &tables.secrets));
    files
}

fn kind(file: &Delivered) -> &'static str {
    match file.kind {
        ContentKind::Config => "config",
        ContentKind::Secret => "secret",
    }
}

fn between(
    container: &Parsed<ContainerSpec>,
    (file, table): (&Delivered, &Parsed<MountedFileSpec>),
    (other, with): (&Delivered, &Parsed<MountedFileSpec>),
    found: &mut Findings,
) {
    let message = format!(
        "{} {} and {} {} want {} and {} in container {}",
        kind(other),
        other.name,
        kind(file),
        file.name,
        other.target,
        file.target,
        container.name
    );
    let parties = [
        Party::of("container", container, file.key().field()),
        Party::of(kind(other), with, "target"),
        Party::of(kind(file), table, "target"),
    ];
    let hint = "give one of them another target, or take it out of the container";
    in_this_container(message, hint, &parties, found);
}

/// Holds the container alone, the first party: each of the others is good by itself, and others may use it.
fn in_this_container(message: String, hint: &str, parties: &[Party<'_>], found: &mut Findings) {
    if let Some(mut error) = super::contradiction(message, hint, parties) {
        error.tables.truncate(1);
        found.errors.push(error);
    }
    for container in parties.iter().take(1) {
        found.hold(container.kind, container.name);
    }
}

/// What is mounted over a file hides it, and what it is mounted on is somebody else's data.
fn volumes(
    container: &Parsed<ContainerSpec>,
    file: &Delivered,
    table: &Parsed<MountedFileSpec>,
    found: &mut Findings,
) {
    let in_the_way = container.spec.volumes.iter().find(|volume| match volume.source {
        VolumeSource::Tmpfs { .. } => below(&volume.target, &file.target),
        VolumeSource::Named(_) | VolumeSource::Anonymous | VolumeSource::Bind { .. } => {
            clash(&volume.target, &file.target)
        }
    });
    let tmpfs = || {
        let mut all = container.spec.tmpfs.iter().map(|t| &t.target);
        all.find(|target| below(target, &file.target))
    };
    let Some(target) = in_the_way.map(|v| &v.target).or_else(tmpfs) else {
        return;
    };
    let message = format!(
        "{} {} at {} and the volume at {target} of container {} are in each other's way",
        kind(file),
        file.name,
        file.target,
        container.name
    );
    let parties = [
        Party::of("container", container, "volumes"),
        Party::of(kind(file), table, "target"),
    ];
    in_this_container(
        message,
        "give one of them a place outside the other",
        &parties,
        found,
    );
}

/// One is the other, or inside it.
fn clash(a: &str, b: &str) -> bool {
    below(a, b) || below(b, a)
}

/// `path` is `dir`, or inside it.
fn below(path: &str, dir: &str) -> bool {
    path == dir
        || path
            .strip_prefix(dir.trim_end_matches('/'))
            .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_inside_of_whole_parts_only() {
        assert!(clash("/etc/nginx", "/etc/nginx/nginx.conf"));
        assert!(clash("/a", "/a") && clash("/", "/a"));
        assert!(!clash("/etc/nginx", "/etc/nginx.conf"));
    }
}
