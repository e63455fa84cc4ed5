//! The bundle: everything one start of a container needs, as data. Pure: what it takes from the host is an input.
//!
//! `config.json` follows the OCI runtime-spec 1.0 and Docker's rules for what a container gets (entrypoint and command,
//! environment, mounts, capabilities, devices). `wharf.json` ([`Extra`]) holds what that format has no place for.

pub(crate) mod contents;
mod files;
mod linux;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod required;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use model::action::Instance;
use model::name::{ContainerId, Name};
use model::spec::{NamespaceMode, NetworkMode, RuntimeChoice};
use oci_spec::OciSpecError;
use oci_spec::runtime::{RootBuilder, Spec, SpecBuilder};
use serde::{Deserialize, Serialize};

pub use contents::ContentError;
pub use mounts::VolumeError;
pub use required::Required;

use crate::seccomp::ProfileError;

/// File names in a bundle directory.
pub const CONFIG: &str = "config.json";
pub const EXTRA: &str = "wharf.json";
/// Mount point of the root, below the bundle directory. Something is mounted there only inside containers.
pub const ROOTFS: &str = "rootfs";

/// Why an instance cannot be made into a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("container {0}: neither the image nor `command` or `entrypoint` says what to run: set `command`")]
    NoCommand(String),
    #[error(
        "container {container}: env_file {file}, line {line}: {text:?} is not NAME=VALUE",
        file = file.display()
    )]
    EnvFile {
        container: String,
        file: PathBuf,
        line: usize,
        text: String,
    },
    #[error("container {container}: {what} contains a NUL byte")]
    Nul { container: String, what: &'static str },
    #[error("container {container}: there is no capability {capability}: see capabilities(7)")]
    UnknownCapability { container: String, capability: String },
    #[error(
        "container {container}: cap_add wants {capability}, which wharf itself does not have here and so cannot give"
    )]
    MissingCapability { container: String, capability: String },
    #[error("container {container}: there is no ulimit {name:?}: use one of {known}")]
    UnknownUlimit {
        container: String,
        name: String,
        known: String,
    },
    #[error(
        "container {container}: sysctl {name} would change the host: only net.* (with a network of its own), kernel.msg*, kernel.sem, kernel.shm* and fs.mqueue.* (with ipc = \"private\") belong to a container"
    )]
    ForeignSysctl { container: String, name: String },
    #[error("container {container}: device {path} was not looked up", path = path.display())]
    UnknownDevice { container: String, path: PathBuf },
    #[error(
        "container {container}: `init` is not there with an external runtime: leave `runtime` or `init` out"
    )]
    ExternalInit { container: String },
    #[error(
        "container {container}: {key} is that of container {owner}, whose network it shares: set it there, or leave it out"
    )]
    OwnersToSay {
        container: String,
        key: &'static str,
        owner: String,
    },
    #[error("container {container}: seccomp profile {profile}: {source}")]
    Seccomp {
        container: String,
        profile: String,
        #[source]
        source: ProfileError,
    },
    #[error("container {container}: {source}")]
    Volume {
        container: String,
        #[source]
        source: VolumeError,
    },
    #[error("container {container}: {source}")]
    Content {
        container: String,
        #[source]
        source: ContentError,
    },
    #[error("container {container}: writing its OCI configuration: {source}")]
    Spec {
        container: String,
        #[source]
        source: OciSpecError,
    },
}

/// Who the payload runs as, found in the image by [`crate::prepare::check`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, without `gid`.
    pub additional_gids: Vec<u32>,
    pub home: String,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// A block device; else a character device.
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What a bundle takes from the host, read beforehand by [`crate::prepare::host`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Text of the host's resolv.conf and hosts file.
    pub resolv_conf: String,
    pub hosts: String,
    pub hostname: String,
    /// Version of its kernel.
    pub kernel: (u32, u32),
    /// It has a `/dev/shm`.
    pub shm: bool,
    /// Capabilities that can be given (our own bounding set), without `CAP_`.
    pub capabilities: BTreeSet<String>,
    /// The nodes that `devices` names; of a privileged container all of the host's.
    pub devices: BTreeMap<PathBuf, DeviceNode>,
    /// Text of `seccomp = "/path"`.
    pub seccomp_profile: Option<String>,
    /// Each `env_file` with its text, in their order.
    pub env_files: Vec<(PathBuf, String)>,
}

/// All that a bundle is made of.
#[derive(Clone, Copy, Debug)]
pub struct BundleInput<'a> {
    pub instance: &'a Instance,
    pub user: &'a ResolvedUser,
    pub host: &'a Host,
    /// The directory the bundle will be written to, absolute.
    pub bundle_dir: &'a Path,
    /// The container's kept directory: `upper`, `work` and anonymous volumes lie below it.
    pub state_dir: &'a Path,
    /// The directory with what its configs and secrets hold.
    pub contents_dir: &'a Path,
    /// Volumes of servers are mounted right below it.
    pub servers_dir: &'a Path,
    /// `/wharf`.
    pub cgroup_parent: &'a str,
}

/// A bundle as it will be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    pub spec: Spec,
    pub extra: Extra,
    /// `hosts`, `resolv.conf`, `hostname`: file name and text, in the bundle directory.
    pub files: Vec<(&'static str, String)>,
}

/// `wharf.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// For messages and process titles.
    pub name: String,
    /// 64 hexadecimal digits; external runtimes know the container by it.
    pub id: String,
    pub overlay: Overlay,
    /// An OCI runtime's name or path; none is the embedded one.
    pub runtime: Option<String>,
    pub cgroup: CgroupPlace,
    pub unshare: Unshare,
    #[serde(default)]
    pub shared: Shared,
    /// A reaping init is its first process.
    #[serde(default)]
    pub init: bool,
    /// Nothing is started without them.
    #[serde(default)]
    pub required: Vec<Required>,
}

/// Layers of the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Bottom first, absolute.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// Where its cgroups are: `PARENT/NAME-ID12` with `shim` and `payload` below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlace {
    pub parent: String,
    /// `NAME-ID12`.
    pub name: String,
}

/// Which namespaces the shim makes for the container; the others are the host's. See [`crate::launch::unshare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unshare {
    pub net: bool,
    pub uts: bool,
    pub ipc: bool,
}

/// Whose namespaces a container lives in besides its own: `network_mode`, `pid`, `ipc` = `"container:NAME"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub net: Option<Owner>,
    pub pid: Option<Owner>,
    pub ipc: Option<Owner>,
}

/// A container whose namespaces another one lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// As the table names it.
    pub name: String,
    /// Which container that is; none before it is decided, with which nothing can be started.
    pub id: Option<ContainerId>,
}

impl Shared {
    /// What the table of an instance names.
    pub fn of(instance: &Instance) -> Self {
        let (spec, joins) = (&instance.spec, &instance.joins);
        let owner = |name: &Name, id: &Option<ContainerId>| Owner {
            name: name.to_string(),
            id: id.clone(),
        };
        let of_mode = |mode: &NamespaceMode, id| match mode {
            NamespaceMode::Container(name) => Some(owner(name, id)),
            NamespaceMode::Private | NamespaceMode::Host => None,
        };
        Self {
            net: match &spec.network_mode {
                NetworkMode::Container(name) => Some(owner(name, &joins.net)),
                NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None => None,
            },
            pid: of_mode(&spec.pid, &joins.pid),
            ipc: of_mode(&spec.ipc, &joins.ipc),
        }
    }
}

/// Makes the bundle of an instance.
pub fn build(input: &BundleInput<'_>) -> Result<Bundle, BundleError> {
    let instance = input.instance;
    let shared = Shared::of(instance);
    refuse_contradictions(instance, &shared)?;
    let unshare = Unshare {
        net: instance.spec.network_mode != NetworkMode::Host && shared.net.is_none(),
        uts: shared.net.is_none(),
        ipc: instance.spec.ipc == NamespaceMode::Private,
    };
    let hostname = files::hostname(input);
    let spec = || -> Result<Spec, Failed> {
        let mut spec = SpecBuilder::default()
            .version("1.0.2")
            .root(
                RootBuilder::default()
                    .path(ROOTFS)
                    .readonly(instance.spec.read_only)
                    .build()?,
            )
            .hostname(hostname.clone())
            .process(process::process(input, &hostname)?)
            .mounts(mounts::mounts(input)?)
            .linux(linux::linux(input, unshare)?)
            .build()?;
        spec.set_hooks(None);
        Ok(spec)
    };
    Ok(Bundle {
        spec: spec().map_err(|e| e.of(instance))?,
        extra: extra(input, unshare, shared),
        files: files::files(input, &hostname),
    })
}

/// As Docker: who shares a network shares its names.
fn refuse_contradictions(instance: &Instance, shared: &Shared) -> Result<(), BundleError> {
    let (spec, container) = (&instance.spec, instance.name.to_string());
    if spec.init && spec.runtime != RuntimeChoice::Embedded {
        return Err(BundleError::ExternalInit { container });
    }
    let Some(owner) = &shared.net else {
        return Ok(());
    };
    let set = [
        ("hostname", spec.hostname.is_some()),
        ("extra_hosts", !spec.extra_hosts.is_empty()),
        ("dns", !spec.dns.is_empty()),
        ("dns_search", !spec.dns_search.is_empty()),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((key, _)) => Err(BundleError::OwnersToSay {
            container,
            key,
            owner: owner.name.clone(),
        }),
    }
}

fn extra(input: &BundleInput<'_>, unshare: Unshare, shared: Shared) -> Extra {
    let instance = input.instance;
    Extra {
        name: instance.name.to_string(),
        id: instance.id.to_string(),
        overlay: Overlay {
            lower: instance.image.layers.clone(),
            upper: input.state_dir.join("upper"),
            work: input.state_dir.join("work"),
        },
        runtime: match &instance.spec.runtime {
            RuntimeChoice::Embedded => None,
            RuntimeChoice::External(name) => Some(name.clone()),
        },
        cgroup: CgroupPlace::of(input.cgroup_parent, instance),
        unshare,
        shared,
        init: instance.spec.init,
        required: required::of(instance, input.servers_dir),
    }
}

impl CgroupPlace {
    /// The place of an instance below a parent.
    pub fn of(parent: &str, instance: &Instance) -> Self {
        Self {
            parent: parent.to_owned(),
            name: format!("{}-{}", instance.name, instance.id.short()),
        }
    }
}

/// An error inside, before it is known whose.
pub(crate) enum Failed {
    Spec(OciSpecError),
    Volume(VolumeError),
    Content(ContentError),
    Bundle(BundleError),
}

impl Failed {
    fn of(self, instance: &Instance) -> BundleError {
        match self {
            Self::Bundle(error) => error,
            Self::Volume(source) => BundleError::Volume {
                container: instance.name.to_string(),
                source,
            },
            Self::Content(source) => BundleError::Content {
                container: instance.name.to_string(),
                source,
            },
            Self::Spec(source) => BundleError::Spec {
                container: instance.name.to_string(),
                source,
            },
        }
    }
}

impl From<OciSpecError> for Failed {
    fn from(error: OciSpecError) -> Self {
        Self::Spec(error)
    }
}

impl From<VolumeError> for Failed {
    fn from(error: VolumeError) -> Self {
        Self::Volume(error)
    }
}

impl From<ContentError> for Failed {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

impl From<BundleError> for Failed {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

#[cfg(test)]
mod tests;
