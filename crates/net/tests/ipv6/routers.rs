//! The host is no more of a router than it was, and goes on hearing of those that are; containers that pose as one are
//! believed by nobody.

use super::*;
use host::on_every_backend;
use host::senders::{advertise, link_local};

on_every_backend! { forwarding_that_was_off_is_for_our_bridges_alone }

fn forwarding_that_was_off_is_for_our_bridges_alone(on: On) {
    for was_on in [false, true] {
        let host = on.dual(None);
        let on = u8::from(was_on);
        host.space
            .sh(&format!("echo {on} > /proc/sys/net/ipv6/conf/all/forwarding"));
        host.apply(&[&dual("front", 1)], Vec::new());
        // A second network of somebody else's, behind the host.
        let far = Space::new();
        host.space.sh(&format!(
            "ip link add far type veth peer name eth0 netns {}; ip addr add 2001:db8:9::1/64 dev far nodad; ip link set far up",
            far.path()
        ));
        far.sh("ip addr add 2001:db8:9::2/64 dev eth0 nodad; ip link set eth0 up; ip route add default via 2001:db8:9::1");
        host.neighbour
            .sh(&format!("ip route add 2001:db8:9::/64 via {HOST6}"));
        // The host asks for neighbours of what it only passes on with its address of the link, once that is its own.
        link_local(&host.space, "far");
        serve(&far, ANY, 80, "far");
        let there = "2001:db8:9::2".parse::<IpAddr>().unwrap();
        match was_on {
            true => assert!(ask(&host.neighbour, Tcp, there, 80).starts_with("far ")),
            false => refuse(&host.neighbour, Tcp, there, 80),
        }
    }
}

/// Until the host has heard of it, on however busy a machine.
fn until_heard(host: &Host, line: &str) {
    host.space.sh(&format!(
        "for i in $(seq 2000); do {line} && exit; sleep 0.01; done; ip -6 route >&2; exit 1"
    ));
}

#[test]
fn what_the_host_hears_of_routers_it_goes_on_hearing() {
    let host = Host::new();
    host.space.sh("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
    let (router, own) = (
        link_local(&host.neighbour, "eth0"),
        link_local(&host.space, "lan"),
    );
    let learned = format!("ip -6 route show default | grep -q 'via {router} dev lan'");
    advertise(&host.neighbour, "eth0", own, "2001:db8:7::");
    until_heard(&host, &learned);
    until_heard(&host, "ip -6 addr show lan | grep -q 2001:db8:7:");
    host.apply(&[&dual("front", 1)], Vec::new());
    host.space.sh(&learned);
    assert!(host.space.run(|| host.net.forwarding6().unwrap()));
    // And what comes later, also where no route was there.
    host.space.sh("ip -6 route flush default");
    advertise(&host.neighbour, "eth0", own, "2001:db8:7::");
    until_heard(&host, &learned);
    // A device that somebody turns back is seen and turned again.
    host.space.sh("echo 1 > /proc/sys/net/ipv6/conf/lan/accept_ra");
    assert!(!host.space.run(|| host.net.forwarding6().unwrap()));
    host.apply(&[&dual("front", 1)], Vec::new());
    assert_eq!(host.space.sh("cat /proc/sys/net/ipv6/conf/lan/accept_ra"), "2\n");
}

#[test]
fn a_container_that_poses_as_a_router_is_believed_by_nobody() {
    let host = Host::dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (liar, other) = (host.container(&n, 5), host.container(&n, 6));
    let bridge = link_local(&host.space, "wh-front");
    let sibling = link_local(&other.space, "eth0");
    link_local(&liar.space, "eth0");
    for to in [bridge, sibling, "ff02::1".parse().unwrap()] {
        advertise(&liar.space, "eth0", to, "2001:db8:bad::");
    }
    // What is sent after it by the same way arrives after it.
    serve(&host.space, gateway6(&n), 7000, "host");
    serve(&other.space, ANY, 7000, "other");
    assert!(ask(&liar.space, Udp, gateway6(&n), 7000).starts_with("host "));
    assert!(ask(&liar.space, Udp, other.ip6(), 7000).starts_with("other "));
    for space in [&host.space, &other.space] {
        let known = space.sh("ip -6 addr; ip -6 route");
        assert!(
            !known.contains("2001:db8:bad") && !known.contains("proto ra"),
            "{known}"
        );
    }
}
