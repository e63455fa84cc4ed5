//! The backend that keeps its rules in iptables: what was given is known again, what others did to it is seen, what is
//! theirs stays (here); from one backend to another nothing opens in between (`taking_over`); what is closed is so by rules
//! of ours (`closed`).
#![allow(clippy::unwrap_used)]

#[path = "iptables/closed.rs"]
mod closed;
mod host;
#[path = "iptables/taking_over.rs"]
mod taking_over;

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
