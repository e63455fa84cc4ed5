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
            if tables.known_containers.contains(&target) {
                continue;
            }
            if let Some(service) = instance_of(&target, tables) {
                one_of_several(container, &target, &key, service, found);
            } else {
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
        never_met(container, tables, found);
        exclusive(container, tables, found);
    }
    cycles(tables, found);
}

/// The replicated table of which this is an instance's name.
fn instance_of<'t>(name: &Name, tables: &Tables<'t>) -> Option<&'t Parsed<ContainerSpec>> {
    let (service, number) = name.as_str().rsplit_once('-')?;
    let service = tables.container(&service.parse().ok()?)?;
    let number: u32 = number.parse().ok()?;
    (service.spec.replicas > 1 && (1..=service.spec.replicas).contains(&number)).then_some(service)
}

/// Tables are what others name: they may have more instances tomorrow, or fewer.
fn one_of_several(
    container: &Parsed<ContainerSpec>,
    target: &Name,
    key: &str,
    service: &Parsed<ContainerSpec>,
    found: &mut Findings,
) {
    let message = format!(
        "container {} names {target}, which is one of the {} instances of container {}",
        container.name, service.spec.replicas, service.name
    );
    let hint = match key {
        "depends_on" | "links" => format!("write {}, which means all of them", service.name),
        _ => format!(
            "name a container with replicas = 1: which {} there are may change",
            service.name
        ),
    };
    let mut error = Diagnostic::new(container.origin.key(key), message).hint(hint);
    error.tables = vec![format!("container.{}", container.name)];
    found.errors.push(error);
    found.held.containers.insert(container.name.clone());
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
    let linked = spec.links.iter().map(|link| link.container.clone());
    list.extend(linked.map(|name| (name, "links".to_owned())));
    for text in &spec.volumes_from {
        if let Ok(name) = text.split(':').next().unwrap_or(text).parse() {
            list.push((name, "volumes_from".to_owned()));
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

/// What one container wants of another's namespaces, by the key that says so: there is one of it, and it is its own.
fn sharing(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for (target, key) in targets(&container.spec) {
        if !matches!(key.as_str(), "network_mode" | "pid" | "ipc") {
            continue;
        }
        let Some(owner) = tables.container(&target) else {
            continue;
        };
        let wish = format!("{key} = \"container:{target}\" of container {}", container.name);
        let mut refuse = |at: &str, message: String, hint: &str| {
            let parties = [
                Party::of("container", container, &key),
                Party::of("container", owner, at),
            ];
            found.contradiction(message, hint, &parties);
        };
        if owner.spec.replicas > 1 {
            let which = format!("{target}'s {} replicas", owner.spec.replicas);
            let message = format!("{wish} does not say which of {which}");
            refuse("replicas", message, "give the shared container one replica");
        }
        if let Some(of) = shared(&owner.spec, &key) {
            let message = format!("{wish} names one that itself shares that of {of}");
            refuse(&key, message, &format!("say \"container:{of}\""));
        }
    }
}

/// Whose namespace it is that this key of a table is about, where it is another's.
fn shared<'a>(spec: &'a ContainerSpec, key: &str) -> Option<&'a Name> {
    let mode = match key {
        "pid" => &spec.pid,
        "ipc" => &spec.ipc,
        _ => {
            return match &spec.network_mode {
                NetworkMode::Container(of) => Some(of),
                NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None => None,
            };
        }
    };
    match mode {
        NamespaceMode::Container(of) => Some(of),
        NamespaceMode::Private | NamespaceMode::Host => None,
    }
}

/// What is waited for can come: a container that is always started again never completes, and one whose health nobody
/// asks for never becomes healthy. What an image says of health is known only once it is there.
fn never_met(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for (target, dependency) in &container.spec.depends_on {
        let Some(other) = tables.container(target) else {
            continue;
        };
        let (key, never, hint) = match dependency.condition {
            Condition::Completed if other.spec.restart.policy == RestartPolicy::Always => (
                "restart",
                "to complete, which is always started again",
                format!("set restart = \"no\" on container {target}"),
            ),
            Condition::Healthy if other.spec.healthcheck == HealthcheckChoice::Off => (
                "healthcheck",
                "to be healthy, whose health check is off",
                format!("give it a [container.{target}.healthcheck], or depend on it with \"started\""),
            ),
            Condition::Started | Condition::Completed | Condition::Healthy => continue,
        };
        let message = format!("container {} waits for {target} {never}", container.name);
        let parties = [
            Party::of("container", container, "depends_on"),
            Party::of("container", other, key),
        ];
        found.contradiction(message, &hint, &parties);
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
        let volume = tables.volumes.get(name).and_then(|list| list.first());
        let Some(volume) = volume.filter(|v| v.spec.exclusive) else {
            continue;
        };
        let message = format!(
            "container {} has {} replicas and the exclusive volume {name}",
            container.name, container.spec.replicas
        );
        let parties = [
            Party::of("container", container, "replicas"),
            Party::of("volume", volume, "exclusive"),
        ];
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
        .map(|c| {
            // To itself is an error of its own.
            let targets = targets(&c.spec).into_iter();
            let others = targets.filter(|(n, key)| *n != c.name || key != "links");
            (&c.name, others.map(|(n, _)| n).collect())
        })
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
    let mut linked = false;
    let parties: Vec<Party<'_>> = circle
        .iter()
        .filter_map(|name| tables.container(name))
        .map(|c| {
            let key = targets(&c.spec)
                .into_iter()
                .find(|(n, _)| circle.contains(n))
                .map(|(_, key)| key);
            linked |= key.as_deref() == Some("links");
            Party::of("container", c, key.as_deref().unwrap_or("depends_on"))
        })
        .collect();
    let names: Vec<&str> = circle.iter().chain(circle.first()).map(Name::as_str).collect();
    let message = format!("containers wait for each other: {}", names.join(" → "));
    let hint = match linked {
        true => {
            "take one of these out of depends_on or links: who is linked to another one is started after it"
        }
        false => "take one of these out of depends_on",
    };
    found.contradiction(message, hint, &parties);
}
