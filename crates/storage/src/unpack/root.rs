//! Paths inside the layer's root, resolved by the kernel so that no link leads out of it (openat2(2)).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::meta;
use crate::by_name::{self, is, open_directory, read_link, still};
use crate::error::EntryError;
use crate::tar::shown;
use crate::within::{Steps, joined, resolve, without_links};

/// What names in the trash begin with: before the number of an inode, and before any number.
pub const TRASHED_FILE: &str = "f";
pub const TRASHED_DIRECTORY: &str = "d";

/// The directory a layer is unpacked into, and the one that takes what is replaced.
pub struct Root {
    fd: OwnedFd,
    trash: OwnedFd,
    discarded: u64,
    /// Directories that were made because something is in them, and their inodes.
    implied: Vec<(Vec<OsString>, u64)>,
    /// Whether content that an entry had brought is in the trash by now.
    replaced: bool,
    /// Where the root itself is, found out when it is first needed.
    place: Option<Vec<u8>>,
    /// The parent found last: archives list a directory's files one after the other.
    recent: Option<(Vec<OsString>, Rc<Directory>)>,
}

/// A directory in the root.
pub struct Directory {
    pub fd: OwnedFd,
    /// Its path from the root, with no links in it; none where it is too long to be said.
    pub real: Option<Vec<u8>>,
}

impl Directory {
    /// The path of what is called `name` in it.
    pub fn real_path_of(&self, name: &OsStr) -> Option<Vec<u8>> {
        let real = self.real.as_deref()?;
        Some(match real {
            b"" => name.as_bytes().to_vec(),
            real => [real, b"/", name.as_bytes()].concat(),
        })
    }
}

impl Root {
    pub fn new(fd: OwnedFd, trash: OwnedFd) -> Self {
        Self {
            fd,
            trash,
            discarded: 0,
            implied: Vec::new(),
            replaced: false,
            place: None,
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

    /// Whether something that had content was replaced: the trash has it, by `f` and its inode's number, or somewhere in
    /// a directory.
    pub fn has_replaced(&self) -> bool {
        self.replaced
    }

    /// The directory `path`, following links inside the root; made where it is missing, as 0755 root:root.
    pub fn parent(&mut self, path: &[OsString]) -> Result<Rc<Directory>, EntryError> {
        if let Some((known, fd)) = &self.recent
            && known == path
        {
            return Ok(Rc::clone(fd));
        }
        let found = match without_links(&self.fd, path) {
            Ok(fd) => Directory {
                fd,
                real: Some(path.join(OsStr::new("/")).into_vec()),
            },
            // A link is on the way.
            Err(Errno::LOOP) => self.behind_links(path)?,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path)?,
            Err(e) => return Err(EntryError::io("open its directory")(e)),
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
    pub fn open_directory(&self, path: &[OsString]) -> Result<Option<OwnedFd>, EntryError> {
        let opened = match path.split_last() {
            None => open_directory(&self.fd, OsStr::new(".")),
            Some((name, above)) => self.resolve(above).and_then(|above| open_directory(&above, name)),
        };
        still(opened).map_err(EntryError::io("open the directory"))
    }

    /// Clears the way for `name`: unlinks what is there, moves it away where it is a directory.
    pub fn discard(&mut self, parent: &OwnedFd, name: &OsStr, there: &Stat) -> Result<(), EntryError> {
        // Where a directory or a link goes, the same path may lead elsewhere from now on.
        self.recent = None;
        let result = if is(there, FileType::Directory) {
            self.replaced = true;
            self.discarded += 1;
            let away = format!("{TRASHED_DIRECTORY}{}", self.discarded);
            rustix::fs::renameat(parent, name, &self.trash, away)
        } else if is(there, FileType::RegularFile) && there.st_size > 0 {
            self.replaced = true;
            let away = format!("{TRASHED_FILE}{}", there.st_ino);
            // Where another name of the same file lies there already, renaming does nothing (rename(2)).
            rustix::fs::renameat(parent, name, &self.trash, away).and_then(|()| {
                match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                    Err(Errno::NOENT) => Ok(()),
                    other => other,
                }
            })
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())
        };
        result.map_err(EntryError::io("replace what was there before"))
    }

    /// The directory `path` where links lead to it, or are to.
    fn behind_links(&mut self, path: &[OsString]) -> Result<Directory, EntryError> {
        match self.resolve(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path),
            Err(e) => Err(EntryError::io("open its directory")(e)),
            Ok(fd) => Ok(Directory {
                real: self.real_path(&fd),
                fd,
            }),
        }
    }

    /// Where in the root an open directory is, by what the kernel says of its descriptor (proc(5), /proc/pid/fd).
    fn real_path(&mut self, fd: &OwnedFd) -> Option<Vec<u8>> {
        let place = match self.place.take() {
            Some(place) => place,
            None => path_of(&self.fd)?,
        };
        let path = path_of(fd);
        let inside = path
            .as_deref()
            .and_then(|path| match path.strip_prefix(&place[..])? {
                b"" => Some(Vec::new()),
                rest => rest.strip_prefix(b"/").map(<[u8]>::to_vec),
            });
        self.place = Some(place);
        inside
    }

    fn resolve(&self, path: &[OsString]) -> Result<OwnedFd, Errno> {
        resolve(&self.fd, path)
    }

    /// Walks one component at a time, making what is missing: also behind links that lead nowhere yet.
    fn make(&mut self, path: &[OsString]) -> Result<Directory, EntryError> {
        let mut steps = Steps::of(path);
        while let Some(part) = steps.next_part() {
            let here = self.open_real(steps.here())?;
            match lookup(&here, &part)? {
                None => self.imply(&here, steps.here(), &part, false)?,
                Some(stat) if is(&stat, FileType::Directory) => {}
                Some(stat) if is(&stat, FileType::Symlink) => {
                    let target = read_link(&here, &part).map_err(EntryError::io("read a link"))?;
                    steps.follow(&target).map_err(|_| EntryError::LinkLoop)?;
                    continue;
                }
                Some(stat) if is_whiteout(&stat) => {
                    rustix::fs::unlinkat(&here, &part, AtFlags::empty())
                        .map_err(EntryError::io("replace a whiteout"))?;
                    self.imply(&here, steps.here(), &part, true)?;
                }
                Some(_) => {
                    steps.enter(part);
                    let path = joined(steps.here());
                    return Err(EntryError::ParentNotDirectory(shown(path.as_bytes())));
                }
            }
            steps.enter(part);
        }
        let real = steps.here();
        Ok(Directory {
            fd: self.open_real(real)?,
            real: Some(real.join(OsStr::new("/")).into_vec()),
        })
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
        without_links(&self.fd, real).map_err(EntryError::io("open its directory"))
    }
}

/// None where the kernel cannot say it in its 4096 bytes.
fn path_of(fd: &OwnedFd) -> Option<Vec<u8>> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    path.ok().map(|path| path.into_os_string().into_vec())
}

/// What `name` is in `parent`, not followed; none where there is nothing.
pub fn lookup(parent: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, EntryError> {
    by_name::lookup(parent, name).map_err(EntryError::io("look at what is there"))
}

/// Opens the directory `name` for reading; fails where it is a link or anything else.
pub fn open_child(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, EntryError> {
    open_directory(parent, name).map_err(EntryError::io("open the directory"))
}

/// The character device 0/0, overlayfs's sign for "nothing here".
pub fn is_whiteout(stat: &Stat) -> bool {
    is(stat, FileType::CharacterDevice) && stat.st_rdev == 0
}
