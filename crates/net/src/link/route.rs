//! The routes that come with an address: to its subnet, and to itself. The kernel makes them once, with the address,
//! and whoever removes one leaves the address standing there alone.
//!
//! Where neighbours are not to be reached over the link (`icc = false`), the route to the subnet leads by the gateway, which
//! alone is on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use super::{Address, family, ip_of, nl, octets};
use crate::netlink::{Attr, KernelError, Netlink, find, flag, read_u32};

/// `struct rtmsg`.
const HEADER: usize = 12;
const PROTOCOL_KERNEL: u8 = 2;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const SCOPE_HOST: u8 = 254;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
/// How often, and how long each time, the kernel is waited for.
const TRIES: u32 = 20_000;
const PAUSE: Duration = Duration::from_micros(500);
/// What the kernel gives to the IPv6 route of a subnet (IP6_RT_PRIO_ADDRCONF).
const PRIORITY6: u32 = 256;

/// One of them: table, type and destination.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Route {
    table: u32,
    kind: u8,
    to: IpAddr,
    prefix: u8,
    /// None: on the link.
    by: Option<IpAddr>,
}

/// One that is there, with what tells it from others of IPv6 to the same destination.
struct Found {
    route: Route,
    priority: Option<u32>,
}

/// The two of an address.
fn of(address: &Address) -> [Route; 2] {
    let (whole, subnet) = match address.ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix)).unwrap_or(0);
            (32, Ipv4Addr::from_bits(ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(address.prefix))
                .unwrap_or(0);
            (128, Ipv6Addr::from_bits(ip.to_bits() & mask).into())
        }
    };
    [
        Route {
            table: nl::RT_TABLE_LOCAL,
            kind: LOCAL,
            to: address.ip,
            prefix: whole,
            by: None,
        },
        Route {
            table: nl::RT_TABLE_MAIN,
            kind: UNICAST,
            to: subnet,
            prefix: address.prefix,
            by: None,
        },
    ]
}

/// The same where all but the gateway is reached by the gateway.
fn by_gateway(address: &Address, gateway: IpAddr) -> [Route; 3] {
    let [own, subnet] = of(address);
    let alone = Route {
        to: gateway,
        prefix: own.prefix,
        ..subnet
    };
    let by = Some(gateway);
    // In this order: nothing leads by a gateway that is not on the link yet.
    [own, alone, Route { by, ..subnet }]
}

/// Both are there.
pub(crate) fn are_there(route: &mut Netlink, address: &Address) -> Result<bool, KernelError> {
    Ok(missing(route, address)?.is_empty())
}

/// Waits for the routes of an address that was just added: those of IPv6 the kernel makes a moment later, and were they
/// made here first, there would be two of each, of which it takes one away again.
pub(super) fn settle(route: &mut Netlink, address: &Address) -> Result<(), KernelError> {
    for _ in 0..TRIES {
        if address.ip.is_ipv4() || are_there(route, address)? {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Puts back what is missing.
pub(super) fn ensure(route: &mut Netlink, address: &Address) -> Result<(), KernelError> {
    settle_on(route, address, &of(address))
}

/// The same where all of the subnet but the gateway is reached by the gateway.
pub(super) fn ensure_by(route: &mut Netlink, address: &Address, gateway: IpAddr) -> Result<(), KernelError> {
    settle_on(route, address, &by_gateway(address, gateway))
}

/// Adds those that are missing, and removes what leads to the same another way.
fn settle_on(route: &mut Netlink, address: &Address, wanted: &[Route]) -> Result<(), KernelError> {
    let found = out_of(route, address.index, family(address.ip))?;
    for right in wanted {
        let same =
            |f: &&Found| (f.route.table, f.route.to, f.route.prefix) == (right.table, right.to, right.prefix);
        for wrong in found.iter().filter(same).filter(|f| f.route.by != right.by) {
            remove(route, address, wrong)?;
        }
        if !found.iter().any(|f| f.route == *right) {
            add(route, address, *right)?;
        }
    }
    Ok(())
}

fn missing(route: &mut Netlink, address: &Address) -> Result<Vec<Route>, KernelError> {
    let found = out_of(route, address.index, family(address.ip))?;
    let there = |r: &Route| found.iter().any(|f| f.route == *r);
    Ok(of(address).into_iter().filter(|r| !there(r)).collect())
}

/// All routes of the family by that device.
fn out_of(route: &mut Netlink, index: u32, family: u8) -> Result<Vec<Found>, KernelError> {
    let mut payload = vec![0; HEADER];
    payload[0] = family;
    let all = vec![0; if family == libc::AF_INET as u8 { 4 } else { 16 }];
    // Heeded by the kernel, so that a host with a large routing table does not tell all of it.
    Attr::u32(nl::RTA_OIF, index).write(&mut payload);
    let replies = route.dump(nl::GETROUTE, &payload)?;
    let read = |payload: &[u8]| {
        let attrs = payload.get(HEADER..).filter(|_| payload[0] == family)?;
        let route = Route {
            // A kernel without CONFIG_IPV6_MULTIPLE_TABLES has all of them in the main one.
            table: match payload[7] {
                LOCAL => nl::RT_TABLE_LOCAL,
                _ => read_u32(attrs, nl::RTA_TABLE)?,
            },
            kind: payload[7],
            to: ip_of(find(attrs, nl::RTA_DST).unwrap_or(&all))?,
            prefix: payload[1],
            by: find(attrs, nl::RTA_GATEWAY).and_then(ip_of),
        };
        let priority = read_u32(attrs, nl::RTA_PRIORITY);
        (read_u32(attrs, nl::RTA_OIF) == Some(index)).then_some(Found { route, priority })
    };
    let routes = replies.iter().filter(|r| r.kind == nl::NEWROUTE);
    Ok(routes.filter_map(|r| read(&r.payload)).collect())
}

/// As the kernel makes it itself, so that it takes it away with the address; one by a gateway is nothing that it makes.
fn add(route: &mut Netlink, address: &Address, wanted: Route) -> Result<(), KernelError> {
    let (protocol, scope) = match (wanted.kind, wanted.by) {
        (LOCAL, _) => (PROTOCOL_KERNEL, SCOPE_HOST),
        (_, None) => (PROTOCOL_KERNEL, SCOPE_LINK),
        (_, Some(_)) => (PROTOCOL_STATIC, SCOPE_UNIVERSE),
    };
    let mut payload = header(&wanted, protocol, scope);
    if let Some(gateway) = wanted.by {
        Attr::bytes(nl::RTA_GATEWAY, octets(gateway)).write(&mut payload);
    }
    match address.ip {
        IpAddr::V4(ip) => Attr::bytes(nl::RTA_PREFSRC, ip.octets()).write(&mut payload),
        IpAddr::V6(_) => Attr::u32(nl::RTA_PRIORITY, PRIORITY6).write(&mut payload),
    }
    Attr::u32(nl::RTA_OIF, address.index).write(&mut payload);
    match route.request(nl::NEWROUTE, flag::CREATE | flag::EXCL, &payload) {
        Err(e) if e.is(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Exactly that one.
fn remove(route: &mut Netlink, address: &Address, wrong: &Found) -> Result<(), KernelError> {
    const ANY_PROTOCOL: u8 = 0;
    let mut payload = header(&wrong.route, ANY_PROTOCOL, SCOPE_NOWHERE);
    if let Some(gateway) = wrong.route.by {
        Attr::bytes(nl::RTA_GATEWAY, octets(gateway)).write(&mut payload);
    }
    if let Some(priority) = wrong.priority {
        Attr::u32(nl::RTA_PRIORITY, priority).write(&mut payload);
    }
    Attr::u32(nl::RTA_OIF, address.index).write(&mut payload);
    match route.request(nl::DELROUTE, 0, &payload) {
        Err(e) if e.is(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// `struct rtmsg` and the destination.
fn header(route: &Route, protocol: u8, scope: u8) -> Vec<u8> {
    let table = route.table as u8;
    let family = family(route.to);
    let mut payload = vec![family, route.prefix, 0, 0, table, protocol, scope, route.kind];
    payload.resize(HEADER, 0);
    Attr::bytes(nl::RTA_DST, octets(route.to)).write(&mut payload);
    payload
}
