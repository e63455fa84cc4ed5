//! What is there: devices, addresses, routes.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Address, Link, family, ip_of, nl, octets, vxlan};
use crate::netlink::{Attr, KernelError, Netlink, find, read_text, read_u32, u32_at};

/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// All devices of the socket's namespace.
pub(crate) fn links(route: &mut Netlink) -> Result<Vec<Link>, KernelError> {
    let mut payload = vec![0; LINK_HEADER];
    Attr::u32(nl::IFLA_EXT_MASK, nl::RTEXT_FILTER_SKIP_STATS).write(&mut payload);
    let replies = route.dump(nl::GETLINK, &payload)?;
    Ok(replies
        .iter()
        .filter(|r| r.kind == nl::NEWLINK)
        .filter_map(|r| parse_link(&r.payload))
        .collect())
}

/// The device of that name.
pub(super) fn link(route: &mut Netlink, name: &str) -> Result<Option<Link>, KernelError> {
    let mut payload = vec![0; LINK_HEADER];
    Attr::u32(nl::IFLA_EXT_MASK, nl::RTEXT_FILTER_SKIP_STATS).write(&mut payload);
    Attr::text(nl::IFLA_IFNAME, name).write(&mut payload);
    match route.get(nl::GETLINK, &payload) {
        Ok(reply) => Ok(reply.and_then(|r| parse_link(&r.payload))),
        Err(e) if e.is(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let attrs = payload.get(LINK_HEADER..)?;
    let info = find(attrs, nl::IFLA_LINKINFO).unwrap_or(&[]);
    let kind = read_text(info, nl::INFO_KIND).unwrap_or_default();
    let of_kind = |wanted: &str| find(info, nl::INFO_DATA).filter(|_| kind == wanted);
    let data = of_kind("bridge").unwrap_or(&[]);
    let vxlan = of_kind(vxlan::KIND).and_then(vxlan::Make::read);
    let slave = find(info, nl::INFO_SLAVE_DATA)
        .filter(|_| read_text(info, nl::INFO_SLAVE_KIND).as_deref() == Some("bridge"))
        .unwrap_or(&[]);
    Some(Link {
        index: u32_at(payload, 4)?,
        name: read_text(attrs, nl::IFLA_IFNAME)?,
        alias: read_text(attrs, nl::IFLA_IFALIAS).filter(|a| !a.is_empty()),
        group: read_u32(attrs, nl::IFLA_GROUP).unwrap_or(0),
        up: u32_at(payload, 8)? & nl::IFF_UP != 0,
        mtu: read_u32(attrs, nl::IFLA_MTU).unwrap_or(0),
        mac: find(attrs, nl::IFLA_ADDRESS).unwrap_or(&[]).to_vec(),
        master: read_u32(attrs, nl::IFLA_MASTER),
        peer: read_u32(attrs, nl::IFLA_LINK),
        peer_netns: read_u32(attrs, nl::IFLA_LINK_NETNSID),
        hairpin: find(slave, nl::BRPORT_MODE).is_some_and(|v| v == [1]),
        isolated: find(slave, nl::BRPORT_ISOLATED).is_some_and(|v| v == [1]),
        forward_delay: read_u32(data, nl::BR_FORWARD_DELAY).unwrap_or(0),
        stp: read_u32(data, nl::BR_STP_STATE).unwrap_or(0) != 0,
        vxlan,
        kind,
    })
}

/// All IPv4 and IPv6 addresses of the socket's namespace.
pub(crate) fn addresses(route: &mut Netlink) -> Result<Vec<Address>, KernelError> {
    let replies = route.dump(nl::GETADDR, &[0; ADDRESS_HEADER])?;
    Ok(replies
        .iter()
        .filter(|r| r.kind == nl::NEWADDR)
        .filter_map(|r| address_of(&r.payload))
        .collect())
}

/// What a message tells of; none where it tells of something else.
pub(crate) fn address_of(payload: &[u8]) -> Option<Address> {
    let attrs = payload
        .get(ADDRESS_HEADER..)
        .filter(|_| FAMILIES.contains(&payload[0]))?;
    let ip = find(attrs, nl::IFA_LOCAL).or_else(|| find(attrs, nl::IFA_ADDRESS))?;
    Some(Address {
        index: u32_at(payload, 4)?,
        ip: ip_of(ip)?,
        prefix: payload[1],
    })
}

/// Whether the main table has a default route by that gateway out of that device.
pub(super) fn has_default_route(
    route: &mut Netlink,
    gateway: IpAddr,
    index: u32,
) -> Result<bool, KernelError> {
    let family = family(gateway);
    let mut payload = vec![0; ROUTE_HEADER];
    payload[0] = family;
    let replies = route.dump(nl::GETROUTE, &payload)?;
    Ok(replies.iter().filter(|r| r.kind == nl::NEWROUTE).any(|r| {
        let Some(attrs) = r.payload.get(ROUTE_HEADER..) else {
            return false;
        };
        r.payload[0] == family
            && r.payload[1] == 0
            && read_u32(attrs, nl::RTA_TABLE) == Some(nl::RT_TABLE_MAIN)
            && read_u32(attrs, nl::RTA_OIF) == Some(index)
            && find(attrs, nl::RTA_GATEWAY) == Some(&octets(gateway)[..])
    }))
}

/// The number by which the socket's namespace knows another one; none where it was never given one.
pub(super) fn namespace_number(
    route: &mut Netlink,
    netns: BorrowedFd<'_>,
) -> Result<Option<u32>, KernelError> {
    let mut payload = vec![0; 4];
    Attr::bytes(nl::NETNSA_FD, netns.as_raw_fd().to_ne_bytes()).write(&mut payload);
    let reply = route.get(nl::GETNSID, &payload)?;
    Ok(reply
        .and_then(|r| read_u32(r.payload.get(4..)?, nl::NETNSA_NSID))
        .filter(|id| *id as i32 >= 0))
}
