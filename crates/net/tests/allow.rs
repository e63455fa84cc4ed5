//! Published ports that are not for everybody, and names asked at another port than 53.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{Ipv4Addr, UdpSocket};

use host::{
    Container, HOST, Host, LOCALHOST, NEIGHBOUR, On, SECOND, ask, attachment, network, port, refuse_all,
    serve, talk_long,
};
use ipnet::IpNet;
use model::firewall::Protocol::{self, Tcp, Udp};
use model::firewall::{FirewallState, PortRule};
use model::network::HostNetwork;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// A second address of the neighbour.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

host::on_every_backend! {
    only_those_on_the_list_get_in
    a_list_is_changed_on_the_running_port
    names_are_asked_where_the_name_server_listens
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = list.iter().map(|net| net.parse().unwrap()).collect();
    nets.sort();
    nets
}

fn web(host: &Host, n: &HostNetwork, number: u8) -> Container {
    let c = host.container(n, number);
    serve(&c.space, ANY, 80, "web");
    c
}

fn listed(c: &Container, ip: Option<Ipv4Addr>, number: u16, allow: &[&str]) -> Vec<PortRule> {
    let rule = |protocol| PortRule {
        allow: nets(allow),
        ..port(protocol, ip, number, &c.at, 80)
    };
    BOTH.map(rule).to_vec()
}

fn only_those_on_the_list_get_in(on: On) {
    for bridge_nf in [true, false] {
        let host = on.bridge_nf(bridge_nf);
        let (n, other) = (network("front", 1), network("back", 2));
        host.apply(&[&n, &other], Vec::new());
        let c = web(&host, &n, 5);
        let (friend, sibling, far) = (
            host.container(&n, 6),
            host.container(&n, 7),
            host.container(&other, 5),
        );
        // Something of the host's own on that port: who is turned away does not get there instead.
        serve(&host.space, ANY, 8080, "host");
        host.apply(
            &[&n, &other],
            [
                listed(&c, None, 8080, &["192.0.2.2/32", "10.88.1.6/32"]),
                listed(&c, Some(SECOND), 8090, &["198.51.100.0/24"]),
                listed(&c, None, 8100, &[]),
            ]
            .concat(),
        );
        host.neighbour.sh(&format!("ip addr add {STRANGER}/24 dev eth0"));
        for protocol in BOTH {
            assert_eq!(
                ask(&host.neighbour, protocol, HOST, 8080),
                format!("web {NEIGHBOUR}")
            );
            ask(&friend.space, protocol, HOST, 8080);
            // The host's own processes are on every list.
            for to in [HOST, SECOND, LOCALHOST, host::gateway(&n)] {
                assert!(ask(&host.space, protocol, to, 8080).starts_with("web "));
            }
            assert!(ask(&host.space, protocol, SECOND, 8090).starts_with("web "));
            for from in [&host.neighbour, &far.space, &sibling.space] {
                assert!(ask(from, protocol, HOST, 8100).starts_with("web "));
            }
        }
        refuse_all(
            "not on the list",
            &[
                (&sibling.space, HOST, 8080),
                (&sibling.space, host::gateway(&n), 8080),
                (&far.space, HOST, 8080),
                (&far.space, host::gateway(&other), 8080),
                (&c.space, HOST, 8080),
                (&host.neighbour, SECOND, 8090),
                (&far.space, SECOND, 8090),
            ],
        );
        as_stranger(&host, |space| {
            for protocol in BOTH {
                assert!(ask(space, protocol, HOST, 8100).starts_with("web "));
            }
            // And past the published port: routed to the container itself.
            refuse_all("a stranger", &[(space, HOST, 8080), (space, c.ip(), 80)]);
        });
    }
}

/// The neighbour by its second address.
fn as_stranger(host: &Host, work: impl FnOnce(&host::Space)) {
    host.neighbour.sh(&format!(
        "ip route replace 192.0.2.0/24 dev eth0 src {STRANGER}; ip route add 10.88.1.0/24 via {HOST} src {STRANGER}"
    ));
    work(&host.neighbour);
    host.neighbour
        .sh("ip route replace 192.0.2.0/24 dev eth0 src 192.0.2.2; ip route del 10.88.1.0/24");
}

fn a_list_is_changed_on_the_running_port(on: On) {
    let host = on.host();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let c = web(&host, &n, 5);
    let with = |allow: &[&str]| {
        let state = host.apply(&[&n], listed(&c, None, 8080, allow));
        assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    };
    with(&[]);
    let flow = host.neighbour.run(|| UdpSocket::bind((ANY, 0)).unwrap());
    flow.connect((HOST, 8080)).unwrap();
    assert!(talk_long(&flow).starts_with("web "));
    for allow in [
        &["10.0.0.0/8"][..],
        &["10.0.0.0/8", "10.1.0.0/16", "192.0.2.3/32"],
    ] {
        with(allow);
        // Also the flow that began while it was let in.
        assert!(host::talk(&flow, host::PATIENCE).is_err());
        refuse_all("not on the list", &[(&host.neighbour, HOST, 8080)]);
    }
    for allow in [
        &["0.0.0.0/0"][..],
        &["192.0.2.2/32"],
        &["192.0.2.0/31", "192.0.2.2/31", "192.0.2.3/32"],
        &["192.0.0.0/9", "192.0.2.0/24", "203.0.113.0/24"],
    ] {
        with(allow);
        assert!(talk_long(&flow).starts_with("web "), "{allow:?}");
        assert!(
            ask(&host.neighbour, Tcp, HOST, 8080).starts_with("web "),
            "{allow:?}"
        );
    }
}

#[test]
fn nobody_gets_in_by_what_others_do_to_the_lists() {
    let host = Host::shared();
    let n = network("front", 1);
    let at = attachment(&n, 5);
    let rule = PortRule {
        allow: nets(&["10.0.0.0/8", "10.1.0.0/16"]),
        ..port(Tcp, None, 8080, &at, 80)
    };
    let state = host.apply(&[&n], vec![rule]);
    for damage in [
        "nft flush set inet wharf closed_any",
        "nft flush set inet wharf allowed_any",
        "nft flush set inet wharf allowed_twice",
        "nft add element inet wharf allowed_any '{ tcp . 8080 . 192.0.2.0-192.0.2.255 }'",
        "nft add element inet wharf allowed_any '{ tcp . 9999 . 192.0.2.0-192.0.2.255 }'",
        "nft add element inet wharf closed_bound '{ tcp . 192.0.2.1 . 8080 }'",
    ] {
        host.space.sh(damage);
        host.space.run(|| {
            assert_ne!(host.net.firewall().unwrap().as_ref(), Some(&state), "{damage}");
            // The repair of a bridge goes by what can be read: a list is lost rather than a port opened.
            host.net.apply_bridge(&n).unwrap();
            let seen = host.net.firewall().unwrap().unwrap_or_default();
            assert!(
                seen.ports.iter().all(|p| !p.allow.is_empty()),
                "{damage}: {seen:?}"
            );
            host.net.apply_firewall(&state).unwrap();
            assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state), "{damage}");
        });
    }
}

/// Without the rule for it a stranger gets in: the tests above do look.
#[test]
fn the_list_is_needed() {
    let host = Host::shared();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let c = web(&host, &n, 5);
    for ip in [None, Some(HOST)] {
        host.apply(&[&n], listed(&c, ip, 8080, &["10.0.0.0/8"]));
        refuse_all("not on the list", &[(&host.neighbour, HOST, 8080)]);
        host.space.sh(
            "for h in $(nft -a list chain inet wharf prerouting | grep 'not on its list' | sed 's/.* handle //'); do nft delete rule inet wharf prerouting handle $h; done",
        );
        for protocol in BOTH {
            assert!(ask(&host.neighbour, protocol, HOST, 8080).starts_with("web "));
        }
    }
}

fn names_are_asked_where_the_name_server_listens(on: On) {
    for bridge_nf in [true, false] {
        let host = on.bridge_nf(bridge_nf);
        let (n, other) = (network("front", 1), network("back", 2));
        host.apply(&[&n, &other], Vec::new());
        let (c, plain) = (host.container(&n, 5), host.container(&other, 5));
        serve(&host.space, HOST, 53, "somebody");
        serve(&host.space, host::gateway(&n), 5300, "names");
        serve(&host.space, host::gateway(&n), 5301, "moved");
        serve(&host.neighbour, NEIGHBOUR, 53, "lan");
        let with = |dns_port| {
            let mut state = FirewallState {
                bridges: [&n, &other].map(host::bridge_rule).to_vec(),
                ..FirewallState::default()
            };
            state.bridges[0].dns_port = dns_port;
            let state = state.sorted();
            host.space.run(|| {
                host.net.apply_firewall(&state).unwrap();
                assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state));
                // Of a network's bridge this is not told: it stays.
                host.net.apply_bridge(&n).unwrap();
                assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state));
            });
        };
        with(Some(5300));
        let flow = c.space.run(|| UdpSocket::bind((ANY, 0)).unwrap());
        flow.connect((host::gateway(&n), 53)).unwrap();
        assert_eq!(talk_long(&flow), format!("names {}", c.ip()));
        for protocol in BOTH {
            assert_eq!(
                ask(&c.space, protocol, host::gateway(&n), 53),
                format!("names {}", c.ip())
            );
            // Any other server is asked itself.
            assert!(ask(&c.space, protocol, HOST, 53).starts_with("somebody "));
            assert!(ask(&c.space, protocol, NEIGHBOUR, 53).starts_with("lan "));
        }
        refuse_all(
            "names",
            &[
                (&plain.space, host::gateway(&other), 53),
                (&plain.space, host::gateway(&n), 53),
                (&host.neighbour, host::gateway(&n), 53),
            ],
        );
        with(Some(5301));
        assert!(talk_long(&flow).starts_with("moved "));
        with(None);
        refuse_all("names", &[(&c.space, host::gateway(&n), 53)]);
    }
}
