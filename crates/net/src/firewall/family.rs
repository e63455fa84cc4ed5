//! The families of addresses. Rules and sets are written once, for IPv4, and said again of IPv6 where a network has it:
//! sets then have a name of their own and fields of sixteen bytes in the place of those of four.

use std::net::IpAddr;

use ipnet::IpNet;
use model::firewall::FirewallBridge;

use super::render::set;
use super::table::Field;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// Sets of addresses: the name of each, and that of the same of IPv6.
const NAMES: &[(&str, &str)] = &[
    (set::SUBNETS, "subnets6"),
    (set::MASQUERADED, "masqueraded6"),
    (set::ASKED, "names_asked6"),
    (set::BOUND, "ports_bound6"),
    (set::ANY, "ports_any6"),
    (set::BOUND_SLOTS, "ports_bound_slots6"),
    (set::ANY_SLOTS, "ports_any_slots6"),
    (set::UDP_BOUND_SLOTS, "udp_bound_slots6"),
    (set::UDP_ANY_SLOTS, "udp_any_slots6"),
    (set::ZONES_BOUND, "zones_bound6"),
    (set::ZONES_ANY, "zones_any6"),
    (set::ZONES_BOUND_SLOTS, "zones_bound_slots6"),
    (set::ZONES_ANY_SLOTS, "zones_any_slots6"),
    (set::ERRORS_BOUND, "errors_bound6"),
    (set::ERRORS_ANY, "errors_any6"),
    (set::ERRORS_BOUND_SLOTS, "errors_bound_slots6"),
    (set::ERRORS_ANY_SLOTS, "errors_any_slots6"),
    (set::CLOSED_BOUND, "closed_bound6"),
    (set::CLOSED_ANY, "closed_any6"),
    (set::ALLOWED_BOUND, "allowed_bound6"),
    (set::ALLOWED_ANY, "allowed_any6"),
    (set::ALLOWED_TWICE, "allowed_twice6"),
    (set::ALLOWED_OTHER, "allowed_other6"),
    (set::STALE_UDP, "stale_udp6"),
];

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The bridge's subnet, where it has one of the family.
    pub fn subnet(self, bridge: &FirewallBridge) -> Option<IpNet> {
        match self {
            Self::V4 => bridge.ip.v4().map(|v4| v4.subnet.into()),
            Self::V6 => bridge.ip.v6().map(|v6| v6.subnet.into()),
        }
    }

    /// What leaves that subnet by another device gets the host's address.
    pub fn is_masqueraded(self, bridge: &FirewallBridge) -> bool {
        match self {
            Self::V4 => bridge.ip.v4().is_some_and(|v4| v4.masquerade),
            Self::V6 => bridge.ip.v6().is_some_and(|v6| v6.masquerade),
        }
    }

    /// For messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Bytes of an address.
    pub fn len(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Registers that an address takes, of four bytes each.
    pub fn words(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// That stands for all addresses, or for none.
    pub fn unspecified(self) -> &'static [u8] {
        &[0; 16][..self.len()]
    }

    /// The family's set of that kind. One that has no addresses in it is of both.
    pub fn set(self, name: &'static str) -> &'static str {
        let six = || NAMES.iter().find(|(v4, _)| *v4 == name);
        match self {
            Self::V4 => name,
            Self::V6 => six().map_or(name, |(_, v6)| v6),
        }
    }

    /// The family of the set with that name, and the kind of set it is.
    pub fn of_set(name: &str) -> Option<(Self, &'static str)> {
        let is = |(v4, v6): &(&'static str, &'static str)| match name {
            n if n == *v4 => Some((Self::V4, *v4)),
            n if n == *v6 => Some((Self::V6, *v4)),
            _ => None,
        };
        NAMES.iter().find_map(is)
    }

    /// The fields of such a set.
    pub fn fields(self, v4: &'static [Field]) -> &'static [Field] {
        use Field::{
            Device, Ipv4, Ipv6, Port, Protocol, QuotedIpv4, QuotedIpv6, QuotedPort, Slot, TcpPort, UdpPort,
        };
        if self == Self::V4 {
            return v4;
        }
        match v4 {
            [Ipv4] => &[Ipv6],
            [Device, Ipv4] => &[Device, Ipv6],
            [Protocol, Ipv4, Port] => &[Protocol, Ipv6, Port],
            [Ipv4, Port] => &[Ipv6, Port],
            [Ipv4, TcpPort] => &[Ipv6, TcpPort],
            [Ipv4, UdpPort] => &[Ipv6, UdpPort],
            [Ipv4, TcpPort, Slot] => &[Ipv6, TcpPort, Slot],
            [Ipv4, UdpPort, Slot] => &[Ipv6, UdpPort, Slot],
            [QuotedIpv4, QuotedPort] => &[QuotedIpv6, Field::QuotedPort6],
            [QuotedIpv4, QuotedPort, Slot] => &[QuotedIpv6, Field::QuotedPort6, Slot],
            [QuotedPort] => &[Field::QuotedPort6],
            [QuotedPort, Slot] => &[Field::QuotedPort6, Slot],
            [Protocol, Ipv4, Port, Ipv4] => &[Protocol, Ipv6, Port, Ipv6],
            [Protocol, Port, Ipv4] => &[Protocol, Port, Ipv6],
            [Protocol, Ipv4, Port, Ipv4, Port] => &[Protocol, Ipv6, Port, Ipv6, Port],
            // Of sources of the other family.
            [Protocol, Ipv4, Port, Ipv6, Port] => &[Protocol, Ipv6, Port, Ipv4, Port],
            [Ipv4, Port, Ipv4, Port] => &[Ipv6, Port, Ipv6, Port],
            other => other,
        }
    }
}
