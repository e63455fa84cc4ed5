//! Owner, mode, extended attributes and times, in the order in which they do not undo each other: the owner first (it
//! clears setuid bits and capabilities), then the mode, then attributes, then times.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::EntryError;
use crate::tar::Entry;

const OPAQUE: &str = "trusted.overlay.opaque";

/// What an entry says of its file besides the content.
pub struct Meta<'a> {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    times: Timestamps,
    xattrs: Vec<(&'a OsStr, &'a [u8])>,
}

impl<'a> Meta<'a> {
    pub fn of(entry: &'a Entry) -> Result<Self, EntryError> {
        let bad = || EntryError::Owner {
            uid: entry.uid,
            gid: entry.gid,
        };
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let time = Timespec {
            tv_sec: entry.mtime.seconds,
            tv_nsec: entry.mtime.nanoseconds.into(),
        };
        let attributes = entry.xattrs.iter().filter(|(name, _)| !is_overlays(name));
        Ok(Self {
            uid: Uid::from_raw(id(entry.uid).ok_or_else(bad)?),
            gid: Gid::from_raw(id(entry.gid).ok_or_else(bad)?),
            mode: Mode::from_raw_mode(entry.mode),
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
            xattrs: attributes
                .map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
                .collect(),
        })
    }

    pub fn times(&self) -> Timestamps {
        self.times.clone()
    }

    /// To an open file or directory.
    pub fn apply_to(&self, fd: &OwnedFd) -> Result<(), EntryError> {
        rustix::fs::fchown(fd, Some(self.uid), Some(self.gid)).map_err(EntryError::io("set its owner"))?;
        rustix::fs::fchmod(fd, self.mode).map_err(EntryError::io("set its mode"))?;
        for (name, value) in &self.xattrs {
            let result = rustix::fs::fsetxattr(fd, *name, value, XattrFlags::empty());
            check_xattr(name, result)?;
        }
        rustix::fs::futimens(fd, &self.times).map_err(EntryError::io("set its time"))
    }

    /// To what must not or cannot be opened: links, devices and FIFOs, just made under this name.
    pub fn apply_by_name(&self, parent: &OwnedFd, name: &OsStr, kind: FileType) -> Result<(), EntryError> {
        let stay = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(self.uid), Some(self.gid), stay)
            .map_err(EntryError::io("set its owner"))?;
        if kind != FileType::Symlink {
            rustix::fs::chmodat(parent, name, self.mode, AtFlags::empty())
                .map_err(EntryError::io("set its mode"))?;
        }
        if !self.xattrs.is_empty() {
            let path = by_descriptor(parent, name);
            for (name, value) in &self.xattrs {
                let result = rustix::fs::lsetxattr(&path, *name, value, XattrFlags::empty());
                check_xattr(name, result)?;
            }
        }
        rustix::fs::utimensat(parent, name, &self.times, stay).map_err(EntryError::io("set its time"))
    }
}

/// A directory that only the paths of others imply.
pub fn implied_directory(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, EntryError> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(EntryError::io("make its directory"))?;
    let fd = super::root::open_child(parent, name)?;
    plain_directory(&fd)?;
    Ok(fd)
}

/// What an implied directory gets: the same layer is the same directory each time.
pub fn epoch() -> Timestamps {
    let time = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// 0755 root:root without ACLs, whatever was inherited.
pub fn plain_directory(fd: &OwnedFd) -> Result<(), EntryError> {
    for acl in ["system.posix_acl_access", "system.posix_acl_default"] {
        // Nearly always there is none, or the file system knows none.
        let _ = rustix::fs::fremovexattr(fd, acl);
    }
    rustix::fs::fchown(fd, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(EntryError::io("set its owner"))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(0o755)).map_err(EntryError::io("set its mode"))
}

/// Nothing of lower layers is to be seen in this directory.
pub fn set_opaque(fd: &OwnedFd) -> Result<(), EntryError> {
    rustix::fs::fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty())
        .map_err(EntryError::io("mark the directory opaque"))
}

/// Whether [`set_opaque`] was done to it.
pub fn is_opaque(fd: &OwnedFd) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(fd, OPAQUE, &mut value) == Ok(1) && value == *b"y"
}

/// Nothing of lower layers is to be seen under this name.
pub fn whiteout(parent: &OwnedFd, name: &OsStr) -> Result<(), EntryError> {
    let making = "make the whiteout";
    rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(EntryError::io(making))?;
    let stay = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, Some(Uid::ROOT), Some(Gid::ROOT), stay).map_err(EntryError::io(making))
}

pub fn inode(fd: &OwnedFd) -> Result<u64, EntryError> {
    let stat = rustix::fs::fstat(fd).map_err(EntryError::io("look at it"))?;
    Ok(stat.st_ino)
}

/// Overlayfs takes orders from these; an image must not give them.
fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// A file system may lack attributes, and links take no `user.` ones; but a program must not silently lose its
/// capabilities.
fn check_xattr(name: &OsStr, result: Result<(), Errno>) -> Result<(), EntryError> {
    match result {
        Err(Errno::OPNOTSUPP) if name != "security.capability" => Ok(()),
        Err(Errno::PERM) if name.as_bytes().starts_with(b"user.") => Ok(()),
        other => other.map_err(EntryError::io("set its extended attributes")),
    }
}

/// The name by way of its directory's descriptor, for calls that know no descriptors; the last part is not followed.
fn by_descriptor(parent: &OwnedFd, name: &OsStr) -> OsString {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", parent.as_raw_fd()));
    path.push(name);
    path
}
