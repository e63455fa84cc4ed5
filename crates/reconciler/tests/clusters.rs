//! Networks whose hosts find each other by etcd: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::collections::BTreeMap;

use lab::mesh::{ip, tunnel};
use lab::{Lab, lines, mesh, name, spec};
use model::cluster::{ClusterHost, ClusterNetwork, ClusterState};
use model::spec::*;
use model::status::PeerStatus;

/// `web` on `mesh`, whose table names no other host, on a host that is 192.0.2.1.
fn on_mesh() -> Lab {
    let mut lab = mesh::on_mesh(mesh::overlay(OverlaySpec {
        by_cluster: true,
        ..OverlaySpec::default()
    }));
    lab.settings.cluster = Some(ClusterSettings::default());
    lab.host.around.cluster = Some(ClusterState::default());
    lab
}

fn host(n: u8, names: &[(&str, &str)]) -> (String, ClusterHost) {
    let names = names.iter().map(|(name, at)| ((*name).to_owned(), vec![ip(at)]));
    let host = ClusterHost {
        name: format!("host{n}"),
        address: ip(&format!("192.0.2.{n}")),
        key: None,
        range: format!("10.81.{n}.0/24").parse().unwrap(),
        names: names.collect(),
    };
    (format!("id{n}"), host)
}

/// What etcd says from now on.
fn says(lab: &mut Lab, range: Option<&str>, hosts: &[(String, ClusterHost)]) {
    let network = ClusterNetwork {
        address: Some(ip("192.0.2.1")),
        range: range.map(|range| range.parse().unwrap()),
        hosts: hosts.iter().cloned().collect(),
        ..ClusterNetwork::default()
    };
    seen(lab).networks.insert(name("mesh"), network);
}

fn seen(lab: &mut Lab) -> &mut ClusterState {
    lab.host.around.cluster.as_mut().unwrap()
}

fn address(lab: &Lab) -> String {
    lab.ledger.containers["web"].current.attachments[0]
        .v4()
        .unwrap()
        .ip
        .to_string()
}

fn error(lab: &Lab) -> Option<String> {
    lab.status()
        .networks
        .into_iter()
        .find(|n| n.name == "mesh")
        .unwrap()
        .error
}

#[test]
fn nothing_is_made_before_this_host_is_registered() {
    let mut lab = on_mesh();
    lab.settle();
    assert!(lab.started.is_empty() && !lab.ledger.networks.contains_key("mesh"));
    assert!(error(&lab).is_none(), "it only waits");
    seen(&mut lab).trouble = Some("etcd is away".to_owned());
    let said = lines(&lab.plan()).join("\n");
    assert!(
        said.contains("waits to be registered in etcd") && said.contains(": etcd is away"),
        "{said}"
    );
    assert!(error(&lab).is_some_and(|error| error.ends_with(": etcd is away")));
    seen(&mut lab).trouble = None;
    says(&mut lab, Some("10.81.1.0/24"), &[host(2, &[])]);
    assert!(lab.settle().is_empty());
    assert_eq!(
        (tunnel(&lab).local, &tunnel(&lab).peers[..]),
        (ip("192.0.2.1"), &[ip("192.0.2.2")][..])
    );
    assert_eq!(address(&lab), "10.81.1.1");
    let shown = lab
        .status()
        .networks
        .into_iter()
        .find(|n| n.name == "mesh")
        .unwrap();
    let peer = PeerStatus {
        address: "192.0.2.2".to_owned(),
        from: "etcd".to_owned(),
        host: Some("host2".to_owned()),
        range: Some("10.81.2.0/24".to_owned()),
    };
    assert_eq!(
        (shown.range.as_deref(), shown.peers),
        (Some("10.81.1.0/24"), vec![peer])
    );
}

#[test]
fn hosts_come_and_go_in_place() {
    let mut lab = on_mesh();
    says(&mut lab, Some("10.81.1.0/24"), &[host(2, &[])]);
    assert!(lab.settle().is_empty());
    for (hosts, peers) in [
        (
            vec![host(2, &[]), host(3, &[])],
            vec![ip("192.0.2.2"), ip("192.0.2.3")],
        ),
        (vec![host(3, &[])], vec![ip("192.0.2.3")]),
        (Vec::new(), Vec::new()),
    ] {
        says(&mut lab, Some("10.81.1.0/24"), &hosts);
        assert!(lab.settle().is_empty());
        assert_eq!(tunnel(&lab).peers, peers);
        assert_eq!(lab.host.firewall.as_ref().unwrap().tunnels[0].peers, peers);
    }
    assert_eq!(lab.started.len(), 1);
}

#[test]
fn what_was_known_last_stays_and_all_counts_as_converged() {
    let mut lab = on_mesh();
    says(&mut lab, Some("10.81.1.0/24"), &[host(2, &[("db", "10.81.2.1")])]);
    assert!(lab.settle().is_empty());
    seen(&mut lab).trouble = Some("etcd does not answer".to_owned());
    assert!(lab.plan().is_empty());
    assert!(lab.status().converged);
    assert_eq!(
        error(&lab).unwrap(),
        "etcd does not answer; the peers that were known last stay"
    );
    // An agent that knows nothing of it any more goes by what was accepted.
    for cluster in [Some(ClusterState::default()), None] {
        lab.host.around.cluster = cluster;
        lab.settle();
        assert_eq!(
            (tunnel(&lab).local, &tunnel(&lab).peers[..]),
            (ip("192.0.2.1"), &[ip("192.0.2.2")][..])
        );
        assert_eq!(address(&lab), "10.81.1.1");
    }
    assert_eq!(lab.started.len(), 1);
}

#[test]
fn a_part_that_is_anothers_by_now_is_given_up() {
    let mut lab = on_mesh();
    let mut fixed = spec();
    let mut place = NetworkUse::new(name("mesh"));
    place.ip = Some("10.81.1.77".parse().unwrap());
    fixed.networks = vec![place];
    lab.containers.insert(name("fixed"), fixed);
    says(&mut lab, Some("10.81.1.0/24"), &[]);
    assert!(lab.settle().is_empty());
    assert_eq!(lab.started.len(), 2);
    says(&mut lab, Some("10.81.9.0/24"), &[]);
    assert!(lab.settle().is_empty());
    assert_eq!(address(&lab), "10.81.9.1");
    let ids: Vec<&str> = lab.started[2..].iter().map(|i| i.name.as_str()).collect();
    assert_eq!(ids, ["web"], "what has its address from its table keeps it");
    assert!(lab.plan().is_empty());
}

#[test]
fn what_etcd_refuses_keeps_a_new_network_from_being_made_and_an_old_one_as_it_is() {
    let mut lab = on_mesh();
    lab.networks.get_mut("mesh").unwrap().range = Some("10.81.1.0/24".parse().unwrap());
    let refuse = |lab: &mut Lab, why: Option<&str>| {
        let network = seen(lab).networks.get_mut("mesh").unwrap();
        network.refused = why.map(str::to_owned);
        network.range = why.is_none().then(|| "10.81.1.0/24".parse().unwrap());
    };
    says(&mut lab, None, &[host(2, &[])]);
    refuse(&mut lab, Some("range 10.81.1.0/24 overlaps"));
    lab.settle();
    assert_eq!(error(&lab).unwrap(), "range 10.81.1.0/24 overlaps");
    assert!(lab.started.is_empty());
    refuse(&mut lab, None);
    assert!(lab.settle().is_empty());
    refuse(&mut lab, Some("range 10.81.1.0/24 overlaps"));
    says(&mut lab, None, &[]);
    refuse(&mut lab, Some("range 10.81.1.0/24 overlaps"));
    assert!(lab.plan().actions.is_empty());
    assert_eq!(
        error(&lab).unwrap(),
        "range 10.81.1.0/24 overlaps; it stays as it was"
    );
    assert_eq!(tunnel(&lab).peers, [ip("192.0.2.2")]);
    assert!(!lab.status().converged);
}

#[test]
fn names_of_other_hosts_are_answered_and_the_tables_go_before_them() {
    let mut lab = on_mesh();
    let table = lab.networks.get_mut("mesh").unwrap().overlay.as_mut().unwrap();
    table.names.insert(name("cache"), ip("10.81.2.50"));
    let two = host(
        2,
        &[
            ("db", "10.81.2.1"),
            ("cache", "10.81.2.2"),
            ("evil", "192.0.2.53"),
        ],
    );
    says(
        &mut lab,
        Some("10.81.1.0/24"),
        &[two, host(3, &[("db", "10.81.3.1")])],
    );
    assert!(lab.settle().is_empty());
    let names = &lab.host.dns.as_ref().unwrap().networks["mesh"].hosts;
    let expected = BTreeMap::from([
        ("cache".to_owned(), vec![ip("10.81.2.50")]),
        ("db".to_owned(), vec![ip("10.81.2.1"), ip("10.81.3.1")]),
    ]);
    assert_eq!(*names, expected, "none that leads out of the network");
}

/// What etcd leases is a part of an IPv4 subnet.
#[test]
fn without_ipv4_the_hosts_have_to_be_named() {
    let mut lab = on_mesh();
    let network = lab.networks.get_mut("mesh").unwrap();
    network.ipv4 = false;
    network.subnet = None;
    network.subnet6 = Some("fd81::/64".parse().unwrap());
    let errors: Vec<String> = lab.desired().errors.iter().map(|e| e.message.clone()).collect();
    assert_eq!(
        errors,
        ["network mesh finds its other hosts by etcd, and has no IPv4"]
    );
}

#[test]
fn a_table_that_names_nobody_says_so_or_there_is_an_etcd() {
    let mut lab = on_mesh();
    lab.settings.cluster = None;
    let errors = lab.desired().errors;
    assert_eq!(
        errors[0].message,
        "network mesh does not say which other hosts it is on"
    );
    let hint = errors[0].hint.as_ref().unwrap();
    assert!(
        ["`peers`", "`peers_file`", "[cluster]"]
            .iter()
            .all(|way| hint.contains(way)),
        "{hint}"
    );
    lab.settings.cluster = Some(ClusterSettings::default());
    assert!(lab.desired().errors.is_empty());
    lab.networks.get_mut("mesh").unwrap().subnet = None;
    let errors = lab.desired().errors;
    assert_eq!(
        errors[0].message,
        "network mesh finds its other hosts by etcd, and needs `subnet`"
    );
}
