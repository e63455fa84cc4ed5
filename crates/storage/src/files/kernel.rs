//! What is asked of the kernel about one file: its content, its attributes, whether it is a file of the kernel's own.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::by_name::is;

/// Where this process finds its own descriptors as files: `/proc/self/fd`, or the working directory of a process that lives
/// in somebody else's mount namespace and opened that directory before.
#[derive(Clone, Debug)]
pub struct Fds(PathBuf);

impl Default for Fds {
    fn default() -> Self {
        Self("/proc/self/fd".into())
    }
}

impl Fds {
    /// For a process whose working directory is its own `/proc/self/fd`.
    pub fn here() -> Self {
        Self(PathBuf::new())
    }

    /// The descriptor's file, whatever it is called by now.
    pub fn path(&self, fd: impl AsFd) -> PathBuf {
        self.0.join(fd.as_fd().as_raw_fd().to_string())
    }

    /// A regular file for reading, if that is what the name is; nothing else is ever opened but by O_PATH, so that no device
    /// is set going and no FIFO waited for.
    pub fn open_file(&self, parent: impl AsFd, name: &OsStr) -> io::Result<Option<(OwnedFd, Stat)>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if !is(&stat, FileType::RegularFile) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, self.path(&fd), flags, Mode::empty())?;
        Ok(Some((opened, stat)))
    }
}

/// What belongs to a file wherever it goes: capabilities, ACLs, what users and root keep there; neither what overlayfs says
/// of its own, nor a security module's labels, which are the host's.
pub fn is_kept(attribute: &[u8]) -> bool {
    let overlays = [&b"trusted.overlay."[..], b"user.overlay."];
    let kept = [&b"user."[..], b"trusted.", b"system.posix_acl_"];
    attribute == b"security.capability"
        || (kept.iter().any(|start| attribute.starts_with(start))
            && !overlays.iter().any(|start| attribute.starts_with(start)))
}

/// The attributes of an open file or directory that are kept.
pub fn xattrs(fd: &OwnedFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut list = vec![0; 4096];
    let length = match rustix::fs::flistxattr(fd, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(all),
        Err(Errno::RANGE) => {
            list.resize(64 * 1024, 0);
            rustix::fs::flistxattr(fd, &mut list[..])?
        }
        other => other?,
    };
    for name in list[..length].split(|b| *b == 0).filter(|name| is_kept(name)) {
        let Ok(name) = CString::new(name) else { continue };
        let mut value = vec![0; 64 * 1024];
        match rustix::fs::fgetxattr(fd, &name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                all.insert(name.into_bytes(), value);
            }
            // Taken away meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(all)
}

/// Magic numbers of the file systems that hold no files but the kernel's own (linux/magic.h): proc, sysfs, devpts, cgroup,
/// cgroup2, mqueue, debugfs, tracefs, securityfs, bpf, configfs, binfmt_misc, efivarfs, pstore, selinuxfs, smackfs.
const OF_KERNEL: [i64; 16] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x27_e0eb,
    0x6367_7270,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
    0x4249_4e4d,
    0xde5e_81e4,
    0x6165_676c,
    0xf97c_ff8c,
    0x4341_5d53,
];

/// Whether it lies on a file system that shows the kernel and keeps no files.
pub fn is_of_kernel(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstatfs(fd)?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // its width differs between architectures
    Ok(OF_KERNEL.contains(&(stat.f_type as i64 & 0xffff_ffff)))
}

/// An absolute path as text components, `.` and double slashes left out, `..` taken back as text (as Go's `path.Clean`).
pub fn clean(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = Vec::new();
    for part in path.as_os_str().as_bytes().split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(OsStr::from_bytes(name).to_owned()),
        }
    }
    parts
}
