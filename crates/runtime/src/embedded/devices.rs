//! Device nodes and links of /dev.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, OFlags, Uid};
use rustix::io::Errno;

use super::error::Doing;
use super::path::{self, Make};
use crate::launch::LaunchError;

/// Made in every container (OCI runtime-spec, "Default Devices").
const DEFAULT: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills /dev, a tmpfs of the container's own, with the default nodes and links.
pub fn defaults(root: BorrowedFd<'_>) -> Result<(), LaunchError> {
    let dev = path::create(root, Path::new("/dev"), Make::Directory)
        .doing(|| "opening /dev of the container".to_owned())?;
    for (name, major, minor) in DEFAULT {
        path::node(
            &dev,
            name.as_ref(),
            FileType::CharacterDevice,
            (*major, *minor),
            0o666,
        )
        .doing(|| format!("making /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        if *name == "core" && path::open(root, Path::new(target), OFlags::PATH).is_err() {
            // This kernel has none.
            continue;
        }
        match rustix::fs::symlinkat(*target, &dev, *name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).doing(|| format!("linking /dev/{name}")),
        }
    }
    Ok(())
}

/// Makes the devices a table asks for.
pub fn wanted(root: BorrowedFd<'_>, devices: &[LinuxDevice]) -> Result<(), LaunchError> {
    for device in devices {
        make(root, device).doing(|| format!("making device {}", device.path().display()))?;
    }
    Ok(())
}

fn make(root: BorrowedFd<'_>, device: &LinuxDevice) -> io::Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        other => return Err(io::Error::other(format!("type {} is no device", other.as_str()))),
    };
    let number = |n: i64| u32::try_from(n).map_err(io::Error::other);
    let numbers = (number(device.major())?, number(device.minor())?);
    let target: PathBuf = device.path().clone();
    let name = target.file_name().ok_or(Errno::INVAL)?;
    let parent = target.parent().unwrap_or(Path::new("/"));
    let dir = path::create(root, parent, Make::Directory)?;
    let node = path::node(&dir, name, kind, numbers, device.file_mode().unwrap_or(0o666))?;
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    rustix::fs::chownat(
        &node,
        c"",
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::EMPTY_PATH,
    )?;
    Ok(())
}
