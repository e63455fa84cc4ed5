//! The frames of a record, written and read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::tar::Segment;

const MAGIC: &[u8; 16] = b"wharf layer 001\n";
const HEAD: usize = MAGIC.len() + 8;
/// The fastest one: headers are mostly zeros, which any level finds.
const LEVEL: i32 = 1;
/// Bytes as they are, gathered into one frame.
const GATHERED: usize = 64 * 1024;
/// Most bytes of a path, and most parts of a file: as the kernel and the tar reader have it.
const MAX_PATH: u64 = 4096;
const MAX_PARTS: u64 = 1 << 20;

const LITERAL: u8 = 0;
const FILE: u8 = 1;
const END: u8 = 2;

/// One step on the way through the tar.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes as they are.
    Literal(Vec<u8>),
    /// Content of a file.
    File(Content),
    End,
}

/// Content of the tar that a file in the tree has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// From the layer's root.
    pub path: Vec<u8>,
    /// Bytes of the file, holes included.
    pub size: u64,
    pub inode: u64,
    /// Of the bytes that are in the tar.
    pub crc: u32,
    /// Which parts of the file the tar has; none for all of it.
    pub segments: Option<Vec<Segment>>,
}

impl Content {
    /// The parts in the tar, in order.
    pub fn parts(&self) -> Vec<Segment> {
        let whole = Segment {
            offset: 0,
            length: self.size,
        };
        self.segments.clone().unwrap_or_else(|| vec![whole])
    }
}

/// A record being written.
pub struct Writer {
    encoder: zstd::stream::write::Encoder<'static, File>,
    literal: Vec<u8>,
}

impl Writer {
    /// A new file at `path`, which nothing has yet.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&[0; HEAD])?;
        let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self {
            encoder,
            literal: Vec::with_capacity(GATHERED),
        })
    }

    pub fn literal(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(GATHERED - self.literal.len()));
            self.literal.extend_from_slice(now);
            if self.literal.len() == GATHERED {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Content that is in a file.
    pub fn file(&mut self, content: &Content) -> io::Result<()> {
        self.flush()?;
        let mut frame = vec![FILE];
        number(&mut frame, content.path.len() as u64);
        frame.extend_from_slice(&content.path);
        number(&mut frame, content.size);
        number(&mut frame, content.inode);
        frame.extend_from_slice(&content.crc.to_le_bytes());
        let segments = content.segments.as_deref();
        number(&mut frame, segments.map_or(0, |parts| parts.len() as u64 + 1));
        for part in segments.unwrap_or_default() {
            number(&mut frame, part.offset);
            number(&mut frame, part.length);
        }
        self.encoder.write_all(&frame)
    }

    /// Ends the record of a tar of `size` bytes. It is not flushed to disk.
    pub fn finish(mut self, size: u64) -> io::Result<()> {
        self.flush()?;
        self.encoder.write_all(&[END])?;
        let file = self.encoder.finish()?;
        file.write_all_at(&[&MAGIC[..], &size.to_le_bytes()].concat(), 0)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.literal.is_empty() {
            return Ok(());
        }
        let mut head = vec![LITERAL];
        number(&mut head, self.literal.len() as u64);
        self.encoder.write_all(&head)?;
        self.encoder.write_all(&self.literal)?;
        self.literal.clear();
        Ok(())
    }
}

/// A record being read.
pub struct Reader {
    decoder: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    /// Bytes of the plain tar.
    pub size: u64,
}

impl Reader {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head)?;
        let (magic, size) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(malformed());
        }
        let size = u64::from_le_bytes(size.try_into().map_err(|_| malformed())?);
        let decoder = zstd::stream::read::Decoder::new(file)?;
        Ok(Self {
            decoder: BufReader::new(decoder),
            size,
        })
    }

    pub fn next(&mut self) -> io::Result<Frame> {
        match self.byte()? {
            LITERAL => {
                let length = self.number(GATHERED as u64)?;
                self.bytes(length).map(Frame::Literal)
            }
            FILE => self.content().map(Frame::File),
            END => self.end(),
            _ => Err(malformed()),
        }
    }

    /// Nothing may follow, and zstd's own checksum has to hold.
    fn end(&mut self) -> io::Result<Frame> {
        match self.decoder.fill_buf()? {
            [] => Ok(Frame::End),
            _ => Err(malformed()),
        }
    }

    fn content(&mut self) -> io::Result<Content> {
        let length = self.number(MAX_PATH)?;
        let path = self.bytes(length)?;
        let size = self.number(u64::MAX)?;
        let inode = self.number(u64::MAX)?;
        let mut crc = [0; 4];
        self.decoder.read_exact(&mut crc)?;
        let segments = match self.number(MAX_PARTS + 1)? {
            0 => None,
            count => Some((1..count).map(|_| self.segment()).collect::<io::Result<_>>()?),
        };
        Ok(Content {
            path,
            size,
            inode,
            crc: u32::from_le_bytes(crc),
            segments,
        })
    }

    fn segment(&mut self) -> io::Result<Segment> {
        Ok(Segment {
            offset: self.number(u64::MAX)?,
            length: self.number(u64::MAX)?,
        })
    }

    fn bytes(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| malformed())?];
        self.decoder.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.decoder.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self, most: u64) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if value <= most {
                    Ok(value)
                } else {
                    Err(malformed())
                };
            }
        }
        Err(malformed())
    }
}

fn number(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no record of a layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let content = |segments| Content {
            path: b"a/\xff".to_vec(),
            size: u64::MAX,
            inode: 300,
            crc: 0xdead_beef,
            segments,
        };
        let some = vec![
            Segment {
                offset: 0,
                length: 127,
            },
            Segment {
                offset: 128,
                length: 1 << 40,
            },
        ];
        let contents = [content(None), content(Some(Vec::new())), content(Some(some))];
        let long = vec![7; GATHERED + 1];
        let mut writer = Writer::create(&path).unwrap();
        for content in &contents {
            writer.literal(b"x").unwrap();
            writer.file(content).unwrap();
        }
        writer.literal(&long).unwrap();
        writer.finish(77).unwrap();

        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reader.size, 77);
        for content in contents {
            assert_eq!(reader.next().unwrap(), Frame::Literal(b"x".to_vec()));
            assert_eq!(reader.next().unwrap(), Frame::File(content));
        }
        assert_eq!(reader.next().unwrap(), Frame::Literal(vec![7; GATHERED]));
        assert_eq!(reader.next().unwrap(), Frame::Literal(vec![7]));
        assert_eq!(reader.next().unwrap(), Frame::End);
    }

    #[test]
    fn a_record_that_is_cut_off_or_changed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let mut writer = Writer::create(&path).unwrap();
        writer.literal(&(0..=255).collect::<Vec<u8>>()).unwrap();
        writer.finish(256).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| -> io::Result<Vec<Frame>> {
            std::fs::write(&path, bytes)?;
            let mut reader = Reader::open(&path)?;
            let mut frames = Vec::new();
            while frames.last() != Some(&Frame::End) {
                frames.push(reader.next()?);
            }
            Ok(frames)
        };
        let good = read(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        // The size in the head is what the tar's own digest is for.
        for at in (0..16).chain(HEAD..whole.len()) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            // A few bits of zstd's own head mean nothing.
            if let Ok(frames) = read(&changed) {
                assert_eq!(frames, good, "{at}");
            }
        }
    }
}
