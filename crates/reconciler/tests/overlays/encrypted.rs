//! Overlays whose tunnels are encrypted by WireGuard.

use std::net::IpAddr;

use model::wireguard::PublicKey;

use super::*;

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
