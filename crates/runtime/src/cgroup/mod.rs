//! Control groups of containers: `PARENT/NAME-ID12/{shim,payload}`, on cgroup v2, v1, and both at once (hybrid).
//!
//! Only hierarchies with a use are touched, never systemd's own (`name=systemd`). After
//! Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.

mod devices;
mod hierarchy;
pub mod limits;
mod moves;
mod set;
mod sys;

pub use devices::{Access, DeviceKind, DeviceRule};
pub use hierarchy::{Hierarchies, Mode};
pub(crate) use moves::Moves;
pub use set::CgroupSet;

use std::io;
use std::path::PathBuf;

/// The leaf the shim runs in.
pub const SHIM: &str = "shim";
/// The leaf the payload runs in; limits go here.
pub const PAYLOAD: &str = "payload";

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "no control groups are mounted below /sys/fs/cgroup: mount them (cgroup2 on /sys/fs/cgroup) and try again"
    )]
    NotMounted,
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("processes in {path} are still there after being killed", path = path.display())]
    StillPopulated { path: PathBuf },
    #[error("the kernel refused the device program of {path}: {source}", path = path.display())]
    DeviceProgram {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// Names of the groups below a parent (`NAME-ID12`), in any hierarchy: what leftovers are found by.
pub fn list(hierarchies: &Hierarchies, parent: &str) -> Result<Vec<String>, CgroupError> {
    let mut names = std::collections::BTreeSet::new();
    for dir in hierarchies.dirs(parent) {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(CgroupError::io("listing control groups in", dir)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(CgroupError::io("listing control groups in", &dir))?;
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                names.extend(entry.file_name().to_str().map(str::to_owned));
            }
        }
    }
    Ok(names.into_iter().collect())
}
