//! Every file resolved into one picture; what contradicts something else is held, with one error naming every party.

mod addresses;
mod contents;
mod exclusive;
mod lans;
mod links;
mod names;
mod overlays;
mod ports;
mod references;
mod replicas;
mod volumes_from;

use std::collections::{BTreeMap, BTreeSet};

use model::desired::{Declared, Desired, Held};
use model::diagnostic::{Diagnostic, Location};
use model::image::ImageSource;
use model::name::Name;
use model::shared::Shared;
use model::spec::{
    ContainerSpec, MountedFileSpec, NetworkMode, NetworkSpec, NetworkUse, Origin, Parsed, ParsedFile,
    Settings, VolumeSpec,
};

pub(crate) use ports::{Reached, each as each_port, published_at};
pub use volumes_from::keep_lent;
pub(crate) use volumes_from::owners as lenders;

/// A file that could not be parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// Relative to the config dir.
    pub file: String,
    pub diagnostics: Vec<Diagnostic>,
    /// Kind (`container`, `network`, …) and name of the tables it still could be seen to declare.
    pub declares: Vec<(String, Name)>,
}

/// What the files say together. Nothing is refused that does not take part in an error.
pub fn resolve(files: &[ParsedFile], broken: &[Broken], settings: &Settings) -> Desired {
    let written_out = volumes_from::written_out(files);
    let files = written_out.as_deref().unwrap_or(files);
    let mut tables = Tables::gather(files);
    let mut found = Findings::default();
    for file in broken {
        found.broken(file);
    }
    names::check(&mut tables, &found.held, &mut found.errors);
    found.settle(&mut tables);
    references::check(&tables, &mut found);
    volumes_from::check(&tables, &mut found);
    links::check(&tables, &mut found);
    exclusive::check(&tables, &mut found);
    contents::check(&tables, &mut found);
    ports::check(&tables, settings, &mut found);
    addresses::check(&tables, &mut found);
    overlays::check(&tables, settings, &mut found);
    lans::check(&tables, &mut found);
    found.settle(&mut tables);
    volumes_from::hold(&tables, &mut found);
    found.settle(&mut tables);
    tables.into_desired(found, settings)
}

/// All tables of a kind by name; more than one under a name is a contradiction.
type ByName<'a, T> = BTreeMap<Name, Vec<&'a Parsed<T>>>;

/// What was declared, before and while contradictions are taken out.
struct Tables<'a> {
    containers: ByName<'a, ContainerSpec>,
    networks: ByName<'a, NetworkSpec>,
    volumes: ByName<'a, VolumeSpec>,
    images: BTreeMap<Name, Vec<(&'a ImageSource, &'a Origin)>>,
    configs: ByName<'a, MountedFileSpec>,
    secrets: ByName<'a, MountedFileSpec>,
    /// Names that are declared, whatever came of it: a reference to one of them is no unknown name.
    known_networks: BTreeSet<Name>,
    known_containers: BTreeSet<Name>,
    known_configs: BTreeSet<Name>,
    known_secrets: BTreeSet<Name>,
}

impl<'a> Tables<'a> {
    fn gather(files: &'a [ParsedFile]) -> Self {
        let mut tables = Self {
            containers: BTreeMap::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            images: BTreeMap::new(),
            configs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            known_networks: BTreeSet::new(),
            known_containers: BTreeSet::new(),
            known_configs: BTreeSet::new(),
            known_secrets: BTreeSet::new(),
        };
        for file in files {
            add(
                &mut tables.containers,
                file.containers.iter().filter(|c| c.spec.enabled),
            );
            add(&mut tables.networks, file.networks.iter());
            add(&mut tables.volumes, file.volumes.iter());
            for image in &file.images {
                if let Some(source) = &image.spec.pull {
                    tables
                        .images
                        .entry(image.name.clone())
                        .or_default()
                        .push((source, &image.origin));
                }
            }
            add(&mut tables.configs, file.configs.iter());
            add(&mut tables.secrets, file.secrets.iter());
        }
        tables.known_networks = tables.networks.keys().cloned().collect();
        tables.known_containers = tables.containers.keys().cloned().collect();
        tables.known_configs = tables.configs.keys().cloned().collect();
        tables.known_secrets = tables.secrets.keys().cloned().collect();
        tables
    }

    /// The only table of each name.
    fn containers(&self) -> impl Iterator<Item = &'a Parsed<ContainerSpec>> + '_ {
        self.containers.values().filter_map(|list| list.first().copied())
    }

    fn networks(&self) -> impl Iterator<Item = &'a Parsed<NetworkSpec>> + '_ {
        self.networks.values().filter_map(|list| list.first().copied())
    }

    fn container(&self, name: &Name) -> Option<&'a Parsed<ContainerSpec>> {
        self.containers.get(name).and_then(|list| list.first().copied())
    }

    /// What the table `[image.NAME]` says, where `image = "NAME"` means one. By then that is written out by docker.io's
    /// rules, so every spelling of the same reference means the table.
    fn image_table(&self, image: &ImageSource) -> Option<&'a ImageSource> {
        let ImageSource::Registry { reference } = image else {
            return None;
        };
        let name = reference
            .strip_prefix("docker.io/library/")?
            .strip_suffix(":latest")?;
        let tables = self.images.get(name)?;
        tables.first().map(|(source, _)| *source)
    }

    fn into_desired(self, found: Findings, settings: &Settings) -> Desired {
        let mut containers = declared(&self.containers);
        for container in containers.values_mut() {
            if let Some(source) = self.image_table(&container.spec.image) {
                container.spec.image = source.clone();
            }
        }
        let images = self
            .images
            .values()
            .filter_map(|list| list.first())
            .map(|(source, origin)| Declared {
                spec: (*source).clone().into(),
                origin: (*origin).clone().into(),
            });
        let mut networks = declared(&self.networks);
        if let Some(name) = default_network()
            && !found.held.networks.contains(&name)
        {
            networks.entry(name).or_insert_with(|| Declared {
                spec: Shared::default(),
                origin: Shared::default(),
            });
        }
        let mut errors = found.errors;
        errors.sort();
        let (containers, places) = replicas::expand(containers);
        Desired {
            containers,
            places,
            networks,
            volumes: declared(&self.volumes),
            configs: declared(&self.configs),
            secrets: declared(&self.secrets),
            images: images.map(|image| (image.spec.key(), image)).collect(),
            held: found.held,
            settings: settings.clone(),
            errors,
        }
    }
}

/// The networks a table joins, in order of eth0, eth1, ….
pub(crate) fn uses(spec: &ContainerSpec) -> Vec<NetworkUse> {
    match spec.network_mode {
        NetworkMode::Bridge if spec.networks.is_empty() => {
            default_network().map(NetworkUse::new).into_iter().collect()
        }
        NetworkMode::Bridge => spec.networks.clone(),
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) => Vec::new(),
    }
}

/// The name `default`.
fn default_network() -> Option<Name> {
    "default".parse().ok()
}

fn add<'a, T: 'a>(into: &mut ByName<'a, T>, list: impl Iterator<Item = &'a Parsed<T>>) {
    for table in list {
        into.entry(table.name.clone()).or_default().push(table);
    }
}

fn declared<T: Clone>(tables: &ByName<'_, T>) -> BTreeMap<Name, Declared<T>> {
    let one = |list: &Vec<&Parsed<T>>| {
        list.first().map(|t| Declared {
            spec: t.spec.clone().into(),
            origin: t.origin.clone().into(),
        })
    };
    tables
        .iter()
        .filter_map(|(name, list)| Some((name.clone(), one(list)?)))
        .collect()
}

/// Errors, and what takes part in them.
#[derive(Default)]
struct Findings {
    errors: Vec<Diagnostic>,
    held: Held,
}

impl Findings {
    fn broken(&mut self, file: &Broken) {
        self.errors.extend(file.diagnostics.iter().cloned());
        self.held.files.insert(file.file.clone());
        for (kind, name) in &file.declares {
            self.hold(kind, name);
        }
    }

    fn hold(&mut self, kind: &str, name: &Name) {
        match kind {
            "container" => self.held.containers.insert(name.clone()),
            "network" => self.held.networks.insert(name.clone()),
            "volume" => self.held.volumes.insert(name.clone()),
            "config" => self.held.configs.insert(name.clone()),
            "secret" => self.held.secrets.insert(name.clone()),
            _ => false,
        };
    }

    /// One error about one container, at a key of its table.
    fn refuse(
        &mut self,
        container: &Parsed<ContainerSpec>,
        key: &str,
        message: String,
        hint: impl Into<String>,
    ) {
        let mut error = Diagnostic::new(container.origin.key(key), message).hint(hint);
        error.tables = vec![format!("container.{}", container.name)];
        self.errors.push(error);
        self.held.containers.insert(container.name.clone());
    }

    /// One error about every party: the first is where it is shown, the others are named with it.
    fn contradiction(&mut self, message: String, hint: &str, parties: &[Party<'_>]) {
        if let Some(error) = contradiction(message, hint, parties) {
            self.errors.push(error);
        }
        for party in parties {
            self.hold(party.kind, party.name);
        }
    }

    /// Takes what is held out of the tables.
    fn settle(&mut self, tables: &mut Tables<'_>) {
        tables
            .containers
            .retain(|name, _| !self.held.containers.contains(name));
        tables
            .networks
            .retain(|name, _| !self.held.networks.contains(name));
        tables.volumes.retain(|name, _| !self.held.volumes.contains(name));
        tables.configs.retain(|name, _| !self.held.configs.contains(name));
        tables.secrets.retain(|name, _| !self.held.secrets.contains(name));
        for error in &self.errors {
            for table in &error.tables {
                if let Some((kind, name)) = table.split_once('.')
                    && let Ok(name) = name.parse::<Name>()
                {
                    let _named_before = match kind {
                        "container" => tables
                            .containers
                            .remove(&name)
                            .map(|_| self.held.containers.insert(name)),
                        "network" => tables
                            .networks
                            .remove(&name)
                            .map(|_| self.held.networks.insert(name)),
                        "volume" => tables
                            .volumes
                            .remove(&name)
                            .map(|_| self.held.volumes.insert(name)),
                        "config" => tables
                            .configs
                            .remove(&name)
                            .map(|_| self.held.configs.insert(name)),
                        "secret" => tables
                            .secrets
                            .remove(&name)
                            .map(|_| self.held.secrets.insert(name)),
                        _ => None,
                    };
                }
            }
        }
    }
}

/// A table that takes part in an error, and where.
struct Party<'a> {
    kind: &'static str,
    name: &'a Name,
    at: Location,
}

impl<'a> Party<'a> {
    /// The key of a table.
    fn of<T>(kind: &'static str, table: &'a Parsed<T>, key: &str) -> Self {
        Self {
            kind,
            name: &table.name,
            at: table.origin.key(key),
        }
    }
}

fn contradiction(message: String, hint: &str, parties: &[Party<'_>]) -> Option<Diagnostic> {
    let (first, rest) = parties.split_first()?;
    let mut error = Diagnostic::new(first.at.clone(), message).hint(hint);
    error.also = rest.iter().map(|p| p.at.clone()).collect();
    error.tables = parties.iter().map(|p| format!("{}.{}", p.kind, p.name)).collect();
    Some(error)
}
