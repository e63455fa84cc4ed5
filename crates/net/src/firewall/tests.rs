//! The rendered table as text, the way from state to elements and back, and what is left where an apply ends early.

use model::families::Families;
use model::firewall::{FirewallBridge, FirewallState, LinkRule, PortRule, Protocol, Routed};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use nix::sched::{CloneFlags, unshare};

use super::apply::{Keeper, apply, current, remove};
use super::elements::{self, Elements};
use super::family::Family;
use super::guard::Guards;
use super::read::read;
use super::render::{FORWARD, Make, render, set};
use super::table::{Field, Set, Table};
use crate::netlink::Netlink;

fn state() -> FirewallState {
    let bridge = |name: &str, subnet: &str, masquerade, internal| FirewallBridge {
        bridge: name.to_owned(),
        ip: Families::V4(Routed {
            subnet: subnet.parse().unwrap(),
            masquerade,
        }),
        internal,
        dns_port: None,
        isolated: false,
    };
    let port = |protocol, ip: Option<&str>, host_port, target: &str| PortRule {
        protocol,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        host_port,
        target_ip: target.parse().unwrap(),
        target_port: 80,
        bridge: "wh-front".into(),
        allow: Vec::new(),
        container: "web".parse().unwrap(),
        service: None,
    };
    let mut state = FirewallState {
        bridges: vec![
            bridge("wh-front", "10.88.1.0/24", true, false),
            bridge("wh-back", "10.88.2.0/24", false, true),
        ],
        ports: vec![
            port(Protocol::Tcp, None, 8080, "10.88.1.5"),
            port(Protocol::Udp, Some("127.0.0.1"), 53, "10.88.1.6"),
            port(Protocol::Tcp, None, 8081, "10.88.1.5"),
            port(Protocol::Udp, Some("192.0.2.1"), 99, "10.88.1.5"),
        ],
        ..FirewallState::default()
    };
    state.bridges[0].dns_port = Some(5300);
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    state.ports[2].allow = nets(&["192.0.2.0/24", "198.51.100.7/32"]);
    state.ports[3].allow = nets(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"]);
    state.sorted()
}

fn make(guarded: bool) -> Make {
    let guards = Guards {
        v4: guarded,
        v6: guarded,
        others: ["virbr0".to_owned()].into(),
    };
    let zoned = true;
    Make { guards, zoned }
}

#[test]
fn the_table_as_text() {
    insta::assert_snapshot!(render(&state(), &make(true), &Elements::new()));
}

/// The same host, one network having IPv6.
fn dual() -> FirewallState {
    let mut state = state();
    let front = state.bridges.iter_mut().find(|b| b.bridge == "wh-front").unwrap();
    front.ip = front.ip.with_v6(Routed {
        subnet: "fd00:88:1::/64".parse().unwrap(),
        masquerade: true,
    });
    let six = |ip: Option<&str>| PortRule {
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        target_ip: "fd00:88:1::5".parse().unwrap(),
        ..state.ports[0].clone()
    };
    let ports = [six(None), six(Some("2001:db8::1"))];
    state.ports.extend(ports);
    let allow = ["192.0.2.0/24", "2001:db8::/32", "2001:db8:1::/48"];
    for port in state.ports.iter_mut().filter(|p| !p.allow.is_empty()) {
        port.allow = allow.map(|net| net.parse().unwrap()).to_vec();
    }
    let listed = PortRule {
        protocol: Protocol::Udp,
        host_port: 8443,
        allow: allow.map(|net| net.parse().unwrap()).to_vec(),
        ..state.ports.last().unwrap().clone()
    };
    state.ports.push(listed);
    state.sorted()
}

#[test]
fn the_table_with_ipv6_as_text() {
    let table = render(&dual(), &make(true), &Elements::new());
    insta::assert_snapshot!(table);
}

/// One that was forgotten among the shapes of sets would have four bytes for an address of sixteen.
#[test]
fn no_set_of_ipv6_has_fields_of_ipv4() {
    let mut state = dual();
    for port in &mut state.ports {
        port.container = "web".parse().unwrap();
        port.service = Some("web".parse().unwrap());
    }
    let table = render(&state, &make(true), &Elements::new());
    let six = |name| matches!(Family::of_set(name), Some((Family::V6, kind)) if kind != set::ALLOWED_OTHER);
    let wide: Vec<&Set> = table.sets.iter().filter(|set| six(set.name)).collect();
    assert_eq!(wide.len(), 23, "every kind of set");
    for set in wide {
        let fields = [set.key, set.value].concat();
        let narrow = fields
            .iter()
            .any(|f| matches!(f, Field::Ipv4 | Field::QuotedIpv4 | Field::QuotedPort));
        assert!(!narrow, "{}: {fields:?}", set.name);
    }
}

/// All that a network's IPv6 brings, and nothing that was there before is another one.
#[test]
fn ipv6_comes_beside_what_there_is() {
    let [with, without] = [dual(), state()].map(|state| render(&state, &make(true), &Elements::new()));
    for chain in &without.chains {
        let same = with.chains.iter().find(|other| other.name == chain.name).unwrap();
        let kept: Vec<_> = same
            .rules
            .iter()
            .filter(|rule| chain.rules.contains(rule))
            .collect();
        assert_eq!(kept, chain.rules.iter().collect::<Vec<_>>(), "{}", chain.name);
    }
    assert_eq!(elements::read(&elements_of(&dual())), Some(dual()));
    assert_eq!(elements::salvage(&elements_of(&dual())), dual());
}

#[test]
fn only_the_last_rule_comes_with_the_guard() {
    let rules = |guarded| {
        let table = render(&state(), &make(guarded), &Elements::new());
        let forward = table.chains.into_iter().find(|chain| chain.name == FORWARD);
        forward.unwrap().rules
    };
    let (with, without) = (rules(true), rules(false));
    assert_eq!(with.strip_prefix(&without[..]).map(<[_]>::len), Some(1));
}

#[test]
fn rules_do_not_depend_on_what_is_published_but_for_its_kind() {
    let less = FirewallState {
        bridges: Vec::new(),
        ports: vec![
            state()
                .ports
                .into_iter()
                .find(|p| p.protocol == Protocol::Udp)
                .unwrap(),
        ],
        ..FirewallState::default()
    };
    assert_eq!(
        render(&state(), &make(false), &Elements::new()).chains,
        render(&less, &make(false), &Elements::new()).chains
    );
}

fn elements_of(state: &FirewallState) -> Elements {
    elements::sets(state, &Elements::new())
        .into_iter()
        .map(|set| (set.name.to_owned(), set.elements))
        .collect()
}

#[test]
fn elements_say_their_state() {
    assert_eq!(elements::read(&elements_of(&state())), Some(state()));
    assert_eq!(elements::salvage(&elements_of(&state())), state());
    assert_eq!(elements::read(&Elements::new()), Some(FirewallState::default()));
}

#[test]
fn what_is_not_ours_is_not_read_but_does_not_hide_the_rest() {
    let mut elements = elements_of(&state());
    let mut strange = elements["ports_any"].first().unwrap().clone();
    strange.comment = None;
    strange.key[3] = 9;
    elements.get_mut("ports_any").unwrap().insert(strange);
    assert_eq!(elements::read(&elements), None);
    assert_eq!(elements::salvage(&elements), state());
}

/// Sockets in a network namespace of their own: nfnetlink, rtnetlink, and one that answers no question for addresses,
/// so that what needs them ends there.
fn sockets() -> [Netlink; 3] {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        [NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG].map(|p| Netlink::open(p).unwrap())
    });
    made.join().unwrap()
}

fn stale(filter: &mut Netlink) -> usize {
    read(filter).unwrap().table.unwrap().elements[set::STALE_UDP].len()
}

#[test]
fn a_port_whose_flows_were_not_forgotten_is_noted_until_they_are() {
    let [mut filter, mut route, mut broken] = sockets();
    let keeper = Keeper::new(&mut filter, "test", false).unwrap();
    let seen = |filter: &mut Netlink| current(filter, &keeper).unwrap().state;
    apply(&mut filter, &mut route, &keeper, &state(), &Guards::default()).unwrap();
    assert_eq!((seen(&mut filter), stale(&mut filter)), (Some(state()), 0));
    let mut moved = state();
    for port in &mut moved.ports {
        port.target_port += 1;
    }
    // The UDP ports' old targets; of the one that is for everybody the host, of the other its new target. Again and again,
    // as long as it fails.
    for _ in 0..2 {
        apply(&mut filter, &mut broken, &keeper, &moved, &Guards::default()).unwrap_err();
        assert_eq!((seen(&mut filter), stale(&mut filter)), (None, 4));
    }
    // Back to what was there: the flows of between are still to be forgotten.
    apply(&mut filter, &mut broken, &keeper, &state(), &Guards::default()).unwrap_err();
    assert_eq!((seen(&mut filter), stale(&mut filter)), (None, 5));
    apply(&mut filter, &mut route, &keeper, &moved, &Guards::default()).unwrap();
    assert_eq!((seen(&mut filter), stale(&mut filter)), (Some(moved), 0));
}

#[test]
fn a_removal_that_ended_early_leaves_a_table_to_be_removed() {
    let [mut filter, mut route, mut broken] = sockets();
    let keeper = Keeper::new(&mut filter, "test", false).unwrap();
    apply(&mut filter, &mut route, &keeper, &state(), &Guards::default()).unwrap();
    for _ in 0..2 {
        remove(&mut filter, &mut broken, &keeper).unwrap_err();
        // Not none, which says that there is nothing to remove.
        let left = current(&mut filter, &keeper).unwrap().state;
        assert_eq!((left, stale(&mut filter)), (Some(FirewallState::default()), 3));
    }
    remove(&mut filter, &mut route, &keeper).unwrap();
    assert!(read(&mut filter).unwrap().table.is_none());
}

/// A port of three instances on any address, and one of two on a single one.
fn replicated() -> FirewallState {
    let mut state = state();
    let (any, mut bound) = (state.ports[0].clone(), state.ports[0].clone());
    bound.host_ip = Some("192.0.2.1".parse().unwrap());
    bound.protocol = Protocol::Udp;
    let number = |rule: &PortRule, n: u8| PortRule {
        container: if n == 1 {
            "web".to_owned()
        } else {
            format!("web-{n}")
        }
        .parse()
        .unwrap(),
        service: Some("web".parse().unwrap()),
        host_port: 9000,
        target_ip: [10, 88, 1, 20 + n].into(),
        ..rule.clone()
    };
    state.ports.extend((1..=3).map(|n| number(&any, n)));
    state.ports.extend((1..=2).map(|n| number(&bound, n)));
    state.sorted()
}

#[test]
fn slots_as_text() {
    let table = render(&replicated(), &make(false), &Elements::new());
    let slots = table.sets.iter().filter(|s| s.name.ends_with("_slots"));
    let text: Vec<String> = slots.map(ToString::to_string).collect();
    insta::assert_snapshot!(text.concat());
}

#[test]
fn slots_say_their_state() {
    assert_eq!(elements::read(&elements_of(&replicated())), Some(replicated()));
    assert_eq!(elements::salvage(&elements_of(&replicated())), replicated());
    elements::check(&replicated()).unwrap();
}

#[test]
fn a_port_is_shared_within_one_service_alone() {
    let bad = |change: fn(&mut PortRule)| {
        let mut state = replicated();
        let found = state.ports.iter_mut().find(|p| p.container.as_str() == "web-3");
        change(found.unwrap());
        elements::check(&state).unwrap_err().to_string()
    };
    insta::assert_snapshot!(bad(|p| p.service = None), @"container web-3, port 9000/tcp: container web has the same host port");
    insta::assert_snapshot!(bad(|p| p.service = Some("db".parse().unwrap())), @"container web-3, port 9000/tcp: it is no instance of db");
    insta::assert_snapshot!(bad(|p| p.container = "web-2".parse().unwrap()), @"container web-2, port 9000/tcp: container web-2 has the same host port");
    insta::assert_snapshot!(bad(|p| p.target_ip = "10.88.1.21".parse().unwrap()), @"container web-3, port 9000/tcp: container web has the same host port");
    insta::assert_snapshot!(bad(|p| p.allow = vec!["10.0.0.0/8".parse().unwrap()]), @"container web-3, port 9000/tcp: `allow` differs from that of container web");
}

#[test]
fn a_missing_slot_is_seen_and_only_it_is_put_back() {
    let [mut filter, mut route, _] = sockets();
    let keeper = Keeper::new(&mut filter, "test", false).unwrap();
    apply(
        &mut filter,
        &mut route,
        &keeper,
        &replicated(),
        &Guards::default(),
    )
    .unwrap();
    assert_eq!(current(&mut filter, &keeper).unwrap().state, Some(replicated()));
    let whole = read(&mut filter).unwrap().table.unwrap().elements;
    let mut less = whole.clone();
    less.get_mut(set::ANY_SLOTS).unwrap().pop_first().unwrap();
    let again = render(&replicated(), &make(false), &less);
    let slots = again.sets.iter().find(|s| s.name == set::ANY_SLOTS).unwrap();
    assert_eq!(slots.elements, whole[set::ANY_SLOTS]);
}

/// The same host, the containers of one network kept apart but for links.
fn kept_apart() -> FirewallState {
    let mut state = dual();
    let front = state.bridges.iter_mut().find(|b| b.bridge == "wh-front").unwrap();
    front.isolated = true;
    let link = |from: &str, to: &str, protocol| LinkRule {
        bridge: "wh-front".to_owned(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        protocol,
        port: 5432,
    };
    state.links = vec![
        link("10.88.1.5", "10.88.1.6", Protocol::Tcp),
        link("10.88.1.5", "10.88.1.6", Protocol::Udp),
        link("fd00:88:1::5", "fd00:88:1::6", Protocol::Tcp),
    ];
    state.sorted()
}

#[test]
fn isolation_says_its_state() {
    let sets = render(&kept_apart(), &make(false), &Elements::new())
        .sets
        .into_iter();
    let whole: Elements = sets.map(|set| (set.name.to_owned(), set.elements)).collect();
    assert_eq!(elements::read(&whole), Some(kept_apart()));
    assert_eq!(elements::salvage(&whole), kept_apart());
    elements::check(&kept_apart()).unwrap();
    // Of a bridge that is none of them any more nothing is left but itself.
    let mut less = whole;
    less.get_mut("isolated").unwrap().clear();
    let mut open = kept_apart();
    open.links.clear();
    open.bridges.iter_mut().for_each(|bridge| bridge.isolated = false);
    assert_eq!(elements::salvage(&less), open);
}

/// Hosts without such networks have no rule more for them.
#[test]
fn isolation_comes_with_the_first_network_that_asks_for_it() {
    let [with, without] = [kept_apart(), dual()].map(|state| render(&state, &make(false), &Elements::new()));
    let rules = |table: &Table| table.chains.iter().map(|chain| chain.rules.len()).sum::<usize>();
    assert_eq!(
        rules(&with),
        rules(&without) + 5,
        "two families of links, the rest, two kinds of redirects"
    );
    assert!(without.sets.iter().all(|set| !set.name.starts_with("links")));
}
