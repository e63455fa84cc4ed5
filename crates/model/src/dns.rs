//! The names containers resolve, as one comparable value: what `wharf dns` is given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::Name;

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
