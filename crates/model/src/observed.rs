//! What is on the host, as far as it could be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::content::{ContentKey, ContentRecord};
use crate::damage::Damage;
use crate::dns::DnsState;
use crate::firewall::{Backend, FirewallState, Protocol};
use crate::health::HealthState;
use crate::image::Image;
use crate::name::{ContainerId, Name};
use crate::shared::Shared;
use crate::spec::VolumeSpec;
use crate::surroundings::Surroundings;
use crate::wireguard::PublicKey;

/// The result of a look. Unknown is never planned as absent: a failed look deletes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Look<T> {
    Known(T),
    /// Why it could not be seen.
    Unknown(String),
}

impl<T> Look<T> {
    /// The value, if it was seen.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

/// Everything the planner knows of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Images in the store whole, by [`crate::image::ImageSource::key`]. One whose source changed since (another file
    /// behind the same path) is not listed.
    pub images: Look<BTreeMap<String, Shared<Image>>>,
    /// Links of the host, by device name: ours, and foreign ones (which are never touched).
    pub links: Look<BTreeMap<String, ObservedLink>>,
    /// IPv4 addresses of devices that are not ours.
    pub foreign_addresses: Look<Vec<ForeignAddress>>,
    /// The same of IPv6.
    pub foreign_addresses6: Look<Vec<ForeignAddress6>>,
    /// `net.ipv4.ip_forward`.
    pub forwarding: Look<bool>,
    /// `net.ipv6.conf.all.forwarding`; false where the kernel has no IPv6.
    pub forwarding6: Look<bool>,
    /// Our table's content; none where there is no table or it was tampered with beyond reading.
    pub firewall: Look<Option<FirewallState>>,
    /// Something of our table is there, be it damaged: to be removed where nothing needs it.
    pub firewall_there: bool,
    /// What is wrong with it where it is there and its content is none.
    pub firewall_wrong: Option<String>,
    /// Foreign firewalls that keep traffic from our networks and that we have no hand in.
    pub foreign_drops: Vec<ForeignDrop>,
    /// What the firewall is made with.
    pub backend: BackendSeen,
    /// Sockets bound on the host by any process.
    pub listeners: Look<Vec<Listener>>,
    /// What the name server was last given; none where it does not run.
    pub dns: Look<Option<DnsState>>,
    /// Networks whose name server listens on another port than 53, which somebody else has.
    pub dns_ports: BTreeMap<Name, u16>,
    /// Containers in whose network namespace, as they have it now, the name server listens ([`DnsState::inside`]).
    pub dns_inside: BTreeSet<ContainerId>,
    /// Volumes that have a directory of ours; those of servers, mounted or not.
    pub volumes: Look<BTreeMap<Name, ObservedVolume>>,
    /// Fingerprints of what the sources of configs, secrets and environment files hold now.
    pub contents: BTreeMap<ContentKey, Look<String>>,
    /// What the files of containers hold; one whose record is not there, or cannot be read, is missing.
    pub delivered: BTreeMap<ContainerId, ContentRecord>,
    /// What the probes found so far, of the run each is about.
    pub health: BTreeMap<ContainerId, HealthState>,
    /// What of running containers was found damaged; those that are well are not listed.
    pub damage: BTreeMap<ContainerId, Vec<Damage>>,
    /// What is only waited for.
    pub around: Surroundings,
    /// Every container that has a directory, a shim or a cgroup of ours.
    pub containers: Look<BTreeMap<ContainerId, Look<ObservedContainer>>>,
}

/// What the firewall is made with, and what there is to know of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendSeen {
    pub kind: Backend,
    /// For users: which program, and what it cannot do.
    pub remark: Option<String>,
    /// What keeps from telling who reaches a published port.
    pub unjudged: Option<String>,
}

/// A firewall of somebody else that drops traffic of our networks, and that we cannot put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDrop {
    /// Whose it is, to follow "closed by": `firewalld`, `the nftables chain inet site forward`.
    pub by: String,
    /// The bridges whose traffic it is.
    pub bridges: Vec<String>,
    /// Connections to published ports are among it; else only what containers ask for.
    pub ports: bool,
    /// What is there, and what to do about it.
    pub told: String,
}

/// One network device in the agent's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedLink {
    /// `bridge`, `veth`, … as the kernel's IFLA_INFO_KIND says; empty where it says nothing.
    pub kind: String,
    /// It carries this agent's mark (its alias).
    pub ours: bool,
    pub up: bool,
    pub mtu: u32,
    /// Device name of the bridge it is a port of.
    pub master: Option<String>,
    /// As such a port it reaches no other one that is isolated as well.
    #[serde(default)]
    pub isolated: bool,
    /// The kernel's number of it, which no other device gets as long as the host is up.
    #[serde(default)]
    pub index: u32,
    /// The device that macvlan and ipvlan devices are below, and that what an encrypted VXLAN device sends goes by.
    #[serde(default)]
    pub below: Option<String>,
    pub addresses: Vec<Ipv4Net>,
    /// Of global scope, and WireGuard's of ours of the link too; of ours, those that are reached as they should be.
    #[serde(default)]
    pub addresses6: Vec<Ipv6Net>,
    /// Bridges of ours only: `route_localnet` is on, and so is `forwarding`; or it has no IPv4 that needs them.
    pub route_localnet: bool,
    /// Bridges of ours only.
    #[serde(default)]
    pub ipv6: Ipv6State,
    /// VXLAN devices and bridges of Open vSwitch of ours only.
    #[serde(default)]
    pub tunnel: Option<ObservedTunnel>,
}

/// What is special about a VXLAN device, or about a bridge of Open vSwitch with its tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTunnel {
    pub vni: u32,
    pub port: u16,
    pub local: Option<IpAddr>,
    /// The hosts that frames for everybody are sent to, sorted.
    pub peers: Vec<IpAddr>,
    /// Nothing of the gateway of its bridge, and nothing that asks for it, crosses it.
    pub sealed: bool,
    /// Where it is of Open vSwitch.
    #[serde(default)]
    pub switch: Option<ObservedSwitch>,
    /// Where it is encrypted by a device of ours.
    #[serde(default)]
    pub wireguard: Option<ObservedWireGuard>,
}

/// What is special about a WireGuard device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedWireGuard {
    /// None where it was given none.
    pub key: Option<PublicKey>,
    /// UDP; 0 where it was given none.
    pub port: u16,
    pub peers: BTreeMap<PublicKey, ObservedPeer>,
}

/// Another host to such a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPeer {
    /// Where it is looked for. None while it is heard, from wherever that is: who has its key is the one.
    pub endpoint: Option<SocketAddr>,
    /// It may send from the address that its key gives it, and from no other one.
    pub confined: bool,
}

/// What a network's bridge of Open vSwitch was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedSwitch {
    /// `vxlan`, `gre`, `geneve`.
    pub kind: String,
    /// `system`, `netdev`.
    pub datapath: String,
    pub vlan: u16,
    pub mtu: Option<u32>,
    pub gateway: Ipv4Addr,
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// All of it is as it was made: bridges, their ports, and what these are set to.
    pub whole: bool,
}

/// What a device does with IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6State {
    /// Nothing (`disable_ipv6`), or the kernel has none.
    #[default]
    Off,
    /// It has addresses, and takes no router advertisements (`accept_ra`).
    On,
    /// Anything else.
    Wrong,
}

/// One volume as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedVolume {
    /// The directory containers see.
    pub path: PathBuf,
    /// As it was last made or put right.
    pub spec: VolumeSpec,
    pub created_at: Timestamp,
    pub reach: Reach,
}

/// Whether what is in a volume can be had. On this host it always can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    #[default]
    Here,
    /// It is on a server, and not mounted.
    Unmounted,
    /// It is mounted, and the server does not answer as it should: why.
    Silent(String),
}

/// An address the host has without us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignAddress {
    pub device: String,
    pub address: Ipv4Net,
}

/// The same of IPv6, of global scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignAddress6 {
    pub device: String,
    pub address: Ipv6Net,
}

/// A listening or bound socket (sock_diag(7)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub protocol: Protocol,
    pub ip: IpAddr,
    pub port: u16,
    /// Who holds it, where it could be found: pid and command name.
    pub holder: Option<(u32, String)>,
}

/// One container as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedContainer {
    pub id: ContainerId,
    pub name: Name,
    pub phase: Phase,
    /// The revision of its settings the shim works by; 0 without a shim.
    pub rev: u64,
    /// Counted from 1 at each start of the payload; 0 before the first.
    pub run_no: u64,
    /// Since it was created, by crash or failed health.
    pub restarts: u64,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    /// How its latest finished run ended.
    pub last_exit: Option<ExitRecord>,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// Its directories are made and checked; it has no shim and never had one.
    Prepared,
    /// The shim is up with the namespaces, the payload was not started yet.
    Created,
    /// The payload runs; its pid in the host's pid namespace.
    Running {
        pid: u32,
    },
    Paused {
        pid: u32,
    },
    /// The shim waits to start it again.
    Backoff {
        until: Timestamp,
    },
    /// The payload ended for good by its policy, or was stopped; the shim has left.
    Exited,
    /// The shim is gone without having written why: killed, or the machine went down.
    Lost,
}

/// What is left of a finished run. Written by the shim before it tells anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub run_no: u64,
    /// Exit code; 128 + signal where a signal ended it, as shells and Docker count.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Stopped on request (stop, restart, replace), not by itself.
    pub requested: bool,
    /// Why the payload could not even be started, where that is so.
    pub error: Option<String>,
}

/// Whether two published ports, or one and a socket, can be asked for at the same address. `0.0.0.0` and `::` are all
/// addresses of their family, and none of the other one.
pub fn overlaps(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified() || a == b)
}
