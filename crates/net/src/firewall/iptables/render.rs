//! What must be in the tables, as rules in the words of `iptables-restore`.
//!
//! | table | chain | reached from | says |
//! | --- | --- | --- | --- |
//! | mangle | `WHARF-GUARD` | PREROUTING | containers reach neither the host's 127.0.0.0/8 nor send from it; whoever opens a connection to a published port and is not on its list is turned away |
//! | mangle | `WHARF-LISTS` | the one above | the lists |
//! | mangle | `WHARF-APART` | FORWARD | who may reach whom |
//! | mangle | `WHARF-TUNNELS` | INPUT | who may send to a tunnel that is not encrypted |
//! | mangle | `WHARF-REDIRECTS` | OUTPUT | what the host does not say to isolated containers |
//! | nat | `WHARF-DNAT` | PREROUTING | a published port leads to its container; names are asked where the name server listens |
//! | nat | `WHARF-LOCAL` | OUTPUT | the same for the host's own processes |
//! | nat | `WHARF-PORTS` | these two | the ports: of one address first, then of every address |
//! | nat | `WHARF-OUT` | POSTROUTING | who gets the host's address on the way out |
//! | filter | `WHARF-PASS` | FORWARD | what the rules of others let through of ours |
//! | filter | `WHARF-NAMES` | INPUT | and of what containers ask the name server, and peers send for networks over several hosts |

use std::collections::BTreeSet;

use model::firewall::{FirewallBridge, FirewallState, Protocol};

use super::{drops, ports, ways};
use crate::firewall::family::Family;
use crate::firewall::guard::Guards;
use crate::firewall::passage::concerned;
use crate::firewall::render::has_ipv6;

/// In the order they are changed in. Where there is none of ours left the other way round.
pub const TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// All names of ours. None of them is one of the nftables backend's, which has a way through chains of iptables as well.
pub const CHAINS: [&str; 11] = [
    "WHARF-GUARD",
    "WHARF-LISTS",
    "WHARF-APART",
    "WHARF-TUNNELS",
    "WHARF-REDIRECTS",
    "WHARF-DNAT",
    "WHARF-LOCAL",
    "WHARF-PORTS",
    "WHARF-OUT",
    "WHARF-PASS",
    "WHARF-NAMES",
];

/// That chain of iptables, kept in nf_tables, is ours.
pub(crate) fn is_own(family: u8, chain: &str) -> bool {
    Family::ALL.into_iter().any(|f| f.number() == family) && CHAINS.contains(&chain)
}

/// Of one table, ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: &'static str,
    pub chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// The built-in chain with a jump to it; none where it is called by another one of ours.
    pub hook: Option<&'static str>,
    /// For whoever reads the list.
    pub about: &'static str,
    /// Without `-A NAME`.
    pub rules: Vec<String>,
}

/// A published port, whatever address it is at.
pub type Place = (Protocol, u16);

/// The tables of one family. `shut`: ports that nobody is let in to for now.
pub fn render(state: &FirewallState, guards: &Guards, f: Family, shut: &BTreeSet<Place>) -> Vec<Table> {
    let spoken_of = f == Family::V4 || has_ipv6(state);
    let bridges = concerned(f, &state.bridges);
    let bridges = bridges.as_slice();
    // A device without IPv4 addresses takes packets of it all the same.
    let guarded = match f {
        Family::V4 => state.bridges.as_slice(),
        Family::V6 => bridges,
    };
    let closed = guards.is_of(f).then_some(&guards.others);
    let mangle = || {
        let mut chains = Vec::new();
        if spoken_of {
            let lists = drops::lists(state, f, shut);
            chains.push(chain(
                "WHARF-GUARD",
                Some("PREROUTING"),
                "before any translation",
                drops::guard(guarded, f, !lists.is_empty()),
            ));
            chains.push(chain("WHARF-LISTS", None, "who is let in", lists));
            chains.push(chain(
                "WHARF-APART",
                Some("FORWARD"),
                "who may reach whom",
                drops::apart(state, guarded, f, closed),
            ));
        }
        let tunnels = drops::tunnels(&state.tunnels, f);
        let redirects = drops::redirects(guarded, f);
        for (name, hook, about, rules) in [
            ("WHARF-TUNNELS", "INPUT", "who may send to a tunnel", tunnels),
            ("WHARF-REDIRECTS", "OUTPUT", "there is no shorter way", redirects),
        ] {
            chains.extend((!rules.is_empty()).then(|| chain(name, Some(hook), about, rules)));
        }
        chains
    };
    let chains = [
        mangle(),
        of(spoken_of, || nat(state, bridges, f)),
        filter(state, bridges, f, spoken_of),
    ];
    let table = |(name, chains)| Table { name, chains };
    TABLES.into_iter().zip(chains).map(table).collect()
}

fn of(so: bool, chains: impl FnOnce() -> Vec<Chain>) -> Vec<Chain> {
    if so { chains() } else { Vec::new() }
}

fn nat(state: &FirewallState, bridges: &[FirewallBridge], f: Family) -> Vec<Chain> {
    vec![
        chain(
            "WHARF-PORTS",
            None,
            "published ports",
            ports::ports(&state.ports, f),
        ),
        chain(
            "WHARF-DNAT",
            Some("PREROUTING"),
            "what comes in",
            ports::incoming(bridges, &state.names, f),
        ),
        chain(
            "WHARF-LOCAL",
            Some("OUTPUT"),
            "the host's own",
            ports::own(&state.names, f),
        ),
        chain(
            "WHARF-OUT",
            Some("POSTROUTING"),
            "what goes out",
            ports::outgoing(bridges, f),
        ),
    ]
}

/// Peers may send by a family that no network has.
fn filter(state: &FirewallState, bridges: &[FirewallBridge], f: Family, spoken_of: bool) -> Vec<Chain> {
    let pass = || {
        chain(
            "WHARF-PASS",
            Some("FORWARD"),
            "past the rules of others",
            ways::forwarded(bridges),
        )
    };
    let mut chains = of(spoken_of, || vec![pass()]);
    let (asked, sent) = (ways::questions(bridges, f), ways::sent(state, f));
    if spoken_of || !sent.is_empty() {
        chains.push(chain(
            "WHARF-NAMES",
            Some("INPUT"),
            "containers ask for names, peers send",
            [asked, sent].concat(),
        ));
    }
    chains
}

fn chain(name: &'static str, hook: Option<&'static str>, about: &'static str, rules: Vec<String>) -> Chain {
    Chain {
        name,
        hook,
        about,
        rules,
    }
}

/// The ports that nobody is to get in to while the lists are of one state and the targets of the other: those with a
/// list whose targets change.
pub fn shut_between(before: &FirewallState, after: &FirewallState) -> BTreeSet<Place> {
    let of = |state: &FirewallState| {
        let ports = state.ports.iter();
        let targets = ports.map(|p| ((p.protocol, p.host_port), (p.host_ip, p.target_ip, p.target_port)));
        targets.collect::<BTreeSet<_>>()
    };
    let (was, is) = (of(before), of(after));
    let listed = |state: &FirewallState| -> BTreeSet<Place> {
        let ports = state.ports.iter().filter(|p| !p.allow.is_empty());
        ports.map(|p| (p.protocol, p.host_port)).collect()
    };
    let listed: BTreeSet<Place> = listed(before).union(&listed(after)).copied().collect();
    let moved = was.symmetric_difference(&is).map(|(place, _)| *place);
    moved.filter(|place| listed.contains(place)).collect()
}
