//! Requests that change a device, an address or a route.

use std::net::IpAddr;

use model::network::MacAddr;

use super::{Address, family, nl, octets};
use crate::netlink::{Attr, KernelError, Netlink, flag};

/// `struct ifinfomsg`: family, type, index, flags, which flags change.
pub(super) fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    for value in [index, flags, change] {
        out.extend_from_slice(&value.to_ne_bytes());
    }
    out
}

/// A message about a link: its header, then attributes.
pub(super) fn link_bytes(header: Vec<u8>, attrs: &[Attr]) -> Vec<u8> {
    let mut out = header;
    attrs.iter().for_each(|attr| attr.write(&mut out));
    out
}

/// Makes a device; fails when the name is taken.
pub(super) fn create(route: &mut Netlink, attrs: &[Attr]) -> Result<(), KernelError> {
    let payload = link_bytes(link_header(0, 0, 0), attrs);
    route.request(nl::NEWLINK, flag::CREATE | flag::EXCL, &payload)
}

/// Changes what the attributes say, nothing where there are none.
pub(super) fn set(route: &mut Netlink, index: u32, attrs: &[Attr]) -> Result<(), KernelError> {
    if attrs.is_empty() {
        return Ok(());
    }
    route.request(nl::NEWLINK, 0, &link_bytes(link_header(index, 0, 0), attrs))
}

pub(super) fn up(route: &mut Netlink, index: u32) -> Result<(), KernelError> {
    route.request(nl::NEWLINK, 0, &link_header(index, nl::IFF_UP, nl::IFF_UP))
}

pub(super) fn down(route: &mut Netlink, index: u32) -> Result<(), KernelError> {
    route.request(nl::NEWLINK, 0, &link_header(index, 0, nl::IFF_UP))
}

/// Deletes it; one that is gone already is fine.
pub(super) fn delete(route: &mut Netlink, index: u32) -> Result<(), KernelError> {
    match route.request(nl::DELLINK, 0, &link_header(index, 0, 0)) {
        Err(e) if e.is(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Unless said otherwise, the kernel looks for another one who has the address first, for a second or two.
const NO_DUPLICATES: u8 = libc::IFA_F_NODAD as u8;
const SCOPE_LINK: u8 = 253;

/// No IPv6 address is made up for the device when it comes up. A kernel without IPv6 has no such setting, and needs none.
pub(super) fn make_up_no_ipv6(route: &mut Netlink, index: u32) -> Result<(), KernelError> {
    const NONE: u8 = 1;
    let inet6 = Attr::nest(libc::AF_INET6 as u16, [Attr::u8(nl::INET6_ADDR_GEN_MODE, NONE)]);
    match set(route, index, &[Attr::nest(nl::IFLA_AF_SPEC, [inet6])]) {
        Err(e) if e.is(libc::EAFNOSUPPORT) => Ok(()),
        other => other,
    }
}

/// One of IPv6 is in use at once: nobody else on the link is asked whether they have it.
pub(super) fn add_address(route: &mut Netlink, address: &Address) -> Result<(), KernelError> {
    let mut payload = address_header(address);
    let octets = octets(address.ip);
    Attr::bytes(nl::IFA_LOCAL, octets.clone()).write(&mut payload);
    Attr::bytes(nl::IFA_ADDRESS, octets).write(&mut payload);
    if let IpAddr::V4(ip) = address.ip
        && address.prefix < 31
    {
        let broadcast = ip.to_bits() | u32::MAX.checked_shr(u32::from(address.prefix)).unwrap_or(0);
        Attr::bytes(nl::IFA_BROADCAST, broadcast.to_be_bytes()).write(&mut payload);
    }
    match route.request(nl::NEWADDR, flag::CREATE | flag::EXCL, &payload) {
        Err(e) if e.is(libc::EEXIST) => Ok(()),
        other => other,
    }
}

pub(super) fn remove_address(route: &mut Netlink, address: &Address) -> Result<(), KernelError> {
    let mut payload = address_header(address);
    Attr::bytes(nl::IFA_LOCAL, octets(address.ip)).write(&mut payload);
    match route.request(nl::DELADDR, 0, &payload) {
        Err(e) if e.is(libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

/// `struct ifaddrmsg`.
fn address_header(address: &Address) -> Vec<u8> {
    let (flags, scope) = match address.ip {
        IpAddr::V4(_) => (0, 0),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => (NO_DUPLICATES, SCOPE_LINK),
        IpAddr::V6(_) => (NO_DUPLICATES, 0),
    };
    let mut out = vec![family(address.ip), address.prefix, flags, scope];
    out.extend_from_slice(&address.index.to_ne_bytes());
    out
}

/// Puts the default route in place of the one there may be.
pub(super) fn default_route(route: &mut Netlink, gateway: IpAddr, index: u32) -> Result<(), KernelError> {
    const STATIC: u8 = 4;
    const UNIVERSE: u8 = 0;
    const UNICAST: u8 = 1;
    let mut payload = vec![
        family(gateway),
        0,
        0,
        0,
        nl::RT_TABLE_MAIN as u8,
        STATIC,
        UNIVERSE,
        UNICAST,
        0,
        0,
        0,
        0,
    ];
    Attr::bytes(nl::RTA_GATEWAY, octets(gateway)).write(&mut payload);
    Attr::u32(nl::RTA_OIF, index).write(&mut payload);
    route.request(nl::NEWROUTE, flag::CREATE | flag::REPLACE, &payload)
}

/// Says where an address of the bridge's subnet is, as an answer to an ARP request or a neighbour solicitation would.
///
/// A published port is open before its container is attached. Who knocked in between left a request for the address
/// that nobody answered, and the kernel asks again only after a second: the entry ends that wait.
pub(super) fn neighbour(
    route: &mut Netlink,
    index: u32,
    ip: IpAddr,
    mac: MacAddr,
) -> Result<(), KernelError> {
    const DST: u16 = 1;
    const LLADDR: u16 = 2;
    const REACHABLE: u16 = 0x02;
    // `struct ndmsg`: family, padding, interface, state, flags, type.
    let mut payload = vec![family(ip), 0, 0, 0];
    payload.extend_from_slice(&index.to_ne_bytes());
    payload.extend_from_slice(&REACHABLE.to_ne_bytes());
    payload.extend_from_slice(&[0, 0]);
    Attr::bytes(DST, octets(ip)).write(&mut payload);
    Attr::bytes(LLADDR, mac.0).write(&mut payload);
    route.request(libc::RTM_NEWNEIGH, flag::CREATE | flag::REPLACE, &payload)
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_ROUTE;
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_refusal_carries_the_kernels_own_words() {
        let refused = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut route = Netlink::open(NETLINK_ROUTE).unwrap();
            let address = |prefix| Address {
                index: 1,
                ip: IpAddr::from([10, 0, 0, 1]),
                prefix,
            };
            let refused = add_address(&mut route, &address(40)).unwrap_err();
            // The conversation goes on after a refusal.
            add_address(&mut route, &address(32)).unwrap();
            refused
        });
        let refused = refused.join().unwrap();
        assert!(refused.is(libc::EINVAL), "{refused:?}");
        assert!(
            refused
                .text
                .as_ref()
                .is_some_and(|text| text.contains("prefix length")),
            "{refused:?}"
        );
        assert!(refused.to_string().contains(refused.text.as_deref().unwrap()));
    }
}
