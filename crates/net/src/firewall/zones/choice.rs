//! Which zone a port has, or a slot of one.
//!
//! It keeps the one it has while all flows in there lead to targets that the port still has: also when another target
//! takes the slot and the first one stays, its flows with it. Otherwise it gets a zone in which no flow leads anywhere
//! else than to its target. What flows there are is asked of connection tracking, for they stay long after the port has
//! left their zone: were one found that leads elsewhere, it would have to be deleted, and with it what is under way.
//!
//! The first zone that is tried is a number that the target is hashed to. So a target that comes back mostly finds its
//! flows as it left them, also when the table was lost, and nothing needs to be counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::led::{End, Led, Port};
use super::{PLACES, Place, SLOT_LEN, UDP_KEY};
use crate::firewall::allow::address_of;
use crate::firewall::elements::{Elements, plain};
use crate::firewall::family::Family;
use crate::firewall::table::{Element, Field, Set};

/// Odd, so that all zones are tried before one comes again; large, as the zones of neighbours are.
const STEP: u16 = 0x9e37;

/// Elements that are looked for by their key.
pub struct Known<'a>(BTreeMap<&'a str, BTreeMap<&'a [u8], &'a [u8]>>);

impl<'a> Known<'a> {
    pub fn new(sets: impl Iterator<Item = (&'a str, &'a BTreeSet<Element>)>) -> Self {
        let values = |all: &'a BTreeSet<Element>| all.iter().map(|e| (&*e.key, &*e.value)).collect();
        Self(sets.map(|(name, all)| (name, values(all))).collect())
    }

    pub fn value(&self, name: &str, key: &[u8]) -> Option<&'a [u8]> {
        self.0.get(name)?.get(key).copied()
    }
}

impl Place {
    /// Without the protocol; none where that is another one than UDP.
    fn port<'a>(&self, ports_key: &'a [u8]) -> Option<&'a [u8]> {
        match self.slots {
            true => Some(&ports_key[..ports_key.len().checked_sub(SLOT_LEN)?]),
            false => ports_key.strip_prefix(&UDP_KEY[..]),
        }
    }

    fn slot(&self, ports_key: &[u8]) -> Option<u32> {
        let slot = self.slots.then(|| ports_key.last_chunk()).flatten();
        slot.map(|slot| u32::from_ne_bytes(*slot))
    }

    /// Where a port of this place is when it has one target.
    fn alone(&self) -> &'static Place {
        if self.bound { &PLACES[0] } else { &PLACES[2] }
    }

    /// Target and zone that an element of `ports` with this key had.
    fn own<'a>(&self, f: Family, earlier: &Known<'a>, ports_key: &[u8]) -> Option<(&'a [u8], u16)> {
        let target = earlier.value(f.set(self.ports), ports_key)?;
        let zone = earlier.value(f.set(self.zones), &self.zone_key(ports_key)?)?;
        Some((target, read(zone)?))
    }

    /// The same; else those of the port when it had one target for all slots.
    fn had<'a>(&self, f: Family, earlier: &Known<'a>, ports_key: &[u8]) -> Option<(&'a [u8], u16)> {
        let own = self.own(f, earlier, ports_key);
        if own.is_some() || !self.slots {
            return own;
        }
        let port = [&UDP_KEY, self.port(ports_key)?].concat();
        self.alone().own(f, earlier, &port)
    }
}

/// The maps of zones for the ports of these sets. `earlier`: what there was. `led`: the flows that there are.
pub fn sets(sets: &[Set], earlier: &Elements, led: &Led) -> Vec<Set> {
    let names = |f: Family| PLACES.iter().flat_map(move |p| [f.set(p.ports), f.set(p.zones)]);
    let names = Family::ALL.into_iter().flat_map(names);
    let known = Known::new(names.filter_map(|name| Some((name, earlier.get(name)?))));
    let mut led = led.clone();
    add_earlier(&mut led, earlier, &known);
    let of = |(f, place): (Family, &Place)| {
        let ports = sets.iter().find(|set| set.name == f.set(place.ports))?;
        let elements = zones(f, place, &ports.elements, &known, &led);
        let map = |name, key, elements| Set {
            name: f.set(name),
            key: f.fields(key),
            value: &[Field::Zone],
            interval: false,
            elements,
        };
        Some([
            map(place.zones, place.key, elements.clone()),
            map(place.errors, place.quoted, elements),
        ])
    };
    every_place().filter_map(of).flatten().collect()
}

fn every_place() -> impl Iterator<Item = (Family, &'static Place)> {
    Family::ALL
        .into_iter()
        .flat_map(|f| PLACES.iter().map(move |place| (f, place)))
}

/// Whoever asks just now is led as the table says, and seen by no look at the flows.
fn add_earlier(led: &mut Led, earlier: &Elements, known: &Known) {
    for (f, place) in every_place() {
        for element in earlier.get(f.set(place.ports)).into_iter().flatten() {
            let lead = || {
                let port = port(f, place.port(&element.key)?)?;
                let (target, zone) = place.own(f, known, &element.key)?;
                Some((port, zone, end(target)?))
            };
            if let Some((port, zone, target)) = lead() {
                led.add(port, place.slot(&element.key), zone, target);
            }
        }
    }
}

fn zones(
    f: Family,
    place: &Place,
    ports: &BTreeSet<Element>,
    earlier: &Known,
    led: &Led,
) -> BTreeSet<Element> {
    let mut targets: BTreeMap<Port, BTreeSet<End>> = BTreeMap::new();
    for element in ports {
        let port = place.port(&element.key).and_then(|key| port(f, key));
        if let Some((port, target)) = port.zip(end(&element.value)) {
            targets.entry(port).or_default().insert(target);
        }
    }
    let zone = |element: &Element| {
        let port = port(f, place.port(&element.key)?)?;
        let targets = targets.get(&port)?;
        let slot = place.slot(&element.key);
        let kept = place.had(f, earlier, &element.key).filter(|(target, zone)| {
            end(target).is_some_and(|target| targets.contains(&target))
                && led.only(port, slot, *zone, |target| targets.contains(target))
        });
        let zone = match kept {
            Some((_, zone)) => zone,
            None => {
                let target = end(&element.value)?;
                first(&element.value, |zone| {
                    led.only(port, slot, zone, |to| *to == target)
                })
            }
        };
        Some(Element {
            value: zone.to_ne_bytes().to_vec(),
            ..plain(place.zone_key(&element.key)?)
        })
    };
    ports.iter().filter_map(zone).collect()
}

/// The first zone of a target that is right. Never 0, which is what has no zone.
///
/// `target`: address and port, as a map has them.
fn first(target: &[u8], is_right: impl Fn(u16) -> bool) -> u16 {
    // Targets of one network and port have different ones.
    let words = target
        .chunks_exact(2)
        .map(|word| u16::from_be_bytes([word[0], word[1]]));
    let own = words.fold(0_u16, |zone, word| zone.rotate_left(7) ^ word);
    let all = (0..=u16::MAX).map(|nth| own.wrapping_add(nth.wrapping_mul(STEP)));
    let mut all = all.filter(|zone| *zone != 0);
    // Were all of them wrong, flows in this one would be deleted (see `conntrack`).
    all.find(|zone| is_right(*zone)).unwrap_or(own.max(1))
}

pub fn read(zone: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(zone.try_into().ok()?))
}

fn port(f: Family, bytes: &[u8]) -> Option<Port> {
    let (ip, number) = address_and_port(bytes)?;
    Some((f, ip, number))
}

fn end(bytes: &[u8]) -> Option<End> {
    let (ip, number) = address_and_port(bytes)?;
    Some((ip?, number))
}

/// Address, if any, and port with its padding.
fn address_and_port(bytes: &[u8]) -> Option<(Option<IpAddr>, u16)> {
    let (ip, number) = bytes.split_last_chunk::<4>()?;
    let ip = match ip.len() {
        0 => None,
        _ => Some(address_of(ip)?),
    };
    Some((ip, u16::from_be_bytes([number[0], number[1]])))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::firewall::conntrack::Flow;
    use crate::firewall::render::set;

    fn value(target: u8) -> Vec<u8> {
        vec![10, 88, 1, target, 0, 80, 0, 0]
    }

    /// UDP port 8080, leading to that target.
    fn ports(target: u8) -> Set {
        let key = [&UDP_KEY[..], &8080_u16.to_be_bytes(), &[0, 0]].concat();
        let element = Element {
            value: value(target),
            ..plain(key)
        };
        Set {
            name: set::ANY,
            key: &[Field::Protocol, Field::Port],
            value: &[Field::Ipv4, Field::Port],
            interval: false,
            elements: [element].into(),
        }
    }

    fn led(flows: &[(u16, u8)]) -> Led {
        let mut led = Led::default();
        for (zone, target) in flows {
            led.add_flow(&Flow {
                from: (Ipv4Addr::new(192, 0, 2, 2).into(), 4000),
                to: (Ipv4Addr::new(192, 0, 2, 1).into(), 8080),
                answered_by: (Ipv4Addr::new(10, 88, 1, *target).into(), 80),
                zone: *zone,
            });
        }
        led
    }

    /// The zone that the port gets when it led as `earlier` says.
    fn zone(target: u8, earlier: &Elements, flows: &[(u16, u8)]) -> u16 {
        let sets = sets(&[ports(target)], earlier, &led(flows));
        let of = sets.iter().find(|set| set.name == set::ZONES_ANY).unwrap();
        read(&of.elements.first().unwrap().value).unwrap()
    }

    fn led_to(target: u8, zone: u16) -> Elements {
        let key = 8080_u16.to_be_bytes().to_vec();
        let element = Element {
            value: zone.to_ne_bytes().to_vec(),
            ..plain(key)
        };
        let zones = (set::ZONES_ANY.to_owned(), [element].into());
        Elements::from([zones, (set::ANY.to_owned(), ports(target).elements)])
    }

    #[test]
    fn who_comes_back_finds_its_flows() {
        let own = zone(5, &Elements::new(), &[]);
        assert_eq!(zone(5, &Elements::new(), &[(own, 5)]), own);
        assert_eq!(zone(5, &led_to(6, 77), &[(own, 5), (77, 6)]), own);
    }

    #[test]
    fn a_zone_where_a_flow_leads_elsewhere_is_not_taken() {
        let own = zone(5, &Elements::new(), &[]);
        let next = zone(5, &Elements::new(), &[(own, 6)]);
        assert_ne!(next, own);
        let third = zone(5, &led_to(6, own), &[(next, 6), (own, 5)]);
        assert!(![0, own, next].contains(&third));
    }

    #[test]
    fn who_stays_keeps_its_zone_unless_others_that_left_have_flows_there() {
        assert_eq!(zone(5, &led_to(5, 77), &[(77, 5)]), 77);
        assert_ne!(zone(5, &led_to(5, 77), &[(77, 5), (77, 6)]), 77);
    }

    #[test]
    fn every_zone_is_tried_before_one_that_is_wrong() {
        for right in [1, 77, u16::MAX] {
            assert_eq!(first(&value(5), |zone| zone == right), right);
        }
        assert_ne!(first(&value(5), |_| false), 0);
    }
}
