//! Actions: what a pass asks the host crates to do. Each is idempotent and may be killed at any instruction.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::content::{ContentKey, ContentState, Delivered, Then};
use crate::dns::DnsState;
use crate::firewall::FirewallState;
use crate::image::{Image, ImageSource};
use crate::links::Linked;
use crate::name::{ContainerId, Name};
use crate::network::{Attachment, HostNetwork};
use crate::plan::fingerprint;
use crate::spec::{ContainerSpec, Limits, Logging, RestartSpec, VolumeSpec};

/// What an action is about. A noun that is busy gets no second action.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "name")]
pub enum Noun {
    /// By [`ImageSource::key`].
    Image(String),
    Network(Name),
    Firewall,
    /// The names that containers resolve.
    Dns,
    Volume(Name),
    Container(Name),
}

impl Noun {
    /// `container`, `network`, ….
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::Network(_) => "network",
            Self::Firewall => "firewall",
            Self::Dns => "dns",
            Self::Volume(_) => "volume",
            Self::Container(_) => "container",
        }
    }

    /// Its name; the firewall and the names, of which there is one, have none.
    pub fn name(&self) -> &str {
        match self {
            Self::Image(key) => key,
            Self::Network(name) | Self::Volume(name) | Self::Container(name) => name.as_str(),
            Self::Firewall | Self::Dns => "",
        }
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firewall | Self::Dns => f.write_str(self.kind()),
            _ => write!(f, "{} {}", self.kind(), self.name()),
        }
    }
}

/// A container with everything decided: what `runtime` makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: ContainerId,
    /// `NAME`, or `NAME-2` of a replicated service.
    pub name: Name,
    pub service: Name,
    pub number: u32,
    /// Grows with every change; commands to the shim carry it.
    pub rev: u64,
    pub spec: ContainerSpec,
    pub image: Image,
    /// Empty with network modes host and none.
    pub attachments: Vec<Attachment>,
    /// Name servers for its resolv.conf; empty: the host's.
    pub dns: Vec<IpAddr>,
    /// Where the data of each named volume it mounts is.
    #[serde(default)]
    pub volumes: BTreeMap<Name, PathBuf>,
    /// Whose namespaces it joins.
    #[serde(default)]
    pub joins: Joins,
    /// The configs and secrets it sees.
    #[serde(default)]
    pub contents: Vec<Delivered>,
    /// The containers it is linked to.
    #[serde(default)]
    pub links: Vec<Linked>,
}

/// The containers whose namespaces an instance lives in (`container:NAME`), by their ids at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joins {
    pub net: Option<ContainerId>,
    pub pid: Option<ContainerId>,
    pub ipc: Option<ContainerId>,
}

impl Instance {
    /// What its shim works by.
    pub fn shim_policy(&self) -> ShimPolicy {
        ShimPolicy::of(self.rev, &self.spec, Some(&self.image))
    }
}

/// What can be changed on a running container by telling its shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimPolicy {
    pub rev: u64,
    pub restart: RestartSpec,
    /// Already decided between the table's and the image's.
    pub stop_signal: String,
    pub stop_grace_period: Duration,
    pub logging: Logging,
    /// Written to the payload's control groups as soon as they are told.
    #[serde(default)]
    pub limits: Limits,
    /// Its health is asked: a good run is then one that was healthy for `reset_after`, and not one that lasted so long.
    #[serde(default)]
    pub checked: bool,
}

impl ShimPolicy {
    /// What a table says, and where it says nothing the image.
    pub fn of(rev: u64, spec: &ContainerSpec, image: Option<&Image>) -> Self {
        Self {
            rev,
            restart: spec.restart,
            stop_signal: stop_signal(spec, image),
            stop_grace_period: spec.stop_grace_period,
            logging: spec.logging,
            limits: spec.limits.clone(),
            checked: crate::health::check(&spec.healthcheck, image).is_some(),
        }
    }
}

/// The table's signal, else the one of the image, else SIGTERM.
pub fn stop_signal(spec: &ContainerSpec, image: Option<&Image>) -> String {
    let of_image = image.and_then(|i| i.config.stop_signal.as_ref());
    let signal = spec.stop_signal.as_ref().or(of_image);
    signal.map_or("SIGTERM", String::as_str).to_owned()
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Action {
    /// Bring an image into the store.
    LoadImage {
        source: ImageSource,
        /// Ask the registry even where an image of that name is there.
        #[serde(default)]
        refresh: bool,
    },
    /// Make a volume's directory, or put its labels right. Data that is there is left alone.
    ApplyVolume { name: Name, spec: VolumeSpec },
    /// Put a volume away: into the trash, from which it goes for good a day later.
    RemoveVolume { name: Name },
    /// Have exactly these names answered.
    ApplyDns { state: DnsState },
    /// Make a network, or put right what differs.
    ApplyNetwork { network: HostNetwork },
    /// Take a network's devices away.
    RemoveNetwork { name: Name, bridge: String },
    /// Make the whole table so (an empty state removes it), in one transaction.
    ApplyFirewall { state: FirewallState },
    /// All of a new container that can fail without stopping its predecessor: directories, user, program.
    PrepareContainer { instance: Box<Instance> },
    /// Make what is missing (directories, bundle, shim, interfaces) and have the payload run.
    StartContainer { instance: Box<Instance> },
    /// Put missing or changed interfaces of a running container right.
    RepairAttachments { instance: Box<Instance> },
    /// Put right in place what of a running container's own files or control group was damaged.
    MendContainer { instance: Box<Instance> },
    /// Put these contents into a running container's files, and do what then follows. Where the sources have others by
    /// then, nothing is done.
    DeliverContents {
        instance: Box<Instance>,
        contents: BTreeMap<ContentKey, ContentState>,
        run_no: u64,
        then: Then,
    },
    /// Tell the shim.
    UpdateContainer {
        id: ContainerId,
        name: Name,
        policy: ShimPolicy,
    },
    /// End the run with this number, because its check failed, and begin another one by the policy. Another run is left
    /// alone.
    RestartUnhealthy {
        id: ContainerId,
        name: Name,
        run_no: u64,
        signal: String,
        grace: Duration,
    },
    /// End the payload and its shim; everything else of the container stays.
    StopContainer {
        id: ContainerId,
        name: Name,
        signal: String,
        grace: Duration,
    },
    /// Stop it if it runs, then remove all that is its own.
    RemoveContainer {
        id: ContainerId,
        name: Name,
        signal: String,
        grace: Duration,
        host_devices: Vec<String>,
    },
}

impl Action {
    /// What it is about.
    pub fn noun(&self) -> Noun {
        match self {
            Self::LoadImage { source, .. } => Noun::Image(source.key()),
            Self::ApplyVolume { name, .. } | Self::RemoveVolume { name } => Noun::Volume(name.clone()),
            Self::ApplyDns { .. } => Noun::Dns,
            Self::ApplyNetwork { network } => Noun::Network(network.name.clone()),
            Self::RemoveNetwork { name, .. } => Noun::Network(name.clone()),
            Self::ApplyFirewall { .. } => Noun::Firewall,
            Self::PrepareContainer { instance }
            | Self::StartContainer { instance }
            | Self::RepairAttachments { instance }
            | Self::MendContainer { instance }
            | Self::DeliverContents { instance, .. } => Noun::Container(instance.name.clone()),
            Self::UpdateContainer { name, .. }
            | Self::RestartUnhealthy { name, .. }
            | Self::StopContainer { name, .. }
            | Self::RemoveContainer { name, .. } => Noun::Container(name.clone()),
        }
    }

    /// The container it is about, and the fingerprint of what is tried: what a [`Failure`] of it is booked under.
    pub fn subject(&self) -> (Option<ContainerId>, String) {
        match self {
            Self::PrepareContainer { instance }
            | Self::StartContainer { instance }
            | Self::RepairAttachments { instance }
            | Self::MendContainer { instance }
            | Self::DeliverContents { instance, .. } => {
                (Some(instance.id.clone()), fingerprint(&instance.spec))
            }
            Self::UpdateContainer { id, .. }
            | Self::RestartUnhealthy { id, .. }
            | Self::StopContainer { id, .. }
            | Self::RemoveContainer { id, .. } => (Some(id.clone()), String::new()),
            Self::LoadImage { source, .. } => (None, fingerprint(source)),
            Self::ApplyVolume { spec, .. } => (None, fingerprint(spec)),
            Self::RemoveVolume { .. } => (None, String::new()),
            Self::ApplyDns { state } => (None, fingerprint(state)),
            Self::ApplyNetwork { network } => (None, fingerprint(network)),
            Self::ApplyFirewall { state } => (None, fingerprint(state)),
            Self::RemoveNetwork { bridge, .. } => (None, fingerprint(bridge)),
        }
    }
}

/// Why the latest action on a noun failed; kept in memory, gone once an action on it succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was wrong, and what to do.
    pub message: String,
    /// The container that failed to be prepared or started, for container nouns.
    pub id: Option<ContainerId>,
    /// Failed attempts in a row.
    pub count: u32,
    pub at: jiff::Timestamp,
    /// Fingerprint of what was tried ([`crate::plan::fingerprint`] of the spec): another one is tried at once.
    pub of: String,
}

/// Failures by noun.
pub type Failures = BTreeMap<Noun, Failure>;
