//! Networks whose containers do not reach each other (`icc = false`), and the ways that lead between them all the same.
//!
//! Their ports are isolated, so that the bridge carries nothing from one to another, and containers reach their network by
//! the gateway: what one sends to another is routed, and passes here whether bridged packets do (bridge-nf-call-iptables)
//! or not. A packet is let through by whom its flow was begun by, so that answers and what ICMP says of them pass, and a
//! link that is gone is gone for flows that have begun, too.

use std::collections::BTreeSet;

use model::firewall::{FirewallBridge, FirewallState, LinkRule, Protocol};

use super::allow::address_of;
use super::elements::{Elements, device, octets, plain, port_number, protocol_number, same};
use super::expr::{Expr, Meta, Tuple};
use super::family::Family;
use super::phrase::{accept, drop, is_byte, is_in, load, of, protocol};
use super::render::{families, rule};
use super::table::{Chain, Element, Field, Hook, Rule, Set};
use crate::error::NetError;

/// Names of the sets.
mod set {
    /// Each such bridge with itself.
    pub const ISOLATED: &str = "isolated";
    /// device . who asks . who is asked . protocol . port
    pub const LINKS: &str = "links";
    pub const LINKS6: &str = "links6";
}

const FILTER: i32 = 0;
/// Registers that a device's name takes.
const DEVICE: u8 = 4;

/// Everything that can be seen to be wrong before anything is touched.
pub fn check(state: &FirewallState) -> Result<(), NetError> {
    for link in &state.links {
        let what = || {
            format!(
                "the link from {} to {}, port {}/{}",
                link.from, link.to, link.port, link.protocol
            )
        };
        if let Some(why) = wrong(link, &state.bridges) {
            return Err(NetError::invalid(what(), why));
        }
    }
    Ok(())
}

fn wrong(link: &LinkRule, bridges: &[FirewallBridge]) -> Option<String> {
    let bridge = bridges.iter().find(|b| b.bridge == link.bridge);
    let Some(bridge) = bridge.filter(|b| b.isolated) else {
        return Some(format!("{} is no bridge with isolated ports", link.bridge));
    };
    let subnet = Family::of(link.to).subnet(bridge);
    let inside = |ip| subnet.is_some_and(|subnet| subnet.contains(&ip));
    if !inside(link.from) || !inside(link.to) {
        return Some(format!("its ends are not both in a subnet of {}", link.bridge));
    }
    (link.port == 0).then(|| "there is no port 0".to_owned())
}

/// There are such networks.
fn there_are(state: &FirewallState) -> bool {
    state.bridges.iter().any(|bridge| bridge.isolated)
}

/// The sets; none where no network is isolated.
pub fn sets(state: &FirewallState) -> Vec<Set> {
    use Field::{Device, Ipv4, Ipv6, Port, Protocol};
    if !there_are(state) {
        return Vec::new();
    }
    let isolated = state.bridges.iter().filter(|b| b.isolated).map(same);
    let links = |f: Family| -> BTreeSet<Element> {
        let own = state.links.iter().filter(|link| Family::of(link.to) == f);
        own.map(element).collect()
    };
    let mut sets = vec![
        Set::of(set::ISOLATED, &[Device, Device], isolated.collect()),
        Set::of(
            set::LINKS,
            &[Device, Ipv4, Ipv4, Protocol, Port],
            links(Family::V4),
        ),
    ];
    if families(state).contains(&Family::V6) {
        let key = &[Device, Ipv6, Ipv6, Protocol, Port];
        sets.push(Set::of(set::LINKS6, key, links(Family::V6)));
    }
    sets
}

/// What `forward` says of them, before all that may let something through.
pub fn rules(state: &FirewallState) -> Vec<Rule> {
    if !there_are(state) {
        return Vec::new();
    }
    let links = families(state).iter().map(|f| over_links(*f));
    let rest = rule("isolated containers: nothing else", [within(), drop()]);
    links.chain([rest]).collect()
}

/// By the first packet of its flow: who sent it, to whom, to which port.
fn over_links(f: Family) -> Rule {
    let (name, source, destination) = match f {
        Family::V4 => (set::LINKS, Tuple::Source, Tuple::Destination),
        Family::V6 => (set::LINKS6, Tuple::Source6, Tuple::Destination6),
    };
    let words = f.words();
    let original = |key, to| Expr::Original { key, to };
    let flow = vec![
        load(Meta::Iifname, 0),
        original(source, DEVICE),
        original(destination, DEVICE + words),
        original(Tuple::Protocol, DEVICE + 2 * words),
        original(Tuple::DestinationPort, DEVICE + 2 * words + 1),
        is_in(name),
    ];
    let comment = "isolated containers: what a link leads to, and what is answered";
    rule(comment, [within(), of(f), flow, accept()])
}

/// From such a bridge back into it.
fn within() -> Vec<Expr> {
    vec![
        load(Meta::Iifname, 0),
        load(Meta::Oifname, DEVICE),
        is_in(set::ISOLATED),
    ]
}

/// The chain for what the host says; none where no network is isolated.
///
/// A router tells whoever sends by it what it sends back into the same link to ask there directly (RFC 792, RFC 4861):
/// there is no such way. `send_redirects` of the bridge does not decide that: that of `all` does as well, and for IPv6
/// there is no such setting.
pub fn chain(state: &FirewallState) -> Option<Chain> {
    there_are(state).then(|| Chain {
        name: "redirects",
        kind: "filter",
        hook: Hook::Output,
        priority: FILTER,
        rules: families(state).iter().map(|f| redirect(*f)).collect(),
    })
}

fn redirect(f: Family) -> Rule {
    const REDIRECT: u8 = 5;
    const REDIRECT6: u8 = 137;
    let (number, kind) = match f {
        Family::V4 => (libc::IPPROTO_ICMP as u8, REDIRECT),
        Family::V6 => (libc::IPPROTO_ICMPV6 as u8, REDIRECT6),
    };
    let to = vec![
        load(Meta::Oifname, 0),
        load(Meta::Oifname, DEVICE),
        is_in(set::ISOLATED),
    ];
    let comment = "isolated containers are not told of a shorter way";
    rule(comment, [to, of(f), protocol(number), is_byte(0, kind), drop()])
}

fn element(link: &LinkRule) -> Element {
    let ends = [octets(link.from), octets(link.to)].concat();
    let asked = [protocol_number(link.protocol).to_vec(), port_number(link.port)].concat();
    plain([device(&link.bridge), ends, asked].concat())
}

/// The bridge's ports are isolated, by these elements.
pub fn is_isolated(elements: &Elements, bridge: &Element) -> bool {
    elements
        .get(set::ISOLATED)
        .is_some_and(|set| set.contains(bridge))
}

/// The links these elements say; those of which something is not ours are none.
pub fn read(elements: &Elements) -> impl Iterator<Item = Option<LinkRule>> + use<'_> {
    let of = |name: &str| elements.get(name).into_iter().flatten();
    let four = of(set::LINKS).map(|e| read_link(&e.key, Family::V4));
    four.chain(of(set::LINKS6).map(|e| read_link(&e.key, Family::V6)))
}

fn read_link(key: &[u8], f: Family) -> Option<LinkRule> {
    let (bridge, rest) = key.split_at_checked(Field::Device.len() as usize)?;
    let (from, rest) = rest.split_at_checked(f.len())?;
    let (to, rest) = rest.split_at_checked(f.len())?;
    let [number, 0, 0, 0, a, b, 0, 0] = *rest else {
        return None;
    };
    let bridge = String::from_utf8(bridge.to_vec()).ok()?;
    let mut both = [Protocol::Tcp, Protocol::Udp].into_iter();
    Some(LinkRule {
        bridge: bridge.trim_end_matches('\0').to_owned(),
        from: address_of(from)?,
        to: address_of(to)?,
        protocol: both.find(|p| protocol_number(*p)[0] == number)?,
        port: u16::from_be_bytes([a, b]),
    })
}

/// Links of these bridges alone: for what is left of a table that somebody was at.
pub fn fitting(links: Vec<LinkRule>, bridges: &[FirewallBridge]) -> Vec<LinkRule> {
    links
        .into_iter()
        .filter(|link| wrong(link, bridges).is_none())
        .collect()
}
