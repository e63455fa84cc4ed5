//! A container that makes up frames (CAP_NET_RAW) in the name of a neighbour that has a link: what it says arrives
//! nowhere, and where the neighbour is stays known, whatever the firewall is. Each attempt is shown to be one once the
//! port's filter is gone.

use super::*;
use host::senders::{checksum, sum};
use host::{On, on_every_backend};
use model::network::Attachment;

on_every_backend! { nobody_speaks_or_listens_in_a_neighbours_name }

const WORDS: [&str; 4] = [
    "from my address of the link",
    "from my address of the link, IPv6",
    "from the neighbour's",
    "from the neighbour's, IPv6",
];
/// How long what must not happen is waited for, while it is tried again and again.
const TRIES: u32 = 6;

fn nobody_speaks_or_listens_in_a_neighbours_name(on: On) {
    for bridge_nf in [false, true] {
        let host = on.dual(Some(bridge_nf));
        let n = isolated("front", 1);
        host.apply(&[&n], Vec::new());
        let (a, b, c) = (
            host.container(&n, 5),
            Victim::new(&host, &n, 6),
            host.container(&n, 7),
        );
        host.apply_linked(&[&n], Vec::new(), links(&a, &b.at, Udp, PORT));
        let own = ["by the link", "by the link, IPv6"];
        for (to, word) in [IpAddr::from(b.at.ip()), b.at.ip6().into()].into_iter().zip(own) {
            tell(&a.space, (to, PORT).into(), word);
        }
        speak(&n, &a, &b.at, &c);
        assert_eq!(b.heard(&host, &own), own.map(str::to_owned).into());
        for lie in lies(&n, &a, &c) {
            for _ in 0..TRIES {
                send_frame(&c.space, &lie);
                assert_eq!(believed(&host, &n, &a, &c), Vec::<IpAddr>::new());
            }
        }

        let device = &c.at.host_device;
        let is_isolated = || host.space.run(|| host.net.links().unwrap()[device].isolated);
        assert!(is_isolated());
        host.space.sh(&format!("tc qdisc del dev {device} clsact"));
        assert!(!is_isolated(), "that is seen");
        for lie in lies(&n, &a, &c) {
            forget(&host, &n, &a);
            let since = Instant::now();
            while believed(&host, &n, &a, &c).is_empty() {
                assert!(since.elapsed() < LONG, "{lie:02x?}");
                send_frame(&c.space, &lie);
            }
        }
        speak(&n, &a, &b.at, &c);
        let all: BTreeSet<String> = own.iter().chain(&WORDS).map(|word| (*word).to_owned()).collect();
        assert_eq!(b.heard(&host, &WORDS), all);

        host.space
            .run(|| host.net.attach(c.space.fd(), &c.at, "c").unwrap());
        assert!(is_isolated(), "and put right");
        forget(&host, &n, &a);
        for lie in lies(&n, &a, &c) {
            send_frame(&c.space, &lie);
        }
        assert_eq!(believed(&host, &n, &a, &c), Vec::<IpAddr>::new());
    }
}

/// `c` tells `b` something by the gateway, as if it were `a`.
fn speak(n: &HostNetwork, a: &Container, b: &Container, c: &Container) {
    let mut words = WORDS.into_iter();
    for mac in [c.at.mac, a.at.mac] {
        let from = Attachment { mac, ..a.at.clone() };
        for to in [IpAddr::V4(b.ip()), b.ip6().into()] {
            send_frame(
                &c.space,
                &frame(&from, n.mac().0, (to, PORT).into(), words.next().unwrap()),
            );
        }
    }
}

/// What tells the host that addresses of `a` are `c`'s: an answer by ARP (RFC 826), neighbour advertisements (RFC 4861) as
/// they are, and behind headers that nobody needs before one.
fn lies(n: &HostNetwork, a: &Container, c: &Container) -> Vec<Vec<u8>> {
    let ethernet = |kind: u16| [&n.mac().0[..], &c.at.mac.0, &kind.to_be_bytes()].concat();
    let arp = [
        &ethernet(0x0806)[..],
        &[0, 1, 8, 0, 6, 4, 0, 2],
        &c.at.mac.0,
        &a.ip().octets(),
        &n.mac().0,
        &n.v4().unwrap().gateway.octets(),
    ];
    let advertisement = |before: &[u8]| {
        let (from, to) = (c.ip6().octets(), gateway6(n).octets());
        let mut icmp = [
            &[136, 0, 0, 0, 0x60, 0, 0, 0][..],
            &a.ip6().octets(),
            &[2, 1],
            &c.at.mac.0,
        ]
        .concat();
        let check = checksum(sum(&from) + sum(&to) + 58 + icmp.len() as u32 + sum(&icmp));
        icmp[2..4].copy_from_slice(&check);
        // A header of eight bytes: what is next, and padding (PadN).
        let header: Vec<u8> = before.iter().flat_map(|_| [58, 0, 1, 4, 0, 0, 0, 0]).collect();
        let length = (icmp.len() + header.len()) as u16;
        let next = before.first().copied().unwrap_or(58);
        let ip = [
            &[0x60, 0, 0, 0][..],
            &length.to_be_bytes(),
            &[next, 255],
            &from,
            &to,
        ]
        .concat();
        [ethernet(0x86dd), ip, header, icmp].concat()
    };
    vec![
        arp.concat(),
        advertisement(&[]),
        advertisement(&[0]),
        advertisement(&[60]),
    ]
}

/// The addresses of `a` that the host takes for `c`'s.
fn believed(host: &Host, n: &HostNetwork, a: &Container, c: &Container) -> Vec<IpAddr> {
    let shown = host.space.sh(&format!("ip neigh show dev {}", n.bridge));
    let theirs = |ip: &IpAddr| {
        let (ip, mac) = (format!("{ip} "), c.at.mac.to_string());
        shown
            .lines()
            .any(|line| line.starts_with(&ip) && line.contains(&mac))
    };
    let own = [IpAddr::V4(a.ip()), a.ip6().into()];
    own.into_iter().filter(theirs).collect()
}

/// The host knows again where `a` is.
fn forget(host: &Host, n: &HostNetwork, a: &Container) {
    for ip in [IpAddr::V4(a.ip()), a.ip6().into()] {
        let (mac, bridge) = (a.at.mac, &n.bridge);
        host.space.sh(&format!(
            "ip neigh replace {ip} lladdr {mac} dev {bridge} nud reachable"
        ));
    }
}
