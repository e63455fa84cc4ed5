//! Networks whose containers do not reach each other (`icc = false`), with real packets: every way a container may try, and
//! what a link lets through, whether bridged packets pass the IP hooks or not. Each attack is proven to be one on a network
//! that is not isolated.
#![allow(clippy::unwrap_used)]

mod host;
#[path = "isolated/posing.rs"]
mod posing;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use host::senders::{frame, index, link_local, send_frame};
use host::{
    Container, HOST, HOST6, Host, LONG, NEIGHBOUR, NEIGHBOUR6, PATIENCE, Space, bridge_rule, dual, gateway6,
    network, port, port6, refuse, refuse_all, serve,
};
use model::firewall::LinkRule;
use model::firewall::Protocol::{self, Tcp, Udp};
use model::network::HostNetwork;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// Where the victim listens.
const PORT: u16 = 9;

fn isolated(name: &str, third: u8) -> HostNetwork {
    HostNetwork {
        isolated: true,
        ..dual(name, third)
    }
}

/// A way from one container to a port of another one, by its addresses of both families.
fn links(from: &Container, to: &Container, protocol: Protocol, port: u16) -> Vec<LinkRule> {
    let ends: [(IpAddr, IpAddr); 2] = [
        (from.ip().into(), to.ip().into()),
        (from.ip6().into(), to.ip6().into()),
    ];
    ends.map(|(a, b)| LinkRule {
        bridge: to.at.bridge.clone(),
        from: a,
        to: b,
        protocol,
        port,
    })
    .to_vec()
}

/// What a server of both families says: of IPv4 it sees what stands for that in IPv6.
fn ask(space: &Space, protocol: Protocol, to: impl Into<IpAddr>, port: u16) -> String {
    host::ask(space, protocol, to, port).replace("::ffff:", "")
}

/// Somebody to attack: what reached it, by what the datagrams say.
struct Victim {
    at: Container,
    heard: Arc<Mutex<BTreeSet<String>>>,
}

impl Victim {
    fn new(host: &Host, n: &HostNetwork, number: u8) -> Self {
        let at = host.container(n, number);
        let heard = Arc::new(Mutex::new(BTreeSet::new()));
        let socket = at.space.run(|| UdpSocket::bind((ANY, PORT)).unwrap());
        let ear = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(count) = socket.recv(&mut buffer) {
                let word = String::from_utf8_lossy(&buffer[..count]).into_owned();
                ear.lock().unwrap().insert(word);
            }
        });
        Self { at, heard }
    }

    /// What it heard up to now, or, of these, once it heard all of them.
    fn heard(&self, host: &Host, awaited: &[&str]) -> BTreeSet<String> {
        // What was sent before is there when this is, as far as anything can tell.
        tell(&host.space, (self.at.ip(), PORT).into(), "the last word");
        let since = Instant::now();
        loop {
            let heard = self.heard.lock().unwrap().clone();
            let all = ["the last word"]
                .iter()
                .chain(awaited)
                .all(|word| heard.contains(*word));
            if all || since.elapsed() > LONG {
                return heard.into_iter().filter(|word| word != "the last word").collect();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn tell(space: &Space, to: SocketAddr, word: &str) {
    space.run(|| {
        let any: IpAddr = if to.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            ANY.into()
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        // Where there is no way, the kernel may say so.
        let _ = socket.send_to(word.as_bytes(), to);
    });
}

/// Tries all that a container can try to tell its neighbour something. What each says is its name.
const ATTACKS: [&str; 11] = [
    "as neighbours do",
    "as neighbours do, IPv6",
    "static neighbour",
    "static neighbour, IPv6",
    "of the link",
    "to all nodes",
    "to the subnet",
    "frame",
    "frame, IPv6",
    "frame for everybody",
    "frame for everybody, IPv6",
];

fn attack(a: &Container, b: &Container) {
    let mut names = ATTACKS.into_iter();
    let mut next = || names.next().unwrap();
    let both: [SocketAddr; 2] = [(b.ip(), PORT).into(), (b.ip6(), PORT).into()];
    both.into_iter().for_each(|to| tell(&a.space, to, next()));
    a.space.sh(&format!(
        "ip neigh replace {v4} lladdr {mac} dev eth0 nud permanent; ip route replace {v4}/32 dev eth0
         ip neigh replace {v6} lladdr {mac} dev eth0 nud permanent; ip route replace {v6}/128 dev eth0 metric 1",
        v4 = b.ip(),
        v6 = b.ip6(),
        mac = b.at.mac
    ));
    both.into_iter().for_each(|to| tell(&a.space, to, next()));
    let scope = index(&a.space, "eth0");
    for ip in [
        link_local(&b.space, "eth0"),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    ] {
        tell(&a.space, SocketAddrV6::new(ip, PORT, 0, scope).into(), next());
    }
    let [x, y, z, _] = b.ip().octets();
    tell(&a.space, (Ipv4Addr::new(x, y, z, 255), PORT).into(), next());
    for mac in [b.at.mac.0, [0xff; 6]] {
        for to in [IpAddr::V4(b.ip()), b.ip6().into()] {
            send_frame(&a.space, &frame(&a.at, mac, (to, PORT).into(), next()));
        }
    }
    assert_eq!(names.next(), None, "each was tried");
}

fn nothing_reaches_a_neighbour(bridge_nf: bool) {
    let host = Host::dual(Some(bridge_nf));
    let n = isolated("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), Victim::new(&host, &n, 6));
    attack(&a, &b.at);
    assert_eq!(b.heard(&host, &[]), BTreeSet::new());
    // A flag that somebody takes off is seen, and comes back.
    let device = &b.at.at.host_device;
    let is_isolated = || host.space.run(|| host.net.links().unwrap()[device].isolated);
    assert!(is_isolated());
    host.space
        .sh(&format!("bridge link set dev {device} isolated off"));
    assert!(!is_isolated());
    host.space
        .run(|| host.net.attach(b.at.space.fd(), &b.at.at, "b").unwrap());
    assert!(is_isolated());
    attack(&a, &b.at);
    assert_eq!(b.heard(&host, &[]), BTreeSet::new());
}

#[test]
fn nothing_reaches_a_neighbour_without_bridge_nf() {
    nothing_reaches_a_neighbour(false);
}

#[test]
fn nothing_reaches_a_neighbour_with_bridge_nf() {
    nothing_reaches_a_neighbour(true);
}

/// Each of the attacks is one.
#[test]
fn everything_reaches_a_neighbour_that_is_not_isolated() {
    for bridge_nf in [false, true] {
        let host = Host::dual(Some(bridge_nf));
        let n = dual("front", 1);
        host.apply(&[&n], Vec::new());
        let (a, b) = (host.container(&n, 5), Victim::new(&host, &n, 6));
        attack(&a, &b.at);
        assert_eq!(b.heard(&host, &ATTACKS), ATTACKS.map(str::to_owned).into());
    }
}

/// Frames are kept back by the ports, what is routed by the rules: neither does for the other.
#[test]
fn ports_and_rules_both_count() {
    let host = Host::dual(Some(false));
    let n = isolated("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), Victim::new(&host, &n, 6));
    for device in [&a.at.host_device, &b.at.at.host_device] {
        host.space
            .sh(&format!("bridge link set dev {device} isolated off"));
    }
    attack(&a, &b.at);
    let by_the_link: BTreeSet<String> = ATTACKS[2..].iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(b.heard(&host, &ATTACKS[2..]), by_the_link);

    let (host, n) = (Host::dual(Some(false)), isolated("front", 1));
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), Victim::new(&host, &n, 6));
    host.apply(&[&HostNetwork { isolated: false, ..n }], Vec::new());
    attack(&a, &b.at);
    let routed: BTreeSet<String> = ATTACKS[..2].iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(b.heard(&host, &ATTACKS[..2]), routed);
}

fn a_link_leads_to_its_port_alone(bridge_nf: bool, internal: bool) {
    let host = Host::dual(Some(bridge_nf));
    let n = HostNetwork {
        internal,
        ..isolated("front", 1)
    };
    host.apply(&[&n], Vec::new());
    let [a, b, c] = [5, 6, 7].map(|number| host.container(&n, number));
    for space in [&a.space, &b.space, &c.space] {
        for number in [80, 81] {
            serve(space, ANY, number, "served");
        }
    }
    host.apply_linked(&[&n], Vec::new(), links(&a, &b, Tcp, 80));
    let ends: [(IpAddr, IpAddr); 2] = [(a.ip().into(), b.ip().into()), (a.ip6().into(), b.ip6().into())];
    for (from, to) in ends {
        assert_eq!(ask(&a.space, Tcp, to, 80), format!("served {from}"));
        refuse(&a.space, Udp, to, 80);
        refuse_all(
            "another port, nobody's link, and the way back",
            &[(&a.space, to, 81), (&c.space, to, 80), (&b.space, from, 80)],
        );
        // To itself, and from the host.
        assert_eq!(ask(&b.space, Tcp, to, 80), format!("served {to}"));
        assert!(ask(&host.space, Tcp, to, 80).starts_with("served "));
    }
    let state = host.apply_linked(&[&n], Vec::new(), links(&a, &b, Udp, 81));
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    for (from, to) in ends {
        assert_eq!(ask(&a.space, Udp, to, 81), format!("served {from}"));
        refuse(&a.space, Tcp, to, 80);
    }
}

#[test]
fn a_link_leads_to_its_port_alone_without_bridge_nf() {
    a_link_leads_to_its_port_alone(false, false);
}

#[test]
fn a_link_leads_to_its_port_alone_with_bridge_nf() {
    a_link_leads_to_its_port_alone(true, true);
}

/// Flows that have begun do not outlive their link.
#[test]
fn a_link_that_goes_takes_its_flows_along() {
    let host = Host::dual(Some(true));
    let n = isolated("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), host.container(&n, 6));
    let listener = b.space.run(|| TcpListener::bind((ANY, 80)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    let state = host.apply_linked(&[&n], Vec::new(), links(&a, &b, Tcp, 80));
    let (to4, to6) = ((b.ip(), 80), (b.ip6(), 80));
    let mut open = a
        .space
        .run(|| [TcpStream::connect(to4).unwrap(), TcpStream::connect(to6).unwrap()]);
    let mut echo = |patience| {
        open.each_mut().map(|stream| {
            stream.set_read_timeout(Some(patience)).unwrap();
            stream.write_all(b"!").unwrap();
            stream.read_exact(&mut [0]).is_ok()
        })
    };
    assert_eq!(echo(LONG), [true, true]);
    host.apply(&[&n], Vec::new());
    assert_eq!(echo(PATIENCE), [false, false]);
    // What was said meanwhile is said again by TCP itself.
    host.space.run(|| host.net.apply_firewall(&state).unwrap());
    assert_eq!(echo(LONG), [true, true]);
}

fn the_world_is_where_it_was(bridge_nf: bool) {
    let host = Host::dual(Some(bridge_nf));
    let (n, other) = (isolated("front", 1), dual("back", 2));
    host.apply(&[&n, &other], Vec::new());
    let (a, b, c) = (
        host.container(&n, 5),
        host.container(&n, 6),
        host.container(&other, 5),
    );
    for web in [&a, &b] {
        serve(&web.space, ANY, 80, "web");
    }
    serve(&host.neighbour, ANY, 80, "world");
    serve(&host.space, ANY, 53, "names");
    let published = BOTH.map(|p| [port(p, None, 8080, &b.at, 80), port6(p, None, 8080, &b.at, 80)]);
    host.apply(&[&n, &other], published.concat());
    for p in BOTH {
        assert_eq!(ask(&a.space, p, NEIGHBOUR, 80), format!("world {HOST}"));
        // By one of its addresses.
        assert!(ask(&a.space, p, NEIGHBOUR6, 80).starts_with("world 2001:db8:2::"));
        // The name server.
        assert_eq!(
            ask(&a.space, p, host::gateway(&n), 53),
            format!("names {}", a.ip())
        );
        assert_eq!(ask(&a.space, p, gateway6(&n), 53), format!("names {}", a.ip6()));
        // Published ports, from everywhere but the network itself.
        assert_eq!(ask(&host.neighbour, p, HOST, 8080), format!("web {NEIGHBOUR}"));
        assert_eq!(ask(&host.neighbour, p, HOST6, 8080), format!("web {NEIGHBOUR6}"));
        assert!(ask(&host.space, p, HOST, 8080).starts_with("web "));
        assert_eq!(ask(&c.space, p, HOST, 8080), format!("web {}", c.ip()));
        assert_eq!(ask(&c.space, p, HOST6, 8080), format!("web {}", c.ip6()));
    }
    refuse_all(
        "a neighbour's published port",
        &[
            (&a.space, IpAddr::from(HOST), 8080),
            (&a.space, HOST6.into(), 8080),
        ],
    );
}

#[test]
fn the_world_is_where_it_was_without_bridge_nf() {
    the_world_is_where_it_was(false);
}

#[test]
fn the_world_is_where_it_was_with_bridge_nf() {
    the_world_is_where_it_was(true);
}

/// Redirects that were heard in there, of both families.
fn redirects(space: &Space) -> u64 {
    let text = space.run(|| {
        let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        [read("snmp"), read("snmp6")]
    });
    let mut four = text[0]
        .lines()
        .filter(|line| line.starts_with("Icmp:"))
        .map(str::split_whitespace);
    let (names, values) = (four.next().unwrap(), four.next().unwrap());
    let four = names
        .zip(values)
        .find(|(name, _)| *name == "InRedirects")
        .unwrap()
        .1;
    let six = text[1]
        .lines()
        .find(|line| line.starts_with("Icmp6InRedirects"))
        .unwrap();
    let six = six.split_whitespace().nth(1).unwrap();
    four.parse::<u64>().unwrap() + six.parse::<u64>().unwrap()
}

#[test]
fn nobody_is_told_of_a_shorter_way() {
    let host = Host::shared();
    host.space
        .sh("echo 1 > /proc/sys/net/ipv4/conf/all/send_redirects");
    let n = isolated("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "served");
    host.apply_linked(&[&n], Vec::new(), links(&a, &b, Tcp, 80));
    let knock = || {
        ask(&a.space, Tcp, b.ip(), 80);
        ask(&a.space, Tcp, b.ip6(), 80);
    };
    knock();
    assert_eq!(redirects(&a.space), 0);
    // Without that rule it is told.
    host.space.sh("nft flush chain inet wharf redirects");
    let since = Instant::now();
    while redirects(&a.space) == 0 {
        assert!(since.elapsed() < LONG, "no redirect");
        knock();
    }
    assert_eq!(
        host.space.run(|| host.net.firewall().unwrap()),
        None,
        "and the table is put right"
    );
}

/// Inside, everything but the gateway is behind the gateway; back on a common link, nothing is.
#[test]
fn a_running_container_follows_its_network() {
    let host = Host::dual(Some(true));
    let n = isolated("front", 1);
    host.apply(&[&n], Vec::new());
    let (mut a, mut b) = (host.container(&n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "served");
    let routes = |family| {
        let line = format!(
            "ip -o {family} route show | grep -v fe80 | sed 's/ linkdown//; s/ pref medium//; s/ *$//' | sort"
        );
        a.space.sh(&line)
    };
    assert_eq!(
        routes("-4"),
        "10.88.1.0/24 via 10.88.1.1 dev eth0 proto static src 10.88.1.5\n\
         10.88.1.1 dev eth0 proto kernel scope link src 10.88.1.5\n\
         default via 10.88.1.1 dev eth0 proto static\n"
    );
    assert_eq!(
        routes("-6"),
        "default via fd00:88:1::1 dev eth0 proto static metric 1024\n\
         fd00:88:1::/64 via fd00:88:1::1 dev eth0 proto static metric 256\n\
         fd00:88:1::1 dev eth0 proto kernel metric 256\n"
    );
    refuse_all(
        "isolated",
        &[
            (&a.space, IpAddr::from(b.ip()), 80),
            (&a.space, b.ip6().into(), 80),
        ],
    );
    for isolated in [false, true] {
        let n = HostNetwork {
            isolated,
            ..n.clone()
        };
        host.apply(&[&n], Vec::new());
        for c in [&mut a, &mut b] {
            c.at.isolated = isolated;
            host.space
                .run(|| host.net.attach(c.space.fd(), &c.at, "c").unwrap());
        }
        for to in [IpAddr::from(b.ip()), b.ip6().into()] {
            match isolated {
                false => drop(ask(&a.space, Tcp, to, 80)),
                true => refuse(&a.space, Tcp, to, 80),
            }
        }
    }
}

#[test]
fn a_link_that_cannot_be_is_refused() {
    let host = Host::new();
    let (open, closed) = (network("open", 1), isolated("closed", 2));
    host.apply(&[&open, &closed], Vec::new());
    let link = |bridge: &HostNetwork, from: [u8; 4], to: [u8; 4], port| LinkRule {
        bridge: bridge.bridge.clone(),
        from: from.into(),
        to: to.into(),
        protocol: Tcp,
        port,
    };
    let refused = |link: LinkRule| {
        let state = model::firewall::FirewallState {
            bridges: [&open, &closed].map(bridge_rule).to_vec(),
            links: vec![link],
            ..Default::default()
        };
        host.space
            .run(|| host.net.apply_firewall(&state.sorted()).unwrap_err().to_string())
    };
    insta::assert_snapshot!(refused(link(&open, [10, 88, 1, 5], [10, 88, 1, 6], 80)), @"the link from 10.88.1.5 to 10.88.1.6, port 80/tcp: wh-open is no bridge with isolated ports");
    insta::assert_snapshot!(refused(link(&closed, [10, 88, 2, 5], [10, 88, 1, 6], 80)), @"the link from 10.88.2.5 to 10.88.1.6, port 80/tcp: its ends are not both in a subnet of wh-closed");
    insta::assert_snapshot!(refused(link(&closed, [10, 88, 2, 5], [10, 88, 2, 6], 0)), @"the link from 10.88.2.5 to 10.88.2.6, port 0/tcp: there is no port 0");
}
