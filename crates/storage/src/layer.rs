//! One layer from its blob into the store, in one pass: read → compressed hash → inflate → plain hash → unpack.

use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use model::digest::Digest;

use crate::error::{LayerError, LoadError};
use crate::hash::HashingReader;
use crate::inflate::{inflate, inflate_fetched};
use crate::layout::{Layout, flush_directory};
use crate::registry::{Download, Progress};
use crate::source::{Container, LayerBlob, Origin};
use crate::split::{self, Recorder};
use crate::store::{Limits, LoadOptions};
use crate::tar::{Reader, TarError};
use crate::tree;
use crate::unpack::{self, Contents};

/// Bytes read at a time, before and after inflating.
const BUFFER: usize = 64 * 1024;

/// Brings the layer in. When it is there already nothing is read.
pub fn bring(
    layout: &Layout,
    layer: &LayerBlob,
    limits: &Limits,
    options: &LoadOptions<'_>,
) -> Result<(), LoadError> {
    let here = layout.layer(&layer.diff_id).is_dir();
    // An older version kept no record; one who asks anew wants all there is to have.
    if here && (layout.tar(&layer.diff_id).exists() || !options.refresh) {
        tell_done(layer, options);
        return Ok(());
    }
    fetch(layout, layer, limits, options)?.place(layout, &layer.diff_id)
}

/// The layer unpacked and recorded aside, everything checked.
pub fn fetch(
    layout: &Layout,
    layer: &LayerBlob,
    limits: &Limits,
    options: &LoadOptions<'_>,
) -> Result<Temporary, LoadError> {
    let temporary = Temporary::create(&layout.tmp)?;
    let streamed = stream(layer, &temporary, limits, options);
    if options.cancel.load(Ordering::Relaxed) {
        return Err(LoadError::Cancelled);
    }
    streamed?;
    Ok(temporary)
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
    let plain = match layer.origin {
        Origin::Container(..) => inflate(&mut compressed),
        Origin::Registry(..) => inflate_fetched(&mut compressed, cancel),
    };
    // What follows the archive's end is read, too: the digests cover it.
    let unpacked = plain.and_then(|plain| unpack_plain(plain, into, limits, cancel));
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
    let (actual, _) = unpacked.map_err(|e| failed(layer, e))?;
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

/// Unpacks a plain tar and reads what follows it; gives its digest and its bytes.
pub fn unpack_plain<R: Read>(
    plain: R,
    into: &Temporary,
    limits: &Limits,
    cancel: &AtomicBool,
) -> Result<(Digest, u64), LayerError> {
    let plain = BufReader::with_capacity(BUFFER, HashingReader::new(plain, limits.bytes));
    let recorder = Recorder::create(plain, &into.record()).map_err(TarError::Io)?;
    let mut reader = Reader::new(recorder);
    let (root, trash) = into.open().map_err(TarError::Io)?;
    let written = Contents::Written;
    let result = unpack::unpack(&mut reader, root, trash, written, limits.entries, cancel);
    let mut recorder = reader.into_source();
    let result = result.and_then(|replaced| {
        recorder.drain().map_err(TarError::from)?;
        Ok(replaced)
    });
    let replaced = match result {
        Ok(replaced) => replaced,
        Err(_) if recorder.into_inner().get_ref().count() > limits.bytes => {
            return Err(LayerError::Bytes(limits.bytes));
        }
        Err(e) => return Err(e),
    };
    let (plain, size) = recorder.finish().map_err(TarError::Io)?;
    if replaced && !cancel.load(Ordering::Relaxed) {
        let (root, _) = into.open().map_err(TarError::Io)?;
        split::mend(&into.record(), &root, &into.trash()).map_err(TarError::Io)?;
    }
    Ok((plain.into_inner().digest(), size))
}

/// A blob whose reading ends with an error as soon as it is cancelled.
pub struct Cancellable<'a> {
    pub blob: Box<dyn Read + 'a>,
    pub cancel: &'a AtomicBool,
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
pub struct Temporary {
    path: PathBuf,
    tmp: PathBuf,
}

impl Temporary {
    pub fn create(tmp: &Path) -> Result<Self, LoadError> {
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

    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// What is kept of the tar.
    pub fn record(&self) -> PathBuf {
        self.path.join("tar")
    }

    pub fn trash(&self) -> PathBuf {
        self.path.join("trash")
    }

    pub fn open(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((File::open(self.root())?.into(), File::open(self.trash())?.into()))
    }

    /// Puts it into its place for good: the record first, so that no layer is without one. Of a layer that is there
    /// already only the record is taken.
    pub fn place(self, layout: &Layout, diff_id: &Digest) -> Result<(), LoadError> {
        self.flush()?;
        let move_to = |from: &Path, to: &Path, directory: &Path| {
            std::fs::rename(from, to).map_err(LoadError::io("move a layer to", to))?;
            flush_directory(directory).map_err(LoadError::io("flush", directory))
        };
        move_to(&self.record(), &layout.tar(diff_id), &layout.tars)?;
        let place = layout.layer(diff_id);
        if place.is_dir() {
            return Ok(());
        }
        move_to(&self.root(), &place, &layout.layers)
    }

    /// Everything written so far is on disk afterwards: one syncfs(2) instead of an fsync a file.
    pub fn flush(&self) -> Result<(), LoadError> {
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
