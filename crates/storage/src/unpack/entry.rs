//! Writing one entry: files, directories, links, devices, whiteouts.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::meta::{self, Meta};
use super::root::{Directory, is_whiteout, lookup, open_child};
use super::{Contents, Dated, Unpacker, name};
use crate::by_name::is;
use crate::error::EntryError;
use crate::tar::{Entry, KeptFile, Kind, Reader, Segment, Source, TarError, shown};

/// The entry is at fault, or the archive it came from.
pub enum Failure {
    Entry(EntryError),
    Tar(TarError),
}

impl From<EntryError> for Failure {
    fn from(error: EntryError) -> Self {
        Self::Entry(error)
    }
}

impl From<TarError> for Failure {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// How content is read: as what is kept, or as what is not.
type ReadBy<S> = fn(&mut Reader<S>, &mut [u8]) -> Result<usize, TarError>;

/// Where an entry goes: an open directory and a name in it.
struct Place {
    directory: Rc<Directory>,
    name: OsString,
}

impl Unpacker<'_> {
    pub(super) fn entry<S: Source>(
        &mut self,
        entry: &Entry,
        path: &[OsString],
        reader: &mut Reader<S>,
    ) -> Result<(), Failure> {
        let meta = Meta::of(entry)?;
        let Some((name, above)) = path.split_last() else {
            return Ok(self.root_entry(entry, &meta)?);
        };
        let place = Place {
            directory: self.root.parent(above)?,
            name: name.clone(),
        };
        match &entry.kind {
            Kind::Directory => Ok(self.directory(path, &place, &meta)?),
            Kind::File => self.file(entry, &place, &meta, reader),
            Kind::HardLink(target) => Ok(self.hard_link(&place, target)?),
            Kind::Symlink(target) => {
                self.clear(&place)?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &place.directory.fd, &place.name)
                    .map_err(EntryError::io("make the symbolic link"))?;
                Ok(meta.apply_by_name(&place.directory.fd, &place.name, FileType::Symlink)?)
            }
            Kind::Character(major, minor) => {
                Ok(self.node(&place, &meta, FileType::CharacterDevice, (*major, *minor))?)
            }
            Kind::Block(major, minor) => {
                Ok(self.node(&place, &meta, FileType::BlockDevice, (*major, *minor))?)
            }
            Kind::Fifo => Ok(self.node(&place, &meta, FileType::Fifo, (0, 0))?),
        }
    }

    /// `.wh.NAME` hides what lower layers have and leaves alone what this layer has, be it before or after it in the
    /// archive (OCI image-spec, layer.md: whiteouts apply to lower layers only).
    pub(super) fn whiteout(&mut self, path: &[OsString]) -> Result<(), EntryError> {
        let Some((name, above)) = path.split_last() else {
            return Err(EntryError::Whiteout);
        };
        let directory = self.root.parent(above)?;
        let parent = &directory.fd;
        match lookup(parent, name)? {
            None => meta::whiteout(parent, name),
            Some(stat) if is(&stat, FileType::Directory) => meta::set_opaque(&open_child(parent, name)?),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn opaque(&mut self, path: &[OsString]) -> Result<(), EntryError> {
        let directory = self.root.parent(path)?;
        meta::set_opaque(&open_child(&directory.fd, OsStr::new("."))?)
    }

    fn root_entry(&mut self, entry: &Entry, meta: &Meta) -> Result<(), EntryError> {
        if entry.kind != Kind::Directory {
            return Err(EntryError::Root);
        }
        meta.apply_to(self.root.fd())?;
        self.remember(Vec::new(), meta)
    }

    fn directory(&mut self, path: &[OsString], place: &Place, meta: &Meta) -> Result<(), EntryError> {
        let there = lookup(&place.directory.fd, &place.name)?;
        let hidden = there.as_ref().is_some_and(is_whiteout);
        if !there.as_ref().is_some_and(|stat| is(stat, FileType::Directory)) {
            self.clear_known(place, there.as_ref())?;
            rustix::fs::mkdirat(&place.directory.fd, &place.name, Mode::RWXU)
                .map_err(EntryError::io("make the directory"))?;
        }
        let fd = open_child(&place.directory.fd, &place.name)?;
        if hidden {
            // The whiteout hid what lower layers have here; the directory must go on doing so.
            meta::set_opaque(&fd)?;
        }
        meta.apply_to(&fd)?;
        let inode = meta::inode(&fd)?;
        self.directories.push(Dated {
            path: path.to_vec(),
            inode,
            times: meta.times(),
        });
        Ok(())
    }

    fn remember(&mut self, path: Vec<OsString>, meta: &Meta) -> Result<(), EntryError> {
        let inode = meta::inode(self.root.fd())?;
        self.directories.push(Dated {
            path,
            inode,
            times: meta.times(),
        });
        Ok(())
    }

    fn file<S: Source>(
        &mut self,
        entry: &Entry,
        place: &Place,
        meta: &Meta,
        reader: &mut Reader<S>,
    ) -> Result<(), Failure> {
        self.clear(place)?;
        // EXCL: whatever was there is never opened, be it a FIFO, a device or a link.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.directory.fd, &place.name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(EntryError::io("make the file"))?;
        let file = File::from(fd);
        match self.contents {
            Contents::Written => self.content(entry, place, &file, reader)?,
            Contents::Hollow => file
                .set_len(entry.size)
                .map_err(EntryError::io("set the file's size"))?,
        }
        Ok(meta.apply_to(&file.into())?)
    }

    /// Writes what comes, and says where it is now, so that it can be read from there again. Where that cannot be said
    /// it counts as not kept.
    fn content<S: Source>(
        &mut self,
        entry: &Entry,
        place: &Place,
        file: &File,
        reader: &mut Reader<S>,
    ) -> Result<(), Failure> {
        let path = place.directory.real_path_of(&place.name);
        let read = match path {
            Some(_) => Reader::<S>::read_content,
            None => Reader::<S>::read_data,
        };
        match &entry.sparse {
            None => self.copy(file, reader, read)?,
            Some(segments) => self.copy_sparse(file, entry.size, segments, reader, read)?,
        }
        let Some(path) = path.filter(|_| entry.size > 0) else {
            return Ok(());
        };
        let stat = rustix::fs::fstat(file).map_err(EntryError::io("look at it"))?;
        let kept = KeptFile {
            path: &path,
            inode: stat.st_ino,
            size: entry.size,
            segments: entry.sparse.as_deref(),
        };
        Ok(reader.source_mut().kept(&kept).map_err(TarError::from)?)
    }

    fn copy<S: Source>(
        &mut self,
        mut file: &File,
        reader: &mut Reader<S>,
        read: ReadBy<S>,
    ) -> Result<(), Failure> {
        loop {
            let read = read(reader, &mut self.buffer)?;
            // A cancelled layer is thrown away whole, so the file may stay short.
            if read == 0 || self.cancel.load(Ordering::Relaxed) {
                return Ok(());
            }
            file.write_all(&self.buffer[..read])
                .map_err(EntryError::io("write the file"))?;
        }
    }

    fn copy_sparse<S: Source>(
        &mut self,
        file: &File,
        size: u64,
        segments: &[Segment],
        reader: &mut Reader<S>,
        read: ReadBy<S>,
    ) -> Result<(), Failure> {
        file.set_len(size)
            .map_err(EntryError::io("set the file's size"))?;
        for segment in segments {
            let mut done = 0;
            while done < segment.length && !self.cancel.load(Ordering::Relaxed) {
                let wanted = (segment.length - done).min(self.buffer.len() as u64) as usize;
                let read = read(reader, &mut self.buffer[..wanted])?;
                if read == 0 {
                    return Err(TarError::Truncated.into());
                }
                file.write_all_at(&self.buffer[..read], segment.offset + done)
                    .map_err(EntryError::io("write the file"))?;
                done += read as u64;
            }
        }
        Ok(())
    }

    /// The target is a path in the layer: its directory resolves inside the root, itself it is not followed. Owner, mode
    /// and attributes stay the target's, as GNU tar has it: changing the owner again would strip its capabilities.
    fn hard_link(&mut self, place: &Place, target: &[u8]) -> Result<(), EntryError> {
        let missing = || EntryError::LinkTarget(shown(target));
        let path = name::components(target).map_err(|_| missing())?;
        let (name, above) = path.split_last().ok_or_else(missing)?;
        let from = self.root.existing_parent(above)?.ok_or_else(missing)?;
        let source = lookup(&from, name)?.ok_or_else(missing)?;
        if is(&source, FileType::Directory) {
            return Err(EntryError::LinkToDirectory(shown(target)));
        }
        let there = lookup(&place.directory.fd, &place.name)?;
        if there
            .as_ref()
            .is_some_and(|stat| (stat.st_dev, stat.st_ino) == (source.st_dev, source.st_ino))
        {
            return Ok(());
        }
        self.clear_known(place, there.as_ref())?;
        rustix::fs::linkat(&from, name, &place.directory.fd, &place.name, AtFlags::empty())
            .map_err(EntryError::io("make the hard link"))
    }

    fn node(
        &mut self,
        place: &Place,
        meta: &Meta,
        kind: FileType,
        device: (u32, u32),
    ) -> Result<(), EntryError> {
        self.clear(place)?;
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(&place.directory.fd, &place.name, kind, Mode::RUSR, device)
            .map_err(EntryError::io("make the device node"))?;
        meta.apply_by_name(&place.directory.fd, &place.name, kind)
    }

    fn clear(&mut self, place: &Place) -> Result<(), EntryError> {
        let there = lookup(&place.directory.fd, &place.name)?;
        self.clear_known(place, there.as_ref())
    }

    fn clear_known(&mut self, place: &Place, there: Option<&Stat>) -> Result<(), EntryError> {
        match there {
            None => Ok(()),
            Some(stat) => self.root.discard(&place.directory.fd, &place.name, stat),
        }
    }
}
