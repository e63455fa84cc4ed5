//! The firewall's whole desired content, as one comparable value.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One bridge the table speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirewallBridge {
    pub bridge: String,
    pub subnet: Ipv4Net,
    /// Packets of the subnet that leave by another device get the host's address.
    pub masquerade: bool,
    /// Nothing of it is forwarded to or from other devices.
    pub internal: bool,
    /// Where the name server listens on the gateway instead of on port 53, which somebody else has: what is asked
    /// there is led here.
    #[serde(default)]
    pub dns_port: Option<u16>,
}

/// One published port, leading to one container. Rules that share protocol, address and port are of one service: each
/// new connection goes to one of their targets. They have one list of who is let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRule {
    pub protocol: Protocol,
    /// None: every address of the host (local by `fib daddr type local`).
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub target_ip: Ipv4Addr,
    pub target_port: u16,
    /// The bridge the target is behind.
    pub bridge: String,
    /// Sources let in, sorted, each once; empty: everybody. The host's own processes are always let in.
    pub allow: Vec<Ipv4Net>,
    /// For messages only.
    pub container: Name,
    /// The replicated service it is an instance of; none where it stands alone.
    #[serde(default)]
    pub service: Option<Name>,
}

/// Targets of one port at most: it has that many slots, and each target at least one of them.
pub const MOST_TARGETS: usize = 64;

impl PortRule {
    /// Whose port it is: the service's, or the container's where that stands alone.
    pub fn holder(&self) -> &Name {
        self.service.as_ref().unwrap_or(&self.container)
    }
}

/// All of it, sorted. Two equal values render to the same table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallState {
    pub bridges: Vec<FirewallBridge>,
    pub ports: Vec<PortRule>,
}

impl FirewallState {
    /// The same content in canonical order.
    pub fn sorted(mut self) -> Self {
        self.bridges.sort();
        for port in &mut self.ports {
            port.allow.sort();
            port.allow.dedup();
        }
        self.ports.sort();
        self
    }
}
