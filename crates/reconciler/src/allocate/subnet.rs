//! Subnets of networks that name none.

use ipnet::Ipv4Net;

/// The first free /24 of the pools (a pool smaller than that is taken whole) that overlaps nothing in `taken`.
pub fn pick(pools: &[Ipv4Net], taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let free = |net: &Ipv4Net| !taken.iter().any(|t| overlap(*t, *net));
    pools.iter().find_map(|pool| {
        let length = pool.prefix_len().max(24);
        pool.subnets(length).ok()?.find(free)
    })
}

/// Whether two subnets share an address.
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}
