//! What becomes of one packet in somebody else's chains, as far as its rules look at devices, protocol and port alone.
//!
//! A rule with another condition is passed over: the packet is one that no other condition is true of.

use std::collections::BTreeMap;

use super::foreign::{Verdict, expressions, immediate};
use super::nl;
use super::read::FoundRule;
use crate::netlink::{find, read_be32};

/// Deeper than any firewall's chains call each other; the kernel allows 16.
const DEEPEST: usize = 16;
/// `meta` keys.
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// `cmp` operators.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const UDP: u8 = 17;

/// Chains of one table: their rules, in order.
pub type Chains = BTreeMap<String, Vec<FoundRule>>;

/// The packet: by IPv4, the first of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub from: &'a str,
    /// The device it leaves by; none where it is for the host.
    pub to: Option<&'a str>,
    /// Of a datagram to that port; none where any connection is meant.
    pub port: Option<u16>,
}

/// What of the packet a rule looks at.
#[derive(Clone, Copy)]
enum Field {
    From,
    To,
    Family,
    Transport,
    Port,
}

impl Packet<'_> {
    /// Whether it is dropped on its way through the chain; none where it comes to its end.
    pub fn is_dropped(&self, chains: &Chains, chain: &str) -> Option<bool> {
        self.walk(chains, chain, 0)
    }

    fn walk(&self, chains: &Chains, chain: &str, depth: usize) -> Option<bool> {
        if depth > DEEPEST {
            return None;
        }
        for rule in chains.get(chain)? {
            let judged = match self.verdict(rule) {
                Verdict::Accept => Some(false),
                Verdict::Drop => Some(true),
                Verdict::Return => return None,
                Verdict::Goto(next) => return self.walk(chains, &next, depth + 1),
                Verdict::Call(next) => self.walk(chains, &next, depth + 1),
                Verdict::Open => None,
            };
            if judged.is_some() {
                return judged;
            }
        }
        None
    }

    /// Open where the rule is about other packets, or may be.
    fn verdict(&self, rule: &FoundRule) -> Verdict {
        let mut loaded = None;
        for (name, data) in expressions(rule) {
            match name.as_str() {
                "counter" | "log" => {}
                "meta" => loaded = meta(data),
                "payload" => loaded = header(data),
                "cmp" if loaded.is_some_and(|field| self.is(field, data)) => {}
                "reject" => return Verdict::Drop,
                "immediate" => return immediate(data),
                _ => return Verdict::Open,
            }
        }
        Verdict::Open
    }

    fn is(&self, field: Field, comparison: &[u8]) -> bool {
        let Some(with) = find(comparison, 3).and_then(|v| find(v, nl::DATA_VALUE)) else {
            return false;
        };
        let same = match field {
            Field::From => is_name(self.from, with),
            Field::To => self.to.is_some_and(|to| is_name(to, with)),
            Field::Family => with == [nl::IPV4],
            Field::Transport => self.port.is_some() && with == [UDP],
            Field::Port => self.port.is_some_and(|port| with == port.to_be_bytes()),
        };
        match read_be32(comparison, 2) {
            Some(EQUAL) => same,
            // Of what is not known of it nothing can be said.
            Some(UNEQUAL) => !same && matches!(field, Field::From),
            _ => false,
        }
    }
}

/// The device that a rule is about, by whole name, where that is the first thing it looks at.
pub fn from_device(rule: &FoundRule) -> Option<String> {
    let parts = expressions(rule);
    let [(first, loaded), (second, comparison), ..] = &parts[..] else {
        return None;
    };
    let of_device = first == "meta" && read_be32(loaded, 2) == Some(IIFNAME) && second == "cmp";
    let with = find(comparison, 3).and_then(|v| find(v, nl::DATA_VALUE));
    let name = with.filter(|name| of_device && name.last() == Some(&0))?;
    let end = name.iter().position(|byte| *byte == 0)?;
    String::from_utf8(name[..end].to_vec()).ok()
}

/// The comparison is with the whole name, or with what it begins with.
fn is_name(name: &str, with: &[u8]) -> bool {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    padded.starts_with(with)
}

fn meta(data: &[u8]) -> Option<Field> {
    match read_be32(data, 2) {
        Some(IIFNAME) => Some(Field::From),
        Some(OIFNAME) => Some(Field::To),
        Some(NFPROTO) => Some(Field::Family),
        Some(L4PROTO) => Some(Field::Transport),
        _ => None,
    }
}

/// The destination port: two bytes of the transport header from its third on.
fn header(data: &[u8]) -> Option<Field> {
    let [base, offset, length] = [2, 3, 4].map(|kind| read_be32(data, kind));
    ((base, offset, length) == (Some(2), Some(2), Some(2))).then_some(Field::Port)
}
