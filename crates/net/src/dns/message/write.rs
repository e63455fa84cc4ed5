//! Answers of our own.

use std::net::IpAddr;

use super::{Answer, HEADER, IN, OUR_UDP, Question, code, flag, kind};

/// Seconds others may keep an answer of ours: none, an address may be somebody else's a second later.
const TTL: u32 = 0;
/// A pointer to the question's name, which is always in the same place (RFC 1035 §4.1.4).
const ITS_NAME: [u8; 2] = [0xc0, 12];
/// The length of our OPT record.
const OPT_LENGTH: usize = 11;
/// The fixed part of a record whose name is [`ITS_NAME`].
const FIXED: usize = 12;
/// What an absence is vouched for with (RFC 2308 §3): server, mailbox, serial, refresh, retry, expire, minimum.
const AUTHORITY: &[u8] = b"\x05wharf\0\0\0\0\0\x01\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80\0\0\0\0";

/// An answer without content to a packet that has a header.
pub fn complaint(packet: &[u8], code: u16) -> Vec<u8> {
    let kept = packet[2] & (flag::OPCODE | flag::RECURSION_DESIRED);
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&packet[..2]);
    reply[2] = flag::RESPONSE | kept;
    reply[3] = code.to_be_bytes()[1] & flag::CODE;
    reply
}

impl Question {
    /// Writes the answer; `recursion`: whether the client may ask for foreign names. `limit`: the most bytes it takes;
    /// addresses that do not fit are left out, and the answer says so.
    pub fn answer(&self, answer: Answer<'_>, recursion: bool, limit: usize, out: &mut Vec<u8>) {
        let code = match answer {
            Answer::NoName => code::NO_NAME,
            Answer::Failed => code::FAILED,
            Answer::Refused => code::REFUSED,
            Answer::Addresses(_) | Answer::Pointer(_) | Answer::NoData => code::OK,
        };
        let ours = !matches!(answer, Answer::Failed | Answer::Refused);
        let mut high = flag::RESPONSE;
        if ours {
            high |= flag::AUTHORITATIVE;
        }
        let low = if recursion { flag::RECURSION_AVAILABLE } else { 0 };
        self.begin([high, low], code, out);
        match answer {
            Answer::Addresses(all) => self.addresses(all, limit, out),
            Answer::Pointer(name) => {
                record(&ITS_NAME, kind::PTR, &[name, &[0]].concat(), out);
                count(out, 6, 1);
            }
            // Who asks must not take the absence of one name for the absence of others: the zone is the name itself,
            // or, where there is no such name, the root.
            Answer::NoData => {
                record(&ITS_NAME, kind::SOA, AUTHORITY, out);
                count(out, 8, 1);
            }
            Answer::NoName => {
                record(&[0], kind::SOA, AUTHORITY, out);
                count(out, 8, 1);
            }
            Answer::Failed | Answer::Refused => {}
        }
        self.end_with_edns(code, out);
        if out.len() > limit {
            self.truncate(out);
        }
    }

    /// The client speaks a version of EDNS that nobody knows.
    pub(super) fn bad_version(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.begin([flag::RESPONSE, 0], code::BAD_VERSION, &mut out);
        self.end_with_edns(code::BAD_VERSION, &mut out);
        out
    }

    /// Cuts an answer down to its question: the client comes again by TCP.
    pub(super) fn truncate(&self, out: &mut Vec<u8>) {
        let code = u16::from(out[3] & flag::CODE);
        out.truncate(self.end());
        out[2] |= flag::TRUNCATED;
        out[6..HEADER].fill(0);
        self.end_with_edns(code, out);
    }

    /// Header and question as the client wrote it. Flags of the client's are kept where they are to be.
    pub(super) fn begin(&self, flags: [u8; 2], code: u16, out: &mut Vec<u8>) {
        out.clear();
        out.extend(self.id.to_be_bytes());
        out.push(flags[0] | self.flags[0] & flag::RECURSION_DESIRED);
        let code = code.to_be_bytes()[1] & flag::CODE;
        out.push(flags[1] | self.flags[1] & flag::CHECKING_DISABLED | code);
        out.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend(self.written.as_bytes());
        out.push(0);
        out.extend(self.kind.to_be_bytes());
        out.extend(IN.to_be_bytes());
    }

    /// Ends a message: who spoke EDNS is answered in it.
    pub(super) fn end_with_edns(&self, code: u16, out: &mut Vec<u8>) {
        let Some(theirs) = self.edns else {
            return;
        };
        opt(code, theirs.dnssec_ok, out);
        let more = u16::from_be_bytes([out[10], out[11]]).saturating_add(1);
        count(out, 10, more);
    }

    fn addresses(&self, all: &[IpAddr], limit: usize, out: &mut Vec<u8>) {
        let room = if self.edns.is_some() { OPT_LENGTH } else { 0 };
        let mut written = 0;
        for ip in all {
            let data = if ip.is_ipv4() { 4 } else { 16 };
            if out.len() + FIXED + data + room > limit {
                out[2] |= flag::TRUNCATED;
                break;
            }
            match ip {
                IpAddr::V4(ip) => record(&ITS_NAME, kind::A, &ip.octets(), out),
                IpAddr::V6(ip) => record(&ITS_NAME, kind::AAAA, &ip.octets(), out),
            }
            written += 1;
        }
        count(out, 6, written);
    }
}

/// Our OPT record: the code's high bits are in it (RFC 6891 §6.1.3).
pub(super) fn opt(code: u16, dnssec_ok: bool, out: &mut Vec<u8>) {
    out.push(0);
    out.extend(kind::OPT.to_be_bytes());
    out.extend(OUR_UDP.to_be_bytes());
    let high = (code >> 4).to_be_bytes()[1];
    out.extend([high, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
}

fn record(name: &[u8], kind: u16, data: &[u8], out: &mut Vec<u8>) {
    out.extend(name);
    out.extend(kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    out.extend(TTL.to_be_bytes());
    // A name or an address, or what is written above.
    out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend(data);
}

/// Sets one of the header's counts.
fn count(out: &mut [u8], at: usize, count: u16) {
    out[at..at + 2].copy_from_slice(&count.to_be_bytes());
}
