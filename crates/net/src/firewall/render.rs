//! What must be in the table.
//!
//! | chain | says |
//! | --- | --- |
//! | `loopback` | containers reach neither the host's 127.0.0.0/8 nor send from it, before any translation |
//! | `prerouting`, `output` | a published port leads to its container: bound address first, then any address |
//! | `postrouting` | who gets the host's address on the way out |
//! | `forward` | who may reach whom |
//!
//! Nothing relies on packets between ports of one bridge being seen here, or not being seen (bridge-nf-call-iptables).

use model::firewall::FirewallState;

use super::elements;
use super::expr::{Base, Ct, Expr, Meta, Verdict};
use super::table::{Chain, Hook, Rule, Table};

/// Names of the sets.
pub mod set {
    /// Our bridges.
    pub const BRIDGES: &str = "bridges";
    /// Of those, the ones without a way out.
    pub const INTERNAL: &str = "internal";
    /// Each bridge with itself: rules cannot compare two devices.
    pub const SAME: &str = "same_bridge";
    /// Each bridge with its subnet.
    pub const SUBNETS: &str = "subnets";
    /// Of those, the ones that get the host's address on the way out.
    pub const MASQUERADED: &str = "masqueraded";
    /// protocol . host address . host port : address . port
    pub const BOUND: &str = "ports_bound";
    /// protocol . host port : address . port
    pub const ANY: &str = "ports_any";
    /// UDP ports whose flows are to be forgotten yet; no rule looks at it.
    ///
    /// host address (0.0.0.0 for all) . host port . address . port
    pub const STALE_UDP: &str = "stale_udp";
}

/// Chain that [`guard`] is the last rule of.
pub const FORWARD: &str = "forward";

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const IPV4: u8 = 2;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
/// Bits of `ct state`.
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

/// The whole table. `guard`: what concerns no bridge of ours is not forwarded.
pub fn render(state: &FirewallState, guarded: bool) -> Table {
    let mut forward = forward();
    if guarded {
        forward.push(guard());
    }
    let ports = vec![bound_port(), any_port()];
    let mut prerouting = vec![no_loopback_from_outside()];
    prerouting.extend(ports.iter().cloned());
    let chain = |name, kind, hook, priority, rules| Chain {
        name,
        kind,
        hook,
        priority,
        rules,
    };
    Table {
        sets: elements::sets(state),
        chains: vec![
            chain("loopback", "filter", Hook::Prerouting, RAW, loopback()),
            chain("prerouting", "nat", Hook::Prerouting, DSTNAT, prerouting),
            chain("output", "nat", Hook::Output, DSTNAT, ports),
            chain("postrouting", "nat", Hook::Postrouting, SRCNAT, postrouting()),
            chain(FORWARD, "filter", Hook::Forward, FILTER, forward),
        ],
    }
}

/// Forwarding was off on this host before us: only our bridges get it.
pub fn guard() -> Rule {
    rule(
        "forwarding was off before wharf: for its bridges alone",
        [ipv4(), drop()],
    )
}

fn loopback() -> Vec<Rule> {
    vec![
        rule(
            "containers do not reach the host's loopback",
            [from(set::BRIDGES), ipv4(), daddr_127(), drop()],
        ),
        rule(
            "containers do not pose as the host",
            [from(set::BRIDGES), ipv4(), saddr_127(), drop()],
        ),
    ]
}

fn no_loopback_from_outside() -> Rule {
    rule(
        "127.0.0.1 is for the host alone",
        [ipv4(), daddr_127(), verdict(Verdict::Return)],
    )
}

fn bound_port() -> Rule {
    let keys = vec![
        Expr::Meta {
            key: Meta::L4proto,
            to: 0,
        },
        Expr::Payload {
            base: Base::Network,
            offset: 16,
            len: 4,
            to: 1,
        },
        Expr::Payload {
            base: Base::Transport,
            offset: 2,
            len: 2,
            to: 2,
        },
    ];
    rule(
        "published on one address",
        [ipv4(), local_daddr(), keys, to_container(set::BOUND)],
    )
}

fn any_port() -> Rule {
    let keys = vec![
        Expr::Meta {
            key: Meta::L4proto,
            to: 0,
        },
        Expr::Payload {
            base: Base::Transport,
            offset: 2,
            len: 2,
            to: 1,
        },
    ];
    rule(
        "published on every address",
        [ipv4(), local_daddr(), keys, to_container(set::ANY)],
    )
}

fn to_container(map: &'static str) -> Vec<Expr> {
    vec![
        Expr::Lookup {
            set: map,
            key: 0,
            to: Some(0),
        },
        Expr::Dnat { address: 0, port: 1 },
    ]
}

fn postrouting() -> Vec<Rule> {
    let pair = |key| {
        vec![
            Expr::Meta { key, to: 0 },
            Expr::Payload {
                base: Base::Network,
                offset: 12,
                len: 4,
                to: 4,
            },
        ]
    };
    let subnet = |set| {
        vec![Expr::Lookup {
            set,
            key: 0,
            to: None,
        }]
    };
    let elsewhere = vec![
        Expr::Meta {
            key: Meta::Oifname,
            to: 0,
        },
        Expr::NotIn {
            set: set::BRIDGES,
            key: 0,
        },
    ];
    vec![
        rule(
            "from the host's 127.0.0.1 to a container",
            [ipv4(), saddr_127(), to(set::BRIDGES), masquerade()],
        ),
        rule(
            "from a container to its own network by the host's address",
            [
                dnatted(),
                ipv4(),
                pair(Meta::Oifname),
                subnet(set::SUBNETS),
                masquerade(),
            ],
        ),
        rule(
            "from a container to the world",
            [
                ipv4(),
                pair(Meta::Iifname),
                subnet(set::MASQUERADED),
                elsewhere,
                masquerade(),
            ],
        ),
    ]
}

fn forward() -> Vec<Rule> {
    let same = vec![
        Expr::Meta {
            key: Meta::Iifname,
            to: 0,
        },
        Expr::Meta {
            key: Meta::Oifname,
            to: 4,
        },
        Expr::Lookup {
            set: set::SAME,
            key: 0,
            to: None,
        },
    ];
    let flowing = vec![
        Expr::Ct {
            key: Ct::State,
            to: 0,
        },
        Expr::Mask {
            reg: 0,
            mask: ESTABLISHED_OR_RELATED,
        },
        Expr::NotEqual {
            reg: 0,
            value: vec![0; 4],
        },
    ];
    vec![
        rule("within one network", [same, accept()]),
        rule(
            "an internal network has no way out",
            [from(set::INTERNAL), drop()],
        ),
        rule("nor in", [to(set::INTERNAL), drop()]),
        rule("what was let through before", [flowing, accept()]),
        rule("published ports", [to(set::BRIDGES), dnatted(), accept()]),
        rule(
            "nobody else reaches a container: outside, other networks",
            [to(set::BRIDGES), drop()],
        ),
        rule("containers reach the world", [from(set::BRIDGES), accept()]),
    ]
}

fn rule<const N: usize>(comment: &'static str, parts: [Vec<Expr>; N]) -> Rule {
    Rule {
        comment,
        exprs: parts.concat(),
    }
}

fn ipv4() -> Vec<Expr> {
    vec![
        Expr::Meta {
            key: Meta::Nfproto,
            to: 0,
        },
        Expr::Equal {
            reg: 0,
            value: vec![IPV4],
        },
    ]
}

fn from(set: &'static str) -> Vec<Expr> {
    vec![
        Expr::Meta {
            key: Meta::Iifname,
            to: 0,
        },
        Expr::Lookup {
            set,
            key: 0,
            to: None,
        },
    ]
}

fn to(set: &'static str) -> Vec<Expr> {
    vec![
        Expr::Meta {
            key: Meta::Oifname,
            to: 0,
        },
        Expr::Lookup {
            set,
            key: 0,
            to: None,
        },
    ]
}

fn saddr_127() -> Vec<Expr> {
    first_byte_127(12)
}

fn daddr_127() -> Vec<Expr> {
    first_byte_127(16)
}

fn first_byte_127(offset: u32) -> Vec<Expr> {
    vec![
        Expr::Payload {
            base: Base::Network,
            offset,
            len: 1,
            to: 0,
        },
        Expr::Equal {
            reg: 0,
            value: vec![127],
        },
    ]
}

fn local_daddr() -> Vec<Expr> {
    vec![
        Expr::AddressType { to: 0 },
        Expr::Equal {
            reg: 0,
            value: LOCAL.to_ne_bytes().to_vec(),
        },
    ]
}

fn dnatted() -> Vec<Expr> {
    vec![
        Expr::Ct {
            key: Ct::Status,
            to: 0,
        },
        Expr::Mask {
            reg: 0,
            mask: STATUS_DNAT,
        },
        Expr::NotEqual {
            reg: 0,
            value: vec![0; 4],
        },
    ]
}

fn masquerade() -> Vec<Expr> {
    vec![Expr::Masquerade]
}

fn accept() -> Vec<Expr> {
    verdict(Verdict::Accept)
}

fn drop() -> Vec<Expr> {
    verdict(Verdict::Drop)
}

fn verdict(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}
