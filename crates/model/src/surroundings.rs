//! What of the host nobody here makes or changes, and some containers wait for: mounts, the way to the network, the
//! clock's zone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cluster::ClusterState;
use crate::observed::Look;
use crate::wireguard::PublicKey;

/// What a route leads by (ip-route(8), `get`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is an address of this host.
    Own,
    /// The address that this host sends from, and the largest packet in bytes.
    From { source: IpAddr, mtu: u32 },
}

/// As the latest look found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Of the paths that tables ask for in `requires_mounts`: those that are mount points (mountinfo in proc(5)).
    pub mounts: Look<BTreeSet<PathBuf>>,
    /// A device that is up, not the loopback's and not ours, has a default route and an address of global scope. Looked
    /// at only where a table asks for it.
    pub online: Look<bool>,
    /// The host's time zone (localtime(5)); UTC where no table has a schedule.
    pub zone: TimeZone,
    /// Those that schedules name, as far as the host knows them.
    pub zones: BTreeMap<String, TimeZone>,
    /// How the host reaches the addresses that overlays name; those it has no route to are not listed. Under 0.0.0.0: the
    /// world.
    pub ways: BTreeMap<IpAddr, Way>,
    /// What the files of overlays' peers say.
    pub peers: BTreeMap<PathBuf, Look<Vec<IpAddr>>>,
    /// What etcd said of overlays' hosts; none where the settings name no etcd.
    pub cluster: Option<ClusterState>,
    /// Open vSwitch is there to make networks of. Looked at only where a network is to be made of it.
    pub switch: Look<()>,
    /// This host's key. Looked at only where an overlay is to be encrypted.
    pub wireguard: Option<Look<PublicKey>>,
    /// Since when this agent has been here to start what is due.
    pub here_since: Timestamp,
}

impl Default for Surroundings {
    /// A host in UTC without any of it, always attended.
    fn default() -> Self {
        Self {
            mounts: Look::Known(BTreeSet::new()),
            online: Look::Known(false),
            zone: TimeZone::UTC,
            zones: BTreeMap::new(),
            ways: BTreeMap::new(),
            peers: BTreeMap::new(),
            cluster: None,
            switch: Look::Known(()),
            wireguard: None,
            here_since: Timestamp::MIN,
        }
    }
}
