//! Zones of connection tracking for published UDP ports, by which flows follow their port and no answer is lost.
//!
//! UDP has no connections that end, so connection tracking goes on leading a flow where it began. Were its entry deleted
//! when the port moves, an answer that is under way would find nothing that gives it back the address it was asked at.
//! So it stays, and is not looked at any more: each port has a zone, for the direction of the questions alone, and
//! another one from the moment on that it leads elsewhere. In there the next datagram of the flow finds no entry and is
//! led anew; answers are looked for in no zone, and find the entry they belong to, old or new.
//!
//! Of a port with several targets each slot has its zone. Which one that is, `choice` says; `led`, where flows are led in
//! each.
//!
//! Error messages of ICMP about an answer (a packet too big for some way) belong to the flow they quote, so they are
//! looked for in its zone.

mod choice;
mod led;

use super::expr::Expr;
use super::family::Family;
use super::phrase::{
    destination_of, destination_port, is_byte, local_daddr_by, of, protocol, source_of, source_port,
    transport,
};
use super::render::{UDP, rule, set};
use super::slots;
use super::table::{Field, Rule};

pub use choice::sets;
pub use led::{Led, Zones};

/// Of the hash: the same in every rule that asks for a slot.
pub const SEED: u32 = 1;

/// Where the sender's address and port are put to be hashed.
const SENDER: u8 = 8;
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
}

/// The rules that put datagrams, and errors about answers, into the zone of their port. A port that is published on one
/// address is that one's first: a packet's zone is not set twice.
pub fn rules(f: Family, shared: bool) -> Vec<Rule> {
    places(shared)
        .flat_map(|place| [datagrams(f, place), errors(f, place)])
        .collect()
}

/// The register behind the place's key without a slot.
fn behind_key(f: Family, place: &Place) -> u8 {
    if place.bound { f.words() + 1 } else { 1 }
}

fn datagrams(f: Family, place: &Place) -> Rule {
    let key = match place.bound {
        true => vec![destination_of(f, 0), destination_port(f.words())],
        false => vec![destination_port(0)],
    };
    let slot = match place.slots {
        true => slot(f, behind_key(f, place)),
        false => Vec::new(),
    };
    rule(
        "to a published UDP port: by its zone",
        [of(f), protocol(UDP), key, slot, into_zone(f, f.set(place.zones))],
    )
}

/// How ICMP of a family tells that an answer did not arrive.
struct Message {
    protocol: u8,
    /// Its type: destination unreachable, or, of ICMPv6, packet too big.
    kind: u8,
    /// From the beginning of the quoted header.
    next: u32,
    source: u32,
    destination: u32,
    length: u32,
}

/// ICMPv6 has a message of its own for what is too big. The others about answers get no zone, and are lost: whoever
/// answered somebody who is gone hears nothing of that.
const MESSAGES: [Message; 2] = [
    Message {
        protocol: 1,
        kind: 3,
        next: 9,
        source: 12,
        destination: 16,
        length: 20,
    },
    Message {
        protocol: 58,
        kind: 2,
        next: 6,
        source: 8,
        destination: 24,
        length: 40,
    },
];

/// Such a message quotes the answer: from the published port to whoever asked.
fn errors(f: Family, place: &Place) -> Rule {
    const QUOTE: u32 = 8;
    /// Version 4, five words. Of version 6 all have the same length.
    const HEADER: u8 = 0x45;
    let message = match f {
        Family::V4 => &MESSAGES[0],
        Family::V6 => &MESSAGES[1],
    };
    let address = |at: u32, to| transport(QUOTE + at, f.len() as u32, to);
    let ports = QUOTE + message.length;
    let key = match place.bound {
        true => vec![address(message.source, 0), transport(ports, 2, f.words())],
        false => vec![transport(ports, 2, 0)],
    };
    let asked_by = [
        address(message.destination, SENDER),
        transport(ports + 2, 2, SENDER + f.words()),
    ];
    let slot = match place.slots {
        true => slot_of(f, asked_by, behind_key(f, place)),
        false => Vec::new(),
    };
    let header = match f {
        Family::V4 => is_byte(QUOTE, HEADER),
        Family::V6 => Vec::new(),
    };
    let about_datagram = [
        is_byte(0, message.kind),
        header,
        is_byte(QUOTE + message.next, UDP),
    ];
    rule(
        "about an answer of a published UDP port: by its zone",
        [
            of(f),
            protocol(message.protocol),
            about_datagram.concat(),
            key,
            slot,
            into_zone(f, f.set(place.errors)),
        ],
    )
}

fn into_zone(f: Family, map: &'static str) -> Vec<Expr> {
    /// A register that no key or value reaches.
    const APART: u8 = 11;
    let apart = APART + f.words().min(2);
    let found = Expr::Lookup {
        set: map,
        key: 0,
        to: Some(0),
    };
    [
        vec![found],
        local_daddr_by(false, apart),
        vec![Expr::SetZone { from: 0 }],
    ]
    .concat()
}

/// The slot of a datagram's flow.
pub fn slot(f: Family, to: u8) -> Vec<Expr> {
    slot_of(f, [source_of(f, SENDER), source_port(SENDER + f.words())], to)
}

fn slot_of(f: Family, [address, port]: [Expr; 2], to: u8) -> Vec<Expr> {
    let hash = Expr::Hash {
        from: SENDER,
        len: sender_len(f),
        below: slots::COUNT,
        to,
    };
    vec![address, port, hash]
}

/// Bytes of the sender's address and port with its padding.
fn sender_len(f: Family) -> u32 {
    f.len() as u32 + 4
}
