//! Overlays: each rule with the smallest host that shows it; what encryption adds to them (`encrypted`), and those of Open
//! vSwitch (`switch`).

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

#[path = "overlays/encrypted.rs"]
mod encrypted;
mod lab;
mod sim;
#[path = "overlays/switch.rs"]
mod switch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use lab::mesh::{self, ip, tunnel};
use lab::{Lab, lines, name};
use model::action::Action;
use model::observed::Look;
use model::spec::*;
use model::surroundings::Way;

const FILE: &str = "/etc/wharf/peers";

fn overlay(peers: &[&str]) -> NetworkSpec {
    NetworkSpec {
        range: Some("10.81.1.0/24".parse().unwrap()),
        ..mesh::overlay(OverlaySpec {
            peers: peers.iter().map(|peer| ip(peer)).collect(),
            ..OverlaySpec::default()
        })
    }
}

fn on_mesh(peers: &[&str]) -> Lab {
    mesh::on_mesh(overlay(peers))
}

fn table(lab: &mut Lab) -> &mut OverlaySpec {
    let network = lab.networks.get_mut(&name("mesh")).unwrap();
    network.overlay.as_mut().unwrap()
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
fn without_ipv4_all_of_it_is_of_ipv6() {
    let mut lab = mesh::on_mesh(NetworkSpec {
        ipv4: false,
        subnet: None,
        range: None,
        subnet6: Some("fd81::/64".parse().unwrap()),
        range6: Some("fd81::1:0/112".parse().unwrap()),
        ..overlay(&["192.0.2.1", "192.0.2.2"])
    });
    assert!(lab.settle().is_empty());
    let at = &lab.ledger.containers["web"].current.attachments[0];
    let ips: Vec<String> = at.ips().map(|ip| ip.to_string()).collect();
    assert_eq!((ips, at.mtu), (vec!["fd81::1:0".to_owned()], Some(1450)));
    assert_eq!(tunnel(&lab).peers, [ip("192.0.2.2")]);
    let rules = &lab.host.firewall.as_ref().unwrap().tunnels;
    assert_eq!(rules.as_slice(), [tunnel(&lab).rule().unwrap()]);
    table(&mut lab).names.insert(name("db"), ip("fd81::2:9"));
    assert!(in_place(&mut lab));
    // With IPv4 again it is made anew.
    let network = lab.networks.get_mut(&name("mesh")).unwrap();
    network.ipv4 = true;
    network.subnet = Some("10.81.0.0/16".parse().unwrap());
    network.range = Some("10.81.1.0/24".parse().unwrap());
    assert!(!in_place(&mut lab));
    let at = &lab.ledger.containers["web"].current.attachments[0];
    assert_eq!(at.ips().count(), 2);
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
