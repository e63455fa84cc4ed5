//! Flows that began before a published UDP port changed, and would go on as they began (ctnetlink).
//!
//! Most follow by themselves, for their port has another zone now (see [`super::zones`]). Deleted are those that do not:
//! of a port whose list of sources is another one, of a name server's port, where something else gave the datagram a zone
//! or the kernel knows none. An answer to one of these that is under way is lost.
//!
//! TCP connections are left to end by themselves: a changed port is for new ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::allow::address_of;
use super::family::Family;
use super::render::set;
use super::table::{Element, Set};
use super::zones::{Led, Zones};
use super::{elements, nl, slots};
use crate::error::{Doing, NetError};
use crate::link;
use crate::netlink::{Attr, KernelError, Netlink, Reply, be16_at, find};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const IP_SRC: u16 = 1;
const IP_DST: u16 = 2;
/// Of IPv6 the numbers are higher by this.
const SIX: u16 = 2;
const FILTER: u16 = 25;
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// That flows are of this protocol (CTA_FILTER_F_CTA_PROTO_NUM of the kernel's nf_internals.h).
const FILTER_PROTO_NUM: u32 = 1 << 3;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;

/// A published UDP port of before or after the change.
struct Port {
    family: Family,
    ip: Option<IpAddr>,
    port: u16,
    /// Where it led or leads; no address: to the host itself.
    target: (Option<IpAddr>, u16),
}

/// Deletes the flows to these ports: those translated to their containers, those that reached the host itself, and what
/// was left in the zone that a port has now; none that are looked for in another zone.
///
/// `stale`: elements of the sets of that name, of either family. `now`: the table's sets.
pub fn forget_flows(
    filter: &mut Netlink,
    route: &mut Netlink,
    families: &[Family],
    stale: &BTreeSet<Element>,
    now: &[Set],
) -> Result<(), NetError> {
    let leading = |set: &Set| {
        let (f, _) = Family::of_set(set.name).filter(|(_, kind)| set::PORTS.contains(kind))?;
        let targets = slots::targets(set.name, &set.elements, |_| true);
        Some(
            targets
                .into_iter()
                .filter_map(move |e| port(&elements::stale(&e, f)?)),
        )
    };
    let leading = now.iter().filter_map(leading).flatten().collect();
    let ports = Ports {
        stale: stale.iter().filter_map(port).collect(),
        leading,
        zones: Zones::new(now),
        local: link::addresses(route)
            .doing(doing)?
            .into_iter()
            .map(|address| address.ip)
            .collect(),
    };
    for flow in &flows(filter, families)? {
        let attrs = nl::attrs(&flow.payload);
        if let Some(flow) = Flow::read(attrs).filter(|flow| ports.affect(flow)) {
            delete(filter, Family::of(flow.to.0), attrs).doing(doing)?;
        }
    }
    Ok(())
}

/// Where the flows are led that are in zones.
pub fn led(filter: &mut Netlink, families: &[Family]) -> Result<Led, NetError> {
    let mut led = Led::default();
    let flows = flows(filter, families)?;
    let read = flows
        .iter()
        .filter_map(|flow| Flow::read(nl::attrs(&flow.payload)));
    for flow in read.filter(|flow| flow.zone != 0) {
        led.add_flow(&flow);
    }
    Ok(led)
}

/// Those of UDP where the kernel takes a filter (since 5.8), else all.
fn flows(filter: &mut Netlink, families: &[Family]) -> Result<Vec<Reply>, NetError> {
    let udp = Attr::bytes(PROTO_NUM, [libc::IPPROTO_UDP as u8]);
    let flags = |kind, flags: u32| Attr::bytes(kind, flags.to_ne_bytes());
    let attrs = [
        Attr::nest(TUPLE_ORIG, [Attr::nest(TUPLE_PROTO, [udp])]),
        Attr::nest(
            FILTER,
            [flags(FILTER_ORIG, FILTER_PROTO_NUM), flags(FILTER_REPLY, 0)],
        ),
    ];
    let mut all = Vec::new();
    for f in families {
        let ask = nl::payload(f.number(), &attrs);
        all.extend(filter.dump(GET, &ask).doing(doing)?);
    }
    Ok(all)
}

fn doing() -> String {
    "make UDP flows follow a changed port (connection tracking)".to_owned()
}

/// What is known of the ports.
struct Ports<'a> {
    stale: Vec<Port>,
    /// Where they lead now.
    leading: Vec<Port>,
    zones: Zones<'a>,
    /// Addresses of the host.
    local: BTreeSet<IpAddr>,
}

type End = (IpAddr, u16);

/// A flow of UDP.
pub struct Flow {
    pub from: End,
    pub to: End,
    pub answered_by: End,
    pub zone: u16,
}

impl Ports<'_> {
    fn affect(&self, flow: &Flow) -> bool {
        let (ip, number) = flow.to;
        let of_port = |port: &&Port| {
            port.family == Family::of(ip) && port.port == number && port.ip.is_none_or(|of| of == ip)
        };
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
    let half = element.key.len() / 2;
    let end = |from: usize| {
        let end = element.key.get(from..from + half)?;
        let (ip, port) = end.split_last_chunk::<4>()?;
        Some((address_of(ip)?, u16::from_be_bytes([port[0], port[1]])))
    };
    let given = |ip: IpAddr| Some(ip).filter(|ip| !ip.is_unspecified());
    let ((ip, port), (to, at)) = (end(0)?, end(half)?);
    Some(Port {
        family: Family::of(ip),
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
    let addresses = find(tuple, TUPLE_IP)?;
    let address = find(addresses, ip).or_else(|| find(addresses, ip + SIX))?;
    Some((
        address_of(address)?,
        be16_at(find(find(tuple, TUPLE_PROTO)?, port)?, 0)?,
    ))
}

/// By its tuple and number, so that no newer flow of the same tuple is meant.
fn delete(filter: &mut Netlink, f: Family, flow: &[u8]) -> Result<(), KernelError> {
    let mut payload = nl::payload(f.number(), &[]);
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
