//! Interfaces below a device of the host, the host's own one, and ports of a bridge that is not ours: made, made again
//! without a change, put right whatever was broken.
#![allow(clippy::unwrap_used)]

mod host;

use host::{Host, Space, attachment, network};
use model::families::Families;
use model::network::{Attachment, Below, Driver, HostNetwork, Parent, Subnet4};

/// The LAN of the host and its neighbour, below the host's device on it.
fn lan(kind: fn(Below) -> Driver, host_access: bool) -> HostNetwork {
    let below = Below {
        parent: Parent {
            name: "lan".to_owned(),
            index: 0,
        },
        host_access,
    };
    HostNetwork {
        bridge: "wh-lan".to_owned(),
        ip: Families::V4(Subnet4 {
            subnet: "192.0.2.0/24".parse().unwrap(),
            gateway: host::NEIGHBOUR,
            range: Some("192.0.2.64/26".parse().unwrap()),
            masquerade: true,
        }),
        driver: kind(below),
        ..network("lan", 0)
    }
}

fn place(n: &HostNetwork, number: u8) -> Attachment {
    Attachment {
        link: n.link(),
        ..attachment(n, number)
    }
}

fn survey(space: &Space) -> String {
    space.sh("ip -d link show | sed -E 's/ (hello|tcn|topology_change|gc)_timer +[0-9.]+//g; s/promiscuity [0-9]+//'; ip -4 addr show; ip route show")
}

fn attach(host: &Host, space: &Space, at: &Attachment) {
    host.space.run(|| host.net.attach(space.fd(), at, "web").unwrap());
}

#[test]
fn a_macvlan_is_made_inside_and_put_right_there() {
    let host = Host::new();
    let n = lan(Driver::Macvlan, false);
    let (space, at) = (Space::new(), place(&n, 70));
    let before = survey(&host.space);
    attach(&host, &space, &at);
    let right = survey(&space);
    for part in [
        "macvlan mode bridge",
        "alias wharf:test:web",
        "02:57:c0:00:02:46",
        "inet 192.0.2.70/24",
        "default via 192.0.2.2 dev eth0",
        "group default",
    ] {
        assert!(right.contains(part), "{part:?} in {right}");
    }
    attach(&host, &space, &at);
    assert_eq!(survey(&space), right);
    space.sh("busybox ping -c1 -W20 192.0.2.2 >/dev/null");
    for damage in [
        "ip link set eth0 down",
        "ip addr flush dev eth0",
        "ip route del default",
        "ip link set eth0 address 02:00:00:00:00:01",
    ] {
        space.sh(damage);
        attach(&host, &space, &at);
        space.sh("busybox ping -c1 -W20 192.0.2.2 >/dev/null");
    }
    space.sh("ip link del eth0");
    attach(&host, &space, &at);
    space.sh("busybox ping -c1 -W20 192.0.2.2 >/dev/null");
    // A device of that name that the container made itself is not taken away from it.
    space.sh("ip link del eth0; ip link add eth0 type bridge");
    let refused = host
        .space
        .run(|| host.net.attach(space.fd(), &at, "web").unwrap_err());
    assert!(
        refused.to_string().contains("the device eth0 is there already"),
        "{refused}"
    );
    assert_eq!(survey(&host.space), before);
}

#[test]
fn one_that_follows_another_with_its_address_waits_until_that_is_gone() {
    let host = Host::new();
    let at = place(&lan(Driver::Macvlan, false), 70);
    let (first, second) = (Space::new(), Space::new());
    attach(&host, &first, &at);
    std::thread::scope(|scope| {
        scope.spawn(|| attach(&host, &second, &at));
        // It is there by now, and cannot be turned on; or it comes later.
        first.sh("ip link del eth0");
    });
    second.sh("busybox ping -c1 -W20 192.0.2.2 >/dev/null");
}

#[test]
fn what_the_host_has_of_a_lan_is_put_right_whatever_was_broken() {
    let host = Host::new();
    let n = lan(Driver::Macvlan, true);
    let apply = |n: &HostNetwork| host.space.run(|| host.net.apply_bridge(n).unwrap());
    let before = survey(&host.space);
    apply(&n);
    let numberless = |text: String| -> String {
        let words = text
            .lines()
            .map(|l| l.split_once(": ").map_or(l, |(_, rest)| rest).to_owned());
        words.collect::<Vec<_>>().join("\n")
    };
    let right = numberless(survey(&host.space));
    for part in [
        "inet 192.0.2.65/26",
        "192.0.2.64/26 dev wh-lan",
        "alias wharf:test:lan",
    ] {
        assert!(right.contains(part), "{part:?} in {right}");
    }
    let space = Space::new();
    attach(&host, &space, &place(&n, 70));
    for damage in [
        "true",
        "ip link del wh-lan",
        "ip link set wh-lan down",
        "ip addr flush dev wh-lan",
        "ip addr add 10.99.0.1/16 dev wh-lan",
        "ip route del 192.0.2.64/26 dev wh-lan",
        "ip link set wh-lan alias wharf:test:other",
        "ip link set wh-lan address 02:00:00:00:00:01",
        "ip link del wh-lan; ip link add wh-lan type bridge; ip link set wh-lan alias wharf:test:lan",
        "echo 0 >/proc/sys/net/ipv4/conf/wh-lan/arp_ignore",
        "echo 0 >/proc/sys/net/ipv6/conf/wh-lan/disable_ipv6",
    ] {
        host.space.sh(damage);
        apply(&n);
        assert_eq!(numberless(survey(&host.space)), right, "{damage}");
        host.space.sh("busybox ping -c1 -W20 192.0.2.70 >/dev/null");
    }
    let links = host.space.run(|| host.net.links().unwrap());
    assert_eq!(links["wh-lan"].below.as_deref(), Some("lan"));
    assert_eq!(links["wh-lan"].addresses, ["192.0.2.65/26".parse().unwrap()]);
    apply(&lan(Driver::Macvlan, false));
    assert_eq!(survey(&host.space), before);
    // Somebody else's is left alone.
    host.space.sh("ip link add wh-lan type bridge");
    let refused = host.space.run(|| host.net.apply_bridge(&n).unwrap_err());
    assert!(
        refused.to_string().contains("belongs to somebody else"),
        "{refused}"
    );
    apply(&lan(Driver::Macvlan, false));
    host.space.sh("ip link show wh-lan");
}

#[test]
fn a_kernel_without_ipvlan_and_a_port_of_a_bridge_are_told_of() {
    let host = Host::new();
    let space = Space::new();
    let refused = |at: &Attachment| {
        let refused = host.space.run(|| host.net.attach(space.fd(), at, "web"));
        refused.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let has =
        "ip link add ipvl0 link lan type ipvlan mode l2 2>/dev/null && ip link del ipvl0 && echo yes || true";
    let said = refused(&place(&lan(Driver::Ipvlan, false), 70));
    match host.space.sh(has).contains("yes") {
        true => space.sh("busybox ping -c1 -W20 192.0.2.2 >/dev/null; ip link del eth0"),
        false => {
            let why = "this kernel has no ipvlan (module ipvlan): ";
            assert!(said.contains(why), "{said}");
            String::new()
        }
    };
    host.space
        .sh("ip link add br0 type bridge; ip link set lan master br0");
    let said = refused(&place(&lan(Driver::Macvlan, false), 70));
    assert!(said.contains("is a port of a bridge"), "{said}");
    host.space.sh("ip link del lan");
    let said = refused(&place(&lan(Driver::Macvlan, false), 70));
    assert!(said.contains("its parent lan is not there"), "{said}");
}

#[test]
fn an_adopted_bridge_gets_ports_and_nothing_else() {
    let host = Host::new();
    let n = HostNetwork {
        bridge: "br0".to_owned(),
        driver: Driver::Bridge { adopt: true },
        ..lan(Driver::Macvlan, false)
    };
    let (space, at) = (Space::new(), place(&n, 70));
    let refused = host
        .space
        .run(|| host.net.attach(space.fd(), &at, "web").unwrap_err());
    assert!(
        refused.to_string().contains("its bridge br0 is not there"),
        "{refused}"
    );
    host.space.sh(
        "ip link add br0 type bridge; ip link set br0 address 02:00:00:00:00:05; ip link set lan mtu 1450
         ip addr flush dev lan; ip link set lan master br0; ip link set br0 up; ip addr add 192.0.2.1/24 dev br0",
    );
    let bridge = || {
        host.space
            .sh("ip -d link show br0 | sed -E 's/ (hello|tcn|topology_change|gc)_timer +[0-9.]+//g'; ip -4 addr show br0; ip route show; cat /proc/sys/net/ipv4/conf/br0/route_localnet; nft list ruleset")
    };
    let before = bridge();
    host.space.run(|| host.net.apply_bridge(&n).unwrap());
    for damage in [
        "true".to_owned(),
        format!("ip link set {} nomaster", at.host_device),
        format!("ip link set {} down", at.host_device),
        format!("ip link del {}", at.host_device),
    ] {
        if host.space.sh("ip -o link").contains(&at.host_device) {
            host.space.sh(&damage);
        }
        attach(&host, &space, &at);
        space.sh("busybox ping -c1 -W20 192.0.2.2 >/dev/null && busybox ping -c1 -W20 192.0.2.1 >/dev/null");
        assert_eq!(bridge(), before, "{damage}");
    }
    assert!(space.sh("ip link show eth0").contains("mtu 1450"));
    host.space.run(|| host.net.detach(&at.host_device).unwrap());
    assert_eq!(bridge(), before);
}
