//! Copying a tree below descriptors, with all that its files are besides their content. Nothing is followed.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// How deep directories may be nested. Each level takes two descriptors.
const DEEPEST: usize = 300;

/// Copies what is in a directory, and the directory's own owner, mode, attributes and times.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut copy = Copy {
        top: to.as_fd(),
        linked: BTreeMap::new(),
        path: PathBuf::new(),
    };
    let done = copy
        .directory(from, to)
        .and_then(|()| Meta::itself(from)?.apply_to(to));
    done.map_err(|e| told(&copy.path, &e))
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "no space left on the file system of the volume: free some, it is tried again".to_owned()
        }
        _ if path.as_os_str().is_empty() => error.to_string(),
        _ => format!("{}: {error}", path.display()),
    };
    io::Error::new(error.kind(), text)
}

/// A name in a directory by way of its descriptor, for calls that take paths only; the last part is not followed.
pub fn through(directory: impl AsFd, name: &OsStr) -> PathBuf {
    let fd = directory.as_fd().as_raw_fd();
    Path::new(&format!("/proc/self/fd/{fd}")).join(name)
}

pub fn directory(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

pub fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// One copy under way.
struct Copy<'a> {
    /// The directory that is filled.
    top: BorrowedFd<'a>,
    /// Files with several names, by device and inode: under which name below `top` the first one was made.
    linked: BTreeMap<(u64, u64), PathBuf>,
    /// Where it is.
    path: PathBuf,
}

impl Copy<'_> {
    /// Copies what is in a directory; its own owner, mode and times come after that.
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        if self.path.components().count() > DEEPEST {
            let why = format!("directories are nested more than {DEEPEST} deep");
            return Err(io::Error::other(why));
        }
        for name in names(from)? {
            self.path.push(&name);
            self.entry(from, to, &name)?;
            // Only so far as all went well: what is left of it tells where it did not.
            self.path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let meta = Meta::of(from, name)?;
        let several = !matches!(meta.kind(), FileType::Directory) && meta.stat.st_nlink > 1;
        let inode = (meta.stat.st_dev, meta.stat.st_ino);
        if several && let Some(first) = self.linked.get(&inode) {
            return Ok(rustix::fs::linkat(self.top, first, to, name, AtFlags::empty())?);
        }
        match meta.kind() {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let below = (directory(from, Path::new(name))?, directory(to, Path::new(name))?);
                self.directory(&below.0, &below.1)?;
            }
            FileType::RegularFile => file(from, to, name)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
            }
            kind => rustix::fs::mknodat(to, name, kind, Mode::empty(), meta.stat.st_rdev)?,
        }
        if several {
            self.linked.insert(inode, self.path.clone());
        }
        meta.apply(to, name)
    }
}

/// Copies a file's content, holes left as holes.
fn file(from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = File::from(rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
    let size = source.metadata()?.len();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(at)) {
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        copy.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut Read::by_ref(&mut source).take(end - start), &mut copy)?;
        if copied < end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    copy.set_len(size)
}

/// What a file is besides its content.
pub struct Meta {
    stat: Stat,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Meta {
    /// Of a directory itself.
    pub fn itself(directory: &OwnedFd) -> io::Result<Self> {
        Self::of(directory, OsStr::new("."))
    }

    /// To a directory itself.
    pub fn apply_to(&self, directory: &OwnedFd) -> io::Result<()> {
        self.apply(directory, OsStr::new("."))
    }

    /// Of an entry that is not followed; `.` is the directory itself.
    fn of(directory: &OwnedFd, name: &OsStr) -> io::Result<Self> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = through(directory, name);
        let mut xattrs = Vec::new();
        for attribute in list_xattrs(&path)? {
            if is_copied(attribute.to_bytes()) {
                let mut value = vec![0; rustix::fs::lgetxattr_query(&path, &attribute)?];
                let length = rustix::fs::lgetxattr(&path, &attribute, &mut value[..])?;
                value.truncate(length);
                xattrs.push((attribute, value));
            }
        }
        Ok(Self { stat, xattrs })
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// In the order in which they do not undo each other: the owner (it clears setuid bits and capabilities), the
    /// mode, attributes, times.
    fn apply(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let stay = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Uid::from_raw(self.stat.st_uid), Gid::from_raw(self.stat.st_gid));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), stay)?;
        if self.kind() != FileType::Symlink {
            let mode = Mode::from_raw_mode(self.stat.st_mode & 0o7777);
            rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
        }
        let path = through(directory, name);
        for (attribute, value) in &self.xattrs {
            match rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty()) {
                // A file system may lack attributes; but no program silently loses its capabilities.
                Err(Errno::OPNOTSUPP) if attribute.to_bytes() != b"security.capability" => {}
                other => other?,
            }
        }
        let times = Timestamps {
            last_access: time(self.stat.st_atime, self.stat.st_atime_nsec as i64),
            last_modification: time(self.stat.st_mtime, self.stat.st_mtime_nsec as i64),
        };
        Ok(rustix::fs::utimensat(directory, name, &times, stay)?)
    }
}

fn time(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    }
}

fn list_xattrs(path: &Path) -> io::Result<Vec<CString>> {
    let size = match rustix::fs::llistxattr_query(path) {
        Err(Errno::OPNOTSUPP) | Ok(0) => return Ok(Vec::new()),
        other => other?,
    };
    let mut list = vec![0; size];
    let length = rustix::fs::llistxattr(path, &mut list[..])?;
    let names = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

/// Capabilities, ACLs and what users and root keep there; not what overlayfs or the host's security module says of the
/// image's own files.
fn is_copied(attribute: &[u8]) -> bool {
    let overlays = [&b"trusted.overlay."[..], b"user.overlay."];
    let kept = [&b"user."[..], b"trusted.", b"system.posix_acl_"];
    attribute == b"security.capability"
        || (kept.iter().any(|start| attribute.starts_with(start))
            && !overlays.iter().any(|start| attribute.starts_with(start)))
}
