//! Where things lie under the state dir (kept) and the run dir (this boot's).

use std::path::{Path, PathBuf};

use crate::name::ContainerId;

/// In a volume's directory, what containers see of it.
pub const VOLUME_DATA: &str = "_data";

/// In a volume's directory, the sign that it was given what an image has at its place, or came to data otherwise: that
/// is done once in its life.
pub const VOLUME_FILLED: &str = "filled";

/// The two roots of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/var/lib/wharf`: images, layers, logs, ledger.
    pub state: PathBuf,
    /// `/run/wharf`: sockets, locks, bundles; stale when its `boot_id` is not this boot's.
    pub run: PathBuf,
}

impl Roots {
    /// Kept directory of one container: upper, work, log, exit record.
    pub fn container_state(&self, id: &ContainerId) -> PathBuf {
        self.state.join("containers").join(id.as_str())
    }

    /// This boot's directory of one container: bundle, shim's socket and lock.
    pub fn container_run(&self, id: &ContainerId) -> PathBuf {
        self.run.join("containers").join(id.as_str())
    }

    /// This boot's files of one container with what its configs and secrets hold: only ever in the run dir, which is
    /// memory.
    pub fn container_contents(&self, id: &ContainerId) -> PathBuf {
        self.run.join("contents").join(id.as_str())
    }

    /// The ledger.
    pub fn ledger(&self) -> PathBuf {
        self.state.join("ledger.json")
    }

    /// The API socket's default place.
    pub fn socket(&self) -> PathBuf {
        self.run.join("wharf.sock")
    }

    /// Named volumes, each as `NAME/` with [`VOLUME_DATA`] where the data is ours to keep.
    pub fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// Where volumes of servers are mounted, each as `NAME/`: never below a directory whose content is ever swept.
    pub fn nfs(&self) -> PathBuf {
        self.run.join("nfs")
    }

    /// The content store.
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }
}

/// A path's text for messages and JSON.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
