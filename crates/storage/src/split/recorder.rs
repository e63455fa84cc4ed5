//! Records what streams by while a layer is unpacked.

use std::io::{self, Read};
use std::path::Path;

use flate2::Crc;

use super::frames::{Content, Writer};
use crate::tar::{KeptFile, Source};

/// Bytes read at a time of what nobody wants.
const CHUNK: usize = 64 * 1024;

/// A source that writes down everything read through it but the content that its reader keeps.
pub struct Recorder<R> {
    inner: R,
    writer: Writer,
    /// Bytes that came through.
    count: u64,
    /// Of the content since the last report.
    crc: Crc,
}

impl<R: Read> Recorder<R> {
    /// Writes to `path`, which nothing has yet.
    pub fn create(inner: R, path: &Path) -> io::Result<Self> {
        Ok(Self {
            inner,
            writer: Writer::create(path)?,
            count: 0,
            crc: Crc::new(),
        })
    }

    /// Reads what is left: it belongs to the tar, whatever follows the archive's end.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// Ends the record; gives the source and the bytes of the tar.
    pub fn finish(self) -> io::Result<(R, u64)> {
        self.writer.finish(self.count)?;
        Ok((self.inner, self.count))
    }

    /// The source, where the record is of no use.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        self.writer.literal(&buffer[..read])?;
        Ok(read)
    }
}

impl<R: Read> Source for Recorder<R> {
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 512];
        let mut large = Vec::new();
        while count > 0 {
            let chunk = match count > buffer.len() as u64 {
                false => &mut buffer[..],
                true => {
                    large.resize(CHUNK, 0);
                    &mut large[..]
                }
            };
            let wanted = usize::try_from(count).map_or(chunk.len(), |count| count.min(chunk.len()));
            match self.read(&mut chunk[..wanted]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => count -= read as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        self.crc.update(&buffer[..read]);
        Ok(read)
    }

    fn kept(&mut self, file: &KeptFile<'_>) -> io::Result<()> {
        let crc = std::mem::take(&mut self.crc).sum();
        self.writer.file(&Content {
            path: file.path.to_vec(),
            size: file.size,
            inode: file.inode,
            crc,
            segments: file.segments.map(<[_]>::to_vec),
        })
    }
}
