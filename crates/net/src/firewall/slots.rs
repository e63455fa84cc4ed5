//! Ports with several targets: of their 64 slots a new connection draws one, and goes to the target that has it. A flow
//! of UDP has the slot that its sender's address and port hash to, the same one each time (see [`super::zones`]).
//!
//! Every target has as many slots as any other, or one more. A target that stays keeps those it has, as far as its share
//! allows: a change is as few elements as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::firewall::{MOST_TARGETS, PortRule, Protocol};

use super::elements::{Elements, PROTOCOL_LEN, port, port_key, protocol_number};
use super::family::Family;
use super::render::set;
use super::table::{Element, Field, Set};

/// Slots of a port; the rule that draws one has it as modulus.
pub const COUNT: u32 = MOST_TARGETS as u32;
const LEN: usize = 4;

/// Maps of slots: protocol, whether of one address, fields. Each protocol has its own, for `nft` reads no others again:
/// the type of a slot is given as an expression (see [`super::userdata`]), and one for the port of any protocol has its
/// listing say something else than the table.
const MAPS: [Map; 4] = {
    use Field::{Ipv4, Slot, TcpPort, UdpPort};
    [
        Map {
            name: set::BOUND_SLOTS,
            protocol: Protocol::Tcp,
            key: &[Ipv4, TcpPort, Slot],
            value: &[Ipv4, TcpPort],
        },
        Map {
            name: set::ANY_SLOTS,
            protocol: Protocol::Tcp,
            key: &[TcpPort, Slot],
            value: &[Ipv4, TcpPort],
        },
        Map {
            name: set::UDP_BOUND_SLOTS,
            protocol: Protocol::Udp,
            key: &[Ipv4, UdpPort, Slot],
            value: &[Ipv4, UdpPort],
        },
        Map {
            name: set::UDP_ANY_SLOTS,
            protocol: Protocol::Udp,
            key: &[UdpPort, Slot],
            value: &[Ipv4, UdpPort],
        },
    ]
};

struct Map {
    name: &'static str,
    protocol: Protocol,
    key: &'static [Field],
    value: &'static [Field],
}

impl Map {
    fn is_bound(&self) -> bool {
        self.key.len() == 3
    }
}

/// The maps of the family's ports' slots. `earlier`: what they had, as far as it is known.
pub fn sets(f: Family, ports: &[PortRule], earlier: &Elements) -> Vec<Set> {
    let set = |map: &Map| {
        let is_of = |p: &&PortRule| p.protocol == map.protocol && p.host_ip.is_some() == map.is_bound();
        let of = ports.iter().filter(|p| Family::of(p.target_ip) == f);
        let of: Vec<&PortRule> = of.filter(is_of).collect();
        let had = had(earlier, f.set(map.name));
        let shared = grouped(&of).into_values().filter(|rules| rules.len() > 1);
        let elements = shared.flat_map(|rules| {
            let key = port_key(rules[0]);
            let had = had.get(&key).cloned().unwrap_or_default();
            elements(&key, &rules, &had)
        });
        Set {
            name: f.set(map.name),
            key: f.fields(map.key),
            value: f.fields(map.value),
            interval: false,
            elements: elements.collect(),
        }
    };
    MAPS.iter().map(set).collect()
}

/// The rules that have their port for themselves.
pub fn alone<'a>(ports: &[&'a PortRule]) -> Vec<&'a PortRule> {
    let mut all: Vec<&PortRule> = ports.to_vec();
    all.sort_by_key(|rule| rule.place());
    let by_place = all.chunk_by(|a, b| a.place() == b.place());
    by_place.filter(|of| of.len() == 1).flatten().copied().collect()
}

/// What [`port_key`] is made of.
type Place = (Protocol, Option<IpAddr>, u16);

fn grouped<'a>(ports: &[&'a PortRule]) -> BTreeMap<Place, Vec<&'a PortRule>> {
    let mut groups: BTreeMap<Place, Vec<&PortRule>> = BTreeMap::new();
    for rule in ports {
        groups.entry(rule.place()).or_default().push(rule);
    }
    groups
}

/// The elements of each port by their slots.
fn had(earlier: &Elements, name: &str) -> BTreeMap<Vec<u8>, BTreeMap<u32, Element>> {
    let mut had: BTreeMap<Vec<u8>, BTreeMap<u32, Element>> = BTreeMap::new();
    for element in earlier.get(name).into_iter().flatten() {
        if let Some((slot, element)) = without_slot(name, element) {
            had.entry(element.key.clone()).or_default().insert(slot, element);
        }
    }
    had
}

fn of_name(name: &str) -> Option<&'static Map> {
    let (_, kind) = Family::of_set(name)?;
    MAPS.iter().find(|map| map.name == kind)
}

/// An element's slot, and the element as it would be were the port its alone.
fn without_slot(name: &str, element: &Element) -> Option<(u32, Element)> {
    let map = of_name(name)?;
    let at = element.key.len().checked_sub(LEN)?;
    let (port, slot) = element.key.split_at(at);
    let whole = Element {
        key: [&protocol_number(map.protocol)[..], port].concat(),
        ..element.clone()
    };
    Some((u32::from_ne_bytes(slot.try_into().ok()?), whole))
}

/// The targets that these elements of a map lead to, each once, where they are asked for. Those of the other maps are left
/// as they are.
pub fn targets(
    name: &str,
    elements: &BTreeSet<Element>,
    is_asked_for: impl Fn(&Element) -> bool,
) -> BTreeSet<Element> {
    if of_name(name).is_none() {
        return elements.iter().filter(|e| is_asked_for(e)).cloned().collect();
    }
    let all = elements.iter().filter_map(|e| Some(without_slot(name, e)?.1));
    all.filter(is_asked_for).collect()
}

fn elements(key: &[u8], rules: &[&PortRule], had: &BTreeMap<u32, Element>) -> Vec<Element> {
    let targets: Vec<Element> = rules.iter().map(|rule| port(rule)).collect();
    let had = |slot: u32| {
        let before = had.get(&slot)?;
        targets.iter().position(|target| target == before)
    };
    let slots = shared_out(targets.len(), had);
    let one = |(slot, target): (u32, usize)| Element {
        key: [&key[PROTOCOL_LEN..], &slot.to_ne_bytes()].concat(),
        ..targets[target].clone()
    };
    (0..COUNT).zip(slots).map(one).collect()
}

/// Which of `count` targets has each slot, given which one had it.
fn shared_out(count: usize, had: impl Fn(u32) -> Option<usize>) -> Vec<usize> {
    let mut slots: Vec<Option<usize>> = (0..COUNT).map(had).collect();
    let mut room = shares(&slots, count);
    for slot in &mut slots {
        *slot = slot.filter(|target| {
            let left = &mut room[*target];
            let stays = *left > 0;
            *left -= usize::from(stays);
            stays
        });
    }
    let free = room.iter().enumerate();
    let mut free = free.flat_map(|(target, left)| std::iter::repeat_n(target, *left));
    // There is as much room as there are slots left, so the last one is never asked for.
    let given = slots.into_iter().map(|slot| slot.or_else(|| free.next()));
    given.map(|slot| slot.unwrap_or(count - 1)).collect()
}

/// How many slots each target is to have: the one more that some get goes to those that have most already.
fn shares(slots: &[Option<usize>], count: usize) -> Vec<usize> {
    let mut order: Vec<(std::cmp::Reverse<usize>, usize)> = (0..count)
        .map(|target| {
            let has = slots.iter().filter(|slot| **slot == Some(target)).count();
            (std::cmp::Reverse(has), target)
        })
        .collect();
    order.sort_unstable();
    let mut shares = vec![slots.len() / count; count];
    for (_, target) in order.into_iter().take(slots.len() % count) {
        shares[target] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(slots: &[usize], target: usize) -> usize {
        slots.iter().filter(|t| **t == target).count()
    }

    #[test]
    fn slots_are_shared_out_evenly() {
        for targets in 1..=MOST_TARGETS {
            let slots = shared_out(targets, |_| None);
            assert_eq!(slots.len(), 64);
            let counts: Vec<usize> = (0..targets).map(|t| count(&slots, t)).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least >= 1 && most - least <= 1, "{targets}: {counts:?}");
        }
    }

    #[test]
    fn an_even_share_stays_as_it_is() {
        for targets in 1..=MOST_TARGETS {
            let slots = shared_out(targets, |_| None);
            let again = shared_out(targets, |slot| Some(slots[slot as usize]));
            assert_eq!(again, slots, "{targets}");
        }
    }

    #[test]
    fn who_stays_keeps_its_slots_when_one_comes_or_goes() {
        for targets in 2..=40 {
            let before = shared_out(targets, |_| None);
            let more = shared_out(targets + 1, |slot| Some(before[slot as usize]));
            let moved = (0..64).filter(|i| more[*i] != before[*i]);
            assert_eq!(
                moved.count(),
                count(&more, targets),
                "only to the new one of {targets}"
            );
            // The last one goes again.
            let less = shared_out(targets, |slot| Some(more[slot as usize]).filter(|t| *t < targets));
            let lost = (0..64).filter(|i| more[*i] < targets && less[*i] != more[*i]);
            assert_eq!(lost.count(), 0, "{targets}");
        }
    }
}
