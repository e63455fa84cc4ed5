//! Subnets of networks that name none.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::name::ContainerId;

/// The first free /24 of the pools (a pool smaller than that is taken whole) that overlaps nothing in `taken`.
pub fn pick(pools: &[Ipv4Net], taken: &[IpNet]) -> Option<Ipv4Net> {
    let free = |net: &Ipv4Net| !taken.iter().any(|t| overlap(*t, *net));
    pools.iter().find_map(|pool| {
        let length = pool.prefix_len().max(24);
        pool.subnets(length).ok()?.find(free)
    })
}

/// The first /64 of the pool that overlaps nothing in `taken`.
pub fn pick6(pool: Ipv6Net, taken: &[IpNet]) -> Option<Ipv6Net> {
    let free = |net: &Ipv6Net| !taken.iter().any(|t| overlap(*t, *net));
    pool.subnets(pool.prefix_len().max(64)).ok()?.find(free)
}

/// A pool for a host that was given none: an own part of the addresses for local use, with a random Global ID (RFC 4193,
/// section 3.2): the first 40 bits of this.
pub fn own_pool6(random: &ContainerId) -> Ipv6Net {
    let digits = random.as_str().chars().filter_map(|digit| digit.to_digit(16));
    let prefix = digits
        .take(10)
        .fold(0xfd_u128, |bits, digit| (bits << 4) | u128::from(digit));
    Ipv6Net::new_assert((prefix << 80).into(), 48)
}

/// Whether two subnets share an address.
pub fn overlap(a: impl Into<IpNet>, b: impl Into<IpNet>) -> bool {
    let (a, b): (IpNet, IpNet) = (a.into(), b.into());
    a.contains(&b.network()) || b.contains(&a.network())
}
