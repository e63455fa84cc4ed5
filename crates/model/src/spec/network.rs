//! `[network.NAME]`, `[volume.NAME]` and `[image.NAME]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::image::ImageSource;

/// A network table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub driver: NetworkDriver,
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
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            driver: NetworkDriver::Bridge,
            subnet: None,
            gateway: None,
            range: None,
            internal: false,
            icc: true,
            mtu: None,
            masquerade: true,
            bridge: None,
            dns: true,
        }
    }
}

/// `driver` of a network. Only bridges are built; the others are known so that their rules can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    Bridge,
    Macvlan,
    Ipvlan,
    Overlay,
    Ovs,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// `pull = "…"`; none where the table builds.
    pub pull: Option<ImageSource>,
}
