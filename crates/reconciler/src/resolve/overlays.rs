//! Two overlays of one host are told apart by port and VNI, and nothing else is published at a tunnel's port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::firewall::Protocol;
use model::observed::overlaps;
use model::spec::{ContainerSpec, NetworkDriver, NetworkSpec, Parsed, Settings};

use super::{Findings, Party, Reached, Tables, published_at};
use crate::plan::cluster::is_found;

/// Finds those that cannot be.
pub(super) fn check(tables: &Tables<'_>, settings: &Settings, found: &mut Findings) {
    found_by_etcd(tables, settings, found);
    numbers(tables, found);
    ports(tables, settings, found);
}

/// Who names no other hosts has them from etcd, where there is one; and hosts that pick subnets each for themselves would
/// pick different ones.
fn found_by_etcd(tables: &Tables<'_>, settings: &Settings, found: &mut Findings) {
    for network in tables.networks().filter(|network| is_found(&network.spec)) {
        let party = [Party::of("network", network, "overlay")];
        let name = &network.name;
        if settings.cluster.is_none() {
            let message = format!("network {name} does not say which other hosts it is on");
            let hint = "write `peers`, their addresses ([] for none yet), or `peers_file`, a file of them, into \
                        [network.NAME.overlay]; or have them found: [cluster] with `etcd` in the settings";
            found.contradiction(message, hint, &party);
        } else if !network.spec.ipv4 {
            let message = format!("network {name} finds its other hosts by etcd, and has no IPv4");
            let hint = "each host leases a part of an IPv4 subnet there; without IPv4, name the hosts in `peers` or a \
                        `peers_file`, and give each a `range6`";
            found.contradiction(message, hint, &party);
        } else if network.spec.subnet.is_none() {
            let message = format!("network {name} finds its other hosts by etcd, and needs `subnet`");
            let hint = "the same on every host; each leases a part of it";
            found.contradiction(message, hint, &party);
        }
    }
}

fn numbers(tables: &Tables<'_>, found: &mut Findings) {
    let mut by_number: BTreeMap<(&str, u16, u32), Vec<&Parsed<NetworkSpec>>> = BTreeMap::new();
    let mut by_port: BTreeMap<u16, Vec<&Parsed<NetworkSpec>>> = BTreeMap::new();
    for network in tables.networks() {
        let driver = network.spec.driver;
        let overlay = network.spec.overlay.as_ref();
        let over_hosts = matches!(driver, NetworkDriver::Overlay | NetworkDriver::Ovs);
        let overlay = overlay.filter(|_| over_hosts);
        if let Some((overlay, vni)) = overlay.and_then(|o| Some((o, o.vni?))) {
            let kind = overlay.tunnel.as_str();
            // GRE has no ports (RFC 2784).
            let port = if kind == "gre" { 0 } else { overlay.carried_port() };
            by_number.entry((kind, port, vni)).or_default().push(network);
            let of_kernel = driver == NetworkDriver::Overlay || overlay.datapath == "system";
            if kind == "vxlan" && of_kernel {
                by_port.entry(port).or_default().push(network);
            }
        }
    }
    shared_ports(by_port, found);
    encrypted(tables, found);
    for ((_, port, vni), list) in by_number.into_iter().filter(|(_, list)| list.len() > 1) {
        let parties: Vec<Party<'_>> = list
            .iter()
            .map(|n| Party::of("network", n, "overlay.vni"))
            .collect();
        let names: Vec<&str> = list.iter().map(|n| n.name.as_str()).collect();
        let at = if port == 0 {
            String::new()
        } else {
            format!(" at port {port}")
        };
        let message = format!(
            "VNI {vni}{at} is of networks {}: what comes cannot be told apart",
            names.join(" and ")
        );
        found.contradiction(message, "give each of them another `vni`", &parties);
    }
}

/// Each device that encrypts has a UDP port to itself.
fn encrypted(tables: &Tables<'_>, found: &mut Findings) {
    let over_udp = |network: &&Parsed<NetworkSpec>| {
        let overlay = network.spec.overlay.as_ref();
        overlay.is_some_and(|overlay| overlay.tunnel != "gre")
    };
    let mut by_port: BTreeMap<u16, Vec<&Parsed<NetworkSpec>>> = BTreeMap::new();
    for network in tables.networks().filter(over_udp) {
        let port = network.spec.overlay.as_ref().map(|overlay| overlay.port);
        by_port.entry(port.unwrap_or_default()).or_default().push(network);
    }
    for (port, list) in by_port.into_iter().filter(|(_, list)| list.len() > 1) {
        let is_encrypted =
            |n: &&&Parsed<NetworkSpec>| n.spec.overlay.as_ref().is_some_and(|o| o.is_encrypted());
        let Some(one) = list.iter().find(is_encrypted) else {
            continue;
        };
        let others: Vec<&str> = list
            .iter()
            .map(|n| n.name.as_str())
            .filter(|n| *n != one.name.as_str())
            .collect();
        let message = format!(
            "port {port} is that of network {}, which is encrypted, and of {}: the kernel gives it to one of them alone",
            one.name,
            others.join(" and ")
        );
        let parties: Vec<Party<'_>> = list
            .iter()
            .map(|n| Party::of("network", n, "overlay.port"))
            .collect();
        let hint = "give each of them another `port`, the same on all of its hosts";
        found.contradiction(message, hint, &parties);
    }
}

/// The kernel gives a UDP port either to its own VXLAN devices or to Open vSwitch.
fn shared_ports(by_port: BTreeMap<u16, Vec<&Parsed<NetworkSpec>>>, found: &mut Findings) {
    for (port, list) in by_port {
        let of = |driver| list.iter().find(move |n| n.spec.driver == driver);
        let Some((kernel, switch)) = of(NetworkDriver::Overlay).zip(of(NetworkDriver::Ovs)) else {
            continue;
        };
        let message = format!(
            "port {port} is of network {} and, in Open vSwitch, of network {}: the kernel gives it to one of the two alone",
            kernel.name, switch.name
        );
        let parties = [kernel, switch].map(|n| Party::of("network", n, "overlay.port"));
        let hint = "give one of them another `port`, the same on all of its hosts";
        found.contradiction(message, hint, &parties);
    }
}

/// What comes to a published port goes to a container, the other hosts' packets as well.
fn ports(tables: &Tables<'_>, settings: &Settings, found: &mut Findings) {
    for network in tables.networks() {
        let overlay = network.spec.overlay.as_ref();
        let Some(overlay) = overlay.filter(|overlay| overlay.tunnel != "gre") else {
            continue;
        };
        for container in tables.containers() {
            if takes(&container.spec, overlay.port, overlay.local, settings) {
                let message = format!(
                    "port {}/udp is the tunnel's of network {}, and container {} publishes it",
                    overlay.port, network.name, container.name
                );
                let parties = [
                    Party::of("container", container, "ports"),
                    Party::of("network", network, "overlay.port"),
                ];
                let hint = "publish another port, or give the overlay another `port`, the same on all hosts";
                found.contradiction(message, hint, &parties);
            }
        }
    }
}

/// Whether that UDP port of that address, where it is known, is among what is published.
fn takes(spec: &ContainerSpec, number: u16, at: Option<IpAddr>, settings: &Settings) -> bool {
    spec.ports.iter().any(|port| {
        let is_it = |(low, high): (u16, u16)| (low..=high).contains(&number);
        let reached = |ip: IpAddr| !ip.is_loopback() && at.is_none_or(|at| overlaps(ip, at));
        port.protocol == Protocol::Udp
            && port.host.is_some_and(is_it)
            && published_at(port, settings, Reached::BY_BOTH).any(reached)
    })
}
