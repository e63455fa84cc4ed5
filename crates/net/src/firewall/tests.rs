//! The rendered table as text, and the way from state to elements and back.

use model::firewall::{FirewallBridge, FirewallState, PortRule, Protocol};

use super::elements::{self, Elements};
use super::render::render;

fn state() -> FirewallState {
    let bridge = |name: &str, subnet: &str, masquerade, internal| FirewallBridge {
        bridge: name.to_owned(),
        subnet: subnet.parse().unwrap(),
        masquerade,
        internal,
    };
    let port = |protocol, ip: Option<&str>, host_port, target: &str| PortRule {
        protocol,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        host_port,
        target_ip: target.parse().unwrap(),
        target_port: 80,
        bridge: "wh-front".to_owned(),
        allow: Vec::new(),
        container: "web".parse().unwrap(),
    };
    FirewallState {
        bridges: vec![
            bridge("wh-front", "10.88.1.0/24", true, false),
            bridge("wh-back", "10.88.2.0/24", false, true),
        ],
        ports: vec![
            port(Protocol::Tcp, None, 8080, "10.88.1.5"),
            port(Protocol::Udp, Some("127.0.0.1"), 53, "10.88.1.6"),
        ],
    }
    .sorted()
}

#[test]
fn the_table_as_text() {
    insta::assert_snapshot!(render(&state(), true));
}

#[test]
fn only_the_last_rule_comes_with_the_guard() {
    let (with, without) = (
        render(&state(), true).to_string(),
        render(&state(), false).to_string(),
    );
    assert_eq!(
        with.strip_prefix(&without).map(|rest| rest.lines().count()),
        Some(2)
    );
}

#[test]
fn rules_do_not_depend_on_the_state() {
    assert_eq!(
        render(&state(), false).chains,
        render(&FirewallState::default(), false).chains
    );
}

fn elements_of(state: &FirewallState) -> Elements {
    elements::sets(state)
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
