//! A container's root for somebody who is to read or write files in it: a process of ours with nothing to lose, which lives
//! as long as that takes.
//!
//! Of a running container it enters the mount namespace, and no other: what runs in there does not see it. Of one that
//! does not run it mounts the same layers and volumes in a mount namespace of its own, which ends with it; the host's is
//! never touched. What is only read is mounted read-only, the upper directory as one more layer: a container may be
//! started meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::bundle::Overlay;
use crate::embedded::{Doing, mount_overlay, mounts, open_path, sys};
use crate::launch::LaunchError;
use crate::shim::files::{self, Process};

/// Where a container's files are, as [`crate::client::Runtime::view`] finds it; passed on to that process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub overlay: Overlay,
    pub place: Place,
    /// Places in it that are made for mounts, absolute: no change of the container's.
    pub ours: BTreeSet<PathBuf>,
    /// A directory to mount over, seen by nobody else.
    pub at: PathBuf,
}

/// How the files are come by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In its payload's mount namespace.
    Running(Process),
    Resting {
        volumes: Vec<Mount>,
        /// The root is mounted read-only when it runs.
        read_only: bool,
    },
}

/// A container's root in its parts.
#[derive(Debug)]
pub struct Parts {
    /// The upper directory as it is.
    pub upper: OwnedFd,
    /// The overlay, without what is mounted in it.
    pub merged: OwnedFd,
    /// The layers below the upper directory.
    pub base: OwnedFd,
}

impl View {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.place, Place::Running(_))
    }

    /// The root with all that is mounted in it, as the container sees it. This process stays where that leads it.
    ///
    /// # Errors
    /// The container has ended meanwhile; or the kernel does not let us, and how.
    pub fn enter(&self, writable: bool) -> Result<OwnedFd, LaunchError> {
        match &self.place {
            Place::Running(process) => {
                join(*process)?;
                slash()
            }
            Place::Resting { volumes, .. } => self.mount_all(volumes, writable),
        }
    }

    /// The overlay alone.
    pub fn merged(&self) -> Result<OwnedFd, LaunchError> {
        match &self.place {
            Place::Running(process) => {
                join(*process)?;
                overlay_alone()
            }
            Place::Resting { .. } => {
                leave()?;
                mount_overlay(&self.read_only(), false, &self.at)
            }
        }
    }

    /// The overlay and what it is made of.
    pub fn parts(&self) -> Result<Parts, LaunchError> {
        leave()?;
        let upper = &self.overlay.upper;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(upper, flags, Mode::empty());
        let upper = opened.doing(|| format!("opening {}", upper.display()))?;
        let base = mount_overlay(&self.overlay, false, &self.at)?;
        let merged = match &self.place {
            Place::Running(process) => {
                join(*process)?;
                overlay_alone()?
            }
            Place::Resting { .. } => mount_overlay(&self.read_only(), false, &self.at)?,
        };
        Ok(Parts { upper, merged, base })
    }

    /// The upper directory as the topmost of the layers, so that nothing is written and no lock taken.
    fn read_only(&self) -> Overlay {
        let mut overlay = self.overlay.clone();
        overlay.lower.push(overlay.upper.clone());
        overlay
    }

    fn mount_all(&self, volumes: &[Mount], writable: bool) -> Result<OwnedFd, LaunchError> {
        new_namespace()?;
        let mut prepared = mounts::prepare(volumes)?;
        mounts::keep_private(&mut prepared);
        mounts::cut_propagation(false).doing(|| "leaving the host's mounts".to_owned())?;
        let root = match writable {
            true => mount_overlay(&self.overlay, true, &self.at)?,
            false => mount_overlay(&self.read_only(), false, &self.at)?,
        };
        for (volume, mount) in prepared.iter().zip(volumes) {
            // Where nothing is mounted on yet, because it never ran, nothing can be made now.
            if writable || open_path(&root, mount.destination(), OFlags::PATH).is_ok() {
                mounts::make(root.as_fd(), volume)?;
            }
        }
        Ok(root)
    }
}

/// A mount namespace of this process's own, from which nothing shows on the host.
fn leave() -> Result<(), LaunchError> {
    new_namespace()?;
    mounts::cut_propagation(false).doing(|| "leaving the host's mounts".to_owned())
}

fn new_namespace() -> Result<(), LaunchError> {
    sys::not_dumpable().doing(|| "hiding this process".to_owned())?;
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "making a mount namespace".to_owned())
}

/// Enters the mount namespace of this very process.
fn join(process: Process) -> Result<(), LaunchError> {
    sys::not_dumpable().doing(|| "hiding this process".to_owned())?;
    let ended = || LaunchError::Setup("the container has ended meanwhile".to_owned());
    let pid = Pid::from_raw(process.pid.cast_signed()).ok_or_else(ended)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ended())?;
    // Opened first, compared then: the descriptor is of the process that has this start.
    if !files::lives(process) {
        return Err(ended());
    }
    match setns(&pidfd, CloneFlags::CLONE_NEWNS) {
        Err(nix::Error::ESRCH) => Err(ended()),
        result => result.doing(|| "entering the container's mounts".to_owned()),
    }
}

fn slash() -> Result<OwnedFd, LaunchError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).doing(|| "opening the container's root".to_owned())
}

/// A copy of the mount at the root, with none of those below it.
fn overlay_alone() -> Result<OwnedFd, LaunchError> {
    mounts::clone_tree(rustix::fs::CWD, Path::new("/"), false)
        .doing(|| "opening the container's overlay".to_owned())
}

/// Makes this process's own `/proc/self/fd` its working directory: wherever [`View`] leads it, it finds its descriptors
/// as files there. To be opened before and entered after.
#[derive(Debug)]
pub struct OwnFds(OwnedFd);

impl OwnFds {
    /// Opens it, while the host's `/proc` is there.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/proc/self/fd", flags, Mode::empty())?))
    }

    /// Enters it.
    pub fn enter(&self) -> io::Result<()> {
        Ok(rustix::process::fchdir(&self.0)?)
    }
}
