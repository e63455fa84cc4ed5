//! The host's truth, and what the actions make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Instance};
use model::digest::Digest;
use model::dns::DnsState;
use model::firewall::{FirewallState, Protocol};
use model::health::{HealthState, Verdict};
use model::image::{Image, ImageConfig, ImageHealthcheck};
use model::ledger::Ledger;
use model::name::{ContainerId, Name};
use model::network::{Attachment, Driver, HostNetwork, Link, Tunnel};
use model::observed::*;
use model::spec::{Healthcheck, RestartPolicy, VolumeSpec};
use model::surroundings::Surroundings;
use model::wireguard::WireGuard;

use super::contents::Contents;
use super::files::{IMAGES, image_source};
use super::rng::Rng;

/// One container as it really is.
#[derive(Clone)]
pub struct Real {
    pub seen: ObservedContainer,
    /// What it was last started or prepared with.
    pub instance: Option<Instance>,
    /// Which of all shims there ever were; 0 before the first.
    pub shim: u64,
    /// When its shim starts it again, while it waits to.
    again: Timestamp,
    /// The namespaces it lives in: the owner's shim, or the owner's run.
    pub joined: Vec<Joined>,
}

/// A namespace of another container.
#[derive(Clone, Debug)]
pub enum Joined {
    Shim(ContainerId, u64),
    Run(ContainerId, u64),
}

impl Real {
    pub fn live(&self) -> bool {
        matches!(
            self.seen.phase,
            Phase::Created | Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }
        )
    }

    pub fn running(&self) -> bool {
        matches!(self.seen.phase, Phase::Running { .. })
    }
}

pub struct Host {
    pub containers: BTreeMap<ContainerId, Real>,
    pub links: BTreeMap<String, ObservedLink>,
    pub firewall: Option<FirewallState>,
    pub forwarding: bool,
    pub forwarding6: bool,
    pub listeners: Vec<Listener>,
    pub foreign_drops: Vec<model::observed::ForeignDrop>,
    pub backend: model::observed::BackendSeen,
    pub around: Surroundings,
    pub foreign: Vec<ForeignAddress>,
    pub foreign6: Vec<ForeignAddress6>,
    /// Content behind each archive; none where the file is missing.
    pub sources: BTreeMap<String, Option<u8>>,
    pub store: BTreeMap<String, u8>,
    /// What every image exposes.
    pub exposes: Vec<String>,
    pub dns: Option<DnsState>,
    /// In whose network namespaces, each made with that shim, the name server listens.
    pub dns_inside: BTreeSet<(ContainerId, u64)>,
    pub volumes: BTreeMap<Name, ObservedVolume>,
    pub contents: Contents,
    pub(super) damages: super::damage::Damages,
    /// What the agent's probes found so far: its memory, and not the host's.
    pub health: BTreeMap<ContainerId, HealthState>,
    /// The check each was probed with last.
    pub(super) probed: BTreeMap<ContainerId, Healthcheck>,
    pids: u32,
    shims: u64,
}

impl Host {
    pub fn new() -> Self {
        let sources = (0..IMAGES).map(|n| (image_source(n).key(), Some(1))).collect();
        let eth0 = ForeignAddress {
            device: "eth0".to_owned(),
            address: Ipv4Net::new(Ipv4Addr::new(192, 0, 2, 1), 24).unwrap(),
        };
        let eth0_6 = ForeignAddress6 {
            device: "eth0".to_owned(),
            address: "2001:db8::1/64".parse().unwrap(),
        };
        Self {
            containers: BTreeMap::new(),
            links: super::foreign::links(),
            firewall: None,
            forwarding: false,
            forwarding6: false,
            listeners: Vec::new(),
            foreign_drops: Vec::new(),
            backend: Default::default(),
            around: Surroundings::default(),
            foreign: vec![eth0],
            foreign6: vec![eth0_6],
            sources,
            store: BTreeMap::new(),
            exposes: Vec::new(),
            dns: None,
            dns_inside: BTreeSet::new(),
            volumes: BTreeMap::new(),
            contents: Contents::default(),
            damages: BTreeMap::new(),
            health: BTreeMap::new(),
            probed: BTreeMap::new(),
            pids: 100,
            shims: 0,
        }
    }

    pub fn observe(&self) -> Observed {
        let current = self
            .store
            .iter()
            // What a registry has by now is seen by asking it only.
            .filter(|(key, v)| is_registry(key) || self.sources.get(*key) == Some(&Some(**v)));
        let exposing = |key: &String, version: u8| {
            let mut image = image(key, version);
            image.config.exposed_ports.clone_from(&self.exposes);
            image
        };
        let images = current
            .map(|(key, v)| (key.clone(), exposing(key, *v).into()))
            .collect();
        let containers = self
            .containers
            .iter()
            .map(|(id, c)| (id.clone(), Look::Known(c.seen.clone())));
        Observed {
            images: Look::Known(images),
            links: Look::Known(self.links.clone()),
            foreign_addresses: Look::Known(self.foreign.clone()),
            foreign_addresses6: Look::Known(self.foreign6.clone()),
            forwarding: Look::Known(self.forwarding),
            forwarding6: Look::Known(self.forwarding6),
            firewall: Look::Known(self.firewall.clone()),
            firewall_there: self.firewall.is_some(),
            firewall_wrong: None,
            foreign_drops: self.foreign_drops.clone(),
            backend: self.backend.clone(),
            around: self.around.clone(),
            listeners: Look::Known(self.listeners.clone()),
            dns: Look::Known(self.dns.clone()),
            dns_ports: Default::default(),
            dns_inside: self.asked_inside(),
            damage: self.damaged(),
            volumes: Look::Known(self.volumes.clone()),
            contents: self.contents.seen(),
            delivered: self.contents.records.clone(),
            health: self.health.clone(),
            containers: Look::Known(containers.collect()),
        }
    }

    /// All there is to be seen of it, to be printed.
    pub fn seen(&self) -> impl std::fmt::Debug {
        let containers = self
            .containers
            .values()
            .map(|c| (c.seen.clone(), c.shim, c.joined.clone()));
        let containers: Vec<_> = containers.collect();
        (
            containers,
            self.links.clone(),
            self.firewall.clone(),
            self.dns.clone(),
            self.volumes.clone(),
            self.contents.records.clone(),
        )
    }

    /// Carries an action out, or the first half of it. The text of a failure says whose fault it is.
    pub fn apply(&mut self, action: &Action, now: Timestamp, half: bool) -> Result<(), String> {
        match action {
            Action::ApplyVolume { name, spec } => self.make_volume(name, spec, now, half),
            Action::RemoveVolume { name } => {
                if !half {
                    self.volumes.remove(name);
                }
            }
            Action::ApplyDns { state } => {
                if !half {
                    self.dns = (*state != DnsState::default()).then(|| state.clone());
                    self.dns_inside.clear();
                    state.inside.keys().for_each(|id| self.listen_inside(id));
                }
            }
            Action::RestartUnhealthy { id, run_no, .. } => {
                let same = self.containers.get(id).is_some_and(|c| c.seen.run_no == *run_no);
                if same && !half {
                    self.exits(id, now, 137);
                }
            }
            Action::LoadImage { source, .. } => {
                let version = self
                    .sources
                    .get(&source.key())
                    .copied()
                    .flatten()
                    .ok_or("no such file")?;
                if !half {
                    self.store.insert(source.key(), version);
                }
            }
            Action::ApplyNetwork { network } if network.is_lan() => {
                self.links.remove(&network.bridge);
                let own = on_lan(network, half);
                self.links.extend(own.map(|link| (network.bridge.clone(), link)));
            }
            Action::ApplyNetwork { network } => {
                if self.links.get(&network.bridge).is_some_and(|l| !l.ours) {
                    return Err("device exists".to_owned());
                }
                let link = bridge(network, half);
                self.links.insert(network.bridge.clone(), link);
                match &network.driver {
                    Driver::Overlay(end) => {
                        self.links.insert(end.device.clone(), tunnel(network, end, half));
                        let below = end
                            .wireguard
                            .as_ref()
                            .map(|w| (w.device.clone(), wireguard(network, w, half)));
                        self.links.extend(below);
                    }
                    Driver::Ovs { tunnel: end, .. } => {
                        let switch = switch(network, end, half);
                        let outer = ObservedLink {
                            master: Some(network.bridge.clone()),
                            addresses: Vec::new(),
                            addresses6: Vec::new(),
                            ..switch.clone()
                        };
                        self.links.insert(end.device.clone(), outer);
                        self.links.insert(network.bridge.clone(), switch);
                    }
                    _ => {}
                }
            }
            Action::RemoveNetwork { bridge, .. } => self.remove_bridge(bridge),
            Action::ApplyFirewall { state } => {
                if !half {
                    self.firewall = (*state != FirewallState::default()).then(|| state.clone());
                    self.forwarding = true;
                    self.forwarding6 |= state.bridges.iter().any(|b| b.ip.v6().is_some());
                }
            }
            Action::PrepareContainer { instance } => return self.prepare(instance, now, half),
            Action::StartContainer { instance } => return self.start(instance, now, half),
            Action::RepairAttachments { instance } => {
                if self.containers.get(&instance.id).is_some_and(Real::live) {
                    self.attach(instance)?;
                }
            }
            Action::MendContainer { instance } => self.mend(instance, half),
            Action::DeliverContents {
                instance,
                contents,
                run_no,
                then,
            } => self.renew(instance, contents, *run_no, then, now, half)?,
            Action::UpdateContainer { id, policy, .. } => {
                let container = self
                    .containers
                    .get_mut(id)
                    .filter(|c| c.live())
                    .ok_or("no shim")?;
                container.seen.rev = policy.rev;
                if let Some(instance) = &mut container.instance {
                    instance.spec.restart = policy.restart;
                }
            }
            Action::StopContainer { id, .. } => {
                if !half {
                    self.end(id, now, 143, true, Phase::Exited);
                }
            }
            Action::RemoveContainer { id, host_devices, .. } => {
                self.end(id, now, 143, true, Phase::Exited);
                if !half {
                    self.containers.remove(id);
                    self.contents.drop_all_of(id);
                    self.links.retain(|name, _| !host_devices.contains(name));
                }
            }
        }
        if half {
            Err("cut off halfway".to_owned())
        } else {
            Ok(())
        }
    }

    fn prepare(&mut self, instance: &Instance, now: Timestamp, half: bool) -> Result<(), String> {
        if instance.spec.user.is_some() {
            return Err("no such user".to_owned());
        }
        self.contents.give(instance)?;
        if !half {
            self.put(instance, now, Phase::Prepared);
            return Ok(());
        }
        Err("cut off halfway".to_owned())
    }

    fn start(&mut self, instance: &Instance, now: Timestamp, half: bool) -> Result<(), String> {
        if self.containers.get(&instance.id).is_some_and(Real::running) {
            return Ok(());
        }
        if instance.spec.user.is_some() {
            return Err("no such user".to_owned());
        }
        if instance.spec.command == Some(vec!["bad".to_owned()]) {
            self.put(instance, now, Phase::Prepared);
            return Err("no such program".to_owned());
        }
        if !matches!(
            self.containers.get(&instance.id).map(|c| &c.seen.phase),
            Some(Phase::Paused { .. } | Phase::Backoff { .. })
        ) {
            self.contents.give(instance)?;
        }
        let joined = self.join(instance)?;
        self.put(instance, now, Phase::Created);
        if let Some(c) = self.containers.get_mut(&instance.id) {
            c.joined = joined;
        }
        if let Err(e) = self.attach(instance) {
            self.end(&instance.id, now, 1, true, Phase::Lost);
            return Err(e);
        }
        if half {
            return Err("cut off halfway".to_owned());
        }
        self.listen_inside(&instance.id);
        self.run(&instance.id, now);
        Ok(())
    }

    /// Where the name server is asked in its own network namespace, and it has one.
    fn listen_inside(&mut self, id: &ContainerId) {
        let told = self.dns.as_ref().is_some_and(|dns| dns.inside.contains_key(id));
        let shim = self.containers.get(id).filter(|c| c.live()).map(|c| c.shim);
        self.dns_inside
            .extend(shim.filter(|_| told).map(|shim| (id.clone(), shim)));
    }

    fn asked_inside(&self) -> BTreeSet<ContainerId> {
        let now = |(id, shim): &&(ContainerId, u64)| {
            let container = self.containers.get(id).filter(|c| c.live());
            self.dns.is_some() && container.is_some_and(|c| c.shim == *shim)
        };
        self.dns_inside
            .iter()
            .filter(now)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// The namespaces it asks for have to be there.
    fn join(&self, instance: &Instance) -> Result<Vec<Joined>, String> {
        let there = |id: &ContainerId| self.containers.get(id).filter(|c| c.live());
        let mut joined = Vec::new();
        for id in instance.joins.net.iter().chain(&instance.joins.ipc) {
            let owner = there(id).ok_or("the owner of its namespaces is not there")?;
            joined.push(Joined::Shim(id.clone(), owner.shim));
        }
        if let Some(id) = &instance.joins.pid {
            let owner = there(id)
                .filter(|c| c.running())
                .ok_or("the owner of its pid namespace does not run")?;
            joined.push(Joined::Run(id.clone(), owner.seen.run_no));
        }
        Ok(joined)
    }

    fn make_volume(&mut self, name: &Name, spec: &VolumeSpec, now: Timestamp, half: bool) {
        // Data that is there is left alone; cut off halfway, it is there and not labelled.
        let made = ObservedVolume {
            path: format!("/var/lib/wharf/volumes/{name}/data").into(),
            spec: VolumeSpec::default(),
            created_at: now,
            reach: Reach::Here,
        };
        let volume = self.volumes.entry(name.clone()).or_insert(made);
        if !half {
            volume.spec = spec.clone();
            volume.reach = Reach::Here;
        }
    }

    fn put(&mut self, instance: &Instance, now: Timestamp, phase: Phase) {
        let before = self.containers.remove(&instance.id);
        let same_shim = before.as_ref().filter(|c| c.live()).map(|c| c.shim);
        let shim = same_shim.unwrap_or_else(|| {
            self.shims += 1;
            self.shims
        });
        let mut seen = before.map(|c| c.seen).unwrap_or_else(|| ObservedContainer {
            id: instance.id.clone(),
            name: instance.name.clone(),
            phase: Phase::Prepared,
            rev: 0,
            run_no: 0,
            restarts: 0,
            created_at: now,
            started_at: None,
            last_exit: None,
        });
        seen.phase = phase;
        seen.rev = instance.rev;
        self.containers.insert(
            instance.id.clone(),
            Real {
                seen,
                instance: Some(instance.clone()),
                shim,
                again: now,
                joined: Vec::new(),
            },
        );
    }

    fn run(&mut self, id: &ContainerId, now: Timestamp) {
        self.pids += 1;
        let pid = self.pids;
        if let Some(c) = self.containers.get_mut(id) {
            c.seen.phase = Phase::Running { pid };
            c.seen.run_no += 1;
            c.seen.started_at = Some(now);
            self.contents.tell(id);
        }
    }

    /// The run is ended, and another one begun: no crash, and not counted.
    pub(super) fn begin_anew(&mut self, id: &ContainerId, now: Timestamp) {
        let up = |c: &Real| matches!(c.seen.phase, Phase::Running { .. } | Phase::Backoff { .. });
        if self.containers.get(id).is_some_and(up) {
            self.run(id, now);
        }
    }

    fn attach(&mut self, instance: &Instance) -> Result<(), String> {
        for a in &instance.attachments {
            if let Link::Macvlan(parent) | Link::Ipvlan(parent) = &a.link {
                let up = self.links.get(&parent.name).is_some_and(|l| l.up);
                up.then_some(())
                    .ok_or(format!("parent {} is not there", parent.name))?;
                continue;
            }
            let good = |l: &ObservedLink| (l.ours || a.link == Link::Adopted) && l.up;
            if !self.links.get(&a.bridge).is_some_and(good) {
                return Err(format!("bridge {} is not there", a.bridge));
            }
            let link = ObservedLink {
                kind: "veth".to_owned(),
                ours: true,
                up: true,
                index: 0,
                below: None,
                mtu: 1500,
                master: Some(a.bridge.clone()),
                isolated: a.isolated,
                addresses: Vec::new(),
                route_localnet: false,
                addresses6: Vec::new(),
                ipv6: model::observed::Ipv6State::Off,
                tunnel: None,
            };
            self.links.insert(a.host_device.clone(), link);
        }
        Ok(())
    }

    /// Ends a payload and its shim.
    pub fn end(&mut self, id: &ContainerId, now: Timestamp, code: i32, requested: bool, phase: Phase) {
        let Some(c) = self.containers.get_mut(id).filter(|c| c.live()) else {
            return;
        };
        if c.seen.run_no > 0 && phase == Phase::Exited {
            c.seen.last_exit = Some(ExitRecord {
                run_no: c.seen.run_no,
                code,
                signal: None,
                oom_killed: false,
                started_at: c.seen.started_at.unwrap_or(now),
                finished_at: now,
                requested,
                error: None,
            });
        }
        c.seen.phase = phase;
        let devices: Vec<String> = c
            .instance
            .iter()
            .flat_map(|i| &i.attachments)
            .map(|a| a.host_device.clone())
            .collect();
        self.links.retain(|name, _| !devices.contains(name));
    }

    /// The shims of all in whose namespaces others live are killed.
    pub fn kill_owners(&mut self, now: Timestamp) {
        let sharers = self.containers.values().filter(|c| c.live());
        let owners = sharers.flat_map(|c| &c.joined).map(|joined| match joined {
            Joined::Shim(id, _) | Joined::Run(id, _) => id.clone(),
        });
        let owners: Vec<ContainerId> = owners.collect();
        for id in owners {
            self.end(&id, now, 137, false, Phase::Lost);
        }
    }

    pub fn remove_bridge(&mut self, bridge: &str) {
        self.links.remove(bridge);
        let goes = |l: &ObservedLink| l.tunnel.is_some() && l.master.as_deref() == Some(bridge);
        let tunnels = self.links.values().filter(|l| goes(l));
        let below: Vec<String> = tunnels.filter_map(|l| l.below.clone()).collect();
        self.links.retain(|name, l| !goes(l) && !below.contains(name));
        for link in self
            .links
            .values_mut()
            .filter(|l| l.master.as_deref() == Some(bridge))
        {
            link.master = None;
        }
    }

    /// The clock was set. Shims wait by one that nobody can set (CLOCK_MONOTONIC), whatever end of it they told: a wait
    /// of 100 ms is not one of hours on a host whose clock went back so far.
    pub fn clock_set(&mut self, by: SignedDuration) {
        self.containers.values_mut().for_each(|c| c.again += by);
    }

    /// Shims whose backoff is over start their payload again.
    pub fn tick(&mut self, now: Timestamp) {
        let due: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, c)| matches!(c.seen.phase, Phase::Backoff { .. }) && c.again <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.run(&id, now);
        }
    }

    /// Something happens that nobody asked the agent for.
    pub fn disturb(&mut self, rng: &mut Rng, now: Timestamp) {
        let ids: Vec<ContainerId> = self.containers.keys().cloned().collect();
        let devices: Vec<String> = self
            .links
            .iter()
            .filter(|(_, l)| l.ours)
            .map(|(n, _)| n.clone())
            .collect();
        match rng.below(13) {
            12 => self.dns = None,
            0 | 1 if !ids.is_empty() => self.end(rng.pick(&ids), now, 137, false, Phase::Lost),
            2 | 3 if !ids.is_empty() => {
                let id = rng.pick(&ids).clone();
                let code = i32::from(rng.one_in(2));
                self.exits(&id, now, code);
            }
            4 if !devices.is_empty() => {
                let device = rng.pick(&devices).clone();
                self.remove_bridge(&device);
            }
            5 if !devices.is_empty() => {
                if let Some(link) = self.links.get_mut(rng.pick(&devices)) {
                    link.up = false;
                }
            }
            6 => self.firewall = None,
            7 => (self.forwarding, self.forwarding6) = (false, false),
            8 => self.toggle_listener(rng),
            9 => self.toggle_address(rng),
            10 => {
                let key = image_source(rng.below(IMAGES)).key();
                let version = if rng.one_in(4) {
                    None
                } else {
                    Some(u8::try_from(rng.below(3)).unwrap())
                };
                self.sources.insert(key, version);
            }
            11 if rng.one_in(4) => self.reboot(now),
            _ => {}
        }
    }

    fn exits(&mut self, id: &ContainerId, now: Timestamp, code: i32) {
        let Some(c) = self.containers.get_mut(id).filter(|c| c.running()) else {
            return;
        };
        let policy = c
            .instance
            .as_ref()
            .map_or(RestartPolicy::Always, |i| i.spec.restart.policy);
        let again = policy == RestartPolicy::Always || (policy == RestartPolicy::OnFailure && code != 0);
        if again {
            c.seen.restarts += 1;
            c.again = now + SignedDuration::from_millis(100);
            c.seen.phase = Phase::Backoff { until: c.again };
        } else {
            self.end(id, now, code, false, Phase::Exited);
        }
    }

    /// Everything that lives in memory is gone.
    fn reboot(&mut self, now: Timestamp) {
        let ids: Vec<ContainerId> = self.containers.keys().cloned().collect();
        for id in ids {
            self.end(&id, now, 137, false, Phase::Lost);
        }
        self.links.retain(|_, l| !l.ours);
        self.firewall = None;
        self.dns = None;
        self.forwarding = false;
        self.forwarding6 = false;
        self.contents.forget();
    }

    fn toggle_listener(&mut self, rng: &mut Rng) {
        if self.listeners.pop().is_none() {
            self.listeners.push(Listener {
                protocol: Protocol::Tcp,
                ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                port: 8000 + u16::try_from(rng.below(12)).unwrap(),
                holder: Some((4711, "nginx".to_owned())),
            });
        }
    }

    fn toggle_address(&mut self, rng: &mut Rng) {
        if self.foreign.len() > 1 {
            self.foreign.pop();
            return;
        }
        let net = *rng.pick(&[
            Ipv4Addr::new(10, 80, 0, 9),
            Ipv4Addr::new(10, 88, 0, 9),
            Ipv4Addr::new(10, 80, 11, 9),
        ]);
        self.foreign.push(ForeignAddress {
            device: "eth1".to_owned(),
            address: Ipv4Net::new(net, 24).unwrap(),
        });
    }

    /// Nothing of the host stands in the way any more.
    pub fn heal(&mut self) {
        self.listeners.clear();
        self.foreign.truncate(1);
        self.contents.heal();
        for volume in self.volumes.values_mut() {
            if matches!(volume.reach, Reach::Silent(_)) {
                volume.reach = Reach::Here;
            }
        }
        super::schedule::heal(&mut self.around);
        for version in self.sources.values_mut() {
            version.get_or_insert(1);
        }
    }

    /// Containers with interfaces now, by bridge and address.
    pub fn addresses(&self) -> Vec<((String, IpAddr), Name)> {
        let live = self
            .containers
            .values()
            .filter(|c| c.live())
            .filter_map(|c| c.instance.as_ref());
        live.flat_map(|i| {
            let at = |a: &Attachment| a.ips().map(|ip| (a.bridge.clone(), ip)).collect::<Vec<_>>();
            let places = i.attachments.iter().flat_map(at);
            places.map(|place| (place, i.name.clone())).collect::<Vec<_>>()
        })
        .collect()
    }
}

pub fn image(key: &str, version: u8) -> Image {
    let tag = key
        .bytes()
        .fold(version, |a, b| a.wrapping_mul(31).wrapping_add(b));
    Image {
        key: key.to_owned(),
        id: Some(Digest::from_bytes([tag; 32])),
        digest: None,
        size: 1,
        layers: Vec::new(),
        config: ImageConfig {
            healthcheck: key.contains("i1").then(|| ImageHealthcheck {
                test: vec!["CMD".to_owned(), "check".to_owned()],
                interval: Duration::ZERO,
                timeout: Duration::ZERO,
                start_period: Duration::ZERO,
                start_interval: Duration::ZERO,
                retries: 0,
            }),
            ..ImageConfig::default()
        },
    }
}

fn is_registry(key: &str) -> bool {
    key.starts_with("registry.example/")
}

fn bridge(network: &HostNetwork, half: bool) -> ObservedLink {
    let four = network
        .v4()
        .map(|v4| Ipv4Net::new(v4.gateway, v4.subnet.prefix_len()).unwrap());
    let six = network.v6().filter(|_| !half);
    let six = six.map(|v6| Ipv6Net::new(v6.gateway, v6.subnet.prefix_len()).unwrap());
    ObservedLink {
        kind: "bridge".to_owned(),
        ours: true,
        up: !half,
        index: 0,
        below: None,
        mtu: network.mtu.unwrap_or(1500),
        master: None,
        isolated: false,
        addresses: four.into_iter().collect(),
        addresses6: six.into_iter().collect(),
        route_localnet: !half,
        ipv6: match network.v6() {
            Some(_) if half => Ipv6State::Wrong,
            Some(_) => Ipv6State::On,
            None => Ipv6State::Off,
        },
        tunnel: None,
    }
}

/// What the host has of a LAN.
fn on_lan(network: &HostNetwork, half: bool) -> Option<ObservedLink> {
    let below = network.driver.below().filter(|below| below.host_access)?;
    let (mut addresses, mut addresses6) = (Vec::new(), Vec::new());
    for net in network.host_addresses() {
        match net {
            IpNet::V4(net) => addresses.push(net),
            IpNet::V6(net) => addresses6.push(net),
        }
    }
    Some(ObservedLink {
        kind: network.driver.word().to_owned(),
        below: Some(below.parent.name.clone()),
        addresses,
        addresses6,
        route_localnet: false,
        ..bridge(network, half)
    })
}

/// Of Open vSwitch: the bridge has all there is to tell.
fn switch(network: &HostNetwork, end: &Tunnel, half: bool) -> ObservedLink {
    let Driver::Ovs { datapath, vlan, .. } = &network.driver else {
        unreachable!("it is asked for networks of Open vSwitch");
    };
    let made = ObservedSwitch {
        kind: end.kind.clone(),
        datapath: datapath.clone(),
        vlan: *vlan,
        mtu: network.mtu,
        gateway: network.v4().unwrap().gateway,
        gateway6: network.v6().map(|v6| v6.gateway),
        whole: !half,
    };
    let tunnel = tunnel(network, end, half).tunnel;
    ObservedLink {
        kind: "ovs".to_owned(),
        tunnel: tunnel.map(|seen| ObservedTunnel {
            switch: Some(made),
            ..seen
        }),
        ..bridge(network, half)
    }
}

fn peer(at: SocketAddr) -> ObservedPeer {
    ObservedPeer {
        endpoint: Some(at),
        confined: true,
    }
}

/// What encrypts a tunnel.
fn wireguard(network: &HostNetwork, end: &WireGuard, half: bool) -> ObservedLink {
    ObservedLink {
        kind: "wireguard".to_owned(),
        mtu: network.mtu.map_or(1420, WireGuard::mtu),
        addresses: Vec::new(),
        addresses6: vec![end.key.inside()],
        route_localnet: false,
        ipv6: Ipv6State::On,
        ..bridge(network, half)
    }
}

fn tunnel(network: &HostNetwork, end: &Tunnel, half: bool) -> ObservedLink {
    let seen = ObservedTunnel {
        vni: end.vni,
        port: end.port,
        local: Some(end.source()),
        peers: end.targets().into_iter().filter(|_| !half).collect(),
        sealed: !half,
        switch: None,
        wireguard: end.wireguard.as_ref().map(|w| ObservedWireGuard {
            key: Some(w.key).filter(|_| !half),
            port: w.port,
            peers: w.peers().map(|(key, at)| (key, peer(at))).collect(),
        }),
    };
    ObservedLink {
        kind: "vxlan".to_owned(),
        ours: true,
        up: !half,
        index: 0,
        below: end.wireguard.as_ref().map(|w| w.device.clone()),
        mtu: network.mtu.unwrap_or(1500),
        master: Some(network.bridge.clone()).filter(|_| !half),
        isolated: false,
        addresses: Vec::new(),
        addresses6: Vec::new(),
        route_localnet: false,
        ipv6: Ipv6State::Off,
        tunnel: Some(seen),
    }
}
