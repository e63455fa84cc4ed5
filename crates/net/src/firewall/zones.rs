//! Zones of connection tracking for published UDP ports, by which flows follow their port and no answer is lost.
//!
//! UDP has no connections that end, so connection tracking goes on leading a flow where it began. Were its entry deleted
//! when the port moves, an answer that is under way would find nothing that gives it back the address it was asked at.
//! So it stays, and is not looked at any more: each port has a zone, for the direction of the questions alone, and
//! another one from the moment on that it leads elsewhere. In there the next datagram of the flow finds no entry and is
//! led anew; answers are looked for in no zone, and find the entry they belong to, old or new.
//!
//! A zone is a number that the target is hashed to, unless that is what the port had before for another target: so it is
//! mostly the same again when the table was lost, and nothing needs to be counted. Of a port with several targets each
//! slot has its zone, which it keeps when another target takes it while the first one stays: its flows stay there, too.
//!
//! Error messages of ICMP about an answer (a packet too big for some way) belong to the flow they quote, so they are
//! looked for in its zone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::elements::{Elements, plain, port_number};
use super::expr::Expr;
use super::phrase::{
    destination, destination_port, ipv4, is_byte, local_daddr_by, protocol, source, source_port, transport,
};
use super::render::{UDP, rule, set};
use super::slots;
use super::table::{Element, Field, Rule, Set};

/// Of the hash: the same in every rule that asks for a slot.
pub const SEED: u32 = 1;

const ICMP: u8 = 1;
/// A register that no key or value reaches.
const APART: u8 = 12;
/// Where the sender's address and port are put to be hashed, and their bytes with the padding.
const SENDER: u8 = 8;
const SENDER_LEN: u32 = 8;
const SLOT_LEN: usize = 4;
const UDP_KEY: [u8; 4] = [UDP, 0, 0, 0];

/// A map that says where UDP ports lead, and the maps that have a zone for each of its elements.
struct Place {
    ports: &'static str,
    zones: &'static str,
    key: &'static [Field],
    errors: &'static str,
    quoted: &'static [Field],
    bound: bool,
    slots: bool,
}

/// A port is in one of them.
const PLACES: [Place; 4] = {
    use Field::{Ipv4, QuotedIpv4, QuotedPort, Slot, UdpPort};
    [
        Place {
            ports: set::BOUND,
            zones: set::ZONES_BOUND,
            key: &[Ipv4, UdpPort],
            errors: set::ERRORS_BOUND,
            quoted: &[QuotedIpv4, QuotedPort],
            bound: true,
            slots: false,
        },
        Place {
            ports: set::UDP_BOUND_SLOTS,
            zones: set::ZONES_BOUND_SLOTS,
            key: &[Ipv4, UdpPort, Slot],
            errors: set::ERRORS_BOUND_SLOTS,
            quoted: &[QuotedIpv4, QuotedPort, Slot],
            bound: true,
            slots: true,
        },
        Place {
            ports: set::ANY,
            zones: set::ZONES_ANY,
            key: &[UdpPort],
            errors: set::ERRORS_ANY,
            quoted: &[QuotedPort],
            bound: false,
            slots: false,
        },
        Place {
            ports: set::UDP_ANY_SLOTS,
            zones: set::ZONES_ANY_SLOTS,
            key: &[UdpPort, Slot],
            errors: set::ERRORS_ANY_SLOTS,
            quoted: &[QuotedPort, Slot],
            bound: false,
            slots: true,
        },
    ]
};

fn places(shared: bool) -> impl Iterator<Item = &'static Place> {
    PLACES.iter().filter(move |place| shared || !place.slots)
}

impl Place {
    /// The key among the zones of an element of `ports`; none where that is no UDP port.
    fn zone_key(&self, ports_key: &[u8]) -> Option<Vec<u8>> {
        let key = if self.slots {
            ports_key
        } else {
            ports_key.strip_prefix(&UDP_KEY[..])?
        };
        // A field that stands alone is not padded.
        let len = if self.key.len() == 1 { 2 } else { key.len() };
        Some(key.get(..len)?.to_vec())
    }

    /// Without the slot.
    fn port<'a>(&self, ports_key: &'a [u8]) -> &'a [u8] {
        let end = ports_key.len() - if self.slots { SLOT_LEN } else { 0 };
        &ports_key[..end]
    }

    /// Where a port of this place is when it has one target.
    fn alone(&self) -> &'static Place {
        if self.bound { &PLACES[0] } else { &PLACES[2] }
    }

    /// Target and zone that an element of `ports` with this key had: its own, else those of the port when it had one
    /// target for all slots.
    fn had<'a>(&self, earlier: &Known<'a>, ports_key: &[u8]) -> (Option<&'a [u8]>, Option<u16>) {
        let of = |place: &Place, key: &[u8]| {
            let target = earlier.value(place.ports, key);
            let zone = place
                .zone_key(key)
                .and_then(|key| earlier.value(place.zones, &key));
            (target, zone.and_then(read))
        };
        match of(self, ports_key) {
            (None, _) if self.slots => {
                let port = [&UDP_KEY, self.port(ports_key)].concat();
                of(self.alone(), &port)
            }
            own => own,
        }
    }
}

impl Place {
    /// The zones of targets that are of a port no more: flows to one of them may be in such a zone of any of its slots.
    fn left<'a>(
        &self,
        earlier: &Known,
        now: &BTreeMap<&'a [u8], BTreeSet<&[u8]>>,
    ) -> BTreeMap<&'a [u8], BTreeSet<u16>> {
        let mut left: BTreeMap<&[u8], BTreeSet<u16>> = BTreeMap::new();
        for (key, target) in earlier.0.get(self.ports).into_iter().flatten() {
            let port = now.get_key_value(self.port(key));
            if let Some((port, _)) = port.filter(|(_, now)| !now.contains(target)) {
                let own = another(target, None);
                let zones = [own, another(target, Some(own))];
                left.entry(*port).or_default().extend(zones);
            }
        }
        left
    }
}

/// Elements that are looked for by their key.
struct Known<'a>(BTreeMap<&'a str, BTreeMap<&'a [u8], &'a [u8]>>);

impl<'a> Known<'a> {
    fn new(sets: impl Iterator<Item = (&'a str, &'a BTreeSet<Element>)>) -> Self {
        let values = |all: &'a BTreeSet<Element>| all.iter().map(|e| (&*e.key, &*e.value)).collect();
        Self(sets.map(|(name, all)| (name, values(all))).collect())
    }

    fn value(&self, name: &str, key: &[u8]) -> Option<&'a [u8]> {
        self.0.get(name)?.get(key).copied()
    }
}

/// The maps of zones for the ports of these sets. `earlier`: what there was.
pub fn sets(sets: &[Set], earlier: &Elements) -> Vec<Set> {
    let names = PLACES.iter().flat_map(|place| [place.ports, place.zones]);
    let earlier = Known::new(names.filter_map(|name| Some((name, earlier.get(name)?))));
    let of = |place: &Place| {
        let ports = sets.iter().find(|set| set.name == place.ports)?;
        let elements = zones(place, &ports.elements, &earlier);
        let map = |name, key, elements| Set {
            name,
            key,
            value: &[Field::Zone],
            interval: false,
            elements,
        };
        Some([
            map(place.zones, place.key, elements.clone()),
            map(place.errors, place.quoted, elements),
        ])
    };
    PLACES.iter().filter_map(of).flatten().collect()
}

fn zones(place: &Place, ports: &BTreeSet<Element>, earlier: &Known) -> BTreeSet<Element> {
    let mut targets: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
    for element in ports {
        let of_port = targets.entry(place.port(&element.key)).or_default();
        of_port.insert(&element.value);
    }
    let left = place.left(earlier, &targets);
    let zone = |element: &Element| {
        let key = place.zone_key(&element.key)?;
        let port = place.port(&element.key);
        let is_left = |zone| left.get(port).is_some_and(|left| left.contains(&zone));
        let zone = match place.had(earlier, &element.key) {
            (Some(target), Some(zone)) if targets[port].contains(target) && !is_left(zone) => zone,
            (Some(_), zone) => another(&element.value, zone),
            (None, _) => another(&element.value, None),
        };
        Some(Element {
            value: zone.to_ne_bytes().to_vec(),
            ..plain(key)
        })
    };
    ports.iter().filter_map(zone).collect()
}

/// The zone of a target, but not that one. Never 0, which is what has no zone.
///
/// `target`: address and port, as a map has them.
fn another(target: &[u8], not: Option<u16>) -> u16 {
    let word = |at| u16::from_be_bytes([target[at], target[at + 1]]);
    // Targets of one network and port have different ones.
    let zone = (word(2) ^ word(0).rotate_left(7) ^ word(4).rotate_left(11)).max(1);
    match not {
        Some(not) if not == zone => (zone ^ 1).max(2),
        _ => zone,
    }
}

fn read(zone: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(zone.try_into().ok()?))
}

/// The rules that put datagrams, and errors about answers, into the zone of their port. A port that is published on one
/// address is that one's first: a packet's zone is not set twice.
pub fn rules(shared: bool) -> Vec<Rule> {
    places(shared)
        .flat_map(|place| [datagrams(place), errors(place)])
        .collect()
}

fn datagrams(place: &Place) -> Rule {
    let key = match place.bound {
        true => vec![destination(0), destination_port(1)],
        false => vec![destination_port(0)],
    };
    let at = key.len() as u8;
    let slot = if place.slots { slot(at) } else { Vec::new() };
    rule(
        "to a published UDP port: by its zone",
        [ipv4(), protocol(UDP), key, slot, into_zone(place.zones)],
    )
}

/// Such a message quotes the answer: from the published port to whoever asked.
fn errors(place: &Place) -> Rule {
    const UNREACHABLE: u8 = 3;
    /// Version 4, five words.
    const HEADER: u8 = 0x45;
    const QUOTE: u32 = 8;
    const PORTS: u32 = QUOTE + 20;
    let (from, to) = (QUOTE + 12, QUOTE + 16);
    let key = match place.bound {
        true => vec![transport(from, 4, 0), transport(PORTS, 2, 1)],
        false => vec![transport(PORTS, 2, 0)],
    };
    let at = key.len() as u8;
    let asked_by = [transport(to, 4, SENDER), transport(PORTS + 2, 2, SENDER + 1)];
    let slot = if place.slots {
        slot_of(asked_by, at)
    } else {
        Vec::new()
    };
    let about_datagram = [
        is_byte(0, UNREACHABLE),
        is_byte(QUOTE, HEADER),
        is_byte(QUOTE + 9, UDP),
    ];
    rule(
        "about an answer of a published UDP port: by its zone",
        [
            ipv4(),
            protocol(ICMP),
            about_datagram.concat(),
            key,
            slot,
            into_zone(place.errors),
        ],
    )
}

fn into_zone(map: &'static str) -> Vec<Expr> {
    let found = Expr::Lookup {
        set: map,
        key: 0,
        to: Some(0),
    };
    [
        vec![found],
        local_daddr_by(false, APART),
        vec![Expr::SetZone { from: 0 }],
    ]
    .concat()
}

/// The slot of a datagram's flow.
pub fn slot(to: u8) -> Vec<Expr> {
    slot_of([source(SENDER), source_port(SENDER + 1)], to)
}

fn slot_of([address, port]: [Expr; 2], to: u8) -> Vec<Expr> {
    let hash = Expr::Hash {
        from: SENDER,
        len: SENDER_LEN,
        below: slots::COUNT,
        to,
    };
    vec![address, port, hash]
}

/// The zones that datagrams are looked for in.
pub struct Zones<'a>(Known<'a>);

impl<'a> Zones<'a> {
    pub fn new(sets: &'a [Set]) -> Self {
        Self(Known::new(sets.iter().map(|set| (set.name, &set.elements))))
    }

    /// That of a datagram from there to that address and port of the host; 0 where the port has none.
    pub fn of(&self, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> u16 {
        let zone = |place: &Place| {
            let address = if place.bound { &to.0.octets()[..] } else { &[] };
            let slot = place.slots.then(|| hashed_slot(from).to_ne_bytes());
            let protocol = if place.slots { &[][..] } else { &UDP_KEY };
            let key = [
                protocol,
                address,
                &port_number(to.1),
                slot.as_ref().map_or(&[], |s| &s[..]),
            ]
            .concat();
            read(self.0.value(place.zones, &place.zone_key(&key)?)?)
        };
        PLACES.iter().find_map(zone).unwrap_or(0)
    }
}

/// What the rules' hash gives (`jhash` of linux/jhash.h, scaled).
fn hashed_slot((ip, port): (Ipv4Addr, u16)) -> u32 {
    let word = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
    let [high, low] = port.to_be_bytes();
    let start = 0xdead_beef_u32.wrapping_add(SENDER_LEN).wrapping_add(SEED);
    let mut a = start.wrapping_add(word(ip.octets()));
    let mut b = start.wrapping_add(word([high, low, 0, 0]));
    let mut c = start;
    let mix = |x: &mut u32, y: u32, by: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(by));
    mix(&mut c, b, 14);
    mix(&mut a, c, 11);
    mix(&mut b, a, 25);
    mix(&mut c, b, 16);
    mix(&mut a, c, 4);
    mix(&mut b, a, 14);
    mix(&mut c, b, 24);
    ((u64::from(c) * u64::from(slots::COUNT)) >> 32) as u32
}
