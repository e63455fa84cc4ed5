//! Giving a running container the files as they are now. Done by a short-lived child of ours (`wharf refresh`), which
//! opens them on the host, enters the payload's mount namespace, and exchanges the mounts ([`super::swap`]).
//!
//! In there it holds nothing but the files themselves and its own /proc. Its pid namespace stays the host's, so that the
//! container does not see it; it is not dumpable, runs from the read-only clone of our binary, executes nothing, and is
//! killed when it takes too long: what it meets inside may be made to never answer.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::swap::{Found, Inside, Source};
use crate::child;
use crate::embedded::{Doing, mount_attributes, sys};
use crate::launch::LaunchError;
use crate::shim::files::{self, Process};

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// In whose mount namespace.
    pub payload: Process,
    pub files: Vec<Shown>,
    /// False: as on a kernel that cannot put a mount beneath another one.
    pub beneath: bool,
}

/// A file or directory of the host and where it is to be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub source: PathBuf,
    pub target: PathBuf,
    /// MOUNT_ATTR_* of mount_setattr(2).
    pub attributes: u64,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// What was found at each place.
    Done(Vec<Found>),
    /// That payload has ended.
    Ended,
    Failed(String),
}

/// The mounts of a bundle that lead into these contents.
pub fn shown(spec: &Spec, contents: &Path) -> Vec<Shown> {
    let of = |mount: &Mount| {
        let source = mount.source().clone()?;
        source.starts_with(contents).then(|| Shown {
            source,
            target: mount.destination().clone(),
            attributes: mount_attributes(mount),
        })
    };
    spec.mounts().iter().flatten().filter_map(of).collect()
}

/// What the command `wharf refresh` runs: a request on standard input, the answer on standard output.
pub fn child_main() -> ExitCode {
    child::answer(act, |e| Answer::Failed(e.to_string()))
}

fn act(request: &Request) -> Result<Answer, LaunchError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own =
        rustix::fs::open("/proc/self", flags, Mode::empty()).doing(|| "opening /proc/self".to_owned())?;
    sys::not_dumpable().doing(|| "hiding this process".to_owned())?;
    rustix::process::umask(Mode::empty());
    let sources: Vec<Source> = request
        .files
        .iter()
        .map(|file| {
            Source::open(&file.source, file.attributes).doing(|| format!("opening {}", file.source.display()))
        })
        .collect::<Result<_, _>>()?;
    if !enter(request.payload)? {
        return Ok(Answer::Ended);
    }
    let root = rustix::fs::openat(CWD, c"/", flags, Mode::empty())
        .doing(|| "opening the container's root".to_owned())?;
    let inside = Inside {
        root,
        own,
        beneath: request.beneath,
    };
    let show = |(file, source): (&Shown, &Source)| {
        let found = inside.show(source, &file.target);
        found.doing(|| format!("replacing {}", file.target.display()))
    };
    let found: Result<_, _> = request.files.iter().zip(&sources).map(show).collect();
    found.map(Answer::Done)
}

/// Enters a payload's mount namespace; false where it has ended. The namespace is opened first, and its process looked at
/// again then.
fn enter(payload: Process) -> Result<bool, LaunchError> {
    let path = format!("/proc/{}/ns/mnt", payload.pid);
    let namespace = match File::open(&path) {
        Ok(file) if files::lives(payload) => file,
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound) && files::lives(payload) => {
            return Err(e).doing(|| format!("opening {path}"));
        }
        Ok(_) | Err(_) => return Ok(false),
    };
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)
        .doing(|| "entering the container".to_owned())
        .map(|()| true)
}
