//! Subnets do not overlap, and fixed addresses lie in them once.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use model::name::Name;
use model::spec::{ContainerSpec, NetworkSpec, NetworkUse, Parsed};

use super::{Findings, Party, Tables};
use crate::allocate::address::gateway_of;
use crate::allocate::{address6, subnet};

/// Finds overlapping subnets, device names given twice, gateways and fixed addresses that do not fit.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    overlaps(tables, found);
    bridges(tables, found);
    for network in tables.networks() {
        inside(network, found);
    }
    for container in tables.containers() {
        fixed(container, tables, found);
    }
    twice(tables, found);
}

fn overlaps(tables: &Tables<'_>, found: &mut Findings) {
    let of = |n: &'_ Parsed<NetworkSpec>| {
        let four = n.spec.subnet.map(|net| ("subnet", IpNet::V4(net)));
        let six = n.spec.subnet6.map(|net| ("subnet6", IpNet::V6(net)));
        four.into_iter().chain(six)
    };
    let all = tables
        .networks()
        .flat_map(|n| of(n).map(move |(key, net)| (n, key, net)));
    let list: Vec<(&Parsed<NetworkSpec>, &str, IpNet)> = all.collect();
    for (i, (a, key, net)) in list.iter().enumerate() {
        for (b, _, other) in &list[i + 1..] {
            if subnet::overlap(*net, *other) {
                let message = format!(
                    "subnet {net} of network {} overlaps {other} of network {}",
                    a.name, b.name
                );
                let parties = [Party::of("network", a, key), Party::of("network", b, key)];
                found.contradiction(
                    message,
                    "give one of them another subnet, or leave it out to have one picked",
                    &parties,
                );
            }
        }
    }
}

fn bridges(tables: &Tables<'_>, found: &mut Findings) {
    let mut by_device: BTreeMap<&str, Vec<&Parsed<NetworkSpec>>> = BTreeMap::new();
    for network in tables.networks() {
        if let Some(device) = &network.spec.bridge {
            by_device.entry(device).or_default().push(network);
        }
    }
    for (device, list) in by_device.into_iter().filter(|(_, list)| list.len() > 1) {
        let parties: Vec<Party<'_>> = list.iter().map(|n| Party::of("network", n, "bridge")).collect();
        found.contradiction(
            format!("bridge {device} is named by two networks"),
            "each network has a bridge of its own",
            &parties,
        );
    }
}

/// Gateway and range lie in the subnet.
fn inside(network: &Parsed<NetworkSpec>, found: &mut Findings) {
    let spec = &network.spec;
    if let Some(subnet) = spec.subnet {
        let gateway = spec.gateway.filter(|g| !usable(subnet, *g));
        let range = spec.range.filter(|r| !subnet.contains(r));
        outside(network, subnet, ("gateway", gateway), ("range", range), found);
    }
    if let Some(subnet) = spec.subnet6 {
        let gateway = spec.gateway6.filter(|g| !address6::is_host(subnet, *g));
        let range = spec.range6.filter(|r| !subnet.contains(r));
        outside(network, subnet, ("gateway6", gateway), ("range6", range), found);
    }
}

/// Says so of those that do not.
fn outside(
    network: &Parsed<NetworkSpec>,
    subnet: impl Display,
    (gateway_key, gateway): (&str, Option<impl Display>),
    (range_key, range): (&str, Option<impl Display>),
    found: &mut Findings,
) {
    let name = &network.name;
    if let Some(gateway) = gateway {
        let message =
            format!("gateway {gateway} of network {name} is no host address of its subnet {subnet}");
        found.contradiction(
            message,
            "use an address inside the subnet, or leave it out",
            &[Party::of("network", network, gateway_key)],
        );
    }
    if let Some(range) = range {
        let message = format!("range {range} of network {name} is not part of its subnet {subnet}");
        found.contradiction(
            message,
            "use a part of the subnet, or leave it out",
            &[Party::of("network", network, range_key)],
        );
    }
}

/// An address of the subnet that is neither its first (network) nor its last (broadcast).
fn usable(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip) && (subnet.prefix_len() > 30 || (ip != subnet.network() && ip != subnet.broadcast()))
}

fn fixed(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for (network, ip) in fixed_addresses(&container.spec) {
        let table = tables.networks.get(network).and_then(|l| l.first());
        let misfit = table.and_then(|table| match ip {
            IpAddr::V4(ip) => misfit(table, ip),
            IpAddr::V6(ip) => misfit6(table, ip),
        });
        let Some((why, hint)) = misfit else { continue };
        let message = format!("address {ip} of container {} {why}", container.name);
        found.refuse(container, "networks", message, hint);
    }
}

/// Why an address cannot be given in a network, and what to do.
type Misfit = (String, String);

fn misfit(network: &Parsed<NetworkSpec>, ip: Ipv4Addr) -> Option<Misfit> {
    if !network.spec.ipv4 {
        let why = format!(
            "is an IPv4 address, and network {} has no IPv4 (`ipv4 = false`)",
            network.name
        );
        return Some((why, "take it out; `ip6` fixes an IPv6 address".to_owned()));
    }
    let subnet = network.spec.subnet?;
    let gateway = gateway_of(&network.spec, subnet);
    let known = !network.spec.adopt || network.spec.gateway.is_some();
    misplaced(network, subnet, usable(subnet, ip), known && ip == gateway)
}

fn misfit6(network: &Parsed<NetworkSpec>, ip: Ipv6Addr) -> Option<Misfit> {
    if !network.spec.has_ipv6() {
        let why = format!("is an IPv6 address, and network {} has no IPv6", network.name);
        return Some((why, "give the network a `subnet6`".to_owned()));
    }
    let subnet = network.spec.subnet6?;
    let gateway = address6::gateway_of(&network.spec, subnet);
    let known = !network.spec.adopt || network.spec.gateway6.is_some();
    misplaced(
        network,
        subnet,
        address6::is_host(subnet, ip),
        known && ip == gateway,
    )
}

fn misplaced(
    network: &Parsed<NetworkSpec>,
    subnet: impl Display,
    of_a_host: bool,
    of_the_gateway: bool,
) -> Option<Misfit> {
    let name = &network.name;
    let why = if !of_a_host {
        format!("is no host address of network {name} ({subnet})")
    } else if of_the_gateway {
        format!("is the gateway of network {name}")
    } else {
        return None;
    };
    Some((why, format!("use another address of {subnet}, or leave it out")))
}

fn twice(tables: &Tables<'_>, found: &mut Findings) {
    let mut by_address: BTreeMap<(&Name, IpAddr), Vec<&Parsed<ContainerSpec>>> = BTreeMap::new();
    for container in tables.containers() {
        for (network, ip) in fixed_addresses(&container.spec) {
            by_address.entry((network, ip)).or_default().push(container);
        }
    }
    for ((network, ip), list) in by_address.into_iter().filter(|(_, list)| list.len() > 1) {
        let parties: Vec<Party<'_>> = list
            .iter()
            .map(|c| Party::of("container", c, "networks"))
            .collect();
        let names: Vec<&str> = list.iter().map(|c| c.name.as_str()).collect();
        let message = format!(
            "address {ip} in network {network} is given to {}",
            names.join(" and ")
        );
        found.contradiction(message, "give each container an address of its own", &parties);
    }
}

fn fixed_addresses(spec: &ContainerSpec) -> impl Iterator<Item = (&Name, IpAddr)> {
    let of = |n: &NetworkUse| [n.ip.map(IpAddr::V4), n.ip6.map(IpAddr::V6)];
    let all = spec.networks.iter();
    all.flat_map(move |n| of(n).into_iter().flatten().map(|ip| (&n.network, ip)))
}
