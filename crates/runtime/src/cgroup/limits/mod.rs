//! `[container.NAME.limits]` on a payload's control groups, on cgroup v1 and v2.
//!
//! [`apply`] makes the groups say exactly what the table says, a limit that was taken away included, and is idempotent:
//! it serves before a run and on a running container alike. [`check`] asks the kernel beforehand, with a group made for
//! the question, so that what this host cannot enforce is said before anything is started.
//!
//! After the kernel's Documentation/admin-guide/cgroup-v1/{memory,cpusets,pids,blkio-controller}.rst,
//! Documentation/scheduler/sched-bwc.rst and cgroup-v2.rst; conversions between the two as runc and crun make them.

mod cpuset;
mod room;
mod settings;

pub(super) use cpuset::inherit;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use model::spec::Limits;

use super::{CgroupError, CgroupSet, Hierarchies, PAYLOAD};

/// Why a limit cannot be had here. The text is for users; it does not name the container.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error(
        "limits.{limit} cannot be enforced on this host: {}: {remedy}, or leave the limit out",
        missing(.controller, .file)
    )]
    Unsupported {
        limit: &'static str,
        controller: &'static str,
        /// What should be there; none where the whole controller is not mounted.
        file: Option<PathBuf>,
        remedy: &'static str,
    },
    #[error(
        "limits.memory_swap needs limits.memory beside it: it is memory and swap together, and this host's cgroup v2 counts them apart"
    )]
    SwapAlone,
    #[error(
        "limits.cpuset = {wanted:?} names cores that are not there for containers on this host: it has {available:?}"
    )]
    Cores { wanted: String, available: String },
    #[error(
        "limits.{limit} cannot be lowered to {value}: the container uses more than that already, and it cannot be taken from it: restart it with the new limit, or set a higher one"
    )]
    InUse { limit: &'static str, value: String },
    #[error("limits.{limit}: writing {value:?} to {file}: {source}", file = file.display())]
    Refused {
        limit: &'static str,
        value: String,
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("limits.cpuset: {doing} {path}: {source}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn missing(controller: &str, file: &Option<PathBuf>) -> String {
    match file {
        Some(file) => format!("there is no {}", file.display()),
        None => format!("there is no cgroup controller {controller:?}"),
    }
}

impl LimitError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

/// One line to one file of the kernel's.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    /// The key it comes from.
    limit: &'static str,
    file: PathBuf,
    value: String,
}

/// Makes the limits of a group (a payload's, which is there) what they are in the table. Files that already say so are
/// not written.
///
/// On an error what was written before stays: the caller tries again, or does not run the container.
pub fn apply(set: &CgroupSet, limits: &Limits) -> Result<(), LimitError> {
    for setting in settings::settings(set, limits)? {
        write(&setting)?;
    }
    cpuset::apply(set, limits.cpuset.as_deref())
}

/// Whether all these limits can be had below a parent of containers (`/wharf`): asked of the kernel on a group that is
/// there for the question alone. Nothing is made where there is nothing to ask.
pub fn check(hierarchies: &Hierarchies, parent: &str, limits: &Limits) -> Result<(), LimitError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if *limits == Limits::default() {
        return Ok(());
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("check-{}-{number}", std::process::id());
    let group = CgroupSet::new(hierarchies, parent, &name);
    // As deep as a container's, so that controllers are passed on just as far.
    let payload = group.child(PAYLOAD);
    let answer = payload
        .create()
        .map_err(LimitError::from)
        .and_then(|()| apply(&payload, limits));
    group.remove()?;
    answer
}

fn write(setting: &Setting) -> Result<(), LimitError> {
    room::make(setting)?;
    let write = || {
        // Never made: a file that is not the kernel's would enforce nothing.
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&setting.file)?;
        file.write_all(setting.value.as_bytes())
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => LimitError::InUse {
            limit: setting.limit,
            value: setting.value.clone(),
        },
        _ => LimitError::Refused {
            limit: setting.limit,
            value: setting.value.clone(),
            file: setting.file.clone(),
            source,
        },
    })
}

#[cfg(test)]
mod tests;
