//! Hostile packets: whatever is read, nothing panics, takes more than a bounded time or writes more than was allowed. The
//! seed is printed; `WHARF_FUZZ_SEED` sets it, `WHARF_FUZZ_ROUNDS` the number of packets.

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name as TheirName, RData, Record, RecordType};

use super::tests::{query, question, with_edns};
use super::*;

/// A generator of Marsaglia's xorshift kind.
struct Random(u64);

impl Random {
    fn from_environment() -> Self {
        let number = |key: &str| std::env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
        let clock = || {
            std::time::UNIX_EPOCH
                .elapsed()
                .map_or(7, |t| u64::from(t.subsec_nanos()))
        };
        let seed = number("WHARF_FUZZ_SEED").unwrap_or_else(clock);
        println!("WHARF_FUZZ_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.below(256).to_be_bytes()[7]
    }

    /// Bytes that mean something in a message.
    fn telling(&mut self) -> u8 {
        [0, 1, 12, 28, 41, 63, 64, 0x80, 0xc0, 0xff][self.below(10)]
    }

    fn name(&mut self) -> String {
        let labels: Vec<String> = (0..=self.below(4))
            .map(|_| {
                (0..=self.below(12))
                    .map(|_| char::from(b'a' + self.byte() % 26))
                    .collect()
            })
            .collect();
        labels.join(".") + "."
    }
}

fn rounds() -> usize {
    let text = std::env::var("WHARF_FUZZ_ROUNDS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// A message with some of all there is.
fn message(random: &mut Random) -> Message {
    let kind = [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::TXT][random.below(4)];
    let mut message = query(&random.name(), kind);
    if random.below(2) == 0 {
        message = with_edns(message, u16::from(random.byte()) << 8, random.below(2) == 0);
    }
    for _ in 0..random.below(4) {
        let name = TheirName::from_ascii(random.name()).unwrap();
        let data = RData::A(A([random.byte(), 2, 3, 4].into()));
        let record = Record::from_rdata(name, 60, data);
        match random.below(3) {
            0 => message.add_answer(record),
            1 => message.add_authority(record),
            _ => message.add_additional(record),
        };
    }
    message
}

fn damage(random: &mut Random, packet: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        let at = random.below(packet.len());
        match random.below(5) {
            0 => packet[at] = random.byte(),
            1 => packet[at] = random.telling(),
            2 => packet.truncate(at.max(1)),
            3 => packet.insert(at, random.telling()),
            _ => packet[at] ^= 1 << random.below(8),
        }
    }
}

#[test]
fn hostile_questions_do_no_harm() {
    let mut random = Random::from_environment();
    let mut out = Vec::new();
    let all: Vec<std::net::IpAddr> = (0..200).map(|n| [10, 0, 0, n].into()).collect();
    for _ in 0..rounds() {
        let mut packet = message(&mut random).to_vec().unwrap();
        if random.below(8) == 0 {
            packet = (0..random.below(700)).map(|_| random.telling()).collect();
        }
        if !packet.is_empty() {
            damage(&mut random, &mut packet);
        }
        match read(&packet) {
            Read::Question(question) => {
                assert!(question.end() <= packet.len());
                let limit = question.udp_size;
                assert!((512..=4096).contains(&limit));
                for answer in [
                    Answer::NoData,
                    Answer::NoName,
                    Answer::Addresses(&all),
                    Answer::Pointer(question.name.as_bytes()),
                ] {
                    question.answer(answer, true, limit, &mut out);
                    assert!(out.len() <= limit);
                    let reply = Message::from_vec(&out).unwrap();
                    assert_eq!(reply.metadata.id, question.id);
                    assert_eq!(out[HEADER..question.end()], packet[HEADER..question.end()]);
                }
                let case = [random.byte(); 32];
                let (asked, sent) = ask(&question, 7, Some(&case), true);
                assert!(asked.len() <= HEADER + 255 + 4 + 11);
                assert_eq!(Message::from_vec(&asked).unwrap().queries.len(), 1);
                assert_eq!(matches(&packet, &sent), Match::Unrelated);
            }
            Read::Refused(reply) => {
                assert!(
                    reply.len() <= packet.len().max(HEADER) + 11,
                    "it makes no more of it"
                );
                Message::from_vec(&reply).unwrap();
            }
            Read::Noise => assert!(packet.len() < HEADER || packet[2] & 0x80 != 0),
        }
    }
}

#[test]
fn hostile_answers_do_no_harm() {
    let mut random = Random::from_environment();
    let mut out = Vec::new();
    let mut passed = 0;
    for _ in 0..rounds() {
        let reply = message(&mut random).into_response();
        let query = query(&reply.queries[0].name().to_ascii(), reply.queries[0].query_type());
        let asked = question(&query);
        let mut packet = reply.to_vec().unwrap();
        damage(&mut random, &mut packet);
        let (_, sent) = ask(&asked, 77, None, true);
        if matches(&packet, &sent) != Match::Answers {
            continue;
        }
        if let Some(relayed) = examine(&packet, &asked) {
            passed += 1;
            assert!(relayed.size() <= 3 * packet.len() + 200);
            assert!(relayed.keep.is_none_or(|seconds| (1..=86_400).contains(&seconds)));
            for limit in [512, LARGEST] {
                relayed.answer(&asked, u32::from(random.byte()), limit, &mut out);
                assert!(
                    out.len() <= limit
                        && matches(&out, &ask(&asked, asked.id, None, true).1) == Match::Answers
                );
                assert!(examine(&out, &asked).is_some());
            }
        }
    }
    assert!(passed > rounds() / 20, "{passed} of {} got through", rounds());
}

/// The reader of others agrees on what is a good question.
#[test]
fn good_questions_are_read_as_others_read_them() {
    let mut random = Random::from_environment();
    for _ in 0..rounds() / 10 {
        let packet = message(&mut random).to_vec().unwrap();
        let theirs = Message::from_vec(&packet).unwrap();
        let Read::Question(ours) = read(&packet) else {
            panic!("{theirs:?}");
        };
        let name = theirs.queries[0].name().to_lowercase().to_ascii();
        assert_eq!(Some(ours.name.as_bytes()), name::from_text(&name).as_deref());
        assert_eq!(ours.kind, u16::from(theirs.queries[0].query_type()));
        let size = theirs
            .edns
            .as_ref()
            .map_or(512, hickory_proto::op::Edns::max_payload);
        assert_eq!(ours.udp_size, usize::from(size.clamp(512, 4096)));
    }
}

/// The worst there is for a reader: as many records and as long names as fit, each referring to the one before.
#[test]
fn the_worst_packet_takes_no_time() {
    let mut packet = query("www.example.com.", RecordType::A).to_vec().unwrap();
    packet[2] |= 0x80;
    packet[6..12].fill(0xff);
    while packet.len() < LARGEST - 40 {
        let at = u16::try_from(packet.len()).unwrap();
        packet.extend([1, b'x']);
        packet.extend((0xc000 | at.saturating_sub(2).min(0x3fff)).to_be_bytes());
        packet.extend([0, 1, 0, 1, 0, 0, 0, 9, 0, 0]);
    }
    let asked = question(&query("www.example.com.", RecordType::A));
    for _ in 0..1000 {
        assert!(
            examine(&packet, &asked).is_none(),
            "it promises more than there is"
        );
    }
    packet[2] &= 0x7f;
    for _ in 0..1000 {
        assert!(matches!(read(&packet), Read::Refused(_)));
    }
}
