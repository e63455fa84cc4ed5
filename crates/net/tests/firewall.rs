//! The table in the kernel: what was applied is read back, what others did to it is seen, what is theirs is untouched.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::{HOST, Host, LOCALHOST, SECOND, Space, ask, attachment, bridge_rule, network, port, serve};
use model::families::Families;
use model::firewall::Protocol::{Tcp, Udp};
use model::firewall::{FirewallBridge, FirewallState, LinkRule, PortRule, Protocol, Routed};
use net::Net;
use proptest::prelude::*;

fn small() -> FirewallState {
    let (front, mut back) = (network("front", 1), network("back", 2));
    back.internal = true;
    back.ip.v4_mut().unwrap().masquerade = false;
    let (web, db) = (attachment(&front, 5), attachment(&back, 6));
    FirewallState {
        bridges: vec![bridge_rule(&front), bridge_rule(&back)],
        ports: vec![
            port(Tcp, None, 8080, &web, 80),
            port(Udp, None, 53, &web, 5353),
            port(Tcp, Some(LOCALHOST), 5432, &db, 5432),
            port(Udp, Some(HOST), 8080, &web, 80),
        ],
        ..FirewallState::default()
    }
    .sorted()
}

/// The table as `nft` reads it, without the numbers the kernel gives.
fn listed(space: &Space) -> Vec<serde_json::Value> {
    let text = space.sh("nft -j list table inet wharf");
    let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut list = whole["nftables"].as_array().unwrap().clone();
    list.retain(|item| item.get("metainfo").is_none());
    for item in &mut list {
        for body in item.as_object_mut().unwrap().values_mut() {
            body.as_object_mut().unwrap().remove("handle");
        }
    }
    list
}

#[test]
fn nft_reads_the_table_as_it_was_meant() {
    let host = Host::new();
    host.space.run(|| host.net.apply_firewall(&small()).unwrap());
    let list = listed(&host.space);
    let elements = |name: &str| {
        let set = list
            .iter()
            .find_map(|i| i.get("set").or(i.get("map")).filter(|s| s["name"] == name))
            .unwrap();
        set["elem"].to_string()
    };
    assert!(host.space.sh("nft list table inet wharf").contains("wharf:test"));
    assert_eq!(elements("bridges"), r#"["wh-back","wh-front"]"#);
    assert_eq!(elements("internal"), r#"["wh-back"]"#);
    assert!(
        elements("subnets").contains(r#"{"concat":["wh-front",{"prefix":{"addr":"10.88.1.0","len":24}}]}"#)
    );
    assert!(!elements("masqueraded").contains("wh-back"));
    let bound = elements("ports_bound");
    assert!(
        bound.contains(r#"{"concat":["tcp","127.0.0.1",5432]}"#),
        "{bound}"
    );
    assert!(bound.contains(r#"{"concat":["10.88.2.6",5432]}"#), "{bound}");
    assert!(bound.contains("web@wh-back"), "{bound}");
    let any = elements("ports_any");
    assert!(
        any.contains(r#"{"concat":["udp",53]}"#) && any.contains(r#"{"concat":["10.88.1.5",5353]}"#),
        "{any}"
    );
}

#[test]
fn what_nft_writes_down_and_reads_again_is_still_ours() {
    let host = Host::shared();
    host.space.run(|| host.net.apply_firewall(&small()).unwrap());
    host.space
        .sh(r#"x="$(nft list ruleset)"; nft flush ruleset; printf '%s\n' "$x" | nft -f -"#);
    // A restored table may differ in how it says a thing: it is whole again after the next apply in any case.
    host.space.run(|| {
        host.net.apply_firewall(&small()).unwrap();
        assert_eq!(host.net.firewall().unwrap(), Some(small()));
    });
}

/// Ports of every kind: of one container and of several, on one address and on any, with lists.
fn every_kind() -> FirewallState {
    let front = network("front", 1);
    let mut bridge = bridge_rule(&front);
    bridge.dns_port = Some(5300);
    let several = |protocol, ip: Option<Ipv4Addr>, number: u8| PortRule {
        container: if number == 5 { "web" } else { "web-2" }.parse().unwrap(),
        service: Some("web".parse().unwrap()),
        ..port(protocol, ip, 8080, &attachment(&front, number), 80)
    };
    let one = |protocol, ip| PortRule {
        container: "db".parse().unwrap(),
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        ..port(protocol, ip, 5353, &attachment(&front, 5), 80)
    };
    let mut ports = Vec::new();
    for protocol in [Tcp, Udp] {
        for ip in [None, Some(HOST)] {
            ports.extend([
                several(protocol, ip, 5),
                several(protocol, ip, 6),
                one(protocol, ip),
            ]);
        }
    }
    FirewallState {
        bridges: vec![bridge],
        ports,
        ..FirewallState::default()
    }
    .sorted()
}

#[test]
fn nft_restores_what_it_listed_of_ports_of_every_kind() {
    let host = Host::shared();
    let front = network("front", 1);
    let state = every_kind();
    host.apply(&[&front], Vec::new());
    let servers = [5, 6].map(|number| host.container(&front, number));
    for (server, word) in servers.iter().zip(["one", "two"]) {
        serve(&server.space, Ipv4Addr::UNSPECIFIED, 80, word);
    }
    host.space.run(|| host.net.apply_firewall(&state).unwrap());
    // Onto itself, as a dry run, and after it was lost.
    let before = host.space.sh("nft list ruleset");
    host.space.sh("nft list ruleset | nft -c -f -");
    host.space
        .sh(r#"x="$(nft list ruleset)"; nft flush ruleset; printf '%s\n' "$x" | nft -f -"#);
    assert_eq!(host.space.sh("nft list ruleset"), before);
    for (place, to) in [
        (&host.neighbour, HOST),
        (&host.neighbour, SECOND),
        (&host.space, LOCALHOST),
    ] {
        for protocol in [Tcp, Udp] {
            ask(place, protocol, to, 8080);
            ask(place, protocol, to, 5353);
        }
    }
    host.space.run(|| {
        host.net.apply_firewall(&state).unwrap();
        assert_eq!(host.net.firewall().unwrap(), Some(state));
    });
}

/// Where the kernel keeps others from the table it keeps them from restoring it, too, and all that is restored with it.
#[test]
fn what_is_kept_from_others_is_kept_from_a_restore() {
    let host = Host::new();
    host.space.run(|| host.net.apply_firewall(&every_kind()).unwrap());
    let restore = "nft list ruleset > $f; nft -f $f 2>&1 && echo done; (echo flush ruleset; cat $f) | nft -f - 2>&1 && echo done";
    let said = host.space.sh(&format!("f=$(mktemp); {restore}; rm $f"));
    let kept = host.space.sh("nft list ruleset").contains("flags");
    assert_eq!(said.contains("Operation not permitted"), kept, "{said}");
    assert_eq!(said.contains("done"), !kept, "{said}");
    if kept {
        host.space
            .run(|| assert_eq!(host.net.firewall().unwrap(), Some(every_kind())));
    }
}

/// Every foreign change and whether the state can still be read after it.
const DAMAGE: &[(&str, bool)] = &[
    ("nft flush ruleset", false),
    ("nft delete table inet wharf", false),
    ("nft flush chain inet wharf forward", false),
    ("nft flush chain inet wharf loopback", false),
    ("nft insert rule inet wharf forward accept", false),
    ("nft 'add table inet wharf { flags dormant; }'", false),
    ("nft add rule inet wharf output counter", false),
    ("nft add chain inet wharf extra", false),
    ("nft add set inet wharf extra '{ type ipv4_addr; }'", false),
    ("nft 'chain inet wharf forward { policy drop; }'", false),
    (
        "nft delete rule inet wharf forward handle $(nft -a list chain inet wharf forward | awk '/drop/ {print $NF; exit}')",
        false,
    ),
    (
        "nft replace rule inet wharf forward handle $(nft -a list chain inet wharf forward | awk '/drop/ {print $NF; exit}') accept",
        false,
    ),
    ("nft delete element inet wharf bridges '{ wh-front }'", false),
    (
        "nft delete element inet wharf same_bridge '{ wh-front . wh-front }'",
        false,
    ),
    ("nft add element inet wharf bridges '{ lan }'", false),
    ("nft add element inet wharf internal '{ lan }'", false),
    ("nft delete element inet wharf internal '{ wh-back }'", true),
    ("nft delete element inet wharf ports_any '{ tcp . 8080 }'", true),
    // What is left of it are the zones of its ports.
    ("nft flush map inet wharf ports_bound", false),
    ("nft flush map inet wharf zones_any", false),
    ("nft flush map inet wharf errors_bound", false),
    ("nft flush chain inet wharf zones", false),
    ("nft flush chain inet wharf zones_output", false),
    (
        "nft add element inet wharf stale_udp '{ 0.0.0.0 . 53 . 10.88.1.9 . 53 }'",
        false,
    ),
    (
        "nft add element inet wharf ports_any '{ tcp . 22 : 10.88.1.5 . 22 }'",
        false,
    ),
    (
        "nft add element inet wharf ports_any '{ tcp . 22 comment \"ssh@wh-front\" : 10.88.1.5 . 22 }'",
        true,
    ),
];

#[test]
fn every_damage_is_seen_and_put_right_in_one_transaction() {
    let host = Host::shared();
    let right = small();
    host.space.run(|| host.net.apply_firewall(&right).unwrap());
    let listing = listed(&host.space);
    for (line, readable) in DAMAGE {
        host.space.sh(line);
        host.space.run(|| {
            let seen = host.net.firewall().unwrap();
            assert_ne!(seen.as_ref(), Some(&right), "{line}");
            assert_eq!(seen.is_some(), *readable, "{line}: {seen:?}");
            host.net.apply_firewall(&right).unwrap();
            assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&right), "{line}");
        });
        assert_eq!(listed(&host.space), listing, "{line}");
    }
}

#[test]
fn a_repair_of_one_network_keeps_the_ports_of_the_others() {
    let host = Host::shared();
    let (front, back) = (network("front", 1), network("back", 2));
    let web = attachment(&front, 5);
    let state = host.apply(&[&front, &back], vec![port(Tcp, None, 8080, &web, 80)]);
    host.space
        .sh("nft flush chain inet wharf forward; nft delete element inet wharf bridges '{ wh-back }'");
    host.space.run(|| {
        assert_eq!(host.net.firewall().unwrap(), None);
        host.net.apply_bridge(&back).unwrap();
        assert_eq!(host.net.firewall().unwrap(), Some(state));
    });
}

#[test]
fn foreign_tables_stay_byte_for_byte() {
    let host = Host::shared();
    host.space.sh(
        "nft 'add table inet foreign; add set inet foreign s { type ipv4_addr; }; add element inet foreign s { 10.0.0.1, 10.0.0.2 };
           add chain inet foreign c { type filter hook forward priority 0; policy accept; }; add rule inet foreign c ip saddr @s counter drop;
           add table ip wharf; add chain ip wharf c; add table ip6 wharf; add table inet wharf2; add chain inet wharf2 forward; add rule inet wharf2 forward accept'",
    );
    let foreign = |h: &Host| {
        h.space.sh("nft -a list table inet foreign; nft -a list table ip wharf; nft -a list table ip6 wharf; nft -a list table inet wharf2")
    };
    let before = foreign(&host);
    host.space.run(|| {
        host.net.apply_firewall(&small()).unwrap();
        assert_eq!(host.net.firewall().unwrap(), Some(small()));
        host.net.apply_firewall(&FirewallState::default()).unwrap();
    });
    host.space.sh("nft flush chain inet wharf forward");
    host.space.run(|| host.net.apply_firewall(&small()).unwrap());
    assert_eq!(foreign(&host), before);
    host.space.run(|| host.net.remove_firewall().unwrap());
    assert_eq!(foreign(&host), before);
    assert!(!host.space.sh("nft list tables").contains("inet wharf\n"));
}

#[test]
fn somebody_elses_table_of_that_name_is_refused() {
    let host = Host::new();
    host.space.sh("nft add table inet wharf");
    let before = host.space.sh("nft -a list ruleset");
    host.space.run(|| {
        let message = host.net.apply_firewall(&small()).unwrap_err().to_string();
        insta::assert_snapshot!(message, @"the nftables table `inet wharf` belongs to somebody else: one agent owns one network namespace; stop the other one, or, if it is gone for good, run `nft delete table inet wharf`");
        host.net.firewall().unwrap_err();
        host.net.remove_firewall().unwrap_err();
        host.net.apply_bridge(&network("front", 1)).unwrap_err();
        assert!(!host.net.links().unwrap().contains_key("wh-front"));
    });
    assert_eq!(host.space.sh("nft -a list ruleset"), before);
}

#[test]
fn nonsense_is_refused_before_anything_is_touched() {
    let host = Host::new();
    host.space.run(|| {
        let bad = |change: fn(&mut FirewallState)| {
            let mut state = small();
            change(&mut state);
            host.net.apply_firewall(&state).unwrap_err().to_string()
        };
        insta::assert_snapshot!(bad(|s| s.ports[0].allow = ["10.0.0.0/8", "9.0.0.0/8"].map(|n| n.parse().unwrap()).to_vec()), @"container web, port 8080/tcp: `allow` is not sorted, or says something twice");
        insta::assert_snapshot!(bad(|s| s.ports[0].allow.push("10.1.0.0/8".parse().unwrap())), @"container web, port 8080/tcp: `allow` has 10.1.0.0/8, an address in a network: the network is 10.0.0.0/8");
        insta::assert_snapshot!(bad(|s| s.bridges[0].dns_port = Some(0)), @"bridge wh-back: its name server has no port: there is no port 0");
        insta::assert_snapshot!(bad(|s| s.ports[0].bridge = "br-x".into()), @"container web, port 8080/tcp: its bridge br-x is not in the firewall");
        insta::assert_snapshot!(bad(|s| s.ports.push(s.ports[1].clone())), @"container web, port 127.0.0.1:5432/tcp: container web has the same host port");
        insta::assert_snapshot!(bad(|s| s.ports[0].host_port = 0), @"container web, port 0/tcp: there is no port 0");
        insta::assert_snapshot!(bad(|s| s.bridges.push(s.bridges[0].clone())), @"bridge wh-back: it is there twice");
        bad(|s| s.ports[0].host_ip = Some(Ipv4Addr::UNSPECIFIED.into()));
        bad(|s| s.ports[0].host_ip = Some(Ipv6Addr::UNSPECIFIED.into()));
        insta::assert_snapshot!(bad(|s| s.ports[1].host_ip = Some("2001:db8::1".parse().unwrap())), @"container web, port [2001:db8::1]:5432/tcp: its container has no address like it: 10.88.2.6 is of the other family");
        insta::assert_snapshot!(bad(|s| {
            s.ports[1].host_ip = None;
            s.ports[1].target_ip = "fd00::5".parse().unwrap();
        }), @"container web, port 5432/tcp: its network at bridge wh-back has no IPv6");
        insta::assert_snapshot!(bad(|s| s.bridges[0].ip = s.bridges[0].ip.with_v6(Routed { subnet: "fd00::1/64".parse().unwrap(), masquerade: true })), @"bridge wh-back: fd00::1/64 is an address in a subnet: the subnet is fd00::/64");
        insta::assert_snapshot!(bad(|s| s.ports[1].host_ip = Some(Ipv6Addr::LOCALHOST.into())), @"a port published on a loopback address: there is no relay to serve it");
    });
    assert_eq!(host.space.sh("nft list ruleset"), "");
}

#[test]
fn a_thousand_ports_are_one_transaction_and_read_back() {
    let host = Host::new();
    let front = network("front", 1);
    let web = attachment(&front, 5);
    let ports = |from: u16, count: u16| {
        let rule = |n: u16| {
            port(
                if n.is_multiple_of(2) { Tcp } else { Udp },
                n.is_multiple_of(3).then_some(HOST),
                from + n,
                &web,
                n + 1,
            )
        };
        FirewallState {
            bridges: vec![bridge_rule(&front)],
            ports: (0..count).map(rule).collect(),
            ..FirewallState::default()
        }
        .sorted()
    };
    host.space.run(|| {
        for state in [
            ports(1000, 1000),
            ports(1500, 1000),
            ports(2000, 10),
            ports(1000, 5000),
        ] {
            host.net.apply_firewall(&state).unwrap();
            assert_eq!(host.net.firewall().unwrap(), Some(state));
        }
    });
}

#[test]
fn two_threads_and_a_stranger_at_once_lose_nothing() {
    let host = Host::new();
    let networks: Vec<_> = (1..=6).map(|i| network(&format!("n{i}"), i)).collect();
    host.space.run(|| {
        std::thread::scope(|scope| {
            for n in &networks {
                scope.spawn(|| host.net.apply_bridge(n).unwrap());
            }
            scope.spawn(|| {
                for i in 0..20 {
                    let line = format!("nft add table inet stranger{i}");
                    assert!(
                        std::process::Command::new("sh")
                            .args(["-c", &line])
                            .status()
                            .unwrap()
                            .success()
                    );
                }
            });
        });
        let state = host.net.firewall().unwrap().unwrap();
        assert_eq!(
            state.bridges,
            networks.iter().map(bridge_rule).collect::<Vec<_>>()
        );
    });
}

/// The number as an address: of IPv6 a few apart and a few alike.
fn of_family(number: u32, six: bool) -> IpAddr {
    match six {
        true => {
            Ipv6Addr::from_bits(0x2000 << 112 | u128::from(number) << 64 | u128::from(number >> 8)).into()
        }
        false => Ipv4Addr::from(number).into(),
    }
}

/// From one end of each of its subnets to the other, where its containers are isolated.
fn links_of(bridge: &FirewallBridge) -> Vec<LinkRule> {
    let both = |net: ipnet::IpNet| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| LinkRule {
            bridge: bridge.bridge.clone(),
            from: net.network(),
            to: net.broadcast(),
            protocol,
            port: 5432,
        })
    };
    let isolated = bridge.subnets().filter(|_| bridge.isolated);
    isolated.flat_map(both).collect()
}

fn states() -> impl Strategy<Value = FirewallState> {
    let bridges = prop::collection::btree_map(
        // So that none is `lo`, `all` or `default`.
        "b[a-z0-9.@-]{0,13}[a-z]",
        (
            any::<u32>(),
            1..=32_u8,
            any::<(bool, bool, bool)>(),
            prop::option::of(1..=u16::MAX),
            prop::option::of((any::<u128>(), 8..=126_u8, any::<bool>())),
            any::<bool>(),
        ),
        1..6,
    );
    bridges.prop_flat_map(|bridges| {
        let bridges: Vec<FirewallBridge> = bridges
            .into_iter()
            .map(
                |(bridge, (ip, prefix, (masquerade, internal, alone), dns_port, six, isolated))| {
                    let six = six.map(|(ip, prefix, masquerade)| Routed {
                        subnet: ipnet::Ipv6Net::new(ip.into(), prefix).unwrap().trunc(),
                        masquerade,
                    });
                    let four = (!alone || six.is_none()).then(|| Routed {
                        subnet: ipnet::Ipv4Net::new(ip.into(), prefix).unwrap().trunc(),
                        masquerade,
                    });
                    FirewallBridge {
                        bridge,
                        ip: Families::new(four, six).unwrap(),
                        internal,
                        dns_port,
                        isolated,
                    }
                },
            )
            .collect();
        let families = |b: &FirewallBridge| [b.ip.v4().is_some(), b.ip.v6().is_some()];
        let names: Vec<(String, [bool; 2])> =
            bridges.iter().map(|b| (b.bridge.clone(), families(b))).collect();
        let key = (
            any::<(bool, bool)>(),
            prop::option::of(0x0100_0000..0xdfff_ffff_u32),
            1..=u16::MAX,
        );
        let target = (
            0x0100_0000..0x7eff_ffff_u32,
            1..=u16::MAX,
            prop::sample::select(names),
            "[a-z0-9][a-z0-9_.-]{0,62}",
            // Few different addresses: networks that contain each other are frequent.
            prop::collection::btree_set(
                (
                    0..4_u32,
                    prop::sample::select(vec![0_u8, 1, 8, 9, 31, 32]),
                    any::<bool>(),
                ),
                0..5,
            ),
        );
        prop::collection::btree_map(key, target, 0..40).prop_map(move |ports| {
            let ports = ports.into_iter().map(
                |(((udp, six), ip, host_port), (target, target_port, (bridge, has), name, allow))| {
                    let six = has[1] && (six || !has[0]);
                    PortRule {
                        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                        host_ip: ip.map(|ip| of_family(ip, six)),
                        host_port,
                        target_ip: of_family(target, six),
                        target_port,
                        bridge: bridge.into(),
                        allow: allow
                            .into_iter()
                            .map(|(ip, length, six)| {
                                let length = if six { length * 4 } else { length };
                                let ip = of_family(ip * 0x4000_0001, six);
                                ipnet::IpNet::new(ip, length).unwrap().trunc()
                            })
                            .collect(),
                        container: name.parse().unwrap(),
                        service: None,
                    }
                },
            );
            // Where the network has one family, two may have become the same.
            let mut taken = std::collections::BTreeSet::new();
            let mut is_new =
                |p: &PortRule| taken.insert((p.protocol, p.target_ip.is_ipv4(), p.host_ip, p.host_port));
            FirewallState {
                bridges: bridges.clone(),
                ports: ports.filter(|p| is_new(p)).collect(),
                links: bridges.iter().flat_map(links_of).collect(),
                ..FirewallState::default()
            }
            .sorted()
        })
    })
}

#[test]
fn whatever_is_applied_is_read_back() {
    let space = Space::new();
    let net = space.run(|| Net::new("test").unwrap());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    // One table all the way: each state is reached from the one before.
    runner
        .run(&states(), |state| {
            space
                .run(|| net.apply_firewall(&state))
                .map_err(|e| TestCaseError::fail(e.to_string()))?;
            let read = space
                .run(|| net.firewall())
                .map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(read, Some(state));
            Ok(())
        })
        .unwrap();
}

#[test]
fn who_holds_a_port_is_found() {
    use std::net::{Ipv6Addr, TcpListener, UdpSocket};
    let space = Space::new();
    let net = space.run(|| Net::new("test").unwrap());
    space.run(|| {
        let _tcp = TcpListener::bind((LOCALHOST, 7001)).unwrap();
        let _udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7002)).unwrap();
        let _both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7003)).unwrap();
        let _six = UdpSocket::bind((Ipv6Addr::LOCALHOST, 7004)).unwrap();
        let connected = UdpSocket::bind((LOCALHOST, 7005)).unwrap();
        connected.connect((LOCALHOST, 7002)).unwrap();
        let mut found = net.listeners().unwrap();
        found.sort_by_key(|l| (l.port, l.ip));
        let text: Vec<String> = found
            .iter()
            .map(|l| format!("{} {} {}", l.protocol, l.ip, l.port))
            .collect();
        assert_eq!(
            text,
            [
                "tcp 127.0.0.1 7001",
                "udp 0.0.0.0 7002",
                "tcp 0.0.0.0 7003",
                "tcp :: 7003",
                "udp ::1 7004"
            ]
        );
        for listener in &found {
            let (pid, name) = net.listener_holder(listener).unwrap();
            assert_eq!(pid, std::process::id());
            assert!(!name.is_empty());
        }
        drop(_tcp);
        assert_eq!(net.listener_holder(&found[0]), None);
    });
}
