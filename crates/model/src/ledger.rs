//! Decisions that must outlive the agent. Written before the first action that relies on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::action::{Joins, stop_signal};
use crate::content::{ContentEntry, ContentKey, ContentState};
use crate::digest::Digest;
use crate::families::{Families, NoFamily};
use crate::firewall::PortRule;
use crate::health::HealthState;
use crate::image::{Image, ImageSource};
use crate::name::{ContainerId, Name};
use crate::network::{Attachment, HostNetwork, MacAddr};
use crate::replica::Place;
use crate::shared::Shared;
use crate::spec::{ContainerSpec, NetworkSpec, Origin, PullPolicy, VolumeSpec};
use crate::timetable::Timetable;

/// The whole ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Format; 1.
    pub version: u32,
    /// Grows with each accepted change of the desired state.
    pub generation: u64,
    pub containers: BTreeMap<Name, ContainerEntry>,
    pub networks: BTreeMap<Name, NetworkEntry>,
    /// By `NETWORK/CONTAINER`; `NETWORK/CONTAINER+` is of one that runs beside the current one.
    pub leases: BTreeMap<String, Lease>,
    /// Host ports picked for ports that name none, by `CONTAINER/PORT/PROTOCOL/IP`.
    pub picked_ports: BTreeMap<String, u16>,
    /// Containers stopped by hand, or for failed health.
    pub holds: BTreeMap<Name, Hold>,
    /// Volumes that came from a table, as last accepted.
    #[serde(default)]
    pub volumes: BTreeMap<Name, VolumeEntry>,
    /// Volumes that were there when they were last looked for: one of these that is not there any more was removed
    /// behind our back.
    #[serde(default)]
    pub volumes_made: BTreeSet<Name>,
    /// Volumes whose directory was found removed, since when: those who ran then still see what was removed.
    #[serde(default)]
    pub volumes_lost: BTreeMap<Name, Timestamp>,
    /// The config dir that last held files.
    #[serde(default)]
    pub config_dir: Option<DirIdentity>,
    /// That it is missing or empty is what is wished for: somebody said so (`wharf reload --accept-empty`).
    #[serde(default)]
    pub empty_accepted: bool,
    /// Configs and secrets that containers see, as last accepted.
    #[serde(default)]
    pub contents: BTreeMap<ContentKey, ContentEntry>,
    /// Of containers with a schedule.
    #[serde(default)]
    pub timetables: BTreeMap<Name, Timetable>,
    /// The latest verdict on each container's run, so that a new agent does not begin at "starting".
    #[serde(default)]
    pub health: BTreeMap<ContainerId, HealthState>,
    /// `pull = "newer"`: when the registry was last asked for an image, by [`ImageSource::key`].
    #[serde(default)]
    pub checked_at: BTreeMap<String, Timestamp>,
    /// This host's own addresses (RFC 4193), made once at random when the first network wanted a part of them and the
    /// settings named no `pool6`.
    #[serde(default)]
    pub pool6: Option<Ipv6Net>,
}

/// A directory as such: another one in its place differs, also where the inode number is used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirIdentity {
    pub device: u64,
    pub inode: u64,
    /// When it was made; not every file system knows.
    pub made: Option<Timestamp>,
    /// The boot it was seen in: device numbers may be others in the next one.
    pub boot_id: String,
}

impl DirIdentity {
    /// Whether both are of the same directory.
    pub fn is_same(&self, other: &Self) -> bool {
        let rebooted = self.boot_id != other.boot_id && self.made.is_some();
        self.inode == other.inode && self.made == other.made && (rebooted || self.device == other.device)
    }
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
    /// Which instance of a replicated service it is; none where it stands alone.
    #[serde(default)]
    pub place: Option<Place>,
    /// The one before, which ends what it has begun.
    #[serde(default)]
    pub draining: Option<Draining>,
}

impl ContainerEntry {
    /// Every container accepted under the name.
    pub fn all(&self) -> impl Iterator<Item = &Accepted> {
        let next = self.next.as_ref().map(|n| &n.accepted);
        let draining = self.draining.as_ref().map(|d| &d.accepted);
        std::iter::once(&self.current).chain(next).chain(draining)
    }

    /// The same, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Accepted> {
        let next = self.next.as_mut().map(|n| &mut n.accepted);
        let draining = self.draining.as_mut().map(|d| &mut d.accepted);
        std::iter::once(&mut self.current).chain(next).chain(draining)
    }

    /// Nothing is under way that takes the current one's place, but for what is tried beside it.
    pub fn is_steady(&self) -> bool {
        self.next.as_ref().is_none_or(|n| n.phase.is_beside())
    }
}

/// One accepted container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub id: ContainerId,
    pub rev: u64,
    pub spec: Shared<ContainerSpec>,
    pub origin: Shared<Origin>,
    /// The image it was created from; none until the image was there.
    pub image_id: Option<Digest>,
    pub image_digest: Option<Digest>,
    /// The image itself, so that it is started again as it was, whatever its source holds by then.
    #[serde(default)]
    pub image: Option<Shared<Image>>,
    pub attachments: Shared<Vec<Attachment>>,
    pub ports: Shared<Vec<PortRule>>,
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
    /// The addresses, by network, that a stale one lives on until it is stopped, where those above are others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<(Name, IpAddr)>,
    /// The containers whose namespaces it was begun in.
    #[serde(default)]
    pub joins: Joins,
    /// The run of the pid namespace's owner that it was begun in: a pid namespace ends with its first process.
    #[serde(default)]
    pub joined_run: Option<u64>,
    /// What each dependency with `restart = true` was when it was begun: another one has it restarted.
    #[serde(default)]
    pub begun_with: BTreeMap<Name, ContainerId>,
    /// `pull = "always"`: the registry was asked for this one already.
    #[serde(default)]
    pub pulled: bool,
    /// What it was last known to have of configs, secrets and environment files.
    #[serde(default)]
    pub contents: Shared<BTreeMap<ContentKey, ContentState>>,
}

impl Accepted {
    /// The table's signal, else the one of the image it was created from, else SIGTERM.
    pub fn stop_signal(&self) -> String {
        stop_signal(&self.spec, self.image.as_deref())
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

/// Whether a container of this table follows what its registry has. What a digest leads to never changes.
pub fn follows_registry(spec: &ContainerSpec) -> bool {
    spec.pull == PullPolicy::Newer
        && matches!(&spec.image, ImageSource::Registry { reference } if !reference.contains('@'))
}

/// Who leases the addresses of a container that runs beside another one of its name. No container has such a name.
pub fn spare_owner(container: &str) -> String {
    format!("{container}+")
}

impl Ledger {
    /// The registry was asked for this image, or it was fetched from there, at that time. To be written by whoever
    /// carried the action out.
    pub fn note_checked(&mut self, key: &str, at: Timestamp) {
        let follows = |spec: &ContainerSpec| follows_registry(spec) && spec.image.key() == key;
        if self.accepted().any(|(_, a)| follows(&a.spec)) {
            self.checked_at.insert(key.to_owned(), at);
        }
    }

    /// The addresses of the one that ran beside the current one are the name's from now on, and the other way round.
    pub fn swap_leases(&mut self, network: &str, container: &str) {
        let own = format!("{network}/{container}");
        let spare = format!("{network}/{}", spare_owner(container));
        let (was, is) = (self.leases.remove(&own), self.leases.remove(&spare));
        self.leases.extend(is.map(|lease| (own, lease)));
        self.leases.extend(was.map(|lease| (spare, lease)));
    }

    /// Every container accepted, those that are to take another's place and those that leave theirs included.
    pub fn accepted(&self) -> impl Iterator<Item = (&Name, &Accepted)> {
        let entries = self.containers.iter();
        entries.flat_map(|(name, entry)| entry.all().map(move |a| (name, a)))
    }

    /// The registry was asked for this image ([`crate::action::Action::LoadImage`] with `refresh` succeeded): those who
    /// waited for that go on. To be written by whoever carried the action out.
    pub fn note_pulled(&mut self, key: &str) {
        for entry in self.containers.values_mut() {
            for accepted in entry.all_mut() {
                accepted.pulled |= accepted.asks_registry() && accepted.spec.image.key() == key;
            }
        }
    }
}

/// A replacement under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub accepted: Accepted,
    pub phase: ReplacePhase,
    /// Why the old one is stopped first though `update.strategy` says "start-first".
    #[serde(default)]
    pub fallback: Option<String>,
}

/// One whose place was taken by `update.strategy = "start-first"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    pub accepted: Accepted,
    /// It is stopped and removed then; none until its names and ports were seen to be with the new one.
    pub until: Option<Timestamp>,
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
    /// The new one is started and tried beside the old one, which has names and ports meanwhile.
    Trial,
    /// The trial is over without success: the new one is being removed beside the old one.
    Dropping,
}

impl ReplacePhase {
    /// The old one runs on, whatever becomes of the new one.
    pub fn is_beside(self) -> bool {
        matches!(self, Self::Trial | Self::Dropping)
    }
}

/// A definition not to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub fingerprint: String,
    pub reason: String,
    pub at: Timestamp,
    /// The last lines it wrote.
    #[serde(default)]
    pub log: Vec<String>,
}

/// What was accepted for one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEntry {
    pub network: HostNetwork,
    pub spec: Shared<NetworkSpec>,
    pub origin: Shared<Origin>,
    pub gone_since: Option<Timestamp>,
    /// What it was before a change that needs its device made anew; none once the host shows the new one.
    #[serde(default)]
    pub replacing: Option<HostNetwork>,
}

/// What was accepted for one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    pub spec: Shared<VolumeSpec>,
    pub origin: Shared<Origin>,
    /// Its table is gone since then.
    pub gone_since: Option<Timestamp>,
}

/// An address of a container in a network; outlives the container, so that it gets the same one again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenLease", into = "WrittenLease")]
pub struct Lease {
    /// Of the families that the network had while it was leased.
    pub ip: Families<Ipv4Addr, Ipv6Addr>,
    pub mac: MacAddr,
    /// When its container was last known to want it: the least recently used is given away first.
    pub used_at: Timestamp,
}

impl Lease {
    /// A new one, with the MAC address that belongs to it.
    pub fn new(ip: Families<Ipv4Addr, Ipv6Addr>, used_at: Timestamp) -> Self {
        Self {
            ip,
            mac: MacAddr::of_lease(ip.ip()),
            used_at,
        }
    }
}

/// A lease as it is written.
#[derive(Serialize, Deserialize)]
struct WrittenLease {
    ip: Option<Ipv4Addr>,
    #[serde(default)]
    ip6: Option<Ipv6Addr>,
    mac: MacAddr,
    used_at: Timestamp,
}

impl TryFrom<WrittenLease> for Lease {
    type Error = NoFamily;

    fn try_from(written: WrittenLease) -> Result<Self, NoFamily> {
        Ok(Self {
            ip: Families::new(written.ip, written.ip6).ok_or(NoFamily)?,
            mac: written.mac,
            used_at: written.used_at,
        })
    }
}

impl From<Lease> for WrittenLease {
    fn from(lease: Lease) -> Self {
        Self {
            ip: lease.ip.v4().copied(),
            ip6: lease.ip.v6().copied(),
            mac: lease.mac,
            used_at: lease.used_at,
        }
    }
}

/// `wharf stop` by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: String,
    pub at: Timestamp,
    /// The definition it was put on: another one lifts it.
    pub fingerprint: String,
}
