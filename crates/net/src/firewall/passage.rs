//! Which chains of iptables there is a way through, and for what.

use std::net::IpAddr;

use ipnet::IpNet;
use model::firewall::{Carrier, FirewallBridge, FirewallState};

use super::elements::octets;
use super::expr::{Base, Expr, Meta, Verdict};
use super::family::Family;
use super::foreign::Hook;
use super::peers;
use super::phrase::{accept, destination_of, load, source_of, verdict};
use super::read::FoundRule;

/// A chain of iptables or ip6tables, and ours in front of it.
#[derive(Debug)]
pub struct Door {
    pub family: Family,
    pub hook: Hook,
    pub theirs: &'static str,
    pub ours: &'static str,
    /// What is to be let through.
    pub rules: fn(&FirewallState, Family) -> Vec<Entry>,
}

/// All of them. Behind `INPUT` is the host itself: nothing but questions for names, and what peers send for networks, is
/// let through there.
pub const DOORS: [Door; 4] = [
    forward(Family::V4),
    input(Family::V4),
    forward(Family::V6),
    input(Family::V6),
];

const fn forward(family: Family) -> Door {
    Door {
        family,
        hook: Hook::Forward,
        theirs: "FORWARD",
        ours: "WHARF-FORWARD",
        rules: forwarded,
    }
}

const fn input(family: Family) -> Door {
    Door {
        family,
        hook: Hook::Input,
        theirs: "INPUT",
        ours: "WHARF-INPUT",
        rules: received,
    }
}

impl Door {
    /// The program whose chain it is.
    pub fn program(&self) -> &'static str {
        match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }
}

/// Bridges that have addresses of the family.
pub fn concerned(family: Family, bridges: &[FirewallBridge]) -> Vec<FirewallBridge> {
    let has = |bridge: &&FirewallBridge| family.subnet(bridge).is_some();
    bridges.iter().filter(has).cloned().collect()
}

/// A rule.
#[derive(Debug)]
pub struct Entry {
    pub comment: Vec<u8>,
    /// IP protocol that its matches are only for.
    pub protocol: Option<u8>,
    pub exprs: Vec<Expr>,
}

impl Entry {
    pub fn is(&self, found: &FoundRule) -> bool {
        self.comment == found.userdata && found.has(&self.exprs)
    }
}

/// Where containers of that network are to ask for names: port of the gateway.
pub fn names_port(bridge: &FirewallBridge) -> u16 {
    // Where the name server has a port of its own, 53 is somebody else's, and none of the containers' business.
    bridge.dns_port.unwrap_or(53)
}

/// As our own table's `forward`: within one network; answers and published ports; the way out.
fn forwarded(state: &FirewallState, family: Family) -> Vec<Entry> {
    let bridges = concerned(family, &state.bridges);
    let from = |b: &FirewallBridge| device(Meta::Iifname, &b.bridge);
    let to = |b: &FirewallBridge| device(Meta::Oifname, &b.bridge);
    let mut out: Vec<Entry> = bridges
        .iter()
        .map(|b| entry(None, vec![from(b), to(b), accept()]))
        .collect();
    for b in &bridges {
        if !b.internal {
            out.push(entry(None, vec![to(b), vec![flowing_or_published()], accept()]));
        }
        out.push(entry(None, vec![to(b), verdict(Verdict::Return)]));
    }
    let outward = bridges.iter().filter(|b| !b.internal);
    out.extend(outward.map(|b| entry(None, vec![from(b), accept()])));
    out
}

/// Of containers who ask for names, and of peers.
fn received(state: &FirewallState, family: Family) -> Vec<Entry> {
    let mut out = questions(&state.bridges, family);
    let senders = peers::senders(state, family == Family::V4);
    out.extend(
        senders
            .into_iter()
            .map(|(peer, carrier)| sent(peer, carrier, family)),
    );
    out
}

/// By a peer: `-s PEER -p udp -m udp --dport PORT`, or `-p gre`.
fn sent(peer: IpAddr, carrier: Carrier, family: Family) -> Entry {
    let (number, port) = peers::protocol_and_port(carrier);
    let value = octets(peer);
    let from = vec![source_of(family, 0), Expr::Equal { reg: 0, value }];
    let port: Vec<Expr> = port.map(|port| to_port("udp", port)).into_iter().collect();
    // Of a match of iptables' own the kernel wants to know what it is for.
    let of = (!port.is_empty()).then_some(number);
    entry(of, vec![from, protocol(number, family), port, accept()])
}

/// Of containers to their gateway, by UDP and TCP.
fn questions(bridges: &[FirewallBridge], family: Family) -> Vec<Entry> {
    let one = |b: &FirewallBridge, subnet: IpNet, (number, name)| {
        let parts = vec![
            device(Meta::Iifname, &b.bridge),
            to_subnet(subnet, family),
            protocol(number, family),
            vec![to_port(name, names_port(b))],
            accept(),
        ];
        entry(Some(number), parts)
    };
    let both = |b: &FirewallBridge| {
        let subnet = family.subnet(b)?;
        Some([(17, "udp"), (6, "tcp")].map(|transport| one(b, subnet, transport)))
    };
    bridges.iter().filter_map(both).flatten().collect()
}

fn entry(protocol: Option<u8>, parts: Vec<Vec<Expr>>) -> Entry {
    Entry {
        comment: Vec::new(),
        protocol,
        exprs: parts.concat(),
    }
}

fn device(key: Meta, name: &str) -> Vec<Expr> {
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    vec![load(key, 0), Expr::Equal { reg: 0, value }]
}

/// Of which the host has the gateway's address alone.
fn to_subnet(subnet: IpNet, family: Family) -> Vec<Expr> {
    vec![
        destination_of(family, 0),
        Expr::MaskBytes {
            reg: 0,
            mask: octets(subnet.netmask()),
        },
        Expr::Equal {
            reg: 0,
            value: octets(subnet.network()),
        },
    ]
}

/// As iptables looks at it: in the header. ip6tables does not, for there may be headers between.
fn protocol(number: u8, family: Family) -> Vec<Expr> {
    let in_header = Expr::Payload {
        base: Base::Network,
        offset: 9,
        len: 1,
        to: 0,
    };
    let look = match family {
        Family::V4 => in_header,
        Family::V6 => load(Meta::L4proto, 0),
    };
    vec![
        look,
        Expr::Equal {
            reg: 0,
            value: vec![number],
        },
    ]
}

/// `-m udp --dport PORT`, likewise tcp (linux/netfilter/xt_tcpudp.h: first and last source port, the same of the
/// destination, then what both leave at zero).
fn to_port(name: &'static str, port: u16) -> Expr {
    const SIZE: usize = 16;
    let mut info: Vec<u8> = [0, u16::MAX, port, port]
        .iter()
        .flat_map(|port| port.to_ne_bytes())
        .collect();
    info.resize(SIZE, 0);
    Expr::Compat {
        name,
        revision: 0,
        info,
    }
}

/// `-m conntrack --ctstate RELATED,ESTABLISHED,DNAT` (linux/netfilter/xt_conntrack.h, `struct xt_conntrack_mtinfo3`).
fn flowing_or_published() -> Expr {
    const SIZE: usize = 168;
    const MATCH_FLAGS: usize = 146;
    const STATE_MASK: usize = 150;
    const STATE: u16 = 1;
    const ESTABLISHED: u16 = 1 << 1;
    const RELATED: u16 = 1 << 2;
    const DNAT: u16 = 1 << 7;
    let mut info = vec![0; SIZE];
    info[MATCH_FLAGS..][..2].copy_from_slice(&STATE.to_ne_bytes());
    info[STATE_MASK..][..2].copy_from_slice(&(ESTABLISHED | RELATED | DNAT).to_ne_bytes());
    Expr::Compat {
        name: "conntrack",
        revision: 3,
        info,
    }
}
