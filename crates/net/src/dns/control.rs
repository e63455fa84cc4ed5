//! What agent and name server say to each other, in the frames of [`crate::apart`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use model::dns::DnsState;
use model::name::Name;
use serde::{Deserialize, Serialize};

use crate::apart::Role;

/// Open files: queries in flight, connections, two for each network.
pub const ROLE: Role = Role {
    command: "dns",
    called: "the name server",
    protocol: 3,
    open_files: 4096,
};

/// Where it listens: with a UDP and a TCP socket, in this order, both bound to that gateway and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub gateway: IpAddr,
    pub port: u16,
}

/// All a server knows. It listens at the gateways of these networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub state: DnsState,
    /// Whom it asks for other names.
    pub upstreams: Vec<SocketAddr>,
}

/// What the agent writes down of what it gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub given: Given,
    /// Networks whose server listens on another port than 53.
    pub ports: BTreeMap<Name, u16>,
}

/// Of all networks.
pub fn gateways(state: &DnsState) -> impl Iterator<Item = IpAddr> {
    state.networks.values().flat_map(|n| &n.gateways).copied()
}
