//! Digests of bytes at hand and of bytes that stream by.

use std::io::{self, Read};

use model::digest::Digest;
use sha2::{Digest as _, Sha256};

/// The digest of `bytes`.
pub fn of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Hashes and counts what is read through it, and refuses to hand out more than `limit` bytes.
pub struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> HashingReader<R> {
    pub fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            count: 0,
            limit,
        }
    }

    /// Bytes read so far. More than the limit means that the limit was the reason for the end.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Reads what is left, so that the digest covers everything.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    pub fn digest(self) -> Digest {
        Digest::from_bytes(self.hash.finalize().into())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        if self.count > self.limit {
            return Err(io::Error::other("more data than is accepted"));
        }
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
