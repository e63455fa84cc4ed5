//! DNS messages (RFC 1035, EDNS: RFC 6891): reading what clients ask, making what they are answered. Pure.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The length of the header.
pub const HEADER: usize = 12;
/// What fits into an answer by UDP for a client that says nothing of EDNS.
const PLAIN_UDP: u16 = 512;
/// The most sent by UDP whatever the client says.
const LARGEST_UDP: u16 = 4096;
/// What we say we take by UDP: fits into one frame everywhere (the value of the DNS flag day 2020).
const OUR_UDP: u16 = 1232;
/// Seconds others may keep an answer of ours: none, an address may be somebody else's a second later.
const TTL: u32 = 0;

/// A question that was understood.
#[derive(Debug)]
pub struct Question {
    head: Message,
    /// Lower case, without a dot at the end.
    pub name: String,
    pub kind: RecordType,
    /// The most the client takes by UDP.
    pub udp_size: usize,
    /// Where the question ends in the packet.
    pub end: usize,
}

/// What a packet turned out to be.
#[derive(Debug)]
pub enum Read {
    Question(Question),
    /// A query that is not served, with what is sent back.
    Refused(Vec<u8>),
    /// Nothing that deserves an answer.
    Noise,
}

/// The content of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    Addresses(&'a [Ipv4Addr]),
    Pointer(&'a str),
    /// The name exists, but has no record of that type.
    NoData,
    NoName,
    Failed,
    Refused,
}

/// Reads a client's packet.
pub fn read(packet: &[u8]) -> Read {
    if packet.len() < HEADER || is_response(packet) {
        return Read::Noise;
    }
    let Ok(message) = Message::from_vec(packet) else {
        return Read::Noise;
    };
    let refuse = |code| plain(&message, code).map_or(Read::Noise, Read::Refused);
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let ([query], Some(end)) = (message.queries.as_slice(), question_end(packet)) else {
        return refuse(ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    let mut name = query.name().to_lowercase().to_ascii();
    if name.ends_with('.') {
        name.pop();
    }
    let kind = query.query_type();
    let says = message.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
    Read::Question(Question {
        name,
        kind,
        udp_size: says.clamp(PLAIN_UDP, LARGEST_UDP).into(),
        end,
        head: message,
    })
}

/// An answer without content.
fn plain(to: &Message, code: ResponseCode) -> Option<Vec<u8>> {
    let mut reply = Message::error_msg(to.metadata.id, to.metadata.op_code, code);
    reply.metadata.recursion_desired = to.metadata.recursion_desired;
    reply.to_vec().ok()
}

impl Question {
    fn query(&self) -> &Query {
        &self.head.queries[0]
    }

    /// The answer as it is sent; `recursion`: whether the client may ask for foreign names. `limit`: the most it may
    /// take, none over TCP. None where it cannot be written as DNS.
    pub fn answer(&self, answer: Answer<'_>, recursion: bool, limit: Option<usize>) -> Option<Vec<u8>> {
        let mut reply = self.reply(recursion);
        let head = &mut reply.metadata;
        head.authoritative = !matches!(answer, Answer::Failed | Answer::Refused);
        head.response_code = match answer {
            Answer::NoName => ResponseCode::NXDomain,
            Answer::Failed => ResponseCode::ServFail,
            Answer::Refused => ResponseCode::Refused,
            _ => ResponseCode::NoError,
        };
        match answer {
            Answer::Addresses(all) => {
                reply.add_answers(all.iter().map(|a| self.record(RData::A(A(*a)))));
            }
            Answer::Pointer(name) => {
                let mut name = Name::from_ascii(name).ok()?;
                name.set_fqdn(true);
                reply.add_answer(self.record(RData::PTR(PTR(name))));
            }
            // Who asks must not take the absence of one name for the absence of others: the zone is the name itself,
            // or, where there is no such name, the root.
            Answer::NoData => drop(reply.add_authority(authority(self.query().name().clone())?)),
            Answer::NoName => drop(reply.add_authority(authority(Name::root())?)),
            Answer::Failed | Answer::Refused => {}
        }
        let whole = reply.to_vec().ok()?;
        if limit.is_some_and(|limit| whole.len() > limit) {
            return reply.truncate().to_vec().ok();
        }
        Some(whole)
    }

    /// What a client gets by UDP where the answer is too large: that there is one, to be asked for by TCP.
    pub fn truncated(&self, code: u8) -> Option<Vec<u8>> {
        let mut reply = self.reply(true);
        reply.metadata.response_code = ResponseCode::from(0, code);
        reply.truncate().to_vec().ok()
    }

    fn reply(&self, recursion: bool) -> Message {
        let asked = &self.head.metadata;
        let mut reply = Message::new(asked.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.checking_disabled = asked.checking_disabled;
        reply.metadata.recursion_available = recursion;
        reply.add_query(self.query().clone());
        if let Some(theirs) = &self.head.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_UDP);
            edns.set_dnssec_ok(theirs.flags().dnssec_ok);
            reply.set_edns(edns);
        }
        reply
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.query().name().clone(), TTL, data)
    }
}

fn authority(zone: Name) -> Option<Record> {
    let server = Name::from_ascii("wharf.").ok()?;
    let soa = SOA::new(server, Name::root(), 1, 3600, 600, 86400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

/// The packet's id.
pub fn id(packet: &[u8]) -> u16 {
    packet.first_chunk().map_or(0, |id| u16::from_be_bytes(*id))
}

/// The packet with another id.
pub fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(first) = packet.first_chunk_mut() {
        *first = id.to_be_bytes();
    }
    packet
}

/// The response code in a packet's header.
pub fn code(packet: &[u8]) -> u8 {
    packet.get(3).map_or(0, |b| b & 0x0f)
}

fn is_response(packet: &[u8]) -> bool {
    packet[2] & 0x80 != 0
}

/// How a packet relates to a question that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Answers,
    /// A complaint that leaves the question out.
    Complains,
    Unrelated,
}

/// Whether a packet answers the question sent (`question`: a query up to the end of its question) with that id.
pub fn matches(packet: &[u8], id: u16, question: &[u8]) -> Match {
    if packet.len() < HEADER || !is_response(packet) || self::id(packet) != id {
        return Match::Unrelated;
    }
    let count = u16::from_be_bytes([packet[4], packet[5]]);
    if count == 0 && code(packet) != 0 {
        return Match::Complains;
    }
    let (Some(theirs), Some(ours)) = (packet.get(HEADER..question.len()), question.get(HEADER..)) else {
        return Match::Unrelated;
    };
    // The name in whatever case; type and class as they are.
    let split = ours.len().saturating_sub(4);
    let same = theirs[..split].eq_ignore_ascii_case(&ours[..split]) && theirs[split..] == ours[split..];
    if count == 1 && same {
        Match::Answers
    } else {
        Match::Unrelated
    }
}

/// Where the first question ends; none where it is not written out plainly (RFC 1035 §4.1.2).
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *packet.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 1 + 4;
    (end <= packet.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn question(message: &Message) -> Question {
        match read(&message.to_vec().unwrap()) {
            Read::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_read_in_lower_case_without_the_last_dot() {
        for (name, read) in [("Web", "web"), ("WEB.", "web"), ("a.B.c.", "a.b.c"), (".", "")] {
            assert_eq!(question(&query(name, RecordType::A)).name, read);
        }
    }

    #[test]
    fn an_answer_repeats_the_question_and_says_what_is_known() {
        let asked = query("Web.", RecordType::A);
        let addresses = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
        let bytes = question(&asked)
            .answer(Answer::Addresses(&addresses), true, Some(512))
            .unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.id, 77);
        assert!(
            reply.metadata.authoritative
                && reply.metadata.recursion_available
                && reply.metadata.recursion_desired
        );
        assert_eq!(reply.queries, asked.queries);
        assert_eq!(reply.answers.len(), 2);
        assert!(
            reply
                .answers
                .iter()
                .all(|r| r.ttl == 0 && r.name == *asked.queries[0].name())
        );
        assert!(reply.edns.is_none());
        assert_eq!(matches(&bytes, 77, &asked.to_vec().unwrap()), Match::Answers);
    }

    #[test]
    fn absence_comes_with_an_authority() {
        for (answer, code) in [
            (Answer::NoData, ResponseCode::NoError),
            (Answer::NoName, ResponseCode::NXDomain),
        ] {
            let bytes = question(&query("web", RecordType::AAAA))
                .answer(answer, true, None)
                .unwrap();
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(reply.metadata.response_code, code);
            assert!(reply.answers.is_empty());
            assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        }
    }

    #[test]
    fn what_does_not_fit_is_truncated_and_edns_makes_room() {
        let all: Vec<Ipv4Addr> = (1..=60).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
        let mut asked = query("web", RecordType::A);
        let small = question(&asked);
        let bytes = small
            .answer(Answer::Addresses(&all), true, Some(small.udp_size))
            .unwrap();
        assert!(Message::from_vec(&bytes).unwrap().metadata.truncation && bytes.len() <= 512);
        let whole = small.answer(Answer::Addresses(&all), true, None).unwrap();
        assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 60);
        let mut edns = Edns::new();
        edns.set_max_payload(1400);
        asked.set_edns(edns);
        let large = question(&asked);
        let bytes = large
            .answer(Answer::Addresses(&all), true, Some(large.udp_size))
            .unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.answers.len(), reply.metadata.truncation), (60, false));
        assert!(reply.edns.is_some());
    }

    #[test]
    fn only_plain_questions_of_the_internet_class_are_served() {
        let code = |message: &Message| match read(&message.to_vec().unwrap()) {
            Read::Refused(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        };
        let mut two = query("a", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b").unwrap(), RecordType::A));
        assert_eq!(code(&two), ResponseCode::FormErr);
        assert_eq!(
            code(&Message::new(1, MessageType::Query, OpCode::Query)),
            ResponseCode::FormErr
        );
        let mut chaos = query("version.bind", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut status = query("a", RecordType::A);
        status.metadata.op_code = OpCode::Status;
        assert_eq!(code(&status), ResponseCode::NotImp);
        let reply = Message::new(1, MessageType::Response, OpCode::Query)
            .to_vec()
            .unwrap();
        assert!(matches!(read(&reply), Read::Noise));
    }

    #[test]
    fn an_answer_must_have_the_id_and_the_question() {
        let asked = query("www.example.com", RecordType::A).to_vec().unwrap();
        let mut reply = Message::from_vec(&asked).unwrap().into_response();
        assert_eq!(matches(&reply.to_vec().unwrap(), 77, &asked), Match::Answers);
        assert_eq!(matches(&reply.to_vec().unwrap(), 78, &asked), Match::Unrelated);
        assert_eq!(matches(&asked, 77, &asked), Match::Unrelated);
        reply.queries[0].set_query_type(RecordType::AAAA);
        assert_eq!(matches(&reply.to_vec().unwrap(), 77, &asked), Match::Unrelated);
        reply.queries[0] = Query::query(Name::from_ascii("WWW.Example.com").unwrap(), RecordType::A);
        assert_eq!(matches(&reply.to_vec().unwrap(), 77, &asked), Match::Answers);
        reply.queries[0] = Query::query(Name::from_ascii("www.example.org").unwrap(), RecordType::A);
        assert_eq!(matches(&reply.to_vec().unwrap(), 77, &asked), Match::Unrelated);
        reply.queries.clear();
        assert_eq!(matches(&reply.to_vec().unwrap(), 77, &asked), Match::Unrelated);
        reply.metadata.response_code = ResponseCode::Refused;
        assert_eq!(matches(&reply.to_vec().unwrap(), 77, &asked), Match::Complains);
    }

    proptest! {
        #[test]
        fn noise_is_survived(packet in proptest::collection::vec(any::<u8>(), 0..600), id in any::<u16>()) {
            if let Read::Question(question) = read(&packet) {
                prop_assert!(question.end <= packet.len());
                question.answer(Answer::NoData, true, Some(question.udp_size));
                question.truncated(code(&packet));
            }
            matches(&packet, id, &query("a.b", RecordType::A).to_vec().unwrap());
        }

        /// A good query with some bytes changed gets further into the reader than pure noise.
        #[test]
        fn damage_is_survived(at in proptest::collection::vec((0_usize..64, any::<u8>()), 1..6), cut in 0_usize..64) {
            let mut asked = query("some.name.example", RecordType::A);
            asked.set_edns(Edns::new());
            let mut packet = asked.to_vec().unwrap();
            for (at, value) in at {
                let length = packet.len();
                packet[at % length] = value;
            }
            packet.truncate(packet.len() - cut % packet.len());
            if let Read::Question(question) = read(&packet) {
                prop_assert!(question.end <= packet.len());
                prop_assert!(question.answer(Answer::NoName, false, Some(question.udp_size)).is_some());
            }
        }
    }
}
