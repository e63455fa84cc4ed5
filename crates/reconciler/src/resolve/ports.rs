//! A host port is published once: 0.0.0.0:80 and 10.0.0.1:80 are twice, tcp and udp are not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::firewall::Protocol;
use model::name::Name;
use model::spec::{ContainerSpec, Parsed, PortSpec, Settings};

use super::{Findings, Party, Tables};

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
        for (index, port) in container.spec.ports.iter().enumerate() {
            if let Some(range) = port.host {
                let ip = port.ip.unwrap_or(IpAddr::V4(settings.default_host_ip));
                all.entry(port.protocol).or_default().push(Published {
                    container,
                    index,
                    ip,
                    range,
                });
            }
        }
    }
    let mut clashes: BTreeMap<(u16, Protocol), Vec<Party<'_>>> = BTreeMap::new();
    for (protocol, mut list) in all {
        list.sort_by_key(|p| (p.range, p.container.name.clone(), p.index));
        for (i, a) in list.iter().enumerate() {
            for b in list[i + 1..].iter().take_while(|b| b.range.0 <= a.range.1) {
                if shares(a.ip, b.ip) {
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

/// Whether two bound addresses can receive the same packet.
fn shares(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified() || a == b)
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
