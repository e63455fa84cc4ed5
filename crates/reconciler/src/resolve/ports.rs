//! A host port is published once: 0.0.0.0:80 and 10.0.0.1:80 are twice, tcp and udp are not, nor are 0.0.0.0:80 and [::]:80.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::desired::Held;
use model::firewall::Protocol;
use model::name::Name;
use model::observed::overlaps;
use model::spec::{ContainerSpec, NetworkSpec, Parsed, PortSpec, Settings};

use super::{Findings, Party, Tables, uses};

/// A published range of host ports.
struct Published<'a> {
    container: &'a Parsed<ContainerSpec>,
    index: usize,
    ip: IpAddr,
    range: (u16, u16),
}

/// Finds host ports that two entries want, of two containers or of one.
pub(super) fn check(tables: &Tables<'_>, settings: &Settings, found: &mut Findings) {
    let mut all: BTreeMap<Protocol, Vec<Published<'_>>> = BTreeMap::new();
    for container in tables.containers() {
        let four = has(&container.spec, tables, &found.held, |network| network.ipv4);
        let six = has(&container.spec, tables, &found.held, NetworkSpec::has_ipv6);
        if six == Some(false) {
            needs_ipv6(container, found);
        } else if four == Some(false) {
            needs_ipv4(container, settings, found);
        }
        let reached = Reached {
            v4: four != Some(false),
            v6: six == Some(true),
        };
        for (index, port) in container.spec.ports.iter().enumerate() {
            let Some(range) = port.host else { continue };
            let places = published_at(port, settings, reached);
            all.entry(port.protocol)
                .or_default()
                .extend(places.map(|ip| Published {
                    container,
                    index,
                    ip,
                    range,
                }));
        }
    }
    let mut clashes: BTreeMap<(u16, Protocol), Vec<Party<'_>>> = BTreeMap::new();
    for (protocol, mut list) in all {
        list.sort_by_key(|p| (p.range, p.container.name.clone(), p.index));
        for (i, a) in list.iter().enumerate() {
            for b in list[i + 1..].iter().take_while(|b| b.range.0 <= a.range.1) {
                // One entry may be of both families.
                if (a.container.name != b.container.name || a.index != b.index) && overlaps(a.ip, b.ip) {
                    let parties = clashes.entry((b.range.0.max(a.range.0), protocol)).or_default();
                    join(parties, a);
                    join(parties, b);
                }
            }
        }
    }
    for ((port, protocol), parties) in clashes {
        let names: Vec<String> = distinct(&parties)
            .iter()
            .map(|n| format!("container {n}"))
            .collect();
        let message = format!(
            "host port {port}/{protocol} is published twice: by {}",
            names.join(" and ")
        );
        found.contradiction(
            message,
            "give one of them another host port, or leave it out to have one picked",
            &parties,
        );
    }
}

/// By which families the networks of a container reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub v4: bool,
    pub v6: bool,
}

impl Reached {
    pub const BY_BOTH: Self = Self { v4: true, v6: true };
}

/// The addresses an entry is published at: without one all of the families that lead to the container. A
/// `default_host_ip` other than all is meant to be the only one.
pub(crate) fn published_at(
    port: &PortSpec,
    settings: &Settings,
    reached: Reached,
) -> impl Iterator<Item = IpAddr> + use<> {
    let default = settings.default_host_ip;
    let (four, six) = match port.ip {
        Some(ip) => (Some(ip), None),
        None if default.is_unspecified() => (
            reached.v4.then_some(Ipv4Addr::UNSPECIFIED.into()),
            reached.v6.then_some(Ipv6Addr::UNSPECIFIED.into()),
        ),
        None => (Some(default.into()), None),
    };
    four.into_iter().chain(six)
}

/// Whether one of its networks has that family; none where a network is one that nothing is known of.
fn has(
    spec: &ContainerSpec,
    tables: &Tables<'_>,
    held: &Held,
    family: impl Fn(&NetworkSpec) -> bool,
) -> Option<bool> {
    let mut all = Some(false);
    for name in uses(spec).into_iter().map(|usage| usage.network) {
        let table = tables.networks.get(&name).and_then(|list| list.first());
        let known = tables.known_networks.contains(&name) || held.networks.contains(&name);
        match table {
            Some(table) if family(&table.spec) => return Some(true),
            None if known => all = None,
            // The default network, of which there need not be a table.
            None if family(&NetworkSpec::default()) => return Some(true),
            _ => {}
        }
    }
    all
}

/// A port at an IPv4 address leads nowhere where the container has none, but for those of this host alone, which are
/// served by a process.
fn needs_ipv4(container: &Parsed<ContainerSpec>, settings: &Settings, found: &mut Findings) {
    let reached = Reached { v4: false, v6: true };
    let mut ports = container.spec.ports.iter();
    let lost = |ip: &IpAddr| ip.is_ipv4() && !ip.is_loopback();
    let at = ports.find_map(|port| published_at(port, settings, reached).find(lost));
    let Some(ip) = at else { return };
    let message = format!(
        "a port of container {} is published at {ip}, but none of its networks has IPv4",
        container.name
    );
    let hint = "what is sent to an IPv4 address is not translated to IPv6: leave the address out, name an IPv6 one \
                (or 127.0.0.1, for this host alone), or give it a network with IPv4";
    found.refuse(container, "ports", message, hint);
}

/// A port at an IPv6 address leads nowhere where the container has none, but for `[::1]`, which is served by a process.
fn needs_ipv6(container: &Parsed<ContainerSpec>, found: &mut Findings) {
    let mut written = container.spec.ports.iter().filter_map(|port| port.ip);
    let Some(ip) = written.find(|ip| ip.is_ipv6() && !ip.is_loopback()) else {
        return;
    };
    let message = format!(
        "a port of container {} is published at {ip}, but none of its networks has IPv6",
        container.name
    );
    let hint = "give one of its networks a `subnet6`, or `ipv6 = true` to have one picked";
    found.refuse(container, "ports", message, hint);
}

fn join<'a>(parties: &mut Vec<Party<'a>>, port: &Published<'a>) {
    let container = port.container;
    let again = parties.iter().any(|p| p.name == &container.name) && parties.len() > 1;
    if !again {
        parties.push(Party::of("container", container, "ports"));
    }
}

fn distinct<'a>(parties: &[Party<'a>]) -> Vec<&'a Name> {
    let mut names: Vec<&Name> = parties.iter().map(|p| p.name).collect();
    names.dedup();
    names
}

/// The host ports of an entry, one by one, with the container port of each.
pub(crate) fn each(port: &PortSpec) -> impl Iterator<Item = (Option<u16>, u16)> + use<> {
    let (first, last) = port.container;
    let host = port.host;
    (first..=last).map(move |inside| (host.map(|(low, _)| low.saturating_add(inside - first)), inside))
}
