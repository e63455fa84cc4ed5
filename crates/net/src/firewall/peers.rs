//! What peers of a network send to this host, which is to come past the filters of others. Our own table drops none of it,
//! so no rule of ours looks at these sets: they say what ways of ours there are through the chains of iptables
//! ([`super::passage`]), and what is asked of others ([`super::judge`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::firewall::{Carrier, FirewallState, PeerRule};

use super::allow::address_of;
use super::elements::{Elements, device, octets, plain, port_number};
use super::render::UDP;
use super::table::{Element, Field, Set};
use crate::error::NetError;

/// Generic routing encapsulation (RFC 2784).
pub const GRE: u8 = 47;

/// Names of the sets.
mod set {
    /// bridge . protocol . port . address
    pub const PEERS: &str = "peers";
    pub const PEERS6: &str = "peers6";
}

/// Its number among the protocols of IP, and of UDP the port.
pub fn protocol_and_port(carrier: Carrier) -> (u8, Option<u16>) {
    match carrier {
        Carrier::Udp { port } => (UDP, Some(port)),
        Carrier::Gre => (GRE, None),
    }
}

/// Everything that can be seen to be wrong before anything is touched.
pub fn check(state: &FirewallState) -> Result<(), NetError> {
    let wrong = |rule: &&PeerRule| rule.carrier == Carrier::Udp { port: 0 } || rule.peer.is_unspecified();
    match state.peers.iter().find(wrong) {
        Some(rule) => {
            let what = format!("peer {} of {}", rule.peer, rule.bridge);
            Err(NetError::invalid(what, "nobody sends anything from there"))
        }
        None => Ok(()),
    }
}

/// The sets; none where there are no peers.
pub fn sets(state: &FirewallState) -> Vec<Set> {
    use Field::{Device, Ipv4, Ipv6, Port, Protocol};
    if state.peers.is_empty() {
        return Vec::new();
    }
    let of = |v4: bool| -> BTreeSet<Element> {
        let own = state.peers.iter().filter(|rule| rule.peer.is_ipv4() == v4);
        own.map(|rule| plain(key_of(rule))).collect()
    };
    vec![
        Set::of(set::PEERS, &[Device, Protocol, Port, Ipv4], of(true)),
        Set::of(set::PEERS6, &[Device, Protocol, Port, Ipv6], of(false)),
    ]
}

fn key_of(rule: &PeerRule) -> Vec<u8> {
    let (protocol, port) = protocol_and_port(rule.carrier);
    [
        device(&rule.bridge),
        vec![protocol, 0, 0, 0],
        port_number(port.unwrap_or(0)),
        octets(rule.peer),
    ]
    .concat()
}

/// The peers these elements say; one that is not ours is none.
pub fn read(elements: &Elements) -> impl Iterator<Item = Option<PeerRule>> + '_ {
    let of = |name: &str| elements.get(name).into_iter().flatten();
    of(set::PEERS).chain(of(set::PEERS6)).map(|e| read_key(&e.key))
}

fn read_key(key: &[u8]) -> Option<PeerRule> {
    let (name, rest) = key.split_at_checked(Field::Device.len() as usize)?;
    let ([protocol, 0, 0, 0, a, b, 0, 0], peer) = rest.split_first_chunk()? else {
        return None;
    };
    let carrier = match (*protocol, u16::from_be_bytes([*a, *b])) {
        (UDP, port) => Carrier::Udp { port },
        (GRE, 0) => Carrier::Gre,
        _ => return None,
    };
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some(PeerRule {
        bridge: name.trim_end_matches('\0').to_owned(),
        peer: address_of(peer)?,
        carrier,
    })
}

/// Who sends what, each once: networks may have peers in common.
pub fn senders(state: &FirewallState, v4: bool) -> BTreeSet<(IpAddr, Carrier)> {
    let own = state.peers.iter().filter(|rule| rule.peer.is_ipv4() == v4);
    own.map(|rule| (rule.peer, rule.carrier)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_back_from_their_elements() {
        let peer = |bridge: &str, peer: &str, carrier| PeerRule {
            bridge: bridge.to_owned(),
            peer: peer.parse().unwrap(),
            carrier,
        };
        let state = FirewallState {
            peers: vec![
                peer("wh-a", "192.0.2.2", Carrier::Udp { port: 4789 }),
                peer("wh-a", "2001:db8::2", Carrier::Udp { port: 51820 }),
                peer("wh-interface-15", "192.0.2.2", Carrier::Gre),
            ],
            ..FirewallState::default()
        }
        .sorted();
        let elements: Elements = sets(&state)
            .into_iter()
            .map(|set| (set.name.to_owned(), set.elements))
            .collect();
        let read: Option<Vec<PeerRule>> = read(&elements).collect();
        let read = FirewallState {
            peers: read.unwrap(),
            ..FirewallState::default()
        };
        assert_eq!(read.sorted(), state);
        assert_eq!(senders(&state, true).len(), 2);
    }
}
