//! The backend that keeps its rules in iptables: what was given is known again, what others did to it is seen, what is
//! theirs stays; and from one backend to another nothing opens in between.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use host::{
    HOST, HOST6, Host, LOCALHOST, NEIGHBOUR, On, Space, ask, attachment, bridge_rule, dual, gateway6,
    network, port, port6, refuse, refuse_all, serve,
};
use model::firewall::Protocol::{Tcp, Udp};
use model::firewall::{FirewallState, LinkRule, PortRule, TunnelRule};
use model::spec::FirewallChoice;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const VARIANTS: [On; 2] = [On::IptablesNft, On::IptablesLegacy];

/// Something of everything.
fn whole() -> FirewallState {
    let (front, mut back) = (dual("front", 1), network("back", 2));
    back.internal = true;
    back.isolated = true;
    let web = attachment(&front, 5);
    let replica = |name: &str, number| PortRule {
        container: name.parse().unwrap(),
        service: Some("shop".parse().unwrap()),
        ..port(Udp, None, 9000, &attachment(&front, number), 80)
    };
    let listed = PortRule {
        allow: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ..port(Tcp, Some(HOST), 8443, &web, 443)
    };
    let mut bridges = vec![bridge_rule(&front), bridge_rule(&back)];
    bridges[0].dns_port = Some(5300);
    FirewallState {
        bridges,
        ports: vec![
            port(Tcp, None, 8080, &web, 80),
            port(Tcp, Some(LOCALHOST), 8081, &web, 80),
            port6(Udp, Some(HOST6), 8080, &web, 80),
            listed,
            replica("shop", 6),
            replica("shop-2", 7),
        ],
        links: vec![LinkRule {
            bridge: back.bridge.clone(),
            from: attachment(&back, 5).ips().next().unwrap(),
            to: attachment(&back, 6).ips().next().unwrap(),
            protocol: Tcp,
            port: 5432,
        }],
        tunnels: vec![TunnelRule {
            port: 4789,
            vni: 4200,
            peers: vec![NEIGHBOUR.into()],
        }],
        ..FirewallState::default()
    }
    .sorted()
}

/// All rules of that program, without counters and what is written of the time.
fn listed(host: &Host, on: On) -> String {
    let all = host.rules();
    assert!(!all.is_empty() || on == On::Nftables);
    let kept = all.lines().filter(|line| !line.starts_with('#'));
    kept.map(|line| format!("{}\n", line.split('[').next().unwrap()))
        .collect()
}

/// The kernel tells nobody of them: whoever asks for the shape of the tables sees what is flushed, deleted and added.
#[test]
fn changes_of_legacy_tables_are_seen_by_their_shape() {
    let host = On::IptablesLegacy.shared_dual();
    let n = dual("front", 1);
    let mut watch = host.space.run(|| host.net.watch_legacy().unwrap());
    let mut changed = || host.space.run(|| watch.has_changed());
    assert!(!changed());
    let web = attachment(&n, 5);
    let state = host.apply(&[&n], vec![port(Tcp, None, 8080, &web, 80)]);
    assert!(changed() && !changed());
    for line in [
        "iptables-legacy -t nat -F",
        "ip6tables-legacy -F",
        "iptables-legacy -t mangle -F",
    ] {
        host.space.sh(line);
        assert!(changed() && !changed(), "{line}");
        host.space.run(|| host.net.apply_firewall(&state).unwrap());
        assert!(changed() && !changed(), "after {line}");
    }
    assert!(On::IptablesNft.host().net.watch_legacy().is_none());
    assert!(On::Nftables.host().net.watch_legacy().is_none());
}

#[test]
fn what_was_given_is_known_again() {
    for on in VARIANTS {
        let host = on.host();
        host.space.run(|| {
            host.net.apply_firewall(&whole()).unwrap();
            assert_eq!(host.net.firewall().unwrap(), Some(whole()));
        });
        let again = host.another_agent();
        assert_eq!(
            host.space.run(|| again.firewall().unwrap()),
            Some(whole()),
            "{on:?}"
        );
        // Given once more nothing is done.
        let before = listed(&host, on);
        host.space.run(|| again.apply_firewall(&whole()).unwrap());
        assert_eq!(listed(&host, on), before);
        host.space.run(|| {
            again.remove_firewall().unwrap();
            assert_eq!(again.firewall().unwrap(), None);
            assert!(!again.look_at_firewall().unwrap().there);
        });
        assert!(!host.rules().contains("WHARF"), "{}", host.rules());
    }
}

/// IPv4 and IPv6 alike.
const DAMAGE: &[&str] = &[
    "-t nat -F",
    "-F",
    "-t mangle -F",
    "-t nat -F; $i -t nat -X; $i -F; $i -X; $i -t mangle -F; $i -t mangle -X",
    "-t nat -D PREROUTING 1",
    "-t mangle -D FORWARD 1",
    "-D FORWARD 1",
    "-t nat -I OUTPUT -j WHARF-LOCAL",
    "-t nat -R PREROUTING 1 -i lo -m comment --comment wharf:test -j WHARF-DNAT",
    "-t mangle -I WHARF-APART -j ACCEPT",
    "-t mangle -D WHARF-APART 2",
    "-t mangle -F WHARF-LISTS",
    "-t nat -A WHARF-PORTS -p tcp --dport 22 -j ACCEPT",
    "-N WHARF-OUT",
];

#[test]
fn slow_every_damage_is_seen_and_put_right() {
    for on in VARIANTS {
        let host = on.host();
        host.space.run(|| host.net.apply_firewall(&whole()).unwrap());
        let right = listed(&host, on);
        for program in ["iptables", "ip6tables"] {
            for line in DAMAGE {
                let line = format!("i={program}-{}; $i {line}", on.variant());
                host.space.sh(&line);
                host.space.run(|| {
                    assert_eq!(host.net.firewall().unwrap(), None, "{line}");
                    host.net.apply_firewall(&whole()).unwrap();
                    assert_eq!(host.net.firewall().unwrap(), Some(whole()), "{line}");
                });
                let mut now: Vec<String> = listed(&host, on).lines().map(str::to_owned).collect();
                let mut then: Vec<String> = right.lines().map(str::to_owned).collect();
                // Chains are listed in the order they were made in.
                now.sort();
                then.sort();
                assert_eq!(now, then, "{line}");
            }
        }
    }
}

/// Rules, chains of somebody's, policies that drop: not what every table has from the start.
fn rules_of(listed: &str) -> Vec<String> {
    let plain = |line: &&str| line.starts_with('*') || *line == "COMMIT" || line.ends_with(" ACCEPT ");
    let mut lines: Vec<String> = listed.lines().filter(|l| !plain(l)).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_others_have_there_stays() {
    const THEIRS: &str = "*nat\n:DOCKER - [0:0]\n:WHARFAGE - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A DOCKER ! -i docker0 -p tcp -m tcp --dport 5000 -j DNAT --to-destination 172.17.0.2:5000\nCOMMIT\n\
        *filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n\
        -A DOCKER-USER -m comment --comment \"say \\\"-j WHARF-PASS\\\"\" -j RETURN\nCOMMIT\n";
    for on in VARIANTS {
        let host = on.host();
        let program = format!("iptables-{}", on.variant());
        host.space
            .sh(&format!("printf '%s' '{THEIRS}' | {program}-restore --noflush"));
        let before = rules_of(&listed(&host, on));
        host.space.run(|| {
            host.net.apply_firewall(&whole()).unwrap();
            let look = host.net.look_at_firewall().unwrap();
            assert_eq!((look.state, look.unjudged), (Some(whole()), None));
        });
        let mut theirs = rules_of(&listed(&host, on));
        theirs.retain(|line| !line.contains("WHARF-") || line.contains("say"));
        assert_eq!(theirs, before, "{on:?}");
        // What comes before ours from now on is not judged, and said so.
        host.space
            .sh(&format!("{program} -I FORWARD -s 198.51.100.1 -j DROP"));
        host.space.run(|| {
            let look = host.net.look_at_firewall().unwrap();
            assert_eq!(look.state, Some(whole()));
            assert!(look.unjudged.unwrap().contains("FORWARD"));
        });
        host.space.sh(&format!("{program} -D FORWARD 1"));
        host.space.run(|| host.net.remove_firewall().unwrap());
        assert_eq!(rules_of(&listed(&host, on)), before, "{on:?}");
    }
}

#[test]
fn chains_of_another_agent_are_left_alone() {
    for on in VARIANTS {
        let host = on.host();
        let program = format!("iptables-{}", on.variant());
        host.space.sh(&format!(
            "{program} -t nat -N WHARF-DNAT; {program} -t nat -A WHARF-DNAT -m comment --comment 'wharf:other: what comes in'"
        ));
        let before = listed(&host, on);
        host.space.run(|| {
            for said in [
                host.net.firewall().unwrap_err(),
                host.net.apply_firewall(&whole()).unwrap_err(),
                host.net.remove_firewall().unwrap_err(),
            ] {
                let said = said.to_string();
                assert!(said.contains("another wharf agent (other)"), "{said}");
            }
        });
        assert_eq!(listed(&host, on), before);
    }
}

/// Has the programs write down that they were called.
fn counted(host: &Host, on: On) -> impl Fn() -> Vec<String> {
    let log = host.tools().join("calls");
    for program in ["iptables", "ip6tables"] {
        for verb in ["save", "restore"] {
            let file = host.tools().join(format!("{program}-{verb}"));
            let real = format!("/usr/sbin/{program}-{}-{verb}", on.variant());
            std::fs::remove_file(&file).unwrap();
            let script = format!(
                "#!/bin/sh\necho {program}-{verb} $1 >> {}\nexec {real} \"$@\"\n",
                log.display()
            );
            std::fs::write(&file, script).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    move || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_look_is_one_program_a_family_and_none_where_the_kernel_tells_of_no_change() {
    for on in VARIANTS {
        let host = on.host();
        let calls = counted(&host, on);
        host.space.run(|| {
            let front = network("front", 1);
            let four = FirewallState {
                bridges: vec![bridge_rule(&front)],
                ports: vec![port(Tcp, None, 8080, &attachment(&front, 5), 80)],
                ..FirewallState::default()
            };
            host.net.apply_firewall(&four).unwrap();
            host.net.firewall().unwrap();
            for (state, programs) in [
                (four, &["iptables-save"][..]),
                (whole(), &["iptables-save", "ip6tables-save"]),
            ] {
                host.net.apply_firewall(&state).unwrap();
                host.net.firewall().unwrap().unwrap();
                calls();
                host.net.firewall().unwrap().unwrap();
                let made: Vec<String> = calls().iter().map(|call| call.trim().to_owned()).collect();
                // iptables-nft is a client of nf_tables, which numbers every change.
                let wanted = if on == On::IptablesNft { &[] } else { programs };
                assert_eq!(made, wanted, "{on:?}");
            }
        });
    }
}

/// Says so at its end, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody who asks all the time, and must never be let in.
fn stranger<'a>(space: &'a Space, stop: &'a AtomicBool) -> impl FnOnce() + Send + 'a {
    move || {
        space.run(|| {
            while !stop.load(Ordering::Relaxed) {
                let got = host::try_ask(Tcp, HOST, 8443, std::time::Duration::from_millis(50));
                assert!(
                    got.is_err(),
                    "somebody who is not on the list was let in: {got:?}"
                );
            }
        });
    }
}

#[test]
fn another_backend_takes_over_and_nothing_opens_in_between() {
    for on in VARIANTS {
        let host = on.shared_dual();
        let n = dual("front", 1);
        host.apply(&[&n], Vec::new());
        let c = host.container(&n, 5);
        serve(&c.space, std::net::Ipv6Addr::UNSPECIFIED, 80, "web");
        let listed = PortRule {
            allow: vec!["198.51.100.0/24".parse().unwrap()],
            ..port(Tcp, None, 8443, &c.at, 80)
        };
        let ports = vec![
            port(Tcp, None, 8080, &c.at, 80),
            port(Udp, None, 8080, &c.at, 80),
            port6(Tcp, None, 8080, &c.at, 80),
            listed,
        ];
        let state = host.apply(&[&n], ports);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(stranger(&host.neighbour, &stop));
            let _stop = Stop(&stop);
            for choice in [
                FirewallChoice::Nftables,
                FirewallChoice::Iptables,
                FirewallChoice::Nftables,
                FirewallChoice::Iptables,
            ] {
                let net = host.agent_with(choice);
                host.space.run(|| {
                    let look = net.look_at_firewall().unwrap();
                    assert_eq!(
                        (look.state, look.there),
                        (None, true),
                        "{choice:?}: the other one's are there"
                    );
                    // A bridge that is made before everything is known takes nothing away.
                    net.apply_bridge(&n).unwrap();
                });
                assert!(ask(&host.neighbour, Tcp, HOST, 8080).starts_with("web "));
                host.space.run(|| {
                    net.apply_firewall(&state).unwrap();
                    assert_eq!(net.firewall().unwrap().as_ref(), Some(&state));
                    assert!(net.forward_guard());
                });
                for protocol in [Tcp, Udp] {
                    assert!(ask(&host.neighbour, protocol, HOST, 8080).starts_with("web "));
                }
                assert!(ask(&host.neighbour, Tcp, HOST6, 8080).starts_with("web "));
                let tables = host.space.sh("nft list tables");
                assert_eq!(
                    tables.contains("inet wharf"),
                    choice == FirewallChoice::Nftables,
                    "{tables}"
                );
                assert_eq!(host.rules().contains("WHARF"), choice == FirewallChoice::Iptables);
            }
        });
    }
}

#[test]
fn the_other_iptables_takes_over() {
    let mut host = On::IptablesNft.host();
    let n = network("front", 1);
    let c = host.container(&n_applied(&host, &n), 5);
    serve(&c.space, ANY, 80, "web");
    let state = host.apply(&[&n], vec![port(Tcp, None, 8080, &c.at, 80)]);
    for on in [On::IptablesLegacy, On::IptablesNft] {
        host.choose_iptables(on);
        host.net = host.another_agent();
        host.space.run(|| {
            assert_eq!(host.net.firewall().unwrap(), None);
            host.net.apply_firewall(&state).unwrap();
            assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state));
        });
        assert!(ask(&host.neighbour, Tcp, HOST, 8080).starts_with("web "));
        let other = if on == On::IptablesNft { "legacy" } else { "nft" };
        let left = host.space.sh(&format!("iptables-{other}-save"));
        assert!(!left.contains("WHARF"), "{left}");
        assert!(host.rules().contains("WHARF"));
    }
}

/// The network, with its bridge on the host.
fn n_applied(host: &Host, n: &model::network::HostNetwork) -> model::network::HostNetwork {
    host.apply(&[n], Vec::new());
    n.clone()
}

#[test]
fn with_none_nothing_of_the_host_is_changed_and_what_was_there_goes() {
    for from in [On::Nftables, On::IptablesNft, On::IptablesLegacy] {
        let mut host = from.host();
        host.space.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let n = dual("front", 1);
        let c = host.container(&n_applied(&host, &n), 5);
        serve(&c.space, ANY, 80, "web");
        let state = host.apply(&[&n], vec![port(Tcp, None, 8080, &c.at, 80)]);
        host.net = host.agent_with(FirewallChoice::None);
        let net = &host.net;
        let settings = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding \
                        /proc/sys/net/ipv4/conf/wh-front/route_localnet";
        assert_eq!(host.space.sh(settings), "1\n1\n1\n");
        host.space.run(|| {
            assert!(net.look_at_firewall().unwrap().there);
            net.keep_forward_guard();
            net.keep_forward_guard6();
            net.apply_bridge(&n).unwrap();
            net.apply_firewall(&state).unwrap();
            assert_eq!(net.firewall().unwrap().as_ref(), Some(&state));
            assert!(net.forwarding().unwrap() && net.forwarding6().unwrap());
            assert!(
                net.links().unwrap()["wh-front"].route_localnet,
                "there is nothing to put right"
            );
        });
        assert_eq!(host.space.sh(settings), "0\n0\n0\n");
        assert!(!host.space.sh("nft list tables").contains("inet wharf"));
        assert!(from == On::Nftables || !host.rules().contains("WHARF"));
        refuse(&host.neighbour, Tcp, HOST, 8080);
        // What somebody does himself is his.
        host.space.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        host.space.run(|| {
            net.apply_bridge(&n).unwrap();
            net.remove_firewall().unwrap();
            assert_eq!(net.firewall().unwrap(), None);
        });
        assert!(host.space.sh(settings).starts_with("1\n"));
    }
}

#[test]
fn odd_names_are_refused_before_they_mean_something_else() {
    let host = On::IptablesNft.host();
    for name in ["br+", "!", "-j", "a\"b", "a\\b"] {
        let mut n = network("front", 1);
        n.bridge = name.to_owned();
        let said = host
            .space
            .run(|| host.net.apply_bridge(&n).unwrap_err().to_string());
        assert!(said.contains("iptables takes device names"), "{said}");
    }
    assert!(!host.rules().contains("WHARF"));
}

/// Takes rules out of a table by what they are printed as.
fn without(host: &Host, on: On, table: &str, pattern: &str) {
    let program = format!("iptables-{}", on.variant());
    let before = host.rules();
    host.space.sh(&format!(
        "{program}-save -t {table} | grep -v -- '{pattern}' | {program}-restore -T {table}"
    ));
    assert_ne!(host.rules(), before, "{pattern}");
}

/// Makes a namespace send packets for 127.0.0.1 to a router.
fn route_loopback_to(space: &Space, via: Ipv4Addr) {
    space.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    space.sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
    space.sh("ip addr del 127.0.0.1/8 dev lo");
    space.sh(&format!(
        "ip route flush table local root 127.0.0.0/8; ip route add 127.0.0.1/32 via {via}"
    ));
}

/// What the suite of all backends says cannot be done can be done as soon as the rule against it is gone.
#[test]
fn slow_every_protection_is_needed() {
    for on in VARIANTS {
        let host = on.host();
        // Else the guard would stand in for a missing rule.
        host.space.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let (front, back, mut closed) = (network("front", 1), network("back", 2), network("closed", 3));
        closed.internal = true;
        let all = [&front, &back, &closed];
        host.apply(&all, Vec::new());
        let web = |n| {
            let c = host.container(n, 5);
            serve(&c.space, ANY, 80, "web");
            c
        };
        let (a, b, c) = (web(&front), web(&back), web(&closed));
        let listed = PortRule {
            allow: vec!["198.51.100.0/24".parse().unwrap()],
            ..port(Tcp, None, 8443, &a.at, 80)
        };
        let state = host.apply(&all, vec![port(Tcp, Some(LOCALHOST), 8080, &a.at, 80), listed]);
        let repair = || host.space.run(|| host.net.apply_firewall(&state).unwrap());
        serve(&host.space, LOCALHOST, 7000, "secret");
        serve(&host.neighbour, ANY, 9000, "lan");

        host.neighbour.sh("ip route add 10.88.0.0/16 via 192.0.2.1");
        without(&host, on, "mangle", "-o wh-front -j DROP");
        assert!(ask(&host.neighbour, Tcp, a.ip(), 80).starts_with("web "));
        repair();
        refuse(&host.neighbour, Tcp, a.ip(), 80);

        without(&host, on, "mangle", "wh-closed -j DROP");
        assert!(ask(&c.space, Tcp, NEIGHBOUR, 9000).starts_with("lan "));
        repair();
        refuse(&c.space, Tcp, NEIGHBOUR, 9000);

        refuse(&host.neighbour, Tcp, HOST, 8443);
        without(&host, on, "mangle", "--dport 8443 -j DROP");
        assert!(ask(&host.neighbour, Tcp, HOST, 8443).starts_with("web "));
        repair();
        refuse(&host.neighbour, Tcp, HOST, 8443);

        route_loopback_to(&b.space, host::gateway(&back));
        without(&host, on, "mangle", "-d 127.0.0.0/8 -i wh-back -j DROP");
        assert!(ask(&b.space, Tcp, LOCALHOST, 7000).starts_with("secret "));
        repair();
        refuse(&b.space, Tcp, LOCALHOST, 7000);

        route_loopback_to(&host.neighbour, HOST);
        without(&host, on, "nat", "-d 127.0.0.0/8 -j RETURN");
        assert!(ask(&host.neighbour, Tcp, LOCALHOST, 8080).starts_with("web "));
        repair();
        refuse(&host.neighbour, Tcp, LOCALHOST, 8080);
    }
}

/// Filters of others that accept everything, or nothing, in front of ours and behind.
#[test]
fn what_is_closed_stays_closed_whatever_others_let_through() {
    for on in VARIANTS {
        let host = on.dual(None);
        let (front, back) = (dual("front", 1), dual("back", 2));
        host.apply(&[&front, &back], Vec::new());
        let (a, b) = (host.container(&front, 5), host.container(&back, 5));
        serve(&a.space, std::net::Ipv6Addr::UNSPECIFIED, 80, "web");
        let listed = PortRule {
            allow: vec!["198.51.100.0/24".parse().unwrap()],
            ..port(Tcp, None, 8443, &a.at, 80)
        };
        let open = [
            port(Tcp, None, 8080, &a.at, 80),
            port6(Tcp, None, 8080, &a.at, 80),
        ];
        let state = host.apply(&[&front, &back], [vec![listed], open.to_vec()].concat());
        let accepting =
            "for i in iptables ip6tables; do for c in INPUT FORWARD; do $i-v -I $c -j ACCEPT; done; done";
        host.space
            .sh(&accepting.replace("-v", &format!("-{}", on.variant())));
        host.neighbour.sh(&format!(
            "ip route add 10.88.0.0/16 via {HOST}; ip route add fd00:88::/32 via {HOST6}"
        ));
        refuse_all(
            "closed by us",
            &[
                (&host.neighbour, std::net::IpAddr::from(HOST), 8443),
                (&host.neighbour, a.ip().into(), 80),
                (&host.neighbour, a.ip6().into(), 80),
                (&b.space, a.ip().into(), 80),
                (&b.space, a.ip6().into(), 80),
            ],
        );
        // And behind ours whoever drops.
        let dropping = "for i in iptables ip6tables; do for c in INPUT FORWARD; do $i-v -D $c 1; $i-v -P $c DROP; done; done";
        host.space
            .sh(&dropping.replace("-v", &format!("-{}", on.variant())));
        serve(&host.neighbour, std::net::Ipv6Addr::UNSPECIFIED, 9000, "lan");
        assert!(ask(&host.neighbour, Tcp, HOST, 8080).starts_with("web "));
        assert!(ask(&b.space, Tcp, NEIGHBOUR, 9000).starts_with("lan "));
        serve(&host.space, host::gateway(&front), 53, "names");
        serve(&host.space, host::gateway(&front), 54, "secret");
        assert!(ask(&a.space, Udp, host::gateway(&front), 53).starts_with("names "));
        refuse(&a.space, Tcp, host::gateway(&front), 54);
        refuse(&a.space, Tcp, gateway6(&front), 54);
        let drops = host.space.run(|| host.net.look_at_firewall().unwrap());
        assert_eq!(drops.state, Some(state));
        assert_eq!(drops.foreign_drops.unwrap(), []);
    }
}

#[test]
fn slow_isolated_containers_reach_each_other_by_links_alone() {
    for on in VARIANTS {
        for bridge_nf in [true, false] {
            let host = on.dual(Some(bridge_nf));
            let mut n = dual("front", 1);
            n.isolated = true;
            host.apply(&[&n], Vec::new());
            let (a, b) = (host.container(&n, 5), host.container(&n, 6));
            for c in [&a, &b] {
                for number in [80, 81] {
                    serve(&c.space, std::net::Ipv6Addr::UNSPECIFIED, number, "web");
                }
            }
            let link = |from: std::net::IpAddr, to: std::net::IpAddr| LinkRule {
                bridge: n.bridge.clone(),
                from,
                to,
                protocol: Tcp,
                port: 80,
            };
            let links = vec![
                link(a.ip().into(), b.ip().into()),
                link(a.ip6().into(), b.ip6().into()),
            ];
            let ports = vec![port(Tcp, None, 8080, &b.at, 80)];
            let state = host.apply_linked(&[&n], ports.clone(), links);
            assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
            assert!(ask(&a.space, Tcp, b.ip(), 80).starts_with("web "));
            assert!(ask(&a.space, Tcp, b.ip6(), 80).starts_with("web "));
            assert!(ask(&host.neighbour, Tcp, HOST, 8080).starts_with("web "));
            let no_link = [
                (&a.space, std::net::IpAddr::from(b.ip()), 81),
                (&a.space, b.ip6().into(), 81),
                (&b.space, a.ip().into(), 80),
                (&b.space, a.ip6().into(), 80),
                (&a.space, HOST.into(), 8080),
            ];
            refuse_all("there is no link", &no_link);
            host.apply_linked(&[&n], ports, Vec::new());
            refuse_all("there is no link any more", &[(&a.space, b.ip(), 80)]);
        }
    }
}

/// Whether a datagram that looks like VXLAN of that network gets from there to a socket on the host.
fn arrives(
    from: &Space,
    source: std::net::IpAddr,
    heard: &std::net::UdpSocket,
    to: std::net::IpAddr,
    vni: u32,
) -> bool {
    let header = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), b"frame"].concat();
    from.run(|| {
        let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
        socket.send_to(&header, (to, 4789)).unwrap();
        // What comes after it says that it will not come any more.
        socket.send_to(b"end of it", (to, 4789)).unwrap();
    });
    let mut buffer = [0; 64];
    let mut came = false;
    loop {
        let (count, _) = heard.recv_from(&mut buffer).unwrap();
        if &buffer[..count] == b"end of it" {
            return came;
        }
        came = true;
    }
}

#[test]
fn a_tunnel_takes_what_its_peers_send() {
    const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
    for on in VARIANTS {
        let host = on.dual(None);
        host.neighbour.sh(&format!("ip addr add {STRANGER}/24 dev eth0"));
        host.neighbour.sh("ip addr add 2001:db8:2::77/64 dev eth0 nodad");
        let tunnel = |vni: u32, peer: std::net::IpAddr| TunnelRule {
            port: 4789,
            vni,
            peers: vec![peer],
        };
        let state = FirewallState {
            bridges: vec![bridge_rule(&network("front", 1))],
            tunnels: vec![tunnel(42, NEIGHBOUR.into()), tunnel(43, host::NEIGHBOUR6.into())],
            ..FirewallState::default()
        }
        .sorted();
        host.space.run(|| {
            host.net.apply_firewall(&state).unwrap();
            assert_eq!(host.net.firewall().unwrap(), Some(state));
        });
        let (four, six) = (std::net::IpAddr::from(HOST), std::net::IpAddr::from(HOST6));
        let heard = [four, six].map(|ip| {
            let socket = host.space.run(|| std::net::UdpSocket::bind((ip, 4789)).unwrap());
            socket.set_read_timeout(Some(host::LONG)).unwrap();
            socket
        });
        let stranger6 = "2001:db8:2::77".parse().unwrap();
        for (source, to, vni, wanted) in [
            (NEIGHBOUR.into(), 0, 42, true),
            (STRANGER.into(), 0, 42, false),
            (NEIGHBOUR.into(), 0, 43, false),
            // Somebody else's network at the same port.
            (STRANGER.into(), 0, 44, true),
            (host::NEIGHBOUR6.into(), 1, 43, true),
            (stranger6, 1, 43, false),
            (stranger6, 1, 44, true),
        ] {
            let came = arrives(&host.neighbour, source, &heard[to], [four, six][to], vni);
            assert_eq!(came, wanted, "{on:?}: {vni} from {source}");
        }
    }
}
