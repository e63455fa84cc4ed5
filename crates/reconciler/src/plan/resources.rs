//! Interfaces of one container, with everything picked that was left open.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::families::Families;
use model::ledger::spare_owner;
use model::name::{ContainerId, Name};
use model::network::{Address4, Address6, Attachment, HostNetwork, MacAddr, Subnet4, Subnet6};
use model::spec::{ContainerSpec, NetworkUse};

use super::{Blocked, Mutation, Pass};
use crate::allocate::{address, address6, device};
pub(super) use crate::resolve::uses;

/// One interface more than device names can be told apart by.
const MOST_INTERFACES: usize = 36;

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
            let ip = self.addresses(name, &network, usage, lease)?;
            list.push(attachment(name, id, index, &network, usage, ip));
        }
        self.set_way_out(&mut list);
        Ok(list)
    }

    /// Its addresses there: of the families that the network has.
    fn addresses(
        &mut self,
        name: &Name,
        network: &HostNetwork,
        usage: &NetworkUse,
        lease: Leased,
    ) -> Result<Families<Address4, Address6>, Blocked> {
        has_family(network, usage)?;
        Ok(match &network.ip {
            Families::V4(v4) => Families::V4(self.address(name, (network, v4), usage, lease)?),
            Families::V6(v6) => Families::V6(self.address6(name, (network, v6), usage, lease, None)?),
            Families::Both(v4, v6) => {
                let four = self.address(name, (network, v4), usage, lease)?;
                let six = self.address6(name, (network, v6), usage, lease, Some(four.ip))?;
                Families::Both(four, six)
            }
        })
    }

    fn give(&mut self, name: &Name, network: &HostNetwork, ip: IpAddr) {
        self.given.insert((network.name.clone(), ip), name.clone());
    }

    fn network_of(&self, usage: &NetworkUse) -> Result<HostNetwork, Blocked> {
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
        (network, v4): (&HostNetwork, &Subnet4),
        usage: &NetworkUse,
        lease: Leased,
    ) -> Result<Address4, Blocked> {
        let ip = match usage.ip {
            Some(ip) if !address::may_be_given(v4, ip) => {
                Err(cannot_be_given(network, ip, v4.subnet, v4.gateway))
            }
            Some(ip) => self.unless_given(name, network, ip.into()).map(|()| ip),
            None => {
                let key = lease_key(network, name, lease);
                let ignore = self.broken(Mutation::AddressesAreNotKept);
                if ignore {
                    self.ledger.leases.clear();
                }
                let (beside, own) = (self.lives_beside(name, lease), self.of_the_host(network));
                let taken = |ip: Ipv4Addr| {
                    let place = (network.name.clone(), ip.into());
                    let others = [&self.given, &self.reserved];
                    let theirs = || beside.contains(&place) || by_another(others, &place, name);
                    own.contains(&place.1) || !ignore && theirs()
                };
                let (leases, of) = (&mut self.ledger.leases, (&network.name, v4));
                let ip = address::lease(leases, of, &key, self.input.now, taken);
                ip.ok_or_else(|| all_taken(network, v4.range.unwrap_or(v4.subnet)))
            }
        }?;
        self.give(name, network, ip.into());
        Ok(Address4 {
            ip,
            prefix: v4.subnet.prefix_len(),
            gateway: None,
        })
    }

    /// Its IPv6 address there, beside this one where there is one.
    fn address6(
        &mut self,
        name: &Name,
        (network, v6): (&HostNetwork, &Subnet6),
        usage: &NetworkUse,
        lease: Leased,
        ip: Option<Ipv4Addr>,
    ) -> Result<Address6, Blocked> {
        let ip = match usage.ip6 {
            Some(ip) if !address6::may_be_given(v6, ip) => {
                Err(cannot_be_given(network, ip, v6.subnet, v6.gateway))
            }
            Some(ip) => self.unless_given(name, network, ip.into()).map(|()| ip),
            None => {
                let key = lease_key(network, name, lease);
                let ignore = self.broken(Mutation::AddressesAreNotKept);
                let (beside, own) = (self.lives_beside(name, lease), self.of_the_host(network));
                let taken = |ip: Ipv6Addr| {
                    let place = (network.name.clone(), ip.into());
                    let others = [&self.given, &self.reserved];
                    let theirs = || beside.contains(&place) || by_another(others, &place, name);
                    own.contains(&place.1) || !ignore && theirs()
                };
                let leases = &mut self.ledger.leases;
                let ip = address6::lease(leases, network, v6, (&key, ip), self.input.now, taken);
                ip.ok_or_else(|| all_taken(network, v6.range.unwrap_or(v6.subnet)))
            }
        }?;
        self.give(name, network, ip.into());
        Ok(Address6 {
            ip,
            prefix: v6.subnet.prefix_len(),
            gateway: None,
        })
    }

    fn unless_given(&self, name: &Name, network: &HostNetwork, ip: IpAddr) -> Result<(), Blocked> {
        if self.of_the_host(network).contains(&ip) {
            return Err(Blocked::error(format!(
                "address {ip} cannot be given in network {}: this host has it",
                network.name
            )));
        }
        let given = self.given.get(&(network.name.clone(), ip));
        let Some(by) = given.filter(|by| *by != name) else {
            return Ok(());
        };
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

    /// The default routes go over the first network that has a way out: of each family, over the first that has it.
    fn set_way_out(&self, list: &mut [Attachment]) {
        let network = |a: &Attachment| self.ledger.networks.get(&a.network).map(|n| &n.network);
        if let Some(a) = self.way_out(list).and_then(|index| list.get_mut(index)) {
            let gateway = network(a).and_then(|n| Some(n.v4()?.gateway));
            if let Some(v4) = a.ip.v4_mut() {
                v4.gateway = gateway;
            }
        }
        if let Some(a) = self.way_out6(list).and_then(|index| list.get_mut(index)) {
            let gateway = network(a).and_then(|n| Some(n.v6()?.gateway));
            if let Some(v6) = a.ip.v6_mut() {
                v6.gateway = gateway;
            }
        }
    }

    /// Which of these interfaces the default route of IPv4 goes over.
    pub(super) fn way_out(&self, list: &[Attachment]) -> Option<usize> {
        let networks = &self.ledger.networks;
        let leads_out = |n: &HostNetwork| !n.internal && n.v4().is_some();
        list.iter()
            .position(|a| networks.get(&a.network).is_some_and(|n| leads_out(&n.network)))
    }

    /// The same of IPv6.
    pub(super) fn way_out6(&self, list: &[Attachment]) -> Option<usize> {
        let networks = &self.ledger.networks;
        let leads_out = |n: &HostNetwork| !n.internal && n.v6().is_some();
        list.iter()
            .position(|a| networks.get(&a.network).is_some_and(|n| leads_out(&n.network)))
    }
}

/// Who has which address of which network.
type Places = BTreeMap<(Name, IpAddr), Name>;

fn by_another(of: [&Places; 2], place: &(Name, IpAddr), name: &Name) -> bool {
    of.iter().any(|all| all.get(place).is_some_and(|by| by != name))
}

/// Each address that is written is of a family that the network has.
fn has_family(network: &HostNetwork, usage: &NetworkUse) -> Result<(), Blocked> {
    let (four, six) = (usage.ip.map(IpAddr::V4), usage.ip6.map(IpAddr::V6));
    let stranger = four.into_iter().chain(six).find(|ip| !network.has_family_of(*ip));
    let (name, lacks) = (&network.name, |ip: IpAddr| match ip {
        IpAddr::V4(_) => "no IPv4 (`ipv4 = false`); take it out",
        IpAddr::V6(_) => "no IPv6; give it a `subnet6`",
    });
    stranger.map_or(Ok(()), |ip| {
        let lacks = lacks(ip);
        Err(Blocked::error(format!(
            "address {ip} cannot be given in network {name}, which has {lacks}"
        )))
    })
}

fn lease_key(network: &HostNetwork, name: &Name, lease: Leased) -> String {
    match lease {
        Leased::Own => address::lease_key(network.name.as_str(), name.as_str()),
        Leased::Spare => address::lease_key(network.name.as_str(), &spare_owner(name.as_str())),
    }
}

fn all_taken(network: &HostNetwork, range: impl Display) -> Blocked {
    Blocked::error(format!(
        "network {} has no free address left in {range}; give it a larger subnet or remove containers",
        network.name
    ))
}

fn cannot_be_given(
    network: &HostNetwork,
    ip: impl Display,
    subnet: impl Display,
    gateway: impl Display,
) -> Blocked {
    Blocked::error(format!(
        "address {ip} cannot be given in network {} ({subnet}, gateway {gateway})",
        network.name
    ))
}

fn attachment(
    name: &Name,
    id: &ContainerId,
    index: usize,
    network: &HostNetwork,
    usage: &NetworkUse,
    ip: Families<Address4, Address6>,
) -> Attachment {
    let first = ip.first(|v4| IpAddr::V4(v4.ip), |v6| v6.ip.into());
    Attachment {
        network: network.name.clone(),
        device: format!("eth{index}"),
        host_device: device::host_device(id, index),
        bridge: network.bridge.clone(),
        ip,
        mac: usage.mac.unwrap_or_else(|| MacAddr::of_lease(first)),
        mtu: network.mtu,
        aliases: std::iter::once(name)
            .chain(&usage.aliases)
            .map(ToString::to_string)
            .collect(),
        isolated: network.isolated,
        link: network.link(),
    }
}
