//! Why something with a volume could not be done.

use std::io;
use std::path::{Path, PathBuf};

use model::name::Name;

use super::NfsError;
use crate::error::{LayerError, is_full, kinds};
use crate::files::FilesError;

/// A failure of [`super::Volumes`]. The texts are for users.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {name}: {source}")]
    Nfs {
        name: Name,
        #[source]
        source: NfsError,
    },
    #[error("volumes on servers: {0}")]
    Mounts(#[source] NfsError),
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
    #[error("there is no volume {0}; `wharf volume ls` lists them")]
    Missing(Name),
    #[error("there is a volume {0} already: choose another name, or `wharf volume rm {0}` first")]
    Exists(Name),
    #[error("cannot {doing} volume {name}: {source}")]
    Copy {
        doing: &'static str,
        name: Name,
        #[source]
        source: FilesError,
    },
    #[error("cannot import volume {name}: the archive: {source}")]
    Archive {
        name: Name,
        #[source]
        source: LayerError,
    },
    #[error("no space left on the file system of {}: free some, or `wharf prune`", .0.display())]
    Full(PathBuf),
    #[error("volumes: cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// For `map_err`: which volume it is that is on a server.
    pub(super) fn nfs(name: &Name) -> impl FnOnce(NfsError) -> Self {
        let name = name.clone();
        move |source| Self::Nfs { name, source }
    }

    /// For `map_err`: what was being done with the files of which volume.
    pub(super) fn copying(doing: &'static str, name: &Name) -> impl FnOnce(FilesError) -> Self {
        let name = name.clone();
        move |source| Self::Copy { doing, name, source }
    }

    /// The same error, said in terms of the full file system where that is the reason.
    pub(super) fn or_full(self, place: &Path) -> Self {
        let full = kinds(&self).any(is_full);
        match full {
            true => Self::Full(place.to_owned()),
            false => self,
        }
    }

    /// Nobody read what was written.
    pub(super) fn is_broken_pipe(&self) -> bool {
        kinds(self).any(|kind| kind == io::ErrorKind::BrokenPipe)
    }

    /// For `map_err`: what was being done to which path.
    pub(super) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |e| Self::Io {
            doing,
            path: path.to_owned(),
            source: e.into(),
        }
    }
}
