//! Real packets: what must get through, and what must not.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{Ipv4Addr, UdpSocket};

use host::senders::route_loopback_to;
use host::{
    Container, HOST, Host, LOCALHOST, NEIGHBOUR, On, SECOND, Space, ask, network, port, refuse, serve,
    talk_long,
};
use model::firewall::Protocol::{self, Tcp, Udp};
use model::network::HostNetwork;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

host::on_every_backend! {
    a_published_port_is_reached_from_everywhere_with_bridge_nf
    a_published_port_is_reached_from_everywhere_without_bridge_nf
    the_way_out_is_masqueraded_unless_told_otherwise
    a_neighbour_reaches_nothing_but_published_ports
    a_port_on_127_0_0_1_is_for_the_host_alone
    a_container_cannot_pose_as_the_hosts_loopback
    a_bound_port_answers_on_its_address_alone
    a_port_on_an_address_the_host_does_not_have_takes_nobodys_traffic
    networks_are_apart_but_for_published_ports
    a_port_moves_and_udp_flows_move_with_it
    forwarding_is_off_again_without_its_guard
    forwarding_that_was_off_is_for_our_bridges_alone
}

fn web(host: &Host, n: &HostNetwork, number: u8) -> Container {
    let c = host.container(n, number);
    serve(&c.space, ANY, 80, "web");
    c
}

fn published(host: &Host, n: &HostNetwork, c: &Container) {
    let rule = |protocol| port(protocol, None, 8080, &c.at, 80);
    host.apply(&[n], vec![rule(Tcp), rule(Udp)]);
}

fn published_port_is_reached_from_everywhere(on: On, bridge_nf: bool) {
    let host = on.bridge_nf(bridge_nf);
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let c = web(&host, &n, 5);
    let other = host.container(&n, 6);
    published(&host, &n, &c);
    for protocol in BOTH {
        assert_eq!(
            ask(&host.neighbour, protocol, HOST, 8080),
            format!("web {NEIGHBOUR}")
        );
        assert_eq!(
            ask(&host.neighbour, protocol, SECOND, 8080),
            format!("web {NEIGHBOUR}")
        );
        assert_eq!(ask(&host.space, protocol, HOST, 8080), format!("web {HOST}"));
        assert_eq!(ask(&host.space, protocol, LOCALHOST, 8080), "web 10.88.1.1");
        assert_eq!(
            ask(&host.space, protocol, host::gateway(&n), 8080),
            "web 10.88.1.1"
        );
        assert_eq!(ask(&host.space, protocol, c.ip(), 80), "web 10.88.1.1");
        // Hairpin: itself and a sibling, by the host's addresses.
        assert_eq!(ask(&c.space, protocol, HOST, 8080), "web 10.88.1.1");
        assert_eq!(ask(&c.space, protocol, host::gateway(&n), 8080), "web 10.88.1.1");
        assert_eq!(ask(&other.space, protocol, HOST, 8080), "web 10.88.1.1");
        // Siblings directly, with their own addresses.
        assert_eq!(
            ask(&other.space, protocol, c.ip(), 80),
            format!("web {}", other.ip())
        );
        refuse(&host.neighbour, protocol, HOST, 8081);
    }
}

fn a_published_port_is_reached_from_everywhere_with_bridge_nf(on: On) {
    published_port_is_reached_from_everywhere(on, true);
}

fn a_published_port_is_reached_from_everywhere_without_bridge_nf(on: On) {
    published_port_is_reached_from_everywhere(on, false);
}

fn the_way_out_is_masqueraded_unless_told_otherwise(on: On) {
    let host = on.host();
    let (mut n, mut open) = (network("front", 1), network("open", 2));
    open.ip.v4_mut().unwrap().masquerade = false;
    host.apply(&[&n, &open], Vec::new());
    let (a, b) = (host.container(&n, 5), host.container(&open, 5));
    serve(&host.neighbour, ANY, 9000, "lan");
    for protocol in BOTH {
        assert_eq!(ask(&a.space, protocol, NEIGHBOUR, 9000), format!("lan {HOST}"));
        refuse(&b.space, protocol, NEIGHBOUR, 9000);
    }
    host.neighbour.sh("ip route add 10.88.2.0/24 via 192.0.2.1");
    for protocol in BOTH {
        assert_eq!(
            ask(&b.space, protocol, NEIGHBOUR, 9000),
            format!("lan {}", b.ip())
        );
    }
    n.internal = true;
    host.apply(&[&n, &open], Vec::new());
    for protocol in BOTH {
        refuse(&a.space, protocol, NEIGHBOUR, 9000);
    }
}

fn a_neighbour_reaches_nothing_but_published_ports(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let c = web(&host, &n, 5);
    serve(&c.space, ANY, 81, "private");
    published(&host, &n, &c);
    host.neighbour.sh("ip route add 10.88.1.0/24 via 192.0.2.1");
    for protocol in BOTH {
        refuse(&host.neighbour, protocol, c.ip(), 80);
        refuse(&host.neighbour, protocol, c.ip(), 81);
        assert_eq!(ask(&host.space, protocol, c.ip(), 81), "private 10.88.1.1");
    }
}

fn a_port_on_127_0_0_1_is_for_the_host_alone(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (c, other) = (web(&host, &n, 5), host.container(&n, 6));
    let rule = |protocol, ip, number| port(protocol, ip, number, &c.at, 80);
    let rules = BOTH
        .map(|p| [rule(p, Some(LOCALHOST), 8080), rule(p, None, 8090)])
        .concat();
    host.apply(&[&n], rules);
    serve(&host.space, LOCALHOST, 7000, "secret");
    for protocol in BOTH {
        assert_eq!(ask(&host.space, protocol, LOCALHOST, 8080), "web 10.88.1.1");
        refuse(&host.space, protocol, HOST, 8080);
        refuse(&host.neighbour, protocol, HOST, 8080);
        refuse(&other.space, protocol, host::gateway(&n), 8080);
    }
    route_loopback_to(&host.neighbour, HOST);
    route_loopback_to(&other.space, host::gateway(&n));
    for protocol in BOTH {
        for from in [&host.neighbour, &other.space] {
            for number in [8080, 8090, 7000] {
                refuse(from, protocol, LOCALHOST, number);
            }
        }
        assert_eq!(ask(&host.space, protocol, LOCALHOST, 7000), "secret 127.0.0.1");
    }
}

fn a_container_cannot_pose_as_the_hosts_loopback(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let c = host.container(&n, 5);
    let heard = host
        .space
        .run(|| UdpSocket::bind((host::gateway(&n), 7000)).unwrap());
    heard
        .set_read_timeout(Some(std::time::Duration::from_millis(400)))
        .unwrap();
    let mut buffer = [0; 8];
    let say = |from: Ipv4Addr| {
        c.space.run(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            let _ = socket.send_to(b"x", (host::gateway(&n), 7000));
        });
    };
    c.space.sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
    c.space.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    say(Ipv4Addr::new(127, 0, 0, 2));
    assert!(heard.recv_from(&mut buffer).is_err());
    say(c.ip());
    heard.set_read_timeout(Some(host::LONG)).unwrap();
    heard.recv_from(&mut buffer).unwrap();
}

fn a_bound_port_answers_on_its_address_alone(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "other");
    let rules = BOTH.map(|p| {
        [
            port(p, Some(SECOND), 8080, &a.at, 80),
            port(p, Some(HOST), 8080, &b.at, 80),
        ]
    });
    host.apply(&[&n], rules.concat());
    for protocol in BOTH {
        for from in [&host.neighbour, &host.space] {
            assert!(ask(from, protocol, SECOND, 8080).starts_with("web "));
            assert!(ask(from, protocol, HOST, 8080).starts_with("other "));
        }
        refuse(&host.space, protocol, LOCALHOST, 8080);
        refuse(&host.space, protocol, host::gateway(&n), 8080);
    }
    host.apply(
        &[&n],
        BOTH.map(|p| port(p, Some(SECOND), 8080, &a.at, 80)).to_vec(),
    );
    for protocol in BOTH {
        refuse(&host.neighbour, protocol, HOST, 8080);
        refuse(&host.space, protocol, HOST, 8080);
    }
}

fn a_port_on_an_address_the_host_does_not_have_takes_nobodys_traffic(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (c, other) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&host.neighbour, ANY, 8080, "lan");
    host.apply(&[&n], vec![port(Tcp, Some(NEIGHBOUR), 8080, &c.at, 80)]);
    assert!(ask(&other.space, Tcp, NEIGHBOUR, 8080).starts_with("lan "));
    assert!(ask(&host.space, Tcp, NEIGHBOUR, 8080).starts_with("lan "));
}

fn networks_are_apart_but_for_published_ports(on: On) {
    let host = on.host();
    let (front, back, mut closed) = (network("front", 1), network("back", 2), network("closed", 3));
    closed.internal = true;
    let all = [&front, &back, &closed];
    host.apply(&all, Vec::new());
    let (a, b, c) = (
        web(&host, &front, 5),
        web(&host, &back, 5),
        web(&host, &closed, 5),
    );
    let sibling = host.container(&closed, 6);
    let rules = BOTH
        .map(|p| [port(p, None, 8080, &a.at, 80), port(p, None, 8083, &c.at, 80)])
        .concat();
    host.apply(&all, rules);
    for protocol in BOTH {
        refuse(&a.space, protocol, b.ip(), 80);
        refuse(&b.space, protocol, a.ip(), 80);
        refuse(&a.space, protocol, c.ip(), 80);
        refuse(&c.space, protocol, a.ip(), 80);
        assert!(ask(&b.space, protocol, HOST, 8080).starts_with("web "));
        refuse(&c.space, protocol, HOST, 8080);
        refuse(&host.neighbour, protocol, HOST, 8083);
        refuse(&b.space, protocol, HOST, 8083);
        assert!(ask(&host.space, protocol, LOCALHOST, 8083).starts_with("web "));
        assert!(ask(&sibling.space, protocol, c.ip(), 80).starts_with("web "));
        assert!(ask(&sibling.space, protocol, host::gateway(&closed), 8083).starts_with("web "));
    }
}

fn a_port_moves_and_udp_flows_move_with_it(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "new");
    let socket = |space: &Space, to: Ipv4Addr| {
        space.run(|| {
            let socket = UdpSocket::bind((ANY, 0)).unwrap();
            socket.connect((to, 8080)).unwrap();
            socket.set_read_timeout(Some(host::LONG)).unwrap();
            socket
        })
    };
    // A flow that began before the port was there at all.
    let early = socket(&host.neighbour, HOST);
    early.send(b"?").unwrap();
    let _ = early.recv(&mut [0; 8]);
    published(&host, &n, &a);
    let flows = [
        early,
        socket(&host.neighbour, SECOND),
        socket(&host.space, LOCALHOST),
        socket(&b.space, HOST),
    ];
    for flow in &flows {
        assert!(talk_long(flow).starts_with("web "), "{flow:?}");
    }
    published(&host, &n, &b);
    for flow in &flows {
        assert!(talk_long(flow).starts_with("new "), "{flow:?}");
    }
    assert!(ask(&host.neighbour, Tcp, HOST, 8080).starts_with("new "));
    host.apply(&[&n], Vec::new());
    for protocol in BOTH {
        refuse(&host.neighbour, protocol, HOST, 8080);
        refuse(&host.space, protocol, LOCALHOST, 8080);
    }
}

/// The table as an agent leaves it that was killed between the change of a port and the flows to it.
#[test]
fn udp_flows_move_also_when_the_agent_died_over_it() {
    let host = Host::shared();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "new");
    published(&host, &n, &a);
    let flow = host.neighbour.run(|| UdpSocket::bind((ANY, 0)).unwrap());
    flow.connect((HOST, 8080)).unwrap();
    assert!(talk_long(&flow).starts_with("web "));
    host.space.sh(
        "nft 'delete element inet wharf ports_any { udp . 8080 };
           add element inet wharf ports_any { udp . 8080 comment \"web@wh-front\" : 10.88.1.6 . 80 };
           add element inet wharf stale_udp { 0.0.0.0 . 8080 . 10.88.1.5 . 80, 0.0.0.0 . 8080 . 10.88.1.6 . 80 }'",
    );
    assert!(talk_long(&flow).starts_with("web "), "nothing was to be mended");
    let wanted = model::firewall::FirewallState {
        bridges: vec![host::bridge_rule(&n)],
        ports: vec![port(Tcp, None, 8080, &a.at, 80), port(Udp, None, 8080, &b.at, 80)],
        ..Default::default()
    };
    let again = host.space.run(|| net::Net::sharing_its_table("test").unwrap());
    host.space.run(|| {
        assert_eq!(again.firewall().unwrap(), None);
        again.apply_firewall(&wanted).unwrap();
        assert_eq!(again.firewall().unwrap(), Some(wanted));
    });
    assert!(talk_long(&flow).starts_with("new "));
}

fn forwarding_is_off_again_without_its_guard(on: On) {
    for (was_on, another) in [(false, false), (false, true), (true, false)] {
        let host = on.shared();
        let setting = u8::from(was_on);
        host.space
            .sh(&format!("echo {setting} > /proc/sys/net/ipv4/ip_forward"));
        host.apply(&[&network("front", 1)], Vec::new());
        assert!(host.space.run(|| host.net.forwarding().unwrap()));
        // One that was just started knows it from the table alone.
        let new = host.another_agent();
        let net = if another { &new } else { &host.net };
        host.space.run(|| net.remove_firewall().unwrap());
        assert_eq!(host.space.run(|| net.forwarding().unwrap()), was_on);
        assert!(!net.forward_guard());
        // What the host does with its forwarding from now on is not wharf's.
        host.space.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        host.space.run(|| net.apply_bridge(&network("front", 1)).unwrap());
        assert!(!net.forward_guard());
        assert!(!host.rules().contains("forwarding was off"));
    }
}

fn forwarding_that_was_off_is_for_our_bridges_alone(on: On) {
    for was_on in [false, true] {
        let host = on.shared();
        host.space.sh(&format!(
            "echo {} > /proc/sys/net/ipv4/ip_forward",
            u8::from(was_on)
        ));
        let n = network("front", 1);
        host.apply(&[&n], Vec::new());
        assert!(host.space.run(|| host.net.forwarding().unwrap()));
        assert_eq!(host.net.forward_guard(), !was_on);
        // A second network of somebody else's, behind the host.
        let far = Space::new();
        host.space.run(|| {
            // Its pair is made by a container's attachment to a bridge that is then taken over by hand.
            let at = host::attachment(&n, 9);
            host.net.attach(far.fd(), &at, "far").unwrap();
            let line = format!(
                "ip link set {0} nomaster; ip addr add 198.51.100.1/24 dev {0}; ip link set {0} up",
                at.host_device
            );
            assert!(
                std::process::Command::new("sh")
                    .args(["-c", &line])
                    .status()
                    .unwrap()
                    .success()
            );
        });
        far.sh("ip addr flush dev eth0; ip addr add 198.51.100.2/24 dev eth0; ip route add default via 198.51.100.1");
        host.neighbour.sh("ip route add 198.51.100.0/24 via 192.0.2.1");
        serve(&far, ANY, 80, "far");
        if was_on {
            assert!(ask(&host.neighbour, Tcp, Ipv4Addr::new(198, 51, 100, 2), 80).starts_with("far "));
        } else {
            refuse(&host.neighbour, Tcp, Ipv4Addr::new(198, 51, 100, 2), 80);
        }
        // A new agent learns it from the table.
        let again = host.another_agent();
        host.space.run(|| again.firewall().unwrap().unwrap());
        assert_eq!(again.forward_guard(), !was_on);
    }
}

/// Takes a rule out of the table by its comment.
fn without_rule(host: &Host, chain: &str, comment: &str) {
    host.space.sh(&format!(
        "h=$(nft -a list chain inet wharf {chain} | grep -F \"{comment}\" | sed 's/.* handle //' | head -1); nft delete rule inet wharf {chain} handle $h"
    ));
}

/// What the tests above say cannot be done can be done as soon as the rule against it is gone: they do look.
#[test]
fn every_protection_is_needed() {
    let host = Host::shared();
    // Else the guard would stand in for a missing rule.
    host.space.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    let (front, back, mut closed) = (network("front", 1), network("back", 2), network("closed", 3));
    closed.internal = true;
    let all = [&front, &back, &closed];
    host.apply(&all, Vec::new());
    let (a, b, c) = (
        web(&host, &front, 5),
        web(&host, &back, 5),
        web(&host, &closed, 5),
    );
    let state = host.apply(&all, vec![port(Tcp, Some(LOCALHOST), 8080, &a.at, 80)]);
    let repair = || host.space.run(|| host.net.apply_firewall(&state).unwrap());
    serve(&host.space, LOCALHOST, 7000, "secret");
    serve(&host.neighbour, ANY, 9000, "lan");

    host.neighbour.sh("ip route add 10.88.0.0/16 via 192.0.2.1");
    without_rule(&host, "forward", "nobody else reaches a container");
    assert!(ask(&host.neighbour, Tcp, a.ip(), 80).starts_with("web "));
    assert!(ask(&b.space, Tcp, a.ip(), 80).starts_with("web "));
    repair();
    refuse(&host.neighbour, Tcp, a.ip(), 80);

    without_rule(&host, "forward", "an internal network has no way out");
    without_rule(&host, "forward", "nor in");
    assert!(ask(&c.space, Tcp, NEIGHBOUR, 9000).starts_with("lan "));
    repair();
    refuse(&c.space, Tcp, NEIGHBOUR, 9000);

    route_loopback_to(&b.space, host::gateway(&back));
    without_rule(&host, "loopback", "do not reach the host's loopback");
    assert!(ask(&b.space, Tcp, LOCALHOST, 7000).starts_with("secret "));
    repair();
    refuse(&b.space, Tcp, LOCALHOST, 7000);

    route_loopback_to(&host.neighbour, HOST);
    without_rule(&host, "prerouting", "for the host alone");
    assert!(ask(&host.neighbour, Tcp, LOCALHOST, 8080).starts_with("web "));
    repair();
    refuse(&host.neighbour, Tcp, LOCALHOST, 8080);
}
