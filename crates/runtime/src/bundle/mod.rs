//! The bundle: everything one start of a container needs, as data. Pure: what it takes from the host is an input.
//!
//! `config.json` follows the OCI runtime-spec 1.0 and Docker's rules for what a container gets (entrypoint and command,
//! environment, mounts, capabilities, devices). `wharf.json` ([`Extra`]) holds what that format has no place for.

mod files;
mod linux;
pub(crate) mod mounts;
pub(crate) mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use model::action::Instance;
use model::spec::{NamespaceMode, NetworkMode, RuntimeChoice};
use oci_spec::OciSpecError;
use oci_spec::runtime::{RootBuilder, Spec, SpecBuilder};
use serde::{Deserialize, Serialize};

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
    #[error("container {container}: {key} is not supported yet")]
    NotYet { container: String, key: &'static str },
    #[error("container {container}: seccomp profile {profile}: {source}")]
    Seccomp {
        container: String,
        profile: String,
        #[source]
        source: ProfileError,
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
    /// Named volumes lie below it, as `NAME/_data`.
    pub volumes_dir: &'a Path,
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

/// Makes the bundle of an instance.
pub fn build(input: &BundleInput<'_>) -> Result<Bundle, BundleError> {
    let instance = input.instance;
    refuse_what_is_not_built(instance)?;
    let unshare = Unshare {
        net: instance.spec.network_mode != NetworkMode::Host,
        uts: true,
        ipc: instance.spec.ipc != NamespaceMode::Host,
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
        extra: extra(input, unshare),
        files: files::files(input, &hostname),
    })
}

fn refuse_what_is_not_built(instance: &Instance) -> Result<(), BundleError> {
    let spec = &instance.spec;
    let shared = |mode: &NamespaceMode| matches!(mode, NamespaceMode::Container(_));
    let key = if matches!(spec.network_mode, NetworkMode::Container(_)) {
        "network_mode = \"container:NAME\""
    } else if shared(&spec.pid) {
        "pid = \"container:NAME\""
    } else if shared(&spec.ipc) {
        "ipc = \"container:NAME\""
    } else if spec.init {
        "init"
    } else {
        return Ok(());
    };
    Err(BundleError::NotYet {
        container: instance.name.to_string(),
        key,
    })
}

fn extra(input: &BundleInput<'_>, unshare: Unshare) -> Extra {
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
    Bundle(BundleError),
}

impl Failed {
    fn of(self, instance: &Instance) -> BundleError {
        match self {
            Self::Bundle(error) => error,
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

impl From<BundleError> for Failed {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

#[cfg(test)]
mod tests;
