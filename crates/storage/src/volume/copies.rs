//! A volume as an archive, from an archive, and as another volume.
//!
//! What comes from an archive is unpacked as `files` does it: nothing outside of the volume is reached, whatever links
//! archive or volume hold, and `.wh.` names are names like any other. A volume that is made by it appears whole or not at
//! all; into one that is there, files come one by one, as another program would write them.

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use model::name::Name;
use model::paths::{VOLUME_DATA, VOLUME_FILLED};
use model::spec::{VolumeDriver, VolumeSpec};

use super::{Result, VolumeError, Volumes, directory};
use crate::error::LayerError;
use crate::files::{Extract, FilesError, Links, Owners, PackOptions, Target, extract, pack};
use crate::inflate::inflate;
use crate::tar::{Entry, Kind, Reader, Stream, TarError};
use crate::tree;
use crate::unpack::meta::Meta;

/// How much of an archive is looked at for the entry of the volume's own directory, which comes first.
const HEAD: u64 = 64 * 1024;

/// Bytes read at a time.
const CHUNK: usize = 128 * 1024;

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The volume was not there before.
    pub made: bool,
    /// What could not be kept as it was, and why.
    pub left_out: Vec<(PathBuf, &'static str)>,
}

/// How an archive has files with holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// As zeros, which every tar can read.
    Zeros,
    /// As GNU tar writes them with `--sparse` (pax 1.0): without them. A tar that does not know this form, busybox's, unpacks
    /// such a file under another name, with a list of its parts in front.
    Kept,
}

impl Volumes {
    /// Writes the volume as a plain tar archive: `./` with its own owner and mode, then all that is in it; sockets are
    /// left out.
    pub fn export(&self, name: &Name, out: impl Write, holes: Holes, cancel: &AtomicBool) -> Result<()> {
        let path = self.data_of(name)?;
        write_archive(name, &path, holes, Watched { inner: out, cancel })
    }

    /// Puts an archive (tar; plain, gzip, zstd or xz) into a volume, over what is there under the same names; one that is not
    /// there is made.
    pub fn import(&self, name: &Name, archive: impl Read, cancel: &AtomicBool) -> Result<Imported> {
        let archive = Watched {
            inner: archive,
            cancel,
        };
        let (made, left_out) = match self.data_there(name)? {
            Some(path) => (false, read_archive(name, &path, archive)),
            None => (
                true,
                self.make_from(name, |data| read_archive(name, data, archive)),
            ),
        };
        let left_out = left_out.map_err(|e| e.or_full(&self.volumes))?;
        Ok(Imported { made, left_out })
    }

    /// Makes the volume `to` with what `from` holds at the moment.
    pub fn clone_as(&self, from: &Name, to: &Name, cancel: &AtomicBool) -> Result<()> {
        let path = self.data_of(from)?;
        if self.data_there(to)?.is_some() {
            return Err(VolumeError::Exists(to.clone()));
        }
        let made = self.make_from(to, |data| {
            let (reader, writer) = io::pipe().map_err(VolumeError::io("make a pipe for", data))?;
            std::thread::scope(|scope| {
                let writer = Watched {
                    inner: writer,
                    cancel,
                };
                let packing = scope.spawn(|| write_archive(from, &path, Holes::Kept, writer));
                let read = read_archive(to, data, reader);
                // The packer's error is the cause of the reader's, but for that nobody took what it packed.
                let packed = packing.join().unwrap_or_else(|panic| resume_unwind(panic));
                match (packed, read) {
                    (Err(e), Ok(_)) => Err(e),
                    (Err(e), Err(_)) if !e.is_broken_pipe() => Err(e),
                    (_, read) => read.map(drop),
                }
            })
        });
        made.map_err(|e| e.or_full(&self.volumes))
    }

    fn data_of(&self, name: &Name) -> Result<PathBuf> {
        self.data_there(name)?
            .ok_or_else(|| VolumeError::Missing(name.clone()))
    }

    /// Where a volume's data are, which can be had; none where there is no volume.
    fn data_there(&self, name: &Name) -> Result<Option<PathBuf>> {
        let Some(volume) = self.list()?.remove(name) else {
            return Ok(None);
        };
        self.at_hand(name, &volume.path)?;
        Ok(Some(volume.path))
    }

    /// A local volume filled before it has its place. It counts as filled: no image gives it anything.
    fn make_from<T>(&self, name: &Name, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let fresh = tree::fresh(&self.making);
        let made = self.fill_fresh(&fresh, name, fill);
        if made.is_err() {
            // What is left is swept with the next start.
            drop(tree::remove(&fresh, &self.making));
        }
        made
    }

    fn fill_fresh<T>(&self, fresh: &Path, name: &Name, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let data = fresh.join(VOLUME_DATA);
        directory(fresh, 0o700)?;
        directory(&data, 0o755)?;
        let filled = fill(&data)?;
        let mark = fresh.join(VOLUME_FILLED);
        fs::write(&mark, "").map_err(VolumeError::io("write", &mark))?;
        let spec = VolumeSpec {
            driver: VolumeDriver::Local,
            ..VolumeSpec::default()
        };
        self.write(fresh, &spec, None)?;
        let opened = File::open(&data).map_err(VolumeError::io("open", &data))?;
        rustix::fs::syncfs(&opened).map_err(VolumeError::io("flush", &data))?;
        let _changing = self.lock();
        let home = self.home(name);
        if fs::symlink_metadata(&home).is_ok() {
            return Err(VolumeError::Exists(name.clone()));
        }
        fs::rename(fresh, &home).map_err(VolumeError::io("make", &home))?;
        self.flush(&self.volumes)?;
        Ok(filled)
    }
}

fn write_archive(name: &Name, path: &Path, holes: Holes, out: impl Write) -> Result<()> {
    let parent: OwnedFd = File::open(path).map_err(VolumeError::io("open", path))?.into();
    let stat = rustix::fs::fstat(&parent).map_err(VolumeError::io("look at", path))?;
    let target = Target {
        parent,
        name: ".".into(),
        stat,
        shown: path.to_owned(),
    };
    let options = PackOptions {
        exact_times: true,
        holes: holes == Holes::Kept,
        ..PackOptions::default()
    };
    pack(&target, b".", out, options).map_err(VolumeError::copying("export", name))
}

fn read_archive(name: &Name, into: &Path, archive: impl Read) -> Result<Vec<(PathBuf, &'static str)>> {
    let reading = |e: io::Error| VolumeError::copying("import", name)(FilesError::Tar(e.into()));
    let mut plain = inflated(archive).map_err(|source| VolumeError::Archive {
        name: name.clone(),
        source,
    })?;
    let mut head = Vec::new();
    plain
        .by_ref()
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(reading)?;
    let root: OwnedFd = File::open(into).map_err(VolumeError::io("open", into))?.into();
    let own = own_entry(&head);
    let how = Extract {
        root: root.as_fd(),
        into: "/".into(),
        links: Links::Refuse,
        owners: Owners::Archive,
        rename: None,
        keep_kinds: false,
    };
    let left_out =
        extract(Cursor::new(head).chain(plain), &how).map_err(VolumeError::copying("import", name))?;
    if let Some(own) = own {
        let set = Meta::of(&own).and_then(|meta| meta.apply_to(&root));
        set.map_err(|e| VolumeError::io("set owner and mode of", into)(io::Error::other(e.to_string())))?;
    }
    Ok(left_out)
}

/// What an archive that begins like this says of the volume's own directory.
fn own_entry(head: &[u8]) -> Option<Entry> {
    let mut reader = Reader::new(Stream(BufReader::new(head)));
    let entry = reader.next_entry().ok()??;
    let itself = entry
        .path
        .split(|b| *b == b'/')
        .all(|part| matches!(part, b"" | b"."));
    (itself && entry.kind == Kind::Directory).then_some(entry)
}

/// What it is compressed with is told by its first bytes, and a pipe may hand over fewer.
fn inflated<'a>(mut archive: impl Read + 'a) -> std::result::Result<Box<dyn Read + 'a>, LayerError> {
    let mut magic = Vec::new();
    archive
        .by_ref()
        .take(8)
        .read_to_end(&mut magic)
        .map_err(TarError::from)?;
    inflate(BufReader::with_capacity(CHUNK, Cursor::new(magic).chain(archive)))
}

/// Ends with an error as soon as it is cancelled.
struct Watched<'a, T> {
    inner: T,
    cancel: &'a AtomicBool,
}

impl<T> Watched<'_, T> {
    fn look(&self) -> io::Result<()> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(io::Error::other("cancelled")),
            false => Ok(()),
        }
    }
}

impl<T: Read> Read for Watched<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.look()?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.look()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
