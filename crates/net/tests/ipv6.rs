//! IPv6 beside IPv4, with real packets: what must get through and what must not (here), where ports lead (`moves`), what is put
//! right (`kept`), what the host must not lose by it (`routers`), and what others drop (`others`).
#![allow(clippy::unwrap_used)]

mod host;
#[path = "ipv6/kept.rs"]
mod kept;
#[path = "ipv6/moves.rs"]
mod moves;
#[path = "ipv6/others.rs"]
mod others;
#[path = "ipv6/routers.rs"]
mod routers;

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use host::{
    Container, HOST, HOST6, Host, NEIGHBOUR, NEIGHBOUR6, On, SECOND6, Space, ask, bridge_rule, dual,
    gateway6, network, port, port6, refuse, refuse_all, serve, talk_long,
};
use model::firewall::Protocol::{self, Tcp, Udp};
use model::firewall::{FirewallState, PortRule};
use model::network::HostNetwork;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const LOCALHOST6: Ipv6Addr = Ipv6Addr::LOCALHOST;

host::on_every_backend! {
    a_published_port_is_reached_from_everywhere_with_bridge_nf
    a_published_port_is_reached_from_everywhere_without_bridge_nf
    the_way_out_is_masqueraded_unless_told_otherwise
    a_neighbour_reaches_nothing_but_published_ports_with_bridge_nf
    a_neighbour_reaches_nothing_but_published_ports_without_bridge_nf
    a_bound_port_answers_on_its_address_alone
    only_those_on_the_list_get_in
    names_are_asked_where_the_name_server_listens
}

fn web(host: &Host, n: &HostNetwork, number: u8) -> Container {
    let c = host.container(n, number);
    serve(&c.space, ANY, 80, "web");
    c
}

/// Rules for a port without an address: of both families.
fn published(c: &Container, number: u16) -> Vec<PortRule> {
    BOTH.map(|p| {
        [
            port(p, None, number, &c.at, 80),
            port6(p, None, number, &c.at, 80),
        ]
    })
    .concat()
}

fn published_port_is_reached_from_everywhere(on: On, bridge_nf: bool) {
    let host = on.dual(Some(bridge_nf));
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let c = web(&host, &n, 5);
    let other = host.container(&n, 6);
    host.apply(&[&n], published(&c, 8080));
    let gateway = gateway6(&n);
    for protocol in BOTH {
        for to in [HOST6, SECOND6] {
            assert_eq!(
                ask(&host.neighbour, protocol, to, 8080),
                format!("web {NEIGHBOUR6}")
            );
        }
        assert_eq!(
            ask(&host.space, protocol, SECOND6, 8080),
            format!("web {SECOND6}")
        );
        assert_eq!(
            ask(&host.space, protocol, gateway, 8080),
            format!("web {gateway}")
        );
        assert_eq!(ask(&host.space, protocol, c.ip6(), 80), format!("web {gateway}"));
        // Hairpin: itself and a sibling, by the host's addresses.
        for from in [&c, &other] {
            assert_eq!(ask(&from.space, protocol, HOST6, 8080), format!("web {gateway}"));
            assert_eq!(
                ask(&from.space, protocol, gateway, 8080),
                format!("web {gateway}")
            );
        }
        // Siblings directly, with their own addresses.
        assert_eq!(
            ask(&other.space, protocol, c.ip6(), 80),
            format!("web {}", other.ip6())
        );
        refuse(&host.neighbour, protocol, HOST6, 8081);
        refuse(&host.neighbour, protocol, HOST6, 80);
        // What is published on no address in particular answers by IPv4 as well.
        assert_eq!(
            ask(&host.neighbour, protocol, HOST, 8080),
            format!("web ::ffff:{NEIGHBOUR}")
        );
    }
}

fn a_published_port_is_reached_from_everywhere_with_bridge_nf(on: On) {
    published_port_is_reached_from_everywhere(on, true);
}

fn a_published_port_is_reached_from_everywhere_without_bridge_nf(on: On) {
    published_port_is_reached_from_everywhere(on, false);
}

fn the_way_out_is_masqueraded_unless_told_otherwise(on: On) {
    let host = on.dual(None);
    let (mut n, mut open) = (dual("front", 1), dual("open", 2));
    open.ip.v6_mut().unwrap().masquerade = false;
    host.apply(&[&n, &open], Vec::new());
    let (a, b) = (host.container(&n, 5), host.container(&open, 5));
    serve(&host.neighbour, ANY, 9000, "lan");
    for space in [&a.space, &b.space] {
        // Beyond the link the host is the router.
        assert!(space.sh("ip -6 route show default").contains("via fd00:88:"));
    }
    for protocol in BOTH {
        let seen = ask(&a.space, protocol, NEIGHBOUR6, 9000);
        assert!(
            [HOST6, SECOND6].map(|ip| format!("lan {ip}")).contains(&seen),
            "{seen}"
        );
        refuse(&b.space, protocol, NEIGHBOUR6, 9000);
    }
    host.neighbour
        .sh(&format!("ip route add fd00:88:2::/64 via {HOST6}"));
    for protocol in BOTH {
        assert_eq!(
            ask(&b.space, protocol, NEIGHBOUR6, 9000),
            format!("lan {}", b.ip6())
        );
    }
    n.internal = true;
    host.apply(&[&n, &open], Vec::new());
    for protocol in BOTH {
        refuse(&a.space, protocol, NEIGHBOUR6, 9000);
    }
}

/// Makes a namespace send packets for ::1 to a router.
fn route_loopback_to(space: &Space, via: Ipv6Addr) {
    space.sh(&format!(
        "ip -6 addr del ::1/128 dev lo; ip -6 route flush table local ::1/128; ip -6 route add ::1/128 via {via} dev eth0"
    ));
}

fn a_neighbour_reaches_nothing_but_published_ports(on: On, bridge_nf: bool) {
    let host = on.dual(Some(bridge_nf));
    let (front, back, mut closed) = (dual("front", 1), dual("back", 2), dual("closed", 3));
    closed.internal = true;
    let all = [&front, &back, &closed];
    host.apply(&all, Vec::new());
    let (a, b, c) = (
        web(&host, &front, 5),
        web(&host, &back, 5),
        web(&host, &closed, 5),
    );
    serve(&a.space, ANY, 81, "private");
    let mut rules = published(&a, 8080);
    rules.extend(published(&c, 8083));
    host.apply(&all, rules);
    serve(&host.space, LOCALHOST6, 7000, "secret");
    host.neighbour
        .sh(&format!("ip route add fd00:88::/32 via {HOST6}"));
    refuse_all(
        "a container's own address, networks, and what is internal",
        &[
            (&host.neighbour, a.ip6(), 80),
            (&host.neighbour, a.ip6(), 81),
            (&a.space, b.ip6(), 80),
            (&b.space, a.ip6(), 80),
            (&c.space, a.ip6(), 80),
            (&a.space, c.ip6(), 80),
            (&host.neighbour, HOST6, 8083),
            (&b.space, HOST6, 8083),
            (&c.space, HOST6, 8080),
        ],
    );
    for protocol in BOTH {
        assert!(ask(&host.space, protocol, a.ip6(), 81).starts_with("private "));
        assert!(ask(&b.space, protocol, HOST6, 8080).starts_with("web "));
        assert!(ask(&host.space, protocol, gateway6(&closed), 8083).starts_with("web "));
    }
    route_loopback_to(&host.neighbour, HOST6);
    route_loopback_to(&b.space, gateway6(&back));
    let knocks = [&host.neighbour, &b.space].map(|from| [7000, 8080].map(|port| (from, LOCALHOST6, port)));
    refuse_all("the host's loopback", &knocks.concat());
    for protocol in BOTH {
        assert_eq!(ask(&host.space, protocol, LOCALHOST6, 7000), "secret ::1");
    }
}

fn a_neighbour_reaches_nothing_but_published_ports_with_bridge_nf(on: On) {
    a_neighbour_reaches_nothing_but_published_ports(on, true);
}

fn a_neighbour_reaches_nothing_but_published_ports_without_bridge_nf(on: On) {
    a_neighbour_reaches_nothing_but_published_ports(on, false);
}

fn a_bound_port_answers_on_its_address_alone(on: On) {
    let host = on.dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "other");
    let rules = BOTH.map(|p| {
        [
            port6(p, Some(SECOND6), 8080, &a.at, 80),
            port6(p, Some(HOST6), 8080, &b.at, 80),
        ]
    });
    host.apply(&[&n], rules.concat());
    for protocol in BOTH {
        for from in [&host.neighbour, &host.space] {
            assert!(ask(from, protocol, SECOND6, 8080).starts_with("web "));
            assert!(ask(from, protocol, HOST6, 8080).starts_with("other "));
        }
        refuse(&host.space, protocol, LOCALHOST6, 8080);
        refuse(&host.space, protocol, gateway6(&n), 8080);
        refuse(&host.neighbour, protocol, HOST, 8080);
    }
}

fn only_those_on_the_list_get_in(on: On) {
    let host = on.dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (c, other) = (web(&host, &n, 5), host.container(&n, 6));
    let listed = |number, allow: &[&str]| {
        let allow = allow.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let mut rules = published(&c, number);
        rules.iter_mut().for_each(|rule| rule.allow.clone_from(&allow));
        rules
    };
    let rules = [
        listed(8080, &["192.0.2.0/24", "2001:db8::/32", "2001:db8:2::/64"]),
        listed(8081, &["192.0.2.0/24"]),
        listed(8082, &["2001:db8:3::/64"]),
    ];
    let state = host.apply(&[&n], rules.concat());
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    for protocol in BOTH {
        assert_eq!(
            ask(&host.neighbour, protocol, HOST6, 8080),
            format!("web {NEIGHBOUR6}")
        );
        assert!(ask(&host.neighbour, protocol, HOST, 8081).starts_with("web "));
        // A list of the other family's sources alone is for nobody.
        refuse(&host.neighbour, protocol, HOST6, 8081);
        refuse(&host.neighbour, protocol, HOST6, 8082);
        refuse(&host.neighbour, protocol, HOST, 8082);
        for number in [8080, 8081, 8082] {
            refuse(&other.space, protocol, HOST6, number);
            assert!(ask(&host.space, protocol, HOST6, number).starts_with("web "));
        }
    }
}

/// Where something else than the name server has port 53.
fn names_are_asked_where_the_name_server_listens(on: On) {
    let host = on.dual(None);
    let (n, back) = (dual("front", 1), dual("back", 2));
    host.apply(&[&n, &back], Vec::new());
    let (c, other) = (host.container(&n, 5), host.container(&back, 5));
    let gateway = gateway6(&n);
    serve(&host.space, ANY, 53, "somebody");
    serve(&host.space, gateway, 5300, "names");
    let mut state = FirewallState {
        bridges: vec![bridge_rule(&n), bridge_rule(&back)],
        ..FirewallState::default()
    };
    state.bridges[0].dns_port = Some(5300);
    let state = state.sorted();
    host.space.run(|| host.net.apply_firewall(&state).unwrap());
    for protocol in BOTH {
        assert_eq!(ask(&c.space, protocol, gateway, 53), format!("names {}", c.ip6()));
        // By UDP that server answers from another address than it was asked at, for it listens at all of them.
        if protocol == Tcp {
            assert!(ask(&c.space, protocol, HOST6, 53).starts_with("somebody "));
        }
        assert!(ask(&other.space, protocol, gateway6(&back), 53).starts_with("somebody "));
    }
}

#[test]
fn a_packet_too_big_for_the_way_is_told_of() {
    let host = Host::dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let c = web(&host, &n, 5);
    host.apply(&[&n], published(&c, 8080));
    // The way from the host to the neighbour is narrow.
    host.space
        .sh(&format!("ip -6 route add {NEIGHBOUR6}/128 dev lan mtu 1300"));
    let sent = c.space.run(|| {
        let socket = UdpSocket::bind((ANY, 0)).unwrap();
        socket.connect((NEIGHBOUR6, 9000)).unwrap();
        socket
    });
    sent.send(&[0; 1400]).unwrap();
    let told = |space: &Space, to: Ipv6Addr| {
        space.sh(&format!(
            "for i in $(seq 2000); do ip -6 route get {to} | grep -q 'mtu 1300' && exit; sleep 0.01; done; exit 1"
        ));
    };
    told(&c.space, NEIGHBOUR6);
    // The same about an answer, which goes back as another address.
    c.space.sh("ip -6 route flush cache");
    let asks = host.neighbour.run(|| UdpSocket::bind((ANY, 0)).unwrap());
    let heard = c.space.run(|| UdpSocket::bind((ANY, 81)).unwrap());
    let rules = vec![port6(Udp, None, 8081, &c.at, 81)];
    host.apply(&[&n], rules);
    asks.connect((HOST6, 8081)).unwrap();
    asks.send(b"?").unwrap();
    heard.set_read_timeout(Some(host::LONG)).unwrap();
    let (_, from) = heard.recv_from(&mut [0; 8]).unwrap();
    heard.send_to(&[0; 1400], from).unwrap();
    told(&c.space, NEIGHBOUR6);
}
