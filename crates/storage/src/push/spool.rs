//! A layer compressed into a file without a name, so that its digest and size are known before it is sent and it can be
//! sent again from anywhere. The same layer gives the same bytes: gzip (RFC 1952) without a time or a name in it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::{Compression, GzBuilder};
use model::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::LoadError;
use crate::store::Store;
use crate::tree;

/// Bytes at a time.
const BUFFER: usize = 256 * 1024;
/// As docker and the gzip program have it.
const LEVEL: u32 = 6;

pub struct Spool {
    pub file: Arc<File>,
    pub digest: Digest,
    pub size: u64,
}

impl Spool {
    /// Compresses the layer, telling how much of how much is read.
    pub fn compress(
        store: &Store,
        diff_id: &Digest,
        cancel: &AtomicBool,
        tell: impl Fn(u64, u64),
    ) -> Result<Self, LoadError> {
        let failed = |why: String| LoadError::refused(format!("layer {diff_id}"), why);
        let mut tar = store.layer_tar(diff_id).map_err(|e| failed(e.to_string()))?;
        let total = tar.size();
        let tmp = &store.layout.tmp;
        let writing = |e: io::Error| LoadError::io("write a compressed layer below", tmp)(e);
        let file = Arc::new(nameless(store).map_err(writing)?);
        let sink = Sink {
            inner: BufWriter::with_capacity(BUFFER, Arc::clone(&file)),
            hash: Sha256::new(),
            size: 0,
        };
        let mut gzip = GzBuilder::new().mtime(0).write(sink, Compression::new(LEVEL));
        let (mut buffer, mut done) = (vec![0; BUFFER], 0);
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(LoadError::Cancelled);
            }
            let read = tar.read(&mut buffer).map_err(|e| failed(e.to_string()))?;
            if read == 0 {
                break;
            }
            gzip.write_all(&buffer[..read]).map_err(writing)?;
            done += read as u64;
            tell(done, total);
        }
        let mut sink = gzip.finish().map_err(writing)?;
        sink.flush().map_err(writing)?;
        Ok(Self {
            file,
            digest: Digest::from_bytes(sink.hash.finalize().into()),
            size: sink.size,
        })
    }
}

/// In the store's own directory, where there is room for layers; gone with its last user.
fn nameless(store: &Store) -> io::Result<File> {
    let path = tree::fresh(&store.layout.tmp);
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

struct Sink {
    inner: BufWriter<Arc<File>>,
    hash: Sha256,
    size: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
