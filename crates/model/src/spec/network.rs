//! `[network.NAME]`, `[volume.NAME]`, `[image.NAME]`, `[config.NAME]` and `[secret.NAME]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::image::ImageSource;
use crate::name::Name;
use crate::wireguard::PublicKey;

/// A network table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub driver: NetworkDriver,
    /// It has IPv4; without it IPv6 alone.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// None: one is picked from the pool, and kept.
    pub subnet: Option<Ipv4Net>,
    /// None: the first address of the subnet.
    pub gateway: Option<Ipv4Addr>,
    pub range: Option<Ipv4Net>,
    pub internal: bool,
    pub icc: bool,
    pub mtu: Option<u32>,
    pub masquerade: bool,
    /// The device's name; none: derived from the network's.
    pub bridge: Option<String>,
    pub dns: bool,
    pub subnet6: Option<Ipv6Net>,
    pub gateway6: Option<Ipv6Addr>,
    pub range6: Option<Ipv6Net>,
    /// Pick a subnet6 where none is written.
    pub ipv6: bool,
    pub masquerade6: bool,
    /// Join a bridge that exists.
    pub adopt: bool,
    /// The host's device under a macvlan or ipvlan.
    pub parent: Option<String>,
    pub host_access: bool,
    pub overlay: Option<OverlaySpec>,
}

impl NetworkSpec {
    /// It has IPv6, beside IPv4 or alone.
    pub fn has_ipv6(&self) -> bool {
        self.subnet6.is_some() || self.ipv6 || !self.ipv4
    }

    /// It joins what was there before: see [`crate::network::HostNetwork::is_lan`].
    pub fn is_lan(&self) -> bool {
        self.adopt || matches!(self.driver, NetworkDriver::Macvlan | NetworkDriver::Ipvlan)
    }
}

fn yes() -> bool {
    true
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            driver: NetworkDriver::Bridge,
            ipv4: true,
            subnet: None,
            gateway: None,
            range: None,
            internal: false,
            icc: true,
            mtu: None,
            masquerade: true,
            bridge: None,
            dns: true,
            subnet6: None,
            gateway6: None,
            range6: None,
            ipv6: false,
            masquerade6: true,
            adopt: false,
            parent: None,
            host_access: false,
            overlay: None,
        }
    }
}

/// `driver` of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    Bridge,
    Macvlan,
    Ipvlan,
    Overlay,
    Ovs,
}

/// UDP port of VXLAN (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

/// `[network.NAME.overlay]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// `vxlan`, `gre`, `geneve`.
    pub tunnel: String,
    pub vni: Option<u32>,
    pub port: u16,
    pub local: Option<IpAddr>,
    pub peers: Vec<IpAddr>,
    pub peers_file: Option<PathBuf>,
    /// Neither of both is written: the other hosts are found by the settings' etcd.
    #[serde(default)]
    pub by_cluster: bool,
    /// Containers on other hosts.
    pub names: BTreeMap<Name, IpAddr>,
    /// `none`, `wireguard`.
    pub encryption: String,
    /// The hosts' keys for that, by their addresses.
    #[serde(default)]
    pub keys: BTreeMap<IpAddr, PublicKey>,
    /// `system`, `netdev`.
    pub datapath: String,
    pub vlan: u16,
}

impl OverlaySpec {
    pub fn is_encrypted(&self) -> bool {
        self.encryption == "wireguard"
    }

    /// UDP port of the tunnel itself: `port`, unless that is the port of what encrypts it.
    pub fn carried_port(&self) -> u16 {
        if self.is_encrypted() {
            VXLAN_PORT
        } else {
            self.port
        }
    }
}

impl Default for OverlaySpec {
    fn default() -> Self {
        Self {
            tunnel: "vxlan".to_owned(),
            vni: None,
            port: VXLAN_PORT,
            local: None,
            peers: Vec::new(),
            peers_file: None,
            by_cluster: false,
            names: BTreeMap::new(),
            encryption: "none".to_owned(),
            keys: BTreeMap::new(),
            datapath: "system".to_owned(),
            vlan: 0,
        }
    }
}

/// A volume table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub driver: VolumeDriver,
    pub device: Option<PathBuf>,
    pub options: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub keep: bool,
    pub exclusive: bool,
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self {
            driver: VolumeDriver::Local,
            device: None,
            options: Vec::new(),
            labels: BTreeMap::new(),
            keep: true,
            exclusive: false,
        }
    }
}

/// `driver` of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeDriver {
    Local,
    Bind,
    Tmpfs,
    Nfs,
}

/// An image table: pulled ahead of use, or built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// `pull = "…"`; none where the table builds.
    pub pull: Option<ImageSource>,
    pub build: Option<BuildSpec>,
    /// Registry references it is pushed to after a build.
    pub push: Vec<String>,
}

/// `build` of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    pub context: PathBuf,
    /// Relative to the context.
    pub dockerfile: String,
    /// None: the last stage.
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
}
