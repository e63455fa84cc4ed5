//! The name server and the world outside: what it asks of whom, what it believes, and what it keeps.
#![allow(clippy::unwrap_used)]

mod dnshost;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dnshost::{
    BOTH, Host, LONG, Upstream, Way, answer, ask, exchange, gateway, question, read_frame, says, told,
    udp_to, with_edns, write_frame,
};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, AAAA, TXT};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, Record};

const UP: &str = "192.0.2.53";
const SECOND: &str = "192.0.2.54";

/// With where it came from.
type Packet = (Vec<u8>, SocketAddr);

fn server() -> SocketAddr {
    SocketAddr::from((gateway("a"), 53))
}

/// A host with one network and these upstreams, and a container on it.
fn host(upstreams: &[&str]) -> (Host, dnshost::Space) {
    let mut host = Host::new(&["a"]);
    host.upstreams(upstreams);
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    (host, web)
}

/// A server that sends what it is told to, by UDP alone.
fn raw(host: &Host, ip: &str, mut reply: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) {
    let socket = host.space.run(|| UdpSocket::bind((ip, 53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            for packet in reply(&buffer[..count]) {
                let _ = socket.send_to(&packet, from);
            }
        }
    });
}

fn good(packet: &[u8], address: &str) -> Message {
    answer(
        &Message::from_vec(packet).unwrap(),
        ResponseCode::NoError,
        address,
        1,
    )
}

fn authority(minimum: u32) -> Record {
    let name = |text| Name::from_ascii(text).unwrap();
    let soa = SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name("example."), 300, RData::SOA(soa))
}

#[test]
fn what_was_answered_is_kept_as_long_as_it_holds() {
    let (host, web) = host(&[UP]);
    let upstream = Upstream::new(&host.space, UP, |to, _| {
        let name = to.queries[0].name().to_ascii().to_ascii_lowercase();
        Some(match name.as_str() {
            "gone.example." => {
                let mut reply = answer(to, ResponseCode::NXDomain, "0.0.0.0", 0);
                reply.add_authority(authority(600));
                reply
            }
            "vague.example." => answer(to, ResponseCode::NXDomain, "0.0.0.0", 0),
            "v4.example." if to.queries[0].query_type() == AAAA => {
                let mut reply = answer(to, ResponseCode::NoError, "0.0.0.0", 0);
                reply.add_authority(authority(600));
                reply
            }
            "failing.example." => answer(to, ResponseCode::ServFail, "0.0.0.0", 0),
            _ => answer(to, ResponseCode::NoError, "198.51.100.7", 2),
        })
    });
    for way in [Way::Udp, Way::Tcp, Way::Udp] {
        for (name, kind, expected) in [
            ("www.example.", A, "198.51.100.7 198.51.100.8"),
            ("WWW.example.", A, "198.51.100.7 198.51.100.8"),
            ("gone.example.", A, "no such name +soa"),
            ("v4.example.", AAAA, "nothing +soa"),
            ("vague.example.", A, "no such name"),
            ("failing.example.", A, "ServFail"),
        ] {
            assert_eq!(
                ask(&web, gateway("a"), way, name, kind),
                expected,
                "{name} {way:?}"
            );
        }
    }
    // An absence that nobody vouches for, and a failure, are asked for again: nothing else is.
    let again = ["vague.example.", "failing.example."];
    let asked = [
        &["www.example.", "gone.example.", "v4.example."][..],
        &again.repeat(3),
    ]
    .concat();
    assert_eq!(upstream.names(), asked);
    // Other types and wishes are other questions.
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "www.example.", TXT),
        "198.51.100.7 198.51.100.8"
    );
    assert_eq!(upstream.names(), [&asked[..], &["www.example."]].concat());
    // The time it has left is counted down.
    let end = Instant::now() + LONG;
    loop {
        let reply = web.run(|| exchange(&question("www.example.", A), Way::Udp, server()));
        let left: Vec<u32> = reply.answers.iter().map(|r| r.ttl).collect();
        assert!(left[0] == left[1] && left[0] <= 60);
        if left[0] < 60 {
            break;
        }
        assert!(Instant::now() < end, "still {left:?}");
    }
}

/// What others asked is for nobody who may not ask himself, and is not told to who only wants to know what is known.
#[test]
fn what_is_kept_is_no_way_around_what_is_forbidden() {
    let mut host = Host::new(&["a", "b"]);
    host.upstreams(&[UP]);
    let web = host.container("web", &[("a", 2, &[])]);
    let inner = host.container("inner", &[("b", 2, &[])]);
    host.state.networks.get_mut("b").unwrap().internal = true;
    host.apply();
    let upstream = Upstream::new(&host.space, UP, says("198.51.100.7"));
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "www.example", A), "198.51.100.7");
        assert_eq!(ask(&inner, gateway("b"), way, "www.example", A), "Refused");
        let mut snoop = question("www.example", A);
        snoop.metadata.recursion_desired = false;
        assert_eq!(web.run(|| told(&exchange(&snoop, way, server()))), "Refused");
    }
    assert_eq!(upstream.names(), ["www.example."]);
    // A name that becomes a container's is the container's at once; that it was is not remembered by others.
    host.name("www.example", "b", 9, &[]);
    host.apply();
    assert_eq!(ask(&inner, gateway("b"), Way::Udp, "www.example", A), "10.82.0.9");
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "www.example", A),
        "198.51.100.7"
    );
}

/// Records that come along with an answer answer nothing else.
#[test]
fn an_answer_says_nothing_of_other_names() {
    let (host, web) = host(&[UP]);
    let upstream = Upstream::new(&host.space, UP, |to, _| {
        let mut reply = answer(to, ResponseCode::NoError, "198.51.100.7", 1);
        let poison = |name| {
            let data = RData::A(hickory_proto::rr::rdata::A([6, 6, 6, 6].into()));
            Record::from_rdata(Name::from_ascii(name).unwrap(), 9999, data)
        };
        if to.queries[0]
            .name()
            .to_ascii()
            .eq_ignore_ascii_case("evil.example.")
        {
            reply.add_answer(poison("bank.example."));
            reply.add_authority(poison("bank.example."));
            reply.add_additional(poison("bank.example."));
        }
        Some(reply)
    });
    for way in BOTH {
        ask(&web, gateway("a"), way, "evil.example", A);
        assert_eq!(ask(&web, gateway("a"), way, "bank.example", A), "198.51.100.7");
    }
    assert_eq!(upstream.names(), ["evil.example.", "bank.example."]);
}

/// From another address, for another question, with another id, with another case, or not an answer at all.
#[test]
fn answers_from_elsewhere_are_not_believed() {
    let (host, web) = host(&[UP]);
    host.space.sh(&format!("ip addr add {SECOND}/32 dev lo"));
    let liar = host.space.run(|| UdpSocket::bind((SECOND, 0)).unwrap());
    let socket = host.space.run(|| UdpSocket::bind((UP, 53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let asked = Message::from_vec(&buffer[..count]).unwrap();
            let forged = answer(&asked, ResponseCode::NoError, "6.6.6.6", 1);
            let _ = liar.send_to(&forged.to_vec().unwrap(), from);
            for change in 0..4 {
                let mut packet = forged.to_vec().unwrap();
                match change {
                    0 => packet[0] ^= 1,
                    1 => packet[13] ^= 1,
                    2 => packet.truncate(20),
                    _ => packet.clear(),
                }
                let _ = socket.send_to(&packet, from);
            }
            let reply = answer(&asked, ResponseCode::NoError, "198.51.100.1", 1);
            let _ = socket.send_to(&reply.to_vec().unwrap(), from);
        }
    });
    for n in 0..8 {
        let name = format!("n{n}.example");
        assert_eq!(ask(&web, gateway("a"), Way::Udp, &name, A), "198.51.100.1");
    }
}

/// Who guesses ids finds that the question is asked by TCP meanwhile.
#[test]
fn guesses_make_it_ask_by_tcp() {
    let (host, web) = host(&[UP]);
    let listener = host.space.run(|| std::net::TcpListener::bind((UP, 53)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while let Ok(packet) = read_frame(&mut stream) {
                write_frame(&mut stream, &good(&packet, "198.51.100.1").to_vec().unwrap());
            }
        }
    });
    raw(&host, UP, |packet| {
        let forged = good(packet, "6.6.6.6").to_vec().unwrap();
        let guess = |n: u8| {
            let mut guess = forged.clone();
            guess[1] = guess[1].wrapping_add(1 + n);
            guess
        };
        (0..60).map(guess).collect()
    });
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "www.example", A),
        "198.51.100.1"
    );
}

/// The letters of a name go out in upper and lower case by lot; servers that return it otherwise are served too.
#[test]
fn letters_are_drawn_by_lot_and_servers_that_fold_them_still_serve() {
    let (host, web) = host(&[UP]);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    raw(&host, UP, move |packet| {
        let asked = Message::from_vec(packet).unwrap();
        log.lock().unwrap().push(asked.queries[0].name().to_ascii());
        let mut reply = good(packet, "198.51.100.1");
        let lower = reply.queries[0].name().to_lowercase();
        reply.queries[0].set_name(lower.clone());
        reply.answers[0].name = lower;
        vec![reply.to_vec().unwrap()]
    });
    let name = "a-long-name-with-many-letters.example";
    assert_eq!(ask(&web, gateway("a"), Way::Udp, name, A), "198.51.100.1");
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, &format!("another.{name}"), A),
        "198.51.100.1"
    );
    let seen = seen.lock().unwrap();
    let folded = |text: &String| *text == text.to_ascii_lowercase();
    assert!(!folded(&seen[0]), "{seen:?}");
    // A busy machine makes for repetitions of the first question too.
    let (_, second) = seen.split_at(
        seen.iter()
            .position(|name| name.to_ascii_lowercase().starts_with("another."))
            .unwrap(),
    );
    assert!(second.iter().all(folded), "it is remembered: {seen:?}");
}

#[test]
fn servers_that_do_not_speak_edns_are_asked_without() {
    let (host, web) = host(&[UP]);
    let asked: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let log = asked.clone();
    let _upstream = Upstream::new(&host.space, UP, move |to, _| {
        let name = to.queries[0].name().to_ascii().to_ascii_lowercase();
        log.lock().unwrap().push((name, to.edns.is_some()));
        Some(match to.edns {
            Some(_) => {
                let mut reply = answer(to, ResponseCode::FormErr, "0.0.0.0", 0);
                reply.edns = None;
                reply
            }
            None => answer(to, ResponseCode::NoError, "198.51.100.1", 1),
        })
    });
    for name in ["one.example", "two.example"] {
        let message = with_edns(question(name, A), 1232);
        let reply = web.run(|| exchange(&message, Way::Udp, server()));
        assert_eq!(
            (told(&reply).as_str(), reply.edns.is_some()),
            ("198.51.100.1", true)
        );
    }
    let mut asked = asked.lock().unwrap();
    asked.dedup();
    let expected = [
        ("one.example.", true),
        ("one.example.", false),
        ("two.example.", false),
    ];
    assert_eq!(*asked, expected.map(|(name, edns)| (name.to_owned(), edns)));
}

/// Options are for the next hop: none goes out, none comes back; a version nobody knows is told so.
#[test]
fn what_is_said_in_edns_ends_here() {
    let (host, web) = host(&[UP]);
    let _upstream = Upstream::new(&host.space, UP, |to, _| {
        let edns = to.edns.as_ref().unwrap();
        let clean = edns.options().as_ref().is_empty() && edns.max_payload() == 1232;
        let address = if clean { "198.51.100.1" } else { "6.6.6.6" };
        let mut reply = with_edns(answer(to, ResponseCode::NoError, address, 1), 512);
        let options = reply.edns.as_mut().unwrap().options_mut();
        options.insert(EdnsOption::Unknown(10, vec![9; 16]));
        Some(reply)
    });
    let mut message = with_edns(question("www.example", A), 4000);
    let options = message.edns.as_mut().unwrap().options_mut();
    options.insert(EdnsOption::Unknown(8, vec![0, 1, 24, 0, 10, 81, 0]));
    options.insert(EdnsOption::Unknown(65001, vec![1; 40]));
    for way in BOTH {
        let reply = web.run(|| exchange(&message, way, server()));
        assert_eq!(told(&reply), "198.51.100.1");
        assert!(reply.edns.unwrap().options().as_ref().is_empty());
    }
    message.edns.as_mut().unwrap().set_version(7);
    for way in BOTH {
        let reply = web.run(|| exchange(&message, way, server()));
        assert_eq!(u16::from(reply.metadata.response_code), 16, "BADVERS");
        assert_eq!(reply.edns.unwrap().version(), 0);
    }
}

/// One that does not help is asked after the others from then on; each kind of failure.
#[test]
fn the_server_that_helps_is_remembered() {
    for case in ["silent", "servfail", "garbage", "closed"] {
        let (host, web) = host(&[UP, SECOND]);
        let asked: Arc<Mutex<usize>> = Arc::default();
        let count = asked.clone();
        let reply = move |packet: &[u8]| {
            *count.lock().unwrap() += 1;
            let message = Message::from_vec(packet).unwrap();
            match case {
                "servfail" => vec![
                    answer(&message, ResponseCode::ServFail, "0.0.0.0", 0)
                        .to_vec()
                        .unwrap(),
                ],
                "garbage" => {
                    // An answer whose record's name leads to itself.
                    let mut packet = good(packet, "6.6.6.6").to_vec().unwrap();
                    let at = packet.len() - 16;
                    packet[at..at + 2].copy_from_slice(&(0xc000 | u16::try_from(at).unwrap()).to_be_bytes());
                    vec![packet]
                }
                _ => Vec::new(),
            }
        };
        if case != "closed" {
            raw(&host, UP, reply);
        }
        let helpful = Upstream::new(&host.space, SECOND, says("198.51.100.8"));
        for n in 0..40 {
            let name = format!("n{n}.example");
            assert_eq!(
                ask(&web, gateway("a"), Way::Udp, &name, A),
                "198.51.100.8",
                "{case}"
            );
        }
        assert!(helpful.names().len() == 40, "{case}");
        let asked = *asked.lock().unwrap();
        // It is tried again after ten seconds and more, which a busy machine may take.
        assert!(asked <= 12, "{case}: asked {asked} times");
        assert_eq!(asked == 0, case == "closed", "{case}");
    }
}

/// What several ask at the same time is asked once, and each gets an answer of his own.
#[test]
fn one_question_of_many_is_asked_once() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let all: Vec<_> = (2..6)
        .map(|n| host.container(&format!("c{n}"), &[("a", n, &[])]))
        .collect();
    host.apply();
    let (tell, told_to) = std::sync::mpsc::channel::<()>();
    let socket = host.space.run(|| UdpSocket::bind((UP, 53)).unwrap());
    let asked: Arc<Mutex<Vec<Packet>>> = Arc::default();
    let log = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(20)))
            .unwrap();
        loop {
            if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                log.lock().unwrap().push((buffer[..count].to_vec(), from));
            }
            // All have asked: now it answers what came.
            if told_to.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty) {
                break;
            }
        }
        for (packet, from) in log.lock().unwrap().iter() {
            let _ = socket.send_to(&good(packet, "198.51.100.1").to_vec().unwrap(), *from);
        }
    });
    let sockets: Vec<UdpSocket> = all.iter().map(|c| c.run(|| udp_to(server()))).collect();
    for (n, socket) in sockets.iter().enumerate() {
        let mut message = question("www.example", A);
        message.metadata.id = 100 + u16::try_from(n).unwrap();
        socket.send(&message.to_vec().unwrap()).unwrap();
    }
    // A question of ours goes behind theirs: when that is answered, theirs were read.
    assert_eq!(ask(&all[0], gateway("a"), Way::Udp, "c3", A), "10.81.0.3");
    let until = Instant::now() + LONG;
    while asked.lock().unwrap().is_empty() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    tell.send(()).unwrap();
    for (n, socket) in sockets.iter().enumerate() {
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        let reply = Message::from_vec(&buffer[..count]).unwrap();
        assert_eq!(usize::from(reply.metadata.id), 100 + n);
        assert_eq!(told(&reply), "198.51.100.1");
    }
    // A very busy machine makes it repeat the question once.
    assert!(
        asked.lock().unwrap().len() <= 2,
        "{}",
        asked.lock().unwrap().len()
    );
}

/// Lengths that mean nothing, and connections that say nothing more, by TCP.
#[test]
fn strange_connections_do_no_harm() {
    let (host, web) = host(&[UP]);
    let pid = host.pid();
    web.run(|| {
        use std::io::{Read, Write};
        for bytes in [
            &[0, 0][..],
            &[0, 1, 7],
            &[0xff, 0xff, 1, 2, 3],
            &[0],
            &[0, 12, 0, 0, 0x80],
        ] {
            let mut stream = std::net::TcpStream::connect(server()).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            // Closed, with or without a word.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let socket = udp_to(server());
        socket.send(&[]).unwrap();
        socket.send(&[0; 11]).unwrap();
    });
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "web", A), "10.81.0.2");
    }
    assert_eq!(host.pid(), pid);
}
