//! From one backend to another, with real packets: nothing opens in between, and nothing of the one before is left.

use super::*;

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
