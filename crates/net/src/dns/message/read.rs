//! What clients ask.

use super::{
    Edns, HEADER, IN, LARGEST_UDP, Name, PLAIN_UDP, Question, Read, code, complaint, flag, id, is_response,
    kind, record, u16_at,
};

/// Reads a client's packet.
pub fn read(packet: &[u8]) -> Read {
    if packet.len() < HEADER || is_response(packet) {
        return Read::Noise;
    }
    if packet[2] & flag::OPCODE != 0 {
        return Read::Refused(complaint(packet, code::NOT_IMPLEMENTED));
    }
    let Some((mut question, class)) = question(packet) else {
        return Read::Refused(complaint(packet, code::FORMAT));
    };
    match edns(packet, question.end()) {
        Ok(None) => {}
        Ok(Some((edns, size, version))) => {
            question.edns = Some(edns);
            question.udp_size = size.clamp(PLAIN_UDP, LARGEST_UDP).into();
            if version != 0 {
                return Read::Refused(question.bad_version());
            }
        }
        Err(Malformed) => return Read::Refused(complaint(packet, code::FORMAT)),
    }
    if class != IN {
        return Read::Refused(complaint(packet, code::REFUSED));
    }
    Read::Question(question)
}

/// The only question of a packet, and its class.
fn question(packet: &[u8]) -> Option<(Question, u16)> {
    (u16_at(packet, 4)? == 1).then_some(())?;
    let (written, end) = Name::read(packet, HEADER)?;
    let question = Question {
        name: written.lower(),
        written,
        kind: u16_at(packet, end)?,
        id: id(packet),
        flags: [packet[2], packet[3]],
        edns: None,
        udp_size: PLAIN_UDP.into(),
    };
    Some((question, u16_at(packet, end + 2)?))
}

/// The packet is not what its header says.
struct Malformed;

/// What the client says of itself (RFC 6891 §6.1), the size it takes, and the version it says that in. Options are not
/// looked into: none is known here. Bytes behind the last record are passed over.
fn edns(packet: &[u8], mut at: usize) -> Result<Option<(Edns, u16, u8)>, Malformed> {
    let counted = |at| u16_at(packet, at).unwrap_or(0);
    let others = u32::from(counted(6)) + u32::from(counted(8));
    let mut said = None;
    for number in 0..others + u32::from(counted(10)) {
        let found = record(packet, at).ok_or(Malformed)?;
        at = found.end;
        if found.kind != kind::OPT {
            continue;
        }
        let (is_root, twice) = (packet[found.start] == 0, said.is_some());
        if !is_root || twice || number < others || !options_fit(&packet[found.data..found.end]) {
            return Err(Malformed);
        }
        let [_, version, high, _] = found.ttl.to_be_bytes();
        let edns = Edns {
            dnssec_ok: high & 0x80 != 0,
        };
        said = Some((edns, found.class, version));
    }
    Ok(said)
}

/// Options fill their record.
fn options_fit(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let Some(length) = u16_at(options, 2) else {
            return false;
        };
        let Some(rest) = options.get(4 + usize::from(length)..) else {
            return false;
        };
        options = rest;
    }
    true
}
