//! What is there of IPv6 is put right whatever was broken, and goes with the last network that has it.

use model::observed::{Ipv6State, ObservedLink};

use super::*;

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
