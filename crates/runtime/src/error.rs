//! Why something with a container could not be done. The texts are for users.

use std::io;
use std::path::{Path, PathBuf};

use model::name::{ContainerId, Name};

/// A failure of [`crate::client::Runtime`].
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("container {name}: cannot start its shim: {why}")]
    Spawn { name: Name, why: String },
    #[error("container {name}: cannot connect it to its networks: {why}")]
    Attach { name: Name, why: String },
    #[error("container {}: cannot {doing} its cgroups: {source}", id.short())]
    Cgroup {
        id: ContainerId,
        doing: &'static str,
        #[source]
        source: crate::cgroup::CgroupError,
    },
    #[error(transparent)]
    Hierarchies(crate::cgroup::CgroupError),
    /// The shim lives and does not answer, or not what was expected.
    #[error("container {}: its shim does not answer: {source}", id.short())]
    Silent {
        id: ContainerId,
        #[source]
        source: io::Error,
    },
    /// The shim said no.
    #[error("container {}: {why}", id.short())]
    Refused { id: ContainerId, why: String },
    #[error("container {}: there is no such container here, or it was never prepared", id.short())]
    Unknown { id: ContainerId },
    /// The text says which, as the kernel or the runtime names them.
    #[error("container {}: cannot put the new content of its configs in place: {why}", id.short())]
    Contents { id: ContainerId, why: String },
    #[error("container {}: it is not running", id.short())]
    NotRunning { id: ContainerId },
    #[error("container {}: cannot {doing}: {source}", id.short())]
    Exec {
        id: ContainerId,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Bundle(#[from] crate::bundle::BundleError),
    #[error(transparent)]
    Prepare(#[from] crate::prepare::PrepareError),
}

impl RuntimeError {
    /// For `map_err`: what was being done to which file.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// For `map_err`: what was being done for a further process.
    pub(crate) fn exec(id: &ContainerId, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let id = id.clone();
        move |source| Self::Exec { id, doing, source }
    }

    /// For `map_err`: a shim that does not answer.
    pub(crate) fn silent(id: &ContainerId) -> impl FnOnce(io::Error) -> Self {
        let id = id.clone();
        move |source| Self::Silent { id, source }
    }
}
