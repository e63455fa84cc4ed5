//! Published ports, and who can reach each; what others' firewalls say to that.

use std::net::{IpAddr, Ipv6Addr};

use model::firewall::{Backend, PortRule};
use model::ledger::Accepted;
use model::name::Name;
use model::observed::ForeignDrop;
use model::status::PortStatus;

use super::View;

impl View<'_> {
    pub(super) fn ports(&self, accepted: &Accepted) -> Vec<PortStatus> {
        accepted.ports.iter().map(|rule| self.port(rule)).collect()
    }

    fn port(&self, rule: &PortRule) -> PortStatus {
        let backend = &self.input.observed.backend;
        let open_to = match rule {
            _ if backend.kind == Backend::None && !is_relayed(rule) => "nobody",
            _ if self.is_of_this_host(rule) || backend.kind == Backend::None => "host",
            PortRule { allow, .. } if allow.is_empty() => "everybody",
            _ => "sources",
        };
        let closed = |drop: &&ForeignDrop| drop.ports && drop.bridges.iter().any(|b| **b == *rule.bridge);
        let mut drops = self.input.observed.foreign_drops.iter();
        PortStatus {
            ip: rule.at().to_string(),
            host: rule.host_port,
            container: rule.target_port,
            protocol: rule.protocol.to_string(),
            allow: rule.allow.iter().map(ToString::to_string).collect(),
            open_to: open_to.to_owned(),
            // What comes from this host itself is not forwarded.
            closed_by: drops
                .find(|drop| is_open(open_to) && closed(drop))
                .map(|drop| drop.by.clone()),
            unjudged: backend.unjudged.clone().filter(|_| is_open(open_to)),
        }
    }

    /// On a loopback address, or of a container that is on networks without a way out.
    fn is_of_this_host(&self, rule: &PortRule) -> bool {
        let networks = &mut self.input.ledger.networks.values();
        rule.host_ip.is_some_and(|ip| ip.is_loopback())
            || networks.any(|n| n.network.bridge == *rule.bridge && n.network.internal)
    }

    /// A foreign firewall in the way is not ours to change: the networks behind it say so.
    pub(super) fn foreign_drops(&self, network: &Name) -> Option<String> {
        let bridge = &self.input.ledger.networks.get(network)?.network.bridge;
        let drops = self.input.observed.foreign_drops.iter();
        let told = drops.filter(|drop| drop.bridges.contains(bridge));
        let told: Vec<&str> = told.map(|drop| drop.told.as_str()).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// For others than this host.
fn is_open(open_to: &str) -> bool {
    !matches!(open_to, "host" | "nobody")
}

/// At an address, among others, that is served by a process, whatever the firewall is.
fn is_relayed(rule: &PortRule) -> bool {
    rule.is_relayed() || rule.at() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}
