//! IPv6 beside IPv4, with real packets: what must get through, what must not, and what the host must not lose by it.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use host::{
    Container, HOST, HOST6, Host, NEIGHBOUR, NEIGHBOUR6, On, SECOND6, Space, ask, bridge_rule, dual,
    gateway6, network, port, port6, refuse, refuse_all, serve, talk_long,
};
use model::firewall::Protocol::{self, Tcp, Udp};
use model::firewall::{FirewallState, PortRule};
use model::network::HostNetwork;
use model::observed::{Ipv6State, ObservedLink};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};

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
    a_port_moves_and_udp_flows_move_with_it
    a_port_of_several_is_shared_and_flows_stay_where_they_began
    names_are_asked_where_the_name_server_listens
    forwarding_that_was_off_is_for_our_bridges_alone
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

fn a_port_moves_and_udp_flows_move_with_it(on: On) {
    let host = on.dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "new");
    let socket = |space: &Space, to: Ipv6Addr| {
        space.run(|| {
            let socket = UdpSocket::bind((ANY, 0)).unwrap();
            socket.connect((to, 8080)).unwrap();
            socket
        })
    };
    let early = socket(&host.neighbour, HOST6);
    early.send(b"?").unwrap();
    let _ = early.recv(&mut [0; 8]);
    host.apply(&[&n], published(&a, 8080));
    let flows = [
        early,
        socket(&host.neighbour, SECOND6),
        socket(&host.space, HOST6),
        socket(&b.space, HOST6),
    ];
    for (to, word) in [(&a, "web "), (&b, "new "), (&a, "web ")] {
        host.apply(&[&n], published(to, 8080));
        for flow in &flows {
            assert!(talk_long(flow).starts_with(word), "{flow:?}");
        }
    }
    // Whom a list leaves out now is left out in the middle of a flow.
    let mut closed = published(&a, 8080);
    closed
        .iter_mut()
        .for_each(|rule| rule.allow.push("fd00:99::/64".parse().unwrap()));
    host.apply(&[&n], closed);
    host::talk(&flows[1], host::PATIENCE).unwrap_err();
    host.apply(&[&n], Vec::new());
    for protocol in BOTH {
        refuse(&host.neighbour, protocol, HOST6, 8080);
    }
}

#[test]
fn an_answer_that_is_under_way_when_its_port_moves_arrives() {
    let host = Host::dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "new");
    let heard = a.space.run(|| UdpSocket::bind((ANY, 80)).unwrap());
    heard.set_read_timeout(Some(host::LONG)).unwrap();
    for (from, to) in [
        (&host.neighbour, HOST6),
        (&host.space, SECOND6),
        (&b.space, HOST6),
    ] {
        host.apply(&[&n], published(&a, 8080));
        let asks = from.run(|| UdpSocket::bind((ANY, 0)).unwrap());
        asks.connect((to, 8080)).unwrap();
        asks.set_read_timeout(Some(host::LONG)).unwrap();
        asks.send(b"?").unwrap();
        let (_, sender) = heard.recv_from(&mut [0; 8]).unwrap();
        host.apply(&[&n], published(&b, 8080));
        heard.send_to(b"late", sender).unwrap();
        let mut buffer = [0; 64];
        let count = asks.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"late");
        assert!(talk_long(&asks).starts_with("new "));
    }
}

fn a_port_of_several_is_shared_and_flows_stay_where_they_began(on: On) {
    let host = on.dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let servers = [5, 6].map(|number| host.container(&n, number));
    for (server, word) in servers.iter().zip(["one", "two"]) {
        serve(&server.space, ANY, 80, word);
    }
    let rules = |count: usize| -> Vec<PortRule> {
        let instance = |at: usize, ip| {
            BOTH.map(|p| PortRule {
                container: ["web", "web-2"][at].parse().unwrap(),
                service: Some("web".parse().unwrap()),
                ..port6(p, ip, 8080, &servers[at].at, 80)
            })
        };
        (0..count)
            .flat_map(|at| [instance(at, None), instance(at, Some(SECOND6))].concat())
            .collect()
    };
    let state = host.apply(&[&n], rules(2));
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    for to in [HOST6, SECOND6] {
        for protocol in BOTH {
            let mut heard = std::collections::BTreeSet::new();
            for _ in 0..64 {
                heard.insert(ask(&host.neighbour, protocol, to, 8080)[..3].to_owned());
            }
            assert_eq!(heard.len(), 2, "{protocol} {to}: {heard:?}");
        }
    }
    let flows: Vec<UdpSocket> = (0..8)
        .map(|_| {
            host.neighbour.run(|| {
                let flow = UdpSocket::bind((ANY, 0)).unwrap();
                flow.connect((HOST6, 8080)).unwrap();
                flow
            })
        })
        .collect();
    let said: Vec<String> = flows.iter().map(talk_long).collect();
    let again: Vec<String> = flows.iter().map(talk_long).collect();
    assert_eq!(said, again);
    host.apply(&[&n], rules(1));
    assert!(flows.iter().map(talk_long).all(|word| word.starts_with("one ")));
    host.apply(&[&n], rules(2));
    assert!(flows.iter().map(talk_long).all(|word| !word.is_empty()));
    // Whom the list leaves out now is out in the middle of a flow, whatever slot that has.
    let mut closed = rules(2);
    closed
        .iter_mut()
        .for_each(|rule| rule.allow.push("fd00:99::/64".parse().unwrap()));
    host.apply(&[&n], closed);
    std::thread::scope(|scope| {
        for flow in &flows {
            scope.spawn(|| host::talk(flow, host::PATIENCE).unwrap_err());
        }
    });
}

/// The table as it is, as a dry run onto itself, and after it was lost.
#[test]
fn nft_restores_what_it_listed() {
    let host = Host::shared();
    let n = dual("front", 1);
    let mut state = FirewallState {
        bridges: vec![bridge_rule(&n), bridge_rule(&network("back", 2))],
        ..FirewallState::default()
    };
    state.bridges[0].dns_port = Some(5300);
    let allow = ["192.0.2.0/24", "2001:db8::/32", "2001:db8:2::/64"].map(|net| net.parse().unwrap());
    for (at, number) in [5, 6].into_iter().enumerate() {
        let to = host::attachment(&n, number);
        for protocol in BOTH {
            for ip in [None, Some(HOST6)] {
                state.ports.push(PortRule {
                    container: ["web", "web-2"][at].parse().unwrap(),
                    service: Some("web".parse().unwrap()),
                    ..port6(protocol, ip, 8080, &to, 80)
                });
                state.ports.push(PortRule {
                    container: format!("db{at}").parse().unwrap(),
                    allow: allow.to_vec(),
                    ..port6(protocol, ip, 5353 + at as u16, &to, 80)
                });
            }
            state.ports.push(PortRule {
                allow: allow.to_vec(),
                ..port(protocol, None, 5353 + at as u16, &to, 80)
            });
        }
    }
    let state = state.sorted();
    host.space.run(|| {
        host.net.apply_firewall(&state).unwrap();
        assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state));
    });
    let before = host.space.sh("nft list ruleset");
    host.space.sh("nft list ruleset | nft -c -f -");
    host.space
        .sh(r#"x="$(nft list ruleset)"; nft flush ruleset; printf '%s\n' "$x" | nft -f -"#);
    assert_eq!(host.space.sh("nft list ruleset"), before);
    host.space.run(|| {
        host.net.apply_firewall(&state).unwrap();
        assert_eq!(host.net.firewall().unwrap(), Some(state));
    });
    // Without a network of IPv6 nothing is left of it.
    host.apply(&[&network("back", 2)], Vec::new());
    let after = host.space.sh("nft list ruleset");
    assert!(!after.contains("ip6") && !after.contains("ipv6"), "{after}");
}

/// Everything that can be broken about a bridge's IPv6 one thing at a time.
const DAMAGE: &[&str] = &[
    "ip link del wh-front",
    "ip link set wh-front down",
    "ip -6 addr flush dev wh-front",
    "ip -6 addr flush dev wh-front scope global",
    "ip -6 addr flush dev wh-front scope link",
    "ip -6 addr add fd00:99::1/64 dev wh-front nodad",
    "ip -6 route del fd00:88:1::/64 dev wh-front",
    "ip -6 route del table local local fd00:88:1::1 dev wh-front",
    "echo 1 > /proc/sys/net/ipv6/conf/wh-front/disable_ipv6",
    "echo 2 > /proc/sys/net/ipv6/conf/wh-front/accept_ra",
    "echo 0 > /proc/sys/net/ipv6/conf/wh-front/forwarding",
    "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    "nft flush ruleset",
    "nft delete element inet wharf subnets6 '{ wh-front . fd00:88:1::/64 }'",
];

/// As it is seen; what the kernel does a moment later by itself is waited for.
fn seen(host: &Host) -> String {
    host.space.run(|| {
        let mut links = host.net.links().unwrap();
        let link = links.remove("wh-front").map(|link| ObservedLink {
            // One that is made anew has another number.
            index: 0,
            ..link
        });
        let firewall = host.net.firewall().unwrap();
        let forwarding = host.net.forwarding6().unwrap();
        format!("{link:?}\n{firewall:?}\n{forwarding}")
    })
}

#[test]
fn a_bridge_is_put_right_after_every_damage() {
    let host = Host::shared();
    let n = dual("front", 1);
    let apply = || host.space.run(|| host.net.apply_bridge(&n).unwrap());
    apply();
    let right = seen(&host);
    let link = host.space.run(|| host.net.links().unwrap()["wh-front"].clone());
    assert_eq!(link.ipv6, Ipv6State::On, "{link:?}");
    assert_eq!(link.addresses6, ["fd00:88:1::1/64".parse().unwrap()]);
    let shown = host.space.sh("ip -6 addr show wh-front");
    assert!(shown.contains("nodad") && !shown.contains("tentative"), "{shown}");
    for damage in DAMAGE {
        let monitor = host.space.run(|| net::Monitor::new().unwrap());
        host.space.sh(damage);
        // An address is in use a moment after it is there.
        let since = std::time::Instant::now();
        while seen(&host) == right {
            assert!(since.elapsed() < host::LONG, "{damage} damaged nothing");
        }
        // Of one setting alone the kernel tells nobody.
        if !damage.contains("accept_ra") {
            let event = host.space.run(|| monitor.drain().unwrap());
            assert!(event.links || event.firewall, "{damage} is told of: {event:?}");
        }
        apply();
        assert_eq!(seen(&host), right, "after {damage}");
    }
    let routes = host.space.sh("ip -6 route show table local dev wh-front");
    assert_eq!(routes.matches("local fd00:88:1::1 ").count(), 1, "{routes}");
    // Without it, none is left.
    host.space
        .run(|| host.net.apply_bridge(&network("front", 1)).unwrap());
    let link = host.space.run(|| host.net.links().unwrap()["wh-front"].clone());
    assert_eq!((link.ipv6, link.addresses6.len()), (Ipv6State::Off, 0));
}

#[test]
fn a_container_has_ipv6_where_its_network_has_it() {
    let host = Host::dual(None);
    let (with, without) = (dual("front", 1), network("back", 2));
    host.apply(&[&with, &without], Vec::new());
    let (a, b) = (host.container(&with, 5), host.container(&without, 5));
    let shown = a
        .space
        .sh("ip -6 addr show eth0; cat /proc/sys/net/ipv6/conf/eth0/accept_ra");
    assert!(shown.contains("fd00:88:1::5/64 scope global nodad"), "{shown}");
    assert!(shown.ends_with("0\n"), "{shown}");
    assert_eq!(b.space.sh("ip -6 addr show eth0"), "");
    assert_eq!(b.space.sh("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6"), "1\n");
    // Host ends have no address that could be asked anything.
    for c in [&a, &b] {
        let shown = host.space.sh(&format!("ip -6 addr show {}", c.at.host_device));
        assert_eq!(shown, "");
    }
}

#[test]
fn forwarding_is_off_again_without_its_guard() {
    for was_on in [false, true] {
        let host = Host::shared();
        let setting = "/proc/sys/net/ipv6/conf/all/forwarding";
        host.space.sh(&format!("echo {} > {setting}", u8::from(was_on)));
        let forwards = || host.space.sh(&format!("cat {setting}")) == "1\n";
        let rule = || {
            let table = host.space.sh("nft list table inet wharf");
            table.contains("forwarding of IPv6 was off")
        };
        let (front, back) = (dual("front", 1), network("back", 2));
        host.apply(&[&back], Vec::new());
        assert_eq!(forwards(), was_on, "no network asked for it");
        host.apply(&[&front, &back], Vec::new());
        assert!(forwards() && rule() != was_on && host.net.forward_guard6() != was_on);
        // One that was just started knows it from the table alone.
        let new = host.space.run(|| net::Net::sharing_its_table("test").unwrap());
        host.space.run(|| new.firewall().unwrap().unwrap());
        assert_eq!(new.forward_guard6(), !was_on);
        // The last network with IPv6 goes.
        host.apply(&[&back], Vec::new());
        assert!(forwards() == was_on && !rule() && !host.net.forward_guard6());
        host.apply(&[&front, &back], Vec::new());
        host.space.run(|| host.net.remove_firewall().unwrap());
        assert_eq!(forwards(), was_on);
    }
}

fn forwarding_that_was_off_is_for_our_bridges_alone(on: On) {
    for was_on in [false, true] {
        let host = on.dual(None);
        let on = u8::from(was_on);
        host.space
            .sh(&format!("echo {on} > /proc/sys/net/ipv6/conf/all/forwarding"));
        host.apply(&[&dual("front", 1)], Vec::new());
        // A second network of somebody else's, behind the host.
        let far = Space::new();
        host.space.sh(&format!(
            "ip link add far type veth peer name eth0 netns {}; ip addr add 2001:db8:9::1/64 dev far nodad; ip link set far up",
            far.path()
        ));
        far.sh("ip addr add 2001:db8:9::2/64 dev eth0 nodad; ip link set eth0 up; ip route add default via 2001:db8:9::1");
        host.neighbour
            .sh(&format!("ip route add 2001:db8:9::/64 via {HOST6}"));
        // The host asks for neighbours of what it only passes on with its address of the link, once that is its own.
        link_local(&host.space, "far");
        serve(&far, ANY, 80, "far");
        let there = "2001:db8:9::2".parse::<IpAddr>().unwrap();
        match was_on {
            true => assert!(ask(&host.neighbour, Tcp, there, 80).starts_with("far ")),
            false => refuse(&host.neighbour, Tcp, there, 80),
        }
    }
}

fn link_local(space: &Space, device: &str) -> Ipv6Addr {
    let line = format!(
        "until ip -6 -o addr show dev {device} scope link | grep -v tentative | grep -q fe80; do sleep 0.01; done;
         ip -6 -o addr show dev {device} scope link"
    );
    let shown = space.sh(&line);
    let address = shown
        .split_whitespace()
        .find(|word| word.starts_with("fe80"))
        .unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

/// Says to somebody there that it is a router for the next half an hour, with a subnet to take addresses from.
fn advertise(space: &Space, device: &str, to: Ipv6Addr, subnet: &str) {
    let index: u32 = space
        .sh(&format!("ip -o link show {device} | cut -d: -f1"))
        .trim()
        .parse()
        .unwrap();
    space.run(|| {
        let fd = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::IcmpV6,
        )
        .unwrap();
        // Routers are on the link: nobody has forwarded what they say.
        setsockopt(&fd, sockopt::Ipv6Ttl, &255).unwrap();
        let mut packet = vec![134, 0, 0, 0, 64, 0];
        packet.extend(1800_u16.to_be_bytes());
        packet.extend([0; 8]);
        // Prefix information (RFC 4861, 4.6.2).
        packet.extend([3, 4, 64, 0xc0]);
        packet.extend(3600_u32.to_be_bytes());
        packet.extend(1800_u32.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(subnet.parse::<Ipv6Addr>().unwrap().octets());
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, index));
        sendto(fd.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
}

/// Until the host has heard of it, on however busy a machine.
fn until_heard(host: &Host, line: &str) {
    host.space.sh(&format!(
        "for i in $(seq 2000); do {line} && exit; sleep 0.01; done; ip -6 route >&2; exit 1"
    ));
}

#[test]
fn what_the_host_hears_of_routers_it_goes_on_hearing() {
    let host = Host::new();
    host.space.sh("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
    let (router, own) = (
        link_local(&host.neighbour, "eth0"),
        link_local(&host.space, "lan"),
    );
    let learned = format!("ip -6 route show default | grep -q 'via {router} dev lan'");
    advertise(&host.neighbour, "eth0", own, "2001:db8:7::");
    until_heard(&host, &learned);
    until_heard(&host, "ip -6 addr show lan | grep -q 2001:db8:7:");
    host.apply(&[&dual("front", 1)], Vec::new());
    host.space.sh(&learned);
    assert!(host.space.run(|| host.net.forwarding6().unwrap()));
    // And what comes later, also where no route was there.
    host.space.sh("ip -6 route flush default");
    advertise(&host.neighbour, "eth0", own, "2001:db8:7::");
    until_heard(&host, &learned);
    // A device that somebody turns back is seen and turned again.
    host.space.sh("echo 1 > /proc/sys/net/ipv6/conf/lan/accept_ra");
    assert!(!host.space.run(|| host.net.forwarding6().unwrap()));
    host.apply(&[&dual("front", 1)], Vec::new());
    assert_eq!(host.space.sh("cat /proc/sys/net/ipv6/conf/lan/accept_ra"), "2\n");
}

#[test]
fn a_container_that_poses_as_a_router_is_believed_by_nobody() {
    let host = Host::dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (liar, other) = (host.container(&n, 5), host.container(&n, 6));
    let bridge = link_local(&host.space, "wh-front");
    let sibling = link_local(&other.space, "eth0");
    link_local(&liar.space, "eth0");
    for to in [bridge, sibling, "ff02::1".parse().unwrap()] {
        advertise(&liar.space, "eth0", to, "2001:db8:bad::");
    }
    // What is sent after it by the same way arrives after it.
    serve(&host.space, gateway6(&n), 7000, "host");
    serve(&other.space, ANY, 7000, "other");
    assert!(ask(&liar.space, Udp, gateway6(&n), 7000).starts_with("host "));
    assert!(ask(&liar.space, Udp, other.ip6(), 7000).starts_with("other "));
    for space in [&host.space, &other.space] {
        let known = space.sh("ip -6 addr; ip -6 route");
        assert!(
            !known.contains("2001:db8:bad") && !known.contains("proto ra"),
            "{known}"
        );
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

#[test]
fn the_rules_of_ip6tables_legacy_are_judged() {
    let host = Host::dual(None);
    let (n, four) = (dual("front", 1), network("four", 4));
    host.apply(&[&n, &four], Vec::new());
    let c = web(&host, &n, 5);
    host.apply(&[&n, &four], published(&c, 8080));
    let told = || host.space.run(|| host.net.foreign_drops().unwrap());
    host.space.sh("ip6tables-legacy -S");
    assert!(told().is_empty(), "{:?}", told());
    host.space
        .sh("ip6tables-legacy -A FORWARD -i wh-front -j DROP; ip6tables-legacy -P FORWARD DROP");
    refuse(&host.neighbour, Tcp, HOST6, 8080);
    let drops = told();
    let [drop] = &drops[..] else {
        panic!("{drops:?}");
    };
    assert_eq!(
        (drop.by.as_str(), &drop.bridges[..]),
        ("ip6tables-legacy", &["wh-front".to_owned()][..])
    );
    for advice in [1, 3].map(|at| drop.told.split('`').nth(at).unwrap()) {
        assert!(advice.starts_with("ip6tables-legacy -I FORWARD"), "{advice}");
        host.space.sh(advice);
    }
    assert!(told().is_empty(), "{:?}", told());
    assert_eq!(
        ask(&host.neighbour, Tcp, HOST6, 8080),
        format!("web {NEIGHBOUR6}")
    );
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

/// Rules of ip6tables as ufw and Docker leave them: what none is about is dropped.
#[test]
fn a_way_through_what_ip6tables_drops() {
    let mut host = Host::dual(None);
    host.net = host.space.run(|| net::Net::sharing_its_table("test").unwrap());
    let (n, four) = (dual("front", 1), network("four", 4));
    host.apply(&[&n, &four], Vec::new());
    let c = web(&host, &n, 5);
    let state = host.apply(&[&n, &four], published(&c, 8080));
    host.space.sh(
        "ip6tables -P FORWARD DROP; ip6tables -A FORWARD -m conntrack --ctstate INVALID -j DROP;
         ip6tables -P INPUT DROP; ip6tables -A INPUT -p ipv6-icmp -j ACCEPT",
    );
    let theirs = || {
        host.space
            .sh("ip6tables-save | grep -v '^#' | grep -v WHARF- | sed -E 's/\\[[0-9:]+\\]//'")
    };
    let before = theirs();
    serve(&host.space, gateway6(&n), 53, "names");
    refuse(&host.neighbour, Tcp, HOST6, 8080);
    host.space.run(|| {
        assert_eq!(host.net.firewall().unwrap(), None, "nothing was to be put right");
        host.net.apply_firewall(&state).unwrap();
        assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state));
    });
    for protocol in BOTH {
        assert_eq!(
            ask(&host.neighbour, protocol, HOST6, 8080),
            format!("web {NEIGHBOUR6}")
        );
        assert!(ask(&c.space, protocol, gateway6(&n), 53).starts_with("names "));
        refuse(&c.space, protocol, HOST6, 53);
    }
    assert_eq!(theirs(), before);
    // ip6tables shows it, and takes what it shows.
    let shown = host.space.sh("ip6tables-save");
    assert!(
        shown.contains("-A WHARF-INPUT -d fd00:88:1::/64 -i wh-front -p udp"),
        "{shown}"
    );
    assert!(!shown.contains("wh-four"), "{shown}");
    host.space.sh("ip6tables-save | ip6tables-restore");
    host.space.run(|| {
        assert!(host.net.foreign_drops().unwrap().is_empty());
        host.net.remove_firewall().unwrap();
    });
    assert!(!host.space.sh("ip6tables-save").contains("WHARF"));
    // A chain that is none of ip6tables' is told of, at the network that it concerns.
    host.apply(&[&n, &four], Vec::new());
    host.space
        .sh("nft 'add table ip6 site; add chain ip6 site forward { type filter hook forward priority 0; policy drop; }'");
    let told = host.space.run(|| host.net.foreign_drops().unwrap());
    let [told] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(told.told.contains("insert rule ip6 site forward"), "{told:?}");
    assert_eq!(told.bridges, ["wh-front"]);
}
