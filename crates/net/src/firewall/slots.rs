//! Ports with several targets: of their 64 slots a new connection draws one, and goes to the target that has it.
//!
//! Every target has as many slots as any other, or one more. A target that stays keeps those it has, as far as its share
//! allows: a change is as few elements as can be.

use std::collections::{BTreeMap, BTreeSet};

use model::firewall::{MOST_TARGETS, PortRule};

use super::elements::{Elements, port, port_key};
use super::render::set;
use super::table::{Element, Field, Set};

/// Slots of a port; the rule that draws one has it as modulus.
pub const COUNT: u32 = MOST_TARGETS as u32;
const LEN: usize = 4;

/// The maps of these ports' slots. `earlier`: what they had, as far as it is known.
pub fn sets(ports: &[PortRule], earlier: &Elements) -> [Set; 2] {
    use Field::{Ipv4, Port, Protocol, Slot};
    let map = |name, key, bound: bool| {
        let of: Vec<&PortRule> = ports.iter().filter(|p| p.host_ip.is_some() == bound).collect();
        let had = had(earlier, name);
        let shared = grouped(&of).into_iter().filter(|(_, rules)| rules.len() > 1);
        let elements = shared.flat_map(|(key, rules)| {
            let had = had.get(&key).cloned().unwrap_or_default();
            elements(&key, &rules, &had)
        });
        Set {
            name,
            key,
            value: &[Ipv4, Port],
            interval: false,
            elements: elements.collect(),
        }
    };
    [
        map(set::BOUND_SLOTS, &[Protocol, Ipv4, Port, Slot], true),
        map(set::ANY_SLOTS, &[Protocol, Port, Slot], false),
    ]
}

/// The rules that have their port for themselves.
pub fn alone<'a>(ports: &[&'a PortRule]) -> Vec<&'a PortRule> {
    let groups = grouped(ports).into_values();
    groups.filter(|rules| rules.len() == 1).flatten().collect()
}

fn grouped<'a>(ports: &[&'a PortRule]) -> BTreeMap<Vec<u8>, Vec<&'a PortRule>> {
    let mut groups: BTreeMap<Vec<u8>, Vec<&PortRule>> = BTreeMap::new();
    for rule in ports {
        groups.entry(port_key(rule)).or_default().push(rule);
    }
    groups
}

/// The elements of each port by their slots.
fn had(earlier: &Elements, name: &str) -> BTreeMap<Vec<u8>, BTreeMap<u32, Element>> {
    let mut had: BTreeMap<Vec<u8>, BTreeMap<u32, Element>> = BTreeMap::new();
    for element in earlier.get(name).into_iter().flatten() {
        if let Some((slot, element)) = without_slot(element) {
            had.entry(element.key.clone()).or_default().insert(slot, element);
        }
    }
    had
}

/// An element's slot, and the element as it would be were the port its alone.
fn without_slot(element: &Element) -> Option<(u32, Element)> {
    let at = element.key.len().checked_sub(LEN)?;
    let (key, slot) = element.key.split_at(at);
    let whole = Element {
        key: key.to_vec(),
        ..element.clone()
    };
    Some((u32::from_ne_bytes(slot.try_into().ok()?), whole))
}

/// The targets that these elements of a map lead to, each once. Those of the other maps are left as they are.
pub fn targets(name: &str, elements: &BTreeSet<Element>) -> BTreeSet<Element> {
    if name != set::BOUND_SLOTS && name != set::ANY_SLOTS {
        return elements.clone();
    }
    elements.iter().filter_map(|e| Some(without_slot(e)?.1)).collect()
}

fn elements(key: &[u8], rules: &[&PortRule], had: &BTreeMap<u32, Element>) -> Vec<Element> {
    let targets: Vec<Element> = rules.iter().map(|rule| port(rule)).collect();
    let had = |slot: u32| {
        let before = had.get(&slot)?;
        targets.iter().position(|target| target == before)
    };
    let slots = shared_out(targets.len(), had);
    let one = |(slot, target): (u32, usize)| Element {
        key: [key, &slot.to_ne_bytes()].concat(),
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
