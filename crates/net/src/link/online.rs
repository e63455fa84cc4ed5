//! Whether the host has a way to the network: what `after_network_online` waits for.

use super::{Mark, dump, nl};
use crate::netlink::{KernelError, Netlink, find, read_u32, u32_at};

/// `struct ifaddrmsg`, `struct rtmsg`.
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const UNICAST: u8 = 1;
const SCOPE_GLOBAL: u8 = 0;
const RTA_MULTIPATH: u16 = 9;
/// Duplicates of it are still looked for (IFA_F_TENTATIVE), or one was found (IFA_F_DADFAILED).
const UNUSABLE: u8 = 0x48;
/// `struct rtnexthop`.
const HOP: usize = 8;
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// A device that is up and not ours has a default route in the main table, and there is an address of global scope,
/// both of IPv4 or both of IPv6.
pub(crate) fn is_online(route: &mut Netlink, mark: &Mark) -> Result<bool, KernelError> {
    let links = dump::links(route)?;
    let up: Vec<u32> = links
        .iter()
        .filter(|l| l.up && !mark.is_on(l))
        .map(|l| l.index)
        .collect();
    let ways_out: Vec<u32> = links
        .iter()
        .filter(|l| l.name != "lo" && up.contains(&l.index))
        .map(|l| l.index)
        .collect();
    for family in FAMILIES {
        if has_address(route, family, &up)? && has_default_route(route, family, &ways_out)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hosts that route by addresses of their own have them on the loopback device.
fn has_address(route: &mut Netlink, family: u8, of: &[u32]) -> Result<bool, KernelError> {
    let mut payload = vec![0; ADDRESS_HEADER];
    payload[0] = family;
    let replies = route.dump(nl::GETADDR, &payload)?;
    let good = |p: &[u8]| {
        let global = p.len() >= ADDRESS_HEADER && p[0] == family && p[3] == SCOPE_GLOBAL;
        global && p[2] & UNUSABLE == 0 && u32_at(p, 4).is_some_and(|index| of.contains(&index))
    };
    let mut addresses = replies.iter().filter(|r| r.kind == nl::NEWADDR);
    Ok(addresses.any(|r| good(&r.payload)))
}

fn has_default_route(route: &mut Netlink, family: u8, by: &[u32]) -> Result<bool, KernelError> {
    let mut payload = vec![0; ROUTE_HEADER];
    payload[0] = family;
    let replies = route.dump(nl::GETROUTE, &payload)?;
    let good = |p: &[u8]| {
        let Some(attrs) = p.get(ROUTE_HEADER..) else {
            return false;
        };
        let default = p[0] == family && p[1] == 0 && p[7] == UNICAST;
        let main = read_u32(attrs, nl::RTA_TABLE) == Some(nl::RT_TABLE_MAIN);
        let devices = read_u32(attrs, nl::RTA_OIF).into_iter().chain(hops(attrs));
        default && main && devices.into_iter().any(|index| by.contains(&index))
    };
    let mut routes = replies.iter().filter(|r| r.kind == nl::NEWROUTE);
    Ok(routes.any(|r| good(&r.payload)))
}

/// The devices of a route that has several ways.
fn hops(attrs: &[u8]) -> Vec<u32> {
    let mut rest = find(attrs, RTA_MULTIPATH).unwrap_or(&[]);
    let mut devices = Vec::new();
    while let Some(index) = u32_at(rest, 4) {
        devices.push(index);
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).next_multiple_of(4);
        rest = rest.get(length.max(HOP)..).unwrap_or(&[]);
    }
    devices
}
