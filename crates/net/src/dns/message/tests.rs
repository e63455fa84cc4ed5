use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns as TheirEdns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name as TheirName, RData, Record, RecordType};

use super::*;

pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(TheirName::from_ascii(name).unwrap(), kind));
    message
}

pub fn with_edns(mut message: Message, size: u16, dnssec_ok: bool) -> Message {
    let mut edns = TheirEdns::new();
    edns.set_max_payload(size);
    edns.set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    message
}

pub fn question(message: &Message) -> Question {
    match read(&message.to_vec().unwrap()) {
        Read::Question(question) => question,
        other => panic!("{other:?}"),
    }
}

fn refused(packet: &[u8]) -> Message {
    match read(packet) {
        Read::Refused(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn answered(asked: &Message, answer: Answer<'_>, limit: usize) -> (Message, usize) {
    let mut out = Vec::new();
    question(asked).answer(answer, true, limit, &mut out);
    (Message::from_vec(&out).unwrap(), out.len())
}

#[test]
fn names_are_read_in_lower_case_and_answered_as_they_were_written() {
    for (name, lower) in [
        ("Web", &b"\x03web"[..]),
        ("WEB.", b"\x03web"),
        ("a.B.c.", b"\x01a\x01b\x01c"),
        (".", b""),
    ] {
        let asked = query(name, RecordType::A);
        assert_eq!(question(&asked).name.as_bytes(), lower);
        let (reply, _) = answered(&asked, Answer::NoName, 512);
        let text = reply.queries[0].name().to_ascii();
        assert_eq!(text.trim_end_matches('.'), name.trim_end_matches('.'));
    }
}

#[test]
fn an_answer_repeats_the_question_and_says_what_is_known() {
    let asked = query("Web.", RecordType::A);
    let addresses: [IpAddr; 3] = [
        Ipv4Addr::new(10, 0, 0, 2).into(),
        Ipv4Addr::new(10, 0, 0, 3).into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let (reply, _) = answered(&asked, Answer::Addresses(&addresses), 512);
    assert_eq!(reply.metadata.id, 77);
    let head = &reply.metadata;
    assert!(head.authoritative && head.recursion_available && head.recursion_desired && !head.truncation);
    assert_eq!(reply.queries, asked.queries);
    let said: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(said, ["10.0.0.2", "10.0.0.3", "::1"]);
    let same = |r: &Record| r.ttl == 0 && r.name == *asked.queries[0].name();
    assert!(reply.answers.iter().all(same) && reply.edns.is_none());
    let (reply, _) = answered(&asked, Answer::Pointer(b"\x02db\x01a"), 512);
    assert_eq!(reply.answers[0].data.to_string(), "db.a.");
}

/// RFC 2308: no record of that type and no such name are two things, each with an authority.
#[test]
fn absence_comes_with_an_authority() {
    for (answer, code, zone) in [
        (Answer::NoData, ResponseCode::NoError, "web."),
        (Answer::NoName, ResponseCode::NXDomain, "."),
    ] {
        let (reply, _) = answered(&query("web.", RecordType::AAAA), answer, 512);
        assert_eq!(reply.metadata.response_code, code);
        assert!(reply.answers.is_empty() && reply.metadata.authoritative);
        let authority = &reply.authorities[0];
        assert_eq!((authority.name.to_ascii().as_str(), authority.ttl), (zone, 0));
        let RData::SOA(soa) = &authority.data else {
            panic!("{authority:?}");
        };
        assert_eq!((soa.mname.to_ascii().as_str(), soa.minimum), ("wharf.", 0));
    }
    for (answer, code) in [
        (Answer::Failed, ResponseCode::ServFail),
        (Answer::Refused, ResponseCode::Refused),
    ] {
        let (reply, _) = answered(&query("web.", RecordType::A), answer, 512);
        assert_eq!(reply.metadata.response_code, code);
        assert!(reply.authorities.is_empty() && !reply.metadata.authoritative);
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_that_is_said() {
    let all: Vec<IpAddr> = (1..=60).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect();
    let answer = Answer::Addresses(&all);
    let plain = query("web", RecordType::A);
    let (reply, length) = answered(&plain, answer, question(&plain).udp_size);
    assert!(reply.metadata.truncation && length <= 512 && length > 480);
    assert_eq!(reply.answers.len(), 30, "some clients take what there is");
    let (reply, _) = answered(&plain, answer, LARGEST);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (60, false));
    for (size, whole) in [
        (0, false),
        (512, false),
        (900, false),
        (1400, true),
        (65535, true),
    ] {
        let asked = with_edns(query("web", RecordType::A), size, false);
        let limit = question(&asked).udp_size;
        assert_eq!(limit, usize::from(size.clamp(512, 4096)));
        let (reply, length) = answered(&asked, answer, limit);
        assert_eq!(reply.metadata.truncation, !whole, "{size}");
        assert!(length <= limit && reply.edns.is_some());
    }
    let many: Vec<IpAddr> = (0..6000_u32).map(|n| Ipv4Addr::from(n).into()).collect();
    let (reply, length) = answered(&plain, Answer::Addresses(&many), LARGEST);
    assert!(reply.metadata.truncation && length <= LARGEST && reply.answers.len() > 4000);
}

#[test]
fn who_speaks_edns_is_answered_in_it_and_unknown_options_are_passed_over() {
    let mut asked = with_edns(query("web", RecordType::A), 1400, true);
    let edns = asked.edns.as_mut().unwrap();
    edns.options_mut()
        .insert(EdnsOption::Unknown(65001, vec![1, 2, 3]));
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![7; 8]));
    let (reply, _) = answered(&asked, Answer::NoData, 512);
    let said = reply.edns.unwrap();
    assert_eq!((said.version(), said.max_payload()), (0, 1232));
    assert!(said.flags().dnssec_ok && said.options().as_ref().is_empty());
    // Options that are longer than their record, two sets of them, a name of its own: malformed.
    let plain = query("web", RecordType::A).to_vec().unwrap();
    let with = |records: &[&[u8]]| {
        let mut packet = plain.clone();
        packet[11] = u8::try_from(records.len()).unwrap();
        packet.extend(records.concat());
        packet
    };
    let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    assert!(matches!(read(&with(&[opt])), Read::Question(_)));
    for bad in [
        with(&[opt, opt]),
        with(&[b"\x01a\0\0\x29\x04\xd0\0\0\0\0\0\0"]),
        with(&[b"\0\0\x29\x04\xd0\0\0\0\0\0\x05\0\x0a\0\x02\0"]),
        with(&[b"\0\0\x29\x04\xd0\0\0\0\0\0\x03\0\x0a\0"]),
        with(&[b"\0\0\x29\x04\xd0\0\0\0\0\0\xff"]),
        with(&[&opt[..7]]),
        with(&[b""]),
    ] {
        assert_eq!(
            refused(&bad).metadata.response_code,
            ResponseCode::FormErr,
            "{bad:?}"
        );
    }
}

#[test]
fn an_unknown_version_of_edns_is_told_so() {
    let mut asked = with_edns(query("web.", RecordType::A), 1400, false);
    asked.edns.as_mut().unwrap().set_version(1);
    let reply = refused(&asked.to_vec().unwrap());
    let said = reply.edns.unwrap();
    assert_eq!(said.version(), 0);
    assert_eq!(u16::from(reply.metadata.response_code), 16, "BADVERS");
    assert_eq!(reply.queries, asked.queries);
}

#[test]
fn only_plain_questions_of_the_internet_class_are_served() {
    let code = |message: &Message| refused(&message.to_vec().unwrap()).metadata.response_code;
    let mut two = query("a", RecordType::A);
    two.add_query(Query::query(TheirName::from_ascii("b").unwrap(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let none = Message::new(1, MessageType::Query, OpCode::Query);
    assert_eq!(code(&none), ResponseCode::FormErr);
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
    for length in 0..HEADER {
        assert!(matches!(read(&vec![0; length]), Read::Noise));
    }
    // A name that refers to itself, and one that is cut short.
    for rest in [&b"\xc0\x0c\0\x01\0\x01"[..], b"\x03we", b"\x03web\0\0\x01"] {
        let packet = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], rest].concat();
        assert_eq!(refused(&packet).metadata.response_code, ResponseCode::FormErr);
    }
}

#[test]
fn what_others_are_asked_is_the_question_alone() {
    let mut asked = with_edns(query("Www.Example.com", RecordType::AAAA), 4096, true);
    asked.metadata.checking_disabled = true;
    asked
        .edns
        .as_mut()
        .unwrap()
        .options_mut()
        .insert(EdnsOption::Unknown(8, vec![0, 1, 24, 0, 10, 1, 2]));
    let (packet, sent) = ask(&question(&asked), 4711, None, true);
    let message = Message::from_vec(&packet).unwrap();
    assert_eq!(message.metadata.id, 4711);
    assert!(message.metadata.recursion_desired && message.metadata.checking_disabled);
    assert_eq!(message.queries[0].name().to_ascii(), "www.example.com.");
    let edns = message.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.options().as_ref().len()), (1232, 0));
    assert!(edns.flags().dnssec_ok && sent.edns);
    let (packet, sent) = ask(&question(&asked), 1, None, false);
    assert!(Message::from_vec(&packet).unwrap().edns.is_none() && !sent.edns);
    let (packet, _) = ask(&question(&query("a.b", RecordType::A)), 1, None, true);
    assert!(
        Message::from_vec(&packet).unwrap().edns.is_none(),
        "as the client"
    );
}

#[test]
fn an_answer_must_have_the_id_and_the_question_in_the_letters_sent() {
    let asked = query("www.example.com", RecordType::A);
    let case = [0b1010_1010; 32];
    let (packet, sent) = ask(&question(&asked), 77, Some(&case), true);
    let mut reply = Message::from_vec(&packet).unwrap().into_response();
    let matched = |reply: &Message| matches(&reply.to_vec().unwrap(), &sent);
    assert_eq!(matched(&reply), Match::Answers);
    assert_eq!(
        matches(&packet, &sent),
        Match::Unrelated,
        "a question is no answer"
    );
    reply.metadata.id = 78;
    assert_eq!(matched(&reply), Match::Unrelated);
    reply.metadata.id = 77;
    let right = reply.queries[0].clone();
    reply.queries[0].set_query_type(RecordType::AAAA);
    assert_eq!(matched(&reply), Match::Unrelated);
    reply.queries[0] = right.clone();
    reply.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(matched(&reply), Match::Unrelated);
    for (name, expected) in [
        ("www.example.com", Match::OtherCase),
        ("www.example.org", Match::Unrelated),
        ("www.example.com.evil", Match::Unrelated),
    ] {
        reply.queries[0] = Query::query(TheirName::from_ascii(name).unwrap(), RecordType::A);
        assert_eq!(matched(&reply), expected, "{name}");
    }
    let (_, plain) = ask(&question(&asked), 77, None, true);
    reply.queries[0] = Query::query(TheirName::from_ascii("WWW.Example.com").unwrap(), RecordType::A);
    assert_eq!(matches(&reply.to_vec().unwrap(), &plain), Match::Answers);
    reply.queries.clear();
    assert_eq!(matched(&reply), Match::Unrelated);
    reply.metadata.response_code = ResponseCode::Refused;
    assert_eq!(matched(&reply), Match::Complains(5));
    for length in 0..packet.len() {
        assert_eq!(matches(&packet[..length], &sent), Match::Unrelated);
    }
}

fn address(ttl: u32, name: &str) -> Record {
    let name = TheirName::from_ascii(name).unwrap();
    Record::from_rdata(name, ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, 7))))
}

fn authority(ttl: u32, minimum: u32) -> Record {
    let name = |text| TheirName::from_ascii(text).unwrap();
    let soa = SOA::new(
        name("ns.example.com."),
        name("root.example.com."),
        1,
        2,
        3,
        4,
        minimum,
    );
    Record::from_rdata(name("example.com."), ttl, RData::SOA(soa))
}

fn examined(asked: &Message, reply: &Message) -> Relayed {
    examine(&reply.to_vec().unwrap(), &question(asked)).unwrap()
}

#[test]
fn an_answer_is_passed_on_with_the_time_it_has_left_and_without_their_edns() {
    let asked = with_edns(query("Www.example.com.", RecordType::A), 1400, false);
    let mut reply = with_edns(asked.clone().into_response(), 4096, false);
    reply.metadata.recursion_available = true;
    reply.metadata.authentic_data = true;
    reply
        .edns
        .as_mut()
        .unwrap()
        .options_mut()
        .insert(EdnsOption::Unknown(10, vec![7; 16]));
    reply.add_answers([address(300, "www.example.com."), address(100, "www.example.com.")]);
    reply.add_authority(authority(5000, 60));
    let relayed = examined(&asked, &reply);
    assert_eq!(
        (relayed.keep, relayed.code, relayed.truncated),
        (Some(100), 0, false)
    );
    let mut other = query("wWW.EXAMPLE.com.", RecordType::A);
    other.metadata.id = 5;
    for (client, edns) in [(other, false), (asked, true)] {
        let mut out = Vec::new();
        relayed.answer(&question(&client), 70, 512, &mut out);
        let told = Message::from_vec(&out).unwrap();
        assert_eq!(
            (told.metadata.id, &told.queries),
            (client.metadata.id, &client.queries)
        );
        assert!(
            told.metadata.recursion_available && told.metadata.authentic_data && !told.metadata.truncation
        );
        let ttls: Vec<u32> = told
            .answers
            .iter()
            .chain(&told.authorities)
            .map(|r| r.ttl)
            .collect();
        assert_eq!(ttls, [230, 30, 4930]);
        assert_eq!(
            told.edns.as_ref().map(|e| e.options().as_ref().len()),
            edns.then_some(0)
        );
    }
    // More than a client takes.
    reply.add_answers((0..40).map(|_| address(300, "www.example.com.")));
    let plain = query("www.example.com.", RecordType::A);
    let relayed = examined(&plain, &reply);
    let mut out = Vec::new();
    relayed.answer(&question(&plain), 0, 512, &mut out);
    let told = Message::from_vec(&out).unwrap();
    assert!(told.metadata.truncation && told.answers.is_empty() && out.len() <= 512);
    relayed.answer(&question(&plain), 1000, LARGEST, &mut out);
    assert!(
        Message::from_vec(&out)
            .unwrap()
            .answers
            .iter()
            .all(|r| r.ttl == 0)
    );
}

#[test]
fn what_may_be_kept_and_how_long() {
    let asked = query("www.example.com.", RecordType::A);
    let alias = || {
        let to = TheirName::from_ascii("web.example.com.").unwrap();
        let name = TheirName::from_ascii("www.example.com.").unwrap();
        Record::from_rdata(name, 30, RData::CNAME(CNAME(to)))
    };
    let keep = |change: &dyn Fn(&mut Message)| {
        let mut reply = asked.clone().into_response();
        change(&mut reply);
        examined(&asked, &reply).keep
    };
    assert_eq!(
        keep(&|r| {
            r.add_answer(address(60, "www.example.com."));
        }),
        Some(60)
    );
    assert_eq!(
        keep(&|r| {
            r.add_answer(address(0, "www.example.com."));
        }),
        None
    );
    assert_eq!(
        keep(&|r| {
            r.add_answer(address(1 << 30, "www.example.com."));
        }),
        Some(86_400)
    );
    assert_eq!(
        keep(&|r| {
            r.add_answer(address(1 << 31, "www.example.com."));
        }),
        None
    );
    let both = |r: &mut Message| {
        r.add_answers([alias(), address(60, "web.example.com.")]);
    };
    assert_eq!(keep(&both), Some(30));
    let truncated = |r: &mut Message| {
        r.add_answer(address(60, "www.example.com."));
        r.metadata.truncation = true;
    };
    assert_eq!(keep(&truncated), None);
    // Absence: the smaller of the authority's own time and its minimum.
    assert_eq!(
        keep(&|r| {
            r.add_authority(authority(900, 60));
        }),
        Some(60)
    );
    assert_eq!(
        keep(&|r| {
            r.add_authority(authority(50, 60));
        }),
        Some(50)
    );
    assert_eq!(
        keep(&|r| {
            r.add_authority(authority(1 << 30, 1 << 30));
        }),
        Some(10_800)
    );
    let no_name = |r: &mut Message| {
        r.metadata.response_code = ResponseCode::NXDomain;
        r.add_authority(authority(900, 60));
    };
    assert_eq!(keep(&no_name), Some(60));
    let leads_nowhere = |r: &mut Message| {
        r.add_answer(alias());
        r.add_authority(authority(900, 60));
    };
    assert_eq!(keep(&leads_nowhere), Some(30));
    assert_eq!(keep(&|_| ()), None, "without an authority");
    assert_eq!(keep(&|r| r.metadata.response_code = ResponseCode::NXDomain), None);
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let failed = |r: &mut Message| {
            r.metadata.response_code = code;
            r.add_authority(authority(900, 60));
        };
        assert_eq!(keep(&failed), None);
    }
}

#[test]
fn answers_that_are_not_whole_are_none() {
    let asked = query("www.example.com.", RecordType::A);
    let mut reply = asked.clone().into_response();
    reply.add_answer(address(60, "www.example.com."));
    let packet = reply.to_vec().unwrap();
    let question = question(&asked);
    assert!(examine(&packet, &question).is_some());
    for length in question.end()..packet.len() {
        assert!(examine(&packet[..length], &question).is_none(), "{length}");
    }
    // A name that leads to itself, or on and on.
    for pointer in [packet.len() - 16, 0x3fff] {
        let mut looped = packet.clone();
        let at = question.end();
        looped[at..at + 2].copy_from_slice(&(0xc000 | u16::try_from(pointer).unwrap()).to_be_bytes());
        assert!(examine(&looped, &question).is_none(), "{pointer}");
    }
}
