//! Paths inside a root whose content is not trusted. Nothing here ever leaves the root, whatever links say.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatFs};
use rustix::io::Errno;

/// Opens a path of a root, links and all staying inside (openat2(2), RESOLVE_IN_ROOT); magic links are refused.
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_how(root, path, flags, ResolveFlags::IN_ROOT)
}

/// The same where no part of the path may be a link.
pub fn open_without_links(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_how(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

fn open_how(root: impl AsFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    for _ in 0..128 {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile, so that ".." could not be trusted.
            Err(Errno::AGAIN) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// What to make where a path ends in nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Directory,
    /// An empty regular file.
    File,
}

/// Opens a path (O_PATH), making what is missing of it: directories with mode 755. A link to nowhere is followed to
/// where it would lead inside the root, and that is made.
pub fn create(root: impl AsFd, path: &Path, make: Make) -> io::Result<OwnedFd> {
    match open(&root, path, OFlags::PATH) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => walk(root.as_fd(), path, make),
        result => result,
    }
}

/// Component by component on descriptors. `..` goes back on our own stack of them, never by the kernel, and links are
/// read and walked as text, so that none can lead out.
fn walk(root: BorrowedFd<'_>, path: &Path, make: Make) -> io::Result<OwnedFd> {
    let mut stack: Vec<OwnedFd> = vec![reopen(root)?];
    let mut todo = parts(path);
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().ok_or(Errno::INVAL)?.as_fd();
        let kind = if todo.is_empty() { make } else { Make::Directory };
        let next = open_or_make(here, &part, kind)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink {
            links += 1;
            if links > 40 {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&next, c"", Vec::new())?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_path_buf();
            if target.is_absolute() {
                stack.truncate(1);
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        stack.push(next);
    }
    stack.pop().ok_or_else(|| Errno::INVAL.into())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

fn reopen(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        c".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn open_or_make(here: BorrowedFd<'_>, name: &OsStr, make: Make) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(here, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }
    let made = match make {
        Make::Directory => rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755)),
        Make::File => rustix::fs::mknodat(here, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(rustix::fs::openat(here, name, flags, Mode::empty())?)
}

/// Type of the filesystem a descriptor is on.
pub fn magic(fd: impl AsFd) -> io::Result<i64> {
    let stat: StatFs = rustix::fs::fstatfs(fd)?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // its width differs between architectures
    Ok(stat.f_type as i64)
}

/// PROC_SUPER_MAGIC and SYSFS_MAGIC (linux/magic.h).
pub const PROC: i64 = 0x9fa0;
pub const SYSFS: i64 = 0x6265_6572;

/// Makes a node and gives back its descriptor, verified to be that node and nothing that took its place.
pub fn node(
    dir: impl AsFd,
    name: &OsStr,
    kind: FileType,
    numbers: (u32, u32),
    mode: u32,
) -> io::Result<OwnedFd> {
    let device = rustix::fs::makedev(numbers.0, numbers.1);
    match rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(mode), device) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH)?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != device {
        return Err(io::Error::other("something else is in its place"));
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = fs::File::open(dir.path()).unwrap().into();
        (dir, fd)
    }

    #[test]
    fn links_that_lead_out_stay_in() {
        let (dir, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("abs")).unwrap();
        symlink("../../../../../../..", dir.path().join("up")).unwrap();
        symlink("up/abs/new", dir.path().join("chain")).unwrap();
        for path in ["/abs/a/b", "up/c", "../../d", "/chain/e"] {
            create(&fd, Path::new(path), Make::Directory).unwrap();
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = outside.path().strip_prefix("/").unwrap();
        assert!(dir.path().join(inside).join("a/b").is_dir());
        assert!(dir.path().join("c").is_dir());
        assert!(dir.path().join("d").is_dir());
        assert!(dir.path().join(inside).join("new/e").is_dir());
    }

    #[test]
    fn a_link_to_nowhere_is_made_where_it_points() {
        let (dir, fd) = root();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("../run/resolve/stub.conf", dir.path().join("etc/resolv.conf")).unwrap();
        create(&fd, Path::new("/etc/resolv.conf"), Make::File).unwrap();
        assert!(dir.path().join("run/resolve/stub.conf").is_file());
    }

    #[test]
    fn loops_and_files_in_the_way_end_in_errors() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create(&fd, Path::new("/a/x"), Make::Directory).is_err());
        assert!(create(&fd, Path::new("/file/x"), Make::Directory).is_err());
    }

    #[test]
    fn magic_links_are_refused() {
        let slash: OwnedFd = fs::File::open("/").unwrap().into();
        assert!(open(&slash, Path::new("/proc/self/root"), OFlags::PATH).is_err());
        assert!(open(&slash, Path::new("/proc/self/exe"), OFlags::PATH).is_err());
    }
}
