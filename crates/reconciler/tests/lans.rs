//! Networks that were there before (macvlan, ipvlan, adopted bridges): each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::net::IpAddr;

use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::network::{Driver, Link};
use model::observed::{ForeignAddress, Ipv6State, ObservedLink};
use model::spec::*;

fn device(kind: &str, index: u32, addresses: &[&str]) -> ObservedLink {
    ObservedLink {
        kind: kind.to_owned(),
        ours: false,
        up: true,
        index,
        below: None,
        mtu: 1500,
        master: None,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        isolated: false,
        route_localnet: false,
        addresses6: Vec::new(),
        ipv6: Ipv6State::Off,
        tunnel: None,
    }
}

fn macvlan() -> NetworkSpec {
    NetworkSpec {
        driver: NetworkDriver::Macvlan,
        parent: Some("eth0".to_owned()),
        subnet: Some("192.168.1.0/24".parse().unwrap()),
        gateway: Some("192.168.1.254".parse().unwrap()),
        range: Some("192.168.1.192/27".parse().unwrap()),
        ..NetworkSpec::default()
    }
}

fn adopted() -> NetworkSpec {
    NetworkSpec {
        bridge: Some("br0".to_owned()),
        adopt: true,
        subnet: Some("192.168.1.0/24".parse().unwrap()),
        ..NetworkSpec::default()
    }
}

/// `web` on `lan`, on a host that has 192.168.1.193 on its eth0.
fn on(lan: NetworkSpec) -> Lab {
    let mut web = spec();
    web.networks = vec![NetworkUse::new(name("lan"))];
    let mut lab = Lab::new(&[("web", web)]);
    lab.networks.insert(name("lan"), lan);
    put_parent(&mut lab, 2);
    lab.host.foreign.push(ForeignAddress {
        device: "eth0".to_owned(),
        address: "192.168.1.193/24".parse().unwrap(),
    });
    lab
}

fn put_parent(lab: &mut Lab, index: u32) {
    lab.host
        .links
        .insert("eth0".to_owned(), device("", index, &["192.168.1.193/24"]));
}

fn lan(lab: &mut Lab) -> &mut NetworkSpec {
    lab.networks.get_mut(&name("lan")).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn error(lab: &Lab) -> Option<String> {
    let status = lab.status();
    status
        .networks
        .into_iter()
        .find(|n| n.name == "lan")
        .unwrap()
        .error
}

#[test]
fn nothing_of_the_host_is_made_for_a_macvlan() {
    let mut lab = on(macvlan());
    lab.settle();
    assert!(lab.runs("web"));
    let place = &lab.ledger.containers["web"].current.attachments[0];
    // The first of the range is this host's own.
    assert_eq!(IpAddr::V4(place.v4().unwrap().ip), ip("192.168.1.194"));
    assert_eq!(
        place.v4().unwrap().gateway,
        Some("192.168.1.254".parse().unwrap())
    );
    assert!(matches!(&place.link, Link::Macvlan(parent) if parent.name == "eth0" && parent.index == 2));
    assert!(!lab.host.links.keys().any(|device| device.starts_with("wh-")));
    assert_eq!(lab.host.firewall, None);
    let shown = lab.status().networks[0].clone();
    assert_eq!(
        (shown.driver.as_str(), shown.device.as_str()),
        ("macvlan", "eth0")
    );
    lab.networks.clear();
    lab.containers.clear();
    lab.settle();
    assert!(lab.ledger.networks.is_empty());
    assert_eq!(lab.host.dns, None);
}

#[test]
fn who_reaches_no_gateway_asks_for_names_in_its_own_network_namespace() {
    let mut lab = on(macvlan());
    let mut own = spec();
    own.networks = vec![NetworkUse::new(name("lan"))];
    own.dns = vec![ip("192.0.2.9")];
    lab.containers.insert(name("own"), own);
    lab.settle();
    let id = lab.id("web");
    let asked = |lab: &Lab| lab.host.observe().dns_inside.into_iter().collect::<Vec<_>>();
    let state = lab.host.dns.clone().unwrap();
    let place = lab.ledger.containers["web"].current.attachments[0]
        .ips()
        .next()
        .unwrap();
    assert_eq!(state.inside, [(id.clone(), place)].into());
    assert_eq!(asked(&lab), std::slice::from_ref(&id));
    let given = |lab: &Lab, of: &str| {
        let started = lab.started.iter().rfind(|i| i.name.as_str() == of);
        started.unwrap().dns.clone()
    };
    assert_eq!(given(&lab, "web"), [ip("127.0.0.11")]);
    assert_eq!(given(&lab, "own"), [ip("192.0.2.9")]);
    let run = lab.seen("web").run_no;
    // A name server that was started anew, or was not told in time.
    for lost in [(|lab: &mut Lab| lab.host.dns = None) as fn(&mut Lab), |lab| {
        lab.host.dns_inside.clear()
    }] {
        lost(&mut lab);
        let plan = lab.plan();
        let actions: Vec<_> = plan.actions.iter().map(|p| &p.action).collect();
        assert!(
            matches!(actions[..], [Action::ApplyDns { .. }]),
            "{:?}",
            lines(&plan)
        );
        lab.settle();
        assert_eq!(asked(&lab), std::slice::from_ref(&id));
    }
    assert_eq!(lab.seen("web").run_no, run);
    // One that is started again has another namespace; one that does not run has none.
    lab.ends("web", 1, model::observed::Phase::Lost);
    assert_eq!(asked(&lab), []);
    lab.settle();
    assert_eq!((asked(&lab), lab.runs("web")), (vec![id.clone()], true));
    lan(&mut lab).dns = false;
    lab.settle();
    assert_eq!((lab.host.dns.as_ref(), given(&lab, "web")), (None, vec![]));
}

#[test]
fn a_network_waits_for_its_parent_and_goes_on_with_it() {
    let mut lab = on(macvlan());
    lab.host.links.clear();
    lab.settle();
    assert!(
        error(&lab).unwrap().contains("its parent eth0 is not there"),
        "{:?}",
        error(&lab)
    );
    assert!(!lab.runs("web"));
    put_parent(&mut lab, 5);
    lab.host.links.get_mut("eth0").unwrap().up = false;
    lab.settle();
    assert!(
        error(&lab).unwrap().contains("its parent eth0 is down"),
        "{:?}",
        error(&lab)
    );
    lab.host.links.get_mut("eth0").unwrap().up = true;
    lab.settle();
    assert_eq!(error(&lab), None);
    assert!(lab.runs("web"));
}

#[test]
fn containers_run_on_while_the_parent_is_away_and_are_started_again_below_a_new_one() {
    let mut lab = on(macvlan());
    lab.settle();
    let (id, run) = (lab.id("web"), lab.seen("web").run_no);
    let before = lab.host.links.remove("eth0").unwrap();
    lab.settle();
    assert!(lab.runs("web") && error(&lab).is_some());
    // The very same device, which was another namespace's for a while.
    lab.host.links.insert("eth0".to_owned(), before);
    lab.settle();
    assert_eq!((lab.id("web"), lab.seen("web").run_no), (id.clone(), run));
    put_parent(&mut lab, 9);
    lab.settle();
    assert_eq!(lab.id("web"), id);
    assert!(lab.seen("web").run_no > run && lab.runs("web"));
}

#[test]
fn a_port_of_a_bridge_is_no_parent_and_the_mtu_is_not_above_the_parents() {
    let mut lab = on(macvlan());
    lab.host.links.get_mut("eth0").unwrap().master = Some("br0".to_owned());
    lab.settle();
    assert!(
        error(&lab).unwrap().contains("name br0 as `parent`"),
        "{:?}",
        error(&lab)
    );
    lab.host.links.get_mut("eth0").unwrap().master = None;
    lan(&mut lab).mtu = Some(9000);
    lab.settle();
    assert!(
        error(&lab).unwrap().contains("mtu 9000 is above that of eth0"),
        "{:?}",
        error(&lab)
    );
}

#[test]
fn what_the_host_reaches_its_containers_by_is_kept_and_goes() {
    let mut lab = on(NetworkSpec {
        host_access: true,
        ..macvlan()
    });
    lab.settle();
    let own = |lab: &Lab| lab.host.links.get("wh-lan").cloned();
    let made = own(&lab).unwrap();
    assert_eq!(
        (made.kind.as_str(), made.below.as_deref()),
        ("macvlan", Some("eth0"))
    );
    assert_eq!(made.addresses, ["192.168.1.193/27".parse().unwrap()]);
    // Names are asked there.
    assert_eq!(lab.started.last().unwrap().dns, [ip("192.168.1.193")]);
    assert_eq!(
        lab.host.dns.as_ref().unwrap().networks["lan"].gateways,
        [ip("192.168.1.193")]
    );
    let run = lab.seen("web").run_no;
    for damage in [
        (|_| None) as fn(ObservedLink) -> Option<ObservedLink>,
        |link| Some(ObservedLink { up: false, ..link }),
        |link| {
            Some(ObservedLink {
                addresses: Vec::new(),
                ..link
            })
        },
        |link| {
            Some(ObservedLink {
                below: Some("eth1".to_owned()),
                ..link
            })
        },
    ] {
        lab.host.links.remove("wh-lan");
        lab.host
            .links
            .extend(damage(made.clone()).map(|link| ("wh-lan".to_owned(), link)));
        let plan = lab.plan();
        let actions: Vec<_> = plan.actions.iter().map(|p| &p.action).collect();
        assert!(
            matches!(actions[..], [Action::ApplyNetwork { .. }]),
            "{:?}",
            lines(&plan)
        );
        lab.settle();
        assert_eq!(own(&lab), Some(made.clone()));
    }
    assert_eq!(lab.seen("web").run_no, run);
    lan(&mut lab).host_access = false;
    lab.settle();
    assert_eq!(own(&lab), None);
    // Now in its own network namespace.
    assert_eq!(lab.started.last().unwrap().dns, [ip("127.0.0.11")]);
    assert!(lab.runs("web"));
    lan(&mut lab).host_access = true;
    lab.settle();
    lab.networks.clear();
    lab.containers.clear();
    lab.settle();
    assert_eq!(own(&lab), None);
    assert!(lab.host.links.contains_key("eth0"));
}

#[test]
fn an_adopted_bridge_is_nobodys_to_make_or_remove() {
    let mut lab = on(adopted());
    lab.settle();
    assert!(
        error(&lab)
            .unwrap()
            .contains("the bridge br0, which it adopts, is not there"),
        "{:?}",
        error(&lab)
    );
    let bridge = device("bridge", 7, &["192.168.1.17/24"]);
    lab.host.links.insert("br0".to_owned(), bridge.clone());
    lab.settle();
    assert!(lab.runs("web"));
    let place = lab.ledger.containers["web"].current.attachments[0].clone();
    assert_eq!((place.bridge.as_str(), &place.link), ("br0", &Link::Adopted));
    // The host's address there, where no `gateway` says otherwise.
    assert_eq!(place.v4().unwrap().gateway, Some("192.168.1.17".parse().unwrap()));
    assert_eq!(lab.host.firewall, None);
    let run = lab.seen("web").run_no;
    lan(&mut lab).gateway = Some("192.168.1.1".parse().unwrap());
    lab.settle();
    assert!(lab.seen("web").run_no > run);
    let place = &lab.ledger.containers["web"].current.attachments[0];
    assert_eq!(place.v4().unwrap().gateway, Some("192.168.1.1".parse().unwrap()));
    lab.networks.clear();
    lab.containers.clear();
    lab.settle();
    assert_eq!(lab.host.links.get("br0"), Some(&bridge));
    assert!(lab.ledger.networks.is_empty());
}

#[test]
fn an_existing_bridge_stays_an_error_without_adopt() {
    let mut lab = on(NetworkSpec {
        adopt: false,
        ..adopted()
    });
    lab.host.foreign.clear();
    lab.host.links.insert("br0".to_owned(), device("bridge", 7, &[]));
    lab.settle();
    assert!(
        error(&lab)
            .unwrap()
            .contains("bridge br0 is there already and is not wharf's"),
        "{:?}",
        error(&lab)
    );
}

#[test]
fn from_a_bridge_of_ours_to_the_lan_and_back() {
    let own = NetworkSpec {
        subnet: Some("10.80.0.0/24".parse().unwrap()),
        ..NetworkSpec::default()
    };
    let mut lab = on(own.clone());
    lab.settle();
    assert!(lab.host.links.contains_key("wh-lan") && lab.host.firewall.is_some());
    let id = lab.id("web");
    *lan(&mut lab) = macvlan();
    lab.settle();
    assert!(!lab.host.links.contains_key("wh-lan"));
    assert_eq!(
        (lab.host.firewall.as_ref(), lab.id("web"), lab.runs("web")),
        (None, id, true)
    );
    assert!(matches!(
        lab.ledger.networks["lan"].network.driver,
        Driver::Macvlan(_)
    ));
    *lan(&mut lab) = own;
    lab.settle();
    assert!(lab.host.links.contains_key("wh-lan") && lab.runs("web"));
}

#[test]
fn ports_need_a_way_back_by_this_host() {
    let port = PortSpec {
        ip: None,
        host: Some((8080, 8080)),
        container: (80, 80),
        protocol: model::firewall::Protocol::Tcp,
        allow: Vec::new(),
    };
    let mut lab = on(macvlan());
    lab.spec("web").ports = vec![port];
    let errors = |lab: &Lab| -> Vec<String> { lab.desired().errors.into_iter().map(|e| e.message).collect() };
    assert!(
        errors(&lab)[0].contains("`ports` needs a network other than macvlan"),
        "{:?}",
        errors(&lab)
    );
    lab.spec("web").networks = vec![NetworkUse::new(name("lan")), NetworkUse::new(name("default"))];
    assert!(
        errors(&lab)[0].contains("its default route is over network lan"),
        "{:?}",
        errors(&lab)
    );
    lab.spec("web").networks = vec![NetworkUse::new(name("default")), NetworkUse::new(name("lan"))];
    assert_eq!(errors(&lab), [""; 0]);
    lab.settle();
    let rules = &lab.host.firewall.as_ref().unwrap().ports;
    assert_eq!((rules.len(), &*rules[0].bridge), (1, "wh-default"));
    // Where the other one leads nowhere, the order does not matter.
    lab.spec("web").networks.reverse();
    lan(&mut lab).internal = true;
    assert_eq!(errors(&lab), [""; 0]);
}

#[test]
fn one_device_is_the_parent_of_one_kind() {
    let mut lab = on(macvlan());
    let other = NetworkSpec {
        driver: NetworkDriver::Ipvlan,
        subnet: Some("192.168.2.0/24".parse().unwrap()),
        gateway: None,
        range: None,
        ..macvlan()
    };
    lab.networks.insert(name("other"), other.clone());
    let errors = lab.desired().errors;
    assert!(
        errors[0].message.contains("parent of macvlan and of ipvlan"),
        "{errors:?}"
    );
    *lan(&mut lab) = other;
    lab.networks.remove(&name("other"));
    lab.spec("web").networks[0].mac = Some("02:00:00:00:00:01".parse().unwrap());
    let errors = lab.desired().errors;
    assert!(errors[0].message.contains("`mac` in network lan"), "{errors:?}");
}
