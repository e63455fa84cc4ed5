//! What must be in the table.
//!
//! | chain | says |
//! | --- | --- |
//! | `loopback` | containers reach neither the host's 127.0.0.0/8 nor send from it, before any translation |
//! | `prerouting` | a published port leads to its container: bound address first, then any address but those at which the name server listens; whoever is not on the port's list is turned away; names are asked where the name server listens |
//! | `output` | the same for the host's own processes, which are on every list |
//! | `postrouting` | who gets the host's address on the way out |
//! | `forward` | who may reach whom |
//! | `tunnels` | who may send to a tunnel that is not encrypted |
//! | `redirects` | what the host does not say to isolated containers |
//! | `zones`, `zones_output` | which entries of connection tracking a datagram to a published port is looked for among |
//!
//! Nothing relies on packets between ports of one bridge being seen here, or not being seen (bridge-nf-call-iptables).

use model::firewall::{FirewallState, Protocol};

use super::elements::{self, Elements};
use super::expr::{Expr, Meta, Verdict};
use super::family::Family;
use super::guard::Guards;
use super::phrase::{
    accept, destination_of, destination_port, dnatted, drop, flowing, from, from_loopback, is_in, is_not_in,
    load, local_daddr, masquerade, of, protocol, source_of, to, to_loopback, verdict,
};
use super::table::{Chain, Hook, Rule, Table};
use super::zones::Led;
use super::{guard, isolated, peers, slots, tunnels, zones};

pub(super) use super::set;

/// Chain that the rules of [`guard`] are the last ones of.
pub const FORWARD: &str = "forward";

const TCP: u8 = 6;
pub const UDP: u8 = 17;

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// What the table's make depends on besides the state.
#[derive(Clone, Debug, Default)]
pub struct Make {
    pub guards: Guards,
    /// The kernel knows zones of connection tracking.
    pub zoned: bool,
}

/// The whole table. `earlier`: what was there, of which slots and zones are kept.
pub fn render(state: &FirewallState, make: &Make, earlier: &Elements) -> Table {
    render_among(state, make, earlier, &Led::default())
}

/// The same. `led`: flows of UDP that there are, so that no port gets a zone in which they are led elsewhere.
pub fn render_among(state: &FirewallState, make: &Make, earlier: &Elements, led: &Led) -> Table {
    let shared = elements::is_shared(state);
    let zoned = make.zoned && state.ports.iter().any(|port| port.protocol == Protocol::Udp);
    let families = families(state);
    let mut forward = forward(state);
    forward.extend(guard::rules(&make.guards, families));
    let each = |rules: &dyn Fn(Family) -> Vec<Rule>| families.iter().flat_map(|f| rules(*f)).collect();
    let mut chains = vec![
        chain("loopback", "filter", Hook::Prerouting, RAW, each(&loopback)),
        chain(
            "prerouting",
            "nat",
            Hook::Prerouting,
            DSTNAT,
            each(&|f| prerouting(f, shared)),
        ),
        chain(
            "output",
            "nat",
            Hook::Output,
            DSTNAT,
            each(&|f| output(f, shared)),
        ),
        chain(
            "postrouting",
            "nat",
            Hook::Postrouting,
            SRCNAT,
            each(&postrouting),
        ),
        chain(FORWARD, "filter", Hook::Forward, FILTER, forward),
    ];
    let mut sets = elements::sets(state, earlier);
    chains.extend(tunnels::chain(state));
    sets.extend(tunnels::sets(state));
    sets.extend(peers::sets(state));
    sets.extend(guard::sets(&make.guards, families));
    chains.extend(isolated::chain(state));
    sets.extend(isolated::sets(state));
    if zoned {
        let zones = |name, hook| chain(name, "filter", hook, RAW, each(&|f| zones::rules(f, shared)));
        chains.push(zones("zones", Hook::Prerouting));
        chains.push(zones("zones_output", Hook::Output));
        sets.extend(zones::sets(&sets, earlier, led));
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

/// A network has IPv4.
pub fn has_ipv4(state: &FirewallState) -> bool {
    state.bridges.iter().any(|bridge| bridge.ip.v4().is_some())
}

/// A network has IPv6.
pub fn has_ipv6(state: &FirewallState) -> bool {
    state.bridges.iter().any(|bridge| bridge.ip.v6().is_some())
}

/// Those that the table is about.
pub fn families(state: &FirewallState) -> &'static [Family] {
    if has_ipv6(state) {
        &Family::ALL
    } else {
        &[Family::V4]
    }
}

/// Of IPv6 the kernel says the same by itself, but not of bridged packets where those pass here.
fn loopback(f: Family) -> Vec<Rule> {
    vec![
        rule(
            "containers do not reach the host's loopback",
            [from(set::BRIDGES), of(f), to_loopback(f), drop()],
        ),
        rule(
            "containers do not pose as the host",
            [from(set::BRIDGES), of(f), from_loopback(f), drop()],
        ),
    ]
}

/// A published port's own rule ends the chain, so that the lists of ports on any address are not asked about a port
/// that is published on that very address. `shared`: there may be ports of several containers.
fn prerouting(f: Family, shared: bool) -> Vec<Rule> {
    let loopback = match f {
        Family::V4 => "127.0.0.1 is for the host alone",
        Family::V6 => "::1 is for the host alone",
    };
    let mut rules = vec![
        rule(loopback, [of(f), to_loopback(f), verdict(Verdict::Return)]),
        names(f, "names", UDP),
        names(f, "names over TCP", TCP),
        asked(f),
        rule(
            "published on one address: whoever is not on its list",
            [
                of(f),
                local_daddr(false),
                bound_key(f),
                vec![is_in(f.set(set::CLOSED_BOUND))],
                bound_key(f),
                vec![source_of(f, 2 + f.words()), is_not_in(f.set(set::ALLOWED_BOUND))],
                drop(),
            ],
        ),
    ];
    rules.extend(bound(f, shared));
    rules.push(rule(
        "published on every address: whoever is not on its list",
        [
            of(f),
            local_daddr(false),
            any_key(),
            vec![is_in(f.set(set::CLOSED_ANY))],
            any_key(),
            vec![source_of(f, 2), is_not_in(f.set(set::ALLOWED_ANY))],
            drop(),
        ],
    ));
    rules.extend(any(f, shared));
    rules
}

/// A packet for ::1 that is translated finds no way: those ports are served by a process ([`crate::relay`]).
fn output(f: Family, shared: bool) -> Vec<Rule> {
    let left_alone = (f == Family::V6).then(|| {
        let exprs = [of(f), to_loopback(f), verdict(Verdict::Return)];
        rule("::1 is served by the relay", exprs)
    });
    let mut rules = Vec::from_iter(left_alone);
    rules.push(asked(f));
    rules.extend(bound(f, shared));
    rules.extend(any(f, shared));
    rules
}

/// Somebody may publish port 53 of every address: these are not among them.
fn asked(f: Family) -> Rule {
    let here = vec![destination_of(f, 0), is_in(f.set(set::ASKED))];
    let port = Expr::Equal {
        reg: 0,
        value: elements::DOMAIN.to_be_bytes().to_vec(),
    };
    let port = vec![destination_port(0), port];
    rule(
        "where the name server listens",
        [of(f), here, port, verdict(Verdict::Return)],
    )
}

/// Of a container asking its gateway, where something else than the name server has port 53.
fn names(f: Family, comment: &'static str, transport: u8) -> Rule {
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
    rule(comment, [of(f), protocol(transport), local_daddr(true), key])
}

fn bound_key(f: Family) -> Vec<Expr> {
    let port = destination_port(1 + f.words());
    vec![load(Meta::L4proto, 0), destination_of(f, 1), port]
}

fn any_key() -> Vec<Expr> {
    vec![load(Meta::L4proto, 0), destination_port(1)]
}

fn bound(f: Family, shared: bool) -> Vec<Rule> {
    let mut rules = vec![rule(
        "published on one address",
        [
            of(f),
            local_daddr(false),
            bound_key(f),
            to_container(f, set::BOUND),
        ],
    )];
    if shared {
        let port = f.words();
        let key = vec![destination_of(f, 0), destination_port(port)];
        rules.push(of_several(
            f,
            TCP,
            key.clone(),
            any_slot(port + 1),
            set::BOUND_SLOTS,
        ));
        rules.push(of_several(
            f,
            UDP,
            key,
            zones::slot(f, port + 1),
            set::UDP_BOUND_SLOTS,
        ));
    }
    rules
}

fn any(f: Family, shared: bool) -> Vec<Rule> {
    let mut rules = vec![rule(
        "published on every address",
        [of(f), local_daddr(false), any_key(), to_container(f, set::ANY)],
    )];
    if shared {
        let key = vec![destination_port(0)];
        rules.push(of_several(f, TCP, key.clone(), any_slot(1), set::ANY_SLOTS));
        rules.push(of_several(f, UDP, key, zones::slot(f, 1), set::UDP_ANY_SLOTS));
    }
    rules
}

fn of_several(f: Family, transport: u8, port: Vec<Expr>, slot: Vec<Expr>, map: &'static str) -> Rule {
    rule(
        "the same, of several containers",
        [
            of(f),
            protocol(transport),
            local_daddr(false),
            port,
            slot,
            to_container(f, map),
        ],
    )
}

fn any_slot(to: u8) -> Vec<Expr> {
    let below = slots::COUNT;
    vec![Expr::Random { below, to }]
}

fn to_container(f: Family, map: &'static str) -> Vec<Expr> {
    vec![
        Expr::Lookup {
            set: f.set(map),
            key: 0,
            to: Some(0),
        },
        Expr::Dnat {
            family: f,
            address: 0,
            port: f.words(),
        },
    ]
}

fn postrouting(f: Family) -> Vec<Rule> {
    let of_subnet = |key, set| vec![load(key, 0), source_of(f, 4), is_in(f.set(set))];
    let elsewhere = vec![load(Meta::Oifname, 0), is_not_in(set::BRIDGES)];
    let from_host = (f == Family::V4).then(|| {
        rule(
            "from the host's 127.0.0.1 to a container",
            [of(f), from_loopback(f), to(set::BRIDGES), masquerade()],
        )
    });
    let mut rules = Vec::from_iter(from_host);
    rules.extend([
        rule(
            "from a container to its own network by the host's address",
            [
                dnatted(),
                of(f),
                of_subnet(Meta::Oifname, set::SUBNETS),
                masquerade(),
            ],
        ),
        rule(
            "from a container to the world",
            [
                of(f),
                of_subnet(Meta::Iifname, set::MASQUERADED),
                elsewhere,
                masquerade(),
            ],
        ),
    ]);
    rules
}

fn forward(state: &FirewallState) -> Vec<Rule> {
    let same = vec![load(Meta::Iifname, 0), load(Meta::Oifname, 4), is_in(set::SAME)];
    let mut rules = vec![rule("within one network", [same, accept()])];
    rules.extend(isolated::rules(state));
    rules.extend([
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
    ]);
    rules
}

pub fn rule<const N: usize>(comment: &'static str, parts: [Vec<Expr>; N]) -> Rule {
    Rule {
        comment,
        exprs: parts.concat(),
    }
}
