//! How much a volume's data take on disk. Containers may be writing meanwhile, and may be hostile: directories are
//! opened below the volume only, links are never followed, other file systems mounted inside are not entered.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Bytes on disk of everything below, the directory itself included. A file with several names counts once.
pub fn of(root: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let mut walk = Walk::default();
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        if let Some(directory) = open(&root, &path)? {
            walk.directory(&directory, &path, &mut waiting)?;
        }
    }
    Ok(walk.bytes)
}

#[derive(Default)]
struct Walk {
    bytes: u64,
    /// Device and inode of files with several names.
    counted: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn directory(&mut self, fd: &OwnedFd, path: &Path, waiting: &mut Vec<PathBuf>) -> io::Result<()> {
        self.bytes += blocks(&rustix::fs::fstat(fd)?);
        for entry in Dir::read_from(fd)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                // Removed since it was listed.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                use std::os::unix::ffi::OsStrExt;
                waiting.push(path.join(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())));
            } else if stat.st_nlink < 2 || self.counted.insert((stat.st_dev, stat.st_ino)) {
                self.bytes += blocks(&stat);
            }
        }
        Ok(())
    }
}

/// None where it went, became something else, is another file system or lies deeper than a path can say.
fn open(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::AGAIN) => {
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}
