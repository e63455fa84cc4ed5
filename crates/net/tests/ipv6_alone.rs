//! Networks without IPv4, with real packets: all of it goes by IPv6, and nothing of IPv4 is turned on for them.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::Ipv6Addr;

use host::{
    Container, HOST, HOST6, Host, NEIGHBOUR6, On, SECOND6, Space, ask, attachment, dual, gateway6, network,
    port, port6, refuse, refuse_all, serve, six,
};
use model::families::Families;
use model::firewall::Protocol::{self, Tcp, Udp};
use model::firewall::{LinkRule, PortRule};
use model::network::{Attachment, Below, Driver, HostNetwork, Parent, Subnet6};
use model::observed::Ipv6State;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

host::on_every_backend! {
    it_carries_traffic_and_turns_on_nothing_of_ipv4
    beside_others_it_is_read_back_as_it_was_given
    a_network_that_loses_ipv4_leads_no_port_of_it_anywhere
    isolated_containers_reach_each_other_over_links_alone
}

fn web(host: &Host, n: &HostNetwork, number: u8) -> Container {
    let c = host.container(n, number);
    serve(&c.space, ANY, 80, "web");
    c
}

fn published(c: &Container, number: u16) -> Vec<PortRule> {
    BOTH.map(|p| port6(p, None, number, &c.at, 80)).to_vec()
}

fn it_carries_traffic_and_turns_on_nothing_of_ipv4(on: On) {
    let host = on.dual(None);
    let forwards = || host.space.sh("cat /proc/sys/net/ipv4/ip_forward");
    let before = forwards();
    let n = six("front", 1);
    host.apply(&[&n], Vec::new());
    let (web, other) = (web(&host, &n, 5), host.container(&n, 6));
    host.apply(&[&n], published(&web, 8080));
    serve(&host.neighbour, ANY, 9000, "lan");
    let gateway = gateway6(&n);
    for protocol in BOTH {
        assert_eq!(
            ask(&host.neighbour, protocol, HOST6, 8080),
            format!("web {NEIGHBOUR6}")
        );
        assert!(ask(&host.space, protocol, SECOND6, 8080).starts_with("web "));
        assert_eq!(
            ask(&other.space, protocol, web.ip6(), 80),
            format!("web {}", other.ip6())
        );
        assert_eq!(ask(&other.space, protocol, HOST6, 8080), format!("web {gateway}"));
        let seen = ask(&web.space, protocol, NEIGHBOUR6, 9000);
        assert!(
            [HOST6, SECOND6].map(|ip| format!("lan {ip}")).contains(&seen),
            "{seen}"
        );
    }
    refuse_all("there is no IPv4", &[(&host.neighbour, HOST, 8080)]);
    host.neighbour
        .sh(&format!("ip route add fd00:88::/32 via {HOST6}"));
    refuse_all("a container's own address", &[(&host.neighbour, web.ip6(), 80)]);
    assert_eq!(forwards(), before);
    let none = "ip -4 -o addr show dev wh-front; ip -4 route show dev wh-front";
    assert_eq!(host.space.sh(none), "");
    assert_eq!(web.space.sh("ip -4 -o addr show dev eth0; ip -4 route"), "");
    let links = host.space.run(|| host.net.links().unwrap());
    let link = &links["wh-front"];
    assert_eq!(
        (link.addresses.len(), link.ipv6, link.route_localnet),
        (0, Ipv6State::On, true)
    );
}

fn beside_others_it_is_read_back_as_it_was_given(on: On) {
    let host = on.dual(None);
    let (alone, both, four) = (six("alone", 1), dual("both", 2), network("four", 3));
    let mut open = six("open", 4);
    open.ip.v6_mut().unwrap().masquerade = false;
    let all = [&alone, &both, &four, &open];
    host.apply(&all, Vec::new());
    let [a, b] = [&alone, &both].map(|n| web(&host, n, 5));
    let mut rules = [published(&a, 8080), published(&b, 8081)].concat();
    rules.push(port(Tcp, None, 8080, &b.at, 80));
    let given = host.apply(&all, rules);
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(given));
    // One number, two containers: by family.
    assert!(ask(&host.neighbour, Tcp, HOST6, 8080).starts_with("web "));
    assert!(ask(&host.neighbour, Tcp, HOST, 8080).starts_with("web "));
    refuse_all(
        "networks are apart",
        &[(&a.space, b.ip6(), 80), (&b.space, a.ip6(), 80)],
    );
}

fn a_network_that_loses_ipv4_leads_no_port_of_it_anywhere(on: On) {
    let host = on.dual(None);
    let (both, alone) = (dual("front", 1), six("front", 1));
    host.apply(&[&both], Vec::new());
    let c = web(&host, &both, 5);
    let mut rules = published(&c, 8080);
    rules.push(port(Tcp, None, 8080, &c.at, 80));
    host.apply(&[&both], rules);
    ask(&host.neighbour, Tcp, HOST, 8080);
    host.space.run(|| host.net.apply_bridge(&alone).unwrap());
    let state = host.space.run(|| host.net.firewall().unwrap().unwrap());
    assert!(state.ports.iter().all(|p| p.target_ip.is_ipv6()), "{state:?}");
    assert_eq!(state.ports.len(), 2);
    refuse(&host.neighbour, Tcp, HOST, 8080);
    host.space.run(|| host.net.apply_bridge(&both).unwrap());
    assert!(ask(&host.neighbour, Tcp, HOST6, 8080).starts_with("web "));
}

fn isolated_containers_reach_each_other_over_links_alone(on: On) {
    let host = on.dual(None);
    let n = HostNetwork {
        isolated: true,
        ..six("front", 1)
    };
    host.apply(&[&n], Vec::new());
    let [a, b] = [5, 6].map(|number| web(&host, &n, number));
    refuse_all("apart", &[(&a.space, b.ip6(), 80), (&b.space, a.ip6(), 80)]);
    let link = |protocol| LinkRule {
        bridge: n.bridge.clone(),
        from: a.ip6().into(),
        to: b.ip6().into(),
        protocol,
        port: 80,
    };
    host.apply_linked(&[&n], Vec::new(), BOTH.map(link).to_vec());
    for protocol in BOTH {
        assert_eq!(ask(&a.space, protocol, b.ip6(), 80), format!("web {}", a.ip6()));
    }
    refuse_all("the other way", &[(&b.space, a.ip6(), 80)]);
}

/// What can be broken about its bridge.
const DAMAGE: &[&str] = &[
    "ip link del wh-front",
    "ip link set wh-front down",
    "ip -6 addr flush dev wh-front",
    "ip -6 addr del fd00:88:1::1/64 dev wh-front",
    "ip addr add 10.99.0.1/24 dev wh-front",
    "ip link set wh-front address 02:00:00:00:00:01",
    "echo 1 > /proc/sys/net/ipv6/conf/wh-front/disable_ipv6",
    "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    "nft flush ruleset",
];

#[test]
fn whatever_is_broken_about_its_bridge_is_put_right() {
    let host = Host::dual(None);
    let n = six("front", 1);
    let apply = || host.space.run(|| host.net.apply_bridge(&n).unwrap());
    let survey = || {
        host.space.sh(
            "ip -d link show wh-front | sed -E 's/^[0-9]+: //; s/ (hello|tcn|topology_change|gc)_timer +[0-9.]+//g'; \
             ip -o addr show dev wh-front | sed -E 's/^[0-9]+: //'; ip -6 route show dev wh-front; \
             cat /proc/sys/net/ipv6/conf/all/forwarding; nft list ruleset",
        )
    };
    apply();
    let right = survey();
    for damage in DAMAGE {
        host.space.sh(&format!("{damage} || true"));
        apply();
        assert_eq!(survey(), right, "after {damage}");
    }
}

/// The LAN of the host and its neighbour, by its IPv6 alone.
fn lan(host_access: bool) -> HostNetwork {
    let parent = Parent {
        name: "lan".to_owned(),
        index: 0,
    };
    HostNetwork {
        bridge: "wh-lan".to_owned(),
        ip: Families::V6(Subnet6 {
            subnet: "2001:db8:2::/64".parse().unwrap(),
            gateway: NEIGHBOUR6,
            range: Some("2001:db8:2::100/120".parse().unwrap()),
            masquerade: false,
        }),
        driver: Driver::Macvlan(Below { parent, host_access }),
        ..six("lan", 0)
    }
}

#[test]
fn a_macvlan_reaches_the_lan_and_the_host_reaches_it() {
    let host = Host::dual(None);
    let n = lan(true);
    host.space.run(|| host.net.apply_bridge(&n).unwrap());
    let own = host.space.sh("ip -o addr show dev wh-lan scope global");
    assert!(
        own.contains("inet6 2001:db8:2::100/120") && !own.contains("inet "),
        "{own}"
    );
    let mut at = Attachment {
        link: n.link(),
        ..attachment(&n, 5)
    };
    at.ip.v6_mut().unwrap().ip = "2001:db8:2::105".parse().unwrap();
    let space = Space::new();
    host.space
        .run(|| host.net.attach(space.fd(), &at, "web").unwrap());
    serve(&space, ANY, 80, "web");
    serve(&host.neighbour, ANY, 9000, "lan");
    let ip = at.v6().unwrap().ip;
    assert_eq!(ask(&space, Tcp, NEIGHBOUR6, 9000), format!("lan {ip}"));
    assert_eq!(ask(&host.neighbour, Tcp, ip, 80), format!("web {NEIGHBOUR6}"));
    assert_eq!(ask(&host.space, Tcp, ip, 80), "web 2001:db8:2::100");
    assert_eq!(space.sh("ip -4 -o addr show dev eth0; ip -4 route"), "");
}
