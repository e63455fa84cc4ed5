//! Paths inside the layer's root, resolved by the kernel so that no link leads out of it (openat2(2)).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::meta;
use crate::error::EntryError;
use crate::tar::shown;

/// As in the kernel's own path walk (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// How often a walk that a rename somewhere disturbed is tried again (openat2(2), EAGAIN).
const MAX_RETRIES: usize = 1000;

/// The directory a layer is unpacked into, and the one that takes what is replaced.
pub struct Root {
    fd: OwnedFd,
    trash: OwnedFd,
    discarded: u64,
    /// Directories that were made because something is in them, and their inodes.
    implied: Vec<(Vec<OsString>, u64)>,
    /// The parent found last: archives list a directory's files one after the other.
    recent: Option<(Vec<OsString>, Rc<OwnedFd>)>,
}

impl Root {
    pub fn new(fd: OwnedFd, trash: OwnedFd) -> Self {
        Self {
            fd,
            trash,
            discarded: 0,
            implied: Vec::new(),
            recent: None,
        }
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Directories that no entry has described, with their inodes.
    pub fn implied(&self) -> &[(Vec<OsString>, u64)] {
        &self.implied
    }

    /// The directory `path`, following links inside the root; made where it is missing, as 0755 root:root.
    pub fn parent(&mut self, path: &[OsString]) -> Result<Rc<OwnedFd>, EntryError> {
        if let Some((known, fd)) = &self.recent
            && known == path
        {
            return Ok(Rc::clone(fd));
        }
        let found = match self.resolve(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path)?,
            other => other.map_err(EntryError::io("open its directory"))?,
        };
        let found = Rc::new(found);
        self.recent = Some((path.to_vec(), Rc::clone(&found)));
        Ok(found)
    }

    /// As [`Root::parent`], but nothing is made.
    pub fn existing_parent(&self, path: &[OsString]) -> Result<Option<OwnedFd>, EntryError> {
        match self.resolve(path) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(EntryError::io("open its directory")(e)),
        }
    }

    /// The directory at `path` itself, readable; none where it is gone or something else by now.
    pub fn open_directory(&self, path: &[OsString]) -> Option<OwnedFd> {
        let Some((name, above)) = path.split_last() else {
            return self.fd.try_clone().ok();
        };
        open_child(&self.resolve(above).ok()?, name).ok()
    }

    /// Clears the way for `name`: unlinks what is there, moves it away where it is a directory.
    pub fn discard(&mut self, parent: &OwnedFd, name: &OsStr, there: &Stat) -> Result<(), EntryError> {
        // Where a directory or a link goes, the same path may lead elsewhere from now on.
        self.recent = None;
        let result = if is(there, FileType::Directory) {
            self.discarded += 1;
            let away = self.discarded.to_string();
            rustix::fs::renameat(parent, name, &self.trash, away)
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())
        };
        result.map_err(EntryError::io("replace what was there before"))
    }

    fn resolve(&self, path: &[OsString]) -> Result<OwnedFd, Errno> {
        self.walk(path, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    fn walk(&self, path: &[OsString], how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let joined = join(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for _ in 0..MAX_RETRIES {
            match rustix::fs::openat2(&self.fd, &joined, flags, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Walks one component at a time, making what is missing: also behind links that lead nowhere yet.
    fn make(&mut self, path: &[OsString]) -> Result<OwnedFd, EntryError> {
        let mut todo: VecDeque<OsString> = path.iter().cloned().collect();
        // Holds no links, so it can be opened with NO_SYMLINKS.
        let mut real: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                real.pop();
                continue;
            }
            let here = self.open_real(&real)?;
            match lookup(&here, &part)? {
                None => self.imply(&here, &real, &part, false)?,
                Some(stat) if is(&stat, FileType::Directory) => {}
                Some(stat) if is(&stat, FileType::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(EntryError::LinkLoop);
                    }
                    follow(&here, &part, &mut real, &mut todo)?;
                    continue;
                }
                Some(stat) if is_whiteout(&stat) => {
                    rustix::fs::unlinkat(&here, &part, AtFlags::empty())
                        .map_err(EntryError::io("replace a whiteout"))?;
                    self.imply(&here, &real, &part, true)?;
                }
                Some(_) => {
                    real.push(part);
                    return Err(EntryError::ParentNotDirectory(shown(join(&real).as_bytes())));
                }
            }
            real.push(part);
        }
        self.open_real(&real)
    }

    /// Makes a directory that only the paths of others speak of.
    fn imply(
        &mut self,
        here: &OwnedFd,
        above: &[OsString],
        name: &OsStr,
        opaque: bool,
    ) -> Result<(), EntryError> {
        let fd = meta::implied_directory(here, name)?;
        if opaque {
            meta::set_opaque(&fd)?;
        }
        let path = above.iter().cloned().chain([name.to_owned()]).collect();
        self.implied.push((path, meta::inode(&fd)?));
        Ok(())
    }

    fn open_real(&self, real: &[OsString]) -> Result<OwnedFd, EntryError> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        self.walk(real, how).map_err(EntryError::io("open its directory"))
    }
}

/// Puts a link's target in front of what is still to be walked.
fn follow(
    here: &OwnedFd,
    name: &OsStr,
    real: &mut Vec<OsString>,
    todo: &mut VecDeque<OsString>,
) -> Result<(), EntryError> {
    let target = rustix::fs::readlinkat(here, name, Vec::new())
        .map_err(EntryError::io("read a link"))?
        .into_bytes();
    if target.starts_with(b"/") {
        real.clear();
    }
    let parts = target
        .split(|b| *b == b'/')
        .filter(|part| !matches!(**part, [] | [b'.']));
    for part in parts.rev() {
        todo.push_front(OsString::from_vec(part.to_vec()));
    }
    Ok(())
}

/// What `name` is in `parent`, not followed; none where there is nothing.
pub fn lookup(parent: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, EntryError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(EntryError::io("look at what is there")(e)),
    }
}

/// Opens the directory `name` for reading; fails where it is a link or anything else.
pub fn open_child(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, EntryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(EntryError::io("open the directory"))
}

pub fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// The character device 0/0, overlayfs's sign for "nothing here".
pub fn is_whiteout(stat: &Stat) -> bool {
    is(stat, FileType::CharacterDevice) && stat.st_rdev == 0
}

fn join(path: &[OsString]) -> OsString {
    if path.is_empty() {
        return OsString::from(".");
    }
    path.join(OsStr::new("/"))
}
