//! What has to get past the rules of others, in the table `filter`: no more than [`super::drops`] lets through.

use model::firewall::{FirewallBridge, Protocol};

use super::ports::{subnet, to_port};
use crate::firewall::family::Family;
use crate::firewall::passage::names_port;

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

/// Of containers to their gateway.
pub fn questions(bridges: &[FirewallBridge], f: Family) -> Vec<String> {
    let of = |b: &FirewallBridge| {
        let subnet = subnet(b, f)?;
        let one = |protocol| {
            let port = to_port(None, protocol, names_port(b));
            format!("-i {} -d {subnet} {port} -j ACCEPT", b.bridge)
        };
        Some([Protocol::Udp, Protocol::Tcp].map(one))
    };
    bridges.iter().filter_map(of).flatten().collect()
}
