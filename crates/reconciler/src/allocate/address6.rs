//! IPv6 addresses of containers in a network, beside IPv4 ones or alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use model::families::Families;
use model::ledger::Lease;
use model::network::{HostNetwork, Subnet6};
use model::spec::NetworkSpec;

/// The gateway of a network with this subnet: the one written, else the second address. The first one is that of every
/// router of the subnet (RFC 4291, section 2.6.1).
pub fn gateway_of(spec: &NetworkSpec, subnet: Ipv6Net) -> Ipv6Addr {
    let second = subnet.hosts().nth(1).unwrap_or(subnet.addr());
    spec.gateway6.unwrap_or(second)
}

/// Whether an address of the subnet can be a host's: all but the one of every router.
pub fn is_host(subnet: Ipv6Net, ip: Ipv6Addr) -> bool {
    subnet.contains(&ip) && ip != subnet.network()
}

/// Whether a container can have this address at all, in the range or not.
pub fn may_be_given(network: &Subnet6, ip: Ipv6Addr) -> bool {
    is_host(network.subnet, ip) && ip != network.gateway
}

/// Picks an address for `key`, which may have this IPv4 one, and books it: the one it had, else the one with the same number
/// as the IPv4 one, else the first that nobody had, else the least recently used one.
///
/// `taken` says of an address whether some other container lives on it or has it written. `None`: all are taken.
pub fn lease(
    leases: &mut BTreeMap<String, Lease>,
    network: &HostNetwork,
    v6: &Subnet6,
    (key, ip): (&str, Option<Ipv4Addr>),
    now: Timestamp,
    taken: impl Fn(Ipv6Addr) -> bool,
) -> Option<Ipv6Addr> {
    let range = v6.range.unwrap_or(v6.subnet);
    let good = |ip: &Ipv6Addr| range.contains(ip) && may_be_given(v6, *ip) && !taken(*ip);
    if let Some(kept) = leases.get(key).and_then(|l| l.ip.v6().copied()).filter(good) {
        return Some(kept);
    }
    let prefix = format!("{}/", network.name);
    let of_network = leases.range(prefix.clone()..);
    let leased: BTreeMap<Ipv6Addr, (Timestamp, String)> = of_network
        .take_while(|(k, _)| k.starts_with(&prefix))
        .filter(|(k, _)| *k != key)
        .filter_map(|(k, l)| Some((*l.ip.v6()?, (l.used_at, k.clone()))))
        .collect();
    let fresh = |ip: &Ipv6Addr| good(ip) && !leased.contains_key(ip);
    let alike = network
        .v4()
        .zip(ip)
        .and_then(|(v4, ip)| like(range, v4.subnet, ip));
    let alike = alike.filter(fresh);
    let picked = alike.or_else(|| range.hosts().find(fresh)).or_else(|| {
        let free = leased.iter().filter(|(ip, _)| good(ip));
        let (ip, (_, owner)) = free.min_by_key(|(_, (used, _))| *used)?;
        if let Some(lease) = leases.remove(owner)
            && let Some(rest) = lease.ip.without_v6()
        {
            leases.insert(owner.clone(), Lease { ip: rest, ..lease });
        }
        Some(*ip)
    })?;
    match leases.get_mut(key) {
        Some(lease) => lease.ip = lease.ip.with_v6(picked),
        // One whose IPv4 address is written in its table has no lease for that.
        None => {
            let booked = ip.map_or(Families::V6(picked), |ip| Families::Both(ip, picked));
            leases.insert(key.to_owned(), Lease::new(booked, now));
        }
    }
    Some(picked)
}

/// The address that has the number in the range that the IPv4 one has in its subnet.
fn like(range: Ipv6Net, subnet: Ipv4Net, ip: Ipv4Addr) -> Option<Ipv6Addr> {
    let number = u32::from(ip).checked_sub(subnet.network().into())?;
    let like = u128::from(range.network()).checked_add(number.into())?;
    Some(like.into())
}
