//! What has to get past the rules of others, in the table `filter`: no more than [`super::drops`] lets through.

use std::net::IpAddr;

use model::firewall::{Carrier, FirewallBridge, FirewallState, Protocol};

use super::ports::to_port;
use crate::firewall::family::Family;
use crate::firewall::passage::names_port;
use crate::firewall::peers;

/// Within one network; answers and published ports; the way out.
pub fn forwarded(bridges: &[FirewallBridge]) -> Vec<String> {
    let mut rules: Vec<String> = bridges
        .iter()
        .map(|b| format!("-i {0} -o {0} -j ACCEPT", b.bridge))
        .collect();
    for b in bridges {
        if !b.internal {
            let state = "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT";
            rules.push(format!("-o {} {state} -j ACCEPT", b.bridge));
        }
        rules.push(format!("-o {} -j RETURN", b.bridge));
    }
    let outward = bridges.iter().filter(|b| !b.internal);
    rules.extend(outward.map(|b| format!("-i {} -j ACCEPT", b.bridge)));
    rules
}

/// Of peers, for networks over several hosts.
pub fn sent(state: &FirewallState, f: Family) -> Vec<String> {
    let one = |(peer, carrier): (IpAddr, Carrier)| match carrier {
        Carrier::Udp { port } => format!("-s {peer} {} -j ACCEPT", to_port(None, Protocol::Udp, port)),
        Carrier::Gre => format!("-s {peer} -p {} -j ACCEPT", peers::GRE),
    };
    peers::senders(state, f == Family::V4)
        .into_iter()
        .map(one)
        .collect()
}

/// Of containers to their gateway.
pub fn questions(bridges: &[FirewallBridge], f: Family) -> Vec<String> {
    let of = |b: &FirewallBridge| {
        let subnet = f.subnet(b)?;
        let one = |protocol| {
            let port = to_port(None, protocol, names_port(b));
            format!("-i {} -d {subnet} {port} -j ACCEPT", b.bridge)
        };
        Some([Protocol::Udp, Protocol::Tcp].map(one))
    };
    bridges.iter().filter_map(of).flatten().collect()
}
