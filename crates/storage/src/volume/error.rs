//! Why something with a volume could not be done.

use std::io;
use std::path::{Path, PathBuf};

use model::name::Name;

/// A failure of [`super::Volumes`]. The texts are for users.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(
        "volume {0}: driver \"nfs\" is not supported yet; mount it on the host, and use driver = \"bind\" with its \
         mount point as `device`"
    )]
    Nfs(Name),
    #[error(
        "volume {0}: driver \"bind\" needs device = \"/path\", the directory of the host that is the volume"
    )]
    NoDevice(Name),
    #[error("volume {name}: its device {} {why}", device.display())]
    Device {
        name: Name,
        device: PathBuf,
        /// `does not exist: …`, `is not a directory`, ….
        why: String,
    },
    #[error(
        "volume {name}: it holds data in {}, so its driver cannot become {wanted:?}: `wharf volume rm {name}` puts the \
         data into the trash, or give the new volume another name",
        path.display()
    )]
    HoldsData {
        name: Name,
        path: PathBuf,
        wanted: &'static str,
    },
    #[error("volumes: cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// For `map_err`: what was being done to which path.
    pub(super) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |e| Self::Io {
            doing,
            path: path.to_owned(),
            source: e.into(),
        }
    }
}
