//! Where flows of published UDP ports are led, zone by zone, and in which zone a datagram is looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::choice::{Known, read};
use super::{PLACES, Place, SEED, UDP_KEY, sender_len};
use crate::firewall::conntrack::Flow;
use crate::firewall::elements::{octets, port_number};
use crate::firewall::family::Family;
use crate::firewall::slots;
use crate::firewall::table::Set;

/// An address and a port.
pub type End = (IpAddr, u16);

/// A published port of a family: on one address or on all.
pub type Port = (Family, Option<IpAddr>, u16);

/// In this zone there are flows to this target; of one slot, or of any.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lead {
    slot: Option<u32>,
    zone: u16,
    target: End,
}

/// Where the flows to each port are led.
#[derive(Clone, Default)]
pub struct Led(BTreeMap<Port, BTreeSet<Lead>>);

impl Led {
    /// `slot`: none where they may be of any.
    pub fn add(&mut self, port: Port, slot: Option<u32>, zone: u16, target: End) {
        let lead = Lead { slot, zone, target };
        self.0.entry(port).or_default().insert(lead);
    }

    /// A flow is to a port of its address, and to the port of all addresses.
    pub fn add_flow(&mut self, flow: &Flow) {
        let (to, number) = flow.to;
        let (by, at) = flow.answered_by;
        let slot = hashed_slot(flow.from);
        for ip in [Some(to), None] {
            self.add((Family::of(to), ip, number), Some(slot), flow.zone, (by, at));
        }
    }

    /// All flows of that slot that are in this zone are led to such targets; no slot: all of the port.
    pub fn only(&self, port: Port, slot: Option<u32>, zone: u16, is_right: impl Fn(&End) -> bool) -> bool {
        let of_slot = |lead: &&Lead| slot.is_none() || lead.slot.is_none() || lead.slot == slot;
        let mut leads = self.0.get(&port).into_iter().flatten().filter(of_slot);
        leads.all(|lead| lead.zone != zone || is_right(&lead.target))
    }
}

/// The zones that datagrams are looked for in.
pub struct Zones<'a>(Known<'a>);

impl<'a> Zones<'a> {
    pub fn new(sets: &'a [Set]) -> Self {
        Self(Known::new(sets.iter().map(|set| (set.name, &set.elements))))
    }

    /// That of a datagram from there to that address and port of the host; 0 where the port has none.
    pub fn of(&self, from: End, to: End) -> u16 {
        let f = Family::of(to.0);
        let zone = |place: &Place| {
            let address = if place.bound { &octets(to.0)[..] } else { &[] };
            let slot = place.slots.then(|| hashed_slot(from).to_ne_bytes());
            let protocol = if place.slots { &[][..] } else { &UDP_KEY };
            let key = [
                protocol,
                address,
                &port_number(to.1),
                slot.as_ref().map_or(&[], |s| &s[..]),
            ]
            .concat();
            read(self.0.value(f.set(place.zones), &place.zone_key(&key)?)?)
        };
        PLACES.iter().find_map(zone).unwrap_or(0)
    }
}

/// What the rules' hash gives (`jhash` of linux/jhash.h, scaled), of the sender's address and port.
fn hashed_slot((ip, port): End) -> u32 {
    let key = [octets(ip), port_number(port)].concat();
    let words = key
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let words: Vec<u32> = words.collect();
    let start = 0xdead_beef_u32
        .wrapping_add(sender_len(Family::of(ip)))
        .wrapping_add(SEED);
    let mut state = [start; 3];
    let mut rest = &words[..];
    while let [a, b, c, tail @ ..] = rest
        && !tail.is_empty()
    {
        add(&mut state, &[*a, *b, *c]);
        stir(&mut state);
        rest = tail;
    }
    add(&mut state, rest);
    finish(&mut state);
    ((u64::from(state[2]) * u64::from(slots::COUNT)) >> 32) as u32
}

fn add(state: &mut [u32; 3], words: &[u32]) {
    for (part, word) in state.iter_mut().zip(words) {
        *part = part.wrapping_add(*word);
    }
}

/// `__jhash_mix`.
fn stir([a, b, c]: &mut [u32; 3]) {
    for by in [4, 6, 8, 16, 19, 4] {
        *a = a.wrapping_sub(*c) ^ c.rotate_left(by);
        *c = c.wrapping_add(*b);
        // Each step is the one before with the names moved on by one.
        let (x, y, z) = (*a, *b, *c);
        (*a, *b, *c) = (y, z, x);
    }
}

/// `__jhash_final`.
fn finish([a, b, c]: &mut [u32; 3]) {
    let mix = |x: &mut u32, y: u32, by: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(by));
    mix(c, *b, 14);
    mix(a, *c, 11);
    mix(b, *a, 25);
    mix(c, *b, 16);
    mix(a, *c, 4);
    mix(b, *a, 14);
    mix(c, *b, 24);
}
