//! What is dropped, in the table `mangle`: whatever filters of others accept, it does not come to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::firewall::{FirewallBridge, FirewallState, LinkRule, PortRule, Protocol, TunnelRule};

use super::ports::{of_the_name_server, to_port};
use super::render::Place;
use crate::firewall::elements::DOMAIN;
use crate::firewall::family::Family;

/// A host's addresses that are its own alone.
pub fn loopback(f: Family) -> &'static str {
    match f {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    }
}

/// A device's name that iptables takes for nothing else, such as a pattern.
pub fn is_plain(device: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    device.chars().all(plain) && !device.starts_with('-')
}

/// Before any translation. `lists`: there are ports that are not for everybody.
///
/// Asked are new connections only, as they are for their target: what belongs to one that was let in goes on.
pub fn guard(bridges: &[FirewallBridge], f: Family, lists: bool) -> Vec<String> {
    let own = loopback(f);
    let one = |b: &FirewallBridge| {
        let bridge = &b.bridge;
        [
            format!("-i {bridge} -d {own} -j DROP"),
            format!("-i {bridge} -s {own} -j DROP"),
        ]
    };
    let mut rules: Vec<String> = bridges.iter().flat_map(one).collect();
    let listed = "-m addrtype --dst-type LOCAL -m conntrack --ctstate NEW -j WHARF-LISTS";
    rules.extend(lists.then(|| listed.to_owned()));
    rules
}

/// Whoever is not on a port's list is turned away. One that is published on an address goes before one of every address,
/// whose list is not asked then.
pub fn lists(state: &FirewallState, f: Family, shut: &BTreeSet<Place>) -> Vec<String> {
    let of = |port: &&PortRule| Family::of(port.target_ip) == f;
    let ports: Vec<&PortRule> = state.ports.iter().filter(of).collect();
    let of_names = ports.iter().any(|p| p.host_port == DOMAIN);
    let there = |(protocol, number): &&Place| {
        ports
            .iter()
            .any(|p| (p.protocol, p.host_port) == (*protocol, *number))
    };
    let mut rules: Vec<String> = shut
        .iter()
        .filter(there)
        .map(|(protocol, number)| format!("{} -j DROP", to_port(None, *protocol, *number)))
        .collect();
    // Rules of one service share their list.
    let mut places: BTreeMap<(bool, Protocol, u16, Option<IpAddr>), &[IpNet]> = BTreeMap::new();
    for port in ports {
        let key = (
            port.host_ip.is_none(),
            port.protocol,
            port.host_port,
            port.host_ip,
        );
        places.insert(key, &port.allow);
    }
    for ((_, protocol, number, ip), allow) in &places {
        let place = to_port(*ip, *protocol, *number);
        let other = places.get(&(true, *protocol, *number, None));
        match allow.is_empty() {
            false => rules.extend(listed(&place, allow, f)),
            true if ip.is_some() && other.is_some_and(|allow| !allow.is_empty()) => {
                rules.push(format!("{place} -j RETURN"));
            }
            true => {}
        }
    }
    if of_names && !rules.is_empty() {
        rules.splice(0..0, of_the_name_server(&state.names, f));
    }
    rules
}

fn listed(place: &str, allow: &[IpNet], f: Family) -> Vec<String> {
    let own = allow.iter().filter(|net| Family::of(net.addr()) == f);
    let mut rules: Vec<String> = own.map(|net| format!("-s {net} {place} -j RETURN")).collect();
    rules.push(format!("{place} -j DROP"));
    rules
}

/// Who may reach whom. `closed`: forwarding was off on this host before us, so it is for our bridges alone, but for what
/// these of others pass on among their own ports.
pub fn apart(
    state: &FirewallState,
    bridges: &[FirewallBridge],
    f: Family,
    closed: Option<&BTreeSet<String>>,
) -> Vec<String> {
    let mut rules = Vec::new();
    for FirewallBridge { bridge, .. } in bridges.iter().filter(|b| !b.isolated) {
        rules.push(format!("-i {bridge} -o {bridge} -j RETURN"));
    }
    for FirewallBridge { bridge, .. } in bridges.iter().filter(|b| b.isolated) {
        let own = state
            .links
            .iter()
            .filter(|l| l.bridge == *bridge && Family::of(l.to) == f);
        rules.extend(own.map(over_link));
        rules.push(format!("-i {bridge} -o {bridge} -j DROP"));
    }
    for FirewallBridge { bridge, .. } in bridges.iter().filter(|b| b.internal) {
        rules.push(format!("-i {bridge} -j DROP"));
        rules.push(format!("-o {bridge} -j DROP"));
    }
    rules.push("-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned());
    for FirewallBridge { bridge, .. } in bridges {
        rules.push(format!("-o {bridge} -m conntrack --ctstate DNAT -j RETURN"));
    }
    for FirewallBridge { bridge, .. } in bridges {
        rules.push(format!("-o {bridge} -j DROP"));
    }
    if let Some(others) = closed {
        rules.extend(bridges.iter().map(|b| format!("-i {} -j RETURN", b.bridge)));
        let others = others.iter().filter(|name| is_plain(name));
        rules.extend(others.map(|other| format!("-i {other} -o {other} -j RETURN")));
        let why = "forwarding was off before wharf: for its bridges alone";
        rules.push(format!("-m comment --comment \"{why}\" -j DROP"));
    }
    rules
}

/// By the first packet of its flow: who sent it, to whom, to which port. So answers and what ICMP says of them pass, and
/// a link that is gone is gone for flows that have begun, too.
fn over_link(link: &LinkRule) -> String {
    let LinkRule {
        bridge,
        from,
        to,
        protocol,
        port,
    } = link;
    let begun = format!("--ctproto {protocol} --ctorigsrc {from} --ctorigdst {to} --ctorigdstport {port}");
    format!("-i {bridge} -o {bridge} -m conntrack {begun} -j RETURN")
}

/// What the host does not say to isolated containers: that there is a shorter way to each other (RFC 792, RFC 4861).
pub fn redirects(bridges: &[FirewallBridge], f: Family) -> Vec<String> {
    let redirect = match f {
        Family::V4 => "-p icmp -m icmp --icmp-type 5",
        Family::V6 => "-p ipv6-icmp -m icmp6 --icmpv6-type 137",
    };
    let isolated = bridges.iter().filter(|b| b.isolated);
    isolated
        .map(|b| format!("-o {} {redirect} -j DROP", b.bridge))
        .collect()
}

/// Who may send to a tunnel that is not encrypted: by UDP port and VNI together (RFC 7348).
///
/// The VNI is looked for behind a UDP header of eight bytes and four of flags. Behind IPv6 it is at one place only where
/// no other header comes between, which no kernel's VXLAN has: what has one is dropped, for whatever network it is.
pub fn tunnels(tunnels: &[TunnelRule], f: Family) -> Vec<String> {
    let mut rules = Vec::new();
    let mut strange = BTreeSet::new();
    for TunnelRule { port, vni, peers } in tunnels {
        let of = format!("-p udp -m udp --dport {port}");
        let place = match f {
            Family::V4 => format!("0>>22&0x3C@12>>8={vni}"),
            Family::V6 => format!("3&0xFF=17&&52>>8={vni}"),
        };
        if f == Family::V6 && strange.insert(*port) {
            rules.push(format!("{of} -m u32 ! --u32 \"3&0xFF=17\" -j DROP"));
        }
        let place = format!("{of} -m u32 --u32 \"{place}\"");
        let own = peers.iter().filter(|peer| Family::of(**peer) == f);
        rules.extend(own.map(|peer| format!("-s {peer} {place} -j RETURN")));
        rules.push(format!("{place} -j DROP"));
    }
    rules
}
