//! Copy-up: a new volume is given what the image has at its place.
//!
//! Once in a volume's life, by the first container whose image has a directory there: its files with owners, modes,
//! times, extended attributes and hard links, and the directory's own owner and mode. A volume that came to data in any
//! other way is never touched. The image is hostile: all of it is walked by descriptors below its root, no link is
//! followed.
//!
//! Beside the data (`_data`) lie, while it is done, `.fill` (being copied) and `.fill-ready` (copied, on disk, being
//! moved over). Whoever finds the latter goes on with the move, so that a volume is given all or nothing; what a
//! container wrote meanwhile stays. The lock on the directory around the data (flock(2)) keeps containers that start
//! at the same time from doing it twice. At the end stands the mark `filled`.

mod tree;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use model::paths::{VOLUME_DATA, VOLUME_FILLED};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::embedded::{Doing, open_path};
use crate::launch::LaunchError;
use tree::{Meta, directory, names, through};

const FILL: &str = ".fill";
const READY: &str = ".fill-ready";

/// A volume that may have to be given something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The directory that holds its data as `_data`.
    pub home: PathBuf,
}

/// The same with its directories open, before anything is mounted over them.
pub struct Opened<'a> {
    target: &'a Path,
    home: OwnedFd,
    data: OwnedFd,
}

/// Opens the directories of all.
pub fn open(fills: &[Fill]) -> Result<Vec<Opened<'_>>, LaunchError> {
    let one = |fill| -> io::Result<Opened<'_>> {
        let Fill { target, home }: &Fill = fill;
        let fd = directory(CWD, home)?;
        let data = directory(&fd, Path::new(VOLUME_DATA))?;
        Ok(Opened {
            target,
            home: fd,
            data,
        })
    };
    let what = |fill: &Fill| format!("opening the volume in {}", fill.home.display());
    fills.iter().map(|fill| one(fill).doing(|| what(fill))).collect()
}

/// Gives a volume what the image below `root` has, if that is still to be done.
pub fn fill(root: BorrowedFd<'_>, volume: &Opened<'_>) -> Result<(), LaunchError> {
    let what = || {
        let target = volume.target.display();
        format!("giving the volume at {target} what the image has there")
    };
    if is_filled(&volume.home) {
        return Ok(());
    }
    let Some(source) = of_image(root, volume.target).doing(what)? else {
        return Ok(());
    };
    lock(&volume.home, FlockOperation::LockExclusive).doing(what)?;
    let filled = fill_locked(&source, volume);
    if filled.is_err() {
        // A full disk is no fuller for having tried. What cannot be removed is, by the next one.
        let _ = remove(&volume.home, FILL);
    }
    filled.doing(what)?;
    lock(&volume.home, FlockOperation::Unlock).doing(what)
}

/// The image's directory at the target; none where it has none.
fn of_image(root: BorrowedFd<'_>, target: &Path) -> io::Result<Option<OwnedFd>> {
    match open_path(root, target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
        other => other.map(Some),
    }
}

fn lock(home: &OwnedFd, how: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(home, how) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn is_filled(home: &OwnedFd) -> bool {
    rustix::fs::statat(home, VOLUME_FILLED, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn fill_locked(source: &OwnedFd, volume: &Opened<'_>) -> io::Result<()> {
    let Opened { home, data, .. } = volume;
    if is_filled(home) {
        return Ok(());
    }
    let ready = match directory(home, Path::new(READY)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    let ready = match ready {
        Some(ready) => Some(ready),
        None if names(data)?.is_empty() => Some(copy_aside(source, home)?),
        None => None,
    };
    if let Some(ready) = ready {
        move_over(&ready, data)?;
    }
    remove(home, READY)?;
    mark(home)
}

/// Copies the image's directory beside the data, and has all of it on disk before it gets its name.
fn copy_aside(source: &OwnedFd, home: &OwnedFd) -> io::Result<OwnedFd> {
    remove(home, FILL)?;
    rustix::fs::mkdirat(home, FILL, Mode::RWXU)?;
    let copied = directory(home, Path::new(FILL))?;
    tree::copy(source, &copied)?;
    rustix::fs::syncfs(home)?;
    rustix::fs::renameat(home, FILL, home, READY)?;
    rustix::fs::fsync(home)?;
    Ok(copied)
}

/// Moves what was copied to where containers see it. What is there under the same name stays: somebody wrote it since.
fn move_over(ready: &OwnedFd, data: &OwnedFd) -> io::Result<()> {
    // Looked at first and set last: moving changes its time.
    let meta = Meta::itself(ready)?;
    for name in names(ready)? {
        match move_one(ready, data, &name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    meta.apply_to(data)?;
    Ok(rustix::fs::fsync(data)?)
}

fn move_one(from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag.
        Err(Errno::INVAL) => match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(_) => rustix::fs::renameat(from, name, to, name),
        },
        other => other,
    }
}

fn mark(home: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(home, VOLUME_FILLED, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(rustix::fs::fsync(home)?)
}

fn remove(home: &OwnedFd, name: &str) -> io::Result<()> {
    match std::fs::remove_dir_all(through(home, OsStr::new(name))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
