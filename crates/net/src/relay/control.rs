//! What agent and relay say to each other, in the frames of [`crate::apart`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use model::firewall::{PortRule, Protocol};
use serde::{Deserialize, Serialize};

use crate::apart::Role;

/// Open files: two for each connection, one for each port and for whoever sends datagrams.
pub const ROLE: Role = Role {
    command: "relay",
    called: "the relay for loopback addresses",
    protocol: 3,
    open_files: 16_384,
};

/// A port of a loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    pub protocol: Protocol,
    pub ip: IpAddr,
    pub number: u16,
}

/// Where it listens: with one socket that is bound to that port and has this inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub port: Port,
    pub inode: u64,
}

/// A port and where it leads: a new connection to one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub port: Port,
    pub targets: Vec<SocketAddr>,
}

/// What is served of these rules: of ports that are not the firewall's, and on `[::1]`, where it has none of those, of the
/// one on all IPv6 addresses.
pub fn served(rules: &[PortRule]) -> Vec<Served> {
    let mut all: Vec<Served> = Vec::new();
    let bound = rules.iter().filter(|rule| rule.is_relayed());
    let any = rules.iter().filter(|rule| {
        let same = |other: &PortRule| other.is_relayed() && port(other) == port(rule);
        rule.host_ip.is_none() && rule.target_ip.is_ipv6() && !rules.iter().any(same)
    });
    for rule in bound.chain(any) {
        let target = SocketAddr::new(rule.target_ip, rule.target_port);
        match all.iter_mut().find(|served| served.port == port(rule)) {
            Some(served) => served.targets.push(target),
            None => all.push(Served {
                port: port(rule),
                targets: vec![target],
            }),
        }
    }
    all.sort_by_key(|served| served.port);
    all
}

fn port(rule: &PortRule) -> Port {
    Port {
        protocol: rule.protocol,
        ip: rule.host_ip.unwrap_or(Ipv6Addr::LOCALHOST.into()),
        number: rule.host_port,
    }
}
