//! A firewall state as elements of sets and maps, and the way back (`back`).

mod back;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use model::firewall::{FirewallBridge, FirewallState, MOST_TARGETS, PortRule, Protocol};

use super::allow;
use super::family::Family;
use super::render::{families, set};
use super::table::{Element, Field, Set};
use super::{isolated, peers, slots, tunnels};
use crate::error::NetError;
use crate::names::check_device;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where names are asked (RFC 1035).
pub const DOMAIN: u16 = 53;
/// Bytes of a protocol and of a port in a concatenation.
pub const PROTOCOL_LEN: usize = 4;
const PORT_LEN: usize = 4;

pub use back::{read, salvage};

/// Elements by the name of their set.
pub type Elements = BTreeMap<String, BTreeSet<Element>>;
/// The same, somebody else's.
pub type BySet<'e> = BTreeMap<&'e str, &'e BTreeSet<Element>>;

/// Everything that can be seen to be wrong before anything is touched.
pub(crate) fn check(state: &FirewallState) -> Result<(), NetError> {
    let mut bridges = BTreeSet::new();
    for bridge in &state.bridges {
        check_device("firewall", &bridge.bridge)?;
        if let Some(net) = bridge.subnets().find(|net| *net != net.trunc()) {
            let why = format!("{net} is an address in a subnet: the subnet is {}", net.trunc());
            return Err(NetError::invalid(format!("bridge {}", bridge.bridge), why));
        }
        if bridge.dns_port == Some(0) {
            let why = "its name server has no port: there is no port 0";
            return Err(NetError::invalid(format!("bridge {}", bridge.bridge), why));
        }
        if !bridges.insert(bridge.bridge.as_str()) {
            return Err(NetError::invalid(
                format!("bridge {}", bridge.bridge),
                "it is there twice",
            ));
        }
    }
    if let Some(ip) = state.names.iter().find(|ip| !is_spoken_of(**ip, state)) {
        return Err(NetError::invalid(
            format!("names are asked at {ip}"),
            "no network has addresses of that family",
        ));
    }
    tunnels::check(state)?;
    peers::check(state)?;
    isolated::check(state)?;
    for port in &state.ports {
        check_port(port, &state.bridges)?;
    }
    match fitting(&state.ports).1 {
        Some((port, why)) => Err(NetError::invalid(of(port), why)),
        None => Ok(()),
    }
}

/// A port, and why it cannot be together with those before it.
type Misfit<'p> = (&'p PortRule, String);

/// Those that can be together, and the first one that cannot.
fn fitting<'p>(ports: impl IntoIterator<Item = &'p PortRule>) -> (Vec<&'p PortRule>, Option<Misfit<'p>>) {
    // Of each family a port is there once.
    let place = |port: &PortRule| (port.place(), Family::of(port.target_ip));
    let mut all: Vec<&PortRule> = ports.into_iter().collect();
    all.sort_by_key(|port| place(port));
    let (mut fit, mut misfit) = (Vec::with_capacity(all.len()), None);
    for together in all.chunk_by(|a, b| place(a) == place(b)) {
        let first = fit.len();
        for port in together {
            match check_with(port, &fit[first..]) {
                Ok(()) => fit.push(*port),
                Err(why) => misfit = misfit.or(Some((*port, why))),
            }
        }
    }
    (fit, misfit)
}

fn is_spoken_of(ip: IpAddr, state: &FirewallState) -> bool {
    families(state).contains(&Family::of(ip))
}

/// A port is of one container, or of several of one service that let in the same.
fn check_with(port: &PortRule, others: &[&PortRule]) -> Result<(), String> {
    for other in others {
        let together = port.service.is_some() && port.service == other.service;
        let target = |p: &PortRule| (p.target_ip, p.target_port);
        if !together || port.container == other.container || target(port) == target(other) {
            return Err(format!("container {} has the same host port", other.container));
        }
        if port.allow != other.allow {
            return Err(format!(
                "`allow` differs from that of container {}",
                other.container
            ));
        }
    }
    if others.len() == MOST_TARGETS {
        return Err(format!(
            "{MOST_TARGETS} others have the same host port: there is room for no more"
        ));
    }
    Ok(())
}

fn of(port: &PortRule) -> String {
    let ip = match port.host_ip {
        Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
        Some(IpAddr::V4(ip)) => format!("{ip}:"),
        None => String::new(),
    };
    format!(
        "container {}, port {ip}{}/{}",
        port.container, port.host_port, port.protocol
    )
}

fn check_port(port: &PortRule, bridges: &[FirewallBridge]) -> Result<(), NetError> {
    let bridge = bridges.iter().find(|b| b.bridge == *port.bridge);
    let why = match port {
        p if p.host_port == 0 || p.target_port == 0 => "there is no port 0".to_owned(),
        p if p.host_ip.is_some_and(|ip| ip.is_unspecified()) => {
            "0.0.0.0 and :: mean no address: leave it out".to_owned()
        }
        p if p
            .host_ip
            .is_some_and(|ip| ip.is_multicast() || ip == Ipv4Addr::BROADCAST) =>
        {
            "the host has no such address".to_owned()
        }
        p if p.host_ip.is_some_and(|ip| ip.is_ipv4() != p.target_ip.is_ipv4()) => {
            format!(
                "its container has no address like it: {} is of the other family",
                p.target_ip
            )
        }
        p if bridge.is_none() => {
            format!("its bridge {} is not in the firewall", p.bridge)
        }
        p if bridge.is_some_and(|b| Family::of(p.target_ip).subnet(b).is_none()) => {
            let family = Family::of(p.target_ip).word();
            format!("its network at bridge {} has no {family}", p.bridge)
        }
        p if number(p).is_none() => format!("it is no instance of {}", p.holder()),
        p if p.target_ip.is_unspecified() || p.target_ip.is_loopback() || p.target_ip.is_multicast() => {
            format!("{} is no container's address", p.target_ip)
        }
        p if !p.allow.is_sorted_by(|a, b| a < b) => {
            "`allow` is not sorted, or says something twice".to_owned()
        }
        p if let Some(net) = p.allow.iter().find(|net| **net != net.trunc()) => {
            format!(
                "`allow` has {net}, an address in a network: the network is {}",
                net.trunc()
            )
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(of(port), why))
}

/// All sets, with the state's elements. `earlier`: those there were.
pub fn sets(state: &FirewallState, earlier: &Elements) -> Vec<Set> {
    use Field::{Device, Port};
    let bridges = |wanted: fn(&FirewallBridge) -> bool, element: fn(&FirewallBridge) -> Element| {
        state.bridges.iter().filter(|b| wanted(b)).map(element).collect()
    };
    let mut sets = vec![
        Set::of(
            set::BRIDGES,
            &[Device],
            bridges(|_| true, |b| plain(device(&b.bridge))),
        ),
        Set::of(
            set::INTERNAL,
            &[Device],
            bridges(|b| b.internal, |b| plain(device(&b.bridge))),
        ),
        Set::of(set::SAME, &[Device, Device], bridges(|b| !b.isolated, same)),
        Set {
            value: &[Port],
            ..Set::of(
                set::NAMES,
                &[Device, Port],
                state.bridges.iter().flat_map(names).collect(),
            )
        },
    ];
    for f in families(state) {
        sets.extend(of_family(*f, state));
        if is_shared(state) {
            sets.extend(slots::sets(*f, &state.ports, earlier));
        }
    }
    sets.extend(allow::sets(state));
    sets
}

/// Sets with addresses of one family in them.
fn of_family(f: Family, state: &FirewallState) -> Vec<Set> {
    use Field::{Device, Ipv4, Port, Protocol};
    let subnets = |wanted: fn(&FirewallBridge, Family) -> bool| {
        let bridges = state.bridges.iter().filter(|b| wanted(b, f));
        bridges.filter_map(|b| subnet(b, f)).collect()
    };
    let set = |name, key, elements| Set::of(f.set(name), f.fields(key), elements);
    let ranges = |name, key, elements| Set::of_ranges(f.set(name), f.fields(key), elements);
    let map = |name, key, elements| Set {
        value: f.fields(&[Ipv4, Port]),
        ..set(name, key, elements)
    };
    let ports = state.ports.iter().filter(|p| Family::of(p.target_ip) == f);
    let (bound, any) = ports.partition::<Vec<_>, _>(|p| p.host_ip.is_some());
    vec![
        ranges(set::SUBNETS, &[Device, Ipv4], subnets(|_, _| true)),
        ranges(
            set::MASQUERADED,
            &[Device, Ipv4],
            subnets(|b, f| f.is_masqueraded(b)),
        ),
        set(set::ASKED, &[Ipv4], asked(state, f)),
        map(
            set::BOUND,
            &[Protocol, Ipv4, Port],
            slots::alone(&bound).into_iter().map(port).collect(),
        ),
        map(
            set::ANY,
            &[Protocol, Port],
            slots::alone(&any).into_iter().map(port).collect(),
        ),
        set(set::STALE_UDP, &[Ipv4, Port, Ipv4, Port], BTreeSet::new()),
    ]
}

fn asked(state: &FirewallState, f: Family) -> BTreeSet<Element> {
    let own = state.names.iter().filter(|ip| Family::of(**ip) == f);
    own.map(|ip| plain(octets(*ip))).collect()
}

/// There are ports that several containers may share.
pub fn is_shared(state: &FirewallState) -> bool {
    state.ports.iter().any(|port| port.service.is_some())
}

/// The UDP port that names are asked at instead of another one as an element of [`set::STALE_UDP`].
pub fn stale_names(redirect: &Element, f: Family) -> Option<Element> {
    let (_, port) = redirect.key.split_at_checked(Field::Device.len() as usize)?;
    let every = f.unspecified();
    let key = [every, port, every, &redirect.value, &[0; 2]].concat();
    (key.len() == stale_len(f)).then(|| plain(key))
}

/// Bytes of a key of the family's [`set::STALE_UDP`].
pub fn stale_len(f: Family) -> usize {
    2 * (f.len() + PORT_LEN)
}

/// Whether it is a port of UDP, of one of the maps.
pub fn is_udp(port: &Element) -> bool {
    port.key.first() == Some(&UDP)
}

/// The UDP port of one of the maps as an element of [`set::STALE_UDP`]; none where it is something else.
pub fn stale(port: &Element, f: Family) -> Option<Element> {
    let (_, rest) = port.key.split_at_checked(4)?;
    let every = if rest.len() == PORT_LEN {
        f.unspecified()
    } else {
        &[]
    };
    let key = [every, rest, &port.value].concat();
    (is_udp(port) && key.len() == stale_len(f)).then(|| plain(key))
}

/// The same port where it led to the host itself, at no port of a container.
pub fn stale_host(stale: Element) -> Element {
    let port = &stale.key[..stale.key.len() / 2];
    plain([port, &vec![0; port.len()]].concat())
}

pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn push_octets(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
}

pub fn plain(key: Vec<u8>) -> Element {
    Element {
        key,
        end: None,
        value: Vec::new(),
        comment: None,
    }
}

/// In a concatenation.
pub fn device(name: &str) -> Vec<u8> {
    let mut out = name.as_bytes().to_vec();
    out.resize(Field::Device.len() as usize, 0);
    out
}

/// Of a set of bridges with themselves.
pub fn same(bridge: &FirewallBridge) -> Element {
    twice(&bridge.bridge)
}

/// The same, of a name.
pub fn twice(bridge: &str) -> Element {
    plain([device(bridge), device(bridge)].concat())
}

/// None where it has none of that family.
fn subnet(bridge: &FirewallBridge, f: Family) -> Option<Element> {
    let net = f.subnet(bridge)?;
    let key = |ip: IpAddr| [device(&bridge.bridge), octets(ip)].concat();
    Some(Element {
        end: Some(key(net.broadcast())),
        ..plain(key(net.network()))
    })
}

fn names(bridge: &FirewallBridge) -> Option<Element> {
    Some(Element {
        value: bridge.dns_port?.to_be_bytes().to_vec(),
        ..plain(names_key(&bridge.bridge))
    })
}

fn names_key(bridge: &str) -> Vec<u8> {
    [device(bridge), port_number(DOMAIN)].concat()
}

/// In a concatenation.
pub fn port_number(port: u16) -> Vec<u8> {
    padded_port(port).to_vec()
}

fn padded_port(port: u16) -> [u8; PORT_LEN] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Its key in [`set::BOUND`] or [`set::ANY`].
pub fn port_key(rule: &PortRule) -> Vec<u8> {
    let mut key = Vec::with_capacity(PROTOCOL_LEN + Family::V6.len() + PORT_LEN);
    key.extend(protocol_number(rule.protocol));
    if let Some(ip) = rule.host_ip {
        push_octets(&mut key, ip);
    }
    key.extend(padded_port(rule.host_port));
    key
}

/// In a concatenation.
pub fn protocol_number(protocol: Protocol) -> [u8; PROTOCOL_LEN] {
    let number = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    [number, 0, 0, 0]
}

/// The element of a port that leads to one container.
pub fn port(rule: &PortRule) -> Element {
    let mut value = Vec::with_capacity(Family::of(rule.target_ip).len() + PORT_LEN);
    push_octets(&mut value, rule.target_ip);
    value.extend(padded_port(rule.target_port));
    let mut comment = [rule.container.as_str(), "@", &rule.bridge].concat();
    if let Some(number) = number(rule).flatten() {
        // A device's name has no slash.
        comment.push_str(&format!("/{number}"));
    }
    Element {
        value,
        comment: Some(comment),
        ..plain(port_key(rule))
    }
}

/// Which instance of its service its container is, if of any; none where it cannot be.
fn number(rule: &PortRule) -> Option<Option<u32>> {
    let Some(service) = &rule.service else {
        return Some(None);
    };
    if *service == rule.container {
        return Some(Some(1));
    }
    let number = rule.container.as_str().strip_prefix(service.as_str())?;
    let number = number.strip_prefix('-')?.parse().ok()?;
    (number > 1).then_some(Some(number))
}
