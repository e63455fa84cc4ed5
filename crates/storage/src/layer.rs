//! One layer from its blob into the store, in one pass: read → compressed hash → inflate → plain hash → unpack.

use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;

use crate::error::{LayerError, LoadError};
use crate::hash::HashingReader;
use crate::layout::{Layout, flush_directory};
use crate::registry::{Download, Progress};
use crate::source::{Container, LayerBlob, Origin};
use crate::store::{Limits, LoadOptions};
use crate::tar::{Reader, Stream, TarError};
use crate::{tree, unpack};

/// Bytes read at a time, before and after inflating.
const BUFFER: usize = 64 * 1024;
/// Largest zstd window, as a power of two (RFC 8878 §3.1.1.1.2); what the zstd program accepts by default.
const ZSTD_WINDOW: u32 = 27;

type Plain<'a> = HashingReader<Box<dyn Read + 'a>>;
type Compressed<'a> = BufReader<HashingReader<Cancellable<'a>>>;

/// Brings the layer in. When it is there already nothing is read.
pub fn bring(
    layout: &Layout,
    layer: &LayerBlob,
    limits: &Limits,
    options: &LoadOptions<'_>,
) -> Result<(), LoadError> {
    let place = layout.layer(&layer.diff_id);
    if place.is_dir() {
        tell_done(layer, options);
        return Ok(());
    }
    let temporary = Temporary::create(&layout.tmp)?;
    let streamed = stream(layer, &temporary, limits, options);
    if options.cancel.load(Ordering::Relaxed) {
        return Err(LoadError::Cancelled);
    }
    streamed?;
    temporary.flush()?;
    let root = temporary.root();
    std::fs::rename(&root, &place).map_err(LoadError::io("move a layer to", &place))?;
    flush_directory(&layout.layers).map_err(LoadError::io("flush", &layout.layers))
}

/// Reads the blob to its end and compares all that was said about it.
fn stream(
    layer: &LayerBlob,
    into: &Temporary,
    limits: &Limits,
    options: &LoadOptions<'_>,
) -> Result<(), LoadError> {
    let trouble = Mutex::new(None);
    let cancel = options.cancel;
    let blob = match &layer.origin {
        Origin::Container(container, name) => open(layer, container, name)?,
        Origin::Registry(session, digest) => {
            let watch = session.watch(cancel);
            let report = options.progress;
            Box::new(Download::new(
                session, *digest, layer.size, watch, report, &trouble,
            ))
        }
    };
    let blob = Cancellable { blob, cancel };
    let mut compressed = BufReader::with_capacity(BUFFER, HashingReader::new(blob, layer.size));
    let unpacked = unpack_from(&mut compressed, into, limits, cancel);
    // The blob's own digest first: a damaged one explains every other error.
    let mut compressed = compressed.into_inner();
    let drained = compressed.drain();
    if let Some(error) = trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error.into());
    }
    drained.map_err(|e| failed(layer, TarError::from(e)))?;
    let actual = compressed.digest();
    if let Some(expected) = layer.digest.filter(|expected| *expected != actual) {
        let what = format!("layer blob {expected}");
        return Err(LoadError::Digest {
            what,
            expected,
            actual,
        });
    }
    let actual = unpacked.map_err(|e| failed(layer, e))?;
    if actual == layer.diff_id {
        return Ok(());
    }
    Err(LoadError::Digest {
        what: format!("unpacked layer {}", layer.diff_id),
        expected: layer.diff_id,
        actual,
    })
}

/// What a registry would have been asked for need not be.
fn tell_done(layer: &LayerBlob, options: &LoadOptions<'_>) {
    if let (Origin::Registry(_, digest), Some(report)) = (&layer.origin, options.progress) {
        report(Progress {
            layer: *digest,
            done: layer.size,
            total: layer.size,
        });
    }
}

fn open(layer: &LayerBlob, container: &Container, name: &str) -> Result<Box<dyn Read>, LoadError> {
    let Some(blob) = container.blob(name)? else {
        return Err(LoadError::NotInside {
            container: container.path().to_owned(),
            name: name.to_owned(),
            wanted: "copied completely",
        });
    };
    if blob.size == layer.size {
        return Ok(Box::new(blob));
    }
    Err(LoadError::Size {
        what: format!("layer blob {name}"),
        expected: layer.size,
        actual: blob.size,
    })
}

fn failed(layer: &LayerBlob, source: impl Into<LayerError>) -> LoadError {
    LoadError::Layer {
        diff_id: layer.diff_id,
        source: source.into(),
    }
}

/// Unpacks, reads the rest (digests cover what follows the archive's end too) and returns the plain digest.
fn unpack_from(
    compressed: &mut Compressed<'_>,
    into: &Temporary,
    limits: &Limits,
    cancel: &AtomicBool,
) -> Result<model::digest::Digest, LayerError> {
    let plain: Plain<'_> = HashingReader::new(inflate(compressed)?, limits.bytes);
    let mut reader = Reader::new(Stream(BufReader::with_capacity(BUFFER, plain)));
    let (root, trash) = into.open().map_err(TarError::Io)?;
    let result = unpack::unpack(&mut reader, root, trash, limits.entries, cancel);
    let mut plain = reader.into_source().0.into_inner();
    let result = result.and_then(|()| plain.drain().map_err(|e| TarError::from(e).into()));
    if plain.count() > limits.bytes {
        return Err(LayerError::Bytes(limits.bytes));
    }
    result?;
    Ok(plain.digest())
}

/// Finds out by the first bytes how the layer is compressed: media types are not always right.
fn inflate<'a>(compressed: &'a mut Compressed<'_>) -> Result<Box<dyn Read + 'a>, LayerError> {
    let magic = compressed.fill_buf().map_err(TarError::from)?;
    match crate::source::compression(magic) {
        None => Ok(Box::new(compressed)),
        Some("gzip") => Ok(Box::new(MultiGzDecoder::new(compressed))),
        Some("zstd") => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(TarError::Io)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(TarError::Io)?;
            Ok(Box::new(decoder))
        }
        Some(other) => Err(LayerError::Compression(other)),
    }
}

/// A blob whose reading ends with an error as soon as it is cancelled.
struct Cancellable<'a> {
    blob: Box<dyn Read + 'a>,
    cancel: &'a AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        self.blob.read(buffer)
    }
}

/// A directory in `tmp` that goes with everything in it when it is dropped.
struct Temporary {
    path: PathBuf,
    tmp: PathBuf,
}

impl Temporary {
    fn create(tmp: &Path) -> Result<Self, LoadError> {
        let path = tree::fresh(tmp);
        let temporary = Self {
            path,
            tmp: tmp.to_owned(),
        };
        for path in [temporary.path.clone(), temporary.root(), temporary.trash()] {
            let made = DirBuilder::new().mode(0o700).create(&path);
            made.map_err(LoadError::io("make the directory", &path))?;
        }
        Ok(temporary)
    }

    fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    fn trash(&self) -> PathBuf {
        self.path.join("trash")
    }

    fn open(&self) -> io::Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
        Ok((File::open(self.root())?.into(), File::open(self.trash())?.into()))
    }

    /// Everything written so far is on disk afterwards: one syncfs(2) instead of an fsync a file.
    fn flush(&self) -> Result<(), LoadError> {
        let path = self.root();
        let directory = File::open(&path).map_err(LoadError::io("open", &path))?;
        rustix::fs::syncfs(&directory).map_err(LoadError::io("flush", &path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = tree::remove(&self.path, &self.tmp) {
            tracing::warn!(path = %self.path.display(), "cannot remove a temporary directory: {e}; the next start does");
        }
    }
}
