//! A firewall state as elements of sets and maps, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use model::firewall::{FirewallBridge, FirewallState, MOST_TARGETS, PortRule, Protocol};
use model::name::Name;

use super::allow::{self, Lists, network};
use super::render::set;
use super::slots;
use super::table::{Element, Field, Set};
use crate::error::NetError;
use crate::names::check_device;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where names are asked (RFC 1035).
const DOMAIN: u16 = 53;
/// Bytes of a key of [`set::STALE_UDP`].
pub const STALE_LEN: usize = 16;

/// Elements by the name of their set.
pub type Elements = BTreeMap<String, BTreeSet<Element>>;

/// Everything that can be seen to be wrong before anything is touched.
pub(crate) fn check(state: &FirewallState) -> Result<(), NetError> {
    let mut bridges = BTreeSet::new();
    for bridge in &state.bridges {
        check_device("firewall", &bridge.bridge)?;
        if bridge.subnet != bridge.subnet.trunc() {
            let why = format!(
                "{} is an address in a subnet: the subnet is {}",
                bridge.subnet,
                bridge.subnet.trunc()
            );
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
    let mut taken = Taken::new();
    for port in &state.ports {
        check_port(port, &bridges)?;
        take(port, &mut taken).map_err(|why| NetError::invalid(of(port), why))?;
    }
    Ok(())
}

/// Who has which port.
type Taken<'a> = BTreeMap<(Protocol, Option<Ipv4Addr>, u16), Vec<&'a PortRule>>;

/// A port is of one container, or of several of one service that let in the same.
fn take<'a>(port: &'a PortRule, taken: &mut Taken<'a>) -> Result<(), String> {
    let others = taken
        .entry((port.protocol, port.host_ip, port.host_port))
        .or_default();
    for other in others.iter() {
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
    others.push(port);
    Ok(())
}

fn of(port: &PortRule) -> String {
    let ip = port.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
    format!(
        "container {}, port {ip}{}/{}",
        port.container, port.host_port, port.protocol
    )
}

fn check_port(port: &PortRule, bridges: &BTreeSet<&str>) -> Result<(), NetError> {
    let why = match port {
        p if p.host_port == 0 || p.target_port == 0 => "there is no port 0".to_owned(),
        p if p.host_ip.is_some_and(|ip| ip.is_unspecified()) => {
            "0.0.0.0 means no address: leave it out".to_owned()
        }
        p if p.host_ip.is_some_and(|ip| ip.is_multicast() || ip.is_broadcast()) => {
            "the host has no such address".to_owned()
        }
        p if !bridges.contains(p.bridge.as_str()) => {
            format!("its bridge {} is not in the firewall", p.bridge)
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
    use Field::{Device, Ipv4, Port, Protocol};
    let bridges = |wanted: fn(&FirewallBridge) -> bool, element: fn(&FirewallBridge) -> Element| {
        state.bridges.iter().filter(|b| wanted(b)).map(element).collect()
    };
    let set = |name, key, interval, elements| Set {
        name,
        key,
        value: &[],
        interval,
        elements,
    };
    let map = |name, key, elements| Set {
        name,
        key,
        value: &[Ipv4, Port],
        interval: false,
        elements,
    };
    let (bound, any) = state.ports.iter().partition::<Vec<_>, _>(|p| p.host_ip.is_some());
    let mut sets = vec![
        set(
            set::BRIDGES,
            &[Device],
            false,
            bridges(|_| true, |b| plain(device(&b.bridge))),
        ),
        set(
            set::INTERNAL,
            &[Device],
            false,
            bridges(|b| b.internal, |b| plain(device(&b.bridge))),
        ),
        set(set::SAME, &[Device, Device], false, bridges(|_| true, same)),
        set(set::SUBNETS, &[Device, Ipv4], true, bridges(|_| true, subnet)),
        set(
            set::MASQUERADED,
            &[Device, Ipv4],
            true,
            bridges(|b| b.masquerade, subnet),
        ),
        Set {
            value: &[Port],
            ..set(
                set::NAMES,
                &[Device, Port],
                false,
                state.bridges.iter().flat_map(names).collect(),
            )
        },
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
    ];
    if is_shared(state) {
        sets.extend(slots::sets(&state.ports, earlier));
    }
    sets.extend(allow::sets(&state.ports));
    sets.push(set(
        set::STALE_UDP,
        &[Ipv4, Port, Ipv4, Port],
        false,
        BTreeSet::new(),
    ));
    sets
}

/// There are ports that several containers may share.
pub fn is_shared(state: &FirewallState) -> bool {
    state.ports.iter().any(|port| port.service.is_some())
}

/// The UDP port that names are asked at instead of another one as an element of [`set::STALE_UDP`].
pub fn stale_names(redirect: &Element) -> Option<Element> {
    let (_, port) = redirect.key.split_at_checked(Field::Device.len() as usize)?;
    let key = [&[0; 4], port, &[0; 4], &redirect.value, &[0; 2]].concat();
    (key.len() == STALE_LEN).then(|| plain(key))
}

/// The UDP port of one of the maps as an element of [`set::STALE_UDP`]; none where it is something else.
pub fn stale(port: &Element) -> Option<Element> {
    let (protocol, rest) = port.key.split_at_checked(4)?;
    let every = if rest.len() == 4 { &[0; 4][..] } else { &[] };
    let key = [every, rest, &port.value].concat();
    (protocol[0] == UDP && key.len() == STALE_LEN).then(|| plain(key))
}

/// The same port where it led to the host itself, at no port of a container.
pub fn stale_host(stale: Element) -> Element {
    let port = &stale.key[..STALE_LEN / 2];
    plain([port, &[0; STALE_LEN / 2]].concat())
}

pub fn plain(key: Vec<u8>) -> Element {
    Element {
        key,
        end: None,
        value: Vec::new(),
        comment: None,
    }
}

fn device(name: &str) -> Vec<u8> {
    let mut out = name.as_bytes().to_vec();
    out.resize(Field::Device.len() as usize, 0);
    out
}

fn same(bridge: &FirewallBridge) -> Element {
    plain([device(&bridge.bridge), device(&bridge.bridge)].concat())
}

fn subnet(bridge: &FirewallBridge) -> Element {
    let key = |ip: Ipv4Addr| [device(&bridge.bridge), ip.octets().to_vec()].concat();
    Element {
        end: Some(key(bridge.subnet.broadcast())),
        ..plain(key(bridge.subnet.network()))
    }
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
    [port.to_be_bytes(), [0, 0]].concat()
}

/// Its key in [`set::BOUND`] or [`set::ANY`].
pub fn port_key(rule: &PortRule) -> Vec<u8> {
    let protocol = protocol_number(rule.protocol).to_vec();
    let address = rule.host_ip.map(|ip| ip.octets().to_vec()).unwrap_or_default();
    [protocol, address, port_number(rule.host_port)].concat()
}

/// In a concatenation.
pub fn protocol_number(protocol: Protocol) -> [u8; 4] {
    let number = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    [number, 0, 0, 0]
}

/// The element of a port that leads to one container.
pub fn port(rule: &PortRule) -> Element {
    // A device's name has no slash.
    let number = number(rule)
        .flatten()
        .map(|n| format!("/{n}"))
        .unwrap_or_default();
    Element {
        value: [rule.target_ip.octets().to_vec(), port_number(rule.target_port)].concat(),
        comment: Some(format!("{}@{}{number}", rule.container, rule.bridge)),
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

/// A comment's container, bridge and service.
fn read_comment(text: &str) -> Option<(Name, String, Option<Name>)> {
    let (container, rest) = text.split_once('@')?;
    let (bridge, number) = match rest.split_once('/') {
        Some((bridge, number)) => (bridge, Some(number)),
        None => (rest, None),
    };
    let service = match number {
        None => None,
        Some("1") => Some(container),
        Some(number) => Some(container.strip_suffix(number)?.strip_suffix('-')?),
    };
    let service = match service {
        None => None,
        Some(service) => Some(service.parse().ok()?),
    };
    Some((container.parse().ok()?, bridge.to_owned(), service))
}

/// The state these elements say, as far as they say something; none where one of them is not ours.
pub fn read(elements: &Elements) -> Option<FirewallState> {
    let state = FirewallState {
        bridges: bridges(elements).collect::<Option<_>>()?,
        ports: ports(elements).collect::<Option<_>>()?,
    };
    Some(state.sorted())
}

/// What can be made out where something is not ours: better than nothing for a repair.
pub fn salvage(elements: &Elements) -> FirewallState {
    let mut seen = BTreeSet::new();
    let is_right = |b: &FirewallBridge| {
        let alone = FirewallState {
            bridges: vec![b.clone()],
            ports: Vec::new(),
        };
        check(&alone).is_ok()
    };
    let bridges: Vec<FirewallBridge> = bridges(elements)
        .flatten()
        .filter(|b| is_right(b) && seen.insert(b.bridge.clone()))
        .collect();
    let known = bridges.iter().map(|b| b.bridge.as_str()).collect();
    let ports: Vec<PortRule> = ports(elements).flatten().collect();
    let mut taken = Taken::new();
    let right = |p: &&PortRule| check_port(p, &known).is_ok();
    let fit = ports.iter().filter(right).filter(|p| take(p, &mut taken).is_ok());
    FirewallState {
        ports: fit.cloned().collect(),
        bridges,
    }
    .sorted()
}

fn bridges(elements: &Elements) -> impl Iterator<Item = Option<FirewallBridge>> {
    let has = |name: &str, element: &Element| elements.get(name).is_some_and(|set| set.contains(element));
    let redirects = elements.get(set::NAMES).into_iter().flatten();
    let redirects: BTreeMap<&[u8], &Element> = redirects.map(|e| (e.key.as_slice(), e)).collect();
    let subnets = elements.get(set::SUBNETS).into_iter().flatten();
    subnets.map(move |element| {
        let (bridge, subnet) = read_subnet(element)?;
        let redirect = redirects.get(names_key(&bridge).as_slice());
        Some(FirewallBridge {
            masquerade: has(set::MASQUERADED, element),
            internal: has(set::INTERNAL, &plain(device(&bridge))),
            dns_port: redirect.and_then(|e| number_at(&e.value, 0)),
            bridge,
            subnet,
        })
    })
}

fn ports(elements: &Elements) -> impl Iterator<Item = Option<PortRule>> {
    let lists = Lists::read(elements);
    let all = set::PORTS
        .into_iter()
        .filter_map(|name| Some(slots::targets(name, elements.get(name)?)));
    all.flatten().map(move |element| read_port(&element, &lists))
}

fn read_subnet(element: &Element) -> Option<(String, Ipv4Net)> {
    let (name, from) = element.key.split_at_checked(Field::Device.len() as usize)?;
    let subnet = network(from, element.end.as_ref()?.strip_prefix(name)?)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some((name.trim_end_matches('\0').to_owned(), subnet))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ip_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?))
}

fn read_port(element: &Element, lists: &Lists) -> Option<PortRule> {
    let (container, bridge, service) = read_comment(element.comment.as_ref()?)?;
    let protocol = match *element.key.first()? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let bound = element.key.len() == 12;
    Some(PortRule {
        protocol,
        host_ip: if bound {
            Some(ip_at(&element.key, 4)?)
        } else {
            None
        },
        host_port: number_at(&element.key, if bound { 8 } else { 4 })?,
        target_ip: ip_at(&element.value, 0)?,
        target_port: number_at(&element.value, 4)?,
        bridge,
        allow: lists.of(&element.key)?,
        container,
        service,
    })
}
