//! IPv6 beside IPv4: subnets and addresses picked and kept, ports of both families, a network that gets it or loses it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::firewall::Protocol;
use model::ledger::ReplacePhase;
use model::network::Attachment;
use model::observed::{ForeignAddress6, Ipv6State, Listener};
use model::spec::*;

fn net(text: &str) -> Ipv6Net {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A network on 10.80.0.0/24 with this IPv6 subnet.
fn dual(subnet6: Option<&str>) -> NetworkSpec {
    NetworkSpec {
        subnet: Some("10.80.0.0/24".parse().unwrap()),
        subnet6: subnet6.map(net),
        ..NetworkSpec::default()
    }
}

fn port(text: &str, host: Option<u16>, container: u16) -> PortSpec {
    PortSpec {
        ip: (!text.is_empty()).then(|| text.parse().unwrap()),
        host: host.map(|port| (port, port)),
        container: (container, container),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    }
}

fn on(networks: &[&str]) -> ContainerSpec {
    let mut spec = spec();
    spec.networks = networks.iter().map(|n| NetworkUse::new(name(n))).collect();
    spec
}

fn lab(containers: &[(&str, ContainerSpec)], subnet6: Option<&str>) -> Lab {
    let mut lab = Lab::new(containers);
    lab.networks.insert(name("n"), dual(subnet6));
    lab
}

fn places(lab: &Lab, of: &str) -> Vec<Attachment> {
    lab.ledger.containers[of].current.attachments.to_vec()
}

fn six(lab: &Lab, of: &str) -> Option<Ipv6Addr> {
    Some(places(lab, of)[0].v6()?.ip)
}

/// Address, host port and target of what is published, in the order of the table.
fn published(lab: &Lab) -> Vec<String> {
    let state = lab.host.firewall.clone().unwrap_or_default();
    let one = |r: &model::firewall::PortRule| format!("{} {} {}", r.at(), r.host_port, r.container);
    state.ports.iter().map(one).collect()
}

#[test]
fn a_subnet_is_picked_of_a_pool_that_is_made_once_and_kept() {
    let mut lab = Lab::new(&[("web", on(&["a", "b"]))]);
    for network in ["a", "b"] {
        let spec = NetworkSpec {
            ipv6: true,
            ..NetworkSpec::default()
        };
        lab.networks.insert(name(network), spec);
    }
    assert_eq!(lab.settle(), [""; 0]);
    let subnet = |lab: &Lab, of: &str| lab.ledger.networks[of].network.v6().unwrap().subnet;
    let (a, b) = (subnet(&lab, "a"), subnet(&lab, "b"));
    let pool = lab.ledger.pool6.unwrap();
    assert!(
        net("fd00::/8").contains(&pool) && pool.prefix_len() == 48,
        "{pool}"
    );
    assert!(pool.contains(&a) && pool.contains(&b) && a != b, "{a} {b}");
    assert_eq!((a.prefix_len(), b.prefix_len()), (64, 64));
    let at = places(&lab, "web");
    assert_eq!(at[0].v6().unwrap().gateway, Some(a.hosts().nth(1).unwrap()));
    assert_eq!(at[1].v6().unwrap().gateway, None, "there is one default route");
    lab.networks.remove(&name("a"));
    lab.containers.insert(name("web"), on(&["b"]));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!((subnet(&lab, "b"), lab.ledger.pool6), (b, Some(pool)));
}

#[test]
fn the_way_out_is_the_first_that_leads_out_by_each_family() {
    let mut lab = lab(&[("web", on(&["four", "inner", "n"]))], Some("fd00:80::/64"));
    lab.networks.insert(name("four"), NetworkSpec::default());
    let inner = NetworkSpec {
        ipv6: true,
        internal: true,
        ..NetworkSpec::default()
    };
    lab.networks.insert(name("inner"), inner);
    assert_eq!(lab.settle(), [""; 0]);
    let at = places(&lab, "web");
    let ways: Vec<_> = at.iter().map(|a| a.v4().unwrap().gateway.is_some()).collect();
    let ways6: Vec<_> = at
        .iter()
        .map(|a| a.v6().is_some_and(|v6| v6.gateway.is_some()))
        .collect();
    assert_eq!(
        (ways, ways6),
        (vec![true, false, false], vec![false, false, true])
    );
    // The way out of the first one is closed: the one of IPv6 is another matter.
    lab.networks.get_mut("n").unwrap().internal = true;
    lab.networks.get_mut("inner").unwrap().internal = false;
    assert_eq!(lab.settle(), [""; 0]);
    assert!(places(&lab, "web")[1].v6().unwrap().gateway.is_some());
}

#[test]
fn addresses_are_like_those_of_ipv4_and_kept() {
    let mut fixed = on(&["n"]);
    fixed.networks[0].ip6 = Some(ip("fd00:80::3"));
    let containers = [("a", on(&["n"])), ("b", fixed), ("c", on(&["n"]))];
    let mut lab = lab(&containers, Some("fd00:80::/64"));
    assert_eq!(lab.settle(), [""; 0]);
    let all = |lab: &Lab| ["a", "b", "c"].map(|of| six(lab, of).unwrap().to_string());
    let given = all(&lab);
    assert_eq!(given[..2], ["fd00:80::2", "fd00:80::3"]);
    assert_eq!(places(&lab, "c")[0].v4().unwrap().ip.to_string(), "10.80.0.4");
    assert_eq!(given[2], "fd00:80::4");
    lab.reboot();
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(all(&lab), given);
    // Its answer to the name server's question.
    let names = &lab.host.dns.as_ref().unwrap().containers["a"].endpoints[&name("n")];
    let own: Vec<IpAddr> = places(&lab, "a")[0].ips().collect();
    assert_eq!(names.ips, own);
}

#[test]
fn where_no_address_is_left_it_says_so() {
    let mut lab = lab(&[("a", on(&["n"])), ("b", on(&["n"]))], Some("fd00:80::/64"));
    lab.networks.get_mut("n").unwrap().range6 = Some(net("fd00:80::8/127"));
    lab.containers.insert(name("c"), on(&["n"]));
    let said = lab.settle();
    let why =
        "network n has no free address left in fd00:80::8/127; give it a larger subnet or remove containers";
    assert_eq!(said, [format!("? container c: {why}")]);
}

#[test]
fn one_that_is_tried_beside_the_old_one_has_an_address_of_its_own() {
    let mut web = on(&["n"]);
    web.update.strategy = UpdateStrategy::StartFirst;
    web.ports = vec![port("", Some(80), 80)];
    let mut lab = lab(&[("web", web)], Some("fd00:80::/64"));
    lab.settle();
    let old = six(&lab, "web").unwrap();
    lab.spec("web").env.insert("X".to_owned(), "1".to_owned());
    let trial = |lab: &Lab| {
        let next = lab.ledger.containers["web"].next.clone();
        next.filter(|n| n.phase == ReplacePhase::Trial)
    };
    for _ in 0..5 {
        lab.pass();
        if trial(&lab).is_some() {
            break;
        }
    }
    let new = trial(&lab).unwrap().accepted.attachments[0].v6().unwrap().ip;
    assert_ne!(new, old);
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(six(&lab, "web"), Some(new));
    let rules = lab.host.firewall.as_ref().unwrap().ports.clone();
    let targets: Vec<IpAddr> = rules.iter().map(|r| r.target_ip).collect();
    assert_eq!(targets, places(&lab, "web")[0].ips().collect::<Vec<_>>());
    assert_eq!(rules.len(), 2);
    assert_eq!(lab.ledger.leases["n/web"].ip.v6(), Some(&new));

    // With an address that is written in its table there is no room for two.
    lab.spec("web").networks[0].ip6 = Some(ip("fd00:80::77"));
    let plan = (0..8)
        .map(|_| lab.pass())
        .find(|p| lines(p).concat().contains("start-first"))
        .unwrap();
    let why = "its address in network n is a fixed one";
    assert!(lines(&plan).concat().contains(why), "{:?}", lines(&plan));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(six(&lab, "web"), Some(ip("fd00:80::77")));
}

#[test]
fn a_network_gets_ipv6_on_the_device_it_has_and_its_containers_begin_again() {
    let mut lab = lab(&[("web", on(&["n"])), ("other", spec())], None);
    lab.settle();
    let (id, at, other) = (lab.id("web"), places(&lab, "web"), lab.seen("other").clone());
    let begun = lab.seen("web").run_no;
    lab.networks.insert(name("n"), dual(Some("fd00:80::/64")));
    let mut said = Vec::new();
    for _ in 0..6 {
        said.extend(lines(&lab.pass()));
    }
    let text = said.join("\n");
    assert!(
        text.contains("~ network n: subnet6 none → fd00:80::/64"),
        "{text}"
    );
    assert!(text.contains("network n: subnet6 none → fd00:80::/64"), "{text}");
    assert!(!text.contains("remove network"), "{text}");
    assert_eq!(lab.settle(), [""; 0]);
    let now = places(&lab, "web");
    assert_eq!(
        (lab.id("web"), now[0].v4(), now[0].mac),
        (id, at[0].v4(), at[0].mac)
    );
    assert_eq!(six(&lab, "web"), Some(ip("fd00:80::2")));
    assert_ne!(lab.seen("web").run_no, begun, "it was started again");
    assert_eq!(*lab.seen("other"), other, "and nobody else");
    assert_eq!(lab.host.links["wh-n"].addresses6, [net("fd00:80::1/64")]);

    lab.networks.insert(name("n"), dual(Some("fd00:81::/64")));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(lab.host.links["wh-n"].addresses6, [net("fd00:81::1/64")]);
    assert_eq!(six(&lab, "web"), Some(ip("fd00:81::2")));

    lab.networks.insert(name("n"), dual(None));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(lab.host.links["wh-n"].addresses6, []);
    assert_eq!(
        (six(&lab, "web"), places(&lab, "web")[0].v4()),
        (None, at[0].v4())
    );
}

#[test]
fn what_is_taken_from_the_device_is_put_back_and_what_is_added_goes() {
    let mut lab = lab(&[("web", on(&["n"]))], Some("fd00:80::/64"));
    lab.settle();
    let device = |lab: &mut Lab, change: &dyn Fn(&mut model::observed::ObservedLink)| {
        change(lab.host.links.get_mut("wh-n").unwrap());
        let plan = lab.pass();
        let all = lines(&plan);
        assert!(
            matches!(plan.actions[..], [ref one] if matches!(one.action, Action::ApplyNetwork { .. })),
            "{all:?}"
        );
        all.concat()
    };
    let said = device(&mut lab, &|link| link.addresses6.clear());
    assert_eq!(said, "~ network n: wh-n lacks the address fd00:80::1/64");
    let said = device(&mut lab, &|link| link.addresses6.push(net("2001:db8:7::1/64")));
    assert_eq!(
        said,
        "~ network n: wh-n has the address 2001:db8:7::1/64, which is not its network's"
    );
    let said = device(&mut lab, &|link| link.ipv6 = Ipv6State::Wrong);
    assert_eq!(said, "~ network n: IPv6 of wh-n is not set up as it should be");
    lab.host.forwarding6 = false;
    assert_eq!(
        lines(&lab.pass()),
        ["~ firewall: net.ipv6.conf.all.forwarding is off"]
    );
    assert_eq!(lab.settle(), [""; 0]);
    // A network that did not ask for it has none.
    lab.networks.insert(name("n"), dual(None));
    lab.settle();
    let said = device(&mut lab, &|link| link.ipv6 = Ipv6State::On);
    assert_eq!(said, "~ network n: wh-n has IPv6, which is not its network's");
    lab.host.forwarding6 = false;
    assert_eq!(lab.settle(), [""; 0], "nobody needs it");
}

#[test]
fn subnets_that_the_host_has_are_refused_where_written_and_left_where_picked() {
    let mut lab = lab(&[], Some("2001:db8::/48"));
    let picked = NetworkSpec {
        ipv6: true,
        ..NetworkSpec::default()
    };
    lab.networks.insert(name("p"), picked);
    let why = "subnet 2001:db8::/48 collides with 2001:db8::1/64 on the host's eth0; use another subnet";
    assert_eq!(lab.settle(), [format!("? network n: {why}")]);
    let of = |lab: &Lab| lab.ledger.networks["p"].network.v6().unwrap().subnet;
    let before = of(&lab);
    lab.reboot();
    lab.host.foreign6.push(ForeignAddress6 {
        device: "eth1".to_owned(),
        address: before,
    });
    lab.settle();
    assert_ne!(of(&lab), before);
    // What was picked for one is no other's.
    lab.networks.get_mut("n").unwrap().subnet6 = Some(of(&lab));
    let why = format!(
        "subnet {0} overlaps {0} of network p, which was picked for it; use another subnet",
        of(&lab)
    );
    assert_eq!(lab.settle(), [format!("? network n: {why}")]);
}

#[test]
fn a_port_is_published_for_the_families_it_names() {
    let mut web = on(&["n"]);
    web.ports = vec![
        port("", Some(80), 80),
        port("0.0.0.0", Some(81), 80),
        port("::", Some(82), 80),
        port("::1", Some(83), 80),
    ];
    let mut four = spec();
    four.ports = vec![port("", Some(90), 90), port("::1", Some(91), 90)];
    let mut lab = lab(&[("web", web), ("four", four)], Some("fd00:80::/64"));
    assert_eq!(lab.settle(), [""; 0]);
    let mut all = published(&lab);
    all.sort();
    let wanted = [
        "0.0.0.0 80 web",
        "0.0.0.0 81 web",
        "0.0.0.0 90 four",
        ":: 80 web",
        ":: 82 web",
        "::1 83 web",
        "::1 91 four",
    ];
    assert_eq!(all, wanted);
    // The loopback address is served by a process, which reaches containers without IPv6 as well.
    let rules = &lab.host.firewall.as_ref().unwrap().ports;
    let four = rules.iter().find(|r| r.host_port == 91).unwrap();
    assert_eq!(
        four.target_ip,
        IpAddr::V4(places(&lab, "four")[0].v4().unwrap().ip)
    );
    let rows = lab.shown("web").ports;
    let rows: Vec<String> = rows.iter().map(|p| format!("{} {}", p.ip, p.host)).collect();
    assert_eq!(
        rows,
        ["0.0.0.0 80", ":: 80", "0.0.0.0 81", ":: 82", "::1 83"]
            .map(str::to_owned)
            .to_vec()
    );
}

#[test]
fn one_number_may_be_two_containers_by_family_and_nobody_elses() {
    let (mut a, mut b) = (on(&["n"]), on(&["n"]));
    a.ports = vec![port("0.0.0.0", Some(80), 80)];
    b.ports = vec![port("::", Some(80), 80)];
    let mut lab = lab(&[("a", a), ("b", b)], Some("fd00:80::/64"));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(published(&lab), ["0.0.0.0 80 a", ":: 80 b"]);
    // Both at once, and they meet.
    lab.spec("b").ports = vec![port("", Some(80), 80)];
    let errors = lab.desired().errors;
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0]
            .message
            .contains("published twice: by container a and container b")
    );
}

#[test]
fn what_listens_on_one_family_leaves_the_other_alone() {
    let mut lab = lab(&[], Some("fd00:80::/64"));
    let listens = |at: &str| Listener {
        protocol: Protocol::Tcp,
        ip: at.parse().unwrap(),
        port: 80,
        holder: None,
    };
    lab.host.listeners = vec![listens("::")];
    for (of, at) in [("four", "0.0.0.0"), ("six", "::")] {
        let mut spec = on(&["n"]);
        spec.ports = vec![port(at, Some(80), 80)];
        lab.containers.insert(name(of), spec);
    }
    for _ in 0..5 {
        lab.pass();
    }
    assert!(lab.runs("four") && !lab.runs("six"));
    let error = lab.shown("six").error.unwrap();
    assert!(
        error.contains("another process listens on [::]:80/tcp"),
        "{error}"
    );
}

#[test]
fn a_picked_port_is_one_number_for_both_families_and_stays_when_one_comes() {
    let mut web = on(&["n"]);
    web.ports = vec![port("", None, 80), port("::", None, 81)];
    let mut lab = lab(&[("web", web)], Some("fd00:80::/64"));
    lab.host.listeners = vec![Listener {
        protocol: Protocol::Tcp,
        ip: "::".parse().unwrap(),
        port: 32_768,
        holder: None,
    }];
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(
        published(&lab),
        ["0.0.0.0 32769 web", ":: 32769 web", ":: 32770 web"]
    );
    lab.spec("web").ports.remove(1);
    lab.networks.insert(name("n"), dual(None));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(published(&lab), ["0.0.0.0 32769 web"]);
    lab.networks.insert(name("n"), dual(Some("fd00:80::/64")));
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(published(&lab), ["0.0.0.0 32769 web", ":: 32769 web"]);
}

#[test]
fn what_needs_ipv6_and_has_none_is_refused() {
    let mut lab = lab(&[], None);
    let said =
        |lab: &Lab| -> Vec<String> { lab.desired().errors.iter().map(|e| e.message.clone()).collect() };
    let mut web = on(&["n"]);
    web.ports = vec![port("2001:db8::1", Some(80), 80)];
    lab.containers.insert(name("web"), web);
    assert_eq!(
        said(&lab),
        ["a port of container web is published at 2001:db8::1, but none of its networks has IPv6"]
    );
    let mut web = on(&["n"]);
    web.networks[0].ip6 = Some(ip("fd00:80::5"));
    lab.containers.insert(name("web"), web);
    assert_eq!(
        said(&lab),
        ["address fd00:80::5 of container web is an IPv6 address, and network n has no IPv6"]
    );
    for (at, why) in [
        ("fd00:81::5", "is no host address of network n (fd00:80::/64)"),
        ("fd00:80::", "is no host address of network n (fd00:80::/64)"),
        ("fd00:80::1", "is the gateway of network n"),
    ] {
        lab.networks.insert(name("n"), dual(Some("fd00:80::/64")));
        lab.spec("web").networks[0].ip6 = Some(ip(at));
        assert_eq!(said(&lab), [format!("address {at} of container web {why}")]);
    }
    lab.containers.clear();
    let mut other = dual(Some("fd00::/16"));
    other.subnet = None;
    lab.networks.insert(name("m"), other);
    assert_eq!(
        said(&lab),
        ["subnet fd00::/16 of network m overlaps fd00:80::/64 of network n"]
    );
}
