//! The names containers resolve, as one comparable value: what `wharf dns` is given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{ContainerId, Name};

/// Where a container that can reach no gateway of ours asks for names: in its own network namespace, as Docker has it.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// All of it. Two equal values answer alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsState {
    /// Networks with `dns = true`, by name: the server listens on the gateways of each.
    pub networks: BTreeMap<Name, DnsNetwork>,
    /// Containers by name. A query is answered for the container whose address it comes from: it sees the names on
    /// every network that it is on itself.
    pub containers: BTreeMap<Name, DnsContainer>,
    /// Servers asked for all other names, in this order; empty: those of the host's resolv.conf.
    pub upstreams: Vec<IpAddr>,
    /// Addresses of containers whose name does not lead to them, one on trial or one that drains, and the networks whose
    /// names they see.
    #[serde(default)]
    pub guests: BTreeMap<IpAddr, BTreeSet<Name>>,
    /// Containers that the server is asked by at [`INSIDE`], each in its own network namespace as long as it has one; and
    /// the address each of them is known by then.
    #[serde(default)]
    pub inside: BTreeMap<ContainerId, IpAddr>,
}

/// One network the server listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsNetwork {
    /// The host's addresses in it, IPv4 first. Names are asked there.
    pub gateways: Vec<IpAddr>,
    pub subnets: Vec<IpNet>,
    /// The bridge device, for messages.
    pub bridge: String,
    /// Nothing is forwarded for a container that is on internal networks only.
    pub internal: bool,
    /// Names of containers on other hosts, in lower case. A container of this host goes before one of these.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
}

/// One container's places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsContainer {
    pub endpoints: BTreeMap<Name, DnsEndpoint>,
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEndpoint {
    /// Its addresses there, IPv4 first. It is known by each of them when it asks.
    pub ips: Vec<IpAddr>,
    /// Names it answers to on that network: its own first, then its aliases. The first is what a reverse lookup gives.
    pub names: Vec<String>,
}
