//! Tunnels that are not encrypted are for their peers alone: what anybody else sends them is dropped.
//!
//! By UDP port and VNI together: others may have virtual networks of their own at the same port. What is forwarded to
//! another host is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::firewall::{FirewallState, TunnelRule};

use super::elements::{Elements, plain, port_number};
use super::expr::{Base, Expr, Meta};
use super::phrase::{destination_port, drop, ipv4, is_in, is_not_in, load, protocol, source, transport};
use super::render::{UDP, rule};
use super::table::{Chain, Element, Field, Hook, Rule, Set};
use crate::error::NetError;

/// Names of the sets.
mod set {
    /// port . VNI
    pub const TUNNELS: &str = "tunnels";
    /// port . VNI . address
    pub const PEERS: &str = "tunnel_peers";
    pub const PEERS6: &str = "tunnel_peers6";
}

const FILTER: i32 = 0;
const LARGEST_VNI: u32 = (1 << 24) - 1;
/// Bytes of a key of [`set::TUNNELS`].
const KEY: usize = 8;
/// Of the VNI behind the beginning of the UDP header: that has eight bytes, and before the VNI are flags (RFC 7348).
const VNI_AT: u32 = 12;

/// Everything that can be seen to be wrong before anything is touched.
pub fn check(state: &FirewallState) -> Result<(), NetError> {
    let mut seen = BTreeSet::new();
    for tunnel in &state.tunnels {
        let what = format!("VXLAN {} at port {}", tunnel.vni, tunnel.port);
        if tunnel.vni > LARGEST_VNI || tunnel.port == 0 {
            return Err(NetError::invalid(what, "there is no such tunnel"));
        }
        if !seen.insert((tunnel.port, tunnel.vni)) {
            return Err(NetError::invalid(what, "it is there twice"));
        }
    }
    Ok(())
}

/// The sets; none where there are no tunnels.
pub fn sets(state: &FirewallState) -> Vec<Set> {
    use Field::{Ipv4, Ipv6, UdpPort, Vni};
    if state.tunnels.is_empty() {
        return Vec::new();
    }
    let peers = |v4: bool| -> BTreeSet<Element> {
        let of = |tunnel: &TunnelRule| -> Vec<Element> {
            let family = tunnel.peers.iter().filter(|peer| peer.is_ipv4() == v4);
            family
                .map(|peer| plain([key(tunnel), octets(*peer)].concat()))
                .collect()
        };
        state.tunnels.iter().flat_map(of).collect()
    };
    vec![
        Set::of(
            set::TUNNELS,
            &[UdpPort, Vni],
            state.tunnels.iter().map(|t| plain(key(t))).collect(),
        ),
        Set::of(set::PEERS, &[UdpPort, Vni, Ipv4], peers(true)),
        Set::of(set::PEERS6, &[UdpPort, Vni, Ipv6], peers(false)),
    ]
}

/// The chain; none where there are no tunnels.
pub fn chain(state: &FirewallState) -> Option<Chain> {
    (!state.tunnels.is_empty()).then(|| Chain {
        name: "tunnels",
        kind: "filter",
        hook: Hook::Input,
        priority: FILTER,
        rules: rules(),
    })
}

fn rules() -> Vec<Rule> {
    let of_ours = || {
        let vni = transport(VNI_AT, 3, 1);
        vec![destination_port(0), vni, is_in(set::TUNNELS)]
    };
    vec![
        rule(
            "a tunnel takes what its peers send",
            [
                ipv4(),
                protocol(UDP),
                of_ours(),
                vec![source(2), is_not_in(set::PEERS)],
                drop(),
            ],
        ),
        rule(
            "the same over IPv6",
            [
                ipv6(),
                protocol(UDP),
                of_ours(),
                vec![source6(2), is_not_in(set::PEERS6)],
                drop(),
            ],
        ),
    ]
}

fn ipv6() -> Vec<Expr> {
    const IPV6: u8 = 10;
    let is = Expr::Equal {
        reg: 0,
        value: vec![IPV6],
    };
    vec![load(Meta::Nfproto, 0), is]
}

fn source6(to: u8) -> Expr {
    Expr::Payload {
        base: Base::Network,
        offset: 8,
        len: 16,
        to,
    }
}

fn key(tunnel: &TunnelRule) -> Vec<u8> {
    // The three lower bytes, and one that fills the field.
    let vni = (tunnel.vni << 8).to_be_bytes();
    [port_number(tunnel.port), vni.to_vec()].concat()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The tunnels these elements say; those of which something is not ours are none.
pub fn read(elements: &Elements) -> impl Iterator<Item = Option<TunnelRule>> + use<> {
    let of = |name: &str| elements.get(name).into_iter().flatten();
    let mut tunnels: BTreeMap<Vec<u8>, Option<TunnelRule>> = of(set::TUNNELS)
        .map(|e| (e.key.clone(), read_key(&e.key)))
        .collect();
    for element in of(set::PEERS).chain(of(set::PEERS6)) {
        let peer = element.key.get(KEY..).and_then(address);
        let key = element.key.get(..KEY).unwrap_or(&[]);
        match (tunnels.get_mut(key), peer) {
            (Some(Some(tunnel)), Some(peer)) => tunnel.peers.push(peer),
            (Some(_), _) => {}
            (None, _) => {
                tunnels.insert(key.to_vec(), None);
            }
        }
    }
    tunnels.into_values()
}

fn read_key(key: &[u8]) -> Option<TunnelRule> {
    let [a, b, 0, 0, c, d, e, 0] = *key else {
        return None;
    };
    Some(TunnelRule {
        port: u16::from_be_bytes([a, b]),
        vni: u32::from_be_bytes([0, c, d, e]),
        peers: Vec::new(),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_read_back_from_their_elements() {
        let tunnel = |vni: u32, peers: &[&str]| TunnelRule {
            port: 4789,
            vni,
            peers: peers.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let state = FirewallState {
            tunnels: vec![
                tunnel(42, &["192.0.2.2", "192.0.2.3"]),
                tunnel(LARGEST_VNI, &["2001:db8::1"]),
                tunnel(7, &[]),
            ],
            ..FirewallState::default()
        }
        .sorted();
        let elements: Elements = sets(&state)
            .into_iter()
            .map(|set| (set.name.to_owned(), set.elements))
            .collect();
        let read = FirewallState {
            tunnels: read(&elements).collect::<Option<_>>().unwrap(),
            ..FirewallState::default()
        };
        assert_eq!(read.sorted(), state);
        let mut foreign = elements;
        let lost = foreign.insert(set::TUNNELS.to_owned(), BTreeSet::new());
        assert!(lost.is_some() && super::read(&foreign).any(|tunnel| tunnel.is_none()));
    }
}
