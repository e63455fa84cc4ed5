//! The name server as containers meet it: who sees what, and what the outside is asked.
#![allow(clippy::unwrap_used)]

mod dnshost;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use dnshost::{
    BOTH, Host, LONG, Upstream, Way, address, answer, ask, exchange, gateway, gateway6, question, read_frame,
    says, told, try_exchange, with_edns, write_frame,
};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, AXFR, MX, PTR};

const UP: &str = "192.0.2.53";
const SECOND: &str = "192.0.2.54";

#[test]
fn containers_find_those_they_share_a_network_with() {
    let mut host = Host::new(&["a", "b"]);
    host.upstreams(&[UP]);
    let upstream = Upstream::new(&host.space, UP, says("198.51.100.7"));
    let web = host.container("web", &[("a", 2, &[])]);
    let db = host.container("db", &[("a", 3, &["store"]), ("b", 3, &["store"])]);
    host.name("cache", "b", 4, &["store", "deep.name"]);
    host.apply();
    for way in BOTH {
        for (space, at, name, kind, expected) in [
            (&web, "a", "db", A, "10.81.0.3"),
            (&web, "a", "DB.", A, "10.81.0.3"),
            (&web, "a", "web", A, "10.81.0.2"),
            (&web, "a", "store", ANY, "10.81.0.3"),
            (&web, "a", "db.a", A, "10.81.0.3"),
            (&web, "a", "db", AAAA, "nothing +soa"),
            (&web, "a", "db", MX, "nothing +soa"),
            (&web, "a", "nobody", A, "no such name +soa"),
            (&web, "a", "nobody", AAAA, "no such name +soa"),
            (&web, "a", "a", A, "nothing +soa"),
            (&web, "a", "3.0.81.10.in-addr.arpa", PTR, "-> db"),
            (&web, "a", "3.0.81.10.in-addr.arpa", A, "nothing +soa"),
            (&web, "a", "99.0.81.10.in-addr.arpa", PTR, "no such name +soa"),
            (&web, "a", "www.example.com", A, "198.51.100.7"),
            (&web, "a", "example.com", AXFR, "Refused"),
            (&db, "a", "cache", A, "10.82.0.4"),
            (&db, "b", "web", A, "10.81.0.2"),
            (&db, "a", "store", A, "10.81.0.3 10.82.0.3 10.82.0.4"),
            (&db, "b", "deep.name", A, "10.82.0.4"),
            (&db, "b", "4.0.82.10.in-addr.arpa", PTR, "-> cache"),
        ] {
            assert_eq!(
                ask(space, gateway(at), way, name, kind),
                expected,
                "{name} {kind} {way:?}"
            );
        }
    }
    assert_eq!(upstream.names(), ["www.example.com."]);
    let out = web.sh("busybox nslookup db 10.81.0.1");
    assert!(out.contains("10.81.0.3"), "{out}");
}

/// The attacks: by name, by network, by reverse lookup, at the other network's gateway, from a made-up address.
#[test]
fn another_networks_names_cannot_be_had() {
    let mut host = Host::new(&["a", "b"]);
    host.upstreams(&[UP]);
    let upstream = Upstream::new(&host.space, UP, |to, _| {
        Some(answer(to, ResponseCode::NXDomain, "0.0.0.0", 0))
    });
    let evil = host.container("evil", &[("a", 66, &[])]);
    let _victim = host.container("victim", &[("b", 9, &["secret"])]);
    host.apply();
    for way in BOTH {
        for at in ["a", "b"] {
            for (name, kind) in [
                ("victim", A),
                ("secret", A),
                ("victim", ANY),
                ("9.0.82.10.in-addr.arpa", PTR),
            ] {
                let got = ask(&evil, gateway(at), way, name, kind);
                assert_eq!(got, "no such name +soa", "{name} at {at} {way:?}");
            }
            assert_eq!(ask(&evil, gateway(at), way, "victim.b", A), "no such name");
        }
    }
    assert!(upstream.names().iter().all(|name| name == "victim.b."));
    // An address that is nobody's, and one of the other network, whose answers do not come back here.
    evil.sh("ip addr add 10.81.0.67/24 dev eth0; ip addr add 10.82.0.9/32 dev eth0");
    let asks = |from: &str, name: &str, patience| {
        let (from, message) = (format!("{from}:0"), question(name, A));
        evil.run(move || {
            let socket = UdpSocket::bind(from).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect((gateway("a"), 53)).unwrap();
            socket.send(&message.to_vec().unwrap()).unwrap();
            let mut buffer = [0; 512];
            socket
                .recv(&mut buffer)
                .ok()
                .map(|n| told(&Message::from_vec(&buffer[..n]).unwrap()))
        })
    };
    assert_eq!(asks("10.81.0.67", "evil", LONG).as_deref(), Some("Refused"));
    assert_eq!(
        asks("10.81.0.67", "www.example.com", LONG).as_deref(),
        Some("Refused")
    );
    assert_eq!(asks("10.82.0.9", "secret", Duration::from_millis(300)), None);
}

#[test]
fn the_host_sees_a_gateways_network_and_strangers_see_nothing() {
    let mut host = Host::new(&["a", "b"]);
    host.upstreams(&[UP]);
    let upstream = Upstream::new(&host.space, UP, says("198.51.100.7"));
    host.name("web", "a", 2, &[]);
    host.name("db", "b", 2, &[]);
    host.apply();
    for way in BOTH {
        for (at, name, expected) in [
            ("a", "web", "10.81.0.2"),
            ("b", "db", "10.82.0.2"),
            ("a", "db", "no such name +soa"),
            ("a", "www.example.com", "Refused"),
        ] {
            assert_eq!(
                ask(&host.space, gateway(at), way, name, A),
                expected,
                "{name} at {at} {way:?}"
            );
        }
    }
    let stranger = || {
        let socket = UdpSocket::bind((UP, 0)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.connect((gateway("a"), 53)).unwrap();
        socket.send(&question("web", A).to_vec().unwrap()).unwrap();
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        told(&Message::from_vec(&buffer[..count]).unwrap())
    };
    assert_eq!(host.space.run(stranger), "Refused");
    assert!(upstream.names().is_empty());
}

/// IPv6 beside IPv4: asked at either gateway, from either address, for either family.
#[test]
fn both_families_are_asked_and_answered() {
    let mut host = Host::new(&["a", "b"]);
    host.upstreams(&[UP]);
    host.add_v6("a");
    let _upstream = Upstream::new(&host.space, UP, says("198.51.100.7"));
    let web = host.container("web", &[("a", 2, &[])]);
    host.give_v6(&web, "web", "a", 2);
    let old = host.container("old", &[("a", 3, &["plain"])]);
    host.apply();
    let nibbles = |number| format!("{number}{}.1.5.0.0.0.0.d.f.ip6.arpa", ".0".repeat(23));
    let four = gateway("a").into();
    for (space, at) in [(&web, four), (&web, gateway6("a").into()), (&old, four)] {
        let at: std::net::IpAddr = at;
        for way in BOTH {
            for (name, kind, expected) in [
                ("web", A, "10.81.0.2"),
                ("web", AAAA, "fd00:51::2"),
                ("web.a", ANY, "10.81.0.2 fd00:51::2"),
                ("plain", AAAA, "nothing +soa"),
                (&nibbles(2), PTR, "-> web"),
                (&nibbles(9), PTR, "no such name +soa"),
                ("2.0.81.10.in-addr.arpa", PTR, "-> web"),
                ("www.example.com", A, "198.51.100.7"),
            ] {
                assert_eq!(
                    ask(space, at, way, name, kind),
                    expected,
                    "{name} {kind} at {at} {way:?}"
                );
            }
        }
    }
    // A made-up address of the same network, and the host itself.
    web.sh("ip addr add fd00:51::66/64 dev eth0 nodad");
    let stranger = || {
        let socket = UdpSocket::bind("[fd00:51::66]:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.connect((gateway6("a"), 53)).unwrap();
        socket.send(&question("web", AAAA).to_vec().unwrap()).unwrap();
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        told(&Message::from_vec(&buffer[..count]).unwrap())
    };
    assert_eq!(web.run(stranger), "Refused");
    assert_eq!(
        ask(&host.space, gateway6("a"), Way::Udp, "web", AAAA),
        "fd00:51::2"
    );
    assert_eq!(
        ask(&host.space, gateway6("a"), Way::Udp, "www.example.com", A),
        "Refused"
    );
}

/// Containers of other hosts, in an overlay: own names go before theirs.
#[test]
fn names_of_other_hosts_are_answered_where_no_own_container_has_them() {
    let mut host = Host::new(&["a", "b"]);
    let web = host.container("web", &[("a", 2, &[])]);
    let other = host.container("other", &[("b", 2, &[])]);
    let far = ["10.81.0.77".parse().unwrap(), "fd00:51::77".parse().unwrap()];
    let hosts = &mut host.state.networks.get_mut("a").unwrap().hosts;
    hosts.insert("far".to_owned(), far.to_vec());
    hosts.insert("web".to_owned(), far.to_vec());
    host.apply();
    for way in BOTH {
        for (name, kind, expected) in [
            ("far", A, "10.81.0.77"),
            ("far.a", AAAA, "fd00:51::77"),
            ("web", A, "10.81.0.2"),
            ("web", AAAA, "nothing +soa"),
            ("77.0.81.10.in-addr.arpa", PTR, "-> far"),
        ] {
            assert_eq!(
                ask(&web, gateway("a"), way, name, kind),
                expected,
                "{name} {kind} {way:?}"
            );
        }
        assert_eq!(ask(&other, gateway("b"), way, "far", A), "no such name +soa");
    }
}

/// Each lookup of the usual libraries asks for both families: that does not take turns away.
#[test]
fn addresses_of_one_name_take_turns() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    for number in 10..14 {
        host.name(&format!("api-{number}"), "a", number, &["api"]);
    }
    host.apply();
    let firsts: std::collections::BTreeSet<String> = (0..8)
        .map(|_| {
            ask(&web, gateway("a"), Way::Udp, "api", AAAA);
            let message = question("api", A);
            let reply = web.run(|| exchange(&message, Way::Udp, SocketAddr::from((gateway("a"), 53))));
            assert_eq!(reply.answers.len(), 4);
            reply.answers[0].data.to_string()
        })
        .collect();
    assert_eq!(firsts.len(), 4, "{firsts:?}");
}

#[test]
fn an_internal_network_asks_nobody_outside() {
    let mut host = Host::new(&["a", "b"]);
    host.upstreams(&[UP]);
    let upstream = Upstream::new(&host.space, UP, says("198.51.100.7"));
    let inner = host.container("inner", &[("b", 2, &[])]);
    let both = host.container("both", &[("b", 3, &[]), ("a", 3, &[])]);
    host.state.networks.get_mut("b").unwrap().internal = true;
    host.apply();
    for way in BOTH {
        assert_eq!(ask(&inner, gateway("b"), way, "both", A), "10.82.0.3");
        assert_eq!(ask(&inner, gateway("b"), way, "www.example.com", A), "Refused");
        assert_eq!(
            ask(&inner, gateway("b"), way, "4.3.2.1.in-addr.arpa", PTR),
            "Refused"
        );
        assert!(upstream.names().is_empty());
    }
    assert_eq!(
        ask(&both, gateway("b"), Way::Udp, "www.example.com", A),
        "198.51.100.7"
    );
}

#[test]
fn what_is_too_large_for_a_datagram_is_fetched_by_tcp_and_kept() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    // More than fits: an honest upstream says so over UDP.
    let upstream = Upstream::new(&host.space, UP, |to, way| {
        let reply = answer(to, ResponseCode::NoError, "198.51.100.1", 100);
        let size = to.edns.as_ref().map_or(512, |e| e.max_payload());
        let whole = way == Way::Tcp || reply.to_vec().unwrap().len() <= size.into();
        Some(if whole { reply } else { reply.truncate() })
    });
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    let server = SocketAddr::from((gateway("a"), 53));
    let plain = web.run(|| exchange(&question("big.example", A), Way::Udp, server));
    assert!(plain.metadata.truncation && plain.answers.is_empty());
    let tcp = web.run(|| exchange(&question("big.example", A), Way::Tcp, server));
    assert_eq!((tcp.answers.len(), tcp.metadata.truncation), (100, false));
    let large = web.run(|| exchange(&with_edns(question("big.example", A), 4096), Way::Udp, server));
    assert_eq!((large.answers.len(), large.metadata.truncation), (100, false));
    assert_eq!(upstream.ways(), [Way::Udp, Way::Tcp], "from then on it is known");
}

/// An upstream that sends more than the client takes; the client is told to come by TCP.
#[test]
fn a_client_gets_no_larger_packet_than_it_asked_for() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let _upstream = Upstream::new(&host.space, UP, |to, _| {
        Some(answer(to, ResponseCode::NoError, "198.51.100.1", 100))
    });
    let web = host.container("web", &[("a", 2, &[])]);
    for number in 100..200 {
        host.name(&format!("c{number}"), "a", number, &["many"]);
    }
    host.apply();
    let server = SocketAddr::from((gateway("a"), 53));
    for name in ["big.example", "many"] {
        for (message, truncated) in [
            (question(name, A), true),
            (with_edns(question(name, A), 1000), true),
            (with_edns(question(name, A), 4096), false),
        ] {
            let reply = web.run(|| exchange(&message, Way::Udp, server));
            assert_eq!(reply.metadata.truncation, truncated, "{name}");
            // Of ours there is what fits: some clients never come by TCP.
            let least = if name == "many" && truncated { 30 } else { 0 };
            let expected = if truncated { least..100 } else { 100..101 };
            assert!(
                expected.contains(&reply.answers.len()),
                "{name}: {}",
                reply.answers.len()
            );
        }
        let reply = web.run(|| exchange(&question(name, A), Way::Tcp, server));
        assert_eq!(reply.answers.len(), 100);
    }
}

#[test]
fn the_next_upstream_is_asked_where_one_does_not_help() {
    for (case, first) in [
        ("silence", None::<ResponseCode>),
        ("servfail", Some(ResponseCode::ServFail)),
        ("refused", Some(ResponseCode::Refused)),
    ] {
        let mut host = Host::new(&["a"]);
        host.upstreams(&[UP, SECOND]);
        let bad = Upstream::new(&host.space, UP, move |to, _| {
            Some(answer(to, first?, "0.0.0.0", 0))
        });
        let good = Upstream::new(&host.space, SECOND, says("198.51.100.8"));
        let web = host.container("web", &[("a", 2, &[])]);
        host.apply();
        for way in BOTH {
            assert_eq!(
                ask(&web, gateway("a"), way, "www.example.com", A),
                "198.51.100.8",
                "{case} {way:?}"
            );
        }
        assert!(
            !bad.names().is_empty() && good.names() == ["www.example.com."],
            "{case}"
        );
    }
    // Nobody listens on the first, and nobody at all.
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP, SECOND]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "www.example.com", A), "ServFail");
    }
    let _good = Upstream::new(&host.space, SECOND, says("198.51.100.8"));
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "www.example.com", A), "198.51.100.8");
    }
}

/// What all upstreams complain about is passed on, not made up.
#[test]
fn a_complaint_of_all_upstreams_reaches_the_client() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP, SECOND]);
    let _both = [UP, SECOND].map(|ip| {
        Upstream::new(&host.space, ip, |to, _| {
            Some(answer(to, ResponseCode::Refused, "0.0.0.0", 0))
        })
    });
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "www.example.com", A), "Refused");
    }
}

/// Answers with another id or question are not taken, wherever they come from; ids and ports cannot be foreseen.
#[test]
fn forged_answers_are_not_taken() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let web = host.container("web", &[("a", 2, &[])]);
    let socket = host.space.run(|| UdpSocket::bind((UP, 53)).unwrap());
    let (tell, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let asked = Message::from_vec(&buffer[..count]).unwrap();
            let _ = tell.send((asked.metadata.id, from.port()));
            let mut forged = answer(&asked, ResponseCode::NoError, "6.6.6.6", 1);
            forged.metadata.id = asked.metadata.id.wrapping_add(1);
            let other = answer(&question("bank.example", A), ResponseCode::NoError, "6.6.6.6", 1);
            let mut named = other.clone();
            named.metadata.id = asked.metadata.id;
            let good = answer(&asked, ResponseCode::NoError, "198.51.100.1", 1);
            for reply in [asked, forged, other, named, good] {
                socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
            }
        }
    });
    host.apply();
    for n in 0..8 {
        let name = format!("n{n}.example.com");
        assert_eq!(ask(&web, gateway("a"), Way::Udp, &name, A), "198.51.100.1");
    }
    let seen: Vec<(u16, u16)> = seen.try_iter().collect();
    for distinct in [
        seen.iter().map(|s| s.0).collect(),
        seen.iter()
            .map(|s| s.1)
            .collect::<std::collections::BTreeSet<_>>(),
    ] {
        assert!(distinct.len() >= 5, "ids and ports: {seen:?}");
    }
}

#[test]
fn a_connection_carries_many_questions() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let _upstream = Upstream::new(&host.space, UP, says("198.51.100.7"));
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    let questions: Vec<Message> = (0..300)
        .map(|n| {
            if n % 3 == 0 {
                question(&format!("n{n}.example.com"), A)
            } else {
                question("web", A)
            }
        })
        .collect();
    web.run(|| {
        let mut stream = std::net::TcpStream::connect((gateway("a"), 53)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        for message in &questions {
            write_frame(&mut stream, &message.to_vec().unwrap());
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut waiting: std::collections::BTreeMap<u16, &Message> =
            questions.iter().map(|m| (m.metadata.id, m)).collect();
        while !waiting.is_empty() {
            let reply = Message::from_vec(&read_frame(&mut stream).unwrap()).unwrap();
            let asked = waiting.remove(&reply.metadata.id).unwrap();
            assert_eq!(reply.queries, asked.queries);
            assert_eq!(reply.answers.len(), 1);
        }
        // All said: the server closes its side as well.
        assert_eq!(std::io::Read::read(&mut stream, &mut [0; 1]).unwrap(), 0);
    });
}

/// One question sent five times is one; two questions on a connection are two, even where the client numbers them alike.
#[test]
fn repetitions_are_asked_once_and_equal_ids_are_no_repetition() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let upstream = Upstream::new(&host.space, UP, |to, _| {
        let silent = to.queries[0].name().to_ascii() == "same.example.";
        (!silent).then(|| answer(to, ResponseCode::NoError, "198.51.100.7", 1))
    });
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    web.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.connect((gateway("a"), 53)).unwrap();
        let same = question("same.example", A).to_vec().unwrap();
        for _ in 0..5 {
            socket.send(&same).unwrap();
        }
        socket
            .send(&question("end.example", A).to_vec().unwrap())
            .unwrap();
        let mut buffer = [0; 512];
        // On a very busy machine the failure of the first may come before.
        loop {
            let count = socket.recv(&mut buffer).unwrap();
            if told(&Message::from_vec(&buffer[..count]).unwrap()) == "198.51.100.7" {
                break;
            }
        }
    });
    // A silent upstream is asked twice at most.
    let same = upstream.count("same.example.");
    assert!((1..=2).contains(&same), "{same}");
    web.run(|| {
        let mut stream = std::net::TcpStream::connect((gateway("a"), 53)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        for name in ["one.example", "two.example"] {
            let mut message = question(name, A);
            message.metadata.id = 7;
            write_frame(&mut stream, &message.to_vec().unwrap());
        }
        let mut names: Vec<String> = (0..2)
            .map(|_| Message::from_vec(&read_frame(&mut stream).unwrap()).unwrap())
            .map(|reply| reply.queries[0].name().to_ascii())
            .collect();
        names.sort();
        assert_eq!(names, ["one.example.", "two.example."]);
    });
}

/// Nobody answers: the client is told so. Nobody asks: the connection is closed.
#[test]
fn slow_silence_has_an_end() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP, SECOND]);
    let silent = [UP, SECOND].map(|ip| Upstream::new(&host.space, ip, |_, _| None));
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "www.example.com", A), "ServFail");
    }
    assert!(
        silent
            .iter()
            .all(|upstream| upstream.count("www.example.com.") >= 2)
    );
    web.run(|| {
        let mut stream = std::net::TcpStream::connect((gateway("a"), 53)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(std::io::Read::read(&mut stream, &mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn one_client_cannot_use_it_up() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let _silent = Upstream::new(&host.space, UP, |_, _| None);
    let greedy = host.container("greedy", &[("a", 2, &[])]);
    let web = host.container("web", &[("a", 3, &[])]);
    host.apply();
    let server = SocketAddr::from((gateway("a"), 53));
    // Connections: those beyond the limit are closed, one of another client is served.
    let mut open: Vec<_> = greedy.run(|| {
        (0..40)
            .map(|_| std::net::TcpStream::connect(server).unwrap())
            .collect()
    });
    for (index, stream) in open.iter_mut().enumerate().rev() {
        stream.set_read_timeout(Some(LONG)).unwrap();
        if index >= 32 {
            assert_eq!(std::io::Read::read(stream, &mut [0; 1]).unwrap(), 0);
        } else {
            write_frame(stream, &question("web", A).to_vec().unwrap());
            read_frame(stream).unwrap();
        }
    }
    assert_eq!(ask(&web, server.ip(), Way::Tcp, "greedy", A), "10.81.0.2");
    // Foreign names with nobody answering: what is too much fails at once.
    let flood = greedy.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.connect(server).unwrap();
        for n in 0..200 {
            socket
                .send(&question(&format!("n{n}.example"), A).to_vec().unwrap())
                .unwrap();
        }
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        told(&Message::from_vec(&buffer[..count]).unwrap())
    });
    assert_eq!(flood, "ServFail");
    for way in BOTH {
        assert_eq!(ask(&web, server.ip(), way, "greedy", A), "10.81.0.2");
    }
}

/// Random bytes, and good questions with some bytes changed, by UDP and TCP.
#[test]
fn noise_does_not_end_it() {
    let mut host = Host::new(&["a"]);
    host.upstreams(&[UP]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    let (pid, server) = (host.pid(), SocketAddr::from((gateway("a"), 53)));
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut state = u64::from(seed) | 1;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let mut packet = move || {
        let mut bytes = if random(2) == 0 {
            vec![0; random(700)]
        } else {
            with_edns(
                question(
                    "some.name.example",
                    RecordType::from(u16::try_from(random(300)).unwrap()),
                ),
                999,
            )
            .to_vec()
            .unwrap()
        };
        for _ in 0..random(bytes.len() + 1) {
            let at = random(bytes.len());
            bytes[at] = u8::try_from(random(256)).unwrap();
        }
        bytes
    };
    // It stays open: one that is closed would have what is answered to it refused, and a refusal may be the next asker's that
    // gets its port.
    let _noise = web.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(server).unwrap();
        for _ in 0..3000 {
            socket.send(&packet()).unwrap();
        }
        for _ in 0..100 {
            let mut stream = std::net::TcpStream::connect(server).unwrap();
            let bytes = packet();
            // It may close at once.
            let _ = std::io::Write::write_all(&mut stream, &bytes);
        }
        socket
    });
    // What is left of the noise may fill the socket, or the client's share of connections, for a moment: as a resolver
    // does, it asks again.
    for way in BOTH {
        let deadline = Instant::now() + LONG;
        let reply = web.run(|| {
            loop {
                match try_exchange(&question("web", A), way, server, Duration::from_millis(200)) {
                    Ok(reply) => break told(&reply),
                    Err(e) => assert!(Instant::now() < deadline, "{e}"),
                }
            }
        });
        assert_eq!(reply, address("a", 2).to_string());
    }
    assert_eq!(host.pid(), pid);
}
