//! Decisions that must outlive the agent. Written before the first action that relies on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::action::{Joins, stop_signal};
use crate::digest::Digest;
use crate::firewall::PortRule;
use crate::health::HealthState;
use crate::image::{Image, ImageSource};
use crate::name::{ContainerId, Name};
use crate::network::{Attachment, BridgeNetwork, MacAddr};
use crate::spec::{ContainerSpec, NetworkSpec, Origin, PullPolicy, VolumeSpec};

/// The whole ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Format; 1.
    pub version: u32,
    /// Grows with each accepted change of the desired state.
    pub generation: u64,
    pub containers: BTreeMap<Name, ContainerEntry>,
    pub networks: BTreeMap<Name, NetworkEntry>,
    /// By `NETWORK/CONTAINER`.
    pub leases: BTreeMap<String, Lease>,
    /// Host ports picked for ports that name none, by `CONTAINER/PORT/PROTOCOL/IP`.
    pub picked_ports: BTreeMap<String, u16>,
    /// Containers stopped by hand, or for failed health.
    pub holds: BTreeMap<Name, Hold>,
    /// Volumes that came from a table, as last accepted.
    #[serde(default)]
    pub volumes: BTreeMap<Name, VolumeEntry>,
    /// The latest verdict on each container's run, so that a new agent does not begin at "starting".
    #[serde(default)]
    pub health: BTreeMap<ContainerId, HealthState>,
}

/// What was accepted for one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEntry {
    pub current: Accepted,
    /// The replacement under way.
    pub next: Option<Replacement>,
    /// A definition that failed where its predecessor ran, by [`crate::plan::fingerprint`], and why. Not tried again.
    pub rejected: Option<Rejected>,
    /// Its table is gone since then; removed once `removal_grace` has passed.
    pub gone_since: Option<Timestamp>,
}

/// One accepted container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub id: ContainerId,
    pub rev: u64,
    pub spec: ContainerSpec,
    pub origin: Origin,
    /// The image it was created from; none until the image was there.
    pub image_id: Option<Digest>,
    pub image_digest: Option<Digest>,
    /// The image itself, so that it is started again as it was, whatever its source holds by then.
    #[serde(default)]
    pub image: Option<Image>,
    pub attachments: Vec<Attachment>,
    pub ports: Vec<PortRule>,
    /// A job's end was seen: never run again.
    pub finished: bool,
    /// The run whose end was taken for the job's: with `finished` taken back, that end counts no more.
    #[serde(default)]
    pub finished_run: Option<u64>,
    /// The exit code the job ended with.
    #[serde(default)]
    pub finished_code: Option<i32>,
    /// It was begun with other attachments (its network changed): to be stopped, and started with these.
    #[serde(default)]
    pub stale: bool,
    /// The containers whose namespaces it was begun in.
    #[serde(default)]
    pub joins: Joins,
    /// The run of the pid namespace's owner that it was begun in: a pid namespace ends with its first process.
    #[serde(default)]
    pub joined_run: Option<u64>,
    /// `pull = "always"`: the registry was asked for this one already.
    #[serde(default)]
    pub pulled: bool,
}

impl Accepted {
    /// The table's signal, else the one of the image it was created from, else SIGTERM.
    pub fn stop_signal(&self) -> String {
        stop_signal(&self.spec, self.image.as_ref())
    }

    /// The registry is still to be asked before it is made: until then it has no image.
    pub fn asks_registry(&self) -> bool {
        asks_registry(&self.spec) && !self.pulled
    }
}

/// Whether a container of this table is made from what its registry has at that time.
pub fn asks_registry(spec: &ContainerSpec) -> bool {
    spec.pull == PullPolicy::Always && matches!(spec.image, ImageSource::Registry { .. })
}

impl Ledger {
    /// Every container accepted, those that are to take another's place included.
    pub fn accepted(&self) -> impl Iterator<Item = (&Name, &Accepted)> {
        self.containers.iter().flat_map(|(name, entry)| {
            let next = entry.next.as_ref().map(|n| &n.accepted);
            std::iter::once(&entry.current)
                .chain(next)
                .map(move |a| (name, a))
        })
    }

    /// The registry was asked for this image ([`crate::action::Action::LoadImage`] with `refresh` succeeded): those who
    /// waited for that go on. To be written by whoever carried the action out.
    pub fn note_pulled(&mut self, key: &str) {
        for entry in self.containers.values_mut() {
            let next = entry.next.as_mut().map(|n| &mut n.accepted);
            for accepted in std::iter::once(&mut entry.current).chain(next) {
                accepted.pulled |= accepted.asks_registry() && accepted.spec.image.key() == key;
            }
        }
    }
}

/// A replacement by `update.strategy = "recreate"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub accepted: Accepted,
    pub phase: ReplacePhase,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplacePhase {
    /// The new one is being prepared, the old one runs.
    Preparing,
    /// The old one is being stopped and the new one started; the old one is kept in case.
    Switching,
    /// It failed: the new one is being removed, the old one started again.
    Reverting,
}

/// A definition not to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub fingerprint: String,
    pub reason: String,
    pub at: Timestamp,
}

/// What was accepted for one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEntry {
    pub network: BridgeNetwork,
    pub spec: NetworkSpec,
    pub origin: Origin,
    pub gone_since: Option<Timestamp>,
    /// What it was before a change that needs its device made anew; none once the host shows the new one.
    #[serde(default)]
    pub replacing: Option<BridgeNetwork>,
}

/// What was accepted for one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    pub spec: VolumeSpec,
    pub origin: Origin,
    /// Its table is gone since then.
    pub gone_since: Option<Timestamp>,
}

/// An address of a container in a network; outlives the container, so that it gets the same one again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub ip: Ipv4Addr,
    pub mac: MacAddr,
    /// When its container was last known to want it: the least recently used is given away first.
    pub used_at: Timestamp,
}

/// `wharf stop` by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: String,
    pub at: Timestamp,
    /// The definition it was put on: another one lifts it.
    pub fingerprint: String,
}
