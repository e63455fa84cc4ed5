//! A container's root compared with what it was made from: its overlay's upper directory says where to look, and what is
//! seen there with and without it says what became of it. So whiteouts, opaque directories, renamed ones and files of
//! which only the owner or mode was copied up (kernel Documentation/filesystems/overlayfs.rst) need no reading of
//! overlayfs's own marks, but for one question: whether a directory still stands on the one below it.
//!
//! The container may be writing meanwhile. What went away or became something else is left out; whatever else cannot be
//! opened is an error, or a commit would lack files without a word.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::FilesError;
use super::pack::{DEEPEST, below, shown};
use crate::by_name::{is, lookup, names, open_directory, still};

/// A container's root in its parts.
#[derive(Debug)]
pub struct Trees {
    /// The upper directory as it lies on the disk.
    pub upper: OwnedFd,
    /// All of it, without what is mounted in it.
    pub merged: OwnedFd,
    /// What it was made from.
    pub base: OwnedFd,
    /// Places that were made for mounts and are no change of the container's: absolute paths.
    pub ours: BTreeSet<PathBuf>,
}

/// Docker's kinds, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

impl From<ChangeKind> for u8 {
    fn from(kind: ChangeKind) -> Self {
        kind as Self
    }
}

/// Something that changed, where it is seen.
pub struct Seen<'a> {
    pub kind: ChangeKind,
    pub parent: &'a OwnedFd,
    pub name: &'a OsStr,
    /// None where it was deleted.
    pub stat: Option<&'a Stat>,
    /// Without a slash in front.
    pub path: &'a [u8],
}

/// Where changes go.
pub trait Sink {
    /// Whether a directory is wanted for each change below it.
    const PARENTS: bool;
    fn take(&mut self, seen: &Seen<'_>) -> Result<(), FilesError>;
}

/// Tells the sink of every change.
pub fn compare(trees: &Trees, sink: &mut impl Sink) -> Result<(), FilesError> {
    let above = Vec::new();
    let mut walk = Walk { trees, sink, above };
    walk.directory(&trees.upper, &trees.merged, &trees.base, b"")
}

/// A directory on the way down, told only if there is something to tell of it.
struct Above {
    parent: OwnedFd,
    name: OsString,
    stat: Stat,
    path: Vec<u8>,
    kind: ChangeKind,
    /// By itself.
    changed: bool,
    told: bool,
}

struct Walk<'a, S> {
    trees: &'a Trees,
    sink: &'a mut S,
    above: Vec<Above>,
}

impl<S: Sink> Walk<'_, S> {
    /// One directory that stands on one of the base, by what the upper directory has of it.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        merged: &OwnedFd,
        base: &OwnedFd,
        path: &[u8],
    ) -> Result<(), FilesError> {
        self.check_depth(path)?;
        for name in listed(upper, path)? {
            let path = below(path, &name, !path.is_empty());
            self.entry(Some(upper), merged, base, &name, &path)?;
        }
        Ok(())
    }

    /// A directory that has nothing of the one of the base: all in it is new, and what the other had is gone.
    fn renewed(&mut self, merged: &OwnedFd, base: &OwnedFd, path: &[u8]) -> Result<(), FilesError> {
        self.check_depth(path)?;
        let mut all: BTreeSet<OsString> = listed(merged, path)?.into_iter().collect();
        all.extend(listed(base, path)?);
        for name in all {
            self.entry(None, merged, base, &name, &below(path, &name, true))?;
        }
        Ok(())
    }

    /// What became of one name. Without an upper directory nothing stands on what the base has.
    fn entry(
        &mut self,
        upper: Option<&OwnedFd>,
        merged: &OwnedFd,
        base: &OwnedFd,
        name: &OsStr,
        path: &[u8],
    ) -> Result<(), FilesError> {
        let directory = |stat: &Stat| is(stat, FileType::Directory);
        match (seen(merged, name, path)?, seen(base, name, path)?) {
            (None, None) => Ok(()),
            (None, Some(_)) => self.tell(ChangeKind::Deleted, merged, name, None, path),
            (Some(stat), None) => self.added(merged, name, &stat, path),
            (Some(stat), Some(was)) if directory(&stat) && directory(&was) => {
                self.both(upper, (merged, &stat), (base, &was), name, path)
            }
            (Some(stat), Some(_)) => self.modified(merged, name, &stat, path),
        }
    }

    fn check_depth(&self, path: &[u8]) -> Result<(), FilesError> {
        if self.above.len() < DEEPEST {
            return Ok(());
        }
        let why = format!("directories are nested more than {DEEPEST} deep");
        Err(FilesError::refused(shown(path), why))
    }

    fn both(
        &mut self,
        upper: Option<&OwnedFd>,
        (merged, stat): (&OwnedFd, &Stat),
        (base, was): (&OwnedFd, &Stat),
        name: &OsStr,
        path: &[u8],
    ) -> Result<(), FilesError> {
        let all = || -> rustix::io::Result<_> {
            let upper = upper.map(|upper| open_directory(upper, name)).transpose()?;
            Ok((upper, open_directory(merged, name)?, open_directory(base, name)?))
        };
        let Some((upper, inside, below)) = still(all()).map_err(FilesError::io("open", shown(path)))? else {
            return Ok(());
        };
        let alone = match &upper {
            Some(upper) => stands_alone(upper).map_err(FilesError::io("look at", shown(path)))?,
            None => true,
        };
        let changed = alone || self.differs(stat, was, path);
        self.enter((merged, name, stat), path, ChangeKind::Modified, changed)?;
        match upper.filter(|_| !alone) {
            Some(upper) => self.directory(&upper, &inside, &below, path)?,
            None => self.renewed(&inside, &below, path)?,
        }
        self.leave()
    }

    fn added(&mut self, parent: &OwnedFd, name: &OsStr, stat: &Stat, path: &[u8]) -> Result<(), FilesError> {
        if !is(stat, FileType::Directory) {
            if self.is_ours(path) && stat.st_size == 0 {
                return Ok(());
            }
            return self.tell(ChangeKind::Added, parent, name, Some(stat), path);
        }
        let Some(inside) = opened(parent, name, path)? else {
            return Ok(());
        };
        // What was made for a mount, or on the way to one, is told only if the container put something there.
        let own = !self.holds_ours(path);
        if own {
            self.tell(ChangeKind::Added, parent, name, Some(stat), path)?;
        }
        self.enter((parent, name, stat), path, ChangeKind::Added, false)?;
        self.all_in(&inside, path, own)
    }

    /// Anything but a directory, or what has become something else.
    fn modified(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), FilesError> {
        self.tell(ChangeKind::Modified, parent, name, Some(stat), path)?;
        if !is(stat, FileType::Directory) {
            return Ok(());
        }
        let Some(inside) = opened(parent, name, path)? else {
            return Ok(());
        };
        self.enter((parent, name, stat), path, ChangeKind::Modified, false)?;
        self.all_in(&inside, path, true)
    }

    /// What is in the directory that was entered last, all of it new; then leaves that.
    fn all_in(&mut self, inside: &OwnedFd, path: &[u8], told: bool) -> Result<(), FilesError> {
        if let Some(above) = self.above.last_mut() {
            above.told = told;
        }
        self.check_depth(path)?;
        for name in listed(inside, path)? {
            let path = below(path, &name, true);
            if let Some(stat) = seen(inside, &name, &path)? {
                self.added(inside, &name, &stat, &path)?;
            }
        }
        self.leave()
    }

    fn tell(
        &mut self,
        kind: ChangeKind,
        parent: &OwnedFd,
        name: &OsStr,
        stat: Option<&Stat>,
        path: &[u8],
    ) -> Result<(), FilesError> {
        self.tell_above(kind)?;
        self.sink.take(&Seen {
            kind,
            parent,
            name,
            stat,
            path,
        })
    }

    /// The directories above a change, as far as they are to be told for it and were not.
    fn tell_above(&mut self, kind: ChangeKind) -> Result<(), FilesError> {
        // A change of what is in it is a directory's own, too, where a name came or went.
        let mut around = vec![kind != ChangeKind::Modified];
        for above in self.above.iter().skip(1).rev() {
            around.push(above.kind == ChangeKind::Added && !above.told);
        }
        for (above, around) in self.above.iter_mut().zip(around.into_iter().rev()) {
            let new = above.kind == ChangeKind::Added;
            if above.told || !(S::PARENTS || above.changed || around || new) {
                continue;
            }
            above.told = true;
            self.sink.take(&Seen {
                kind: above.kind,
                parent: &above.parent,
                name: &above.name,
                stat: Some(&above.stat),
                path: &above.path,
            })?;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        (parent, name, stat): (&OwnedFd, &OsStr, &Stat),
        path: &[u8],
        kind: ChangeKind,
        changed: bool,
    ) -> Result<(), FilesError> {
        self.above.push(Above {
            parent: parent.try_clone().map_err(FilesError::io("open", shown(path)))?,
            name: name.to_owned(),
            stat: *stat,
            path: path.to_vec(),
            kind,
            changed,
            told: false,
        });
        Ok(())
    }

    /// Of a directory that changed by itself it is told now, where nothing in it did.
    fn leave(&mut self) -> Result<(), FilesError> {
        let untold = |above: &Above| above.changed && !above.told;
        if self.above.last().is_some_and(untold) {
            self.tell_above(ChangeKind::Modified)?;
        }
        self.above.pop();
        Ok(())
    }

    /// Whether a directory itself was changed. Where something was made in it for a mount, its time says nothing.
    fn differs(&self, stat: &Stat, was: &Stat, path: &[u8]) -> bool {
        let who = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
        let when = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        who(stat) != who(was) || (when(stat) != when(was) && !self.holds_ours(path))
    }

    fn is_ours(&self, path: &[u8]) -> bool {
        self.trees.ours.contains(&absolute(path))
    }

    /// It is such a place, or there is one below it.
    fn holds_ours(&self, path: &[u8]) -> bool {
        let path = absolute(path);
        let mut from = self.trees.ours.range(path.clone()..);
        from.next().is_some_and(|place| place.starts_with(&path))
    }
}

fn absolute(path: &[u8]) -> PathBuf {
    shown(&[b"/", path].concat())
}

fn listed(directory: &OwnedFd, path: &[u8]) -> Result<Vec<OsString>, FilesError> {
    names(directory).map_err(FilesError::io("list", shown(path)))
}

fn seen(parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<Option<Stat>, FilesError> {
    lookup(parent, name).map_err(FilesError::io("look at", shown(path)))
}

/// None where it is on its way to become something else.
fn opened(parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<Option<OwnedFd>, FilesError> {
    still(open_directory(parent, name)).map_err(FilesError::io("open", shown(path)))
}

/// Whether a directory of the upper one hides what the layers below have at its place: it was deleted and made again, or
/// another one was moved there.
fn stands_alone(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for opaque in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 1];
        // "x" says only that there may be whiteouts of another kind in it.
        if attribute(directory, opaque, &mut value)? == Some(1) && value == *b"y" {
            return Ok(true);
        }
    }
    for moved in ["trusted.overlay.redirect", "user.overlay.redirect"] {
        if attribute(directory, moved, &mut [])?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The length of an attribute's value; none where there is no such attribute, or a longer one than there is room for.
fn attribute(directory: &OwnedFd, name: &str, value: &mut [u8]) -> rustix::io::Result<Option<usize>> {
    match rustix::fs::fgetxattr(directory, name, value) {
        Ok(length) => Ok(Some(length)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(e) => Err(e),
    }
}
