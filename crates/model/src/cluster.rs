//! What is known of the other hosts of networks that find each other by etcd.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::wireguard::PublicKey;

/// As etcd said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Why etcd is not heard now, and since when; what is below is as it was then.
    pub trouble: Option<String>,
    pub networks: BTreeMap<Name, ClusterNetwork>,
}

/// One network that is over several hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetwork {
    /// This host's address towards the others, as registered.
    pub address: Option<IpAddr>,
    /// The part of the subnet that is registered as this host's alone.
    pub range: Option<Ipv4Net>,
    /// Why this host is not registered, or not as its table asks for.
    pub refused: Option<String>,
    /// The others, by their ids.
    pub hosts: BTreeMap<String, ClusterHost>,
    /// What of etcd's entries is no host that could be reached, and why.
    pub left_out: Vec<String>,
}

/// Another host of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHost {
    /// What it calls itself.
    pub name: String,
    pub address: IpAddr,
    /// Where the network is encrypted.
    #[serde(default)]
    pub key: Option<PublicKey>,
    /// Its part of the subnet.
    pub range: Ipv4Net,
    /// Its containers there, by each of their names.
    pub names: BTreeMap<String, Vec<IpAddr>>,
}
