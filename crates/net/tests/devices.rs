//! Bridges and interfaces: made, made again without a change, put right whatever was broken.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use host::{Host, Space, attachment, network};
use model::network::{Attachment, HostNetwork};
use net::Net;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Everything `ip` has to tell about devices, addresses and routes in there, without what counts by itself.
fn survey(space: &Space) -> String {
    space.sh("ip -d link show | sed -E 's/ (hello|tcn|topology_change|gc)_timer +[0-9.]+//g'; ip -4 addr show; ip route show")
}

/// One with nothing that is off by default left at its default.
fn big() -> HostNetwork {
    HostNetwork {
        mtu: Some(1400),
        ..network("front", 1)
    }
}

fn apply(host: &Host, n: &HostNetwork) {
    host.space.run(|| host.net.apply_bridge(n).unwrap());
}

fn attach(host: &Host, space: &Space, at: &Attachment) {
    host.space.run(|| host.net.attach(space.fd(), at, "web").unwrap());
}

/// Everything that can be broken about a bridge one thing at a time.
const BRIDGE_DAMAGE: &[&str] = &[
    "ip link del wh-front",
    "ip link set wh-front down",
    "ip addr flush dev wh-front",
    "ip addr add 10.99.0.1/16 dev wh-front",
    "ip addr flush dev wh-front; ip addr add 10.88.1.1/16 dev wh-front",
    "ip route del 10.88.1.0/24 dev wh-front",
    "ip route del table local local 10.88.1.1 dev wh-front",
    "ip route flush dev wh-front; ip route flush table local dev wh-front",
    "ip link set wh-front mtu 1300",
    "ip link set wh-front address 02:00:00:00:00:01",
    "bridge fdb del 02:57:0a:58:01:01 dev wh-front self",
    "ip link set wh-front type bridge stp_state 1 forward_delay 1500",
    "ip link set wh-front type bridge forward_delay 400",
    "ip link set wh-front alias wharf:test:other",
    "ip link del wh-front; ip link add wh-front type veth peer name wh-x; ip link set wh-front alias wharf:test:front",
    "echo 0 > /proc/sys/net/ipv4/conf/wh-front/route_localnet",
    "echo 0 > /proc/sys/net/ipv6/conf/wh-front/disable_ipv6",
    "echo 0 > /proc/sys/net/ipv4/ip_forward",
    "nft flush ruleset",
    "nft delete element inet wharf bridges '{ wh-front }'",
];

#[test]
fn a_bridge_is_made_as_it_must_be() {
    let host = Host::new();
    apply(&host, &big());
    let shown = host.space.sh("ip -d link show wh-front; ip addr show wh-front");
    for part in [
        "alias wharf:test:front",
        "mtu 1400",
        "02:57:0a:58:01:01",
        "forward_delay 0 ",
        "stp_state 0 ",
        "inet 10.88.1.1/24 brd 10.88.1.255",
        "group default",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(!shown.contains("inet6"), "{shown}");
    let links = host.space.run(|| host.net.links().unwrap());
    let link = &links["wh-front"];
    assert!(
        link.ours && link.up && link.route_localnet && link.mtu == 1400 && link.kind == "bridge",
        "{link:?}"
    );
    assert_eq!(link.addresses, ["10.88.1.1/24".parse().unwrap()]);
    assert!(!links["lan"].ours);
    let foreign = host.space.run(|| host.net.foreign_addresses().unwrap());
    let foreign: Vec<String> = foreign
        .iter()
        .map(|f| format!("{} {}", f.device, f.address))
        .collect();
    assert_eq!(
        foreign,
        ["lo 127.0.0.1/8", "lan 192.0.2.1/24", "lan 192.0.2.11/24"]
    );
}

#[test]
fn a_bridge_is_put_right_after_every_damage_and_then_left_alone() {
    let host = Host::shared();
    let n = big();
    apply(&host, &n);
    let state = |host: &Host| {
        let settings = host.space.sh(
            "cat /proc/sys/net/ipv4/conf/wh-front/route_localnet /proc/sys/net/ipv6/conf/wh-front/disable_ipv6 /proc/sys/net/ipv4/ip_forward",
        );
        let mut link = host.space.run(|| host.net.links().unwrap()["wh-front"].clone());
        // One that is made anew has another number.
        link.index = 0;
        let shown = host.space.sh("ip -d -o link show wh-front | grep -oE 'alias.*|link/ether [^ ]*|forward_delay [0-9]*|stp_state [0-9]'");
        let firewall = host.space.run(|| host.net.firewall().unwrap());
        format!("{settings}{link:?}\n{shown}{firewall:?}")
    };
    let right = state(&host);
    for damage in BRIDGE_DAMAGE {
        host.space.sh(damage);
        assert_ne!(state_or_gone(&host, &state), right, "{damage} damaged nothing");
        apply(&host, &n);
        assert_eq!(state(&host), right, "after {damage}");
        host.space.sh("ip link del wh-x 2>/dev/null || true");
    }
    nothing_changes(&host, || host.net.apply_bridge(&n).unwrap());
}

fn state_or_gone(host: &Host, state: &impl Fn(&Host) -> String) -> String {
    let there = host
        .space
        .run(|| host.net.links().unwrap().contains_key("wh-front"));
    if there { state(host) } else { String::new() }
}

/// The kernel tells of no change at all while this is done in the host. What an earlier change stirred up (carriers that
/// come up in their own time) may still be told of once or twice; what the work itself changes would be told each time.
fn nothing_changes(host: &Host, work: impl Fn() + Send + Sync) {
    host.space.run(|| {
        let quiet = (0..50).any(|_| {
            let monitor = net::Monitor::new().unwrap();
            work();
            let event = monitor.drain().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            event == net::MonitorEvent::default()
        });
        assert!(quiet, "something changes each time");
    });
}

#[test]
fn a_bridge_keeps_its_ports_over_a_repair() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let c = host.container(&n, 5);
    host.space
        .sh("ip link set wh-front down; ip addr flush dev wh-front");
    apply(&host, &n);
    host::serve(&host.space, host::gateway(&n), 7000, "host");
    assert_eq!(
        host::ask(&c.space, model::firewall::Protocol::Tcp, host::gateway(&n), 7000),
        format!("host {}", c.ip())
    );
    let links = host.space.run(|| host.net.links().unwrap());
    assert_eq!(links[&c.at.host_device].master.as_deref(), Some("wh-front"));
}

#[test]
fn an_interface_is_made_as_it_must_be() {
    let host = Host::new();
    let n = big();
    apply(&host, &n);
    let space = Space::new();
    let at = Attachment {
        mtu: Some(1400),
        ..attachment(&n, 5)
    };
    attach(&host, &space, &at);
    let inside = space.sh("ip -d addr show eth0; ip route show; ip link show lo");
    for part in [
        "02:57:0a:58:01:05",
        "mtu 1400",
        "inet 10.88.1.5/24 brd 10.88.1.255",
        "default via 10.88.1.1 dev eth0",
        "state UP",
        "LOOPBACK,UP",
    ] {
        assert!(inside.contains(part), "{part:?} in {inside}");
    }
    assert!(!inside.contains("inet6 fe80"), "{inside}");
    let outside = host.space.sh(&format!("ip -d addr show {}", at.host_device));
    for part in [
        "master wh-front",
        "hairpin on",
        "alias wharf:test:web",
        "mtu 1400",
        "state UP",
        "group default",
    ] {
        assert!(outside.contains(part), "{part:?} in {outside}");
    }
    assert!(!outside.contains("inet"), "{outside}");
    let link = host
        .space
        .run(|| host.net.links().unwrap().remove(&at.host_device).unwrap());
    assert!(
        link.ours && link.up && link.kind == "veth" && link.master.as_deref() == Some("wh-front"),
        "{link:?}"
    );
}

#[test]
fn an_interface_is_put_right_after_every_damage_and_then_left_alone() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let space = Space::new();
    let at = attachment(&n, 5);
    attach(&host, &space, &at);
    let d = &at.host_device;
    let look = || {
        let outside = digest(&host.space, d, &["ifalias", "master", "mtu", "group", "linkinfo"]);
        let inside = digest(&space, "eth0", &["address", "mtu", "linkinfo"]);
        outside + &inside + &space.sh("ip -4 -o addr show | awk '{print $2, $4, $6}' | sort; ip route")
    };
    let right = look();
    let outside = [
        format!("ip link del {d}"),
        format!("ip link set {d} down"),
        format!("ip link set {d} nomaster"),
        format!("ip link add other type bridge; ip link set {d} master other"),
        format!("ip link set {d} type bridge_slave hairpin off"),
        format!("ip link set {d} mtu 1300"),
        format!("ip link set {d} alias wharf:test:another"),
        format!(
            "ip link del {d}; ip link add {d} type veth peer name stray; ip link set {d} alias wharf:test:web"
        ),
        format!("ip link del {d}; ip link add {d} type bridge; ip link set {d} alias wharf:test:web"),
        "ip link del wh-front".to_owned(),
    ];
    let inside = [
        "ip link set eth0 down",
        "ip addr flush dev eth0",
        "ip route del default",
        "ip route flush dev eth0",
        "ip link del eth0",
        "ip link set eth0 address 02:00:00:00:00:09",
        "ip link set eth0 mtu 1300",
    ];
    let damage = outside
        .iter()
        .map(|l| (&host.space, l.as_str()))
        .chain(inside.map(|l| (&space, l)));
    for (place, line) in damage {
        place.sh(line);
        assert_ne!(look(), right, "{line} damaged nothing");
        apply(&host, &n);
        attach(&host, &space, &at);
        assert_eq!(look(), right, "after {line}");
        host.space
            .sh("ip link del stray 2>/dev/null; ip link del other 2>/dev/null; true");
    }
    let before = (survey(&host.space), survey(&space));
    nothing_changes(&host, || host.net.attach(space.fd(), &at, "web").unwrap());
    assert_eq!((survey(&host.space), survey(&space)), before);
}

/// These properties of a device, and whether it is up.
fn digest(space: &Space, device: &str, properties: &[&str]) -> String {
    let text = space.sh(&format!(
        "ip -j -d link show {device} 2>/dev/null || echo '[{{}}]'"
    ));
    let link: serde_json::Value = serde_json::from_str(&text).unwrap();
    let link = &link[0];
    let up = link["flags"]
        .as_array()
        .is_some_and(|flags| flags.iter().any(|f| f == "UP"));
    let info = &link["linkinfo"];
    let of = |name: &&str| match *name {
        "linkinfo" => format!(
            "{} {} {}",
            info["info_kind"], info["info_slave_data"]["hairpin"], link["inet6_addr_gen_mode"]
        ),
        name => link[name].to_string(),
    };
    format!(
        "{device} up {up} {}\n",
        properties.iter().map(of).collect::<Vec<_>>().join(" ")
    )
}

#[test]
fn a_second_container_of_the_same_name_gets_a_pair_of_its_own() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let (old, new) = (Space::new(), Space::new());
    let at = attachment(&n, 5);
    attach(&host, &old, &at);
    attach(&host, &new, &at);
    assert!(new.sh("ip addr show eth0").contains("10.88.1.5/24"));
    assert!(!old.sh("ip link show").contains("eth0"));
}

#[test]
fn what_is_ours_is_removed_and_what_is_not_there_is_fine() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let c = host.container(&n, 5);
    host.space.run(|| {
        for _ in 0..2 {
            host.net.detach(&c.at.host_device).unwrap();
            host.net.remove_bridge(&n.bridge).unwrap();
            host.net.remove_firewall().unwrap();
        }
    });
    let left: BTreeMap<_, _> = host.space.run(|| host.net.links().unwrap());
    assert_eq!(
        left.keys().filter(|name| name.starts_with("wh-")).count(),
        0,
        "{left:?}"
    );
    assert!(!c.space.sh("ip link show").contains("eth0"));
    assert_eq!(host.space.sh("nft list tables"), "");
}

#[test]
fn half_made_devices_are_taken_up() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let group = host
        .space
        .sh("ip link add wh-other type bridge; ip link show wh-front >/dev/null; echo ok");
    assert_eq!(group, "ok\n");
    // What an agent that was killed between making and marking leaves: our group, no alias.
    let number = fnv1a("test") & 0x3fff_ffff | 1 << 30;
    host.space.sh("ip link del wh-front");
    host.space
        .sh(&format!("ip link add wh-front group {number} type bridge"));
    apply(&host, &n);
    assert!(host.space.sh("ip link show wh-front").contains("group default"));
    let at = attachment(&n, 5);
    host.space.sh(&format!(
        "ip link add {} group {number} type veth peer name stray",
        at.host_device
    ));
    let space = Space::new();
    attach(&host, &space, &at);
    assert!(!host.space.sh("ip link show").contains("stray"));
}

fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[test]
fn foreign_devices_are_refused_and_left_alone() {
    let host = Host::new();
    let n = network("front", 1);
    let at = attachment(&n, 5);
    host.space
        .sh("ip link add wh-front type bridge; ip link set wh-front alias wharf:0123:shop");
    host.space
        .sh(&format!("ip link add {} type bridge", at.host_device));
    let before = survey(&host.space);
    host.space.run(|| {
        let message = host.net.apply_bridge(&n).unwrap_err().to_string();
        insta::assert_snapshot!(message, @r#"the device wh-front is there already and belongs to another wharf agent (0123, for shop): remove it, or give the network another device with `bridge = "NAME"`"#);
        host.net.remove_bridge("wh-front").unwrap_err();
        host.net.detach(&at.host_device).unwrap_err();
        let lan = HostNetwork { bridge: "lan".to_owned(), ..n.clone() };
        let message = host.net.apply_bridge(&lan).unwrap_err().to_string();
        insta::assert_snapshot!(message, @r#"the device lan is there already and belongs to somebody else (a veth): remove it, or give the network another device with `bridge = "NAME"`"#);
    });
    assert_eq!(survey(&host.space), before);
    assert_eq!(
        host.space
            .sh("nft list tables; cat /proc/sys/net/ipv4/ip_forward"),
        "0\n"
    );
    host.space.sh("ip link del wh-front");
    apply(&host, &n);
    let space = Space::new();
    host.space.run(|| {
        let message = host.net.attach(space.fd(), &at, "web").unwrap_err().to_string();
        insta::assert_snapshot!(message, @"the device wh-00010005-0 is there already and belongs to somebody else (a bridge): remove it: names like this one are wharf's");
    });
    assert!(!space.sh("ip link show").contains("eth0"));
}

#[test]
fn nonsense_is_refused_before_anything_is_touched() {
    let host = Host::new();
    let n = network("front", 1);
    let before = survey(&host.space);
    host.space.run(|| {
        let bad = |change: fn(&mut HostNetwork)| {
            let mut wrong = n.clone();
            change(&mut wrong);
            host.net.apply_bridge(&wrong).unwrap_err().to_string()
        };
        insta::assert_snapshot!(bad(|n| n.bridge = "sixteen-chars-xx".to_owned()), @r#"network front: the device name "sixteen-chars-xx" has 16 characters, 15 are possible"#);
        insta::assert_snapshot!(bad(|n| n.ip.v4_mut().unwrap().gateway = [10, 0, 0, 1].into()), @"network front: the gateway 10.0.0.1 is no host address of the subnet 10.88.1.0/24");
        insta::assert_snapshot!(bad(|n| n.mtu = Some(60)), @"network front: an mtu of 60 is not possible: 68 to 65535");
        bad(|n| n.bridge = "../x".to_owned());
        bad(|n| n.bridge = "all".to_owned());
    });
    let space = Space::new();
    host.space.run(|| {
        let missing = host.net.attach(space.fd(), &attachment(&n, 5), "web").unwrap_err().to_string();
        insta::assert_snapshot!(missing, @"network front: its bridge wh-front is not there (yet): it is made first");
        let wrong = host::routed(attachment(&n, 5), Some([10, 0, 0, 1].into()));
        let wrong = host.net.attach(space.fd(), &wrong, "web").unwrap_err().to_string();
        insta::assert_snapshot!(wrong, @"container web, network front: the gateway 10.0.0.1 is not in the subnet 10.88.1.0/24");
        let file = std::fs::File::open("/dev/null").unwrap();
        host.net.apply_bridge(&n).unwrap();
        let no_space = host.net.attach(file.as_fd(), &attachment(&n, 5), "web").unwrap_err().to_string();
        insta::assert_snapshot!(no_space, @"cannot enter the network namespace of container web: Invalid argument (os error 22)");
        host.net.remove_bridge(&n.bridge).unwrap();
    });
    assert_eq!(survey(&host.space), before);
}

#[test]
fn several_agents_do_not_touch_each_others_devices() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let other = host.space.run(|| Net::new("other").unwrap());
    host.space.run(|| {
        assert!(!other.links().unwrap()["wh-front"].ours);
        other.remove_bridge("wh-front").unwrap_err();
        let message = other.apply_bridge(&network("back", 2)).unwrap_err().to_string();
        insta::assert_snapshot!(message, @"the nftables table `inet wharf` belongs to another wharf agent (test): one agent owns one network namespace; stop the other one, or, if it is gone for good, run `nft delete table inet wharf`");
        other.remove_firewall().unwrap_err();
    });
}

#[test]
fn the_monitor_tells_of_changes_and_is_quiet_otherwise() {
    let host = Host::shared();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let monitor = host.space.run(|| net::Monitor::new().unwrap());
    assert!(!monitor.drain().unwrap().firewall);
    let told = |line: &str| {
        host.space.sh(line);
        let [a, b] = monitor.fds();
        let mut fds = [
            PollFd::new(a, PollFlags::POLLIN),
            PollFd::new(b, PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::ZERO).unwrap();
        monitor.drain().unwrap()
    };
    for line in [
        "ip link set wh-front down",
        "ip link set wh-front up",
        "ip addr del 10.88.1.1/24 dev wh-front",
        "ip route add 203.0.113.0/24 dev lan",
        "ip link del wh-front",
    ] {
        let event = told(line);
        assert!(
            event.links && !event.firewall && !event.overrun,
            "{line}: {event:?}"
        );
    }
    for line in [
        "nft delete element inet wharf bridges '{ wh-front }'",
        "nft flush chain inet wharf forward",
        "nft flush ruleset",
    ] {
        let event = told(line);
        assert!(event.firewall && !event.overrun, "{line}: {event:?}");
        assert_eq!(event.by.unwrap().name, "nft", "the kernel tells who");
    }
    assert!(!told("nft add table inet foreign").firewall);
    // More than the queue holds: that word was lost is told, once, and what comes later is told again.
    let flood = "for i in $(seq 0 7999); do a=10.99.$((i / 250)).$((i % 250 + 1))/32; echo addr add $a dev lan; done | ip -batch -";
    let event = told(flood);
    assert!(event.overrun && event.links, "{event:?}");
    let event = told("ip addr del 10.99.0.1/32 dev lan");
    assert!(event.links && !event.overrun, "{event:?}");
}

/// Who knocks at a published port before its container is there leaves the kernel waiting for an ARP answer, and would
/// be heard a second later.
#[test]
fn an_early_knock_does_not_delay_the_container() {
    let host = Host::new();
    let n = network("front", 1);
    apply(&host, &n);
    let at = attachment(&n, 5);
    let ip = at.ips().next().unwrap();
    let neighbour = || host.space.sh(&format!("ip neigh show {ip} dev wh-front"));
    let knock = host.space.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    knock.send_to(b"early", (ip, 80)).unwrap();
    assert!(neighbour().contains("INCOMPLETE"), "{}", neighbour());
    let space = Space::new();
    attach(&host, &space, &at);
    let known = neighbour();
    assert!(
        known.contains(&format!("lladdr {}", at.mac)) && known.contains("REACHABLE"),
        "{known}"
    );
}
