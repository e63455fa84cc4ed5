//! What leads and translates, in the table `nat`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::firewall::{FirewallBridge, PortRule, Protocol};

use super::drops::loopback;
use crate::firewall::elements::DOMAIN;
use crate::firewall::family::Family;

/// Asked at that port, on this address or on any.
pub fn to_port(ip: Option<IpAddr>, protocol: Protocol, number: u16) -> String {
    let at = ip.map(|ip| format!("-d {ip} ")).unwrap_or_default();
    format!("{at}-p {protocol} -m {protocol} --dport {number}")
}

/// What comes in. A packet for the loopback address came by no honest way.
pub fn incoming(bridges: &[FirewallBridge], names: &[IpAddr], f: Family) -> Vec<String> {
    let mut rules = vec![format!("-d {} -j RETURN", loopback(f))];
    let asked = |bridge: &FirewallBridge| {
        let own = bridge.dns_port?;
        let one = |protocol| {
            let of = to_port(None, protocol, DOMAIN);
            let here = "-m addrtype --dst-type LOCAL --limit-iface-in";
            format!("-i {} {of} {here} -j REDIRECT --to-ports {own}", bridge.bridge)
        };
        Some([Protocol::Udp, Protocol::Tcp].map(one))
    };
    rules.extend(bridges.iter().filter_map(asked).flatten());
    rules.extend(of_the_name_server(names, f));
    rules.push(TO_OURSELVES.to_owned());
    rules
}

/// Somebody may publish port 53 of every address: these are not among them.
pub fn of_the_name_server(names: &[IpAddr], f: Family) -> impl Iterator<Item = String> + '_ {
    let own = names.iter().filter(move |ip| Family::of(**ip) == f);
    let one = |ip: &IpAddr| {
        let both = [Protocol::Udp, Protocol::Tcp];
        both.map(|protocol| format!("{} -j RETURN", to_port(Some(*ip), protocol, DOMAIN)))
    };
    own.flat_map(one)
}

/// The host's own processes. Ports at `::1` are served by the relay: a packet for it that is translated finds no way.
pub fn own(names: &[IpAddr], f: Family) -> Vec<String> {
    let left_alone = (f == Family::V6).then(|| format!("-d {} -j RETURN", loopback(f)));
    let mut rules = Vec::from_iter(left_alone);
    rules.extend(of_the_name_server(names, f));
    rules.push(TO_OURSELVES.to_owned());
    rules
}

/// Only addresses of this host are published on.
const TO_OURSELVES: &str = "-m addrtype --dst-type LOCAL -j WHARF-PORTS";

/// Each port's rule, or one for each of its targets, of which a new connection draws one.
pub fn ports(ports: &[PortRule], f: Family) -> Vec<String> {
    let mut places: BTreeMap<(bool, Protocol, u16, Option<IpAddr>), Vec<&PortRule>> = BTreeMap::new();
    for port in ports.iter().filter(|port| Family::of(port.target_ip) == f) {
        let key = (
            port.host_ip.is_none(),
            port.protocol,
            port.host_port,
            port.host_ip,
        );
        places.entry(key).or_default().push(port);
    }
    places.values().flat_map(|targets| of_place(targets)).collect()
}

/// Of those that are left each is as likely as any other; the last one takes what comes to it.
fn of_place<'a>(targets: &'a [&'a PortRule]) -> impl Iterator<Item = String> + 'a {
    let left = (1..=targets.len()).rev();
    targets.iter().zip(left).map(|(port, left)| {
        let place = to_port(port.host_ip, port.protocol, port.host_port);
        let drawn = match left {
            1 => String::new(),
            _ => format!(
                "-m statistic --mode random --probability {:.8} ",
                1.0 / left as f64
            ),
        };
        let whose = format!("-m comment --comment \"{}@{}\"", port.container, port.bridge);
        format!("{place} {whose} {drawn}-j DNAT --to-destination {}", target(port))
    })
}

fn target(port: &PortRule) -> String {
    match port.target_ip {
        IpAddr::V4(ip) => format!("{ip}:{}", port.target_port),
        IpAddr::V6(ip) => format!("[{ip}]:{}", port.target_port),
    }
}

/// Who gets the host's address: the host itself where it comes from 127.0.0.1; a container that comes to its own network
/// by a published port; containers on the way to the world.
pub fn outgoing(bridges: &[FirewallBridge], f: Family) -> Vec<String> {
    let mut rules = Vec::new();
    for b in bridges.iter().filter(|_| f == Family::V4) {
        rules.push(format!("-s {} -o {} -j MASQUERADE", loopback(f), b.bridge));
    }
    let of = |b: &FirewallBridge| Some((b.bridge.clone(), f.subnet(b)?));
    let subnets: Vec<(String, IpNet)> = bridges.iter().filter_map(of).collect();
    for (bridge, subnet) in &subnets {
        rules.push(format!(
            "-s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"
        ));
    }
    rules.extend(subnets.iter().map(|(bridge, _)| format!("-o {bridge} -j RETURN")));
    let masqueraded = bridges.iter().filter(|b| f.is_masqueraded(b));
    for (bridge, subnet) in masqueraded.filter_map(of) {
        rules.push(format!("-s {subnet} -i {bridge} -j MASQUERADE"));
    }
    rules
}
