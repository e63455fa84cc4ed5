//! The firewall's whole desired content, as one comparable value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::families::Families;
use crate::name::Name;
use crate::network::HostNetwork;

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

/// What published ports, masquerading and isolation are made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Nftables,
    Iptables,
    /// Nothing: whoever runs the host does it himself.
    None,
}

impl Backend {
    /// As the settings and `wharf status` have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::None => "none",
        }
    }
}

/// One bridge the table speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirewallBridge {
    pub bridge: String,
    #[serde(flatten)]
    pub ip: Families<Routed<Ipv4Net>, Routed<Ipv6Net>>,
    /// Nothing of it is forwarded to or from other devices.
    pub internal: bool,
    /// Where the name server listens on the gateway instead of on port 53, which somebody else has: what is asked
    /// there is led here.
    #[serde(default)]
    pub dns_port: Option<u16>,
    /// Its ports are isolated from each other: containers reach each other by [`FirewallState::links`] alone.
    #[serde(default)]
    pub isolated: bool,
}

/// A subnet that the host is the gateway of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Routed<N> {
    pub subnet: N,
    /// Packets of the subnet that leave by another device get the host's address.
    pub masquerade: bool,
}

impl FirewallBridge {
    /// Of a network. `dns_port`: see the field.
    pub fn of(network: &HostNetwork, dns_port: Option<u16>) -> Self {
        Self {
            bridge: network.bridge.clone(),
            ip: network.ip.map(
                |v4| Routed {
                    subnet: v4.subnet.trunc(),
                    masquerade: v4.masquerade,
                },
                |v6| Routed {
                    subnet: v6.subnet.trunc(),
                    masquerade: v6.masquerade,
                },
            ),
            internal: network.internal,
            dns_port,
            isolated: network.isolated,
        }
    }

    /// Its subnets, IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.ip.each(|v4| IpNet::V4(v4.subnet), |v6| IpNet::V6(v6.subnet))
    }
}

/// A way between two containers of a network whose containers do not reach each other otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkRule {
    pub bridge: String,
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Who may send to a tunnel that is not encrypted. Packets of the same kind for other virtual networks are nobody's
/// business here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelRule {
    /// UDP port of VXLAN (RFC 7348).
    pub port: u16,
    pub vni: u32,
    /// Sorted; what comes from any other address is dropped.
    pub peers: Vec<IpAddr>,
}

/// What another host sends this one for a network that both are on. Filters of others are to let it in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerRule {
    /// The network's, for messages.
    pub bridge: String,
    pub peer: IpAddr,
    pub carrier: Carrier,
}

/// How frames of a network travel between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// VXLAN, Geneve, WireGuard: to that port.
    Udp {
        port: u16,
    },
    Gre,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp { port } => write!(f, "UDP port {port}"),
            Self::Gre => f.write_str("GRE"),
        }
    }
}

/// One published port, leading to one container. Rules that share protocol, address and port are of one service: each
/// new connection goes to one of their targets. They have one list of who is let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRule {
    pub protocol: Protocol,
    /// None: every address of the host that is of the target's family (local by `fib daddr type local`). Else an address
    /// of that family, or of either where it [is relayed](Self::is_relayed).
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub target_ip: IpAddr,
    pub target_port: u16,
    /// The bridge the target is behind. Copies share the text.
    #[serde(with = "crate::shared::text")]
    pub bridge: Arc<str>,
    /// Sources of either family let in, sorted, each once; empty: everybody. The host's own processes are always let in.
    /// One that names sources of the other family alone is for nobody.
    pub allow: Vec<IpNet>,
    /// For messages only.
    pub container: Name,
    /// The replicated service it is an instance of; none where it stands alone.
    #[serde(default)]
    pub service: Option<Name>,
}

/// Targets of one port at most: it has that many slots, and each target at least one of them.
pub const MOST_TARGETS: usize = 64;

impl PortRule {
    /// What no two rules have in common but those of one service, in the order that rules are sorted by.
    pub fn place(&self) -> (Protocol, Option<IpAddr>, u16) {
        (self.protocol, self.host_ip, self.host_port)
    }

    /// Where it is asked for; `0.0.0.0` or `::` for every address of the host that is of the target's family.
    pub fn at(&self) -> IpAddr {
        self.host_ip.unwrap_or(match self.target_ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        })
    }

    /// At an address of this host alone that no packet filter translates to its target: `::1`, and those of 127.0.0.0/8
    /// where the target has no IPv4. A process of ours serves it.
    pub fn is_relayed(&self) -> bool {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => ip == Ipv6Addr::LOCALHOST,
            Some(IpAddr::V4(ip)) => ip.is_loopback() && self.target_ip.is_ipv6(),
            None => false,
        }
    }

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
    #[serde(default)]
    pub links: Vec<LinkRule>,
    #[serde(default)]
    pub tunnels: Vec<TunnelRule>,
    /// Addresses of the host in networks, at whose port 53 the name server listens: no port that is published on every
    /// address is at these.
    #[serde(default)]
    pub names: Vec<IpAddr>,
    #[serde(default)]
    pub peers: Vec<PeerRule>,
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
        self.links.sort();
        self.links.dedup();
        for tunnel in &mut self.tunnels {
            tunnel.peers.sort();
            tunnel.peers.dedup();
        }
        self.tunnels.sort();
        self.names.sort();
        self.names.dedup();
        self.peers.sort();
        self.peers.dedup();
        self
    }
}
