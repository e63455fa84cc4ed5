//! Overlays: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::network::{Driver, Tunnel};
use model::observed::Look;
use model::spec::*;
use model::surroundings::Way;
use model::wireguard::PublicKey;

const FILE: &str = "/etc/wharf/peers";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn overlay(peers: &[&str]) -> NetworkSpec {
    NetworkSpec {
        driver: NetworkDriver::Overlay,
        subnet: Some("10.81.0.0/16".parse().unwrap()),
        range: Some("10.81.1.0/24".parse().unwrap()),
        overlay: Some(OverlaySpec {
            vni: Some(4200),
            peers: peers.iter().map(|peer| ip(peer)).collect(),
            ..OverlaySpec::default()
        }),
        ..NetworkSpec::default()
    }
}

/// `web` on `mesh`, on a host that is 192.0.2.1.
fn on_mesh(peers: &[&str]) -> Lab {
    let mut web = spec();
    web.networks = vec![NetworkUse::new(name("mesh"))];
    let mut lab = Lab::new(&[("web", web)]);
    lab.networks.insert(name("mesh"), overlay(peers));
    let from = Way::From {
        source: ip("192.0.2.1"),
        mtu: 1500,
    };
    lab.host.around.ways = BTreeMap::from([
        (ip("0.0.0.0"), from),
        (ip("192.0.2.1"), Way::Own),
        (ip("192.0.2.2"), from),
        (ip("192.0.2.3"), from),
    ]);
    lab
}

fn table(lab: &mut Lab) -> &mut OverlaySpec {
    let network = lab.networks.get_mut(&name("mesh")).unwrap();
    network.overlay.as_mut().unwrap()
}

fn tunnel(lab: &Lab) -> &Tunnel {
    match &lab.ledger.networks["mesh"].network.driver {
        Driver::Overlay(tunnel) => tunnel,
        other => panic!("{other:?}"),
    }
}

fn mtu(lab: &Lab) -> Option<u32> {
    lab.ledger.networks["mesh"].network.mtu
}

/// Settles; whether nothing but the network and the firewall was touched.
fn in_place(lab: &mut Lab) -> bool {
    let plan = lab.plan();
    assert!(!plan.actions.is_empty());
    let kept = |action: &Action| {
        matches!(
            action,
            Action::ApplyNetwork { .. } | Action::ApplyFirewall { .. } | Action::ApplyDns { .. }
        )
    };
    let kept = plan.actions.iter().all(|p| kept(&p.action));
    assert!(lab.settle().is_empty());
    kept
}

#[test]
fn the_own_address_among_the_peers_is_this_hosts_end() {
    let mut lab = on_mesh(&["192.0.2.3", "192.0.2.1", "192.0.2.2"]);
    assert!(lab.settle().is_empty());
    assert_eq!(tunnel(&lab).local, ip("192.0.2.1"));
    assert_eq!(tunnel(&lab).peers, [ip("192.0.2.2"), ip("192.0.2.3")]);
    assert_eq!(mtu(&lab), Some(1450));
    let at = &lab.ledger.containers["web"].current.attachments[0];
    assert_eq!(
        (at.v4().unwrap().ip.to_string().as_str(), at.mtu),
        ("10.81.1.1", Some(1450))
    );
    let rules = &lab.host.firewall.as_ref().unwrap().tunnels;
    assert_eq!(rules.as_slice(), [tunnel(&lab).rule().unwrap()]);
}

#[test]
fn without_it_the_end_is_what_the_first_peer_is_reached_from() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    let from = Way::From {
        source: ip("198.51.100.9"),
        mtu: 9000,
    };
    lab.host.around.ways.insert(ip("192.0.2.2"), from);
    assert!(lab.settle().is_empty());
    assert_eq!(tunnel(&lab).local, ip("198.51.100.9"));
    assert_eq!(mtu(&lab), Some(8950));
    // A route that is away for a moment, or another device on the way, changes nothing.
    lab.host.around.ways.clear();
    assert!(lab.plan().actions.is_empty());
    // Over IPv6 there is less room, and containers have to be told.
    let six = Way::From {
        source: ip("2001:db8::1"),
        mtu: 1500,
    };
    lab.host.around.ways.insert(ip("2001:db8::2"), six);
    table(&mut lab).peers = vec![ip("2001:db8::2")];
    assert!(!in_place(&mut lab));
    assert_eq!((tunnel(&lab).local, mtu(&lab)), (ip("2001:db8::1"), Some(1430)));
}

#[test]
fn without_a_route_it_waits() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    lab.host.around.ways.clear();
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("waits for a route to its peers"), "{said}");
    table(&mut lab).local = Some(ip("192.0.2.7"));
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("waits for the address 192.0.2.7"), "{said}");
    lab.host.around.ways.insert(ip("192.0.2.7"), Way::Own);
    assert!(lab.settle().is_empty());
    assert_eq!(tunnel(&lab).local, ip("192.0.2.7"));
}

#[test]
fn peers_names_and_the_tunnels_make_are_changed_in_place() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    assert!(lab.settle().is_empty());
    table(&mut lab).peers.push(ip("192.0.2.3"));
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("lacks the peer 192.0.2.3"), "{said}");
    assert!(in_place(&mut lab));
    table(&mut lab).peers.clear();
    assert!(in_place(&mut lab));
    assert!(tunnel(&lab).peers.is_empty());
    table(&mut lab).names.insert(name("db"), ip("10.81.2.1"));
    assert!(in_place(&mut lab));
    let names = lab.host.dns.as_ref().unwrap();
    assert_eq!(names.networks["mesh"].hosts["db"], [ip("10.81.2.1")]);
    for change in [
        (|o: &mut OverlaySpec| o.vni = Some(1)) as fn(&mut OverlaySpec),
        |o| o.port = 8472,
        |o| o.local = Some("192.0.2.1".parse().unwrap()),
    ] {
        change(table(&mut lab));
        let plan = lab.plan();
        assert!(
            plan.actions
                .iter()
                .all(|p| !matches!(p.action, Action::StopContainer { .. }))
        );
        assert!(lab.settle().is_empty());
    }
    assert_eq!((tunnel(&lab).vni, tunnel(&lab).port), (1, 8472));
    assert_eq!(lab.started.len(), 1);
}

#[test]
fn the_last_word_of_a_file_of_peers_stays() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    table(&mut lab).peers_file = Some(FILE.into());
    let says = |lab: &mut Lab, look| {
        lab.host.around.peers = BTreeMap::from([(PathBuf::from(FILE), look)]);
    };
    says(&mut lab, Look::Known(vec![ip("192.0.2.3")]));
    assert!(lab.settle().is_empty());
    assert_eq!(tunnel(&lab).peers, [ip("192.0.2.2"), ip("192.0.2.3")]);
    says(&mut lab, Look::Unknown("it is gone".to_owned()));
    let plan = lab.plan();
    let said = lines(&plan).join("\n");
    assert!(plan.actions.is_empty() && said.contains("it is gone"), "{said}");
    assert_eq!(tunnel(&lab).peers.len(), 2);
    assert!(
        lab.status().networks[0]
            .error
            .as_ref()
            .unwrap()
            .contains("it is gone")
    );
    // What the table says counts all the same.
    table(&mut lab).peers.clear();
    lab.settle();
    assert_eq!(tunnel(&lab).peers, [ip("192.0.2.3")]);
    says(&mut lab, Look::Known(Vec::new()));
    assert!(lab.settle().is_empty());
    assert!(tunnel(&lab).peers.is_empty());
}

#[test]
fn what_happens_to_the_tunnel_is_put_right() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    assert!(lab.settle().is_empty());
    let device = tunnel(&lab).device.clone();
    let whole = lab.host.links[&device].clone();
    lab.host.links.remove(&device);
    assert!(in_place(&mut lab));
    assert_eq!(lab.host.links[&device], whole);
    for damage in [
        (|l: &mut model::observed::ObservedLink| l.up = false) as fn(&mut model::observed::ObservedLink),
        |l| l.master = None,
        |l| l.mtu = 1400,
        |l| l.tunnel.as_mut().unwrap().sealed = false,
        |l| l.tunnel.as_mut().unwrap().peers.clear(),
        |l| {
            l.tunnel
                .as_mut()
                .unwrap()
                .peers
                .push("192.0.2.9".parse().unwrap())
        },
    ] {
        damage(lab.host.links.get_mut(&device).unwrap());
        assert!(in_place(&mut lab));
        assert_eq!(lab.host.links[&device], whole);
    }
    // A bridge again, it has no tunnel; and goes with all it has.
    let bridge = NetworkSpec {
        driver: NetworkDriver::Bridge,
        overlay: None,
        ..overlay(&[])
    };
    lab.networks.insert(name("mesh"), bridge);
    assert!(lab.settle().is_empty());
    assert!(!lab.host.links.contains_key(&device));
    lab.networks.insert(name("mesh"), overlay(&["192.0.2.2"]));
    assert!(lab.settle().is_empty());
    assert!(lab.host.links.contains_key(&device));
    lab.containers.clear();
    lab.networks.clear();
    lab.settle();
    assert!(
        !lab.host.links.contains_key(&device),
        "{:?}",
        lab.host.links.keys()
    );
}

#[test]
fn two_overlays_of_one_number_are_refused() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    let other = NetworkSpec {
        subnet: Some("10.82.0.0/16".parse().unwrap()),
        range: Some("10.82.1.0/24".parse().unwrap()),
        ..overlay(&["192.0.2.2"])
    };
    lab.networks.insert(name("other"), other);
    let errors = lab.desired().errors;
    assert!(errors[0].message.contains("VNI 4200 at port 4789"), "{errors:?}");
}

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

/// The same, encrypted; each host's key is its number.
fn on_encrypted(peers: &[&str]) -> Lab {
    let mut lab = on_mesh(peers);
    lab.host.around.wireguard = Some(Look::Known(key(1)));
    let overlay = table(&mut lab);
    overlay.encryption = "wireguard".to_owned();
    overlay.port = 51820;
    overlay.keys = (2..=3).map(|n| (ip(&format!("192.0.2.{n}")), key(n))).collect();
    lab
}

#[test]
fn an_encrypted_tunnel_goes_to_addresses_inside_and_needs_no_rule() {
    let mut lab = on_encrypted(&["192.0.2.2", "192.0.2.3"]);
    assert!(lab.settle().is_empty());
    let made = tunnel(&lab).clone();
    let wireguard = made.wireguard.as_ref().unwrap();
    assert_eq!((made.port, wireguard.port), (4789, 51820));
    assert_eq!(made.source(), IpAddr::from(key(1).inside().addr()));
    assert_eq!(
        made.targets(),
        [2, 3].map(|n| IpAddr::from(key(n).inside().addr()))
    );
    assert_eq!(made.peers, [ip("192.0.2.2"), ip("192.0.2.3")]);
    assert!(lab.host.firewall.as_ref().unwrap().tunnels.is_empty());
    // 60 for WireGuard over IPv4, 70 for VXLAN over IPv6.
    assert_eq!(mtu(&lab), Some(1370));
    assert_eq!(lab.host.links[&wireguard.device].mtu, 1440);
    let status = &lab.status().networks[0];
    assert_eq!(status.public_key, Some(key(1).to_string()));
}

#[test]
fn who_has_no_key_of_its_own_is_left_out() {
    let mut lab = on_encrypted(&["192.0.2.2", "192.0.2.3"]);
    table(&mut lab).keys.remove(&ip("192.0.2.3"));
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("peer 192.0.2.3 is left out"), "{said}");
    lab.settle();
    assert_eq!(tunnel(&lab).peers, [ip("192.0.2.2")]);
    for (n, of) in [(1, "192.0.2.1"), (2, "192.0.2.2")] {
        table(&mut lab).keys.insert(ip("192.0.2.3"), key(n));
        let said = lines(&lab.plan()).join("\n");
        assert!(said.contains(&format!("its key is that of {of}")), "{said}");
        lab.settle();
        assert_eq!(tunnel(&lab).peers, [ip("192.0.2.2")]);
    }
    // A table that has another key for this host is wrong about it, and that is all.
    table(&mut lab).keys = [(1, 9), (2, 2), (3, 3)]
        .map(|(host, n)| (ip(&format!("192.0.2.{host}")), key(n)))
        .into();
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("which is this host"), "{said}");
    lab.settle();
    assert_eq!(tunnel(&lab).peers.len(), 2);
}

#[test]
fn without_its_own_key_it_waits_and_one_that_is_in_use_stays() {
    let mut lab = on_encrypted(&["192.0.2.2"]);
    lab.host.around.wireguard = Some(Look::Unknown("the disk is full".to_owned()));
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("the disk is full"), "{said}");
    lab.host.around.wireguard = None;
    let said = lines(&lab.plan()).join("\n");
    assert!(said.contains("waits for this host's key"), "{said}");
    lab.host.around.wireguard = Some(Look::Known(key(1)));
    assert!(lab.settle().is_empty());
    lab.host.around.wireguard = Some(Look::Unknown("the disk is full".to_owned()));
    assert!(lab.plan().actions.is_empty());
    // Another key is another address inside.
    lab.host.around.wireguard = Some(Look::Known(key(7)));
    assert!(in_place(&mut lab));
    assert_eq!(tunnel(&lab).source(), IpAddr::from(key(7).inside().addr()));
}

#[test]
fn keys_and_peers_are_changed_in_place_and_encryption_is_not() {
    let mut lab = on_encrypted(&["192.0.2.2"]);
    assert!(lab.settle().is_empty());
    for change in [
        (|o: &mut OverlaySpec| o.keys.extend([(ip("192.0.2.2"), key(8))])) as fn(&mut OverlaySpec),
        |o| o.peers.push(ip("192.0.2.3")),
        |o| o.peers.retain(|peer| *peer == ip("192.0.2.3")),
        |o| o.port = 51821,
    ] {
        change(table(&mut lab));
        assert!(in_place(&mut lab));
    }
    table(&mut lab).encryption = "none".to_owned();
    table(&mut lab).port = 4789;
    assert!(!in_place(&mut lab));
    assert_eq!((mtu(&lab), tunnel(&lab).wireguard.as_ref()), (Some(1450), None));
    let left = lab.host.links.values().any(|link| link.kind == "wireguard");
    assert!(!left, "{:?}", lab.host.links);
}

#[test]
fn a_change_of_what_encrypts_behind_its_back_is_put_right() {
    use model::observed::{ObservedLink, ObservedWireGuard};
    let mut lab = on_encrypted(&["192.0.2.2"]);
    assert!(lab.settle().is_empty());
    let vxlan = tunnel(&lab).device.clone();
    let device = tunnel(&lab).wireguard.as_ref().unwrap().device.clone();
    fn inner(link: &mut ObservedLink) -> &mut ObservedWireGuard {
        link.tunnel.as_mut().unwrap().wireguard.as_mut().unwrap()
    }
    fn peer(link: &mut ObservedLink) -> &mut model::observed::ObservedPeer {
        inner(link).peers.values_mut().next().unwrap()
    }
    let of_tunnel: [fn(&mut ObservedLink); 8] = [
        |l| l.below = None,
        |l| l.tunnel.as_mut().unwrap().wireguard = None,
        |l| inner(l).key = None,
        |l| inner(l).port = 9,
        |l| inner(l).peers.clear(),
        |l| {
            inner(l).peers.insert(key(9), peer_at("192.0.2.9"));
        },
        |l| peer(l).confined = false,
        |l| peer(l).endpoint = Some("192.0.2.9:51820".parse().unwrap()),
    ];
    let of_device: [fn(&mut ObservedLink); 4] = [
        |l| l.up = false,
        |l| l.mtu = 1500,
        |l| l.addresses6.clear(),
        |l| l.kind = "dummy".to_owned(),
    ];
    let all = of_tunnel
        .map(|f| (&vxlan, f))
        .into_iter()
        .chain(of_device.map(|f| (&device, f)));
    for (at, (link, change)) in all.enumerate() {
        change(lab.host.links.get_mut(link).unwrap());
        assert!(in_place(&mut lab), "change {at} of {link}");
    }
    lab.host.links.remove(&device);
    assert!(in_place(&mut lab));
    // One that is heard from elsewhere is left alone.
    peer(lab.host.links.get_mut(&vxlan).unwrap()).endpoint = None;
    assert!(lab.plan().actions.is_empty());
    lab.networks.clear();
    lab.containers.clear();
    lab.settle();
}

fn peer_at(at: &str) -> model::observed::ObservedPeer {
    model::observed::ObservedPeer {
        endpoint: Some(std::net::SocketAddr::new(ip(at), 51820)),
        confined: true,
    }
}

/// `mesh` is of Open vSwitch.
fn on_switch(peers: &[&str], change: impl FnOnce(&mut OverlaySpec)) -> Lab {
    let mut lab = on_mesh(peers);
    lab.networks.get_mut(&name("mesh")).unwrap().driver = NetworkDriver::Ovs;
    change(table(&mut lab));
    lab
}

#[test]
fn what_tunnels_of_open_vswitch_add_is_left_room_for() {
    for (tunnel, vlan, room) in [
        ("vxlan", 0, 50),
        ("gre", 0, 42),
        ("geneve", 0, 50),
        ("vxlan", 7, 54),
    ] {
        let mut lab = on_switch(&["192.0.2.2"], |o| {
            o.tunnel = tunnel.to_owned();
            o.vlan = vlan;
        });
        assert!(lab.settle().is_empty());
        assert_eq!(mtu(&lab), Some(1500 - room), "{tunnel} {vlan}");
        let link = &lab.ledger.containers["web"].current.attachments[0].link;
        assert_eq!(*link, model::network::Link::Ovs { vlan });
        // Nothing but its peers gets to it, without the firewall's help.
        assert!(lab.host.firewall.as_ref().unwrap().tunnels.is_empty());
    }
}

#[test]
fn peers_of_open_vswitch_are_changed_in_place_and_other_tunnels_are_not() {
    let mut lab = on_switch(&["192.0.2.2"], |_| {});
    assert!(lab.settle().is_empty());
    table(&mut lab).peers.push(ip("192.0.2.3"));
    assert!(in_place(&mut lab));
    table(&mut lab).vni = Some(7);
    assert!(in_place(&mut lab));
    for change in [
        (|o: &mut OverlaySpec| o.tunnel = "gre".to_owned()) as fn(&mut OverlaySpec),
        |o| o.datapath = "netdev".to_owned(),
        |o| o.vlan = 7,
    ] {
        change(table(&mut lab));
        let said = lines(&lab.plan()).join("\n");
        assert!(said.contains("overlay."), "{said}");
        assert!(!in_place(&mut lab));
    }
    assert_eq!(lab.started.len(), 4, "the container is started again each time");
    lab.containers.clear();
    lab.networks.clear();
    lab.settle();
    let left = lab.host.links.values().filter(|link| link.ours).count();
    assert_eq!(left, 0, "{:?}", lab.host.links.keys());
}

#[test]
fn what_happens_to_bridges_of_open_vswitch_is_put_right() {
    use model::observed::ObservedLink;
    let mut lab = on_switch(&["192.0.2.2"], |_| {});
    assert!(lab.settle().is_empty());
    let device = lab.ledger.networks["mesh"].network.bridge.clone();
    let whole = lab.host.links[&device].clone();
    fn tunnel(link: &mut ObservedLink) -> &mut model::observed::ObservedTunnel {
        link.tunnel.as_mut().unwrap()
    }
    for damage in [
        (|l: &mut ObservedLink| l.tunnel = None) as fn(&mut ObservedLink),
        |l| l.kind = "tun".to_owned(),
        |l| l.up = false,
        |l| tunnel(l).peers.clear(),
        |l| tunnel(l).sealed = false,
        |l| tunnel(l).switch.as_mut().unwrap().whole = false,
        |l| tunnel(l).switch.as_mut().unwrap().vlan = 9,
        |l| tunnel(l).switch = None,
    ] {
        damage(lab.host.links.get_mut(&device).unwrap());
        assert!(in_place(&mut lab));
        assert_eq!(lab.host.links[&device], whole);
    }
}

#[test]
fn while_open_vswitch_is_away_its_networks_wait_and_nothing_is_taken_away() {
    let mut lab = on_switch(&["192.0.2.2"], |_| {});
    let away = || Look::Unknown("Open vSwitch is not running".to_owned());
    lab.host.around.switch = away();
    lab.settle();
    let told = lab
        .status()
        .networks
        .into_iter()
        .find(|n| n.name == "mesh")
        .unwrap();
    assert!(
        told.error
            .is_some_and(|e| e.contains("Open vSwitch is not running"))
    );
    assert!(lab.started.is_empty());
    lab.host.around.switch = Look::Known(());
    assert!(lab.settle().is_empty());
    assert_eq!(lab.started.len(), 1);
    // What it had cannot be seen then.
    lab.host.around.switch = away();
    let host_end = lab.ledger.containers["web"].current.attachments[0]
        .host_device
        .clone();
    lab.host.links.get_mut(&host_end).unwrap().master = None;
    let device = lab.ledger.networks["mesh"].network.bridge.clone();
    lab.host.links.get_mut(&device).unwrap().kind = "tun".to_owned();
    assert!(lab.plan().actions.is_empty(), "{:?}", lines(&lab.plan()));
}

#[test]
fn the_kernel_and_open_vswitch_do_not_share_a_port() {
    let mut lab = on_mesh(&["192.0.2.2"]);
    let mut other = NetworkSpec {
        driver: NetworkDriver::Ovs,
        subnet: Some("10.82.0.0/16".parse().unwrap()),
        range: Some("10.82.1.0/24".parse().unwrap()),
        ..overlay(&["192.0.2.2"])
    };
    other.overlay.as_mut().unwrap().vni = Some(1);
    lab.networks.insert(name("other"), other.clone());
    let errors = lab.desired().errors;
    assert!(
        errors[0].message.contains("port 4789 is of network mesh"),
        "{errors:?}"
    );
    other.overlay.as_mut().unwrap().datapath = "netdev".to_owned();
    lab.networks.insert(name("other"), other);
    assert!(lab.desired().errors.is_empty());
}
