//! What others' chains drop of our bridges' traffic, in words for users: what is there, and what to add.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::firewall::{Carrier, FirewallBridge, FirewallState, PeerRule};
use model::observed::ForeignDrop;

use super::elements::octets;
use super::family::Family;
use super::foreign::{ForeignChain, Hook, Verdict, expressions, immediate};
use super::passage::{concerned, names_port};
use super::read::FoundRule;
use super::{firewalld, nl, peers, sidedoor};
use crate::netlink::{find, read_be32};

/// `meta` keys: index and names of the devices a packet came and leaves by, and its transport.
const IIF: u32 = 4;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const L4PROTO: u32 = 16;

/// What drops the traffic of these bridges and is not to be helped from here.
///
/// `passed`: there is a way through the chains that iptables keeps in nftables.
pub fn drops(chains: &[ForeignChain], state: &FirewallState, passed: bool) -> Vec<ForeignDrop> {
    let bridges = state.bridges.as_slice();
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
    let peers = closed(Hook::Input).flat_map(|chain| peers_of(chain, state));
    forward.chain(inner).chain(peers).collect()
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

/// What the chain drops of what peers send, by how they send it.
fn peers_of(chain: &ForeignChain, state: &FirewallState) -> Vec<ForeignDrop> {
    let of_family = |ip: IpAddr| match chain.family {
        nl::IPV4 => ip.is_ipv4(),
        nl::IPV6 => ip.is_ipv6(),
        _ => true,
    };
    let heeded = |rule: &PeerRule| chain.rules.iter().any(|found| heeds_peer(found, rule));
    let missing = state
        .peers
        .iter()
        .filter(|rule| of_family(rule.peer) && !heeded(rule));
    let mut by_carrier: BTreeMap<(Carrier, bool), Vec<&PeerRule>> = BTreeMap::new();
    for rule in missing {
        let key = (rule.carrier, rule.peer.is_ipv6());
        by_carrier.entry(key).or_default().push(rule);
    }
    let place = place(chain);
    let one = |((carrier, six), rules): ((Carrier, bool), Vec<&PeerRule>)| {
        let bridges: BTreeSet<&str> = rules.iter().map(|rule| rule.bridge.as_str()).collect();
        let bridges: Vec<&str> = bridges.into_iter().collect();
        let peers: BTreeSet<String> = rules.iter().map(|rule| rule.peer.to_string()).collect();
        let peers = Vec::from_iter(peers).join(", ");
        let family = if six { "ip6" } else { "ip" };
        let what = match carrier {
            Carrier::Udp { port } => format!("udp dport {port}"),
            Carrier::Gre => "meta l4proto gre".to_owned(),
        };
        let told = format!(
            "the nftables chain `{place}` drops what the other hosts of {} send ({carrier}), so that their containers are \
             not reached; add to it: `nft 'insert rule {place} {family} saddr {{ {peers} }} {what} accept'`, and the same in \
             the file it is loaded from",
            bridges.join(", "),
        );
        drop_by(&place, &bridges, false, told)
    };
    by_carrier.into_iter().map(one).collect()
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
    Source,
    Other,
}

/// The rule lets in what that peer sends, as far as can be seen: it is about the sender, about the port or protocol, or
/// about a device, which may be the one that leads there.
pub(super) fn heeds_peer(rule: &FoundRule, peer: &PeerRule) -> bool {
    let (protocol, port) = peers::protocol_and_port(peer.carrier);
    let port = port.map(u16::to_be_bytes);
    let (address, mut mask) = (octets(peer.peer), Vec::new());
    let (mut loaded, mut about) = (Field::Other, false);
    for (name, data) in expressions(rule) {
        match (name.as_str(), loaded) {
            ("meta", _) => loaded = read_be32(data, 2).map_or(Field::Other, Field::Meta),
            ("payload", _) => {
                (loaded, mask) = (header(data), Vec::new());
            }
            ("bitwise", Field::Source) => {
                let with = find(data, 4).and_then(|v| find(v, nl::DATA_VALUE));
                mask = with.unwrap_or(&[]).to_vec();
            }
            // Sets and ranges, which may hold anything.
            ("lookup" | "range", Field::Port | Field::Source | Field::Meta(IIFNAME)) => about = true,
            ("lookup" | "range", Field::Meta(L4PROTO)) => about |= port.is_none(),
            ("cmp", Field::Source) if begins(data, &address, &mask) => about = true,
            ("cmp", Field::Port) if port.is_some_and(|port| is(data, &port)) => about = true,
            ("cmp", Field::Meta(L4PROTO) | Field::Transport) if is(data, &[protocol]) => {
                about |= port.is_none()
            }
            ("cmp", Field::Meta(IIFNAME)) if !equals(data, "lo") => about = true,
            (
                "cmp",
                Field::Source | Field::Port | Field::Transport | Field::Meta(L4PROTO | IIF | IIFNAME),
            ) => {
                return false;
            }
            ("ct" | "reject", _) => return false,
            ("immediate", _) => return about && !matches!(immediate(data), Verdict::Drop | Verdict::Return),
            _ => {}
        }
    }
    false
}

/// The comparison is with the beginning of this address, or with what the mask leaves of it.
fn begins(comparison: &[u8], address: &[u8], mask: &[u8]) -> bool {
    const EQUAL: u32 = 0;
    let value = find(comparison, 3)
        .and_then(|v| find(v, nl::DATA_VALUE))
        .unwrap_or(&[]);
    let masked: Vec<u8> = match mask.is_empty() {
        true => address.to_vec(),
        false => address.iter().zip(mask).map(|(byte, mask)| byte & mask).collect(),
    };
    read_be32(comparison, 2) == Some(EQUAL) && !value.is_empty() && masked.starts_with(value)
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
        // Of IPv4, of IPv6; of a prefix of whole bytes these alone.
        (Some(1), Some(12), Some(1..=4)) | (Some(1), Some(8), Some(1..=16)) => Field::Source,
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
