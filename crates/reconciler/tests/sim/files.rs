//! The config dir of the simulated host: tables made up in code, files that break and vanish.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use model::desired::Desired;
use model::diagnostic::{Diagnostic, Location};
use model::firewall::Protocol;
use model::image::ImageSource;
use model::name::Name;
use model::spec::*;
use reconciler::resolve::{Broken, resolve};

use super::contents;
use super::rng::Rng;

pub const CONTAINERS: u64 = 6;
pub const IMAGES: u64 = 3;
const VOLUMES: u64 = 3;
/// Far more often than anybody would: so that it comes up.
const UPDATE_CHECK: Duration = Duration::from_secs(40);

#[derive(Clone, Default)]
pub struct File {
    pub containers: BTreeMap<Name, ContainerSpec>,
    pub networks: BTreeMap<Name, NetworkSpec>,
    pub volumes: BTreeMap<Name, VolumeSpec>,
    pub configs: BTreeMap<Name, MountedFileSpec>,
    pub secrets: BTreeMap<Name, MountedFileSpec>,
    pub broken: bool,
}

#[derive(Clone, Default)]
pub struct Files {
    pub files: BTreeMap<String, File>,
    pub directory_gone: bool,
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Two archives, and one of a registry; the second of the archives has a health check.
pub fn image_source(number: u64) -> ImageSource {
    if number == 2 {
        return ImageSource::Registry {
            reference: "registry.example/i2:latest".to_owned(),
        };
    }
    ImageSource::DockerArchive {
        file: format!("/srv/i{number}.tar").into(),
        reference: None,
    }
}

impl Files {
    pub fn resolve(&self) -> Desired {
        let mut parsed = Vec::new();
        let mut broken = Vec::new();
        for (file, content) in &self.files {
            if content.broken {
                let error = Diagnostic::new(Location::file(file.clone()), "broken on purpose");
                broken.push(Broken {
                    file: file.clone(),
                    diagnostics: vec![error],
                    declares: Vec::new(),
                });
            } else {
                parsed.push(content.parsed(file));
            }
        }
        if self.directory_gone {
            (parsed, broken) = (Vec::new(), Vec::new());
        }
        let mut desired = resolve(&parsed, &broken, &Settings::default());
        desired.held.everything = self.directory_gone;
        desired
    }

    /// One change as users make them.
    pub fn change(&mut self, rng: &mut Rng) {
        let file = format!("f{}.toml", rng.below(4));
        match rng.below(24) {
            22 if rng.one_in(6) => self.files.clear(),
            // A whole part of it goes, with what relies on it.
            23 if rng.one_in(6) => self.files.values_mut().for_each(|f| f.containers.clear()),
            20 | 21 if rng.one_in(2) => self.content(&file, rng),
            20 | 21 => self.volume(&file, rng),
            0..=6 => self.put(&file, rng),
            7..=11 => self.edit(rng),
            12 => drop(self.files.remove(&file)),
            13 | 14 => {
                if let Some(f) = self.files.get_mut(&file) {
                    f.broken = !f.broken;
                }
            }
            15 => {
                if let Some(f) = self.files.get_mut(&file) {
                    f.containers.pop_first();
                }
            }
            16 => self.move_table(rng),
            17 => self.directory_gone = !self.directory_gone && rng.one_in(2),
            _ => self.network(&file, rng),
        }
    }

    fn put(&mut self, file: &str, rng: &mut Rng) {
        let number = rng.below(CONTAINERS);
        let name = name(&format!("c{number}"));
        // Seldom twice: users do that by mistake.
        if !rng.one_in(12) {
            for f in self.files.values_mut() {
                f.containers.remove(&name);
            }
        }
        let mut spec = spec(number, rng);
        if !rng.one_in(8) {
            self.make_sound(&mut spec);
        }
        self.files
            .entry(file.to_owned())
            .or_default()
            .containers
            .insert(name, spec);
    }

    fn edit(&mut self, rng: &mut Rng) {
        let name = name(&format!("c{}", rng.below(CONTAINERS)));
        for f in self.files.values_mut() {
            if let Some(spec) = f.containers.get_mut(&name) {
                edit(spec, rng);
            }
        }
    }

    fn move_table(&mut self, rng: &mut Rng) {
        let name = name(&format!("c{}", rng.below(CONTAINERS)));
        let to = format!("f{}.toml", rng.below(4));
        let found: Vec<ContainerSpec> = self
            .files
            .values_mut()
            .filter_map(|f| f.containers.remove(&name))
            .collect();
        if let Some(spec) = found.into_iter().next() {
            self.files.entry(to).or_default().containers.insert(name, spec);
        }
    }

    fn network(&mut self, file: &str, rng: &mut Rng) {
        let number = rng.below(2);
        let name = name(&format!("n{number}"));
        for f in self.files.values_mut() {
            f.networks.remove(&name);
        }
        if rng.one_in(6) {
            return;
        }
        let octet = u8::try_from(number * 10 + rng.below(2)).unwrap();
        let icc = !rng.one_in(3);
        let written = number == 0 || rng.one_in(2);
        let mut spec = NetworkSpec {
            subnet: written.then(|| Ipv4Net::new(Ipv4Addr::new(10, 80, octet, 0), 24).unwrap()),
            internal: rng.one_in(4),
            icc,
            mtu: rng.one_in(4).then_some(1400),
            bridge: rng.one_in(5).then(|| format!("br{number}")),
            dns: !rng.one_in(5),
            ..NetworkSpec::default()
        };
        // Of some; one and the same network gets it and loses it, with other changes and without.
        match (octet % 2 == 1) != spec.internal {
            true if number == 0 => spec.subnet6 = Some(format!("fd00:80:{octet}::/64").parse().unwrap()),
            six => spec.ipv6 = six,
        }
        if number == 1 && rng.one_in(4) {
            spec = lan(octet, rng);
        } else if rng.one_in(6) {
            (spec.ipv4, spec.subnet) = (false, None);
        }
        self.files
            .entry(file.to_owned())
            .or_default()
            .networks
            .insert(name, spec);
    }

    fn volume(&mut self, file: &str, rng: &mut Rng) {
        let name = name(&format!("v{}", rng.below(VOLUMES)));
        for f in self.files.values_mut() {
            f.volumes.remove(&name);
        }
        if rng.one_in(3) {
            return;
        }
        let mut spec = VolumeSpec {
            keep: rng.one_in(2),
            exclusive: rng.one_in(6),
            ..VolumeSpec::default()
        };
        if rng.one_in(3) {
            spec.labels
                .insert("tier".to_owned(), format!("v{}", rng.below(3)));
        }
        self.files
            .entry(file.to_owned())
            .or_default()
            .volumes
            .insert(name, spec);
    }

    fn content(&mut self, file: &str, rng: &mut Rng) {
        let number = rng.below(contents::TABLES);
        let name = name(&format!("x{number}"));
        let secret = rng.one_in(2);
        let of = |f: &mut File| match secret {
            true => std::mem::take(&mut f.secrets),
            false => std::mem::take(&mut f.configs),
        };
        let put = |f: &mut File, all| match secret {
            true => f.secrets = all,
            false => f.configs = all,
        };
        for f in self.files.values_mut() {
            let mut all = of(f);
            all.remove(&name);
            put(f, all);
        }
        if rng.one_in(8) {
            return;
        }
        let f = self.files.entry(file.to_owned()).or_default();
        let mut all = of(f);
        all.insert(name, contents::table(number, rng));
        put(f, all);
    }

    /// A change of everything that is to be updated without a gap.
    pub fn update(&mut self) {
        for spec in self.files.values_mut().flat_map(|f| f.containers.values_mut()) {
            if spec.update.strategy == UpdateStrategy::StartFirst {
                spec.env.insert("X".to_owned(), "updated".to_owned());
            }
        }
    }

    /// Takes out all that cannot be satisfied, so that the end is one that can be reached.
    pub fn heal(&mut self) {
        self.directory_gone = false;
        for f in self.files.values_mut() {
            f.broken = false;
            for spec in f.containers.values_mut() {
                super::schedule::calm(spec);
                spec.user = None;
                if spec.command == Some(vec!["bad".to_owned()]) {
                    spec.command = None;
                }
            }
        }
        self.heal_waits();
        loop {
            let desired = self.resolve();
            let Some(table) = desired.errors.iter().flat_map(|e| &e.tables).next().cloned() else {
                break;
            };
            let (kind, name) = table.split_once('.').unwrap();
            for f in self.files.values_mut() {
                match kind {
                    "container" => drop(f.containers.remove(name)),
                    "volume" => drop(f.volumes.remove(name)),
                    "config" => drop(f.configs.remove(name)),
                    "secret" => drop(f.secrets.remove(name)),
                    _ => drop(f.networks.remove(name)),
                }
            }
        }
    }
}

impl Files {
    fn all(&self) -> BTreeMap<Name, ContainerSpec> {
        self.files.values().flat_map(|f| f.containers.clone()).collect()
    }

    /// As people write it most of the time: what it names is there, and can come to be as it wants it.
    fn make_sound(&self, spec: &mut ContainerSpec) {
        let all = self.all();
        let networks: Vec<&Name> = self.files.values().flat_map(|f| f.networks.keys()).collect();
        // Whoever is linked to another one is where that is.
        let own = |spec: &ContainerSpec| spec.network_mode == NetworkMode::Bridge;
        spec.links
            .retain(|link| all.get(&link.container).is_some_and(own));
        if let Some(to) = spec.links.first().and_then(|link| all.get(&link.container)) {
            spec.networks.clone_from(&to.networks);
            spec.networks.iter_mut().for_each(|usage| usage.ip = None);
        }
        spec.networks.retain(|usage| networks.contains(&&usage.network));
        let table = |usage: &NetworkUse| self.files.values().find_map(|f| f.networks.get(&usage.network));
        for usage in &mut spec.networks {
            usage.ip = usage.ip.filter(|_| table(usage).is_none_or(|table| table.ipv4));
        }
        let is_lan = |usage: &NetworkUse| table(usage).is_some_and(NetworkSpec::is_lan);
        // The way out of what is published is over this host.
        spec.networks.sort_by_key(is_lan);
        if spec.networks.first().is_some_and(is_lan) {
            spec.ports.clear();
        }
        spec.depends_on.retain(|on, _| all.contains_key(on));
        let files = || self.files.values();
        spec.configs
            .retain(|name| files().any(|f| f.configs.contains_key(name)));
        spec.secrets
            .retain(|name| files().any(|f| f.secrets.contains_key(name)));
        for (on, dependency) in &mut spec.depends_on {
            if !is_possible(&all, on, dependency.condition) {
                dependency.condition = Condition::Started;
            }
        }
        let sound = |owner: &Name| {
            let spec = all.get(owner);
            spec.is_some_and(|s| {
                s.replicas == 1
                    && s.restart.policy == RestartPolicy::Always
                    && !matches!(s.network_mode, NetworkMode::Container(_))
                    && s.pid == NamespaceMode::Private
            })
        };
        if matches!(&spec.network_mode, NetworkMode::Container(owner) if !sound(owner)) {
            spec.network_mode = NetworkMode::Bridge;
        }
        if matches!(&spec.pid, NamespaceMode::Container(owner) if !sound(owner)) {
            spec.pid = NamespaceMode::Private;
        }
    }

    /// Nobody waits for the health of what has none or ends, nor lives in namespaces of what ends.
    fn heal_waits(&mut self) {
        let all = self.all();
        let lasts = |n: &Name| {
            all.get(n)
                .is_some_and(|s| s.restart.policy == RestartPolicy::Always && s.replicas == 1)
        };
        for spec in self.files.values_mut().flat_map(|f| f.containers.values_mut()) {
            for (on, d) in &mut spec.depends_on {
                let met = is_possible(&all, on, d.condition);
                if !met {
                    d.condition = Condition::Started;
                }
            }
            if matches!(&spec.network_mode, NetworkMode::Container(n) if !lasts(n)) {
                spec.network_mode = NetworkMode::Bridge;
            }
            if matches!(&spec.pid, NamespaceMode::Container(n) if !lasts(n)) {
                spec.pid = NamespaceMode::Private;
            }
        }
    }
}

/// Whether a container of these can be what somebody waits for.
fn is_possible(all: &BTreeMap<Name, ContainerSpec>, on: &Name, condition: Condition) -> bool {
    let Some(spec) = all.get(on) else { return false };
    match condition {
        Condition::Started => true,
        Condition::Completed => spec.restart.policy == RestartPolicy::No,
        Condition::Healthy => {
            let asked = match spec.healthcheck {
                HealthcheckChoice::Declared(_) => true,
                HealthcheckChoice::Image => spec.image == image_source(1),
                HealthcheckChoice::Off => false,
            };
            asked && spec.restart.policy == RestartPolicy::Always
        }
    }
}

impl File {
    fn parsed(&self, file: &str) -> ParsedFile {
        let mut line = 0;
        let mut origin = || {
            line += 5;
            Origin {
                file: file.to_owned(),
                line,
                column: 1,
                keys: BTreeMap::new(),
            }
        };
        let containers = self
            .containers
            .iter()
            .map(|(name, spec)| Parsed {
                name: name.clone(),
                spec: spec.clone(),
                origin: origin(),
            })
            .collect();
        let networks = self
            .networks
            .iter()
            .map(|(name, spec)| Parsed {
                name: name.clone(),
                spec: spec.clone(),
                origin: origin(),
            })
            .collect();
        let volumes = self
            .volumes
            .iter()
            .map(|(name, spec)| Parsed {
                name: name.clone(),
                spec: spec.clone(),
                origin: origin(),
            })
            .collect();
        let tables = |all: &BTreeMap<Name, MountedFileSpec>, line: u32| {
            let one = |(name, spec): (&Name, &MountedFileSpec)| Parsed {
                name: name.clone(),
                spec: spec.clone(),
                origin: Origin {
                    file: file.to_owned(),
                    line,
                    column: 1,
                    keys: BTreeMap::new(),
                },
            };
            all.iter().map(one).collect()
        };
        ParsedFile {
            file: file.to_owned(),
            configs: tables(&self.configs, 1),
            secrets: tables(&self.secrets, 2),
            containers,
            networks,
            volumes,
            ..ParsedFile::default()
        }
    }
}

fn spec(number: u64, rng: &mut Rng) -> ContainerSpec {
    let mut spec = ContainerSpec::new(image_source(rng.below(IMAGES)));
    match rng.below(10) {
        0 => spec.network_mode = NetworkMode::Host,
        1..=3 => spec.networks = vec![NetworkUse::new(name("n0"))],
        4 => spec.networks = vec![NetworkUse::new(name("n1")), NetworkUse::new(name("n0"))],
        5 => {
            let mut fixed = NetworkUse::new(name("n0"));
            fixed.ip = Some(Ipv4Addr::new(10, 80, 0, 100 + u8::try_from(number).unwrap()));
            spec.networks = vec![fixed];
        }
        6 => spec.networks = vec![NetworkUse::new(name("n1"))],
        _ => {}
    }
    if rng.one_in(5) {
        spec.restart.policy = *rng.pick(&[RestartPolicy::No, RestartPolicy::OnFailure]);
    }
    if number > 0 && rng.one_in(4) {
        let on = name(&format!("c{}", rng.below(number)));
        spec.depends_on.insert(
            on,
            Dependency {
                condition: *rng.pick(&[
                    Condition::Started,
                    Condition::Started,
                    Condition::Healthy,
                    Condition::Completed,
                ]),
                restart: rng.one_in(2),
            },
        );
    }
    if rng.one_in(4) {
        spec.healthcheck = HealthcheckChoice::Declared(check(rng));
    }
    for _ in 0..rng.below(3) {
        spec.volumes.push(mount(rng));
    }
    for number in 0..contents::TABLES {
        let name = name(&format!("x{number}"));
        if rng.one_in(3) {
            spec.configs.push(name.clone());
        }
        if rng.one_in(4) {
            spec.secrets.push(name);
        }
    }
    if rng.one_in(4) {
        spec.env_file.push(contents::env_file());
    }
    if rng.one_in(3) {
        spec.update = update(rng);
    }
    if rng.one_in(3) {
        spec.pull = *rng.pick(&[PullPolicy::Always, PullPolicy::Newer]);
        spec.update_check = UPDATE_CHECK;
    }
    super::schedule::dress(&mut spec, number, rng);
    if number > 0 && rng.one_in(3) {
        share(&mut spec, number, rng);
        if matches!(spec.network_mode, NetworkMode::Container(_)) {
            return spec;
        }
    }
    for _ in 0..rng.below(3) {
        spec.ports.push(port(number, rng));
    }
    if rng.one_in(3) {
        replicate(&mut spec, rng);
    }
    if number > 0 && spec.network_mode == NetworkMode::Bridge && rng.one_in(3) {
        let container = name(&format!("c{}", rng.below(number)));
        let alias = name("up");
        spec.links.push(LinkSpec { container, alias });
    }
    spec
}

/// Below a device of the host, with a way for the host to its containers or without.
fn lan(octet: u8, rng: &mut Rng) -> NetworkSpec {
    let part = |first, bits| Ipv4Net::new(Ipv4Addr::new(10, 81, octet, first), bits).unwrap();
    NetworkSpec {
        driver: NetworkDriver::Macvlan,
        parent: Some("eth0".to_owned()),
        subnet: Some(part(0, 24)),
        range: Some(part(128, 25)),
        internal: rng.one_in(3),
        host_access: rng.one_in(2),
        dns: !rng.one_in(5),
        ..NetworkSpec::default()
    }
}

/// As often as may be: what is fixed can only be once.
fn replicate(spec: &mut ContainerSpec, rng: &mut Rng) {
    if spec.schedule.is_none() && spec.networks.iter().all(|n| n.ip.is_none()) {
        spec.replicas = 1 + u32::try_from(rng.below(3)).unwrap();
        spec.update.parallelism = 1 + u32::try_from(rng.below(2)).unwrap();
    }
}

fn check(rng: &mut Rng) -> Healthcheck {
    Healthcheck {
        probe: Probe::Tcp(u16::try_from(80 + rng.below(3)).unwrap()),
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
        on_failure: *rng.pick(&[
            OnFailure::Restart,
            OnFailure::Restart,
            OnFailure::Stop,
            OnFailure::None,
        ]),
    }
}

fn update(rng: &mut Rng) -> UpdateSpec {
    UpdateSpec {
        strategy: UpdateStrategy::StartFirst,
        drain: Duration::from_secs(rng.below(4)),
        timeout: Duration::from_secs(5 + rng.below(20)),
        ..UpdateSpec::default()
    }
}

fn mount(rng: &mut Rng) -> VolumeUse {
    let number = rng.below(VOLUMES);
    VolumeUse {
        source: VolumeSource::Named(name(&format!("v{number}"))),
        target: format!("/data{}", rng.below(3)),
        read_only: false,
    }
}

/// Lives in namespaces of one with a lower number.
fn share(spec: &mut ContainerSpec, number: u64, rng: &mut Rng) {
    let owner = name(&format!("c{}", rng.below(number)));
    if rng.one_in(2) {
        spec.pid = NamespaceMode::Container(owner);
    } else {
        spec.networks.clear();
        spec.network_mode = NetworkMode::Container(owner);
    }
}

fn port(number: u64, rng: &mut Rng) -> PortSpec {
    let own = 8000 + u16::try_from(number).unwrap() * 2;
    let host = match rng.below(8) {
        0 => None,
        // Somebody else's, now and then.
        1 => Some(8000 + u16::try_from(rng.below(12)).unwrap()),
        2 => Some(own),
        _ => Some(own + 1),
    };
    let inside = 80 + u16::try_from(rng.below(2)).unwrap();
    PortSpec {
        ip: None,
        host: host.map(|h| (h, h)),
        container: (inside, inside),
        protocol: *rng.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]),
        allow: Vec::new(),
    }
}

fn edit(spec: &mut ContainerSpec, rng: &mut Rng) {
    let word = format!("v{}", rng.below(4));
    match rng.below(14) {
        9 => spec.healthcheck = HealthcheckChoice::Declared(check(rng)),
        10 => spec.limits.pids = Some(10 + rng.below(3)),
        11 => spec.volumes = (0..rng.below(3)).map(|_| mount(rng)).collect(),
        12 => {
            if let Some(usage) = spec.networks.first_mut() {
                usage.aliases = vec![name(&word)];
            }
        }
        13 => spec.pull = *rng.pick(&[PullPolicy::Always, PullPolicy::Missing, PullPolicy::Newer]),
        // Who has no network of its own publishes nothing.
        3 if matches!(spec.network_mode, NetworkMode::Container(_)) => {}
        0 | 1 => drop(spec.labels.insert("tier".to_owned(), word)),
        2 => spec.command = Some(vec![word]),
        3 => {
            spec.ports = (0..rng.below(3))
                .map(|_| port(rng.below(CONTAINERS), rng))
                .collect()
        }
        4 if rng.one_in(2) => spec.stop_grace_period = Duration::from_secs(rng.below(9)),
        4 => replicate(spec, rng),
        8 if rng.one_in(6) => super::schedule::edit(spec, rng),
        8 if rng.one_in(2) && spec.schedule.is_none() => spec.update = update(rng),
        5 => spec.image = image_source(rng.below(IMAGES)),
        6 => spec.command = Some(vec!["bad".to_owned()]),
        7 => spec.user = Some("bad".to_owned()),
        _ => drop(spec.env.insert("X".to_owned(), word)),
    }
}
