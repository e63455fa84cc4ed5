//! Subnets do not overlap, and fixed addresses lie in them once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use model::diagnostic::{Diagnostic, Location};
use model::name::Name;
use model::spec::{ContainerSpec, NetworkSpec, Parsed};

use super::{Findings, Party, Tables};
use crate::allocate::address::gateway_of;

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
    let list: Vec<(&Parsed<NetworkSpec>, Ipv4Net)> = tables
        .networks()
        .filter_map(|n| Some((n, n.spec.subnet?)))
        .collect();
    for (i, (a, net)) in list.iter().enumerate() {
        for (b, other) in &list[i + 1..] {
            if net.contains(other) || other.contains(net) {
                let message = format!(
                    "subnet {net} of network {} overlaps {other} of network {}",
                    a.name, b.name
                );
                let parties = [
                    Party::of("network", a, "subnet"),
                    Party::of("network", b, "subnet"),
                ];
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
    let Some(subnet) = network.spec.subnet else { return };
    let name = &network.name;
    if let Some(gateway) = network.spec.gateway.filter(|g| !usable(subnet, *g)) {
        let message =
            format!("gateway {gateway} of network {name} is no host address of its subnet {subnet}");
        found.contradiction(
            message,
            "use an address inside the subnet, or leave it out",
            &[Party::of("network", network, "gateway")],
        );
    }
    if let Some(range) = network.spec.range.filter(|r| !subnet.contains(r)) {
        let message = format!("range {range} of network {name} is not part of its subnet {subnet}");
        found.contradiction(
            message,
            "use a part of the subnet, or leave it out",
            &[Party::of("network", network, "range")],
        );
    }
}

/// An address of the subnet that is neither its first (network) nor its last (broadcast).
fn usable(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip) && (subnet.prefix_len() > 30 || (ip != subnet.network() && ip != subnet.broadcast()))
}

fn fixed(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    for (network, ip) in fixed_addresses(&container.spec) {
        let spec = tables
            .networks
            .get(network)
            .and_then(|l| l.first())
            .map(|n| &n.spec);
        let Some((spec, subnet)) = spec.and_then(|s| Some((s, s.subnet?))) else {
            continue;
        };
        let name = &container.name;
        let message = if !usable(subnet, ip) {
            format!("address {ip} of container {name} is no host address of network {network} ({subnet})")
        } else if ip == gateway_of(spec, subnet) {
            format!("address {ip} of container {name} is the gateway of network {network}")
        } else {
            continue;
        };
        let at: Location = container.origin.key("networks");
        let mut error =
            Diagnostic::new(at, message).hint(format!("use another address of {subnet}, or leave it out"));
        error.tables = vec![format!("container.{name}")];
        found.errors.push(error);
        found.held.containers.insert(name.clone());
    }
}

fn twice(tables: &Tables<'_>, found: &mut Findings) {
    let mut by_address: BTreeMap<(&Name, Ipv4Addr), Vec<&Parsed<ContainerSpec>>> = BTreeMap::new();
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

fn fixed_addresses(spec: &ContainerSpec) -> impl Iterator<Item = (&Name, Ipv4Addr)> {
    spec.networks.iter().filter_map(|n| Some((&n.network, n.ip?)))
}
