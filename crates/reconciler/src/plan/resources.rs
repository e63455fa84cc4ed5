//! Interfaces and published ports of one container, with everything picked that was left open.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use model::firewall::{PortRule, Protocol};
use model::image::Image;
use model::ledger::spare_owner;
use model::name::{ContainerId, Name};
use model::network::{Attachment, BridgeNetwork, MacAddr};
use model::observed::{Look, overlaps};
use model::spec::{ContainerSpec, NetworkMode, NetworkUse, PortSpec};

use super::{Blocked, Mutation, Pass};
use crate::allocate::{address, device, port};
use crate::resolve::default_network;

/// One interface more than device names can be told apart by.
const MOST_INTERFACES: usize = 36;

/// Ports that `publish_all` publishes at most: an image that exposes more means "whatever comes".
const MOST_EXPOSED: usize = 256;

/// The networks a table joins, in order of eth0, eth1, ….
pub(super) fn uses(spec: &ContainerSpec) -> Vec<NetworkUse> {
    match spec.network_mode {
        NetworkMode::Bridge if spec.networks.is_empty() => {
            default_network().map(NetworkUse::new).into_iter().collect()
        }
        NetworkMode::Bridge => spec.networks.clone(),
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) => Vec::new(),
    }
}

/// Whose addresses an instance gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leased {
    /// Those that belong to the name.
    Own,
    /// Others, for one that runs beside those.
    Spare,
}

impl Pass<'_, '_> {
    /// The container's interfaces, its addresses leased. Nothing is given to it that another one has.
    pub(super) fn attachments(
        &mut self,
        name: &Name,
        id: &ContainerId,
        spec: &ContainerSpec,
        lease: Leased,
    ) -> Result<Vec<Attachment>, Blocked> {
        let uses = uses(spec);
        if uses.len() > MOST_INTERFACES {
            return Err(Blocked::error(format!(
                "joins {} networks; at most {MOST_INTERFACES} are possible",
                uses.len()
            )));
        }
        let mut list = Vec::new();
        for (index, usage) in uses.iter().enumerate() {
            let network = self.network_of(usage)?;
            let ip = self.address(name, &network, usage, lease)?;
            self.given.insert((network.name.clone(), ip), name.clone());
            list.push(attachment(name, id, index, &network, usage, ip));
        }
        self.set_way_out(&mut list);
        Ok(list)
    }

    fn network_of(&self, usage: &NetworkUse) -> Result<BridgeNetwork, Blocked> {
        let name = &usage.network;
        match self.ledger.networks.get(name) {
            Some(entry) => Ok(entry.network.clone()),
            None if self.network_is_held(name) => Err(Blocked::wait(format!(
                "waits for network {name}, whose table has an error"
            ))),
            None => Err(Blocked::wait(format!("waits for network {name}"))),
        }
    }

    fn address(
        &mut self,
        name: &Name,
        network: &BridgeNetwork,
        usage: &NetworkUse,
        lease: Leased,
    ) -> Result<Ipv4Addr, Blocked> {
        if let Some(ip) = usage.ip {
            return self.written_address(name, network, ip);
        }
        let key = match lease {
            Leased::Own => address::lease_key(network.name.as_str(), name.as_str()),
            Leased::Spare => address::lease_key(network.name.as_str(), &spare_owner(name.as_str())),
        };
        let beside = self.lives_beside(name, lease);
        let reserved = &self.reserved;
        let ignore = self.broken(Mutation::AddressesAreNotKept);
        let given = &self.given;
        let taken = |ip: Ipv4Addr| {
            let place = (network.name.clone(), ip);
            let by_another =
                |of: &&std::collections::BTreeMap<_, Name>| of.get(&place).is_some_and(|by| by != name);
            !ignore && (beside.contains(&place) || [given, reserved].iter().any(by_another))
        };
        if ignore {
            self.ledger.leases.clear();
        }
        let ip = address::lease(&mut self.ledger.leases, network, &key, self.input.now, taken);
        ip.ok_or_else(|| {
            let range = network.range.unwrap_or(network.subnet);
            Blocked::error(format!(
                "network {} has no free address left in {range}; give it a larger subnet or remove containers",
                network.name
            ))
        })
    }

    fn written_address(
        &self,
        name: &Name,
        network: &BridgeNetwork,
        ip: Ipv4Addr,
    ) -> Result<Ipv4Addr, Blocked> {
        let whole = BridgeNetwork {
            range: None,
            ..network.clone()
        };
        if !address::may_be_given(&whole, ip) {
            return Err(Blocked::error(format!(
                "address {ip} cannot be given in network {} ({}, gateway {})",
                network.name, network.subnet, network.gateway
            )));
        }
        match self
            .given
            .get(&(network.name.clone(), ip))
            .filter(|by| *by != name)
        {
            None => Ok(ip),
            Some(by) => {
                let entry = self.ledger.containers.get(by);
                let stays = entry.is_some_and(|e| e.gone_since.is_none() && e.next.is_none());
                let why = format!(
                    "address {ip} in network {} is still used by container {by}",
                    network.name
                );
                Err(Blocked {
                    why,
                    until: None,
                    error: stays,
                })
            }
        }
    }

    /// The default route goes over the first network that has a way out.
    fn set_way_out(&self, list: &mut [Attachment]) {
        let way_out = self.way_out(list);
        if let Some(attachment) = way_out.and_then(|index| list.get_mut(index)) {
            attachment.gateway = self
                .ledger
                .networks
                .get(&attachment.network)
                .map(|n| n.network.gateway);
        }
    }

    /// Which of these interfaces the default route goes over.
    pub(super) fn way_out(&self, list: &[Attachment]) -> Option<usize> {
        let networks = &self.ledger.networks;
        list.iter()
            .position(|a| networks.get(&a.network).is_some_and(|n| !n.network.internal))
    }

    /// The container's published ports, those left open picked.
    pub(super) fn ports(
        &mut self,
        name: &Name,
        spec: &ContainerSpec,
        image: Option<&Image>,
        attachments: &[Attachment],
        fresh: bool,
    ) -> Result<Vec<PortRule>, Blocked> {
        let Some(target) = attachments
            .iter()
            .find(|a| a.gateway.is_some())
            .or(attachments.first())
        else {
            return Ok(Vec::new());
        };
        let mut rules = Vec::new();
        let mut picked = BTreeSet::new();
        let exposed = match image.filter(|_| spec.publish_all) {
            Some(image) => left_to_publish(&image.config.exposed_ports, &spec.ports)?,
            None => Vec::new(),
        };
        for entry in spec.ports.iter().chain(&exposed) {
            for (host, inside) in crate::resolve::each_port(entry) {
                let mut rule = self.rule(name, entry, inside, target);
                rule.host_port = match host {
                    Some(port) => port,
                    // Said twice, it is published once.
                    None if picked.contains(&(rule.protocol, rule.host_ip, inside)) => continue,
                    None => self.picked(name, &rule, &rules, fresh)?,
                };
                if host.is_none() {
                    picked.insert((rule.protocol, rule.host_ip, inside));
                }
                rules.push(rule);
            }
        }
        rules.sort();
        rules.dedup();
        Ok(rules)
    }

    fn rule(&self, name: &Name, entry: &PortSpec, inside: u16, target: &Attachment) -> PortRule {
        let ip = match entry.ip {
            Some(IpAddr::V4(ip)) => ip,
            Some(IpAddr::V6(_)) | None => self.input.desired.settings.default_host_ip,
        };
        let mut allow: Vec<ipnet::Ipv4Net> = entry
            .allow
            .iter()
            .filter_map(|net| match net {
                IpNet::V4(net) => Some(net.trunc()),
                IpNet::V6(_) => None,
            })
            .collect();
        allow.sort();
        allow.dedup();
        PortRule {
            protocol: entry.protocol,
            host_ip: Some(ip).filter(|ip| !ip.is_unspecified()),
            host_port: 0,
            target_ip: target.ip,
            target_port: inside,
            bridge: target.bridge.clone(),
            allow,
            container: name.clone(),
            service: self.place(name).map(|place| place.service.clone()),
        }
    }

    /// The port picked before, or a new one that nobody wants, has, or listens on.
    fn picked(
        &mut self,
        name: &Name,
        rule: &PortRule,
        own: &[PortRule],
        fresh: bool,
    ) -> Result<u16, Blocked> {
        // Picked once for all instances of a service.
        let service = self.service(name);
        let key = port::key(service.as_str(), rule.target_port, rule.protocol, rule.host_ip);
        let wanted = self.wanted_ports(rule.protocol, service);
        let taken = |port: u16, listeners: bool| {
            let same = |(ip, range): &(Option<Ipv4Addr>, (u16, u16))| {
                (range.0..=range.1).contains(&port) && overlaps(*ip, rule.host_ip)
            };
            let mine = own.iter().any(|r| {
                r.protocol == rule.protocol && r.host_port == port && overlaps(r.host_ip, rule.host_ip)
            });
            mine || wanted.iter().any(same)
                || (listeners && self.foreign_listener(rule.protocol, rule.host_ip, port).is_some())
        };
        if let Some(kept) = self
            .ledger
            .picked_ports
            .get(&key)
            .filter(|port| !taken(**port, fresh))
        {
            return Ok(*kept);
        }
        if let Look::Unknown(why) = &self.input.observed.listeners {
            return Err(Blocked::wait(format!(
                "cannot see which host ports are free: {why}"
            )));
        }
        let picked = port::pick(|port| taken(port, true)).ok_or_else(|| {
            Blocked::error(format!(
                "no host port of {:?} is free for port {}",
                port::PICKED,
                rule.target_port
            ))
        })?;
        self.ledger.picked_ports.insert(key, picked);
        Ok(picked)
    }

    /// Host ports that others have, have written, or had picked.
    fn wanted_ports(&self, protocol: Protocol, service: &Name) -> Vec<(Option<Ipv4Addr>, (u16, u16))> {
        let default = self.input.desired.settings.default_host_ip;
        let written = self.input.desired.containers.values().flat_map(|c| &c.spec.ports);
        let written = written.filter(|p| p.protocol == protocol).filter_map(|p| {
            let ip = match p.ip {
                Some(IpAddr::V4(ip)) => ip,
                _ => default,
            };
            Some((Some(ip).filter(|ip| !ip.is_unspecified()), p.host?))
        });
        let others = self.ledger.containers.iter();
        let others = others.filter(|(name, _)| self.service(name) != service);
        let accepted = others.flat_map(|(_, e)| {
            e.current.ports.iter().chain(
                e.next
                    .as_ref()
                    .map(|n| n.accepted.ports.as_slice())
                    .unwrap_or_default(),
            )
        });
        let accepted = accepted
            .filter(|r| r.protocol == protocol)
            .map(|r| (r.host_ip, (r.host_port, r.host_port)));
        let own = format!("{service}/");
        let picked = self
            .ledger
            .picked_ports
            .iter()
            .filter(|(key, _)| !key.starts_with(&own));
        let of_protocol = format!("/{protocol}/");
        let picked = picked
            .filter(|(key, _)| key.contains(&of_protocol))
            .map(|(_, port)| (None, (*port, *port)));
        written.chain(accepted).chain(picked).collect()
    }
}

fn attachment(
    name: &Name,
    id: &ContainerId,
    index: usize,
    network: &BridgeNetwork,
    usage: &NetworkUse,
    ip: Ipv4Addr,
) -> Attachment {
    Attachment {
        network: network.name.clone(),
        device: format!("eth{index}"),
        host_device: device::host_device(id, index),
        bridge: network.bridge.clone(),
        ip,
        prefix: network.subnet.prefix_len(),
        mac: usage.mac.unwrap_or_else(|| MacAddr::of_lease(ip)),
        gateway: None,
        mtu: network.mtu,
        aliases: std::iter::once(name)
            .chain(&usage.aliases)
            .map(ToString::to_string)
            .collect(),
    }
}

/// What an image exposes and the table does not publish itself.
fn left_to_publish(exposes: &[String], published: &[PortSpec]) -> Result<Vec<PortSpec>, Blocked> {
    let exposed = exposed(exposes);
    let count: usize = exposed
        .iter()
        .map(|p| usize::from(p.container.1 - p.container.0) + 1)
        .sum();
    if count > MOST_EXPOSED {
        return Err(Blocked::error(format!(
            "publish_all: its image exposes {count} ports, more than {MOST_EXPOSED}; list those that are wanted in `ports`"
        )));
    }
    let has = |port: u16, protocol: Protocol| {
        published
            .iter()
            .any(|p| p.protocol == protocol && (p.container.0..=p.container.1).contains(&port))
    };
    let single = |entry: PortSpec| {
        let (first, last) = entry.container;
        (first..=last).map(move |port| PortSpec {
            container: (port, port),
            ..entry.clone()
        })
    };
    let all = exposed.into_iter().flat_map(single);
    Ok(all.filter(|p| !has(p.container.0, p.protocol)).collect())
}

/// `80/tcp`, `53/udp`, `80`, `7000-7010/tcp` of an image's EXPOSE; what is none of these is left out.
fn exposed(list: &[String]) -> Vec<PortSpec> {
    let one = |text: &String| {
        let text = text.trim().to_ascii_lowercase();
        let (ports, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        let protocol = match protocol {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let container: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (container.0 > 0 && container.0 <= container.1).then_some(PortSpec {
            ip: None,
            host: None,
            container,
            protocol,
            allow: Vec::new(),
        })
    };
    list.iter().filter_map(one).collect()
}
