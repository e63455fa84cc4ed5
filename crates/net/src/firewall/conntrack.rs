//! Flows that began before a published UDP port changed: they would go on as they began (ctnetlink).
//!
//! TCP connections are left to end by themselves: a changed port is for new ones.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::nl;
use super::table::Element;
use crate::error::{Doing, NetError};
use crate::link;
use crate::netlink::{Attr, KernelError, Netlink, be16_at, be32_at, find};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const IPV4: u8 = libc::AF_INET as u8;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SRC: u16 = 1;
const IP_DST: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;

/// A published UDP port of before or after the change.
struct Port {
    ip: Option<Ipv4Addr>,
    port: u16,
    /// Where it led or leads; no address: to the host itself.
    target: (Option<Ipv4Addr>, u16),
}

/// Deletes the flows to these ports: those translated to their containers, and those that reached the host itself.
///
/// `stale`: elements of the set of that name.
pub fn forget_flows(
    filter: &mut Netlink,
    route: &mut Netlink,
    stale: &BTreeSet<Element>,
) -> Result<(), NetError> {
    let doing = || "make UDP flows follow a changed port (connection tracking)".to_owned();
    let ports: Vec<Port> = stale.iter().filter_map(port).collect();
    let local: BTreeSet<Ipv4Addr> = link::addresses(route)
        .doing(doing)?
        .into_iter()
        .map(|address| address.ip)
        .collect();
    let flows = filter.dump(GET, &nl::payload(IPV4, &[])).doing(doing)?;
    for flow in &flows {
        let attrs = nl::attrs(&flow.payload);
        if is_affected(attrs, &ports, &local).unwrap_or(false) {
            delete(filter, attrs).doing(doing)?;
        }
    }
    Ok(())
}

fn port(element: &Element) -> Option<Port> {
    let end = |at| {
        let ip = Ipv4Addr::from_bits(be32_at(&element.key, at)?);
        Some((ip, be16_at(&element.key, at + 4)?))
    };
    let given = |ip: Ipv4Addr| Some(ip).filter(|ip| !ip.is_unspecified());
    let ((ip, port), (to, at)) = (end(0)?, end(8)?);
    Some(Port {
        ip: given(ip),
        port,
        target: (given(to), at),
    })
}

fn is_affected(flow: &[u8], ports: &[Port], local: &BTreeSet<Ipv4Addr>) -> Option<bool> {
    let original = find(flow, TUPLE_ORIG)?;
    let protocol = find(find(original, TUPLE_PROTO)?, PROTO_NUM)?;
    if protocol != [libc::IPPROTO_UDP as u8] {
        return Some(false);
    }
    let to = end(original, IP_DST, PROTO_DST_PORT)?;
    let answered_by = end(find(flow, TUPLE_REPLY)?, IP_SRC, PROTO_SRC_PORT)?;
    let to_host = answered_by == to && (to.0.is_loopback() || local.contains(&to.0));
    let is_target = |port: &Port| {
        let (ip, number) = port.target;
        number == answered_by.1 && ip.map_or(local.contains(&answered_by.0), |ip| ip == answered_by.0)
    };
    let affects = |port: &Port| {
        port.port == to.1 && port.ip.is_none_or(|ip| ip == to.0) && (to_host || is_target(port))
    };
    Some(ports.iter().any(affects))
}

fn end(tuple: &[u8], ip: u16, port: u16) -> Option<(Ipv4Addr, u16)> {
    let address = be32_at(find(find(tuple, TUPLE_IP)?, ip)?, 0)?;
    Some((
        Ipv4Addr::from_bits(address),
        be16_at(find(find(tuple, TUPLE_PROTO)?, port)?, 0)?,
    ))
}

/// By its tuple and number, so that no newer flow of the same tuple is meant.
fn delete(filter: &mut Netlink, flow: &[u8]) -> Result<(), KernelError> {
    let mut payload = nl::payload(IPV4, &[]);
    for kind in [TUPLE_ORIG, ID] {
        if let Some(value) = find(flow, kind) {
            // The kernel wants nests marked as such; what it sent was so too.
            let kind = if kind == TUPLE_ORIG { kind | 0x8000 } else { kind };
            Attr::bytes(kind, value).write(&mut payload);
        }
    }
    match filter.request(DELETE, 0, &payload) {
        Err(e) if e.is(libc::ENOENT) => Ok(()),
        other => other,
    }
}
