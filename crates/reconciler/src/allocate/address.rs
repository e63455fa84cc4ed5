//! IPv4 addresses of containers in a network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use model::families::Families;
use model::ledger::Lease;
use model::name::Name;
use model::network::Subnet4;
use model::spec::NetworkSpec;

/// The gateway of a network with this subnet: the one written, else the first host address.
pub fn gateway_of(spec: &NetworkSpec, subnet: Ipv4Net) -> Ipv4Addr {
    let first = subnet.hosts().next().unwrap_or(subnet.addr());
    spec.gateway.unwrap_or(first)
}

/// Whether a container can have this address at all, in the range or not: it is not the network's own.
pub fn may_be_given(network: &Subnet4, ip: Ipv4Addr) -> bool {
    let subnet = network.subnet;
    subnet.contains(&ip)
        && ip != network.gateway
        && (subnet.prefix_len() > 30 || (ip != subnet.network() && ip != subnet.broadcast()))
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
    (network, v4): (&Name, &Subnet4),
    key: &str,
    now: Timestamp,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let range = v4.range.unwrap_or(v4.subnet);
    let good = |ip: Ipv4Addr| range.contains(&ip) && may_be_given(v4, ip) && !taken(ip);
    let own = leases.get(key).and_then(|l| l.ip.v4().copied());
    if let Some(kept) = own.filter(|ip| good(*ip)) {
        return Some(kept);
    }
    // Of a network that had IPv6 alone it stays as it was.
    let alone = leases.remove(key).filter(|_| own.is_none());
    let prefix = format!("{network}/");
    let leased: BTreeMap<Ipv4Addr, (Timestamp, String)> = leases
        .range(prefix.clone()..)
        .take_while(|(k, _)| k.starts_with(&prefix))
        .filter_map(|(k, l)| Some((*l.ip.v4()?, (l.used_at, k.clone()))))
        .collect();
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
    let v4 = Families::V4(ip);
    let both = alone.and_then(|l| l.ip.v6().copied());
    let booked = both.map_or(v4, |ip6| v4.with_v6(ip6));
    leases.insert(key.to_owned(), Lease::new(booked, now));
    Some(ip)
}
