//! What is rendered, as texts; and what programs print, read back.

use std::collections::BTreeSet;

use ipnet::Ipv6Net;
use model::families::Families;
use model::firewall::{
    Carrier, FirewallBridge, FirewallState, LinkRule, PeerRule, PortRule, Protocol, Routed, TunnelRule,
};

use super::orders::orders;
use super::render::{Table, render, shut_between};
use super::shown::{Shown, words};
use crate::firewall::family::Family;
use crate::firewall::guard::Guards;

const MARK: &str = "wharf:test";

fn bridge(number: u8) -> FirewallBridge {
    FirewallBridge {
        bridge: format!("wh-net{number}"),
        ip: Families::V4(Routed {
            subnet: format!("10.88.{number}.0/24").parse().unwrap(),
            masquerade: true,
        }),
        internal: false,
        dns_port: None,
        isolated: false,
    }
}

fn routed6(number: u8) -> Routed<Ipv6Net> {
    Routed {
        subnet: format!("fd00:88:{number}::/64").parse().unwrap(),
        masquerade: true,
    }
}

fn port(host: Option<&str>, number: u16, target: &str, allow: &[&str]) -> PortRule {
    PortRule {
        protocol: Protocol::Tcp,
        host_ip: host.map(|ip| ip.parse().unwrap()),
        host_port: number,
        target_ip: target.parse().unwrap(),
        target_port: 80,
        bridge: "wh-net1".into(),
        allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
        container: "web".parse().unwrap(),
        service: None,
    }
}

/// Something of everything.
fn whole() -> FirewallState {
    let six = FirewallBridge {
        ip: bridge(1).ip.with_v6(routed6(1)),
        dns_port: Some(5300),
        ..bridge(1)
    };
    let (internal, isolated) = (true, true);
    let bridges = vec![
        six,
        FirewallBridge {
            internal,
            ..bridge(2)
        },
        FirewallBridge {
            isolated,
            ..bridge(3)
        },
    ];
    let replica = |name: &str, target: &str| PortRule {
        container: name.parse().unwrap(),
        service: Some("shop".parse().unwrap()),
        protocol: Protocol::Udp,
        ..port(None, 9000, target, &[])
    };
    let ports = vec![
        port(None, 8080, "10.88.1.5", &["192.0.2.0/24", "2001:db8::/32"]),
        port(Some("192.0.2.1"), 8080, "10.88.1.6", &[]),
        port(Some("127.0.0.1"), 8081, "10.88.1.5", &[]),
        port(None, 8080, "fd00:88:1::5", &["192.0.2.0/24"]),
        replica("shop", "10.88.1.7"),
        replica("shop-2", "10.88.1.8"),
        replica("shop-3", "10.88.1.9"),
    ];
    let link = LinkRule {
        bridge: "wh-net3".to_owned(),
        from: "10.88.3.5".parse().unwrap(),
        to: "10.88.3.6".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 5432,
    };
    let tunnel = TunnelRule {
        port: 4789,
        vni: 4200,
        peers: vec!["192.0.2.2".parse().unwrap()],
    };
    FirewallState {
        bridges,
        ports,
        links: vec![link],
        names: vec!["10.88.1.1".parse().unwrap(), "fd00:88:1::1".parse().unwrap()],
        peers: ["192.0.2.2", "2001:db8::2"]
            .map(|peer| PeerRule {
                bridge: "wh-front".to_owned(),
                peer: peer.parse().unwrap(),
                carrier: Carrier::Udp { port: 4789 },
            })
            .into(),
        tunnels: vec![tunnel],
    }
    .sorted()
}

fn tables(f: Family) -> Vec<Table> {
    let guards = Guards {
        v4: true,
        v6: false,
        // Of the names that iptables takes for patterns nothing is said.
        others: ["virbr0", "lxc+", "-x"].map(str::to_owned).into(),
    };
    render(&whole(), &guards, f, &BTreeSet::new())
}

fn text(f: Family) -> String {
    tables(f).iter().map(|table| orders(table, None, MARK)).collect()
}

#[test]
fn everything_of_ipv4() {
    insta::assert_snapshot!(text(Family::V4));
}

#[test]
fn everything_of_ipv6() {
    insta::assert_snapshot!(text(Family::V6));
}

#[test]
fn without_ipv6_there_is_nothing_of_it() {
    let state = FirewallState {
        bridges: vec![bridge(1)],
        ..FirewallState::default()
    };
    let six = render(&state, &Guards::default(), Family::V6, &BTreeSet::new());
    assert!(six.iter().all(|table| table.chains.is_empty()), "{six:?}");
}

/// What a container sends by IPv4 is dropped on its way all the same.
#[test]
fn without_ipv4_there_is_nothing_but_its_guard() {
    let state = FirewallState {
        bridges: vec![FirewallBridge {
            ip: Families::V6(routed6(1)),
            dns_port: Some(5300),
            ..bridge(1)
        }],
        ..FirewallState::default()
    };
    let four = render(&state, &Guards::default(), Family::V4, &BTreeSet::new());
    insta::assert_snapshot!(
        four.iter()
            .map(|table| orders(table, None, MARK))
            .collect::<String>()
    );
}

/// What the program would print after these orders, but for what it writes otherwise.
fn printed(orders: &str) -> String {
    let line = |line: &str| match line.strip_prefix("-I ").and_then(|l| l.split_once(" 1 ")) {
        Some((hook, rule)) => format!("-A {hook} {rule}\n"),
        None => format!("{line}\n"),
    };
    orders.lines().map(line).collect()
}

#[test]
fn what_is_there_is_recognised_and_left_alone() {
    let foreign =
        "-A FORWARD -j DOCKER\n-A DOCKER -m comment --comment \"a \\\"WHARF-PASS\\\" b\" -j RETURN\n";
    for table in tables(Family::V4) {
        let shown = printed(&orders(&table, None, MARK)).replace("COMMIT", &format!("{foreign}COMMIT"));
        let shown = Shown::read(&shown);
        let there = shown.table(table.name).unwrap();
        assert!(there.has_as_many(&table, MARK), "{there:?}");
        assert_eq!(shown.of_another(MARK), None);
        assert_eq!(shown.of_another("wharf:other"), Some("test".to_owned()));
        let again = orders(&table, Some(there), MARK);
        assert!(
            !again.contains("-D ") && !again.contains("-I ") && !again.contains("-X "),
            "{again}"
        );
    }
}

#[test]
fn what_is_not_as_it_should_be_is_put_right() {
    let table = &tables(Family::V4)[2];
    let shown = "*filter\n:FORWARD DROP [1:2]\n:WHARF-PASS - [0:0]\n:WHARF-DNAT - [0:0]\n:WHARF-OUT - [0:0]\n\
                 -A FORWARD -i lo -j ACCEPT\n-A FORWARD -j WHARF-PASS\n\
                 -A FORWARD -m comment --comment \"wharf:test\" -j WHARF-PASS\n\
                 -A FORWARD -m comment --comment wharf:test -j WHARF-PASS\n-A theirs -j WHARF-OUT\nCOMMIT\n";
    let shown = Shown::read(shown);
    assert!(shown.behind_others);
    let there = shown.table("filter").unwrap();
    assert!(!there.has_as_many(table, MARK));
    let orders = orders(table, Some(there), MARK);
    // One without our mark, and one too many.
    assert_eq!(orders.matches("-D FORWARD").count(), 2, "{orders}");
    assert!(
        !orders.contains("-I FORWARD") && orders.contains("-I INPUT 1"),
        "{orders}"
    );
    // What somebody's rules lead to cannot go.
    assert!(
        orders.contains("-X WHARF-DNAT") && !orders.contains("-X WHARF-OUT"),
        "{orders}"
    );
}

#[test]
fn rules_are_split_as_they_are_quoted() {
    let rule = r#"-m comment --comment "a \"b\" \\ c" -j X"#;
    assert_eq!(
        words(rule),
        ["-m", "comment", "--comment", r#"a "b" \ c"#, "-j", "X"]
    );
}

#[test]
fn a_port_with_a_list_that_moves_is_shut_meanwhile() {
    let state = |ports: Vec<PortRule>| FirewallState {
        ports,
        ..FirewallState::default()
    };
    let listed = state(vec![port(None, 8080, "10.88.1.5", &["192.0.2.0/24"])]);
    let open = state(vec![port(None, 8080, "10.88.1.6", &[])]);
    let same = state(vec![port(None, 8080, "10.88.1.5", &[])]);
    let place = BTreeSet::from([(Protocol::Tcp, 8080)]);
    assert_eq!(shut_between(&listed, &open), place);
    assert_eq!(shut_between(&open, &listed), place);
    assert_eq!(shut_between(&listed, &same), BTreeSet::new(), "one table changes");
    assert_eq!(shut_between(&open, &same), BTreeSet::new(), "it is for everybody");
}
