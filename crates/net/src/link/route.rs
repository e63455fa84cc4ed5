//! The routes that come with an address: to its subnet, and to itself. The kernel makes them once, with the address,
//! and whoever removes one leaves the address standing there alone.

use std::net::Ipv4Addr;

use super::{Address, nl};
use crate::netlink::{Attr, KernelError, Netlink, find, flag, read_u32};

/// `struct rtmsg`.
const HEADER: usize = 12;
const INET: u8 = libc::AF_INET as u8;
const PROTOCOL_KERNEL: u8 = 2;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const DST: u16 = 1;
const PREFSRC: u16 = 7;

/// One of them: table, type and destination.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Route {
    table: u32,
    kind: u8,
    to: Ipv4Addr,
    prefix: u8,
}

/// The two of an address.
fn of(address: &Address) -> [Route; 2] {
    let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix)).unwrap_or(0);
    [
        Route {
            table: nl::RT_TABLE_LOCAL,
            kind: LOCAL,
            to: address.ip,
            prefix: 32,
        },
        Route {
            table: nl::RT_TABLE_MAIN,
            kind: UNICAST,
            to: Ipv4Addr::from_bits(address.ip.to_bits() & mask),
            prefix: address.prefix,
        },
    ]
}

/// Both are there.
pub(crate) fn are_there(route: &mut Netlink, address: &Address) -> Result<bool, KernelError> {
    Ok(missing(route, address)?.is_empty())
}

/// Puts back what is missing.
pub(super) fn ensure(route: &mut Netlink, address: &Address) -> Result<(), KernelError> {
    for missing in missing(route, address)? {
        add(route, address, missing)?;
    }
    Ok(())
}

fn missing(route: &mut Netlink, address: &Address) -> Result<Vec<Route>, KernelError> {
    let found = out_of(route, address.index)?;
    Ok(of(address).into_iter().filter(|r| !found.contains(r)).collect())
}

/// All routes by that device.
fn out_of(route: &mut Netlink, index: u32) -> Result<Vec<Route>, KernelError> {
    let mut payload = vec![0; HEADER];
    payload[0] = INET;
    // Heeded by the kernel, so that a host with a large routing table does not tell all of it.
    Attr::u32(nl::RTA_OIF, index).write(&mut payload);
    let replies = route.dump(nl::GETROUTE, &payload)?;
    let read = |payload: &[u8]| {
        let attrs = payload.get(HEADER..).filter(|_| payload[0] == INET)?;
        let to: [u8; 4] = find(attrs, DST).unwrap_or(&[0; 4]).try_into().ok()?;
        (read_u32(attrs, nl::RTA_OIF) == Some(index)).then_some(Route {
            table: read_u32(attrs, nl::RTA_TABLE)?,
            kind: payload[7],
            to: to.into(),
            prefix: payload[1],
        })
    };
    let routes = replies.iter().filter(|r| r.kind == nl::NEWROUTE);
    Ok(routes.filter_map(|r| read(&r.payload)).collect())
}

/// As the kernel makes it itself, so that it takes it away with the address.
fn add(route: &mut Netlink, address: &Address, wanted: Route) -> Result<(), KernelError> {
    let scope = if wanted.kind == LOCAL {
        SCOPE_HOST
    } else {
        SCOPE_LINK
    };
    let table = wanted.table as u8;
    let mut payload = vec![
        INET,
        wanted.prefix,
        0,
        0,
        table,
        PROTOCOL_KERNEL,
        scope,
        wanted.kind,
    ];
    payload.resize(HEADER, 0);
    Attr::bytes(DST, wanted.to.octets()).write(&mut payload);
    Attr::bytes(PREFSRC, address.ip.octets()).write(&mut payload);
    Attr::u32(nl::RTA_OIF, address.index).write(&mut payload);
    match route.request(nl::NEWROUTE, flag::CREATE | flag::EXCL, &payload) {
        Err(e) if e.is(libc::EEXIST) => Ok(()),
        other => other,
    }
}
