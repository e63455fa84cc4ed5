//! Where an archive's entries go: directories found or made below the one it is unpacked into, links followed or refused.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::FilesError;
use super::kernel::clean;
use super::pack::shown;
use crate::by_name::open_directory;
use crate::within::resolve;

/// What becomes of links on the way to where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They lead where they lead below the root.
    FollowBelow,
    /// An entry behind one is refused.
    Refuse,
}

/// The directory that is unpacked into, and the one of it that was found last.
pub struct Places<'a> {
    root: BorrowedFd<'a>,
    /// From the root.
    into: Vec<OsString>,
    base: OwnedFd,
    links: Links,
    recent: Option<(Vec<OsString>, OwnedFd)>,
}

impl<'a> Places<'a> {
    /// Below the directory `into` of the root, which exists.
    pub fn new(root: BorrowedFd<'a>, into: &Path, links: Links) -> Result<Self, FilesError> {
        let parts = clean(into);
        Ok(Self {
            base: resolve(root, &parts).map_err(FilesError::io("open", into))?,
            into: parts,
            root,
            links,
            recent: None,
        })
    }

    /// From now on the same path may lead elsewhere.
    pub fn forget(&mut self) {
        self.recent = None;
    }

    /// The directory of these parts below the base; made, 0755 and ours, where it is missing.
    pub fn parent(&mut self, parts: &[OsString]) -> Result<OwnedFd, FilesError> {
        if let Some((known, fd)) = &self.recent
            && known == parts
        {
            return fd.try_clone().map_err(FilesError::io("open", shown(b".")));
        }
        let mut found = None;
        for end in 0..=parts.len() {
            let at: PathBuf = parts[..end].iter().collect();
            let mut opened = self.open(&parts[..end], found.as_ref());
            if let (Err(Errno::NOENT), Some(above), Some(name)) = (&opened, &found, parts[..end].last()) {
                match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(FilesError::io("make the directory", at)(e)),
                }
                opened = self.open(&parts[..end], found.as_ref());
            }
            found = Some(opened.map_err(|e| behind(&at, e))?);
        }
        let found = found.ok_or_else(|| FilesError::NotFound(shown(b".")))?;
        let copy = found.try_clone().map_err(FilesError::io("open", shown(b".")))?;
        self.recent = Some((parts.to_vec(), copy));
        Ok(found)
    }

    /// The directory of these parts, of which all but the last one lead to `above`.
    fn open(&self, parts: &[OsString], above: Option<&OwnedFd>) -> Result<OwnedFd, Errno> {
        match (parts.last(), above, self.links) {
            (Some(name), Some(above), Links::Refuse) => open_directory(above, name),
            (Some(_), _, Links::FollowBelow) => {
                let all: Vec<OsString> = self.into.iter().chain(parts).cloned().collect();
                resolve(self.root, &all)
            }
            _ => rustix::fs::openat(&self.base, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
        }
    }
}

/// The parts of an entry's path, which may begin with a slash or `./`; `..` is refused, not resolved.
pub fn components(path: &[u8]) -> Result<Vec<OsString>, FilesError> {
    let refused = |why| Err(FilesError::refused(shown(path), why));
    if path.contains(&0) {
        return refused("its name contains a NUL byte");
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refused("its path contains \"..\""),
            name => parts.push(OsStr::from_bytes(name).to_owned()),
        }
    }
    Ok(parts)
}

/// Why a directory could not be opened.
pub fn behind(path: &Path, error: Errno) -> FilesError {
    match error {
        Errno::NOTDIR | Errno::LOOP => {
            FilesError::refused(path, "a file or a link is where a directory has to be")
        }
        error => FilesError::io("open", path)(error),
    }
}
