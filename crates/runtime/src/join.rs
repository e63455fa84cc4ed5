//! Living in another container's namespaces (`container:NAME`): finding them, and entering them.
//!
//! Network, host name and ipc namespace are those of the owner's shim, and so last from run to run of it: they are
//! entered by the shim that shares them, once. A pid namespace lasts as long as one run of its owner, and so does what
//! is mounted at its `/dev/shm`: they are looked up anew for each run. Whoever owns them is known by its lock and by its
//! processes' starts, never by a pid alone; a namespace is opened first, and its process looked at again then.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::bundle::{Owner, Shared};
use crate::embedded::{Doing, filesystem_magic};
use crate::launch::LaunchError;
use crate::shim::files::{self, Process, ShimState};

/// TMPFS_MAGIC of statfs(2).
const TMPFS: i64 = 0x0102_1994;

/// Enters the namespaces that last, from a shim whose run dir this is. With the network comes the host name.
pub(crate) fn enter(run_dir: &Path, shared: &Shared) -> Result<(), LaunchError> {
    if let Some(owner) = &shared.net {
        let shim = state(run_dir, owner, "network")?.shim;
        for (kind, flag) in [
            ("net", CloneFlags::CLONE_NEWNET),
            ("uts", CloneFlags::CLONE_NEWUTS),
        ] {
            enter_one(owner, "network", shim, kind, flag)?;
        }
    }
    if let Some(owner) = &shared.ipc {
        let shim = state(run_dir, owner, "ipc namespace")?.shim;
        enter_one(owner, "ipc namespace", shim, "ipc", CloneFlags::CLONE_NEWIPC)?;
    }
    Ok(())
}

/// Has children of this process begin in the pid namespace of its owner's payload, if it shares one.
pub(crate) fn enter_pids(run_dir: &Path, shared: &Shared) -> Result<(), LaunchError> {
    let Some(owner) = &shared.pid else {
        return Ok(());
    };
    let payload = payload(run_dir, owner, "processes")?;
    enter_one(owner, "processes", payload, "pid", CloneFlags::CLONE_NEWPID)
}

/// What is wrong where no process could be made after [`enter_pids`]: the kernel says ENOMEM of a pid namespace whose first
/// process has ended (pid_namespaces(7)).
pub(crate) fn refused(shared: &Shared, error: io::Error) -> LaunchError {
    match &shared.pid {
        Some(owner) if error.raw_os_error() == Some(libc::ENOMEM) => not_running(owner, "processes"),
        _ => LaunchError::Setup(format!("making the container's namespaces: {error}")),
    }
}

/// The path of that pid namespace, for a runtime that enters it itself.
pub(crate) fn pids_path(run_dir: &Path, shared: &Shared) -> Result<Option<String>, LaunchError> {
    let Some(owner) = &shared.pid else {
        return Ok(None);
    };
    let payload = payload(run_dir, owner, "processes")?;
    Ok(Some(format!("/proc/{}/ns/pid", payload.pid)))
}

/// A detached copy of the mount at `/dev/shm` of the container whose ipc namespace is shared. For a process with one
/// thread: it goes there and comes back.
pub(crate) fn shared_memory(run_dir: &Path, shared: &Shared) -> Result<Option<OwnedFd>, LaunchError> {
    let Some(owner) = &shared.ipc else {
        return Ok(None);
    };
    let payload = payload(run_dir, owner, "ipc namespace")?;
    let what = || format!("opening /dev/shm of container {}", owner.name);
    let back = File::open("/proc/self/ns/mnt").doing(what)?;
    enter_one(owner, "ipc namespace", payload, "mnt", CloneFlags::CLONE_NEWNS)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let opened = open_tree(CWD, "/dev/shm", flags);
    setns(&back, CloneFlags::CLONE_NEWNS).doing(what)?;
    let tree = opened.doing(what)?;
    // What else its owner may have put there is none of the sharer's business.
    if filesystem_magic(&tree).doing(what)? != TMPFS {
        return Err(LaunchError::Setup(format!("{}: it is no tmpfs any more", what())));
    }
    Ok(Some(tree))
}

fn enter_one(
    owner: &Owner,
    what: &str,
    process: Process,
    kind: &str,
    flag: CloneFlags,
) -> Result<(), LaunchError> {
    let path = format!("/proc/{}/ns/{kind}", process.pid);
    let namespace = match File::open(&path) {
        Ok(file) if files::lives(process) => file,
        // Of one that is just ending it may be refused as well.
        Err(e) if e.kind() != io::ErrorKind::NotFound && files::lives(process) => {
            return Err(e).doing(|| format!("opening {path}"));
        }
        Ok(_) | Err(_) => return Err(not_running(owner, what)),
    };
    setns(namespace.as_fd(), flag).doing(|| format!("entering the {what} of container {}", owner.name))
}

fn not_running(owner: &Owner, what: &str) -> LaunchError {
    LaunchError::Setup(format!(
        "container {}, whose {what} it shares, is not running: start that one first",
        owner.name
    ))
}

fn payload(run_dir: &Path, owner: &Owner, what: &str) -> Result<Process, LaunchError> {
    let payload = state(run_dir, owner, what)?.payload;
    payload.ok_or_else(|| not_running(owner, what))
}

/// What the owner's shim says of itself, if it lives. All run dirs lie side by side.
fn state(run_dir: &Path, owner: &Owner, what: &str) -> Result<ShimState, LaunchError> {
    let look = |dir: &Path| -> io::Result<Option<ShimState>> {
        if !detach::lock::is_held(&dir.join("shim.lock"))? {
            return Ok(None);
        }
        let state: Option<ShimState> = files::read(&dir.join("state.json"))?;
        Ok(state.filter(|state| files::lives(state.shim)))
    };
    let dir = owner.id.as_ref().map(|id| run_dir.with_file_name(id.as_str()));
    let found = dir
        .map(|dir| look(&dir).doing(|| format!("looking at container {}", owner.name)))
        .transpose()?;
    found.flatten().ok_or_else(|| not_running(owner, what))
}
