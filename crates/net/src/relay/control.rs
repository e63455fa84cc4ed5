//! What agent and relay say to each other, in the frames of [`crate::dns::control`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use model::firewall::{PortRule, Protocol};
use serde::{Deserialize, Serialize};

/// Changed with the meaning of these frames: a relay that speaks another one is replaced.
pub const PROTOCOL: u32 = 1;

/// A port on `[::1]`.
pub type Port = (Protocol, u16);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// What it is and where it listens.
    Hello,
    /// Listens on this socket from now on, which is bound to that port and has this inode.
    Listen { port: Port, inode: u64 },
    /// Serves from now on what the memfd says (a list of [`Served`]), and listens nowhere else.
    Give,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    Here {
        protocol: u32,
        version: String,
        ports: Vec<(Port, u64)>,
    },
    Done,
    Failed {
        why: String,
    },
}

/// A port and where it leads: a new connection to one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub port: Port,
    pub targets: Vec<SocketAddr>,
}

/// What is served of these rules: of a port on `[::1]` alone, else of the one on all IPv6 addresses.
pub fn served(rules: &[PortRule]) -> Vec<Served> {
    let mut all: Vec<Served> = Vec::new();
    let bound = rules.iter().filter(|rule| is_bound(rule));
    let any = rules.iter().filter(|rule| {
        let same = |other: &PortRule| is_bound(other) && port(other) == port(rule);
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

/// On `[::1]`: no rule of the firewall's.
pub fn is_bound(rule: &PortRule) -> bool {
    rule.host_ip == Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
}

fn port(rule: &PortRule) -> Port {
    (rule.protocol, rule.host_port)
}
