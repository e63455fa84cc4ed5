//! A published port of several targets: each gets new connections, one that left gets none.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, UdpSocket};

use host::{
    Container, HOST, Host, LOCALHOST, On, SECOND, Space, ask, network, port, refuse, serve, talk_long,
};
use model::firewall::PortRule;
use model::firewall::Protocol::{self, Tcp, Udp};
use model::network::HostNetwork;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const WORDS: [&str; 3] = ["one", "two", "three"];
/// Tries after which a target of three that is never seen gets nothing: (2/3)^100 is less than 10^-17.
const TRIES: usize = 100;

host::on_every_backend! {
    every_target_is_reached_from_everywhere_by_any_address
    every_target_is_reached_by_the_one_address_alone
    a_target_that_left_gets_nothing_and_one_that_came_gets_its_share
    udp_flows_stay_with_their_target_until_it_leaves
    a_list_holds_for_every_target
}

/// Instances of one service, each saying its word.
fn instances(host: &Host, n: &HostNetwork) -> Vec<Container> {
    let one = |(number, word): (u8, &'static str)| {
        let c = host.container(n, number);
        serve(&c.space, ANY, 80, word);
        c
    };
    (5..).zip(WORDS).map(one).collect()
}

/// Port 8080 of those instances, both protocols.
fn balanced(ip: Option<Ipv4Addr>, all: &[Container], numbers: &[usize]) -> Vec<PortRule> {
    let rule = |number: usize, protocol| PortRule {
        container: match number {
            1 => "web".to_owned(),
            _ => format!("web-{number}"),
        }
        .parse()
        .unwrap(),
        service: Some("web".parse().unwrap()),
        ..port(protocol, ip, 8080, &all[number - 1].at, 80)
    };
    let each = numbers.iter().flat_map(|n| BOTH.map(|p| rule(*n, p)));
    each.collect()
}

/// The words heard there.
fn heard(space: &Space, protocol: Protocol, ip: Ipv4Addr) -> BTreeSet<String> {
    let word = |_| {
        let said = ask(space, protocol, ip, 8080);
        said.split(' ').next().unwrap().to_owned()
    };
    (0..TRIES).map(word).collect()
}

fn words(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().map(|n| WORDS[n - 1].to_owned()).collect()
}

fn every_target_is_reached_from_everywhere_by_any_address(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = instances(&host, &n);
    let sibling = host.container(&n, 9);
    host.apply(&[&n], balanced(None, &all, &[1, 2, 3]));
    let everyone = words(&[1, 2, 3]);
    for protocol in BOTH {
        for ip in [HOST, SECOND] {
            assert_eq!(heard(&host.neighbour, protocol, ip), everyone);
        }
        for ip in [HOST, LOCALHOST, host::gateway(&n)] {
            assert_eq!(heard(&host.space, protocol, ip), everyone);
        }
        // Hairpin: a target itself, and a sibling.
        assert_eq!(heard(&all[0].space, protocol, HOST), everyone);
        assert_eq!(heard(&sibling.space, protocol, host::gateway(&n)), everyone);
    }
}

fn every_target_is_reached_by_the_one_address_alone(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = instances(&host, &n);
    host.apply(&[&n], balanced(Some(HOST), &all, &[1, 2, 3]));
    for protocol in BOTH {
        assert_eq!(heard(&host.neighbour, protocol, HOST), words(&[1, 2, 3]));
        assert_eq!(heard(&host.space, protocol, HOST), words(&[1, 2, 3]));
        refuse(&host.neighbour, protocol, SECOND, 8080);
        refuse(&host.space, protocol, LOCALHOST, 8080);
    }
    host.apply(&[&n], balanced(Some(LOCALHOST), &all, &[1, 2, 3]));
    for protocol in BOTH {
        assert_eq!(heard(&host.space, protocol, LOCALHOST), words(&[1, 2, 3]));
        refuse(&host.neighbour, protocol, HOST, 8080);
    }
}

fn a_target_that_left_gets_nothing_and_one_that_came_gets_its_share(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = instances(&host, &n);
    for numbers in [&[1][..], &[1, 2, 3], &[1, 3], &[3], &[2, 3], &[1, 2, 3]] {
        let state = host.apply(&[&n], balanced(None, &all, numbers));
        host.space
            .run(|| assert_eq!(host.net.firewall().unwrap(), Some(state)));
        for protocol in BOTH {
            assert_eq!(
                heard(&host.neighbour, protocol, HOST),
                words(numbers),
                "{protocol} {numbers:?}"
            );
        }
    }
}

fn socket(space: &Space) -> UdpSocket {
    space.run(|| {
        let socket = UdpSocket::bind((ANY, 0)).unwrap();
        socket.connect((HOST, 8080)).unwrap();
        socket
    })
}

fn word(socket: &UdpSocket) -> String {
    talk_long(socket).split(' ').next().unwrap().to_owned()
}

fn udp_flows_stay_with_their_target_until_it_leaves(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = instances(&host, &n);
    host.apply(&[&n], balanced(None, &all, &[1, 2, 3]));
    let mut flows: BTreeMap<String, UdpSocket> = BTreeMap::new();
    for _ in 0..TRIES {
        let flow = socket(&host.neighbour);
        flows.insert(word(&flow), flow);
    }
    assert_eq!(flows.keys().cloned().collect::<BTreeSet<_>>(), words(&[1, 2, 3]));
    host.apply(&[&n], balanced(None, &all, &[1, 3]));
    for (before, flow) in &flows {
        let now = word(flow);
        if before == "two" {
            assert_ne!(now, "two", "it has left");
        } else {
            assert_eq!(now, *before, "another one left, not this");
        }
    }
    // Alone, or among others again: who stays keeps what it has.
    let of_three = &flows["three"];
    for numbers in [&[3][..], &[1, 2, 3]] {
        host.apply(&[&n], balanced(None, &all, numbers));
        assert_eq!(word(of_three), "three", "{numbers:?}");
    }
}

fn a_list_holds_for_every_target(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = instances(&host, &n);
    let listed = |ip, net: &str| -> Vec<PortRule> {
        let list = balanced(ip, &all, &[1, 2, 3]).into_iter();
        list.map(|rule| PortRule {
            allow: vec![net.parse().unwrap()],
            ..rule
        })
        .collect()
    };
    for ip in [None, Some(HOST)] {
        host.apply(&[&n], listed(ip, "192.0.2.0/24"));
        for protocol in BOTH {
            assert_eq!(heard(&host.neighbour, protocol, HOST), words(&[1, 2, 3]));
        }
        host.apply(&[&n], listed(ip, "198.51.100.0/24"));
        for protocol in BOTH {
            refuse(&host.neighbour, protocol, HOST, 8080);
            assert_eq!(heard(&host.space, protocol, HOST), words(&[1, 2, 3]));
        }
    }
}

#[test]
fn nft_shows_slots_and_what_is_done_to_them_is_put_right() {
    let host = Host::shared();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = instances(&host, &n);
    let right = host.apply(&[&n], balanced(None, &all, &[1, 2, 3]));
    let listing = || host.space.sh("nft list table inet wharf");
    let before = listing();
    assert!(before.contains("numgen random mod 64"), "{before}");
    for number in [0, 1, 63] {
        assert!(
            before.contains(&format!("8080 . {number} comment \"web")),
            "slot {number}: {before}"
        );
    }
    for damage in [
        "nft delete element inet wharf ports_any_slots '{ 8080 . 7 }'",
        "nft flush map inet wharf ports_any_slots",
        "nft flush map inet wharf zones_any_slots",
        "nft delete element inet wharf errors_any_slots '{ 8080 . 7 }'",
        "nft add element inet wharf ports_any_slots '{ 8080 . 64 comment \"web@wh-front/1\" : 10.88.1.5 . 80 }'",
        "nft add element inet wharf udp_any_slots '{ 22 . 3 : 10.88.1.5 . 22 }'",
        "nft add element inet wharf ports_any '{ tcp . 8080 comment \"db@wh-front\" : 10.88.1.9 . 80 }'",
    ] {
        host.space.sh(damage);
        host.space.run(|| {
            assert_ne!(host.net.firewall().unwrap().as_ref(), Some(&right), "{damage}");
            host.net.apply_firewall(&right).unwrap();
            assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&right), "{damage}");
        });
        assert_eq!(heard(&host.neighbour, Tcp, HOST), words(&[1, 2, 3]), "{damage}");
    }
}
