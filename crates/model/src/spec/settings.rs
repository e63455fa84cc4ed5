//! `wharf.toml`: the agent's settings.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::EtcdUrl;

/// All settings with their defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a table must be gone before what it made is removed.
    pub removal_grace: Duration,
    /// The longest time between two looks at everything.
    pub full_pass: Duration,
    /// Where a port without an address is published.
    pub default_host_ip: Ipv4Addr,
    /// Subnets of networks without one are /24s of these.
    pub pool: Vec<Ipv4Net>,
    pub firewall: FirewallChoice,
    /// `[agent] registries.search`: where an image without a registry is looked for.
    pub search: Vec<String>,
    pub pool6: Option<Ipv6Net>,
    /// `[dns] upstream`; empty: the host's resolv.conf.
    pub upstream: Vec<IpAddr>,
    /// By `HOST` or `HOST:PORT`.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// `[host] labels`.
    pub labels: BTreeMap<String, String>,
    /// `[gc] max_age`.
    pub gc_max_age: Duration,
    /// `[gc] keep_free`, percent of the file system.
    pub gc_keep_free: u8,
    pub cluster: Option<ClusterSettings>,
}

/// `[registry."HOST"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySettings {
    /// None: only on the loopback.
    pub insecure: Option<bool>,
    pub mirror_of: Option<String>,
    pub ca: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let pool = Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16);
        Self {
            removal_grace: Duration::from_secs(2),
            full_pass: Duration::from_secs(30),
            default_host_ip: Ipv4Addr::UNSPECIFIED,
            pool: vec![pool],
            firewall: FirewallChoice::Auto,
            search: vec!["docker.io".to_owned()],
            pool6: None,
            upstream: Vec::new(),
            registries: BTreeMap::new(),
            labels: BTreeMap::new(),
            gc_max_age: Duration::from_secs(168 * 3600),
            gc_keep_free: 10,
            cluster: None,
        }
    }
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Its members; at least one.
    pub etcd: Vec<EtcdUrl>,
    /// This host's address towards the others; none: found out.
    pub host: Option<IpAddr>,
    /// How long this host counts as there without being heard of.
    pub lease: Duration,
    /// A file of certificates, PEM; none: the system's.
    pub ca: Option<PathBuf>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            etcd: Vec::new(),
            host: None,
            lease: Duration::from_secs(300),
            ca: None,
        }
    }
}

/// `[firewall] backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallChoice {
    Auto,
    Nftables,
    Iptables,
    None,
}
