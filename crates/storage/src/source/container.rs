//! Where blobs lie: a directory, or a tar file that is read in place.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{MAX_DOCUMENT, Stamp, Streamed, StreamedLayer};
use crate::error::LoadError;
use crate::tar::{self, Kind, TarError};

/// Most members an archive of blobs may have.
const MAX_MEMBERS: usize = 100_000;
/// Longest chain of links from one member to another.
pub const MAX_LINKS: usize = 16;

/// A place that has blobs by name.
pub enum Container {
    Directory(PathBuf),
    Archive(Archive),
    /// An archive that went by.
    Streamed(Streamed),
}

/// The bytes of a document, and by what its file is known; what went by has none.
pub type Stamped = (Vec<u8>, Option<Stamp>);

/// A plain tar file and where its members' bytes are.
pub struct Archive {
    path: PathBuf,
    file: Arc<File>,
    stamp: Stamp,
    members: BTreeMap<String, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// The name it stands for, from the archive's root.
    Link(String),
}

/// A run of bytes in a file. Reading it moves no file position, so several can be read at a time.
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    pub size: u64,
    done: u64,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.done).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let read = self
            .file
            .read_at(&mut buffer[..wanted], self.offset + self.done)?;
        self.done += read as u64;
        Ok(read)
    }
}

impl Container {
    pub fn directory(dir: &Path) -> Result<Self, LoadError> {
        match std::fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => Ok(Self::Directory(dir.to_owned())),
            Ok(_) => Err(LoadError::WrongType {
                path: dir.to_owned(),
                wanted: "directory",
            }),
            Err(e) => Err(opening(dir)(e)),
        }
    }

    pub fn archive(path: &Path) -> Result<Self, LoadError> {
        let (file, meta) = open_file(path)?;
        let file = Arc::new(file);
        refuse_compressed(path, &file)?;
        let members = members(&file, meta.len()).map_err(|source| LoadError::Archive {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::Archive(Archive {
            path: path.to_owned(),
            file,
            stamp: Stamp::of(&meta),
            members,
        }))
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Archive(archive) => &archive.path,
            Self::Streamed(streamed) => streamed.path(),
        }
    }

    /// Bytes of the layer's blob `name`; none where there is nothing of that name.
    pub fn layer_size(&self, name: &str) -> Result<Option<u64>, LoadError> {
        match self {
            Self::Streamed(streamed) => Ok(streamed.came(name)?.map(|layer| layer.size)),
            _ => Ok(self.blob(name)?.map(|blob| blob.size)),
        }
    }

    /// What went by as the layer `name`.
    pub fn came(&self, name: &str) -> Result<Option<StreamedLayer>, LoadError> {
        match self {
            Self::Streamed(streamed) => streamed.came(name),
            _ => Ok(None),
        }
    }

    /// The blob `name`; none where there is nothing of that name.
    pub fn blob(&self, name: &str) -> Result<Option<Blob>, LoadError> {
        match self {
            Self::Directory(dir) => match open_file(&dir.join(name)) {
                Ok((file, meta)) => Ok(Some(Blob::whole(file, &meta))),
                Err(LoadError::Missing(_)) => Ok(None),
                Err(e) => Err(e),
            },
            Self::Archive(archive) => Ok(archive.blob(name)),
            // What has gone by cannot be read again.
            Self::Streamed(_) => Ok(None),
        }
    }

    /// A document of `name`, and the stamp of the file it came out of. None where there is nothing of that name.
    pub fn document(&self, name: &str, what: &str) -> Result<Option<Stamped>, LoadError> {
        if let Self::Streamed(streamed) = self {
            return Ok(streamed.read(name).map(|bytes| (bytes.to_vec(), None)));
        }
        let Some(mut blob) = self.blob(name)? else {
            return Ok(None);
        };
        if blob.size > MAX_DOCUMENT {
            return Err(LoadError::TooLarge {
                what: what.to_owned(),
                size: blob.size,
                limit: MAX_DOCUMENT,
            });
        }
        let reading = |e: io::Error| LoadError::io("read", &self.path().join(name))(e);
        let stamp = match self {
            Self::Archive(archive) => archive.stamp,
            _ => Stamp::of(&blob.file.metadata().map_err(reading)?),
        };
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(reading)?;
        Ok(Some((bytes, Some(stamp))))
    }
}

impl Archive {
    fn blob(&self, name: &str) -> Option<Blob> {
        let mut name = normal(name.as_bytes(), "")?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::Link(target) => name.clone_from(target),
                Member::File { offset, size } => {
                    return Some(Blob {
                        file: Arc::clone(&self.file),
                        offset: *offset,
                        size: *size,
                        done: 0,
                    });
                }
            }
        }
        None
    }
}

impl Blob {
    fn whole(file: File, meta: &Metadata) -> Self {
        Self {
            file: Arc::new(file),
            offset: 0,
            size: meta.len(),
            done: 0,
        }
    }
}

/// Opens a regular file, without waiting for the other end where it is a FIFO.
fn open_file(path: &Path) -> Result<(File, Metadata), LoadError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(opening(path))?;
    let meta = file.metadata().map_err(opening(path))?;
    if meta.is_file() {
        Ok((file, meta))
    } else {
        Err(LoadError::WrongType {
            path: path.to_owned(),
            wanted: "regular file",
        })
    }
}

/// For `map_err`: what is not there gets an error of its own.
pub fn opening(path: &Path) -> impl FnOnce(io::Error) -> LoadError {
    move |e| match e.kind() {
        io::ErrorKind::NotFound => LoadError::Missing(path.to_owned()),
        // What a socket says.
        _ if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => LoadError::WrongType {
            path: path.to_owned(),
            wanted: "regular file",
        },
        _ => LoadError::io("open", path)(e),
    }
}

/// The name of the compression whose magic number this begins with.
pub fn compression(magic: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        // A skippable frame in front, as pzstd writes it.
        (b"\x50\x2a\x4d\x18", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    let found = known.iter().find(|(start, _)| magic.starts_with(start));
    found.map(|(_, name)| *name)
}

fn refuse_compressed(path: &Path, file: &File) -> Result<(), LoadError> {
    let mut magic = [0; 8];
    let read = file.read_at(&mut magic, 0).map_err(LoadError::io("read", path))?;
    match compression(&magic[..read]) {
        Some(with) => Err(LoadError::CompressedArchive {
            path: path.to_owned(),
            with,
        }),
        None => Ok(()),
    }
}

/// Reads headers and jumps over data.
struct Seeking<'a> {
    file: &'a File,
    position: u64,
    size: u64,
}

impl Read for Seeking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl tar::Source for Seeking<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match self.position.checked_add(count) {
            Some(next) if next <= self.size => self.position = next,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

fn members(file: &File, size: u64) -> Result<BTreeMap<String, Member>, TarError> {
    let mut members = BTreeMap::new();
    let mut reader = tar::Reader::new(Seeking {
        file,
        position: 0,
        size,
    });
    while let Some(entry) = reader.next_entry()? {
        let offset = reader.source_mut().position;
        let Some(name) = normal(&entry.path, "") else {
            continue;
        };
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => Some(Member::File {
                offset,
                size: entry.size,
            }),
            // From the directory that the link is in.
            Kind::Symlink(target) => {
                let above = name.rsplit_once('/').map_or("", |(above, _)| above);
                normal(&target, above).map(Member::Link)
            }
            Kind::HardLink(target) => normal(&target, "").map(Member::Link),
            _ => None,
        };
        if let Some(member) = member {
            members.insert(name, member);
        }
        if members.len() > MAX_MEMBERS {
            return Err(TarError::Malformed("it has too many members for an image"));
        }
    }
    Ok(members)
}

/// `path` as seen from the directory `from`, without `.`, `..` and double slashes; none where it leaves the archive.
pub fn normal(path: &[u8], from: &str) -> Option<String> {
    let path = str::from_utf8(path).ok()?;
    let from = if path.starts_with('/') { "" } else { from };
    let mut parts: Vec<&str> = from.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
