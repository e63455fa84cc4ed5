//! A streaming reader of tar archives: parsing only, it touches no file system.
//!
//! Understands v7, ustar (POSIX.1-1988), pax (POSIX.1-2001), star and GNU: long names, base-256 numbers, SCHILY.xattr
//! records, sparse files (old GNU, pax 0.1 and 1.0). What an entry's spelling means where formats disagree follows Go's
//! `archive/tar`, because nearly all images are written and read by it.

mod header;
mod pax;
mod sparse;
mod write;

use std::collections::BTreeMap;
use std::io::{self, Read};

use header::{BLOCK, Header};
use pax::Pax;
pub use sparse::{MAX_SEGMENTS, Segment};
pub use write::Writer;

/// Longest pax header and GNU long name taken, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// Bytes of a name that a message shows.
const MAX_SHOWN: usize = 300;

/// Where an archive is read from.
pub trait Source: Read {
    /// Passes over `count` bytes; fails with `UnexpectedEof` where there are fewer.
    fn skip(&mut self, count: u64) -> io::Result<()>;

    /// Reads content that the caller keeps in a file and then reports to [`Source::kept`]: a source that records what
    /// passes by need not record it.
    fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    /// All content that was read since the last report is in this file.
    fn kept(&mut self, _file: &KeptFile<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// A file that has content of the archive.
pub struct KeptFile<'a> {
    /// From the root of what is unpacked, without links in it and without a slash in front.
    pub path: &'a [u8],
    pub inode: u64,
    /// Bytes, holes included.
    pub size: u64,
    /// The parts that came, in order; none where it is the whole file.
    pub segments: Option<&'a [Segment]>,
}

/// A [`Source`] that can only go forward.
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.0).take(count), &mut io::sink())?;
        if passed == count {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive is cut off")]
    Truncated,
    #[error("cannot read the archive: {0}")]
    Io(#[source] io::Error),
    #[error("this is not a tar archive, or it is damaged: {0}")]
    Malformed(&'static str),
    #[error("entry {name}: its type {flag:?} is not supported")]
    Type { name: String, flag: char },
    #[error("entry {name}: {why}")]
    Entry { name: String, why: &'static str },
    #[error("it has a header of {0} bytes, more than is accepted")]
    HeaderTooLarge(u64),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// One member of an archive. Its data, if any, is read from the [`Reader`] before the next one is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As spelled in the archive: may be absolute, contain `..` or be any bytes.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// The lowest twelve bits of the mode.
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of the file once it is written, holes included.
    pub size: u64,
    /// Which parts of a sparse file the data holds; none for an ordinary file.
    pub sparse: Option<Vec<Segment>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// Seconds since the epoch, and nanoseconds (0 to 999,999,999) on top of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Whether an archive could begin so: with a header whose checksum holds.
pub fn is_header(bytes: &[u8]) -> bool {
    let block = bytes.get(..BLOCK).and_then(|block| block.try_into().ok());
    block.is_some_and(|block| Header::parse(block).is_ok())
}

/// Text of a name out of an archive, for messages; of a very long one only the beginning.
pub fn shown(name: &[u8]) -> String {
    match name.get(..MAX_SHOWN) {
        Some(start) if name.len() > MAX_SHOWN => format!("{:?}…", String::from_utf8_lossy(start)),
        _ => format!("{:?}", String::from_utf8_lossy(name)),
    }
}

/// Hands out the entries of an archive one after the other.
pub struct Reader<S> {
    source: S,
    /// Bytes of the current entry's data that were not read yet.
    left: u64,
    /// Zeros between the data and the next header.
    padding: u64,
    ended: bool,
}

/// What the headers before an entry said of it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<S: Source> Reader<S> {
    pub fn new(source: S) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
            ended: false,
        }
    }

    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    pub fn into_source(self) -> S {
        self.source
    }

    /// The next entry, or none at the archive's end; data of the current one that was not read is passed over.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.source.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut extensions = Extensions::default();
        while let Some(header) = self.header()? {
            match header.flag {
                b'x' | b'X' => extensions.pax = Some(Pax::parse(&self.extension(&header)?)?),
                b'L' => extensions.name = Some(until_nul(self.extension(&header)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(&header)?)),
                // Global headers carry comments (git) in practice; Go and with it every engine ignores them.
                b'g' => drop(self.extension(&header)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
        Ok(None)
    }

    /// Reads from the current entry's data; 0 at its end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        self.read_by(buffer, S::read)
    }

    /// The same of what the caller keeps ([`Source::read_content`]).
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        self.read_by(buffer, S::read_content)
    }

    fn read_by(
        &mut self,
        buffer: &mut [u8],
        read: impl FnOnce(&mut S, &mut [u8]) -> io::Result<usize>,
    ) -> Result<usize, TarError> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let read = read(&mut self.source, &mut buffer[..wanted])?;
        if read == 0 {
            return Err(TarError::Truncated);
        }
        self.left -= read as u64;
        Ok(read)
    }

    /// One header block; none at the end, which is two blocks of zeros or no more data.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let first = self.block()?;
        let Some(block) = first.filter(|block| block.iter().any(|b| *b != 0)) else {
            if first.is_some() && self.block()?.is_some_and(|block| block.iter().any(|b| *b != 0)) {
                return Err(TarError::Malformed("a header follows a block of zeros"));
            }
            self.ended = true;
            return Ok(None);
        };
        Header::parse(&block).map(Some)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Some(block))
    }

    /// The data of a header that describes the next one.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return Err(TarError::HeaderTooLarge(size));
        }
        let mut data = vec![0; size as usize];
        self.source.read_exact(&mut data)?;
        self.source.skip(padding(size))?;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let pax = extensions.pax.unwrap_or_default();
        let named = pax.sparse.name.clone().or(pax.path.clone()).or(extensions.name);
        let path = named.unwrap_or_else(|| header.path());
        let link = pax
            .link
            .clone()
            .or(extensions.link)
            .unwrap_or_else(|| header.link());
        let kind = header.kind(&path, link)?;
        let stored = match pax.size {
            _ if !header.has_data() => 0,
            Some(size) => size,
            None => header.size()?,
        };
        self.left = stored;
        self.padding = padding(stored);
        let mut entry = Entry {
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            size: stored,
            sparse: None,
            xattrs: BTreeMap::new(),
            path,
            kind,
        };
        if entry.kind == Kind::File {
            self.read_sparse(header, &pax, &mut entry)?;
        }
        entry.xattrs = pax.xattrs;
        Ok(entry)
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|b| *b == 0) {
        text.truncate(end);
    }
    text
}
