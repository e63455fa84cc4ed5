//! Lists of sources that published ports are for, as elements of sets, and the way back.
//!
//! A port's rule looks at sources of its own family alone. Those of the other one are kept, so that the list is read
//! back as it was given; a port whose list names no others is for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::firewall::{FirewallState, PortRule};

use super::elements::{BySet, Elements, octets, plain, port_key, port_number};
use super::family::Family;
use super::render::{families, set};
use super::table::{Element, Field, Set};

/// Bytes of a key of [`set::ANY`].
const ANY_LEN: usize = 8;

/// The sets of these ports' lists.
pub fn sets(state: &FirewallState) -> Vec<Set> {
    let mixed = state.ports.iter().any(|port| others(port).next().is_some());
    families(state)
        .iter()
        .flat_map(|f| of_family(*f, &state.ports, mixed))
        .collect()
}

/// `mixed`: there are ports with sources of the other family than their own.
fn of_family(f: Family, ports: &[PortRule], mixed: bool) -> Vec<Set> {
    use Field::{Ipv4, Ipv6, Port, Protocol};
    let listed: Vec<&PortRule> = ports
        .iter()
        .filter(|p| !p.allow.is_empty() && Family::of(p.target_ip) == f)
        .collect();
    let of = |bound: bool, elements: fn(&PortRule) -> Vec<Element>| -> BTreeSet<Element> {
        let some = listed.iter().filter(|p| p.host_ip.is_some() == bound);
        some.flat_map(|p| elements(p)).collect()
    };
    let both = |elements: fn(&PortRule) -> Vec<Element>| listed.iter().flat_map(|p| elements(p)).collect();
    let set = |name, key, elements| Set::of(f.set(name), f.fields(key), elements);
    let ranges = |name, key, elements| Set::of_ranges(f.set(name), f.fields(key), elements);
    let mut sets = vec![
        set(set::CLOSED_BOUND, &[Protocol, Ipv4, Port], of(true, closed)),
        set(set::CLOSED_ANY, &[Protocol, Port], of(false, closed)),
        ranges(
            set::ALLOWED_BOUND,
            &[Protocol, Ipv4, Port, Ipv4],
            of(true, allowed),
        ),
        ranges(set::ALLOWED_ANY, &[Protocol, Port, Ipv4], of(false, allowed)),
        set(
            set::ALLOWED_TWICE,
            &[Protocol, Ipv4, Port, Ipv4, Port],
            both(twice),
        ),
    ];
    let other = || {
        set(
            set::ALLOWED_OTHER,
            &[Protocol, Ipv4, Port, Ipv6, Port],
            both(|rule| others(rule).map(|net| plain(whole(rule, net))).collect()),
        )
    };
    sets.extend(mixed.then(other));
    sets
}

fn closed(rule: &PortRule) -> Vec<Element> {
    vec![plain(port_key(rule))]
}

fn allowed(rule: &PortRule) -> Vec<Element> {
    let key = |ip: IpAddr| [port_key(rule), octets(ip)].concat();
    let range = |net: &IpNet| Element {
        end: Some(key(net.broadcast())),
        ..plain(key(net.network()))
    };
    let nets = own(rule);
    nets.iter()
        .filter(|net| !is_contained(net, &nets))
        .map(range)
        .collect()
}

fn twice(rule: &PortRule) -> Vec<Element> {
    let nets = own(rule);
    let contained = nets.iter().filter(|net| is_contained(net, &nets));
    contained.map(|net| plain(whole(rule, net))).collect()
}

/// Port, network and prefix length.
fn whole(rule: &PortRule, net: &IpNet) -> Vec<u8> {
    let length = port_number(u16::from(net.prefix_len()));
    let port = with_address(&port_key(rule), Family::of(rule.target_ip));
    [port, octets(net.network()), length].concat()
}

/// Sources of the port's own family.
fn own(rule: &PortRule) -> Vec<IpNet> {
    let is_own = |net: &&IpNet| net.addr().is_ipv4() == rule.target_ip.is_ipv4();
    rule.allow.iter().filter(is_own).copied().collect()
}

fn others(rule: &PortRule) -> impl Iterator<Item = &IpNet> {
    let is_other = |net: &&IpNet| net.addr().is_ipv4() != rule.target_ip.is_ipv4();
    rule.allow.iter().filter(is_other)
}

/// By another one: of two networks that share addresses one contains the other.
fn is_contained(net: &IpNet, nets: &[IpNet]) -> bool {
    nets.iter().any(|other| other != net && other.contains(net))
}

/// A port's key with 0.0.0.0 or :: for any address.
fn with_address(key: &[u8], f: Family) -> Vec<u8> {
    let (protocol, rest) = key.split_at(4);
    let every = if key.len() == ANY_LEN {
        f.unspecified()
    } else {
        &[]
    };
    [protocol, every, rest].concat()
}

/// The lists that elements say, by the key of their port in [`set::BOUND`] or [`set::ANY`] with its address.
pub struct Lists {
    closed: BTreeSet<Vec<u8>>,
    allowed: BTreeMap<Vec<u8>, Vec<IpNet>>,
}

impl Lists {
    /// Leaves out what is none of ours: whoever compares what this says with the elements sees that.
    pub fn read(elements: &Elements) -> Self {
        let mut lists = Self {
            closed: BTreeSet::new(),
            allowed: BTreeMap::new(),
        };
        for f in Family::ALL {
            lists.add(elements, f);
        }
        lists.allowed.values_mut().for_each(|list| list.sort());
        lists
    }

    fn add(&mut self, elements: &Elements, f: Family) {
        let of = |name: &'static str| elements.get(f.set(name)).into_iter().flatten();
        let closed = of(set::CLOSED_BOUND).chain(of(set::CLOSED_ANY));
        let closed = closed.filter(|e| e.key.len() >= ANY_LEN);
        self.closed.extend(closed.map(|e| with_address(&e.key, f)));
        let ranges = of(set::ALLOWED_BOUND).chain(of(set::ALLOWED_ANY));
        let ranges = ranges.filter_map(|e| range(e, f));
        let kept = of(set::ALLOWED_TWICE).chain(of(set::ALLOWED_OTHER));
        let kept = kept.filter_map(|e| listed(e, f));
        for (port, net) in ranges.chain(kept) {
            self.allowed.entry(port).or_default().push(net);
        }
    }

    /// The list of the port with this key, empty where it is for everybody; none where it is not, and for nobody.
    pub fn of(&self, key: &[u8], f: Family) -> Option<Vec<IpNet>> {
        let key = with_address(key, f);
        let list = self.allowed.get(&key).cloned().unwrap_or_default();
        (!list.is_empty() || !self.closed.contains(&key)).then_some(list)
    }
}

fn range(element: &Element, f: Family) -> Option<(Vec<u8>, IpNet)> {
    let at = element.key.len().checked_sub(f.len())?;
    if at != ANY_LEN && at != ANY_LEN + f.len() {
        return None;
    }
    let (port, from) = element.key.split_at(at);
    let net = network(from, element.end.as_ref()?.strip_prefix(port)?)?;
    Some((with_address(port, f), net))
}

/// Of [`set::ALLOWED_TWICE`] or [`set::ALLOWED_OTHER`].
fn listed(element: &Element, f: Family) -> Option<(Vec<u8>, IpNet)> {
    let (port, net) = element.key.split_at_checked(ANY_LEN + f.len())?;
    let (address, length) = net.split_last_chunk::<4>()?;
    Some((port.to_vec(), IpNet::new(address_of(address)?, length[1]).ok()?))
}

/// The network that a range of addresses is, where it is one.
pub fn network(from: &[u8], to: &[u8]) -> Option<IpNet> {
    let bits = |bytes: &[u8]| match address_of(bytes)? {
        IpAddr::V4(ip) => Some(u128::from(ip.to_bits())),
        IpAddr::V6(ip) => Some(ip.to_bits()),
    };
    let host_bits = 128 - (bits(from)? ^ bits(to)?).leading_zeros();
    let length = (8 * from.len() as u32).checked_sub(host_bits)?;
    let net = IpNet::new(address_of(from)?, length as u8).ok()?;
    (Some(net.network()) == address_of(from) && Some(net.broadcast()) == address_of(to)).then_some(net)
}

/// Four or sixteen bytes.
pub fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

/// Keys of the family's ports whose lists differ between two sets of elements.
pub fn changed(before: &BySet<'_>, after: &BySet<'_>, f: Family) -> BTreeSet<Vec<u8>> {
    let none = BTreeSet::new();
    let bound_len = ANY_LEN + f.len();
    let mut out = BTreeSet::new();
    for (name, port) in [
        (set::CLOSED_BOUND, bound_len),
        (set::CLOSED_ANY, ANY_LEN),
        (set::ALLOWED_BOUND, bound_len),
        (set::ALLOWED_ANY, ANY_LEN),
    ] {
        let [was, is] = [before, after].map(|elements| elements.get(f.set(name)).copied().unwrap_or(&none));
        let keys = was.symmetric_difference(is).filter_map(|e| e.key.get(..port));
        out.extend(keys.map(<[u8]>::to_vec));
    }
    out
}
