//! Flows that began before a published UDP port changed, and would go on as they began (ctnetlink).
//!
//! Most follow by themselves, for their port has another zone now (see [`super::zones`]). Deleted are those that do not:
//! of a port whose list of sources is another one, of a name server's port, where something else gave the datagram a zone
//! or the kernel knows none, and where a zone is had a second time. An answer to one of these that is under way is lost.
//!
//! TCP connections are left to end by themselves: a changed port is for new ones.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::render::set;
use super::table::{Element, Set};
use super::zones::Zones;
use super::{elements, nl, slots};
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
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
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

/// Deletes the flows to these ports: those translated to their containers, those that reached the host itself, and what
/// was left in the zone that a port has now; none that are looked for in another zone.
///
/// `stale`: elements of the set of that name. `now`: the table's sets.
pub fn forget_flows(
    filter: &mut Netlink,
    route: &mut Netlink,
    stale: &BTreeSet<Element>,
    now: &[Set],
) -> Result<(), NetError> {
    let doing = || "make UDP flows follow a changed port (connection tracking)".to_owned();
    let leading = now.iter().filter(|set| set::PORTS.contains(&set.name));
    let leading = leading.flat_map(|set| slots::targets(set.name, &set.elements));
    let ports = Ports {
        stale: stale.iter().filter_map(port).collect(),
        leading: leading.filter_map(|e| port(&elements::stale(&e)?)).collect(),
        zones: Zones::new(now),
        local: link::addresses(route)
            .doing(doing)?
            .into_iter()
            .map(|address| address.ip)
            .collect(),
    };
    let flows = filter.dump(GET, &nl::payload(IPV4, &[])).doing(doing)?;
    for flow in &flows {
        let attrs = nl::attrs(&flow.payload);
        if Flow::read(attrs).is_some_and(|flow| ports.affect(&flow)) {
            delete(filter, attrs).doing(doing)?;
        }
    }
    Ok(())
}

/// What is known of the ports.
struct Ports<'a> {
    stale: Vec<Port>,
    /// Where they lead now.
    leading: Vec<Port>,
    zones: Zones<'a>,
    /// Addresses of the host.
    local: BTreeSet<Ipv4Addr>,
}

type End = (Ipv4Addr, u16);

/// A flow of UDP.
struct Flow {
    from: End,
    to: End,
    answered_by: End,
    zone: u16,
}

impl Ports<'_> {
    fn affect(&self, flow: &Flow) -> bool {
        let (ip, number) = flow.to;
        let of_port = |port: &&Port| port.port == number && port.ip.is_none_or(|of| of == ip);
        let is_target = |port: &Port| {
            let (ip, number) = port.target;
            let (by, at) = flow.answered_by;
            number == at && ip.map_or(self.local.contains(&by), |ip| ip == by)
        };
        let leads_to_one = |ports: &[Port]| ports.iter().filter(of_port).any(is_target);
        let is_stale = self.stale.iter().any(|port| of_port(&port));
        let to_host = flow.answered_by == flow.to && (ip.is_loopback() || self.local.contains(&ip));
        is_stale
            && flow.zone == self.zones.of(flow.from, flow.to)
            && (to_host || leads_to_one(&self.stale) || flow.zone != 0 && !leads_to_one(&self.leading))
    }
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

impl Flow {
    /// None where it is of another protocol.
    fn read(flow: &[u8]) -> Option<Self> {
        let original = find(flow, TUPLE_ORIG)?;
        let protocol = find(find(original, TUPLE_PROTO)?, PROTO_NUM)?;
        let zone = find(original, TUPLE_ZONE).or_else(|| find(flow, ZONE));
        (protocol == [libc::IPPROTO_UDP as u8]).then_some(())?;
        Some(Self {
            from: end(original, IP_SRC, PROTO_SRC_PORT)?,
            to: end(original, IP_DST, PROTO_DST_PORT)?,
            answered_by: end(find(flow, TUPLE_REPLY)?, IP_SRC, PROTO_SRC_PORT)?,
            zone: zone.and_then(|zone| be16_at(zone, 0)).unwrap_or(0),
        })
    }
}

fn end(tuple: &[u8], ip: u16, port: u16) -> Option<End> {
    let address = be32_at(find(find(tuple, TUPLE_IP)?, ip)?, 0)?;
    Some((
        Ipv4Addr::from_bits(address),
        be16_at(find(find(tuple, TUPLE_PROTO)?, port)?, 0)?,
    ))
}

/// By its tuple and number, so that no newer flow of the same tuple is meant.
fn delete(filter: &mut Netlink, flow: &[u8]) -> Result<(), KernelError> {
    let mut payload = nl::payload(IPV4, &[]);
    for kind in [TUPLE_ORIG, ZONE, ID] {
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
