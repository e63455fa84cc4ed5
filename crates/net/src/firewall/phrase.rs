//! What rules are put together from: conditions and verdicts that several of them share.

use std::net::Ipv6Addr;

use super::expr::{Base, Ct, Expr, Meta, Verdict};
use super::family::Family;

/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
/// Bits of `ct state`.
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

pub fn ipv4() -> Vec<Expr> {
    of(Family::V4)
}

/// The packet is of that family.
pub fn of(family: Family) -> Vec<Expr> {
    vec![
        load(Meta::Nfproto, 0),
        Expr::Equal {
            reg: 0,
            value: vec![family.number()],
        },
    ]
}

pub fn protocol(number: u8) -> Vec<Expr> {
    vec![
        load(Meta::L4proto, 0),
        Expr::Equal {
            reg: 0,
            value: vec![number],
        },
    ]
}

pub fn load(key: Meta, to: u8) -> Expr {
    Expr::Meta { key, to }
}

/// The packet came by one of these devices.
pub fn from(set: &'static str) -> Vec<Expr> {
    vec![load(Meta::Iifname, 0), is_in(set)]
}

/// The packet leaves by one of these devices.
pub fn to(set: &'static str) -> Vec<Expr> {
    vec![load(Meta::Oifname, 0), is_in(set)]
}

/// What begins at the first register is in the set.
pub fn is_in(set: &'static str) -> Expr {
    Expr::Lookup {
        set,
        key: 0,
        to: None,
    }
}

/// What begins at the first register is not in the set.
pub fn is_not_in(set: &'static str) -> Expr {
    Expr::NotIn { set, key: 0 }
}

/// Of IPv4.
pub fn source(to: u8) -> Expr {
    source_of(Family::V4, to)
}

pub fn source_of(family: Family, to: u8) -> Expr {
    match family {
        Family::V4 => network(12, 4, to),
        Family::V6 => network(8, 16, to),
    }
}

pub fn destination_of(family: Family, to: u8) -> Expr {
    match family {
        Family::V4 => network(16, 4, to),
        Family::V6 => network(24, 16, to),
    }
}

fn network(offset: u32, len: u32, to: u8) -> Expr {
    Expr::Payload {
        base: Base::Network,
        offset,
        len,
        to,
    }
}

pub fn source_port(to: u8) -> Expr {
    transport(0, 2, to)
}

pub fn destination_port(to: u8) -> Expr {
    transport(2, 2, to)
}

/// Of the header behind that of IP, or of what follows it.
pub fn transport(offset: u32, len: u32, to: u8) -> Expr {
    Expr::Payload {
        base: Base::Transport,
        offset,
        len,
        to,
    }
}

pub fn is_byte(offset: u32, value: u8) -> Vec<Expr> {
    vec![
        transport(offset, 1, 0),
        Expr::Equal {
            reg: 0,
            value: vec![value],
        },
    ]
}

/// From 127.0.0.0/8 or ::1.
pub fn from_loopback(family: Family) -> Vec<Expr> {
    is_loopback(family, source_of(family, 0))
}

/// To 127.0.0.0/8 or ::1.
pub fn to_loopback(family: Family) -> Vec<Expr> {
    is_loopback(family, destination_of(family, 0))
}

fn is_loopback(family: Family, address: Expr) -> Vec<Expr> {
    let (load, value) = match (family, address) {
        (Family::V4, Expr::Payload { base, offset, to, .. }) => {
            let len = 1;
            (
                Expr::Payload {
                    base,
                    offset,
                    len,
                    to,
                },
                vec![127],
            )
        }
        (_, address) => (address, Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    vec![load, Expr::Equal { reg: 0, value }]
}

/// The packet is for the host; `here`: for an address of the device that it came by.
pub fn local_daddr(here: bool) -> Vec<Expr> {
    local_daddr_by(here, 0)
}

/// The same, by another register than the first.
pub fn local_daddr_by(here: bool, reg: u8) -> Vec<Expr> {
    vec![
        Expr::AddressType { here, to: reg },
        Expr::Equal {
            reg,
            value: LOCAL.to_ne_bytes().to_vec(),
        },
    ]
}

pub fn dnatted() -> Vec<Expr> {
    ct(Ct::Status, STATUS_DNAT)
}

pub fn flowing() -> Vec<Expr> {
    ct(Ct::State, ESTABLISHED_OR_RELATED)
}

fn ct(key: Ct, mask: u32) -> Vec<Expr> {
    vec![
        Expr::Ct { key, to: 0 },
        Expr::Mask { reg: 0, mask },
        Expr::NotEqual {
            reg: 0,
            value: vec![0; 4],
        },
    ]
}

pub fn masquerade() -> Vec<Expr> {
    vec![Expr::Masquerade]
}

pub fn accept() -> Vec<Expr> {
    verdict(Verdict::Accept)
}

pub fn drop() -> Vec<Expr> {
    verdict(Verdict::Drop)
}

pub fn verdict(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}
