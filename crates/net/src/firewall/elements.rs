//! A firewall state as elements of sets and maps, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use model::firewall::{FirewallBridge, FirewallState, PortRule, Protocol};

use super::render::set;
use super::table::{Element, Field, Set};
use crate::error::NetError;
use crate::names::check_device;

const TCP: u8 = 6;
const UDP: u8 = 17;
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
        if !bridges.insert(bridge.bridge.as_str()) {
            return Err(NetError::invalid(
                format!("bridge {}", bridge.bridge),
                "it is there twice",
            ));
        }
    }
    let mut taken = BTreeMap::new();
    for port in &state.ports {
        check_port(port, &bridges)?;
        let key = (port.protocol, port.host_ip, port.host_port);
        if let Some(other) = taken.insert(key, &port.container) {
            return Err(NetError::invalid(
                of(port),
                format!("container {other} has the same host port"),
            ));
        }
    }
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
        p if !p.allow.is_empty() => "`allow` is not supported yet".to_owned(),
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
        p if p.target_ip.is_unspecified() || p.target_ip.is_loopback() || p.target_ip.is_multicast() => {
            format!("{} is no container's address", p.target_ip)
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(of(port), why))
}

/// All sets, with the state's elements.
pub fn sets(state: &FirewallState) -> Vec<Set> {
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
    vec![
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
        map(
            set::BOUND,
            &[Protocol, Ipv4, Port],
            bound.into_iter().map(port).collect(),
        ),
        map(set::ANY, &[Protocol, Port], any.into_iter().map(port).collect()),
        set(set::STALE_UDP, &[Ipv4, Port, Ipv4, Port], false, BTreeSet::new()),
    ]
}

/// The UDP port of one of the maps as an element of [`set::STALE_UDP`]; none where it is something else.
pub fn stale(port: &Element) -> Option<Element> {
    let (protocol, rest) = port.key.split_at_checked(4)?;
    let every = if rest.len() == 4 { &[0; 4][..] } else { &[] };
    let key = [every, rest, &port.value].concat();
    (protocol[0] == UDP && key.len() == STALE_LEN).then(|| plain(key))
}

fn plain(key: Vec<u8>) -> Element {
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

fn port(rule: &PortRule) -> Element {
    let protocol = match rule.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let number = |port: u16| [port.to_be_bytes(), [0, 0]].concat();
    let mut key = vec![protocol, 0, 0, 0];
    key.extend(
        rule.host_ip
            .map(|ip| ip.octets())
            .unwrap_or_default()
            .iter()
            .filter(|_| rule.host_ip.is_some()),
    );
    key.extend(number(rule.host_port));
    let value = [rule.target_ip.octets().to_vec(), number(rule.target_port)].concat();
    let comment = Some(format!("{}@{}", rule.container, rule.bridge));
    Element {
        key,
        end: None,
        value,
        comment,
    }
}

/// The state these elements say, as far as they say something; none where one of them is not ours.
pub fn read(elements: &Elements) -> Option<FirewallState> {
    let none = BTreeSet::new();
    let of = |name: &str| elements.get(name).unwrap_or(&none);
    let bridges = of(set::SUBNETS).iter().map(|element| {
        let (bridge, subnet) = read_subnet(element)?;
        Some(FirewallBridge {
            masquerade: of(set::MASQUERADED).contains(element),
            internal: of(set::INTERNAL).contains(&plain(device(&bridge))),
            bridge,
            subnet,
            dns_port: None,
        })
    });
    let ports = of(set::BOUND).iter().chain(of(set::ANY)).map(read_port);
    let state = FirewallState {
        bridges: bridges.collect::<Option<_>>()?,
        ports: ports.collect::<Option<_>>()?,
    };
    Some(state.sorted())
}

/// What can be made out where something is not ours: better than nothing for a repair.
pub fn salvage(elements: &Elements) -> FirewallState {
    let single = |name: &str, element: &Element| {
        let one = Elements::from([(name.to_owned(), BTreeSet::from([element.clone()]))]);
        read(&one).filter(check_alone)
    };
    let mut state = FirewallState::default();
    let marks = |name: &str| elements.get(name).cloned().unwrap_or_default();
    let (internal, masqueraded) = (marks(set::INTERNAL), marks(set::MASQUERADED));
    for (name, list) in elements {
        for found in list.iter().filter_map(|element| single(name, element)) {
            state.ports.extend(found.ports);
            state
                .bridges
                .extend(found.bridges.into_iter().map(|b| FirewallBridge {
                    internal: internal.contains(&plain(device(&b.bridge))),
                    masquerade: masqueraded.contains(&subnet(&b)),
                    ..b
                }));
        }
    }
    let mut seen = BTreeSet::new();
    state.bridges.retain(|b| seen.insert(b.bridge.clone()));
    state.ports.retain(|p| seen.contains(&p.bridge));
    state.sorted()
}

fn check_alone(state: &FirewallState) -> bool {
    let bridges = state.ports.iter().map(|p| p.bridge.as_str()).collect();
    check(&FirewallState {
        ports: Vec::new(),
        ..state.clone()
    })
    .is_ok()
        && state.ports.iter().all(|port| check_port(port, &bridges).is_ok())
}

fn read_subnet(element: &Element) -> Option<(String, Ipv4Net)> {
    let (name, from) = element.key.split_at_checked(Field::Device.len() as usize)?;
    let to = element.end.as_ref()?.strip_prefix(name)?;
    let [from, to] = [from, to].map(|bytes| <[u8; 4]>::try_from(bytes).ok().map(u32::from_be_bytes));
    let host_bits = from? ^ to?;
    let subnet = Ipv4Net::new(Ipv4Addr::from_bits(from?), host_bits.leading_zeros() as u8).ok()?;
    let name = String::from_utf8(name.to_vec())
        .ok()?
        .trim_end_matches('\0')
        .to_owned();
    (subnet.broadcast().to_bits() == to?).then_some((name, subnet))
}

fn read_port(element: &Element) -> Option<PortRule> {
    let (container, bridge) = element.comment.as_ref()?.split_once('@')?;
    let protocol = match *element.key.first()? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let ip_at =
        |bytes: &[u8], at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    let number_at =
        |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
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
        bridge: bridge.to_owned(),
        allow: Vec::new(),
        container: container.parse().ok()?,
    })
}
