//! What others' chains drop of our bridges' traffic, in words for users: what is there, and what to add.

use model::firewall::FirewallBridge;
use model::observed::ForeignDrop;

use super::family::Family;
use super::foreign::{ForeignChain, Hook, Verdict, expressions, immediate};
use super::passage::{concerned, names_port};
use super::read::FoundRule;
use super::{firewalld, nl, sidedoor};
use crate::netlink::{find, read_be32};

/// `meta` keys: index and names of the devices a packet came and leaves by, and its transport.
const IIF: u32 = 4;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const L4PROTO: u32 = 16;

/// What drops the traffic of these bridges and is not to be helped from here.
///
/// `passed`: there is a way through the chains that iptables keeps in nftables.
pub fn drops(chains: &[ForeignChain], bridges: &[FirewallBridge], passed: bool) -> Vec<ForeignDrop> {
    let closed = |hook| {
        chains.iter().filter(move |c| {
            // Of firewalld it is known what it does.
            let known = passed && sidedoor::is_kept_by_iptables(c) || firewalld::is_its(c);
            c.hook == hook && c.closes && !known
        })
    };
    let of = |chain: &ForeignChain| match chain.family {
        nl::IPV6 => concerned(Family::V6, bridges),
        _ => bridges.to_vec(),
    };
    let forward = closed(Hook::Forward).filter_map(|chain| forward(chain, &of(chain)));
    let inner = closed(Hook::Input).filter_map(|chain| input(chain, &of(chain)));
    forward.chain(inner).collect()
}

fn forward(chain: &ForeignChain, bridges: &[FirewallBridge]) -> Option<ForeignDrop> {
    let heeded = |bridge: &&FirewallBridge| {
        [IIFNAME, OIFNAME]
            .iter()
            .all(|key| chain.rules.iter().any(|rule| heeds(rule, *key, bridge)))
    };
    let missing = bridges.iter().filter(|bridge| !heeded(bridge));
    let names: Vec<&str> = missing.map(|bridge| bridge.bridge.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let place = place(chain);
    let devices = quoted(&names);
    let told = format!(
        "the nftables chain `{place}` drops what is forwarded to and from {}, so that containers there are cut off and \
         their published ports dead; add to it: `nft 'insert rule {place} iifname {{ {devices} }} accept; \
         insert rule {place} oifname {{ {devices} }} accept'` (the table inet {} sees to it that nothing but published \
         ports is reached), and the same in the file it is loaded from",
        names.join(", "),
        nl::TABLE,
    );
    Some(drop_by(&place, &names, true, told))
}

fn input(chain: &ForeignChain, bridges: &[FirewallBridge]) -> Option<ForeignDrop> {
    let heeded = |bridge: &FirewallBridge| chain.rules.iter().any(|rule| answers(rule, bridge));
    let missing: Vec<&FirewallBridge> = bridges.iter().filter(|bridge| !heeded(bridge)).collect();
    if missing.is_empty() {
        return None;
    }
    let names: Vec<&str> = missing.iter().map(|b| b.bridge.as_str()).collect();
    let place = place(chain);
    let mut ports: Vec<String> = missing.iter().map(|b| names_port(b).to_string()).collect();
    ports.sort();
    ports.dedup();
    let (devices, ports) = (quoted(&names), ports.join(", "));
    let told = format!(
        "the nftables chain `{place}` drops what containers at {} ask the host, so that names do not resolve there; add to \
         it: `nft 'insert rule {place} iifname {{ {devices} }} meta l4proto {{ tcp, udp }} th dport {{ {ports} }} accept'`, \
         and the same in the file it is loaded from",
        names.join(", "),
    );
    Some(drop_by(&place, &names, false, told))
}

fn drop_by(place: &str, bridges: &[&str], ports: bool, told: String) -> ForeignDrop {
    ForeignDrop {
        by: format!("the nftables chain `{place}`"),
        bridges: bridges.iter().map(|&bridge| bridge.to_owned()).collect(),
        ports,
        told,
    }
}

fn place(chain: &ForeignChain) -> String {
    let family = match chain.family {
        nl::INET => "inet",
        nl::IPV6 => "ip6",
        _ => "ip",
    };
    format!("{family} {} {}", chain.table, chain.name)
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
    quoted.join(", ")
}

/// The rule is about packets that come by (IIFNAME) or leave by that bridge, as far as can be seen, and does not drop
/// them. One about packets within the bridge will do for an internal one, for which there are no others.
fn heeds(rule: &FoundRule, key: u32, bridge: &FirewallBridge) -> bool {
    let mut loaded = None;
    let mut about = false;
    for (name, data) in expressions(rule) {
        match (name.as_str(), loaded) {
            ("meta", _) => loaded = read_be32(data, 2),
            // A set, which may be told by anybody what it holds.
            ("lookup", Some(of)) if of == key => about = true,
            ("cmp", Some(of)) if of == key => about |= equals(data, &bridge.bridge),
            ("cmp" | "lookup", Some(IIFNAME | OIFNAME)) if !bridge.internal => return false,
            ("reject", _) => return false,
            ("immediate", _) => return about && !matches!(immediate(data), Verdict::Drop | Verdict::Return),
            _ => {}
        }
    }
    about
}

/// The comparison is with that name, or with what it begins with: `wh-front` and `wh-*` in rules.
fn equals(comparison: &[u8], bridge: &str) -> bool {
    const EQUAL: u32 = 0;
    let mut name = bridge.as_bytes().to_vec();
    name.resize(16, 0);
    let value = find(comparison, 3).and_then(|v| find(v, nl::DATA_VALUE));
    read_be32(comparison, 2) == Some(EQUAL) && value.is_some_and(|value| name.starts_with(value))
}

/// What a rule looks at.
#[derive(Clone, Copy)]
enum Field {
    Meta(u32),
    Transport,
    Port,
    Other,
}

/// The rule lets through questions for names that come by that bridge, as far as can be seen.
fn answers(rule: &FoundRule, bridge: &FirewallBridge) -> bool {
    const UDP: u8 = 17;
    let port = names_port(bridge).to_be_bytes();
    let (mut loaded, mut named) = (Field::Other, false);
    for (name, data) in expressions(rule) {
        match (name.as_str(), loaded) {
            ("meta", _) => loaded = read_be32(data, 2).map_or(Field::Other, Field::Meta),
            ("payload", _) => loaded = header(data),
            // A set, which may be told by anybody what it holds.
            ("lookup", Field::Meta(IIFNAME) | Field::Port) => named = true,
            ("cmp", Field::Meta(IIFNAME)) if equals(data, &bridge.bridge) => named = true,
            ("cmp", Field::Port) if is(data, &port) => named = true,
            ("cmp", Field::Meta(L4PROTO) | Field::Transport) if is(data, &[UDP]) => {}
            ("cmp" | "lookup", Field::Meta(IIF | IIFNAME)) => return false,
            ("cmp", Field::Port | Field::Transport | Field::Meta(L4PROTO)) => return false,
            ("ct" | "reject", _) => return false,
            ("immediate", _) => return named && !matches!(immediate(data), Verdict::Drop | Verdict::Return),
            _ => {}
        }
    }
    false
}

fn header(data: &[u8]) -> Field {
    let [base, offset, length] = [2, 3, 4].map(|kind| read_be32(data, kind));
    match (base, offset, length) {
        (Some(1), Some(9), Some(1)) => Field::Transport,
        (Some(2), Some(2), Some(2)) => Field::Port,
        _ => Field::Other,
    }
}

/// The comparison is for being this.
fn is(comparison: &[u8], value: &[u8]) -> bool {
    const EQUAL: u32 = 0;
    let with = find(comparison, 3).and_then(|v| find(v, nl::DATA_VALUE));
    read_be32(comparison, 2) == Some(EQUAL) && with == Some(value)
}
