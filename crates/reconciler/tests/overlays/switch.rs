//! Networks of Open vSwitch.

use super::*;

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
