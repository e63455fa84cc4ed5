//! Paths as `docker cp` writes them: what of the last part is followed, and what is said of the file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::FilesError;
use super::kernel::{clean, is_of_kernel};
use crate::by_name::{is, lookup, read_link, still};
use crate::within::{Steps, resolve};

/// What a path leads to.
#[derive(Debug)]
pub struct Target {
    /// The directory it is in.
    pub parent: OwnedFd,
    /// Its name there; `.` where the path ends in a slash or a dot, and so means the directory itself.
    pub name: OsString,
    pub stat: Stat,
    /// The path as text: absolute, and with the slash or dot it ended in.
    pub shown: PathBuf,
}

/// Docker's description of a file (`X-Docker-Container-Path-Stat`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's bits (io/fs, FileMode).
    pub mode: u32,
    pub mtime: Timestamp,
    /// Where a link leads, links on the way followed; empty for what is none.
    pub link_target: String,
}

impl PathStat {
    pub fn is_dir(&self) -> bool {
        self.mode & (1 << 31) != 0
    }

    pub fn is_link(&self) -> bool {
        self.mode & (1 << 27) != 0
    }

    /// Neither a directory, nor a regular file, nor a link.
    pub fn is_special(&self) -> bool {
        self.mode & (1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19) != 0
    }
}

/// Finds a path below a root. All but its last part is followed; that too where a slash or `/.` comes after it.
///
/// # Errors
/// [`FilesError::NotFound`], [`FilesError::NotDirectory`]; what lies on a file system of the kernel's own is refused.
pub fn target(root: impl AsFd, path: &Path) -> Result<Target, FilesError> {
    let bytes = path.as_os_str().as_bytes();
    let dot = bytes == b"." || bytes.ends_with(b"/.");
    let directory = dot || bytes.ends_with(b"/") || bytes.is_empty() || bytes.ends_with(b"..");
    let mut parts = clean(path);
    let shown = shown(&parts, bytes, dot);
    let last = match directory {
        false => parts.pop(),
        true => None,
    };
    let parent = resolve(root, &parts).map_err(|e| not_there(&shown, e.into()))?;
    let name = last.unwrap_or_else(|| ".".into());
    let found = lookup(&parent, &name).map_err(|e| not_there(&shown, e.into()))?;
    let stat = found.ok_or_else(|| FilesError::NotFound(shown.clone()))?;
    // A directory may be where something else is mounted.
    let inner = match is(&stat, FileType::Directory) {
        true => still(point_at(&parent, &name)).map_err(FilesError::io("look at", &shown))?,
        false => None,
    };
    let on_kernel = is_of_kernel(inner.as_ref().unwrap_or(&parent));
    if on_kernel.map_err(FilesError::io("look at", &shown))? {
        let why = "this is the kernel's, and no file that could be copied";
        return Err(FilesError::refused(shown, why));
    }
    Ok(Target {
        parent,
        name,
        stat,
        shown,
    })
}

/// A directory that need not be readable.
fn point_at(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn shown(parts: &[OsString], asked: &[u8], dot: bool) -> PathBuf {
    let mut text = vec![b'/'];
    text.extend(parts.join(OsStr::new("/")).into_vec());
    match (dot, asked.ends_with(b"/") && !parts.is_empty()) {
        (true, _) if parts.is_empty() => text.push(b'.'),
        (true, _) => text.extend(b"/."),
        (false, true) => text.push(b'/'),
        (false, false) => {}
    }
    OsString::from_vec(text).into()
}

fn not_there(path: &Path, error: io::Error) -> FilesError {
    match error.kind() {
        io::ErrorKind::NotFound => FilesError::NotFound(path.to_owned()),
        io::ErrorKind::NotADirectory => FilesError::NotDirectory(path.to_owned()),
        _ => FilesError::io("look at", path)(error),
    }
}

impl Target {
    /// The last part of the path as text: Go's `filepath.Base`.
    pub fn base(&self) -> Vec<u8> {
        let bytes = self.shown.as_os_str().as_bytes();
        let bare = bytes.strip_suffix(b"/").unwrap_or(bytes);
        match bare.iter().rposition(|b| *b == b'/') {
            _ if bare.is_empty() => b"/".to_vec(),
            Some(slash) => bare[slash + 1..].to_vec(),
            None => bare.to_vec(),
        }
    }
}

/// Docker's description of what a path leads to.
pub fn stat(root: impl AsFd, path: &Path) -> Result<PathStat, FilesError> {
    let found = target(&root, path)?;
    let link_target = match is(&found.stat, FileType::Symlink) {
        true => real_path(root.as_fd(), &clean(path)).map_err(|e| not_there(&found.shown, e))?,
        false => PathBuf::new(),
    };
    Ok(PathStat {
        name: String::from_utf8_lossy(&found.base()).into_owned(),
        size: found.stat.st_size,
        mode: go_mode(&found.stat),
        mtime: modified(&found.stat),
        link_target: link_target.display().to_string(),
    })
}

fn modified(stat: &Stat) -> Timestamp {
    // What no clock can say is shown as the epoch.
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn go_mode(stat: &Stat) -> u32 {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => 0,
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 1 << 19,
    };
    let bit = |raw: u32, go: u32| if stat.st_mode & raw != 0 { 1 << go } else { 0 };
    kind | bit(0o4000, 23) | bit(0o2000, 22) | bit(0o1000, 20) | (stat.st_mode & 0o777)
}

/// Where a path leads as text, links followed below the root as far as they lead. It is told and never gone by.
fn real_path(root: BorrowedFd<'_>, path: &[OsString]) -> io::Result<PathBuf> {
    let mut steps = Steps::of(path);
    while let Some(part) = steps.next_part() {
        match seen(root, steps.here(), &part)? {
            Some((here, stat)) if is(&stat, FileType::Symlink) => steps.follow(&read_link(&here, &part)?)?,
            // Nothing there, or no directory above it: the rest is as it is written.
            _ => steps.enter(part),
        }
    }
    let mut text = OsString::from("/");
    text.push(steps.here().join(OsStr::new("/")));
    Ok(text.into())
}

/// None where nothing is, nor could be.
fn seen(root: BorrowedFd<'_>, above: &[OsString], part: &OsStr) -> io::Result<Option<(OwnedFd, Stat)>> {
    let look = || {
        let here = resolve(root, above)?;
        Ok(lookup(&here, part)?.map(|stat| (here, stat)))
    };
    match still(look()) {
        Err(Errno::NAMETOOLONG) => Ok(None),
        other => Ok(other?.flatten()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/app")).unwrap();
        fs::write(dir.path().join("etc/app/conf"), "x").unwrap();
        symlink("/etc/app", dir.path().join("link")).unwrap();
        symlink("../../../../nowhere/deep", dir.path().join("etc/out")).unwrap();
        let fd = fs::File::open(dir.path()).unwrap().into();
        (dir, fd)
    }

    #[test]
    fn the_last_part_is_followed_for_a_slash() {
        let (_dir, fd) = root();
        let seen = |path: &str| stat(&fd, Path::new(path)).unwrap();
        assert!(seen("/link").is_link());
        assert_eq!(seen("/link").link_target, "/etc/app");
        assert!(seen("/link/").is_dir());
        assert_eq!(seen("link/").name, "link");
        assert_eq!(seen("/link/.").name, ".");
        assert_eq!(seen("/").name, "/");
        assert_eq!(seen("/link/conf").size, 1);
        assert_eq!(seen("/etc/app/../out").link_target, "/nowhere/deep");
        assert!(seen("/etc/..").is_dir());
        let missing = stat(&fd, Path::new("/no/such")).unwrap_err();
        assert!(matches!(missing, FilesError::NotFound(_)), "{missing}");
        let file = stat(&fd, Path::new("/link/conf/")).unwrap_err();
        assert!(matches!(file, FilesError::NotDirectory(_)), "{file}");
    }

    #[test]
    fn what_the_kernel_shows_is_no_file() {
        let slash: OwnedFd = fs::File::open("/").unwrap().into();
        for path in ["/proc", "/proc/self/status", "/proc/1/"] {
            let refused = target(&slash, Path::new(path)).unwrap_err();
            assert!(matches!(refused, FilesError::Refused { .. }), "{path}: {refused}");
        }
    }
}
