//! Bridges of others on a host whose forwarding was off before wharf: what they pass on among their own ports they go on
//! passing on, also where the kernel shows it to the packet filter as forwarded (bridge-nf-call-iptables). Nothing else is
//! forwarded for them.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::{IpAddr, Ipv6Addr};

use host::{HOST, HOST6, Host, On, Space, ask, dual, refuse_all, serve};
use model::firewall::Protocol::{Tcp, Udp};

host::on_every_backend! {
    a_bridge_of_others_passes_on_what_it_did_with_bridge_nf
    a_bridge_of_others_passes_on_what_it_did_without_bridge_nf
    without_our_knowing_of_it_a_bridge_passes_on_nothing_new
    bridges_that_come_and_go_are_known
    where_forwarding_was_on_bridges_of_others_are_nobodys_business
}

/// Somebody's bridge, on which the host is the first machine, and two others.
struct Segment {
    machines: [Space; 2],
    number: u8,
}

impl Segment {
    fn new(host: &Host, number: u8) -> Self {
        let bridge = format!("virbr{number}");
        host.space.sh(&format!(
            "ip link add {bridge} type bridge forward_delay 0; ip link set {bridge} up; \
             ip addr add 10.99.{number}.1/24 dev {bridge}; ip addr add fd00:99:{number}::1/64 dev {bridge} nodad"
        ));
        let machine = |last: u8| {
            let space = Space::new();
            host.space.sh(&format!(
                "ip link add vnet{number}{last} type veth peer name eth0 netns {}; ip link set vnet{number}{last} master {bridge} up",
                space.path()
            ));
            space.sh(&format!(
                "ip addr add 10.99.{number}.{last}/24 dev eth0; ip addr add fd00:99:{number}::{last}/64 dev eth0 nodad; \
                 ip link set eth0 up; ip route add default via 10.99.{number}.1; ip route add default via fd00:99:{number}::1"
            ));
            serve(&space, Ipv6Addr::UNSPECIFIED, 80, "machine");
            space
        };
        Self {
            machines: [2, 3].map(machine),
            number,
        }
    }

    /// Of the last machine.
    fn places(&self) -> [IpAddr; 2] {
        let number = self.number;
        [format!("10.99.{number}.3"), format!("fd00:99:{number}::3")].map(|ip| ip.parse().unwrap())
    }

    fn is_whole(&self) {
        for place in self.places() {
            for protocol in [Tcp, Udp] {
                let said = ask(&self.machines[0], protocol, place, 80);
                assert!(said.starts_with("machine "), "{protocol} {place}: {said}");
            }
        }
    }
}

fn forwarding(host: &Host, on: bool) {
    let on = u8::from(on);
    host.space.sh(&format!(
        "echo {on} > /proc/sys/net/ipv4/ip_forward; echo {on} > /proc/sys/net/ipv6/conf/all/forwarding"
    ));
}

fn passes_on_what_it_did(on: On, bridge_nf: bool) {
    let host = on.dual(Some(bridge_nf));
    let settings = host
        .space
        .sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables");
    assert_eq!(settings, format!("{0}\n{0}\n", u8::from(bridge_nf)));
    forwarding(&host, false);
    let first = Segment::new(&host, 1);
    first.is_whole();
    let state = host.apply(&[&dual("front", 1)], Vec::new());
    assert!(host.net.forward_guard() && host.net.forward_guard6());
    first.is_whole();
    let second = Segment::new(&host, 2);
    host.space.run(|| host.net.apply_firewall(&state).unwrap());
    second.is_whole();
    // From one to the other, and from elsewhere, nothing is forwarded as nothing was.
    let [four, six] = second.places();
    let [first_four, first_six] = first.places();
    host.neighbour.sh(&format!(
        "ip route add 10.99.0.0/16 via {HOST}; ip route add fd00:99::/32 via {HOST6}"
    ));
    refuse_all(
        "forwarding was off",
        &[
            (&first.machines[0], four, 80),
            (&first.machines[0], six, 80),
            (&host.neighbour, first_four, 80),
            (&host.neighbour, first_six, 80),
        ],
    );
    // Without wharf's table all of it is as it was.
    host.space.run(|| host.net.remove_firewall().unwrap());
    first.is_whole();
    second.is_whole();
}

fn a_bridge_of_others_passes_on_what_it_did_with_bridge_nf(on: On) {
    passes_on_what_it_did(on, true);
}

fn a_bridge_of_others_passes_on_what_it_did_without_bridge_nf(on: On) {
    passes_on_what_it_did(on, false);
}

/// What this is all about, shown by taking it away.
fn without_our_knowing_of_it_a_bridge_passes_on_nothing_new(on: On) {
    let host = on.shared_dual();
    host.space
        .sh("for f in iptables ip6tables; do echo 1 > /proc/sys/net/bridge/bridge-nf-call-$f; done");
    forwarding(&host, false);
    let segment = Segment::new(&host, 1);
    let state = host.apply(&[&dual("front", 1)], Vec::new());
    segment.is_whole();
    match on {
        On::Nftables => host.space.sh("nft flush set inet wharf bridges_of_others"),
        on => host.space.sh(&format!(
            "for f in iptables-{v} ip6tables-{v}; do $f -t mangle -D WHARF-APART -i virbr1 -o virbr1 -j RETURN; done",
            v = on.variant()
        )),
    };
    let from = &segment.machines[0];
    let [four, six] = segment.places();
    refuse_all(
        "bridged, and taken for forwarded",
        &[(from, four, 80), (from, six, 80)],
    );
    // That is seen, and put right.
    host.space.run(|| {
        assert_eq!(host.net.firewall().unwrap(), None);
        host.net.apply_firewall(&state).unwrap();
        assert_eq!(host.net.firewall().unwrap(), Some(state));
    });
    segment.is_whole();
}

fn bridges_that_come_and_go_are_known(on: On) {
    let host = on.shared_dual();
    forwarding(&host, false);
    let state = host.apply(&[&dual("front", 1)], Vec::new());
    let seen = || host.space.run(|| host.net.firewall().unwrap());
    let outdated = || host.space.run(|| host.net.guards_are_outdated().unwrap());
    assert_eq!(seen(), Some(state.clone()));
    for change in [
        "ip link add virbr1 type bridge",
        "ip link add virbr2 type bridge; ip link set virbr1 name virbr3",
        "ip link del virbr2",
    ] {
        assert!(!outdated(), "before {change}");
        host.space.sh(change);
        assert!(outdated(), "{change}");
        let look = host.space.run(|| host.net.look_at_firewall().unwrap());
        assert_eq!(look.state, None, "{change}");
        assert!(look.wrong.unwrap().contains("bridges of others"), "{look:?}");
        host.space.run(|| host.net.apply_firewall(&state).unwrap());
        assert_eq!(seen(), Some(state.clone()), "{change}");
        // Whoever comes next knows them as well.
        let next = host.another_agent();
        assert_eq!(
            host.space.run(|| next.firewall().unwrap()),
            Some(state.clone()),
            "{change}"
        );
    }
    assert!(host.rules().contains("virbr3") && !host.rules().contains("virbr2"));
    // One that is made by us is ours from the beginning.
    let both = host.apply(&[&dual("front", 1), &dual("back", 2)], Vec::new());
    assert_eq!(seen(), Some(both));
    assert!(!outdated());
}

fn where_forwarding_was_on_bridges_of_others_are_nobodys_business(on: On) {
    let host = on.shared_dual();
    forwarding(&host, true);
    let state = host.apply(&[&dual("front", 1)], Vec::new());
    let rules = host.rules();
    let segment = Segment::new(&host, 1);
    segment.is_whole();
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    assert!(!host.space.run(|| host.net.guards_are_outdated().unwrap()));
    assert!(!rules.contains("virbr") && !host.rules().contains("virbr"));
}
