//! Who a container says it is, at the port of a network whose containers do not reach each other (`icc = false`).
//!
//! There the host decides by the sender's address who reaches whom, and sends answers to where it last saw an address: a
//! container that may make up frames (CAP_NET_RAW) could speak and listen in its neighbour's name. So of what its port
//! takes in, only that goes on which is sent from its MAC address and its IP addresses, or, for the link's own affairs,
//! from an address of the link, and what it tells of who has an address (ARP, neighbour discovery) is about its own ones.
//! Everything else is dropped, protocols that are not IP among it: none of them leads anywhere from such a port.

use std::net::{Ipv4Addr, Ipv6Addr};

use model::network::Attachment;

use super::filter::{self, ARP, Case, End, IPV4, IPV6, Part, Verdict};
use crate::netlink::{KernelError, Netlink};
use Part::{Bits, Byte, Half, Word};

const ENDS: [End; 1] = [End::Ingress];
/// Places in a frame: who sends it by Ethernet, by IPv4, as told by ARP (RFC 826), and by IPv6.
const SENDER: u32 = 6;
const SOURCE: u32 = 26;
const TOLD: u32 = 28;
const SOURCE6: u32 = 22;
/// IPv6: the first header behind its own, that header's begin, and what a neighbour advertisement is about.
const NEXT: u32 = 20;
const BEHIND: u32 = 54;
const TARGET: u32 = 62;
/// Headers of IPv6.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

/// Lets this container's port take in its own frames alone. `index`: of the host end.
pub(super) fn ensure(route: &mut Netlink, index: u32, a: &Attachment) -> Result<(), KernelError> {
    filter::ensure(route, index, &ENDS, &program(a))
}

fn program(a: &Attachment) -> Vec<u8> {
    let own = |part: Vec<Part>| [filter::mac(SENDER, a.mac.0), part].concat();
    let four = a.v4().into_iter().flat_map(|v4| by_ipv4(v4.ip));
    let six = a.v6().into_iter().flat_map(|v6| by_ipv6(v6.ip));
    let cases = four.chain(six);
    let cases: Vec<Case> = cases.map(|(frame, verdict)| (own(frame), verdict)).collect();
    filter::program(&cases, Verdict::Drop)
}

fn by_ipv4(ip: Ipv4Addr) -> Vec<Case> {
    let own = |kind: u16, at: u32, ip: Ipv4Addr| (vec![Half(12, kind), Word(at, ip.to_bits())], Verdict::On);
    vec![
        own(IPV4, SOURCE, ip),
        own(ARP, TOLD, ip),
        // Who asks before he takes an address has none (RFC 5227).
        own(ARP, TOLD, Ipv4Addr::UNSPECIFIED),
    ]
}

fn by_ipv6(ip: Ipv6Addr) -> Vec<Case> {
    let six = |parts: &[Part]| [&[Half(12, IPV6)], parts].concat();
    let icmp = |kind: u8| six(&[Byte(NEXT, ICMPV6), Byte(BEHIND, kind)]);
    // An address of the link, fe80::/10, and none (RFC 4291).
    let of_link = |at: u32| vec![Bits(at, 0xffc0_0000, 0xfe80_0000)];
    let none = || filter::ipv6(SOURCE6, Ipv6Addr::UNSPECIFIED);
    let is = |at: u32| [filter::ipv6(at, ip), of_link(at)];
    let on = |parts: [Vec<Part>; 2]| (parts.concat(), Verdict::On);
    let drop = |frame: Vec<Part>| (frame, Verdict::Drop);
    let mut cases = Vec::new();
    // Router advertisements and redirects (RFC 4861) are routers' to send.
    cases.extend([134, 137].map(|kind| drop(icmp(kind))));
    const ADVERTISEMENT: u8 = 136;
    for (source, target) in is(SOURCE6)
        .iter()
        .flat_map(|s| is(TARGET).map(|t| (s.clone(), t)))
    {
        cases.push(on([icmp(ADVERTISEMENT), [source, target].concat()]));
    }
    cases.push(drop(icmp(ADVERTISEMENT)));
    // Behind these something of the above could hide. Groups are joined and left with one that says no more than that it
    // concerns routers (RFC 2710, RFC 3810).
    for kind in [131, 132, 143] {
        let report = six(&[
            Byte(NEXT, HOP_BY_HOP),
            Byte(BEHIND, ICMPV6),
            Byte(BEHIND + 1, 0),
            Byte(BEHIND + 8, kind),
        ]);
        cases.extend([of_link(SOURCE6), none()].map(|source| on([report.clone(), source])));
    }
    cases.extend([HOP_BY_HOP, ROUTING, DESTINATION].map(|header| drop(six(&[Byte(NEXT, header)]))));
    cases.extend(is(SOURCE6).map(|source| on([six(&[]), source])));
    // Who asks before he takes an address has none (RFC 4862).
    const SOLICITATION: u8 = 135;
    cases.push(on([icmp(SOLICITATION), none()]));
    cases
}
