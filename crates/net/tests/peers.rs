//! What peers of networks over several hosts send comes past the input chains of others, and nothing else does.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use host::senders::raw;
use host::{HOST, Host, LONG, NEIGHBOUR, On, Space, network, on_every_backend};
use model::firewall::{Carrier, FirewallState, PeerRule};

on_every_backend! {
    peers_are_let_in_and_nobody_else
}

const VXLAN: Carrier = Carrier::Udp { port: 4789 };
/// Another host of the LAN.
const STRANGER: &str = "192.0.2.3";

/// `front` is a network that the neighbour is on, too.
fn shared(host: &Host) -> FirewallState {
    let n = network("front", 1);
    let mut state = host.apply(&[&n], Vec::new());
    let peer = |carrier| PeerRule {
        bridge: n.bridge.clone(),
        peer: NEIGHBOUR.into(),
        carrier,
    };
    state.peers = vec![peer(VXLAN), peer(Carrier::Gre)];
    host.neighbour.sh(&format!("ip addr add {STRANGER}/24 dev eth0"));
    state.sorted()
}

fn apply(host: &Host, state: &FirewallState) {
    host.space.run(|| {
        host.net.apply_firewall(state).unwrap();
        assert_eq!(host.net.firewall().unwrap().as_ref(), Some(state));
    });
}

/// What the host hears of peers: by UDP at two ports, and by GRE.
struct Ears {
    vxlan: UdpSocket,
    other: UdpSocket,
    gre: UdpSocket,
}

impl Ears {
    fn of(host: &Host) -> Self {
        let udp = |port| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket
        };
        host.space.run(|| Self {
            vxlan: udp(4789),
            other: udp(4790),
            gre: raw(47),
        })
    }

    /// The peer is heard, whose packets come last of all that are sent here.
    fn hear_the_peer_alone(&self, neighbour: &Space) {
        for from in [STRANGER, "192.0.2.2"] {
            neighbour.run(|| {
                let word = from.as_bytes();
                let udp = UdpSocket::bind((from, 0)).unwrap();
                udp.send_to(word, (HOST, 4790)).unwrap();
                udp.send_to(word, (HOST, 4789)).unwrap();
                let gre = raw(47);
                rustix::net::bind(&gre, &SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
                gre.send_to(word, (HOST, 0)).unwrap();
            });
        }
        let mut buffer = [0; 128];
        for (ear, header) in [(&self.vxlan, 0), (&self.gre, 20)] {
            let (count, from) = ear.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[header..count], from.ip()),
                (&b"192.0.2.2"[..], NEIGHBOUR.into())
            );
        }
        self.other.set_nonblocking(true).unwrap();
        assert!(self.other.recv(&mut buffer).is_err(), "another port");
    }
}

fn peers_are_let_in_and_nobody_else(on: On) {
    let host = on.host();
    let state = shared(&host);
    let program = format!("iptables-{}", on.variant());
    host.space.sh(&format!("{program} -P INPUT DROP"));
    let ears = Ears::of(&host);
    apply(&host, &state);
    ears.hear_the_peer_alone(&host.neighbour);
    let look = host.space.run(|| host.net.look_at_firewall().unwrap());
    assert_eq!(look.foreign_drops.unwrap(), []);
    let saved = host.space.sh(&format!("{program}-save"));
    for part in [
        "-s 192.0.2.2/32 -p udp -m udp --dport 4789 -j ACCEPT",
        "-s 192.0.2.2/32 -p gre -j ACCEPT",
    ] {
        let gre_by_number = part.replace("gre", "47");
        assert!(
            saved.contains(part) || saved.contains(&gre_by_number),
            "{part} in {saved}"
        );
    }
    // No peer any more.
    let mut alone = state;
    alone.peers.clear();
    apply(&host, &alone);
    let saved = host.space.sh(&format!("{program}-save"));
    assert!(!saved.contains("192.0.2.2"), "{saved}");
}

/// What is said of what peers send.
fn told(host: &Host) -> Vec<String> {
    let drops = host.space.run(|| host.net.foreign_drops().unwrap());
    let told = drops.into_iter().map(|drop| drop.told);
    told.filter(|told| told.contains("send")).collect()
}

/// Does what it says: what is between backticks.
fn obey(host: &Host, told: &str) {
    let commands = told.split('`').skip(1).step_by(2);
    let commands = commands.filter(|c| c.starts_with("nft") || c.starts_with("iptables"));
    commands.for_each(|command| drop(host.space.sh(command)));
}

#[test]
fn a_chain_written_by_hand_that_drops_is_named_with_what_to_add() {
    let host = Host::new();
    let state = shared(&host);
    let ears = Ears::of(&host);
    host.space.sh("nft -f - <<'EOF'
table inet byhand {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        udp dport { 53, 67 } accept
        tcp dport 22 accept
    }
}
EOF");
    apply(&host, &state);
    // A set of ports may hold ours, and one of protocols GRE: nobody is told of what may well be right.
    assert_eq!(told(&host), Vec::<String>::new());
    host.space
        .sh("nft flush chain inet byhand input; nft add rule inet byhand input iif lo accept");
    let all = told(&host);
    assert_eq!(all.len(), 2, "{all:?}");
    for part in [
        "the nftables chain `inet byhand input` drops what the other hosts of wh-front send (UDP port 4789)",
        "ip saddr { 192.0.2.2 } udp dport 4789 accept",
        "(GRE)",
    ] {
        assert!(all.iter().any(|told| told.contains(part)), "{part}: {all:?}");
    }
    all.iter().for_each(|told| obey(&host, told));
    assert_eq!(told(&host), Vec::<String>::new());
    ears.hear_the_peer_alone(&host.neighbour);
}

/// The layout of firewalld's rules: which zone the way to the peers is in is not asked, so it is told where none lets them
/// in.
#[test]
fn what_no_zone_of_firewalld_lets_in_is_named_with_what_to_add() {
    let host = Host::new();
    let state = shared(&host);
    host.space.sh("nft -f - <<'EOF'
table inet firewalld {
    chain public { jump public_allow; meta l4proto icmp accept; reject with icmpx admin-prohibited; }
    chain public_allow { tcp dport 22 accept; ip6 daddr fe80::/64 udp dport 546 accept; }
    chain internal { jump internal_allow; reject with icmpx admin-prohibited; }
    chain internal_allow { udp dport 5353 accept; }
    chain filter_IN_wharf { accept; }
    chain zones {
        iifname \"wh-front\" goto filter_IN_wharf
        iifname \"lan\" goto internal
        goto public
    }
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        ct state { established, related } accept
        iifname \"lo\" accept
        jump zones
        reject with icmpx admin-prohibited
    }
}
EOF");
    apply(&host, &state);
    let all = told(&host);
    assert_eq!(all.len(), 2, "{all:?}");
    for part in [
        "firewalld drops what the other hosts of wh-front send (UDP port 4789)",
        "--zone=ZONE --add-port=4789/udp`",
        "--zone=ZONE --add-protocol=gre`",
    ] {
        assert!(all.iter().any(|told| told.contains(part)), "{part}: {all:?}");
    }
    host.space.sh(
        "nft 'add rule inet firewalld internal_allow udp dport 4789 accept; add rule inet firewalld internal_allow meta l4proto gre accept'",
    );
    assert_eq!(told(&host), Vec::<String>::new());
}

#[test]
fn chains_of_legacy_iptables_beside_nftables_are_named_as_well() {
    let host = Host::new();
    let state = shared(&host);
    let ears = Ears::of(&host);
    host.space.sh(
        "iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -i lo -j ACCEPT
         iptables-legacy -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables-legacy -A INPUT -p udp -m udp --dport 5353 -j ACCEPT; iptables-legacy -A INPUT -p icmp -j ACCEPT",
    );
    apply(&host, &state);
    let all = told(&host);
    assert_eq!(all.len(), 2, "{all:?}");
    all.iter().for_each(|told| obey(&host, told));
    assert_eq!(told(&host), Vec::<String>::new());
    ears.hear_the_peer_alone(&host.neighbour);
}
