//! An archive unpacked into a tree that is there already, as `docker cp` does it: what is in the way is replaced,
//! directories are merged, and neither becomes the other.
//!
//! The archive may be hostile, and so may the tree: nothing is written outside of the root, nothing that exists is opened
//! for writing, and no link that the archive brings is ever followed where links are not to be.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::FilesError;
use super::kernel::{clean, is, is_kept, is_of_kernel, lookup, open_directory};
use super::pack::shown;
use super::path::resolve;
use crate::tar::{Entry, Kind, Reader, Segment, Stream, TarError, Time};

const CHUNK: usize = 128 * 1024;

/// What becomes of links on the way to where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They lead where they lead below the root.
    FollowBelow,
    /// An entry behind one is refused.
    Refuse,
}

/// Whose the files become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Whose the archive says; with them come set-id bits, devices, capabilities and all attributes.
    Archive,
    /// Ours. What gives rights by itself is left out: set-id bits, devices, attributes but `user.`.
    Own,
}

/// Where an archive goes, and how.
#[derive(Clone, Debug)]
pub struct Extract<'a> {
    pub root: BorrowedFd<'a>,
    /// The directory below the root; it exists.
    pub into: PathBuf,
    pub links: Links,
    pub owners: Owners,
    /// The first part of every entry's path, and what it is to be instead. An entry without it is refused.
    pub rename: Option<(Vec<u8>, Vec<u8>)>,
    /// A directory may not take the place of anything else, nor the other way round.
    pub keep_kinds: bool,
}

/// Unpacks a plain tar archive, and reads it to its end. Gives the paths that were left out, and why.
pub fn extract(archive: impl Read, how: &Extract<'_>) -> Result<Vec<(PathBuf, &'static str)>, FilesError> {
    let base = resolve(how.root, &clean(&how.into)).map_err(FilesError::io("open", &how.into))?;
    let mut reader = Reader::new(Stream(BufReader::with_capacity(CHUNK, archive)));
    let mut work = Work {
        how,
        base,
        recent: None,
        directories: Vec::new(),
        left_out: Vec::new(),
        buffer: vec![0; CHUNK],
    };
    while let Some(entry) = reader.next_entry()? {
        let Some(parts) = work.place(&entry.path)? else {
            continue;
        };
        work.entry(&entry, &parts, &mut reader)?;
    }
    work.finish()?;
    // Whoever sends is not to find the pipe closed before its padding is through.
    let mut rest = reader.into_source();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(TarError::from)?;
    Ok(work.left_out)
}

type Archive<R> = Reader<Stream<BufReader<R>>>;

/// One archive being unpacked.
struct Work<'a> {
    how: &'a Extract<'a>,
    base: OwnedFd,
    /// The directory found last.
    recent: Option<(Vec<OsString>, OwnedFd)>,
    /// Whose times are set at the end: writing into them changes those.
    directories: Vec<(Vec<OsString>, Timestamps)>,
    left_out: Vec<(PathBuf, &'static str)>,
    buffer: Vec<u8>,
}

impl Work<'_> {
    /// Where an entry goes, below the base; none for that itself.
    fn place(&self, path: &[u8]) -> Result<Option<Vec<OsString>>, FilesError> {
        let mut parts = components(path)?;
        if let Some((from, to)) = &self.how.rename {
            let from = components(from)?;
            if !parts.starts_with(&from) {
                let why = "the archive was to hold another file, and is refused";
                return Err(FilesError::refused(shown(path), why));
            }
            let rest = parts.split_off(from.len());
            parts = components(to)?.into_iter().chain(rest).collect();
        }
        Ok((!parts.is_empty()).then_some(parts))
    }

    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        parts: &[OsString],
        reader: &mut Archive<R>,
    ) -> Result<(), FilesError> {
        let path: PathBuf = parts.iter().collect();
        let Some((name, above)) = parts.split_last() else {
            return Ok(());
        };
        let parent = self.parent(above)?;
        if is_of_kernel(&parent).map_err(FilesError::io("look at", &path))? {
            return Err(FilesError::refused(
                path,
                "this is the kernel's, and nothing can be copied there",
            ));
        }
        self.clear(&parent, name, entry, &path)?;
        match &entry.kind {
            Kind::Directory => self.directory(&parent, name, entry, parts, &path),
            Kind::File => self.file(&parent, name, entry, reader, &path),
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name)
                    .map_err(FilesError::io("make the link", &path))?;
                self.describe_by_name(&parent, name, entry, &path)
            }
            Kind::HardLink(target) => self.hard_link(&parent, name, target, &path),
            Kind::Character(major, minor) => self.node(
                &parent,
                name,
                entry,
                (FileType::CharacterDevice, *major, *minor),
                &path,
            ),
            Kind::Block(major, minor) => self.node(
                &parent,
                name,
                entry,
                (FileType::BlockDevice, *major, *minor),
                &path,
            ),
            Kind::Fifo => self.node(&parent, name, entry, (FileType::Fifo, 0, 0), &path),
        }
    }

    /// The directory of these parts below the base; made, 0755 and ours, where it is missing.
    fn parent(&mut self, parts: &[OsString]) -> Result<OwnedFd, FilesError> {
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
                    Err(e) => return Err(failed("make the directory", &at, e)),
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
        match (parts.last(), above, self.how.links) {
            (Some(name), Some(above), Links::Refuse) => open_directory(above, name),
            (Some(_), _, Links::FollowBelow) => {
                let into = clean(&self.how.into);
                let all: Vec<OsString> = into.into_iter().chain(parts.iter().cloned()).collect();
                resolve(self.how.root, &all).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            }
            _ => rustix::fs::openat(&self.base, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
        }
    }

    /// Takes away what is in an entry's way.
    fn clear(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        path: &Path,
    ) -> Result<(), FilesError> {
        let found = lookup(parent, name).map_err(FilesError::io("look at", path))?;
        let Some(stat) = found else { return Ok(()) };
        let (there, comes) = (is(&stat, FileType::Directory), entry.kind == Kind::Directory);
        if there && comes {
            return Ok(());
        }
        if self.how.keep_kinds && there {
            let why = "a directory is there, which nothing else can take the place of";
            return Err(FilesError::refused(path, why));
        }
        if self.how.keep_kinds && comes {
            let why = "a directory cannot take the place of the file that is there";
            return Err(FilesError::refused(path, why));
        }
        // The same path may lead elsewhere from now on.
        self.recent = None;
        let flags = if there {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match rustix::fs::unlinkat(parent, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::BUSY) => Err(FilesError::refused(
                path,
                "something is mounted there, and it stays",
            )),
            Err(e) => Err(failed("replace", path, e)),
        }
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        parts: &[OsString],
        path: &Path,
    ) -> Result<(), FilesError> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("make the directory", path, e)),
        }
        let fd = open_directory(parent, name).map_err(|e| behind(path, e))?;
        self.describe(&fd, entry, path)?;
        self.directories.push((parts.to_vec(), times(entry.mtime)));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        reader: &mut Archive<R>,
        path: &Path,
    ) -> Result<(), FilesError> {
        // EXCL: what somebody put there meanwhile is never opened, be it a FIFO, a device or a link.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| failed("make", path, e))?;
        let file = File::from(fd);
        match &entry.sparse {
            None => self.copy(&file, reader, path)?,
            Some(segments) => {
                file.set_len(entry.size).map_err(FilesError::io("write", path))?;
                self.copy_sparse(&file, segments, reader, path)?;
            }
        }
        self.describe(&file.into(), entry, path)
    }

    fn copy<R: Read>(
        &mut self,
        mut file: &File,
        reader: &mut Archive<R>,
        path: &Path,
    ) -> Result<(), FilesError> {
        loop {
            let read = reader.read_data(&mut self.buffer)?;
            if read == 0 {
                return Ok(());
            }
            file.write_all(&self.buffer[..read])
                .map_err(FilesError::io("write", path))?;
        }
    }

    fn copy_sparse<R: Read>(
        &mut self,
        file: &File,
        segments: &[Segment],
        reader: &mut Archive<R>,
        path: &Path,
    ) -> Result<(), FilesError> {
        for segment in segments {
            let mut done = 0;
            while done < segment.length {
                let wanted = (segment.length - done).min(CHUNK as u64) as usize;
                let read = reader.read_data(&mut self.buffer[..wanted])?;
                if read == 0 {
                    return Err(TarError::Truncated.into());
                }
                file.write_all_at(&self.buffer[..read], segment.offset + done)
                    .map_err(FilesError::io("write", path))?;
                done += read as u64;
            }
        }
        Ok(())
    }

    /// To a file that came before, under the name the archive has for it; that is not followed.
    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        target: &[u8],
        path: &Path,
    ) -> Result<(), FilesError> {
        let Some(target) = self.place(target)? else {
            return Err(FilesError::refused(path, "it is a hard link to a directory"));
        };
        let Some((last, above)) = target.split_last() else {
            return Ok(());
        };
        let from = self.parent(above)?;
        rustix::fs::linkat(&from, last, parent, name, AtFlags::empty())
            .map_err(|e| failed("make the hard link", path, e))
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        (kind, major, minor): (FileType, u32, u32),
        path: &Path,
    ) -> Result<(), FilesError> {
        if self.how.owners == Owners::Own && kind != FileType::Fifo {
            self.left_out.push((path.to_owned(), "it is a device"));
            return Ok(());
        }
        let device = rustix::fs::makedev(major, minor);
        // With its mode: changing that later would follow a link that somebody puts there meanwhile.
        rustix::fs::mknodat(parent, name, kind, self.mode(entry), device)
            .map_err(|e| failed("make the device", path, e))?;
        self.describe_by_name(parent, name, entry, path)
    }

    /// Owner, mode, attributes, times, in the order in which they do not undo each other.
    fn describe(&self, fd: &OwnedFd, entry: &Entry, path: &Path) -> Result<(), FilesError> {
        let all = self.how.owners == Owners::Archive;
        if let Some((uid, gid)) = self.owner(entry, path)? {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(FilesError::io("set the owner of", path))?;
        }
        rustix::fs::fchmod(fd, self.mode(entry)).map_err(FilesError::io("set the mode of", path))?;
        for (name, value) in &entry.xattrs {
            if !is_kept(name) || !(all || name.starts_with(b"user.")) {
                continue;
            }
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // A file system may lack attributes; but no program silently loses its capabilities.
                Err(Errno::OPNOTSUPP | Errno::PERM) if name != b"security.capability" => {}
                other => other.map_err(FilesError::io("set an attribute of", path))?,
            }
        }
        rustix::fs::futimens(fd, &times(entry.mtime)).map_err(FilesError::io("set the time of", path))
    }

    /// Owner and time of what cannot be opened: a link, device or FIFO.
    fn describe_by_name(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        path: &Path,
    ) -> Result<(), FilesError> {
        let stay = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner(entry, path)? {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), stay)
                .map_err(FilesError::io("set the owner of", path))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), stay)
            .map_err(FilesError::io("set the time of", path))
    }

    fn owner(&self, entry: &Entry, path: &Path) -> Result<Option<(Uid, Gid)>, FilesError> {
        if self.how.owners == Owners::Own {
            return Ok(None);
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
            _ => Err(FilesError::refused(path, "its owner is not possible on Linux")),
        }
    }

    fn mode(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(match self.how.owners {
            Owners::Archive => entry.mode,
            Owners::Own => entry.mode & 0o1777,
        })
    }

    /// The directories' times, deepest first.
    fn finish(&mut self) -> Result<(), FilesError> {
        for (parts, times) in std::mem::take(&mut self.directories).iter().rev() {
            let path: PathBuf = parts.iter().collect();
            let Some((name, above)) = parts.split_last() else {
                continue;
            };
            let parent = self.parent(above)?;
            // Somebody may have taken it away meanwhile, which is no failure of the copy.
            if let Ok(fd) = open_directory(&parent, name) {
                rustix::fs::futimens(&fd, times).map_err(FilesError::io("set the time of", &path))?;
            }
        }
        Ok(())
    }
}

fn times(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The parts of an entry's path, which may begin with a slash or `./`; `..` is refused, not resolved.
fn components(path: &[u8]) -> Result<Vec<OsString>, FilesError> {
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

fn behind(path: &Path, error: Errno) -> FilesError {
    match error {
        Errno::NOTDIR | Errno::LOOP => {
            FilesError::refused(path, "a file or a link is where a directory has to be")
        }
        error => failed("open", path, error),
    }
}

fn failed(doing: &'static str, path: &Path, error: Errno) -> FilesError {
    FilesError::io(doing, path)(error)
}

/// For whoever has a directory by its path alone.
impl<'a> Extract<'a> {
    /// Into a directory that is the root itself, by somebody who trusts neither the archive nor its links.
    pub fn careful(root: &'a impl AsFd, owners: Owners) -> Self {
        Self {
            root: root.as_fd(),
            into: PathBuf::from("."),
            links: Links::Refuse,
            owners,
            rename: None,
            keep_kinds: true,
        }
    }
}
