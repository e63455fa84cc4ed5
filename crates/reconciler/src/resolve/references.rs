//! What one table says about another: it must be declared, fit, and not lead back in a circle.

use std::collections::{BTreeMap, BTreeSet};

use model::diagnostic::Diagnostic;
use model::name::Name;
use model::spec::{
    Condition, ContainerSpec, HealthcheckChoice, NamespaceMode, NetworkMode, Parsed, RestartPolicy,
    VolumeSource,
};

use super::{Findings, Party, Tables};

/// Finds undeclared names, conditions that can never hold, and cycles.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    for container in tables.containers() {
        networks(container, tables, found);
        for (target, key) in targets(&container.spec) {
            if !tables.known_containers.contains(&target) {
                unknown(
                    container,
                    "container",
                    target.as_str(),
                    &key,
                    &tables.known_containers,
                    found,
                );
            }
        }
        sharing(container, tables, found);
        chained(container, tables, found);
        completed(container, tables, found);
        healthy(container, tables, found);
        exclusive(container, tables, found);
    }
    cycles(tables, found);
}

/// Containers a table relies on, with the key that says so.
fn targets(spec: &ContainerSpec) -> Vec<(Name, String)> {
    let mut list: Vec<(Name, String)> = spec
        .depends_on
        .keys()
        .map(|n| (n.clone(), "depends_on".to_owned()))
        .collect();
    if let NetworkMode::Container(name) = &spec.network_mode {
        list.push((name.clone(), "network_mode".to_owned()));
    }
    for (mode, key) in [(&spec.pid, "pid"), (&spec.ipc, "ipc")] {
        if let NamespaceMode::Container(name) = mode {
            list.push((name.clone(), key.to_owned()));
        }
    }
    for (text, key) in spec
        .links
        .iter()
        .map(|t| (t, "links"))
        .chain(spec.volumes_from.iter().map(|t| (t, "volumes_from")))
    {
        if let Ok(name) = text.split(':').next().unwrap_or(text).parse() {
            list.push((name, key.to_owned()));
        }
    }
    list
}

fn networks(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for usage in &container.spec.networks {
        if usage.network.as_str() != "default" && !tables.known_networks.contains(&usage.network) {
            unknown(
                container,
                "network",
                usage.network.as_str(),
                "networks",
                &tables.known_networks,
                found,
            );
        }
    }
}

pub(super) fn unknown(
    container: &Parsed<ContainerSpec>,
    kind: &str,
    name: &str,
    key: &str,
    known: &BTreeSet<Name>,
    found: &mut Findings,
) {
    let message = format!(
        "container {} names {kind} {name}, which is not declared",
        container.name
    );
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("declare it: [{kind}.{name}]"),
    };
    let mut error = Diagnostic::new(container.origin.key(key), message).hint(hint);
    error.tables = vec![format!("container.{}", container.name)];
    found.errors.push(error);
    found.held.containers.insert(container.name.clone());
}

/// The declared name with the fewest edits, when they are few.
fn nearest<'a>(name: &str, known: &'a BTreeSet<Name>) -> Option<&'a Name> {
    let most = 1 + name.len() / 4;
    let near = known.iter().map(|k| (edits(name, k.as_str()), k));
    near.filter(|(n, _)| *n <= most).min().map(|(_, k)| k)
}

/// Levenshtein's distance; names are ASCII.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// `container:NAME` needs one NAME.
fn sharing(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for (target, key) in targets(&container.spec) {
        if !matches!(key.as_str(), "network_mode" | "pid" | "ipc") {
            continue;
        }
        let Some(owner) = tables.container(&target).filter(|o| o.spec.replicas > 1) else {
            continue;
        };
        let parties = [
            Party {
                kind: "container",
                name: &container.name,
                at: container.origin.key(&key),
            },
            Party {
                kind: "container",
                name: &owner.name,
                at: owner.origin.key("replicas"),
            },
        ];
        let message = format!(
            "{key} = \"container:{target}\" of container {} does not say which of {target}'s {} replicas",
            container.name, owner.spec.replicas
        );
        found.contradiction(message, "give the shared container one replica", &parties);
    }
}

/// Who shares a namespace names the container it belongs to.
fn chained(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for (target, key) in targets(&container.spec) {
        let Some(owner) = tables.container(&target) else {
            continue;
        };
        let shares = match (key.as_str(), &owner.spec) {
            ("network_mode", spec) => match &spec.network_mode {
                NetworkMode::Container(of) => of,
                NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None => continue,
            },
            ("pid", ContainerSpec { pid: mode, .. }) | ("ipc", ContainerSpec { ipc: mode, .. }) => match mode
            {
                NamespaceMode::Container(of) => of,
                NamespaceMode::Private | NamespaceMode::Host => continue,
            },
            _ => continue,
        };
        let parties = [
            Party {
                kind: "container",
                name: &container.name,
                at: container.origin.key(&key),
            },
            Party {
                kind: "container",
                name: &owner.name,
                at: owner.origin.key(&key),
            },
        ];
        let message = format!(
            "{key} = \"container:{target}\" of container {} names one that itself shares that of {shares}",
            container.name
        );
        found.contradiction(message, &format!("say \"container:{shares}\""), &parties);
    }
}

/// A container whose health nobody asks for never becomes healthy. What an image says is known only once it is there.
fn healthy(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    let waits = container
        .spec
        .depends_on
        .iter()
        .filter(|(_, d)| d.condition == Condition::Healthy);
    for (target, _) in waits {
        let off = tables
            .container(target)
            .filter(|t| t.spec.healthcheck == HealthcheckChoice::Off);
        let Some(unasked) = off else { continue };
        let parties = [
            Party {
                kind: "container",
                name: &container.name,
                at: container.origin.key("depends_on"),
            },
            Party {
                kind: "container",
                name: &unasked.name,
                at: unasked.origin.key("healthcheck"),
            },
        ];
        let message = format!(
            "container {} waits for {target} to be healthy, whose health check is off",
            container.name
        );
        found.contradiction(
            message,
            &format!("give it a [container.{target}.healthcheck], or depend on it with \"started\""),
            &parties,
        );
    }
}

/// A container that is always started again never completes.
fn completed(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    let waits = container
        .spec
        .depends_on
        .iter()
        .filter(|(_, d)| d.condition == Condition::Completed);
    for (target, _) in waits {
        let Some(job) = tables
            .container(target)
            .filter(|j| j.spec.restart.policy == RestartPolicy::Always)
        else {
            continue;
        };
        let parties = [
            Party {
                kind: "container",
                name: &container.name,
                at: container.origin.key("depends_on"),
            },
            Party {
                kind: "container",
                name: &job.name,
                at: job.origin.key("restart"),
            },
        ];
        let message = format!(
            "container {} waits for {target} to complete, which is always started again",
            container.name
        );
        found.contradiction(
            message,
            &format!("set restart = \"no\" on container {target}"),
            &parties,
        );
    }
}

/// An exclusive volume is never in two instances at once.
fn exclusive(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    if container.spec.replicas < 2 {
        return;
    }
    for usage in &container.spec.volumes {
        let VolumeSource::Named(name) = &usage.source else {
            continue;
        };
        let volume = tables
            .volumes
            .get(name)
            .and_then(|l| l.first())
            .filter(|v| v.spec.exclusive);
        let Some(volume) = volume else { continue };
        let parties = [
            Party {
                kind: "container",
                name: &container.name,
                at: container.origin.key("replicas"),
            },
            Party {
                kind: "volume",
                name: &volume.name,
                at: volume.origin.key("exclusive"),
            },
        ];
        let message = format!(
            "container {} has {} replicas and the exclusive volume {name}",
            container.name, container.spec.replicas
        );
        found.contradiction(
            message,
            "use one replica, or a volume that may be shared",
            &parties,
        );
    }
}

/// One error per circle of containers that wait for each other.
fn cycles(tables: &Tables<'_>, found: &mut Findings) {
    let edges: BTreeMap<&Name, Vec<Name>> = tables
        .containers()
        .map(|c| (&c.name, targets(&c.spec).into_iter().map(|(n, _)| n).collect()))
        .collect();
    let mut done: BTreeSet<Name> = BTreeSet::new();
    for start in edges.keys() {
        if let Some(circle) = circle_from(start, &edges, &mut done) {
            report_cycle(&circle, tables, found);
        }
    }
}

/// Walks depth first without recursion (files are not to be trusted with the stack) until a name comes up twice.
fn circle_from(
    start: &Name,
    edges: &BTreeMap<&Name, Vec<Name>>,
    done: &mut BTreeSet<Name>,
) -> Option<Vec<Name>> {
    let mut path: Vec<(Name, usize)> = vec![(start.clone(), 0)];
    let mut circle = None;
    while let Some((name, next)) = path.last_mut() {
        let target = if done.contains(name) {
            None
        } else {
            edges.get(name).and_then(|t| t.get(*next)).cloned()
        };
        *next += 1;
        match target {
            None => {
                done.extend(path.pop().map(|(name, _)| name));
            }
            Some(target) => match path.iter().position(|(n, _)| *n == target) {
                Some(at) if circle.is_none() => {
                    circle = Some(path[at..].iter().map(|(n, _)| n.clone()).collect());
                }
                Some(_) => {}
                None => path.push((target, 0)),
            },
        }
    }
    circle
}

fn report_cycle(circle: &[Name], tables: &Tables<'_>, found: &mut Findings) {
    let parties: Vec<Party<'_>> = circle
        .iter()
        .filter_map(|name| tables.container(name))
        .map(|c| {
            let key = targets(&c.spec)
                .into_iter()
                .find(|(n, _)| circle.contains(n))
                .map(|(_, key)| key);
            Party {
                kind: "container",
                name: &c.name,
                at: c.origin.key(key.as_deref().unwrap_or("depends_on")),
            }
        })
        .collect();
    let names: Vec<&str> = circle.iter().chain(circle.first()).map(Name::as_str).collect();
    let message = format!("containers wait for each other: {}", names.join(" → "));
    found.contradiction(message, "take one of these out of depends_on", &parties);
}
