//! DNS messages (RFC 1035, EDNS: RFC 6891): reading what clients ask, making what they are answered, asking others and
//! passing on what these say. Pure; every byte is looked at a bounded number of times.

mod read;
mod relay;
mod write;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use super::name::{self, Name};

pub use read::read;
pub use relay::{Match, Relayed, Sent, ask, examine, matches};
pub use write::complaint;

/// The length of the header.
pub const HEADER: usize = 12;
/// What fits into an answer by UDP for a client that says nothing of EDNS.
const PLAIN_UDP: u16 = 512;
/// The most sent by UDP whatever the client says.
const LARGEST_UDP: u16 = 4096;
/// What we say we take by UDP: fits into one frame everywhere (the value of the DNS flag day 2020).
const OUR_UDP: u16 = 1232;
/// The most that TCP carries.
pub const LARGEST: usize = 65_535;
/// The internet class.
const IN: u16 = 1;

/// Types of records that are looked at (the registry of RFC 6895).
pub mod kind {
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
pub mod code {
    pub const OK: u16 = 0;
    pub const FORMAT: u16 = 1;
    pub const FAILED: u16 = 2;
    pub const NO_NAME: u16 = 3;
    pub const NOT_IMPLEMENTED: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BAD_VERSION: u16 = 16;
}

/// Bits of the third and fourth byte of a header.
mod flag {
    pub const RESPONSE: u8 = 0x80;
    pub const AUTHORITATIVE: u8 = 0x04;
    pub const TRUNCATED: u8 = 0x02;
    pub const RECURSION_DESIRED: u8 = 0x01;
    pub const RECURSION_AVAILABLE: u8 = 0x80;
    pub const AUTHENTIC: u8 = 0x20;
    pub const CHECKING_DISABLED: u8 = 0x10;
    pub const OPCODE: u8 = 0x78;
    pub const CODE: u8 = 0x0f;
}

/// A question that was understood.
#[derive(Clone, Debug)]
pub struct Question {
    /// As names are compared.
    pub name: Name,
    /// As the client wrote it.
    written: Name,
    pub kind: u16,
    pub id: u16,
    /// The third and fourth byte of the header.
    flags: [u8; 2],
    edns: Option<Edns>,
    /// The most the client takes by UDP.
    pub udp_size: usize,
}

/// What a client says beside its question.
#[derive(Clone, Copy, Debug)]
struct Edns {
    dnssec_ok: bool,
}

/// What a packet turned out to be.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "mostly it is a question, which a box would cost an allocation"
)]
pub enum Read {
    Question(Question),
    /// A query that is not served; this is sent back.
    Refused(Vec<u8>),
    /// Nothing that deserves an answer.
    Noise,
}

/// The content of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    Addresses(&'a [std::net::IpAddr]),
    /// The name an address has, as [`Name::as_bytes`] has it.
    Pointer(&'a [u8]),
    /// The name exists, but has no record of that type.
    NoData,
    NoName,
    Failed,
    Refused,
}

impl Question {
    /// The client wants others to be asked.
    pub fn wants_recursion(&self) -> bool {
        self.flags[0] & flag::RECURSION_DESIRED != 0
    }

    /// What decides on what others answer.
    pub fn key(&self) -> Box<[u8]> {
        let wishes = self.flags[1] & (flag::AUTHENTIC | flag::CHECKING_DISABLED);
        let dnssec = self.edns.is_some_and(|edns| edns.dnssec_ok);
        let [high, low] = self.kind.to_be_bytes();
        [self.name.as_bytes(), &[0, high, low, wishes | u8::from(dnssec)]]
            .concat()
            .into()
    }

    /// Where the question ends in its packet.
    pub fn end(&self) -> usize {
        HEADER + self.written.as_bytes().len() + 5
    }
}

/// The packet's id.
pub fn id(packet: &[u8]) -> u16 {
    packet.first_chunk().map_or(0, |id| u16::from_be_bytes(*id))
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    packet
        .get(at..)?
        .first_chunk()
        .map(|two| u16::from_be_bytes(*two))
}

fn u32_at(packet: &[u8], at: usize) -> Option<u32> {
    packet
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_be_bytes(*four))
}

fn is_response(packet: &[u8]) -> bool {
    packet[2] & flag::RESPONSE != 0
}

/// One record of a packet: where its name begins, its type, where what follows the type begins, and its data.
#[derive(Clone, Copy, Debug)]
struct Found {
    start: usize,
    kind: u16,
    class: u16,
    /// Where its time to live is.
    ttl_at: usize,
    ttl: u32,
    data: usize,
    end: usize,
}

/// The record that begins there.
fn record(packet: &[u8], start: usize) -> Option<Found> {
    let fixed = name::skip(packet, start)?;
    let data = fixed + 10;
    let end = data + usize::from(u16_at(packet, fixed + 8)?);
    (end <= packet.len()).then_some(())?;
    Some(Found {
        start,
        kind: u16_at(packet, fixed)?,
        class: u16_at(packet, fixed + 2)?,
        ttl_at: fixed + 4,
        ttl: u32_at(packet, fixed + 4)?,
        data,
        end,
    })
}
