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

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use super::FilesError;
use super::kernel::is_of_kernel;
use super::owners::{Owners, times};
use super::pack::shown;
use super::places::{Links, Places, behind, components};
use crate::by_name::{is, lookup, open_directory, still};
use crate::tar::{Entry, Kind, Reader, Segment, Stream, TarError};

const CHUNK: usize = 128 * 1024;

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
    let mut reader = Reader::new(Stream(BufReader::with_capacity(CHUNK, archive)));
    let mut work = Work {
        how,
        places: Places::new(how.root, &how.into, how.links)?,
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
    places: Places<'a>,
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
        let parent = self.places.parent(above)?;
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
                self.how.owners.describe_by_name(&parent, name, entry, &path)
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
        self.places.forget();
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
            Err(e) => Err(FilesError::io("replace", path)(e)),
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
            Err(e) => return Err(FilesError::io("make the directory", path)(e)),
        }
        let fd = open_directory(parent, name).map_err(|e| behind(path, e))?;
        self.how.owners.describe(&fd, entry, path)?;
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
            .map_err(|e| FilesError::io("make", path)(e))?;
        let file = File::from(fd);
        match &entry.sparse {
            None => self.copy(&file, reader, path)?,
            Some(segments) => {
                file.set_len(entry.size).map_err(FilesError::io("write", path))?;
                self.copy_sparse(&file, segments, reader, path)?;
            }
        }
        self.how.owners.describe(&file.into(), entry, path)
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
        let from = self.places.parent(above)?;
        rustix::fs::linkat(&from, last, parent, name, AtFlags::empty())
            .map_err(|e| FilesError::io("make the hard link", path)(e))
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
        rustix::fs::mknodat(parent, name, kind, self.how.owners.mode(entry), device)
            .map_err(|e| FilesError::io("make the device", path)(e))?;
        self.how.owners.describe_by_name(parent, name, entry, path)
    }

    /// The directories' times, deepest first.
    fn finish(&mut self) -> Result<(), FilesError> {
        for (parts, times) in std::mem::take(&mut self.directories).iter().rev() {
            let path: PathBuf = parts.iter().collect();
            let Some((name, above)) = parts.split_last() else {
                continue;
            };
            let parent = self.places.parent(above)?;
            let opened = still(open_directory(&parent, name)).map_err(FilesError::io("open", &path))?;
            // Somebody may have taken it away meanwhile, which is no failure of the copy.
            if let Some(fd) = opened {
                rustix::fs::futimens(&fd, times).map_err(FilesError::io("set the time of", &path))?;
            }
        }
        Ok(())
    }
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
