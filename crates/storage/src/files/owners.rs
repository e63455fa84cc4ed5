//! Whose unpacked files become, and so what of an entry besides its content they are given.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::FilesError;
use super::kernel::is_kept;
use crate::tar::{Entry, Time};

/// Whose the files become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Whose the archive says; with them come set-id bits, devices, capabilities and all attributes.
    Archive,
    /// Ours. What gives rights by itself is left out: set-id bits, devices, attributes but `user.`.
    Own,
}

impl Owners {
    /// Owner, mode, attributes, times, in the order in which they do not undo each other.
    pub fn describe(self, fd: &OwnedFd, entry: &Entry, path: &Path) -> Result<(), FilesError> {
        let all = self == Self::Archive;
        if let Some((uid, gid)) = self.owner(entry, path)? {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(FilesError::io("set the owner of", path))?;
        }
        rustix::fs::fchmod(fd, self.mode(entry)).map_err(FilesError::io("set the mode of", path))?;
        for (name, value) in &entry.xattrs {
            if !is_kept(name) || !(all || name.starts_with(b"user.")) {
                continue;
            }
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // A file system may lack attributes; but no program silently loses its capabilities.
                Err(Errno::OPNOTSUPP | Errno::PERM) if name != b"security.capability" => {}
                other => other.map_err(FilesError::io("set an attribute of", path))?,
            }
        }
        rustix::fs::futimens(fd, &times(entry.mtime)).map_err(FilesError::io("set the time of", path))
    }

    /// Owner and time of what cannot be opened: a link, device or FIFO.
    pub fn describe_by_name(
        self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        path: &Path,
    ) -> Result<(), FilesError> {
        let stay = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner(entry, path)? {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), stay)
                .map_err(FilesError::io("set the owner of", path))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), stay)
            .map_err(FilesError::io("set the time of", path))
    }

    pub fn mode(self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(match self {
            Self::Archive => entry.mode,
            Self::Own => entry.mode & 0o1777,
        })
    }

    fn owner(self, entry: &Entry, path: &Path) -> Result<Option<(Uid, Gid)>, FilesError> {
        if self == Self::Own {
            return Ok(None);
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
            _ => Err(FilesError::refused(path, "its owner is not possible on Linux")),
        }
    }
}

pub fn times(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
