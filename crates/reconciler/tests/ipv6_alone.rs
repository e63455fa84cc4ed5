//! Networks without IPv4 (`ipv4 = false`): addresses, ports and names of IPv6 alone, and the way there and back.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::net::IpAddr;

use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::firewall::Protocol;
use model::ledger::Ledger;
use model::network::{Attachment, MacAddr};
use model::spec::*;

const SUBNET: &str = "fd00:80::/64";

/// A network with this subnet alone, or with a picked one.
fn alone(subnet6: Option<&str>) -> NetworkSpec {
    NetworkSpec {
        ipv4: false,
        subnet6: subnet6.map(|net| net.parse().unwrap()),
        ..NetworkSpec::default()
    }
}

fn both() -> NetworkSpec {
    NetworkSpec {
        subnet: Some("10.80.0.0/24".parse().unwrap()),
        ..NetworkSpec {
            ipv4: true,
            ..alone(Some(SUBNET))
        }
    }
}

fn on(networks: &[&str]) -> ContainerSpec {
    let mut spec = spec();
    spec.networks = networks.iter().map(|n| NetworkUse::new(name(n))).collect();
    spec
}

fn port(at: &str, host: Option<u16>) -> PortSpec {
    PortSpec {
        ip: (!at.is_empty()).then(|| at.parse().unwrap()),
        host: host.map(|port| (port, port)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    }
}

fn lab(containers: &[(&str, ContainerSpec)], network: NetworkSpec) -> Lab {
    let mut lab = Lab::new(containers);
    lab.networks.insert(name("n"), network);
    lab
}

fn places(lab: &Lab, of: &str) -> Vec<Attachment> {
    lab.ledger.containers[of].current.attachments.to_vec()
}

fn ips(lab: &Lab, of: &str) -> Vec<String> {
    let places = places(lab, of);
    places
        .iter()
        .flat_map(Attachment::ips)
        .map(|ip| ip.to_string())
        .collect()
}

fn published(lab: &Lab) -> Vec<String> {
    let state = lab.host.firewall.clone().unwrap_or_default();
    let one = |r: &model::firewall::PortRule| format!("{} {} {}", r.at(), r.host_port, r.target_ip);
    state.ports.iter().map(one).collect()
}

fn errors(lab: &Lab) -> Vec<String> {
    lab.desired().errors.iter().map(|e| e.message.clone()).collect()
}

#[test]
fn everything_of_it_is_of_ipv6() {
    let mut web = on(&["n"]);
    web.ports = vec![
        port("", Some(80)),
        port("::1", Some(81)),
        port("2001:db8::1", Some(82)),
    ];
    let mut lab = lab(&[("web", web), ("box", on(&["n"]))], alone(Some(SUBNET)));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(
        (ips(&lab, "box"), ips(&lab, "web")),
        (vec!["fd00:80::2".into()], vec!["fd00:80::3".into()])
    );
    let place = &places(&lab, "web")[0];
    let gateway: IpAddr = "fd00:80::1".parse().unwrap();
    assert_eq!(
        place.places().map(|(.., to)| to).collect::<Vec<_>>(),
        [Some(gateway)]
    );
    assert_eq!(place.mac, MacAddr::of_lease(place.ips().next().unwrap()));
    let bridge = &lab.host.links["wh-n"];
    assert_eq!((bridge.addresses.len(), bridge.addresses6.len()), (0, 1));
    assert_eq!(
        published(&lab),
        [
            ":: 80 fd00:80::3",
            "::1 81 fd00:80::3",
            "2001:db8::1 82 fd00:80::3"
        ]
    );
    let row = lab.shown("web");
    let shown = &row.networks["n"];
    assert_eq!((&shown.ip, &shown.gateway), (&None, &None));
    assert_eq!(shown.gateway6.as_deref(), Some("fd00:80::1"));
    let rows: Vec<&str> = row.ports.iter().map(|p| p.ip.as_str()).collect();
    assert_eq!(rows, ["::", "::1", "2001:db8::1"]);
    let network = &lab.status().networks[0];
    assert_eq!((&network.subnet, &network.gateway), (&None, &None));
    assert_eq!(network.subnet6.as_deref(), Some(SUBNET));
    let names = lab.host.dns.clone().unwrap();
    assert_eq!(names.networks["n"].gateways, [gateway]);
    assert_eq!(
        names.containers["web"].endpoints["n"].ips,
        [place.ips().next().unwrap()]
    );
    assert_eq!(
        lab.started.iter().map(|i| i.dns.clone()).collect::<Vec<_>>(),
        [[gateway], [gateway]]
    );
    // Nobody needs forwarding of IPv4.
    lab.host.forwarding = false;
    assert!(lab.plan().actions.is_empty(), "{:?}", lines(&lab.plan()));
    lab.host.forwarding6 = false;
    assert_eq!(
        lines(&lab.pass()),
        ["~ firewall: net.ipv6.conf.all.forwarding is off"]
    );
}

#[test]
fn without_a_subnet_one_is_picked_and_kept() {
    let mut lab = lab(&[("web", on(&["n"]))], alone(None));
    assert_eq!(lab.settle(), [""; 0]);
    let subnet = |lab: &Lab| lab.ledger.networks["n"].network.v6().unwrap().subnet;
    let (picked, place) = (subnet(&lab), ips(&lab, "web"));
    assert_eq!(picked.prefix_len(), 64);
    lab.networks.get_mut("n").unwrap().internal = true;
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!((subnet(&lab), ips(&lab, "web")), (picked, place));
}

#[test]
fn a_container_on_one_of_each_goes_out_by_each() {
    let mut web = on(&["n", "four"]);
    web.ports = vec![port("", Some(80))];
    let mut lab = lab(&[("web", web)], alone(Some(SUBNET)));
    lab.networks.insert(
        name("four"),
        NetworkSpec {
            subnet: both().subnet,
            ..NetworkSpec::default()
        },
    );
    assert_eq!(lab.settle(), [""; 0]);
    let ways: Vec<_> = places(&lab, "web")
        .iter()
        .flat_map(Attachment::places)
        .map(|(.., to)| to)
        .collect();
    assert_eq!(
        ways,
        ["fd00:80::1", "10.80.0.1"].map(|ip| Some(ip.parse().unwrap()))
    );
    assert_eq!(published(&lab), ["0.0.0.0 80 10.80.0.2", ":: 80 fd00:80::2"]);
}

#[test]
fn a_network_loses_ipv4_and_gets_it_back_made_anew_each_time() {
    let mut web = on(&["n"]);
    web.ports = vec![port("", None)];
    let mut lab = lab(&[("web", web), ("other", spec())], both());
    assert_eq!(lab.settle(), [""; 0]);
    let (id, before, other) = (lab.id("web"), places(&lab, "web"), lab.seen("other").clone());
    let was = published(&lab);
    lab.networks.insert(name("n"), alone(Some(SUBNET)));
    let mut plans = Vec::new();
    for _ in 0..8 {
        plans.push(lab.pass());
    }
    let said: Vec<String> = plans.iter().flat_map(lines).collect();
    let text = said.join("\n");
    assert!(text.contains("-/+ network n: ipv4 true → false"), "{text}");
    // What hangs on it is stopped before its device goes, and started when the new one is there.
    let first = |what: fn(&Action) -> bool| {
        let actions = plans.iter().flat_map(|plan| &plan.actions);
        actions.map(|a| &a.action).position(what).unwrap()
    };
    let order = [
        first(|a| matches!(a, Action::StopContainer { .. })),
        first(|a| matches!(a, Action::RemoveNetwork { .. })),
        first(|a| matches!(a, Action::ApplyNetwork { .. })),
        first(|a| matches!(a, Action::StartContainer { .. })),
    ];
    assert!(order.is_sorted(), "{order:?}: {text}");
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(
        (lab.id("web"), ips(&lab, "web")),
        (id.clone(), vec!["fd00:80::2".to_owned()])
    );
    assert_eq!(places(&lab, "web")[0].v6(), before[0].v6(), "the same lease");
    assert_eq!(*lab.seen("other"), other, "nobody else is touched");
    assert_eq!(
        published(&lab),
        [was[1].clone()],
        "and the picked port is the same"
    );
    let text = serde_json::to_string(&lab.ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), lab.ledger);

    lab.networks.insert(name("n"), both());
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!((lab.id("web"), places(&lab, "web")), (id, before));
    assert_eq!(published(&lab), was);
}

/// The port of `web` cannot be kept without IPv4, so its table is refused and it lives on as it was accepted.
#[test]
fn a_port_of_a_family_that_is_gone_holds_up_nobody_elses() {
    let mut web = on(&["n"]);
    web.ports = vec![port("192.0.2.1", Some(80))];
    let mut lab = lab(&[("web", web), ("other", spec())], both());
    assert_eq!(lab.settle(), [""; 0]);
    let begun = lab.seen("web").run_no;
    assert_eq!(published(&lab), ["192.0.2.1 80 10.80.0.2"]);
    lab.networks.insert(name("n"), alone(Some(SUBNET)));
    lab.spec("other").ports = vec![port("0.0.0.0", Some(81))];
    for _ in 0..8 {
        lab.pass();
    }
    assert_eq!(errors(&lab).len(), 1, "{:?}", errors(&lab));
    let told = published(&lab);
    assert!(
        matches!(&told[..], [only] if only.starts_with("0.0.0.0 81 ")),
        "{told:?}"
    );
    assert!(lab.runs("web") && lab.seen("web").run_no == begun);
    assert!(lab.runs("other"));
    lab.networks.insert(name("n"), both());
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(published(&lab)[1], "192.0.2.1 80 10.80.0.2");
}

#[test]
fn what_is_taken_from_the_device_is_put_back() {
    let mut lab = lab(&[("web", on(&["n"]))], alone(Some(SUBNET)));
    assert_eq!(lab.settle(), [""; 0]);
    lab.host.links.get_mut("wh-n").unwrap().addresses6.clear();
    assert_eq!(
        lines(&lab.pass()),
        ["~ network n: wh-n lacks the address fd00:80::1/64"]
    );
    assert_eq!(lab.settle(), [""; 0]);
    let link = lab.host.links.get_mut("wh-n").unwrap();
    link.addresses.push("10.99.0.1/24".parse().unwrap());
    let why = "~ network n: wh-n has the address 10.99.0.1/24, and its network no IPv4";
    assert_eq!(lines(&lab.pass()), [why]);
    assert_eq!(lab.settle(), [""; 0]);
}

#[test]
fn links_and_isolation_are_of_ipv6() {
    let mut web = on(&["n"]);
    web.links = vec![LinkSpec {
        container: name("db"),
        alias: name("database"),
    }];
    let mut db = on(&["n"]);
    db.ports = vec![port("", Some(5432))];
    let network = NetworkSpec {
        icc: false,
        ..alone(Some(SUBNET))
    };
    let mut lab = lab(&[("web", web), ("db", db)], network);
    assert_eq!(lab.settle(), [""; 0]);
    let links = &lab.host.firewall.as_ref().unwrap().links;
    assert_eq!(links.len(), 1, "{links:?}");
    assert!(links[0].to.is_ipv6() && links[0].from.is_ipv6());
    let web = lab.started.iter().find(|i| i.name == name("web")).unwrap();
    assert_eq!(web.links[0].ip, Some("fd00:80::2".parse().unwrap()));
}

#[test]
fn replicas_share_a_port_and_take_over_by_ipv6() {
    let mut web = on(&["n"]);
    web.replicas = 2;
    web.ports = vec![port("", Some(80))];
    let mut lab = lab(&[("web", web)], alone(Some(SUBNET)));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(published(&lab), [":: 80 fd00:80::2", ":: 80 fd00:80::3"]);
}

#[test]
fn what_needs_ipv4_and_has_none_is_refused() {
    let mut lab = lab(&[("web", on(&["n"]))], alone(Some(SUBNET)));
    for at in ["0.0.0.0", "192.0.2.1"] {
        lab.spec("web").ports = vec![port(at, Some(80))];
        let why = format!("a port of container web is published at {at}, but none of its networks has IPv4");
        assert_eq!(errors(&lab), [why]);
    }
    lab.spec("web").ports = vec![port("", Some(80))];
    lab.settings.default_host_ip = [192, 0, 2, 1].into();
    let why = "a port of container web is published at 192.0.2.1, but none of its networks has IPv4";
    assert_eq!(errors(&lab), [why]);
    // For this host alone there is the relay.
    lab.settings.default_host_ip = [127, 0, 0, 1].into();
    lab.spec("web").ports.push(port("127.0.0.2", Some(81)));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(
        published(&lab),
        ["127.0.0.1 80 fd00:80::2", "127.0.0.2 81 fd00:80::2"]
    );
    let open = |row: &model::status::PortStatus| row.open_to.clone();
    let rows: Vec<String> = lab.status().containers[0].ports.iter().map(open).collect();
    assert_eq!(rows, ["host", "host"]);
    lab.spec("web").networks[0].ip = Some([10, 80, 0, 9].into());
    let why =
        "address 10.80.0.9 of container web is an IPv4 address, and network n has no IPv4 (`ipv4 = false`)";
    assert_eq!(errors(&lab), [why]);
}
