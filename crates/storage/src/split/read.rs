//! A layer's plain tar, put together again from its record and the unpacked tree.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::Crc;
use model::digest::Digest;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::frames::{Content, Frame, Reader};
use crate::claims::Pins;
use crate::tar::{Segment, shown};

/// How often opening is tried again when a rename somewhere disturbed it (openat2(2), EAGAIN).
const MAX_RETRIES: usize = 1000;

/// What of a layer's parts is wrong. Complete by itself.
#[derive(Debug, thiserror::Error)]
pub enum Split {
    #[error("the record of its tar cannot be read: {0}")]
    Record(#[source] io::Error),
    #[error("file {path}: {why}")]
    File { path: String, why: String },
    #[error("its tar should have {expected} bytes and has {actual}")]
    Size { expected: u64, actual: u64 },
    #[error("its tar's digest is {0}")]
    Digest(Digest),
}

/// The plain tar of a layer, byte for byte. Reading it ends with an error where a file of the tree is not as it was, and
/// at the end where the digest does not come out.
pub struct LayerTar {
    diff_id: Digest,
    frames: Reader,
    root: OwnedFd,
    now: Now,
    hash: Sha256,
    count: u64,
    /// Files that are not as they were, where reading goes on over them.
    lenient: Option<Findings>,
    /// The layer is not pruned meanwhile.
    _pins: Option<Pins>,
}

/// What was found wrong so far.
pub type Findings = Arc<Mutex<Vec<Split>>>;

/// Where the reading is.
enum Now {
    Literal {
        bytes: Vec<u8>,
        done: usize,
    },
    File(Open),
    /// In place of content that is lost.
    Zeros(u64),
    Ended,
}

/// A file whose parts are being read.
struct Open {
    content: Content,
    file: File,
    /// What is left of it; the first part is being read.
    parts: Vec<Segment>,
    at: usize,
    done: u64,
    crc: Crc,
}

impl LayerTar {
    /// From the record at `record` and the tree at `root`.
    pub fn open(diff_id: Digest, record: &Path, root: OwnedFd, pins: Option<Pins>) -> io::Result<Self> {
        Ok(Self {
            diff_id,
            frames: Reader::open(record)?,
            root,
            now: Now::Literal {
                bytes: Vec::new(),
                done: 0,
            },
            hash: Sha256::new(),
            count: 0,
            lenient: None,
            _pins: pins,
        })
    }

    /// Goes on with zeros in place of files that are not as they were, and notes them.
    pub fn lenient(self) -> Self {
        Self {
            lenient: Some(Findings::default()),
            ..self
        }
    }

    /// What was found wrong; grows while it is read.
    pub fn findings(&self) -> Findings {
        self.lenient.clone().unwrap_or_default()
    }

    /// Bytes of the whole tar.
    pub fn size(&self) -> u64 {
        self.frames.size
    }

    /// Bytes of what is there now; 0 where the next frame is wanted.
    fn read_now(&mut self, buffer: &mut [u8]) -> Result<usize, Split> {
        match &mut self.now {
            Now::Ended => Ok(0),
            Now::Literal { bytes, done } => {
                let read = (bytes.len() - *done).min(buffer.len());
                buffer[..read].copy_from_slice(&bytes[*done..*done + read]);
                *done += read;
                Ok(read)
            }
            Now::Zeros(left) => {
                let read = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                buffer[..read].fill(0);
                *left -= read as u64;
                Ok(read)
            }
            Now::File(open) => {
                let left = open.left();
                let read = open.read(buffer);
                self.or_zeros(read, left)
            }
        }
    }

    /// Zeros instead of what could not be read, where that will do.
    fn or_zeros(&mut self, read: Result<usize, Split>, left: u64) -> Result<usize, Split> {
        match (read, &self.lenient) {
            (Err(error), Some(findings)) => {
                note(findings, error);
                self.now = Now::Zeros(left);
                Ok(0)
            }
            (read, _) => read,
        }
    }

    fn advance(&mut self) -> Result<(), Split> {
        match (&self.now, &self.lenient) {
            // Nothing is left to read of either.
            (Now::Zeros(1..), _) => return Ok(()),
            (Now::File(open), None) => open.check_crc()?,
            (Now::File(open), Some(findings)) => {
                if let Err(error) = open.check_crc() {
                    note(findings, error);
                }
            }
            _ => {}
        }
        self.now = match self.frames.next().map_err(Split::Record)? {
            Frame::Literal(bytes) => Now::Literal { bytes, done: 0 },
            Frame::File(content) => self.open_file(content)?,
            Frame::End => {
                self.check_all()?;
                Now::Ended
            }
        };
        Ok(())
    }

    fn open_file(&self, content: Content) -> Result<Now, Split> {
        let length = content.parts().iter().map(|part| part.length).sum();
        match (Open::new(&self.root, content), &self.lenient) {
            (Err(error), Some(findings)) => {
                note(findings, error);
                Ok(Now::Zeros(length))
            }
            (open, _) => Ok(Now::File(open?)),
        }
    }

    /// Where something is known to be wrong the digest has nothing to add.
    fn check_all(&mut self) -> Result<(), Split> {
        let known = |findings: &Findings| !lock(findings).is_empty();
        if self.lenient.as_ref().is_some_and(known) {
            return Ok(());
        }
        if self.count != self.frames.size {
            return Err(Split::Size {
                expected: self.frames.size,
                actual: self.count,
            });
        }
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        match digest == self.diff_id {
            true => Ok(()),
            false => Err(Split::Digest(digest)),
        }
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() && !matches!(self.now, Now::Ended) {
            let step = match self.read_now(buffer) {
                Ok(0) => self.advance(),
                Ok(read) => {
                    self.hash.update(&buffer[..read]);
                    self.count += read as u64;
                    return Ok(read);
                }
                Err(e) => Err(e),
            };
            step.map_err(|source| {
                let diff_id = self.diff_id;
                io::Error::other(crate::error::StoreError::Damaged { diff_id, source })
            })?;
        }
        Ok(0)
    }
}

fn note(findings: &Findings, error: Split) {
    lock(findings).push(error);
}

fn lock(findings: &Findings) -> MutexGuard<'_, Vec<Split>> {
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    /// Bytes that are still to come.
    fn left(&self) -> u64 {
        let rest = self
            .parts
            .iter()
            .skip(self.at)
            .map(|part| part.length)
            .sum::<u64>();
        rest.saturating_sub(self.done)
    }

    fn new(root: &OwnedFd, content: Content) -> Result<Self, Split> {
        let file = open(root, &content.path).map_err(|e| content_wrong(&content, e))?;
        let meta = file.metadata().map_err(|e| content_wrong(&content, e))?;
        if meta.size() != content.size {
            let why = format!("it should have {} bytes and has {}", content.size, meta.size());
            return Err(content_wrong(&content, why));
        }
        Ok(Self {
            parts: content.parts(),
            content,
            file,
            at: 0,
            done: 0,
            crc: Crc::new(),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Split> {
        while let Some(part) = self.parts.get(self.at) {
            let left = part.length.saturating_sub(self.done);
            if left == 0 {
                (self.at, self.done) = (self.at + 1, 0);
                continue;
            }
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = self.file.read_at(&mut buffer[..wanted], part.offset + self.done);
            let read = match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|e| content_wrong(&self.content, e))?,
            };
            if read == 0 {
                return Err(content_wrong(
                    &self.content,
                    "it became shorter while it was read",
                ));
            }
            self.crc.update(&buffer[..read]);
            self.done += read as u64;
            return Ok(read);
        }
        Ok(0)
    }

    fn check_crc(&self) -> Result<(), Split> {
        match self.crc.sum() == self.content.crc {
            true => Ok(()),
            false => Err(content_wrong(&self.content, "its content is not what it was")),
        }
    }
}

fn content_wrong(content: &Content, why: impl ToString) -> Split {
    Split::File {
        path: shown(&content.path),
        why: why.to_string(),
    }
}

/// Opens the regular file at `path` below `root` for reading. No link is followed, and what is no regular file is not
/// opened: a device would take that as an order.
pub fn open(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let found = find(root, path)?;
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no longer a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// What is at `path`, only to be looked at.
pub fn find(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RETRIES {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}
