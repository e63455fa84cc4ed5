//! Addresses of containers in a network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use model::ledger::Lease;
use model::network::{HostNetwork, MacAddr};
use model::spec::NetworkSpec;

/// The gateway of a network with this subnet: the one written, else the first host address.
pub fn gateway_of(spec: &NetworkSpec, subnet: Ipv4Net) -> Ipv4Addr {
    let first = subnet.hosts().next().unwrap_or(subnet.addr());
    spec.gateway.unwrap_or(first)
}

/// Whether an address may be given to a container at all: in the range, and not the network's own.
pub fn may_be_given(network: &HostNetwork, ip: Ipv4Addr) -> bool {
    let range = network.range.unwrap_or(network.subnet);
    range.contains(&ip)
        && network.subnet.contains(&ip)
        && ip != network.gateway
        && (network.subnet.prefix_len() > 30
            || (ip != network.subnet.network() && ip != network.subnet.broadcast()))
}

/// The key of a lease in the ledger.
pub fn lease_key(network: &str, container: &str) -> String {
    format!("{network}/{container}")
}

/// Picks an address for `key` and books it: the one it had, else one nobody had, else the least recently used one.
///
/// `taken` says of an address whether some other container lives on it or has it written. `None`: all are taken.
pub fn lease(
    leases: &mut BTreeMap<String, Lease>,
    network: &HostNetwork,
    key: &str,
    now: Timestamp,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let good = |ip: Ipv4Addr| may_be_given(network, ip) && !taken(ip);
    if let Some(kept) = leases.get(key).map(|l| l.ip).filter(|ip| good(*ip)) {
        return Some(kept);
    }
    leases.remove(key);
    let prefix = format!("{}/", network.name);
    let leased: BTreeMap<Ipv4Addr, (Timestamp, String)> = leases
        .range(prefix.clone()..)
        .take_while(|(k, _)| k.starts_with(&prefix))
        .map(|(k, l)| (l.ip, (l.used_at, k.clone())))
        .collect();
    let range = network.range.unwrap_or(network.subnet);
    let fresh = range.hosts().find(|ip| good(*ip) && !leased.contains_key(ip));
    let ip = fresh.or_else(|| {
        let oldest = leased
            .iter()
            .filter(|(ip, _)| good(**ip))
            .min_by_key(|(_, (used, _))| *used);
        oldest.map(|(ip, (_, owner))| {
            leases.remove(owner);
            *ip
        })
    })?;
    leases.insert(
        key.to_owned(),
        Lease {
            ip,
            ip6: None,
            mac: MacAddr::of_lease(ip),
            used_at: now,
        },
    );
    Some(ip)
}
