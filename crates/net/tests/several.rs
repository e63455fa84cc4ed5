//! A container on several networks, its repair, and what networks keep apart, each with the attack written out.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{Ipv4Addr, UdpSocket};

use host::{
    HOST, Host, LOCALHOST, NEIGHBOUR, On, SECOND, Space, ask, attachment, network, port, refuse, refuse_all,
    serve,
};
use model::firewall::Protocol::{self, Tcp, Udp};
use model::network::{Attachment, HostNetwork, MacAddr};

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

host::on_every_backend! {
    a_container_is_on_several_networks_and_goes_out_by_one
    a_container_does_not_reach_other_networks_whatever_it_sends
    a_container_does_not_reach_the_hosts_loopback_by_any_of_its_networks
    an_internal_network_has_no_way_out_and_no_way_in
    a_bridge_of_the_users_name_and_size_carries_traffic
}

/// The container's interface number so and so on that network; only `gateway` ones have a default route.
fn interface(n: &HostNetwork, index: usize, gateway: bool) -> Attachment {
    let gateway = gateway.then(|| host::gateway(n));
    Attachment {
        device: format!("eth{index}"),
        host_device: net::host_device_name("0123456789ab", index),
        ..host::routed(attachment(n, 5), gateway)
    }
}

fn attach(host: &Host, space: &Space, at: &[Attachment]) {
    for a in at {
        host.space.run(|| host.net.attach(space.fd(), a, "web").unwrap());
    }
}

fn a_container_is_on_several_networks_and_goes_out_by_one(on: On) {
    let host = on.host();
    let (mut front, back, mut closed) = (network("front", 1), network("back", 2), network("closed", 3));
    front.mtu = Some(1400);
    closed.internal = true;
    host.apply(&[&front, &back, &closed], Vec::new());
    let space = Space::new();
    let mut at = [
        interface(&closed, 0, false),
        interface(&front, 1, true),
        interface(&back, 2, false),
    ];
    at[1].mtu = Some(1400);
    at[2].mac = MacAddr([2, 0, 0, 0, 0, 9]);
    attach(&host, &space, &at);
    // A carrier is told of a moment late on a busy machine.
    let routes = space.sh("ip -o -4 route show | sed 's/ linkdown//; s/ *$//' | sort");
    assert_eq!(
        routes,
        "10.88.1.0/24 dev eth1 proto kernel scope link src 10.88.1.5\n\
         10.88.2.0/24 dev eth2 proto kernel scope link src 10.88.2.5\n\
         10.88.3.0/24 dev eth0 proto kernel scope link src 10.88.3.5\n\
         default via 10.88.1.1 dev eth1 proto static\n"
    );
    let shown = space.sh("ip link show eth1; ip link show eth2");
    assert!(
        shown.contains("mtu 1400") && shown.contains("02:00:00:00:00:09"),
        "{shown}"
    );
    serve(&space, ANY, 80, "web");
    serve(&host.neighbour, ANY, 9000, "lan");
    host.apply(
        &[&front, &back, &closed],
        BOTH.map(|p| port(p, None, 8080, &at[1], 80)).to_vec(),
    );
    for (n, number) in [(&front, 1), (&back, 2), (&closed, 3)] {
        let sibling = host.container(n, 7);
        let ip = Ipv4Addr::new(10, 88, number, 5);
        for protocol in BOTH {
            assert_eq!(
                ask(&sibling.space, protocol, ip, 80),
                format!("web {}", sibling.ip())
            );
        }
    }
    for protocol in BOTH {
        assert_eq!(ask(&space, protocol, NEIGHBOUR, 9000), format!("lan {HOST}"));
        assert_eq!(
            ask(&host.neighbour, protocol, HOST, 8080),
            format!("web {NEIGHBOUR}")
        );
        assert!(ask(&host.space, protocol, LOCALHOST, 8080).starts_with("web "));
    }
}

/// What somebody does to it, inside or outside.
const DAMAGE: &[(bool, &str)] = &[
    (false, "ip link del wh-01234567-1"),
    (false, "ip link set wh-01234567-1 down"),
    (false, "ip link set wh-01234567-1 nomaster"),
    (false, "ip link set wh-01234567-1 type bridge_slave hairpin off"),
    (false, "ip link set wh-01234567-1 mtu 1300"),
    (false, "ip link del wh-back"),
    (true, "ip link del eth1"),
    (true, "ip link set eth1 name eth7"),
    (true, "ip link set eth1 down"),
    (true, "ip addr flush dev eth1"),
    (true, "ip addr flush dev eth1; ip addr add 10.88.2.5/16 dev eth1"),
    (true, "ip route flush dev eth1"),
    (true, "ip route del default"),
    (true, "ip route replace default via 10.88.1.1"),
    (true, "ip link set eth1 address 02:00:00:00:00:09"),
    (true, "ip link set eth1 mtu 1300"),
    (true, "ip link set lo down"),
];

/// All of an interface that could be otherwise, inside and outside. Without what a device that was made anew has another
/// of: its number, and the outer end's MAC address.
fn shape(host: &Host, space: &Space) -> String {
    let up = r"s/^[0-9]+: ([^:@]+).*[<,]UP[,>].* (mtu [0-9]+).* link\/[a-z]+ ([0-9a-f:]+).*/\1 \2 \3/p";
    let inside = format!(
        "ip -o link | sed -nE '{up}' | sort; \
         ip -o -4 addr | awk '{{ print $2, $4 }}' | sort; \
         ip -4 route | sed 's/ linkdown//; s/ *$//' | sort"
    );
    let outside = format!(
        "ip -o link show wh-01234567-1 2>&1 | sed -nE '{up}' | cut -d' ' -f1-3; \
         ip -d -o link show wh-01234567-1 2>&1 | grep -oE 'master [^ ]+|hairpin (on|off)' || true"
    );
    space.sh(&inside) + &host.space.sh(&outside)
}

/// What one has and the other has not.
fn lost<'a>(right: &'a str, now: &str) -> Vec<&'a str> {
    right
        .lines()
        .filter(|line| !now.lines().any(|l| l == *line))
        .collect()
}

#[test]
fn what_is_damaged_of_an_interface_is_put_right() {
    let host = Host::new();
    let (front, back) = (network("front", 1), network("back", 2));
    host.apply(&[&front, &back], Vec::new());
    let space = Space::new();
    let at = [interface(&front, 0, false), interface(&back, 1, true)];
    attach(&host, &space, &at);
    serve(&space, ANY, 80, "web");
    let sibling = host.container(&back, 7);
    let right = shape(&host, &space);
    for part in [
        "eth1 mtu 1500 02:57:0a:58:02:05",
        "lo mtu ",
        "eth1 10.88.2.5/24",
        "default via 10.88.2.1 dev eth1",
        "wh-01234567-1 mtu 1500",
        "master wh-back",
        "hairpin on",
    ] {
        assert!(right.contains(part), "{part} in:\n{right}");
    }
    for (inside, damage) in DAMAGE {
        if *inside { &space } else { &host.space }.sh(damage);
        assert!(!lost(&right, &shape(&host, &space)).is_empty(), "{damage}");
        host.space.run(|| {
            host.net.apply_bridge(&back).unwrap();
            // The neighbour is connected to a bridge that was made anew, too.
            host.net.attach(sibling.space.fd(), &sibling.at, "c7").unwrap();
        });
        attach(&host, &space, &at);
        // What somebody added inside stays: a namespace is its container's own affair.
        let after = shape(&host, &space);
        assert_eq!(lost(&right, &after), Vec::<&str>::new(), "{damage}:\n{after}");
        assert!(
            ask(&sibling.space, Tcp, at[1].v4().unwrap().ip, 80).starts_with("web "),
            "{damage}"
        );
    }
}

#[test]
fn a_change_of_a_forwarding_setting_is_told_seen_and_put_right() {
    let host = Host::new();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let c = host.container(&n, 5);
    serve(&host.neighbour, ANY, 9000, "lan");
    for setting in ["ip_forward", "conf/wh-front/forwarding", "conf/all/forwarding"] {
        let monitor = host.space.run(|| net::Monitor::new().unwrap());
        host.space.sh(&format!("echo 0 > /proc/sys/net/ipv4/{setting}"));
        assert!(monitor.drain().unwrap().links, "{setting}");
        refuse(&c.space, Udp, NEIGHBOUR, 9000);
        host.space.run(|| {
            assert!(!host.net.links().unwrap()["wh-front"].route_localnet, "{setting}");
            host.net.apply_bridge(&n).unwrap();
            assert!(host.net.links().unwrap()["wh-front"].route_localnet, "{setting}");
            assert!(host.net.forwarding().unwrap());
        });
        ask(&c.space, Udp, NEIGHBOUR, 9000);
    }
}

/// A container as an attacker: root in its namespace, free to set addresses, routes and kernel settings there.
fn a_container_does_not_reach_other_networks_whatever_it_sends(on: On) {
    for bridge_nf in [true, false] {
        let host = on.bridge_nf(bridge_nf);
        let (front, back, mut closed) = (network("front", 1), network("back", 2), network("closed", 3));
        closed.internal = true;
        host.apply(&[&front, &back, &closed], Vec::new());
        let (attacker, victim, inner) = (
            host.container(&front, 5),
            host.container(&back, 5),
            host.container(&closed, 5),
        );
        for target in [&victim, &inner] {
            serve(&target.space, ANY, 80, "secret");
        }
        let heard = [&victim, &inner].map(|target| {
            let socket = target.space.run(|| UdpSocket::bind((ANY, 81)).unwrap());
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let unreached = |what: &str| {
            let knock = |port| [&victim, &inner].map(|target| (&attacker.space, target.ip(), port));
            refuse_all(what, &[knock(80), knock(81)].concat());
            // Nor is anything heard that need not be answered.
            for socket in &heard {
                let got = socket.recv_from(&mut [0; 8]).unwrap_err();
                assert_eq!(got.kind(), std::io::ErrorKind::WouldBlock, "{what}");
            }
        };
        unreached("by its default route");
        attacker
            .space
            .sh("ip addr add 10.88.2.99/24 dev eth0; ip addr add 10.88.3.99/24 dev eth0");
        unreached("with an address of theirs on its own bridge");
        attacker.space.sh(
            "ip addr flush dev eth0; ip addr add 10.88.2.99/32 dev eth0; ip route add 10.88.1.1 dev eth0; ip route add default via 10.88.1.1",
        );
        unreached("with a forged sender");
        attacker
            .space
            .sh("ip addr flush dev eth0; ip addr add 192.0.2.2/32 dev eth0; ip route add 10.88.1.1 dev eth0; ip route add default via 10.88.1.1");
        unreached("posing as the neighbour");
        attacker.space.sh("ip link set eth0 address 02:57:0a:58:02:05; ip addr flush dev eth0; ip addr add 10.88.1.5/24 dev eth0; ip route add default via 10.88.1.1");
        unreached("with their hardware address");
        attacker.space.sh(&format!(
            "ip route add 10.88.2.1 dev eth0; ip neigh replace 10.88.2.5 lladdr {} dev eth0; ip route add 10.88.2.5 dev eth0",
            victim.at.mac
        ));
        unreached("with a frame made for them");
        for target in [&victim, &inner] {
            let sibling_net = if target.at.bridge == back.bridge {
                &back
            } else {
                &closed
            };
            let sibling = host.container(sibling_net, 6);
            ask(&sibling.space, Tcp, target.ip(), 80);
        }
    }
}

fn a_container_does_not_reach_the_hosts_loopback_by_any_of_its_networks(on: On) {
    let host = on.host();
    let (front, mut closed) = (network("front", 1), network("closed", 2));
    closed.internal = true;
    host.apply(&[&front, &closed], Vec::new());
    serve(&host.space, LOCALHOST, 7000, "secret");
    serve(&host.space, HOST, 7001, "open");
    for n in [&front, &closed] {
        let c = host.container(n, 5);
        c.space.sh(&format!(
            "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet;
             ip addr del 127.0.0.1/8 dev lo; ip route flush table local root 127.0.0.0/8; ip route add 127.0.0.0/8 via {}",
            host::gateway(n)
        ));
        let other = Ipv4Addr::new(127, 9, 9, 9);
        refuse_all(
            "loopback",
            &[(&c.space, LOCALHOST, 7000), (&c.space, other, 7000)],
        );
        for protocol in BOTH {
            // What listens on the host's addresses is the host's to guard (its input chain), internal or not.
            assert!(ask(&c.space, protocol, HOST, 7001).starts_with("open "));
        }
    }
    assert_eq!(ask(&host.space, Tcp, LOCALHOST, 7000), "secret 127.0.0.1");
}

fn an_internal_network_has_no_way_out_and_no_way_in(on: On) {
    for bridge_nf in [true, false] {
        let host = on.bridge_nf(bridge_nf);
        let (front, mut closed) = (network("front", 1), network("closed", 2));
        closed.internal = true;
        host.apply(&[&front, &closed], Vec::new());
        let (web, inner, sibling) = (
            host.container(&front, 5),
            host.container(&closed, 5),
            host.container(&closed, 6),
        );
        serve(&web.space, ANY, 80, "web");
        serve(&inner.space, ANY, 80, "inner");
        serve(&host.neighbour, ANY, 9000, "lan");
        host.apply(
            &[&front, &closed],
            BOTH.map(|p| {
                [
                    port(p, None, 8080, &web.at, 80),
                    port(p, None, 8081, &inner.at, 80),
                ]
            })
            .concat(),
        );
        host.neighbour
            .sh(&format!("ip route add 10.88.0.0/16 via {HOST}"));
        // Out: the neighbour, another network's container, and that one's published port by any address.
        let mut knocks = vec![(&inner.space, NEIGHBOUR, 9000), (&inner.space, web.ip(), 80)];
        knocks.extend(
            [HOST, SECOND, host::gateway(&closed), host::gateway(&front)].map(|to| (&inner.space, to, 8080)),
        );
        // In: by its own address and by the port it publishes, which is for the host and its own network alone.
        for from in [&host.neighbour, &web.space] {
            knocks.extend([(from, inner.ip(), 80), (from, HOST, 8081)]);
        }
        refuse_all("internal", &knocks);
        for protocol in BOTH {
            assert!(ask(&host.space, protocol, HOST, 8081).starts_with("inner "));
            assert!(ask(&sibling.space, protocol, host::gateway(&closed), 8081).starts_with("inner "));
            assert!(ask(&sibling.space, protocol, inner.ip(), 80).starts_with("inner "));
        }
    }
}

fn a_bridge_of_the_users_name_and_size_carries_traffic(on: On) {
    let host = on.host();
    let mut n = network("front", 1);
    n.bridge = "br-shop".to_owned();
    n.mtu = Some(1300);
    n.ip.v4_mut().unwrap().gateway = Ipv4Addr::new(10, 88, 1, 200);
    host.apply(&[&n], Vec::new());
    let space = Space::new();
    let at = Attachment {
        mtu: n.mtu,
        ..attachment(&n, 5)
    };
    host.space
        .run(|| host.net.attach(space.fd(), &at, "web").unwrap());
    serve(&space, ANY, 80, "web");
    serve(&host.neighbour, ANY, 9000, "lan");
    host.apply(&[&n], BOTH.map(|p| port(p, None, 8080, &at, 80)).to_vec());
    for protocol in BOTH {
        assert_eq!(
            ask(&host.neighbour, protocol, HOST, 8080),
            format!("web {NEIGHBOUR}")
        );
        assert_eq!(ask(&space, protocol, NEIGHBOUR, 9000), format!("lan {HOST}"));
    }
    let links = host.space.run(|| host.net.links().unwrap());
    assert_eq!((links["br-shop"].mtu, links[&at.host_device].mtu), (1300, 1300));
    assert!(space.sh("ip link show eth0").contains("mtu 1300"));
    // Larger than the network's packets: in two of them.
    let large = space.run(|| {
        let socket = std::net::UdpSocket::bind((ANY, 0)).unwrap();
        socket.set_read_timeout(Some(host::LONG)).unwrap();
        socket.send_to(&[b'?'; 2000], (NEIGHBOUR, 9000)).unwrap();
        let mut buffer = [0; 64];
        socket.recv(&mut buffer).unwrap()
    });
    assert!(large > 0);
}
