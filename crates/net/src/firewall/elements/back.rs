//! The way back: what elements say, as a firewall state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::families::Families;
use model::firewall::{FirewallBridge, FirewallState, PortRule, Protocol, Routed};
use model::name::Name;

use super::{
    Elements, PORT_LEN, TCP, UDP, check, check_port, device, fitting, is_spoken_of, names_key, plain, twice,
};
use crate::firewall::allow::{Lists, address_of, network};
use crate::firewall::family::Family;
use crate::firewall::render::set;
use crate::firewall::table::{Element, Field};
use crate::firewall::{isolated, peers, slots, tunnels};

/// The state these elements say, as far as they say something; none where one of them is not ours.
pub fn read(elements: &Elements) -> Option<FirewallState> {
    let state = FirewallState {
        bridges: bridges(elements).collect::<Option<_>>()?,
        ports: ports(elements).collect::<Option<_>>()?,
        links: isolated::read(elements).collect::<Option<_>>()?,
        tunnels: tunnels::read(elements).collect::<Option<_>>()?,
        names: names(elements).collect::<Option<_>>()?,
        peers: peers::read(elements).collect::<Option<_>>()?,
    };
    Some(state.sorted())
}

/// What can be made out where something is not ours: better than nothing for a repair.
pub fn salvage(elements: &Elements) -> FirewallState {
    let mut seen = BTreeSet::new();
    let is_right = |b: &FirewallBridge| {
        let alone = FirewallState {
            bridges: vec![b.clone()],
            ..FirewallState::default()
        };
        check(&alone).is_ok()
    };
    let bridges: Vec<FirewallBridge> = bridges(elements)
        .flatten()
        .filter(|b| is_right(b) && seen.insert(b.bridge.clone()))
        .collect();
    let ports: Vec<PortRule> = ports(elements).flatten().collect();
    let right = |p: &&PortRule| check_port(p, &bridges).is_ok();
    let (fit, _) = fitting(ports.iter().filter(right));
    let state = FirewallState {
        ports: fit.into_iter().cloned().collect(),
        links: isolated::fitting(isolated::read(elements).flatten().collect(), &bridges),
        bridges,
        tunnels: tunnels::read(elements).flatten().collect(),
        names: Vec::new(),
        peers: peers::read(elements).flatten().collect(),
    };
    let names = names(elements).flatten().filter(|ip| is_spoken_of(*ip, &state));
    let names = names.collect();
    FirewallState { names, ..state }.sorted()
}

/// Where the name server is asked.
fn names(elements: &Elements) -> impl Iterator<Item = Option<IpAddr>> {
    let of = |f: Family| elements.get(f.set(set::ASKED)).into_iter().flatten();
    let all = Family::ALL
        .into_iter()
        .flat_map(move |f| of(f).map(move |e| (e, f)));
    all.map(|(element, f)| ip_at(&element.key, 0, f))
}

fn bridges(elements: &Elements) -> impl Iterator<Item = Option<FirewallBridge>> {
    let has = |name: &str, element: &Element| elements.get(name).is_some_and(|set| set.contains(element));
    let of = |f: Family| elements.get(f.set(set::SUBNETS)).into_iter().flatten();
    let by_device =
        |f| -> BTreeMap<&[u8], &Element> { of(f).filter_map(|e| Some((device_of(e)?, e))).collect() };
    let (four, six) = (by_device(Family::V4), by_device(Family::V6));
    let redirects = elements.get(set::NAMES).into_iter().flatten();
    let redirects: BTreeMap<&[u8], &Element> = redirects.map(|e| (e.key.as_slice(), e)).collect();
    // Those that have IPv6 alone, after all others.
    let alone = of(Family::V6).filter(move |e| device_of(e).is_none_or(|device| !four.contains_key(device)));
    of(Family::V4).chain(alone).map(move |element| {
        let (bridge, subnet) = read_subnet(element)?;
        let masquerade = |e: &Element, f: Family| has(f.set(set::MASQUERADED), e);
        let v4 = match subnet {
            IpNet::V4(subnet) => Some(Routed {
                subnet,
                masquerade: masquerade(element, Family::V4),
            }),
            IpNet::V6(_) => None,
        };
        let v6 = match six.get(device(&bridge).as_slice()).map(|e| (e, read_subnet(e))) {
            None => None,
            Some((e, Some((_, IpNet::V6(subnet))))) => Some(Routed {
                subnet,
                masquerade: masquerade(e, Family::V6),
            }),
            Some(_) => return None,
        };
        let redirect = redirects.get(names_key(&bridge).as_slice());
        Some(FirewallBridge {
            ip: Families::new(v4, v6)?,
            internal: has(set::INTERNAL, &plain(device(&bridge))),
            dns_port: redirect.and_then(|e| number_at(&e.value, 0)),
            isolated: isolated::is_isolated(elements, &twice(&bridge)),
            bridge,
        })
    })
}

/// The bridge of one of the sets of subnets.
fn device_of(element: &Element) -> Option<&[u8]> {
    element.key.get(..Field::Device.len() as usize)
}

fn ports(elements: &Elements) -> impl Iterator<Item = Option<PortRule>> {
    let (lists, mut bridges) = (Lists::read(elements), BTreeSet::new());
    let of = |f: Family| {
        let names = set::PORTS.map(|name| f.set(name));
        let all = names.into_iter().filter_map(|name| elements.get_key_value(name));
        all.flat_map(move |(name, all)| {
            slots::targets(name, all, |_| true)
                .into_iter()
                .map(move |e| (e, f))
        })
    };
    let all: Vec<(Element, Family)> = Family::ALL.into_iter().flat_map(of).collect();
    all.into_iter()
        .map(move |(element, f)| read_port(&element, f, &lists, &mut bridges))
}

fn read_subnet(element: &Element) -> Option<(String, IpNet)> {
    let (name, from) = element.key.split_at_checked(Field::Device.len() as usize)?;
    let subnet = network(from, element.end.as_ref()?.strip_prefix(name)?)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some((name.trim_end_matches('\0').to_owned(), subnet))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ip_at(bytes: &[u8], at: usize, f: Family) -> Option<IpAddr> {
    address_of(bytes.get(at..at + f.len())?)
}

/// `bridges`: those that were read before, whose text is shared.
fn read_port(
    element: &Element,
    f: Family,
    lists: &Lists,
    bridges: &mut BTreeSet<Arc<str>>,
) -> Option<PortRule> {
    let (container, bridge, service) = read_comment(element.comment.as_ref()?)?;
    let protocol = match *element.key.first()? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let bound = element.key.len() == 4 + f.len() + PORT_LEN;
    Some(PortRule {
        protocol,
        host_ip: if bound {
            Some(ip_at(&element.key, 4, f)?)
        } else {
            None
        },
        host_port: number_at(&element.key, if bound { 4 + f.len() } else { 4 })?,
        target_ip: ip_at(&element.value, 0, f)?,
        target_port: number_at(&element.value, f.len())?,
        bridge: shared(bridge, bridges),
        allow: lists.of(&element.key, f)?,
        container,
        service,
    })
}

fn shared(text: &str, known: &mut BTreeSet<Arc<str>>) -> Arc<str> {
    if let Some(text) = known.get(text) {
        return Arc::clone(text);
    }
    let text: Arc<str> = text.into();
    known.insert(Arc::clone(&text));
    text
}

/// A comment's container, bridge and service.
fn read_comment(text: &str) -> Option<(Name, &str, Option<Name>)> {
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
    Some((container.parse().ok()?, bridge, service))
}
