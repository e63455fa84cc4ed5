//! What others are asked, and what they say: checked, stripped of what is between them and us, passed on.

use super::write::opt;
use super::{HEADER, IN, Question, code, flag, id, is_response, kind, record, u16_at};

/// The longest that an answer is kept, and that the absence of one is (RFC 2308 §5), seconds.
const LONGEST: u32 = 86_400;
const LONGEST_ABSENCE: u32 = 10_800;

/// A question as it went to somebody: what an answer has to repeat.
#[derive(Debug)]
pub struct Sent {
    id: u16,
    question: Box<[u8]>,
    /// The letters' case was drawn by lot: it has to come back as it was.
    pub cased: bool,
    pub edns: bool,
}

/// How a packet relates to a question that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Answers,
    /// It would, were the letters' case the one that was sent.
    OtherCase,
    /// A complaint that leaves the question out, with its code.
    Complains(u16),
    Unrelated,
}

/// Writes a question for somebody else. `case`: a random bit for each letter of the name, for who returns the name as
/// it was written; `edns`: whether what the client said of EDNS is said there. Nothing else of the client's packet goes
/// there, its options neither: they are for the next hop, which is us (RFC 6891 §6.1.1).
pub fn ask(question: &Question, id: u16, case: Option<&[u8; 32]>, edns: bool) -> (Vec<u8>, Sent) {
    let wishes = question.flags[1] & (flag::AUTHENTIC | flag::CHECKING_DISABLED);
    let mut out = Vec::with_capacity(question.end() + 16);
    out.extend(id.to_be_bytes());
    out.extend([flag::RECURSION_DESIRED, wishes, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend(question.name.as_bytes());
    if let Some(bits) = case {
        for (index, byte) in out[HEADER..].iter_mut().enumerate() {
            if bits[index / 8] >> (index % 8) & 1 == 1 {
                *byte = byte.to_ascii_uppercase();
            }
        }
    }
    out.push(0);
    out.extend(question.kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    let sent = Sent {
        id,
        question: out[HEADER..].into(),
        cased: case.is_some(),
        edns: edns && question.edns.is_some(),
    };
    if let Some(theirs) = question.edns.filter(|_| edns) {
        opt(0, theirs.dnssec_ok, &mut out);
        out[11] = 1;
    }
    (out, sent)
}

/// Whether a packet answers what was sent.
pub fn matches(packet: &[u8], sent: &Sent) -> Match {
    if packet.len() < HEADER || !is_response(packet) || id(packet) != sent.id {
        return Match::Unrelated;
    }
    let code = u16::from(packet[3] & flag::CODE);
    match u16_at(packet, 4) {
        Some(0) if code != code::OK => return Match::Complains(code),
        Some(1) => {}
        _ => return Match::Unrelated,
    }
    let Some(theirs) = packet.get(HEADER..HEADER + sent.question.len()) else {
        return Match::Unrelated;
    };
    // The name; type and class as they are.
    let split = sent.question.len() - 4;
    let (name, rest) = sent.question.split_at(split);
    if theirs[split..] != *rest || !theirs[..split].eq_ignore_ascii_case(name) {
        return Match::Unrelated;
    }
    if sent.cased && theirs[..split] != *name {
        return Match::OtherCase;
    }
    Match::Answers
}

/// What somebody answered, ready to be passed on to whoever asks the same.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// Without what is between us and them: EDNS.
    packet: Box<[u8]>,
    /// Where times to live are in there.
    ttls: Box<[u16]>,
    pub code: u16,
    /// More was to be said than fits.
    pub truncated: bool,
    /// Seconds it may be kept; none where it may not.
    pub keep: Option<u32>,
}

impl Relayed {
    /// Bytes it takes up.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.packet.len() + 2 * self.ttls.len()
    }

    /// Writes it as the answer to a client that asks the same, `age` seconds after it came; `limit`: the most bytes it
    /// takes.
    pub fn answer(&self, question: &Question, age: u32, limit: usize, out: &mut Vec<u8>) {
        let kept = self.packet[3] & (flag::RECURSION_AVAILABLE | flag::AUTHENTIC);
        let truncated = if self.truncated { flag::TRUNCATED } else { 0 };
        question.begin([flag::RESPONSE | truncated, kept], self.code, out);
        // The question is as long as theirs, so that all that refers to it does still.
        out[6..HEADER].copy_from_slice(&self.packet[6..HEADER]);
        out.extend_from_slice(self.packet.get(out.len()..).unwrap_or_default());
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(ttl) = out.get_mut(at..at + 4).and_then(|ttl| ttl.first_chunk_mut()) {
                *ttl = u32::from_be_bytes(*ttl).saturating_sub(age).to_be_bytes();
            }
        }
        question.end_with_edns(self.code, out);
        if out.len() > limit {
            question.truncate(out);
        }
    }
}

/// Takes an answer to this question apart; none where it is not whole.
pub fn examine(packet: &[u8], question: &Question) -> Option<Relayed> {
    let end = question.end();
    let mut parts = Parts::default();
    let counts = [u16_at(packet, 6)?, u16_at(packet, 8)?, u16_at(packet, 10)?];
    let (mut at, mut kept, mut cut) = (end, counts, None);
    for (section, count) in counts.into_iter().enumerate() {
        for number in 0..count {
            let found = record(packet, at)?;
            at = found.end;
            if found.kind == kind::OPT && section == 2 {
                // It is the last record but for signatures of the message, which are not for the client either.
                cut = cut.or(Some((found.start, number)));
                parts.high_code = parts.high_code.or(Some(found.ttl >> 24));
            } else if cut.is_none() {
                parts.add(packet, &found, section, question.kind);
            }
        }
    }
    let end = cut.map_or(at, |(start, number)| {
        kept[2] = number;
        start
    });
    let mut stripped = packet[..end].to_vec();
    stripped[10..HEADER].copy_from_slice(&kept[2].to_be_bytes());
    let low = u16::from(packet[3] & flag::CODE);
    let code = u16::try_from(parts.high_code.unwrap_or(0)).unwrap_or(0) << 4 | low;
    let truncated = packet[2] & flag::TRUNCATED != 0;
    Some(Relayed {
        packet: stripped.into(),
        keep: parts.keep(code).filter(|_| !truncated),
        ttls: parts.ttls.into(),
        code,
        truncated,
    })
}

/// What is learnt from the records of an answer.
#[derive(Default)]
struct Parts {
    ttls: Vec<u16>,
    least: Option<u32>,
    /// There is a record of the type asked for.
    answered: bool,
    /// How long the absence of one holds.
    absence: Option<u32>,
    high_code: Option<u32>,
}

impl Parts {
    fn add(&mut self, packet: &[u8], found: &super::Found, section: usize, asked: u16) {
        let Ok(at) = u16::try_from(found.ttl_at) else {
            return; // no packet is as long
        };
        self.ttls.push(at);
        // The highest bit makes it 0 (RFC 2181 §8).
        let ttl = if found.ttl >> 31 == 0 { found.ttl } else { 0 };
        self.least = Some(self.least.map_or(ttl, |least| least.min(ttl)));
        match section {
            0 => self.answered |= asked == kind::ANY || found.kind == asked,
            1 if found.kind == kind::SOA && found.end - found.data >= 22 => {
                let minimum = super::u32_at(packet, found.end - 4).unwrap_or(0);
                self.absence = Some(minimum.min(ttl));
            }
            _ => {}
        }
    }

    fn keep(&self, code: u16) -> Option<u32> {
        let least = self.least?;
        let ttl = match code {
            code::OK if self.answered => least.min(LONGEST),
            // An absence without an authority is not kept (RFC 2308 §5).
            code::OK | code::NO_NAME => least.min(self.absence?).min(LONGEST_ABSENCE),
            _ => return None,
        };
        Some(ttl).filter(|ttl| *ttl > 0)
    }
}
