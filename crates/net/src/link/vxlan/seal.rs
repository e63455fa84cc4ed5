//! What keeps the gateway on its side: a filter at both ends of the tunnel device.
//!
//! Every host's bridge has the gateway's addresses, so a frame of one of them that reached another host would be
//! taken there for the other one's own. Dropped are frames from and to its MAC address, ARP and neighbour discovery that
//! are about its IP addresses, and router discovery of IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::filter::{self, ARP, End, IPV6, Part, Verdict};
use super::super::link_local;
use crate::netlink::{KernelError, Netlink};

const ENDS: [End; 2] = [End::Ingress, End::Egress];

/// The addresses that are the same on every host.
pub(super) struct Gateway {
    pub mac: [u8; 6],
    /// Of the families that the network has.
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
}

/// Both filters are there. `index`: of the tunnel.
pub(super) fn is_there(route: &mut Netlink, index: u32, gateway: &Gateway) -> Result<bool, KernelError> {
    filter::is_there(route, index, &ENDS, &program(gateway))
}

/// Puts them there.
pub(super) fn ensure(route: &mut Netlink, index: u32, gateway: &Gateway) -> Result<(), KernelError> {
    filter::ensure(route, index, &ENDS, &program(gateway))
}

fn program(gateway: &Gateway) -> Vec<u8> {
    let dropped = dropped(gateway).into_iter();
    let cases: Vec<filter::Case> = dropped.map(|frame| (frame, Verdict::Drop)).collect();
    filter::program(&cases, Verdict::On)
}

fn dropped(gateway: &Gateway) -> Vec<Vec<Part>> {
    use Part::{Byte, Half, Word};
    const ICMPV6: u8 = 58;
    // The sender's and the target's protocol address (RFC 826).
    let arp = |ip: Ipv4Addr| [28, 38].map(|at| vec![Half(12, ARP), Word(at, ip.to_bits())]);
    let discovery = |kind: u8| vec![Half(12, IPV6), Byte(20, ICMPV6), Byte(54, kind)];
    // Neighbour solicitation and advertisement, by their target (RFC 4861).
    let neighbours = |ip: Ipv6Addr| [135, 136].map(|kind| [discovery(kind), filter::ipv6(62, ip)].concat());
    let own6 = gateway.ip6.map(|ip| [ip, link_local(gateway.mac)]);
    let of_own6 = own6.into_iter().flatten().flat_map(neighbours);
    let mut all = vec![filter::mac(0, gateway.mac), filter::mac(6, gateway.mac)];
    all.extend(gateway.ip.into_iter().flat_map(arp));
    // Router solicitation and advertisement (RFC 4861).
    all.extend([133, 134].map(discovery));
    all.extend(of_own6);
    all
}
