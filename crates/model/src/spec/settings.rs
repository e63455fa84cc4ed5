//! `wharf.toml`: the agent's settings.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

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
        }
    }
}

/// `[firewall] backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallChoice {
    Auto,
    Nftables,
}
