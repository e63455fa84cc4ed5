//! Sources of mounts that have to be mount points themselves whenever the payload starts: the agent asks before the first
//! run, and each run after it, which the shim begins by itself, asks again. What is written below a disk that is not there
//! is lost from sight as soon as it is.

use std::io;
use std::path::{Path, PathBuf};

use model::action::Instance;
use model::spec::{VolumeSource, VolumeUse};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Required {
    pub source: PathBuf,
    /// Where the container has it.
    pub target: String,
    pub why: Why,
}

/// Who asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// `require_mount` of a bind.
    Key,
    /// It is a volume of a server, which the agent mounts.
    Server,
}

/// Why a container is not started.
#[derive(Debug, thiserror::Error)]
pub enum RequiredError {
    #[error(
        "volumes: the source {} of what is mounted at {target} is not a mount point, and `require_mount` is set: mount \
         it; this is tried again until it is one", .source_dir.display()
    )]
    Key { source_dir: PathBuf, target: String },
    #[error(
        "volumes: the volume at {target} is not mounted at {}: the agent mounts it again as soon as its server answers, \
         and this is tried again until then", .source_dir.display()
    )]
    Server { source_dir: PathBuf, target: String },
    #[error("volumes: cannot look at the source {} of what is mounted at {target}: {source}", .source_dir.display())]
    Look {
        source_dir: PathBuf,
        target: String,
        source: io::Error,
    },
}

impl Required {
    /// As the kernel says it (statx(2), since Linux 5.8): also where it is a bind of the same file system.
    ///
    /// # Errors
    /// It is none, or is not there; or cannot be looked at.
    pub fn check(&self) -> Result<(), RequiredError> {
        let (source_dir, target) = (self.source.clone(), self.target.clone());
        match statx(CWD, &self.source, AtFlags::empty(), StatxFlags::BASIC_STATS) {
            Ok(found) if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => Ok(()),
            Ok(_) | Err(rustix::io::Errno::NOENT) => Err(match self.why {
                Why::Key => RequiredError::Key { source_dir, target },
                Why::Server => RequiredError::Server { source_dir, target },
            }),
            Err(e) => Err(RequiredError::Look {
                source_dir,
                target,
                source: e.into(),
            }),
        }
    }
}

/// Those of a container; volumes of servers are mounted right below `servers_dir`.
pub(crate) fn of(instance: &Instance, servers_dir: &Path) -> Vec<Required> {
    let one = |volume: &VolumeUse| {
        let (source, why) = match &volume.source {
            VolumeSource::Bind {
                source,
                require_mount: true,
                ..
            } => (source, Why::Key),
            VolumeSource::Named(name) => (instance.volumes.get(name)?, Why::Server),
            VolumeSource::Bind { .. } | VolumeSource::Anonymous | VolumeSource::Tmpfs { .. } => return None,
        };
        if why == Why::Server && source.parent() != Some(servers_dir) {
            return None;
        }
        Some(Required {
            source: source.clone(),
            target: volume.target.clone(),
            why,
        })
    };
    instance.spec.volumes.iter().filter_map(one).collect()
}
