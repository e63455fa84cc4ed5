//! A terminal out of the container's own devpts, so that its name is known inside (ttyname(3)).
//!
//! What lies at /dev/pts of a container may be anything by now: it is opened without effect, verified to be the
//! multiplexer of a devpts, and only then opened in earnest.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::Winsize;

use crate::embedded::{filesystem_magic, open_path};
use crate::shim::files::{self, Process};

/// DEVPTS_SUPER_MAGIC (linux/magic.h).
const DEVPTS: i64 = 0x1cd1;

/// Both sides of a terminal.
#[derive(Debug)]
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// A fresh terminal of the container that this is the payload of; of the host where the container has no devpts.
pub fn open(payload: Process) -> io::Result<Terminal> {
    let master = match multiplexer(payload)? {
        Some(found) => reopen(&found)?,
        None => rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?,
    };
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok(Terminal { master, slave })
}

/// Says how large it is, in characters.
pub fn set_size(terminal: &OwnedFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

fn multiplexer(payload: Process) -> io::Result<Option<OwnedFd>> {
    let root = PathBuf::from(format!("/proc/{}/root", payload.pid));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&root, flags, Mode::empty())?;
    if !files::lives(payload) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let Ok(found) = open_path(&root, Path::new("/dev/pts/ptmx"), OFlags::PATH | OFlags::NOFOLLOW) else {
        return Ok(None);
    };
    let stat = rustix::fs::statat(&found, c"", AtFlags::EMPTY_PATH)?;
    let is_one = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2)
        && filesystem_magic(&found)? == DEVPTS;
    Ok(is_one.then_some(found))
}

fn reopen(found: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
