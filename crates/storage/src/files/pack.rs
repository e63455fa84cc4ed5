//! A tree, or a part of it, as a tar archive.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, SeekFrom, Stat};
use rustix::io::Errno;

use super::kernel::{Fds, is_of_kernel, xattrs};
use super::{FilesError, Target};
use crate::by_name::{is, lookup, names, open_directory, read_link, still};
use crate::tar::{Entry, Kind, MAX_SEGMENTS, Segment, Time, Writer};

/// How deep directories may be nested. Each level takes a descriptor and some stack.
pub const DEEPEST: usize = 1000;

/// Bytes read at a time.
const CHUNK: usize = 128 * 1024;

/// How files are packed.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    pub fds: Fds,
    /// Whose the entries say the files are; none: whose they are.
    pub owner: Option<(u32, u32)>,
    /// Times with their fractions of a second; else whole seconds, as in every archive of Docker's.
    pub exact_times: bool,
    /// Files with holes as GNU tar writes them with `--sparse` (pax 1.0); else with zeros, which everybody can read.
    pub holes: bool,
}

/// Packs what a path leads to under this name, a directory with all that is in it. A name of `/` puts what is in the
/// directory at the top, with absolute paths, as dockerd does.
pub fn pack(target: &Target, name: &[u8], out: impl Write, options: PackOptions) -> Result<(), FilesError> {
    let mut packer = Packer::new(out, options);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    packer.tree(&target.parent, &target.name, &target.stat, name, 0)?;
    packer.finish()
}

/// Packs what is in a directory at the archive's top, without an entry for itself.
pub fn pack_tree(top: &OwnedFd, out: impl Write, options: PackOptions) -> Result<(), FilesError> {
    let mut packer = Packer::new(out, options);
    packer.inside(top, b"", false, 0)?;
    packer.finish()
}

/// An archive under way.
pub struct Packer<W> {
    out: Writer<W>,
    options: PackOptions,
    /// Files with several names, by device and inode: the name of the first entry.
    linked: BTreeMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    pub fn new(out: W, options: PackOptions) -> Self {
        Self {
            out: Writer::new(out),
            options,
            linked: BTreeMap::new(),
            buffer: vec![0; CHUNK],
        }
    }

    pub fn finish(self) -> Result<(), FilesError> {
        self.out.finish().map(drop).map_err(FilesError::Output)
    }

    /// An entry made up here.
    pub fn made_up(&mut self, entry: &Entry) -> Result<(), FilesError> {
        self.out.begin(entry).map_err(FilesError::Output)
    }

    fn tree(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        path: &[u8],
        depth: usize,
    ) -> Result<(), FilesError> {
        if !is(stat, FileType::Directory) {
            return self.entry(parent, name, stat, path);
        }
        let opened = still(open_directory(parent, name));
        let directory = match opened.map_err(FilesError::io("open", shown(path)))? {
            Some(directory) => directory,
            // It went away, or became something else, since it was listed.
            None if depth > 0 => return Ok(()),
            None => return Err(FilesError::NotFound(shown(path))),
        };
        self.directory(&directory, stat, path)?;
        let kernels = is_of_kernel(&directory).map_err(FilesError::io("look at", shown(path)))?;
        match kernels {
            true => Ok(()),
            false => self.inside(&directory, path, true, depth),
        }
    }

    fn inside(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        slash: bool,
        depth: usize,
    ) -> Result<(), FilesError> {
        if depth >= DEEPEST {
            let why = format!("directories are nested more than {DEEPEST} deep");
            return Err(FilesError::refused(shown(path), why));
        }
        for name in names(directory).map_err(FilesError::io("list", shown(path)))? {
            let path = below(path, &name, slash);
            let found = lookup(directory, &name);
            if let Some(stat) = found.map_err(FilesError::io("look at", shown(&path)))? {
                self.tree(directory, &name, &stat, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    /// The entry of a directory alone.
    pub fn directory(&mut self, fd: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<(), FilesError> {
        let mut entry = self.described(stat, Kind::Directory, &[path, b"/"].concat());
        entry.xattrs = xattrs(fd).map_err(FilesError::io("read the attributes of", shown(path)))?;
        self.made_up(&entry)
    }

    /// Anything but a directory. Sockets are left out, and what went away meanwhile.
    pub fn entry(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), FilesError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(parent, name, path),
            FileType::Symlink => match read_link(parent, name) {
                Ok(target) => Kind::Symlink(target),
                // It went away, or became something else.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                    return Ok(());
                }
                Err(e) => return Err(FilesError::io("read the link", shown(path))(e)),
            },
            FileType::CharacterDevice => {
                Kind::Character(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
            }
            FileType::BlockDevice => {
                Kind::Block(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
            }
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(()),
        };
        let kind = self.linked(stat, path).unwrap_or(kind);
        let entry = self.described(stat, kind, path);
        self.made_up(&entry)
    }

    /// A hard link, where the same file is in the archive already.
    fn linked(&mut self, stat: &Stat, path: &[u8]) -> Option<Kind> {
        if stat.st_nlink < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&key) {
            return Some(Kind::HardLink(first.clone()));
        }
        self.linked.insert(key, path.to_vec());
        None
    }

    fn file(&mut self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<(), FilesError> {
        let (fd, stat) = match self.options.fds.open_file(parent, name) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(FilesError::io("open", shown(path))(e)),
        };
        if let Some(link) = self.linked(&stat, path) {
            let entry = self.described(&stat, link, path);
            return self.made_up(&entry);
        }
        let mut entry = self.described(&stat, Kind::File, path);
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        entry.xattrs = xattrs(&fd).map_err(FilesError::io("read the attributes of", shown(path)))?;
        let file = File::from(fd);
        if self.options.holes {
            entry.sparse = parts(&file, entry.size).map_err(FilesError::io("read", shown(path)))?;
        }
        self.made_up(&entry)?;
        match &entry.sparse {
            None => self.content(&file, entry.size, path),
            Some(parts) => parts
                .iter()
                .try_for_each(|part| self.part(&file, part.offset, part.offset + part.length, path)),
        }
    }

    /// All of a file; holes are written as zeros without being read.
    fn content(&mut self, file: &File, size: u64, path: &[u8]) -> Result<(), FilesError> {
        let mut at = 0;
        while at < size {
            let (start, end) = segment(file, at, size).map_err(FilesError::io("read", shown(path)))?;
            self.out.zeros(start - at).map_err(FilesError::Output)?;
            self.part(file, start, end, path)?;
            at = end;
        }
        Ok(())
    }

    /// Exactly the bytes that were promised: where the file has become shorter they are zeros.
    fn part(&mut self, file: &File, mut at: u64, end: u64, path: &[u8]) -> Result<(), FilesError> {
        while at < end {
            let wanted = (end - at).min(CHUNK as u64) as usize;
            let read = file.read_at(&mut self.buffer[..wanted], at);
            let read = read.map_err(FilesError::io("read", shown(path)))?;
            if read == 0 {
                return self.out.zeros(end - at).map_err(FilesError::Output);
            }
            self.out.data(&self.buffer[..read]).map_err(FilesError::Output)?;
            at += read as u64;
        }
        Ok(())
    }

    fn described(&self, stat: &Stat, kind: Kind, path: &[u8]) -> Entry {
        let (uid, gid) = self.options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Entry {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: uid.into(),
            gid: gid.into(),
            mtime: Time {
                seconds: stat.st_mtime,
                nanoseconds: match self.options.exact_times {
                    true => u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
                    false => 0,
                },
            },
            xattrs: BTreeMap::new(),
            size: 0,
            sparse: None,
        }
    }
}

/// The parts of a file that have data; none where it has no holes, or more parts than whoever unpacks it would take.
fn parts(file: &File, size: u64) -> io::Result<Option<Vec<Segment>>> {
    let mut parts = Vec::new();
    let (mut at, mut data) = (0, 0);
    while at < size {
        if parts.len() == MAX_SEGMENTS - 1 {
            return Ok(None);
        }
        let (start, end) = segment(file, at, size)?;
        let length = end - start;
        // GNU tar makes a file that ends in a hole as long as it is by a part without data at its end.
        if length > 0 || end == size {
            parts.push(Segment {
                offset: start,
                length,
            });
        }
        (at, data) = (end, data + length);
    }
    Ok((data < size).then_some(parts))
}

/// The next part with data from there on (lseek(2), SEEK_DATA); the end of the file where there is none.
fn segment(file: &File, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that knows no holes has data everywhere.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(e) => return Err(e.into()),
    };
    match rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start)) {
        Ok(end) => Ok((start, end.clamp(start, size))),
        Err(Errno::NXIO) => Ok((size, size)),
        Err(e) => Err(e.into()),
    }
}

pub fn below(path: &[u8], name: &OsStr, slash: bool) -> Vec<u8> {
    let between: &[u8] = if slash { b"/" } else { b"" };
    [path, between, name.as_bytes()].concat()
}

pub fn shown(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path)).to_owned()
}
