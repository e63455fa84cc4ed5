//! What must be in the table.
//!
//! | chain | says |
//! | --- | --- |
//! | `loopback` | containers reach neither the host's 127.0.0.0/8 nor send from it, before any translation |
//! | `prerouting` | a published port leads to its container: bound address first, then any address; whoever is not on the port's list is turned away; names are asked where the name server listens |
//! | `output` | the same for the host's own processes, which are on every list |
//! | `postrouting` | who gets the host's address on the way out |
//! | `forward` | who may reach whom |
//!
//! Nothing relies on packets between ports of one bridge being seen here, or not being seen (bridge-nf-call-iptables).

use model::firewall::FirewallState;

use super::elements::{self, Elements};
use super::expr::{Expr, Meta, Verdict};
use super::phrase::{
    accept, daddr_127, destination, destination_port, dnatted, drop, flowing, from, ipv4, is_in, is_not_in,
    load, local_daddr, masquerade, protocol, saddr_127, source, to, verdict,
};
use super::slots;
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
    /// device . port 53 : port of the name server
    pub const NAMES: &str = "names";
    /// protocol . host address . host port : address . port
    pub const BOUND: &str = "ports_bound";
    /// protocol . host port : address . port
    pub const ANY: &str = "ports_any";
    /// protocol . host address . host port . slot : address . port, of ports with several targets
    pub const BOUND_SLOTS: &str = "ports_bound_slots";
    /// protocol . host port . slot : address . port, of ports with several targets
    pub const ANY_SLOTS: &str = "ports_any_slots";
    /// Of [`BOUND`] and [`BOUND_SLOTS`], the ports that are not for everybody.
    pub const CLOSED_BOUND: &str = "closed_bound";
    /// Of [`ANY`] and [`ANY_SLOTS`], the ports that are not for everybody.
    pub const CLOSED_ANY: &str = "closed_any";
    /// Whom those are for: protocol . host address . host port . sources
    pub const ALLOWED_BOUND: &str = "allowed_bound";
    /// Whom those are for: protocol . host port . sources
    pub const ALLOWED_ANY: &str = "allowed_any";
    /// Sources that were listed although another one of the same port contains them, which an interval set does not
    /// take; no rule looks at it.
    ///
    /// protocol . host address (0.0.0.0 for all) . host port . address . prefix length
    pub const ALLOWED_TWICE: &str = "allowed_twice";
    /// UDP ports whose flows are to be forgotten yet; no rule looks at it.
    ///
    /// host address (0.0.0.0 for all) . host port . address (0.0.0.0: of the host) . port
    pub const STALE_UDP: &str = "stale_udp";
}

/// Chain that [`guard`] is the last rule of.
pub const FORWARD: &str = "forward";

const TCP: u8 = 6;
const UDP: u8 = 17;

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// The whole table. `guarded`: what concerns no bridge of ours is not forwarded. `earlier`: what was there, of which
/// slots are kept.
pub fn render(state: &FirewallState, guarded: bool, earlier: &Elements) -> Table {
    let mut forward = forward();
    if guarded {
        forward.push(guard());
    }
    let chain = |name, kind, hook, priority, rules| Chain {
        name,
        kind,
        hook,
        priority,
        rules,
    };
    let (mut prerouting, mut output) = (
        prerouting(),
        vec![bound_port(), bound_slot(), any_port(), any_slot()],
    );
    if state.ports.iter().all(|port| port.service.is_none()) {
        // `nft` does not read again what it writes down of these: who has no replicas has no need of them.
        let slots = [bound_slot(), any_slot()];
        prerouting.retain(|rule| !slots.contains(rule));
        output.retain(|rule| !slots.contains(rule));
    }
    Table {
        sets: elements::sets(state, earlier),
        chains: vec![
            chain("loopback", "filter", Hook::Prerouting, RAW, loopback()),
            chain("prerouting", "nat", Hook::Prerouting, DSTNAT, prerouting),
            chain("output", "nat", Hook::Output, DSTNAT, output),
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

/// A published port's own rule ends the chain, so that the lists of ports on any address are not asked about a port
/// that is published on that very address.
fn prerouting() -> Vec<Rule> {
    vec![
        rule(
            "127.0.0.1 is for the host alone",
            [ipv4(), daddr_127(), verdict(Verdict::Return)],
        ),
        names("names", UDP),
        names("names over TCP", TCP),
        rule(
            "published on one address: whoever is not on its list",
            [
                ipv4(),
                local_daddr(false),
                bound_key(),
                vec![is_in(set::CLOSED_BOUND)],
                bound_key(),
                vec![source(3), is_not_in(set::ALLOWED_BOUND)],
                drop(),
            ],
        ),
        bound_port(),
        bound_slot(),
        rule(
            "published on every address: whoever is not on its list",
            [
                ipv4(),
                local_daddr(false),
                any_key(),
                vec![is_in(set::CLOSED_ANY)],
                any_key(),
                vec![source(2), is_not_in(set::ALLOWED_ANY)],
                drop(),
            ],
        ),
        any_port(),
        any_slot(),
    ]
}

/// Of a container asking its gateway, where something else than the name server has port 53.
fn names(comment: &'static str, transport: u8) -> Rule {
    let key = vec![
        load(Meta::Iifname, 0),
        destination_port(4),
        Expr::Lookup {
            set: set::NAMES,
            key: 0,
            to: Some(0),
        },
        Expr::Redirect { port: 0 },
    ];
    rule(comment, [ipv4(), protocol(transport), local_daddr(true), key])
}

fn bound_key() -> Vec<Expr> {
    vec![load(Meta::L4proto, 0), destination(1), destination_port(2)]
}

fn any_key() -> Vec<Expr> {
    vec![load(Meta::L4proto, 0), destination_port(1)]
}

fn bound_port() -> Rule {
    rule(
        "published on one address",
        [ipv4(), local_daddr(false), bound_key(), to_container(set::BOUND)],
    )
}

fn any_port() -> Rule {
    rule(
        "published on every address",
        [ipv4(), local_daddr(false), any_key(), to_container(set::ANY)],
    )
}

fn bound_slot() -> Rule {
    let key = [bound_key(), slot(3), to_container(set::BOUND_SLOTS)].concat();
    rule(
        "the same, of several containers",
        [ipv4(), local_daddr(false), key],
    )
}

fn any_slot() -> Rule {
    let key = [any_key(), slot(2), to_container(set::ANY_SLOTS)].concat();
    rule(
        "the same, of several containers",
        [ipv4(), local_daddr(false), key],
    )
}

fn slot(to: u8) -> Vec<Expr> {
    let below = slots::COUNT;
    vec![Expr::Random { below, to }]
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
    let of_subnet = |key, set| vec![load(key, 0), source(4), is_in(set)];
    let elsewhere = vec![load(Meta::Oifname, 0), is_not_in(set::BRIDGES)];
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
                of_subnet(Meta::Oifname, set::SUBNETS),
                masquerade(),
            ],
        ),
        rule(
            "from a container to the world",
            [
                ipv4(),
                of_subnet(Meta::Iifname, set::MASQUERADED),
                elsewhere,
                masquerade(),
            ],
        ),
    ]
}

fn forward() -> Vec<Rule> {
    let same = vec![load(Meta::Iifname, 0), load(Meta::Oifname, 4), is_in(set::SAME)];
    vec![
        rule("within one network", [same, accept()]),
        rule(
            "an internal network has no way out",
            [from(set::INTERNAL), drop()],
        ),
        rule("nor in", [to(set::INTERNAL), drop()]),
        rule("what was let through before", [flowing(), accept()]),
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
