//! Lists of sources that published ports are for, as elements of sets, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use model::firewall::PortRule;

use super::elements::{Elements, plain, port_key, port_number};
use super::render::set;
use super::table::{Element, Field, Set};

/// Bytes of a key of [`set::BOUND`]; one of [`set::ANY`] is shorter by the address.
const BOUND_LEN: usize = 12;

/// The sets of these ports' lists.
pub fn sets(ports: &[PortRule]) -> Vec<Set> {
    use Field::{Ipv4, Port, Protocol};
    let listed: Vec<&PortRule> = ports.iter().filter(|p| !p.allow.is_empty()).collect();
    let of = |bound: bool, elements: fn(&PortRule) -> Vec<Element>| -> BTreeSet<Element> {
        let some = listed.iter().filter(|p| p.host_ip.is_some() == bound);
        some.flat_map(|p| elements(p)).collect()
    };
    let set = |name, key, interval, elements| Set {
        name,
        key,
        value: &[],
        interval,
        elements,
    };
    vec![
        set(
            set::CLOSED_BOUND,
            &[Protocol, Ipv4, Port],
            false,
            of(true, closed),
        ),
        set(set::CLOSED_ANY, &[Protocol, Port], false, of(false, closed)),
        set(
            set::ALLOWED_BOUND,
            &[Protocol, Ipv4, Port, Ipv4],
            true,
            of(true, allowed),
        ),
        set(
            set::ALLOWED_ANY,
            &[Protocol, Port, Ipv4],
            true,
            of(false, allowed),
        ),
        set(
            set::ALLOWED_TWICE,
            &[Protocol, Ipv4, Port, Ipv4, Port],
            false,
            listed.iter().flat_map(|p| twice(p)).collect(),
        ),
    ]
}

fn closed(rule: &PortRule) -> Vec<Element> {
    vec![plain(port_key(rule))]
}

fn allowed(rule: &PortRule) -> Vec<Element> {
    let key = |ip: Ipv4Addr| [port_key(rule), ip.octets().to_vec()].concat();
    let range = |net: &Ipv4Net| Element {
        end: Some(key(net.broadcast())),
        ..plain(key(net.network()))
    };
    widest(&rule.allow).map(range).collect()
}

fn twice(rule: &PortRule) -> Vec<Element> {
    let key = |net: &Ipv4Net| {
        let length = port_number(u16::from(net.prefix_len()));
        [
            with_address(&port_key(rule)),
            net.network().octets().to_vec(),
            length,
        ]
        .concat()
    };
    let contained = rule.allow.iter().filter(|net| is_contained(net, &rule.allow));
    contained.map(|net| plain(key(net))).collect()
}

fn widest(nets: &[Ipv4Net]) -> impl Iterator<Item = &Ipv4Net> {
    nets.iter().filter(|net| !is_contained(net, nets))
}

/// By another one: of two networks that share addresses one contains the other.
fn is_contained(net: &Ipv4Net, nets: &[Ipv4Net]) -> bool {
    nets.iter().any(|other| other != net && other.contains(net))
}

/// A port's key with 0.0.0.0 for any address.
fn with_address(key: &[u8]) -> Vec<u8> {
    let (protocol, rest) = key.split_at(4);
    let every = if key.len() == BOUND_LEN { &[][..] } else { &[0; 4] };
    [protocol, every, rest].concat()
}

/// The lists that elements say, by the key of their port in [`set::BOUND`] or [`set::ANY`] with its address.
pub struct Lists {
    closed: BTreeSet<Vec<u8>>,
    allowed: BTreeMap<Vec<u8>, Vec<Ipv4Net>>,
}

impl Lists {
    /// Leaves out what is none of ours: whoever compares what this says with the elements sees that.
    pub fn read(elements: &Elements) -> Self {
        let of = |name: &str| elements.get(name).into_iter().flatten();
        let closed = of(set::CLOSED_BOUND).chain(of(set::CLOSED_ANY));
        let mut lists = Self {
            closed: closed
                .filter(|e| e.key.len() >= 8)
                .map(|e| with_address(&e.key))
                .collect(),
            allowed: BTreeMap::new(),
        };
        let ranges = of(set::ALLOWED_BOUND)
            .chain(of(set::ALLOWED_ANY))
            .filter_map(range);
        for (port, net) in ranges.chain(of(set::ALLOWED_TWICE).filter_map(listed_twice)) {
            lists.allowed.entry(port).or_default().push(net);
        }
        lists.allowed.values_mut().for_each(|list| list.sort());
        lists
    }

    /// The list of the port with this key, empty where it is for everybody; none where it is not, and for nobody.
    pub fn of(&self, key: &[u8]) -> Option<Vec<Ipv4Net>> {
        let key = with_address(key);
        let list = self.allowed.get(&key).cloned().unwrap_or_default();
        (!list.is_empty() || !self.closed.contains(&key)).then_some(list)
    }
}

fn range(element: &Element) -> Option<(Vec<u8>, Ipv4Net)> {
    let at = element
        .key
        .len()
        .checked_sub(4)
        .filter(|at| matches!(at, 8 | 12))?;
    let (port, from) = element.key.split_at(at);
    let net = network(from, element.end.as_ref()?.strip_prefix(port)?)?;
    Some((with_address(port), net))
}

fn listed_twice(element: &Element) -> Option<(Vec<u8>, Ipv4Net)> {
    let (port, net) = element.key.split_at_checked(BOUND_LEN)?;
    let address = <[u8; 4]>::try_from(net.get(..4)?).ok()?;
    Some((port.to_vec(), Ipv4Net::new(address.into(), *net.get(5)?).ok()?))
}

/// The network that a range of addresses is, where it is one.
pub fn network(from: &[u8], to: &[u8]) -> Option<Ipv4Net> {
    let [from, to] = [from, to].map(|bytes| <[u8; 4]>::try_from(bytes).ok().map(u32::from_be_bytes));
    let host_bits = from? ^ to?;
    let net = Ipv4Net::new(Ipv4Addr::from_bits(from?), host_bits.leading_zeros() as u8).ok()?;
    (net.network().to_bits() == from? && net.broadcast().to_bits() == to?).then_some(net)
}

/// Keys of the ports whose lists differ between two sets of elements.
pub fn changed(before: &Elements, after: &Elements) -> BTreeSet<Vec<u8>> {
    let none = BTreeSet::new();
    let mut out = BTreeSet::new();
    for (name, port) in [
        (set::CLOSED_BOUND, BOUND_LEN),
        (set::CLOSED_ANY, 8),
        (set::ALLOWED_BOUND, BOUND_LEN),
        (set::ALLOWED_ANY, 8),
    ] {
        let [was, is] = [before, after].map(|elements| elements.get(name).unwrap_or(&none));
        let keys = was.symmetric_difference(is).filter_map(|e| e.key.get(..port));
        out.extend(keys.map(<[u8]>::to_vec));
    }
    out
}
