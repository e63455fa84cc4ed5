//! What agent and name server say to each other, in the frames of [`crate::apart`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use model::dns::DnsState;
use model::name::{ContainerId, Name};
use serde::{Deserialize, Serialize};

use crate::apart::{Process, Role};

/// Open files: queries in flight, connections, two for each gateway, three for each container that asks inside.
pub const ROLE: Role = Role {
    command: "dns",
    called: "the name server",
    protocol: 4,
    open_files: 16_384,
};

/// Where it listens: with a UDP and a TCP socket, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Both are bound to that address and port.
    Gateway { ip: IpAddr, port: u16 },
    /// Both are of the network namespace of that container, and only what is in there reaches them. Behind them comes a
    /// descriptor of the process that keeps the namespace: with its end they are closed, which would keep it as well.
    Inside { id: ContainerId },
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
    /// Containers that it listens in, by the process that keeps their network namespace.
    #[serde(default)]
    pub inside: Inside,
}

/// By container.
pub type Inside = BTreeMap<ContainerId, Process>;

/// Of all networks.
pub fn gateways(state: &DnsState) -> impl Iterator<Item = IpAddr> {
    state.networks.values().flat_map(|n| &n.gateways).copied()
}
