//! What is closed, with real packets: by rules of ours, whatever others let through.

use super::*;
use host::senders::route_loopback_to;

/// Takes rules out of a table by what they are printed as.
fn without(host: &Host, on: On, table: &str, pattern: &str) {
    let program = format!("iptables-{}", on.variant());
    let before = host.rules();
    host.space.sh(&format!(
        "{program}-save -t {table} | grep -v -- '{pattern}' | {program}-restore -T {table}"
    ));
    assert_ne!(host.rules(), before, "{pattern}");
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
