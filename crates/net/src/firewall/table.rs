//! A description of a table: sets with elements, chains with rules.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::expr::Expr;
use super::nl;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

/// A set, or a map where there is a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    pub key: &'static [Field],
    pub value: &'static [Field],
    /// Elements are ranges.
    pub interval: bool,
    pub elements: BTreeSet<Element>,
}

/// A part of a key or value; each is padded to four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Device,
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    /// A port, for `nft` told by the protocol that it is of.
    TcpPort,
    UdpPort,
    /// The sender's address and port in the packet that an error message of ICMP quotes.
    QuotedIpv4,
    QuotedPort,
    /// The same of ICMPv6.
    QuotedIpv6,
    QuotedPort6,
    /// A number in the machine's byte order.
    Slot,
    /// Of connection tracking, in the machine's byte order.
    Zone,
    /// A VXLAN network identifier.
    Vni,
}

/// The bytes as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub key: Vec<u8>,
    /// The range's last key.
    pub end: Option<Vec<u8>>,
    /// Empty in a set.
    pub value: Vec<u8>,
    pub comment: Option<String>,
}

/// A base chain of policy accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    pub hook: Hook,
    pub priority: i32,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Kept with the rule, for whoever reads `nft list ruleset`.
    pub comment: &'static str,
    pub exprs: Vec<Expr>,
}

/// Of `nft`: a number of which only an expression says how it is to be read. See [`super::userdata`].
pub const INTEGER: u32 = 4;

impl Set {
    /// Of single elements, without values.
    pub fn of(name: &'static str, key: &'static [Field], elements: BTreeSet<Element>) -> Self {
        Self {
            name,
            key,
            value: &[],
            interval: false,
            elements,
        }
    }

    /// The same of ranges.
    pub fn of_ranges(name: &'static str, key: &'static [Field], elements: BTreeSet<Element>) -> Self {
        Self {
            interval: true,
            ..Self::of(name, key, elements)
        }
    }
}

impl Field {
    /// Number of the type in `nft`, for its listing alone: the kernel does not look at it.
    pub fn kind(self) -> u32 {
        match self {
            Self::Device => 41,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port | Self::TcpPort | Self::UdpPort => 13,
            Self::QuotedIpv4 | Self::QuotedPort | Self::QuotedIpv6 | Self::QuotedPort6 => INTEGER,
            Self::Slot | Self::Zone | Self::Vni => INTEGER,
        }
    }

    /// Bytes in a register.
    pub fn len(self) -> u32 {
        match self {
            Self::Device | Self::Ipv6 | Self::QuotedIpv6 => 16,
            _ => 4,
        }
    }

    /// Of those, the ones that are not padding.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Device | Self::Ipv4 | Self::Ipv6 => self.len(),
            Self::QuotedIpv4 | Self::QuotedIpv6 | Self::Slot => self.len(),
            Self::Protocol => 1,
            Self::Vni => 3,
            Self::Port | Self::TcpPort | Self::UdpPort | Self::Zone => 2,
            Self::QuotedPort | Self::QuotedPort6 => 2,
        }
    }

    fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Device => format!("{:?}", String::from_utf8_lossy(bytes).trim_end_matches('\0')),
            Self::Ipv4 | Self::QuotedIpv4 => {
                Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).to_string()
            }
            Self::Ipv6 | Self::QuotedIpv6 => match <[u8; 16]>::try_from(bytes) {
                Ok(octets) => Ipv6Addr::from(octets).to_string(),
                Err(_) => format!("{bytes:?}"),
            },
            Self::Protocol => match bytes[0] {
                17 => "udp",
                47 => "gre",
                _ => "tcp",
            }
            .to_owned(),
            Self::Port | Self::TcpPort | Self::UdpPort | Self::QuotedPort | Self::QuotedPort6 => {
                u16::from_be_bytes([bytes[0], bytes[1]]).to_string()
            }
            Self::Vni => u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]).to_string(),
            Self::Zone => u16::from_ne_bytes([bytes[0], bytes[1]]).to_string(),
            Self::Slot => u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).to_string(),
        }
    }
}

/// Type and length of a concatenation. A field that stands alone is not padded.
pub fn concatenation(fields: &[Field]) -> (u32, u32) {
    if let [field] = fields {
        return (field.kind(), field.bytes());
    }
    fields.iter().fold((0, 0), |(kind, len), field| {
        (kind << 6 | field.kind(), len + field.len())
    })
}

fn show(fields: &[Field], mut bytes: &[u8]) -> String {
    let mut parts = Vec::new();
    for field in fields {
        let (head, tail) = bytes.split_at(bytes.len().min(field.len() as usize));
        parts.push(field.show(head));
        bytes = tail;
    }
    parts.join(" . ")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for set in &self.sets {
            write!(f, "{set}")?;
        }
        for chain in &self.chains {
            writeln!(
                f,
                "chain {} ({} {:?} {})",
                chain.name, chain.kind, chain.hook, chain.priority
            )?;
            for rule in &chain.rules {
                let steps: Vec<String> = rule.exprs.iter().map(Expr::to_string).collect();
                writeln!(f, "  # {}\n  {}", rule.comment, steps.join("; "))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {}",
            if self.value.is_empty() { "set" } else { "map" },
            self.name
        )?;
        for element in &self.elements {
            write!(f, "  {}", show(self.key, &element.key))?;
            if let Some(end) = &element.end {
                write!(f, " - {}", show(self.key, end))?;
            }
            if !self.value.is_empty() {
                write!(f, " -> {}", show(self.value, &element.value))?;
            }
            writeln!(
                f,
                "{}",
                element
                    .comment
                    .as_ref()
                    .map(|c| format!("  # {c}"))
                    .unwrap_or_default()
            )?;
        }
        Ok(())
    }
}

impl Set {
    /// As the kernel has them.
    pub fn flags(&self) -> u32 {
        let map = if self.value.is_empty() { 0 } else { nl::FLAG_MAP };
        let interval = if self.interval {
            nl::FLAG_INTERVAL | nl::FLAG_CONCAT
        } else {
            0
        };
        map | interval
    }
}
