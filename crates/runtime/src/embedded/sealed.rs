//! Running our binary where nobody can write to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::sys::{self, MountAttributes};

/// Our own binary on a detached read-only clone of its mount. Run it as `/proc/self/fd/N` of this descriptor, and a
/// container that gets hold of `/proc/PID/exe` and opens it for writing is told EROFS (CVE-2019-5736).
pub fn sealed_exe() -> io::Result<OwnedFd> {
    let exe = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&exe, c"", flags)?;
    let change = MountAttributes {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        propagation: libc::MS_PRIVATE,
        ..MountAttributes::default()
    };
    sys::mount_setattr(tree.as_fd(), false, change)?;
    Ok(tree)
}

/// Whether this process runs from such a clone, or from another read-only place.
pub fn is_sealed() -> io::Result<bool> {
    let exe = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstatvfs(&exe)?;
    Ok(stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}
