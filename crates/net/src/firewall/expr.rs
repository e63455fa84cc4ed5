//! The nftables expressions our rules are made of, as the kernel takes and shows them.
//!
//! A register is counted in words of four bytes; the kernel numbers those at a multiple of four words 1 to 4 and the
//! others from 8 on.

use std::fmt;

use super::family::Family;
use super::nl;
use crate::netlink::Attr;

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Meta {
        key: Meta,
        to: u8,
    },
    /// Bytes of a header.
    Payload {
        base: Base,
        offset: u32,
        len: u32,
        to: u8,
    },
    /// These bytes.
    Load {
        to: u8,
        value: Vec<u8>,
    },
    /// Of the header of UDP or TCP, its checksum put right.
    WritePort {
        offset: u32,
        from: u8,
        checksum: u32,
    },
    /// `fib daddr type`; `here`: as an address of the device the packet came by.
    AddressType {
        here: bool,
        to: u8,
    },
    Ct {
        key: Ct,
        to: u8,
    },
    /// Of the packet that began the flow, before any translation.
    Original {
        key: Tuple,
        to: u8,
    },
    Mask {
        reg: u8,
        mask: u32,
    },
    /// Of as many bytes.
    MaskBytes {
        reg: u8,
        mask: Vec<u8>,
    },
    Equal {
        reg: u8,
        value: Vec<u8>,
    },
    NotEqual {
        reg: u8,
        value: Vec<u8>,
    },
    /// The rule goes on where the set has the key (`to`: and the map's value is loaded there).
    Lookup {
        set: &'static str,
        key: u8,
        to: Option<u8>,
    },
    NotIn {
        set: &'static str,
        key: u8,
    },
    /// A number below this one, another one for each packet.
    Random {
        below: u32,
        to: u8,
    },
    /// A number below this one, the same one for the same bytes.
    Hash {
        from: u8,
        len: u32,
        below: u32,
        to: u8,
    },
    /// Connection tracking looks for the packet's flow in this zone, and begins it there; answers have none.
    SetZone {
        from: u8,
    },
    Dnat {
        family: Family,
        address: u8,
        port: u8,
    },
    /// To the host itself, at the port in this register.
    Redirect {
        port: u8,
    },
    Masquerade,
    /// A match of iptables: its name, revision, and options as the kernel's structure.
    Compat {
        name: &'static str,
        revision: u32,
        info: Vec<u8>,
    },
    Jump(&'static str),
    Verdict(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    Iifname = 6,
    Oifname = 7,
    Nfproto = 15,
    L4proto = 16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    State = 0,
    Status = 2,
}

/// Parts of a flow's tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuple {
    Protocol = 10,
    DestinationPort = 12,
    Source = 19,
    Destination = 20,
    Source6 = 21,
    Destination6 = 22,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop = 0,
    Accept = 1,
    Return = -5,
}

fn register(kind: u16, word: u8) -> Attr {
    let number = if word.is_multiple_of(4) {
        word / 4 + 1
    } else {
        word + 8
    };
    Attr::be32(kind, number.into())
}

fn value(kind: u16, bytes: &[u8]) -> Attr {
    Attr::nest(kind, [Attr::bytes(nl::DATA_VALUE, bytes)])
}

impl Expr {
    /// An element of a rule's list of expressions.
    pub fn attr(&self) -> Attr {
        let (name, data) = self.name_and_data();
        Attr::nest(
            nl::LIST_ELEM,
            [Attr::text(nl::EXPR_NAME, name), Attr::nest(nl::EXPR_DATA, data)],
        )
    }

    fn name_and_data(&self) -> (&'static str, Vec<Attr>) {
        match self {
            Self::Meta { key, to } => ("meta", vec![Attr::be32(2, *key as u32), register(1, *to)]),
            Self::Payload {
                base,
                offset,
                len,
                to,
            } => (
                "payload",
                vec![
                    register(1, *to),
                    Attr::be32(2, *base as u32),
                    Attr::be32(3, *offset),
                    Attr::be32(4, *len),
                ],
            ),
            Self::Load { to, value: v } => ("immediate", vec![register(1, *to), value(2, v)]),
            Self::WritePort {
                offset,
                from,
                checksum,
            } => ("payload", write_port(*offset, *from, *checksum)),
            Self::AddressType { here, to } => ("fib", address_type(*here, *to)),
            Self::Ct { key, to } => ("ct", vec![Attr::be32(2, *key as u32), register(1, *to)]),
            Self::Original { key, to } => ("ct", original(*key, *to)),
            Self::Mask { reg, mask } => ("bitwise", and(*reg, &mask.to_ne_bytes())),
            Self::MaskBytes { reg, mask } => ("bitwise", and(*reg, mask)),
            Self::Equal { reg, value: v } => ("cmp", vec![register(1, *reg), Attr::be32(2, 0), value(3, v)]),
            Self::NotEqual { reg, value: v } => {
                ("cmp", vec![register(1, *reg), Attr::be32(2, 1), value(3, v)])
            }
            Self::Lookup { set, key, to } => {
                let mut data = vec![Attr::text(1, set), register(2, *key)];
                data.extend(to.map(|to| register(3, to)));
                ("lookup", data)
            }
            Self::NotIn { set, key } => (
                "lookup",
                vec![Attr::text(1, set), register(2, *key), Attr::be32(5, 1)],
            ),
            Self::Random { below, to } => {
                const RANDOM: u32 = 1;
                let (kind, offset) = (Attr::be32(3, RANDOM), Attr::be32(4, 0));
                (
                    "numgen",
                    vec![register(1, *to), Attr::be32(2, *below), kind, offset],
                )
            }
            Self::Hash { from, len, below, to } => ("hash", hash(*from, *len, *below, *to)),
            Self::SetZone { from } => ("ct", zone_of_the_original_direction(*from)),
            Self::Dnat {
                family,
                address,
                port,
            } => ("nat", dnat(*family, *address, *port)),
            Self::Redirect { port } => ("redir", redirect(*port)),
            Self::Masquerade => ("masq", Vec::new()),
            Self::Compat { name, revision, info } => (
                "match",
                vec![
                    Attr::text(1, name),
                    Attr::be32(2, *revision),
                    Attr::bytes(3, info.clone()),
                ],
            ),
            Self::Jump(chain) => immediate(vec![
                Attr::be32(nl::VERDICT_CODE, nl::JUMP as u32),
                Attr::text(nl::VERDICT_CHAIN, chain),
            ]),
            Self::Verdict(verdict) => immediate(vec![Attr::be32(nl::VERDICT_CODE, *verdict as i32 as u32)]),
        }
    }
}

/// linux/netfilter/nf_tables.h, `nft_payload_attributes`.
fn write_port(offset: u32, from: u8, checksum: u32) -> Vec<Attr> {
    const INTERNET_CHECKSUM: u32 = 1;
    vec![
        register(5, from),
        Attr::be32(2, Base::Transport as u32),
        Attr::be32(3, offset),
        Attr::be32(4, 2),
        Attr::be32(6, INTERNET_CHECKSUM),
        Attr::be32(7, checksum),
    ]
}

fn and(reg: u8, mask: &[u8]) -> Vec<Attr> {
    vec![
        register(1, reg),
        register(2, reg),
        Attr::be32(3, mask.len() as u32),
        value(4, mask),
        value(5, &vec![0; mask.len()]),
    ]
}

/// The kind of the packet's destination; `here`: as seen by the interface it came in by.
fn address_type(here: bool, to: u8) -> Vec<Attr> {
    const ADDRESS_TYPE: u32 = 3;
    const DADDR: u32 = 1 << 1;
    const IIF: u32 = 1 << 3;
    let flags = if here { DADDR | IIF } else { DADDR };
    vec![register(1, to), Attr::be32(2, ADDRESS_TYPE), Attr::be32(3, flags)]
}

/// The protocol is the same in both directions, and no direction is asked for it.
fn original(key: Tuple, to: u8) -> Vec<Attr> {
    const ORIGINAL: u8 = 0;
    let mut attrs = vec![Attr::be32(2, key as u32), register(1, to)];
    if key != Tuple::Protocol {
        attrs.push(Attr::u8(3, ORIGINAL));
    }
    attrs
}

fn zone_of_the_original_direction(from: u8) -> Vec<Attr> {
    const ZONE: u32 = 17;
    const ORIGINAL: u8 = 0;
    vec![Attr::be32(2, ZONE), Attr::u8(3, ORIGINAL), register(4, from)]
}

fn immediate(verdict: Vec<Attr>) -> (&'static str, Vec<Attr>) {
    let data = Attr::nest(2, [Attr::nest(nl::DATA_VERDICT, verdict)]);
    ("immediate", vec![Attr::be32(1, 0), data])
}

/// Jenkins' hash, with a seed of its own: the kernel takes another one for each rule otherwise.
fn hash(from: u8, len: u32, below: u32, to: u8) -> Vec<Attr> {
    const JENKINS: u32 = 0;
    vec![
        register(1, from),
        register(2, to),
        Attr::be32(3, len),
        Attr::be32(4, below),
        Attr::be32(5, super::zones::SEED),
        Attr::be32(7, JENKINS),
    ]
}

/// As in [`dnat`], everything is said.
fn redirect(port: u8) -> Vec<Attr> {
    const MAP_PORTS: u32 = 2;
    vec![register(1, port), register(2, port), Attr::be32(3, MAP_PORTS)]
}

/// Everything the kernel would add by itself is said, so that what it shows compares equal.
fn dnat(family: Family, address: u8, port: u8) -> Vec<Attr> {
    const DESTINATION: u32 = 1;
    const MAP_IPS_AND_PORTS: u32 = 3;
    vec![
        Attr::be32(1, DESTINATION),
        Attr::be32(2, family.number().into()),
        register(3, address),
        register(4, address),
        register(5, port),
        register(6, port),
        Attr::be32(7, MAP_IPS_AND_PORTS),
    ]
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta { key, to } => write!(f, "r{to} = {}", format!("{key:?}").to_lowercase()),
            Self::Payload {
                base,
                offset,
                len,
                to,
            } => {
                write!(
                    f,
                    "r{to} = {}[{offset}..{}]",
                    format!("{base:?}").to_lowercase(),
                    offset + len
                )
            }
            Self::Load { to, value } => write!(f, "r{to} = {value:?}"),
            Self::WritePort { offset, from, .. } => {
                write!(f, "transport[{offset}..{}] = r{from}", offset + 2)
            }
            Self::AddressType { here: false, to } => write!(f, "r{to} = fib daddr type"),
            Self::AddressType { here: true, to } => write!(f, "r{to} = fib daddr . iif type"),
            Self::Ct { key, to } => write!(f, "r{to} = ct {}", format!("{key:?}").to_lowercase()),
            Self::Original { key, to } => {
                write!(f, "r{to} = ct original {}", format!("{key:?}").to_lowercase())
            }
            Self::Mask { reg, mask } => write!(f, "r{reg} &= {mask:#x}"),
            Self::MaskBytes { reg, mask } => write!(f, "r{reg} &= {mask:?}"),
            Self::Equal { reg, value } => write!(f, "r{reg} == {value:?}"),
            Self::NotEqual { reg, value } => write!(f, "r{reg} != {value:?}"),
            Self::Lookup { set, key, to: None } => write!(f, "r{key} in @{set}"),
            Self::Lookup {
                set,
                key,
                to: Some(to),
            } => write!(f, "r{to} = @{set}[r{key}]"),
            Self::NotIn { set, key } => write!(f, "r{key} not in @{set}"),
            Self::Random { below, to } => write!(f, "r{to} = numgen random mod {below}"),
            Self::Hash { from, len, below, to } => {
                write!(f, "r{to} = jhash of {len} bytes from r{from} mod {below}")
            }
            Self::SetZone { from } => write!(f, "ct original zone = r{from}"),
            Self::Dnat {
                family,
                address,
                port,
            } => {
                let ip = if *family == Family::V4 { "ip" } else { "ip6" };
                write!(f, "dnat {ip} to r{address} : r{port}")
            }
            Self::Redirect { port } => write!(f, "redirect to : r{port}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Compat { name, .. } => write!(f, "match {name}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Verdict(verdict) => f.write_str(&format!("{verdict:?}").to_lowercase()),
        }
    }
}
