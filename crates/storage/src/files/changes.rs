//! What a container changed: its overlay's upper directory says where to look, and what is seen there with and without it
//! says what became of it. So whiteouts, opaque directories, renamed ones and files of which only the owner or mode was
//! copied up (kernel Documentation/filesystems/overlayfs.rst) need no reading of overlayfs's own marks, but for one
//! question: whether a directory still stands on the one below it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::FilesError;
use super::kernel::{is, lookup, names, open_directory};
use super::pack::{DEEPEST, PackOptions, Packer, below, shown};
use crate::tar::{Entry, Kind, Time};

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

/// One of the changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Change {
    /// Absolute; what is no UTF-8 of it is replaced.
    pub path: String,
    pub kind: ChangeKind,
}

/// All changes by their paths, a directory before what is in it. A directory of which nothing changed but what is deep below it is not
/// among them.
pub fn changes(trees: &Trees) -> Result<Vec<Change>, FilesError> {
    let mut list = List(Vec::new());
    Walk::new(trees, &mut list).run()?;
    list.0.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(list.0)
}

/// The same as a layer (OCI image-spec, layer.md): every changed file whole, whiteouts for those deleted, and the
/// directories they are in.
pub fn layer(trees: &Trees, out: impl Write, options: PackOptions) -> Result<(), FilesError> {
    let mut packer = Packer::new(out, options);
    Walk::new(trees, &mut packer).run()?;
    packer.finish()
}

/// Something that changed, where it is seen.
struct Seen<'a> {
    kind: ChangeKind,
    parent: &'a OwnedFd,
    name: &'a OsStr,
    /// None where it was deleted.
    stat: Option<&'a Stat>,
    /// Without a slash in front.
    path: &'a [u8],
}

/// Where changes go.
trait Sink {
    /// Whether a directory is wanted for each change below it.
    const PARENTS: bool;
    fn take(&mut self, seen: &Seen<'_>) -> Result<(), FilesError>;
}

struct List(Vec<Change>);

impl Sink for List {
    const PARENTS: bool = false;

    fn take(&mut self, seen: &Seen<'_>) -> Result<(), FilesError> {
        self.0.push(Change {
            path: format!("/{}", String::from_utf8_lossy(seen.path)),
            kind: seen.kind,
        });
        Ok(())
    }
}

impl<W: Write> Sink for Packer<W> {
    const PARENTS: bool = true;

    fn take(&mut self, seen: &Seen<'_>) -> Result<(), FilesError> {
        let Some(stat) = seen.stat else {
            return self.made_up(&whiteout(seen.path));
        };
        if seen.name.as_bytes().starts_with(b".wh.") {
            let why = "a file whose name begins with \".wh.\" cannot be in an image: it would mean that another one is deleted";
            return Err(FilesError::refused(shown(seen.path), why));
        }
        if !is(stat, FileType::Directory) {
            return self.entry(seen.parent, seen.name, stat, seen.path);
        }
        match open_directory(seen.parent, seen.name) {
            Ok(fd) => self.directory(&fd, stat, seen.path),
            // It went away meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(e) => Err(FilesError::io("open", shown(seen.path))(e)),
        }
    }
}

fn whiteout(path: &[u8]) -> Entry {
    let at = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    Entry {
        path: [&path[..at], b".wh.", &path[at..]].concat(),
        kind: Kind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Default::default(),
        size: 0,
        sparse: None,
    }
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

impl<'a, S: Sink> Walk<'a, S> {
    fn new(trees: &'a Trees, sink: &'a mut S) -> Self {
        Self {
            trees,
            sink,
            above: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), FilesError> {
        let trees = self.trees;
        self.directory(&trees.upper, &trees.merged, &trees.base, b"")
    }

    /// One directory that stands on one of the base, by what the upper directory has of it.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        merged: &OwnedFd,
        base: &OwnedFd,
        path: &[u8],
    ) -> Result<(), FilesError> {
        self.check_depth(path)?;
        for name in names(upper).map_err(FilesError::io("list", shown(path)))? {
            let path = below(path, &name, !path.is_empty());
            let look = |dir| lookup(dir, &name).map_err(FilesError::io("look at", shown(&path)));
            match (look(merged)?, look(base)?) {
                (None, None) => {}
                (None, Some(_)) => self.deleted(merged, &name, &path)?,
                (Some(stat), None) => self.added(merged, &name, &stat, &path)?,
                (Some(stat), Some(was))
                    if is(&stat, FileType::Directory) && is(&was, FileType::Directory) =>
                {
                    self.both(upper, (merged, &stat), (base, &was), &name, &path)?;
                }
                (Some(stat), Some(_)) => self.modified(merged, &name, &stat, &path)?,
            }
        }
        Ok(())
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
        upper: &OwnedFd,
        (merged, stat): (&OwnedFd, &Stat),
        (base, was): (&OwnedFd, &Stat),
        name: &OsStr,
        path: &[u8],
    ) -> Result<(), FilesError> {
        let opened = || -> rustix::io::Result<_> {
            Ok((
                open_directory(upper, name)?,
                open_directory(merged, name)?,
                open_directory(base, name)?,
            ))
        };
        let (upper, inside, below) = match opened() {
            Ok(opened) => opened,
            // It is on its way to become something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(FilesError::io("open", shown(path))(e)),
        };
        let renewed = stands_alone(&upper);
        let changed = renewed || self.differs(stat, was, path);
        self.enter(merged, name, stat, path, ChangeKind::Modified)?;
        self.mark(changed, false);
        let walked = match renewed {
            true => self.renewed(&inside, &below, path),
            false => self.directory(&upper, &inside, &below, path),
        };
        walked?;
        self.leave()
    }

    /// A directory that has nothing of the one of the base: all in it is new, and what the other had is gone.
    fn renewed(&mut self, merged: &OwnedFd, base: &OwnedFd, path: &[u8]) -> Result<(), FilesError> {
        self.check_depth(path)?;
        let list = |dir| names(dir).map_err(FilesError::io("list", shown(path)));
        let mut all: BTreeSet<OsString> = list(merged)?.into_iter().collect();
        all.extend(list(base)?);
        for name in all {
            let path = below(path, &name, true);
            let look = |dir| lookup(dir, &name).map_err(FilesError::io("look at", shown(&path)));
            match (look(merged)?, look(base)?) {
                (None, None) => {}
                (None, Some(_)) => self.deleted(merged, &name, &path)?,
                (Some(stat), None) => self.added(merged, &name, &stat, &path)?,
                (Some(stat), Some(was))
                    if is(&stat, FileType::Directory) && is(&was, FileType::Directory) =>
                {
                    let (Ok(inside), Ok(was)) = (open_directory(merged, &name), open_directory(base, &name))
                    else {
                        continue;
                    };
                    self.enter(merged, &name, &stat, &path, ChangeKind::Modified)?;
                    self.mark(true, false);
                    self.renewed(&inside, &was, &path)?;
                    self.leave()?;
                }
                (Some(stat), Some(_)) => self.modified(merged, &name, &stat, &path)?,
            }
        }
        Ok(())
    }

    fn added(&mut self, parent: &OwnedFd, name: &OsStr, stat: &Stat, path: &[u8]) -> Result<(), FilesError> {
        if !is(stat, FileType::Directory) {
            if self.is_ours(path) && stat.st_size == 0 {
                return Ok(());
            }
            return self.tell(ChangeKind::Added, parent, name, Some(stat), path);
        }
        self.check_depth(path)?;
        let inside = match open_directory(parent, name) {
            Ok(inside) => inside,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(FilesError::io("open", shown(path))(e)),
        };
        // What was made for a mount, or on the way to one, is told only if the container put something there.
        let own = !self.holds_ours(path);
        if own {
            self.tell(ChangeKind::Added, parent, name, Some(stat), path)?;
        }
        self.enter(parent, name, stat, path, ChangeKind::Added)?;
        self.mark(false, own);
        for name in names(&inside).map_err(FilesError::io("list", shown(path)))? {
            let path = below(path, &name, true);
            let found = lookup(&inside, &name).map_err(FilesError::io("look at", shown(&path)))?;
            if let Some(stat) = found {
                self.added(&inside, &name, &stat, &path)?;
            }
        }
        self.leave()
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
        let Ok(inside) = open_directory(parent, name) else {
            return Ok(());
        };
        self.enter(parent, name, stat, path, ChangeKind::Modified)?;
        self.mark(false, true);
        for name in names(&inside).map_err(FilesError::io("list", shown(path)))? {
            let path = below(path, &name, true);
            let found = lookup(&inside, &name).map_err(FilesError::io("look at", shown(&path)))?;
            if let Some(stat) = found {
                self.added(&inside, &name, &stat, &path)?;
            }
        }
        self.leave()
    }

    fn deleted(&mut self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<(), FilesError> {
        self.tell(ChangeKind::Deleted, parent, name, None, path)
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
        parent: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        path: &[u8],
        kind: ChangeKind,
    ) -> Result<(), FilesError> {
        self.above.push(Above {
            parent: parent.try_clone().map_err(FilesError::io("open", shown(path)))?,
            name: name.to_owned(),
            stat: *stat,
            path: path.to_vec(),
            kind,
            changed: false,
            told: false,
        });
        Ok(())
    }

    /// Of the directory that was entered last.
    fn mark(&mut self, changed: bool, told: bool) {
        if let Some(above) = self.above.last_mut() {
            (above.changed, above.told) = (changed, told);
        }
    }

    /// Of a directory that changed by itself it is told now, where nothing in it did.
    fn leave(&mut self) -> Result<(), FilesError> {
        if self
            .above
            .last()
            .is_some_and(|above| above.changed && !above.told)
        {
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

/// Whether a directory of the upper one hides what the layers below have at its place: it was deleted and made again, or
/// another one was moved there.
fn stands_alone(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"];
    let is_opaque = |name: &&str| {
        // "x" says only that there may be whiteouts of another kind in it.
        rustix::fs::fgetxattr(directory, *name, &mut value) == Ok(1) && value == *b"y"
    };
    let mut any = [0; 0];
    let moved = ["trusted.overlay.redirect", "user.overlay.redirect"];
    opaque.iter().any(is_opaque)
        || moved
            .iter()
            .any(|name| rustix::fs::fgetxattr(directory, *name, &mut any).is_ok())
}
