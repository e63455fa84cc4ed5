//! How the host would reach an address: what it sends from, and how long packets may be.

use std::net::{IpAddr, Ipv4Addr};

use model::surroundings::Way;

use super::change::link_header;
use super::nl;
use crate::netlink::{Attr, KernelError, Netlink, find, read_u32};

/// `struct ifinfomsg`, `struct rtmsg`.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const DST: u16 = 1;
const PREFSRC: u16 = 7;
const METRICS: u16 = 8;
const METRIC_MTU: u16 = 2;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
/// An address that is nobody's (RFC 5737): the way there is the way to the world.
const ANYBODY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// None where no route leads there. 0.0.0.0: the world.
pub(crate) fn way_to(route: &mut Netlink, to: IpAddr) -> Result<Option<Way>, KernelError> {
    let to = if to.is_unspecified() { ANYBODY.into() } else { to };
    let (family, octets) = match to {
        IpAddr::V4(ip) => (libc::AF_INET as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6 as u8, ip.octets().to_vec()),
    };
    let mut ask = vec![0; ROUTE_HEADER];
    (ask[0], ask[1]) = (family, octets.len() as u8 * 8);
    Attr::bytes(DST, octets).write(&mut ask);
    let reply = match route.get(nl::GETROUTE, &ask) {
        Err(e) if is_no_way(&e) => return Ok(None),
        other => other?,
    };
    let Some(reply) = reply.filter(|r| r.kind == nl::NEWROUTE && r.payload.len() >= ROUTE_HEADER) else {
        return Ok(None);
    };
    let attrs = &reply.payload[ROUTE_HEADER..];
    match reply.payload[7] {
        LOCAL => return Ok(Some(Way::Own)),
        UNICAST => {}
        _ => return Ok(None),
    }
    let Some((source, index)) = source(attrs).zip(read_u32(attrs, nl::RTA_OIF)) else {
        return Ok(None);
    };
    let Some(device) = mtu_of(route, index)? else {
        return Ok(None);
    };
    let of_route = find(attrs, METRICS).and_then(|metrics| read_u32(metrics, METRIC_MTU));
    let mtu = of_route
        .filter(|mtu| *mtu > 0)
        .map_or(device, |mtu| mtu.min(device));
    Ok(Some(Way::From { source, mtu }))
}

/// No route, one that says so, or no IPv6 at all.
fn is_no_way(e: &KernelError) -> bool {
    [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EACCES,
        libc::EINVAL,
        libc::ENODEV,
        libc::EAFNOSUPPORT,
        libc::EOPNOTSUPP,
    ]
    .iter()
    .any(|errno| e.is(*errno))
}

fn source(attrs: &[u8]) -> Option<IpAddr> {
    let bytes = find(attrs, PREFSRC)?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn mtu_of(route: &mut Netlink, index: u32) -> Result<Option<u32>, KernelError> {
    let mut ask = link_header(index, 0, 0);
    Attr::u32(nl::IFLA_EXT_MASK, nl::RTEXT_FILTER_SKIP_STATS).write(&mut ask);
    match route.get(nl::GETLINK, &ask) {
        Err(e) if e.is(libc::ENODEV) => Ok(None),
        other => Ok(other?.and_then(|r| read_u32(r.payload.get(LINK_HEADER..)?, nl::IFLA_MTU))),
    }
}
