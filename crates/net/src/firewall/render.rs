//! What must be in the table.
//!
//! | chain | says |
//! | --- | --- |
//! | `loopback` | containers reach neither the host's 127.0.0.0/8 nor send from it, before any translation |
//! | `prerouting` | a published port leads to its container: bound address first, then any address; whoever is not on the port's list is turned away; names are asked where the name server listens |
//! | `output` | the same for the host's own processes, which are on every list |
//! | `postrouting` | who gets the host's address on the way out |
//! | `forward` | who may reach whom |
//! | `zones`, `zones_output` | which entries of connection tracking a datagram to a published port is looked for among |
//!
//! Nothing relies on packets between ports of one bridge being seen here, or not being seen (bridge-nf-call-iptables).

use model::firewall::{FirewallState, Protocol};

use super::elements::{self, Elements};
use super::expr::{Expr, Meta, Verdict};
use super::phrase::{
    accept, daddr_127, destination, destination_port, dnatted, drop, flowing, from, ipv4, is_in, is_not_in,
    load, local_daddr, masquerade, protocol, saddr_127, source, to, verdict,
};
use super::table::{Chain, Hook, Rule, Table};
use super::{slots, zones};

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
    /// host address . host port . slot : address . port, of TCP ports with several targets
    pub const BOUND_SLOTS: &str = "ports_bound_slots";
    /// host port . slot : address . port, of TCP ports with several targets
    pub const ANY_SLOTS: &str = "ports_any_slots";
    /// The same of UDP ports.
    pub const UDP_BOUND_SLOTS: &str = "udp_bound_slots";
    pub const UDP_ANY_SLOTS: &str = "udp_any_slots";
    /// All that say where ports lead.
    pub const PORTS: [&str; 6] = [BOUND, ANY, BOUND_SLOTS, ANY_SLOTS, UDP_BOUND_SLOTS, UDP_ANY_SLOTS];
    /// host address . host port : zone, of UDP ports
    pub const ZONES_BOUND: &str = "zones_bound";
    /// host port : zone, of UDP ports
    pub const ZONES_ANY: &str = "zones_any";
    /// The same with slots, of ports with several targets.
    pub const ZONES_BOUND_SLOTS: &str = "zones_bound_slots";
    pub const ZONES_ANY_SLOTS: &str = "zones_any_slots";
    /// The same again for error messages about answers: of another type for `nft`.
    pub const ERRORS_BOUND: &str = "errors_bound";
    pub const ERRORS_ANY: &str = "errors_any";
    pub const ERRORS_BOUND_SLOTS: &str = "errors_bound_slots";
    pub const ERRORS_ANY_SLOTS: &str = "errors_any_slots";
    /// Of [`BOUND`] and its slots, the ports that are not for everybody.
    pub const CLOSED_BOUND: &str = "closed_bound";
    /// Of [`ANY`] and its slots, the ports that are not for everybody.
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
pub const UDP: u8 = 17;

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// What the table's make depends on besides the state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Make {
    /// What concerns no bridge of ours is not forwarded.
    pub guarded: bool,
    /// The kernel knows zones of connection tracking.
    pub zoned: bool,
}

/// The whole table. `earlier`: what was there, of which slots and zones are kept.
pub fn render(state: &FirewallState, make: Make, earlier: &Elements) -> Table {
    let shared = elements::is_shared(state);
    let zoned = make.zoned && state.ports.iter().any(|port| port.protocol == Protocol::Udp);
    let mut forward = forward();
    forward.extend(make.guarded.then(guard));
    let mut chains = vec![
        chain("loopback", "filter", Hook::Prerouting, RAW, loopback()),
        chain("prerouting", "nat", Hook::Prerouting, DSTNAT, prerouting(shared)),
        chain("output", "nat", Hook::Output, DSTNAT, output(shared)),
        chain("postrouting", "nat", Hook::Postrouting, SRCNAT, postrouting()),
        chain(FORWARD, "filter", Hook::Forward, FILTER, forward),
    ];
    let mut sets = elements::sets(state, earlier);
    if zoned {
        let zones = |name, hook| chain(name, "filter", hook, RAW, zones::rules(shared));
        chains.push(zones("zones", Hook::Prerouting));
        chains.push(zones("zones_output", Hook::Output));
        sets.extend(zones::sets(&sets, earlier));
    }
    Table { sets, chains }
}

fn chain(name: &'static str, kind: &'static str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        kind,
        hook,
        priority,
        rules,
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
/// that is published on that very address. `shared`: there may be ports of several containers.
fn prerouting(shared: bool) -> Vec<Rule> {
    let mut rules = vec![
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
    ];
    rules.extend(bound(shared));
    rules.push(rule(
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
    ));
    rules.extend(any(shared));
    rules
}

fn output(shared: bool) -> Vec<Rule> {
    [bound(shared), any(shared)].concat()
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

fn bound(shared: bool) -> Vec<Rule> {
    let mut rules = vec![rule(
        "published on one address",
        [ipv4(), local_daddr(false), bound_key(), to_container(set::BOUND)],
    )];
    if shared {
        let key = vec![destination(0), destination_port(1)];
        rules.push(of_several(TCP, key.clone(), any_slot(2), set::BOUND_SLOTS));
        rules.push(of_several(UDP, key, zones::slot(2), set::UDP_BOUND_SLOTS));
    }
    rules
}

fn any(shared: bool) -> Vec<Rule> {
    let mut rules = vec![rule(
        "published on every address",
        [ipv4(), local_daddr(false), any_key(), to_container(set::ANY)],
    )];
    if shared {
        let key = vec![destination_port(0)];
        rules.push(of_several(TCP, key.clone(), any_slot(1), set::ANY_SLOTS));
        rules.push(of_several(UDP, key, zones::slot(1), set::UDP_ANY_SLOTS));
    }
    rules
}

fn of_several(transport: u8, port: Vec<Expr>, slot: Vec<Expr>, map: &'static str) -> Rule {
    rule(
        "the same, of several containers",
        [
            ipv4(),
            protocol(transport),
            local_daddr(false),
            port,
            slot,
            to_container(map),
        ],
    )
}

fn any_slot(to: u8) -> Vec<Expr> {
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

pub fn rule<const N: usize>(comment: &'static str, parts: [Vec<Expr>; N]) -> Rule {
    Rule {
        comment,
        exprs: parts.concat(),
    }
}
