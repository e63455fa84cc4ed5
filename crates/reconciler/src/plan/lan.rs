//! Networks that were there before: what of the host they are on, and what the host has of them.
//!
//! Nothing of a LAN is ours but what `host_access` asks for. Where the device is away that a network is on, its containers
//! run on without it, and no new one is started: the kernel tells when it comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::ledger::NetworkEntry;
use model::network::{Below, Driver, HostNetwork, Parent, Subnet4, Subnet6};
use model::observed::ObservedLink;
use model::plan::Reason;
use model::spec::{NetworkDriver, NetworkSpec};

use super::networks::all_addresses;
use super::{Blocked, Pass};
use crate::allocate::{address, address6};

impl Pass<'_, '_> {
    /// What the network is made of, where it is below a device of the host. The device's number is kept while it is away.
    pub(super) fn decide_below(&self, spec: &NetworkSpec, before: Option<&NetworkEntry>) -> Option<Driver> {
        let kind = match spec.driver {
            NetworkDriver::Macvlan => Driver::Macvlan,
            NetworkDriver::Ipvlan => Driver::Ipvlan,
            NetworkDriver::Bridge | NetworkDriver::Overlay | NetworkDriver::Ovs => return None,
        };
        // The reader asks for it.
        let name = spec.parent.clone().unwrap_or_default();
        let known = before.and_then(|entry| entry.network.driver.below());
        let known = known.filter(|below| below.parent.name == name);
        let seen = self.link(&name).map(|link| link.index);
        Some(kind(Below {
            parent: Parent {
                index: seen.or(known.map(|below| below.parent.index)).unwrap_or(0),
                name,
            },
            host_access: spec.host_access,
        }))
    }

    /// The router of a network: the written one; on an adopted bridge the address that the host has there; else the
    /// subnet's first. What was found on a bridge stays while the bridge, or its address, is away.
    pub(super) fn decide_gateway(
        &self,
        spec: &NetworkSpec,
        subnet: Ipv4Net,
        before: Option<&NetworkEntry>,
    ) -> Ipv4Addr {
        let usual = address::gateway_of(spec, subnet);
        if !spec.adopt || spec.gateway.is_some() {
            return usual;
        }
        let mut own = self.on_bridge(spec).filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip).filter(|ip| subnet.contains(ip)),
            IpAddr::V6(_) => None,
        });
        let kept = before.filter(|entry| *entry.spec == *spec);
        own.next()
            .or(kept.and_then(|entry| Some(entry.network.v4()?.gateway)))
            .unwrap_or(usual)
    }

    /// The same of IPv6, where the usual one is the subnet's second.
    pub(super) fn decide_gateway6(
        &self,
        spec: &NetworkSpec,
        subnet: Ipv6Net,
        before: Option<&NetworkEntry>,
    ) -> Ipv6Addr {
        let usual = address6::gateway_of(spec, subnet);
        if !spec.adopt || spec.gateway6.is_some() {
            return usual;
        }
        let mut own = self.on_bridge(spec).filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(ip).filter(|ip| subnet.contains(ip)),
            IpAddr::V4(_) => None,
        });
        let kept = before.filter(|entry| *entry.spec == *spec);
        let kept = kept.and_then(|entry| Some(entry.network.v6()?.gateway));
        own.next().or(kept).unwrap_or(usual)
    }

    /// Addresses that the host has on the bridge of that name.
    fn on_bridge(&self, spec: &NetworkSpec) -> impl Iterator<Item = IpAddr> {
        let link = spec.bridge.as_deref().and_then(|bridge| self.link(bridge));
        link.into_iter().flat_map(all_addresses).map(|net| net.addr())
    }

    /// Its routers are those that would be decided on now.
    pub(super) fn has_its_gateways(&self, entry: &NetworkEntry) -> bool {
        let (network, spec, before) = (&entry.network, &entry.spec, Some(entry));
        let four = |v4: &Subnet4| self.decide_gateway(spec, v4.subnet, before) == v4.gateway;
        let six = |v6: &Subnet6| self.decide_gateway6(spec, v6.subnet, before) == v6.gateway;
        network.v4().is_none_or(four) && network.v6().is_none_or(six)
    }

    /// Why nothing can be put on the network now: its parent, or the bridge that it adopts, is not as it has to be.
    pub(super) fn lacks_ground(&self, network: &HostNetwork) -> Option<Blocked> {
        let below = network.driver.below();
        let device = match below {
            Some(below) => &below.parent.name,
            None if network.is_lan() => &network.bridge,
            None => return None,
        };
        let what = match below {
            Some(_) => format!("its parent {device}"),
            None => format!("the bridge {device}, which it adopts,"),
        };
        let Some(link) = self.link(device) else {
            return Some(Blocked::error(format!(
                "{what} is not there: this host has no device of that name; it goes on once there is one"
            )));
        };
        let why = if below.is_none() && link.kind != "bridge" {
            format!("{device} is no bridge, so it cannot be adopted")
        } else if below.is_none() && link.ours {
            format!("{device} is a bridge of wharf's own: leave out `adopt`, or name another with `bridge`")
        } else if let Some(master) = link.master.as_ref().filter(|_| below.is_some()) {
            format!(
                "{what} is a port of {master}: name {master} as `parent`, or adopt it with `bridge` and `adopt = true`"
            )
        } else if !link.up {
            format!("{what} is down; it goes on once it is up (`ip link set {device} up`)")
        } else if let Some(mtu) = network.mtu.filter(|mtu| *mtu > link.mtu) {
            format!("its mtu {mtu} is above that of {device}, which is {}", link.mtu)
        } else {
            return None;
        };
        Some(Blocked::error(why))
    }

    /// Addresses that the host has in a LAN, so that no container can.
    pub(super) fn of_the_host(&self, network: &HostNetwork) -> BTreeSet<IpAddr> {
        if !network.is_lan() {
            return BTreeSet::new();
        }
        let own = network.host_addresses().into_iter();
        let foreign = self.foreign().ok().into_iter().flatten().map(|(_, net)| net);
        own.chain(foreign).map(|net| net.addr()).collect()
    }
}

/// How what the host has of a LAN differs from what was accepted.
pub(super) fn differences(network: &HostNetwork, links: &BTreeMap<String, ObservedLink>) -> Vec<Reason> {
    let device = &network.bridge;
    let link = links.get(device);
    let Some(below) = network.driver.below() else {
        return Vec::new();
    };
    let Some(link) = link else {
        let missing = || Reason::because(format!("device {device} is missing"));
        return below.host_access.then(missing).into_iter().collect();
    };
    if !below.host_access {
        let left = || Reason::because(format!("device {device} is there, and nothing asks for it"));
        return link.ours.then(left).into_iter().collect();
    }
    let parent = &below.parent.name;
    let mut reasons = Vec::new();
    let mut check = |good: bool, text: String| {
        if !good {
            reasons.push(Reason::because(text));
        }
    };
    let kind = network.driver.word();
    check(
        link.ours && link.kind == kind,
        format!("{device} is not wharf's {kind}"),
    );
    check(
        link.below.as_ref() == Some(parent),
        format!("{device} is not below {parent}"),
    );
    check(link.up, format!("{device} is down"));
    let mtu = network.mtu.is_none_or(|mtu| mtu == link.mtu);
    check(mtu, format!("{device} has mtu {}", link.mtu));
    let wanted = network.host_addresses();
    let has: Vec<IpNet> = all_addresses(link).collect();
    for net in wanted.iter().filter(|net| !has.contains(net)) {
        check(false, format!("{device} lacks the address {net}"));
    }
    for net in has.iter().filter(|net| !wanted.contains(net)) {
        check(
            false,
            format!("{device} has the address {net}, which is not its network's"),
        );
    }
    reasons
}
