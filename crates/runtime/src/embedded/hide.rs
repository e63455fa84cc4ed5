//! What the container may not see or change: masked and read-only paths, sysctls set before those close.

use std::collections::HashMap;
use std::io;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::mount::MountAttrFlags;

use super::error::Doing;
use super::mounts::{clone_tree, new_filesystem, put};
use super::options::Options;
use super::path;
use super::sys::{self, MountAttributes};
use crate::launch::LaunchError;

/// Writes sysctls, into a /proc that is verified to be one.
pub fn sysctls(root: BorrowedFd<'_>, sysctls: &HashMap<String, String>) -> Result<(), LaunchError> {
    let mut sorted: Vec<_> = sysctls.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        write_sysctl(root, Path::new(&file), value)
            .doing(|| format!("setting sysctl {name} to {value:?}"))?;
    }
    Ok(())
}

fn write_sysctl(root: BorrowedFd<'_>, file: &Path, value: &str) -> io::Result<()> {
    let fd = path::open_without_links(root, file, OFlags::WRONLY)?;
    expect(&fd, path::PROC)?;
    std::fs::File::from(fd).write_all(value.as_bytes())
}

fn expect(fd: &OwnedFd, magic: i64) -> io::Result<()> {
    if path::magic(fd)? == magic {
        Ok(())
    } else {
        Err(io::Error::other("something else is in its place"))
    }
}

/// Opens a path to be hidden; none where there is none. Below /proc and /sys it must be the kernel's.
fn find(root: BorrowedFd<'_>, hidden: &str) -> io::Result<Option<OwnedFd>> {
    let fd = match path::open(root, Path::new(hidden), OFlags::PATH) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        result => result?,
    };
    if hidden.starts_with("/proc/") {
        expect(&fd, path::PROC)?;
    } else if hidden.starts_with("/sys/") {
        expect(&fd, path::SYSFS)?;
    }
    Ok(Some(fd))
}

/// Covers files with the container's /dev/null and directories with an empty read-only one.
pub fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), LaunchError> {
    for hidden in paths {
        mask_one(root, hidden).doing(|| format!("hiding {hidden}"))?;
    }
    Ok(())
}

fn mask_one(root: BorrowedFd<'_>, hidden: &str) -> io::Result<()> {
    let Some(target) = find(root, hidden)? else {
        return Ok(());
    };
    let stat = rustix::fs::statat(&target, c"", AtFlags::EMPTY_PATH)?;
    let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let options = Options {
            attributes: read_only(),
            ..Options::default()
        };
        new_filesystem("tmpfs", Path::new("tmpfs"), &options)?
    } else {
        clone_tree(null(root)?, Path::new(""), false)?
    };
    put(&cover, &target)
}

/// The container's /dev/null, verified to be the null device.
fn null(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = path::open_without_links(root, Path::new("/dev/null"), OFlags::PATH)?;
    let stat = rustix::fs::statat(&null, c"", AtFlags::EMPTY_PATH)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(null)
    } else {
        Err(io::Error::other("/dev/null is not the null device"))
    }
}

fn read_only() -> MountAttributes {
    MountAttributes {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        ..MountAttributes::default()
    }
}

/// Makes paths read-only, with all that is mounted below.
pub fn lock(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), LaunchError> {
    for locked in paths {
        lock_one(root, locked).doing(|| format!("making {locked} read-only"))?;
    }
    Ok(())
}

fn lock_one(root: BorrowedFd<'_>, locked: &str) -> io::Result<()> {
    let Some(target) = find(root, locked)? else {
        return Ok(());
    };
    let tree = clone_tree(&target, Path::new(""), true)?;
    sys::mount_setattr(tree.as_fd(), true, read_only())?;
    put(&tree, &target)
}

/// Makes the root itself read-only; what is mounted below keeps its own say.
pub fn lock_root(root: BorrowedFd<'_>) -> Result<(), LaunchError> {
    sys::mount_setattr(root, false, read_only()).doing(|| "making the root read-only".to_owned())
}
