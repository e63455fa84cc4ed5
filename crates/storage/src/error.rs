//! Everything that can go wrong, from the whole image down to one entry of one layer.
//!
//! Each text is complete by itself: it already contains what its source says, so print the outermost alone.

use std::io;
use std::path::{Path, PathBuf};

use model::digest::{Digest, DigestError};

use crate::registry::RegistryError;
use crate::split::Split;
use crate::tar::TarError;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("image {key}: loading was cancelled")]
    Cancelled { key: String },
    #[error("there is no image {key}")]
    NoImage { key: String },
    #[error("image {key} is in use and stays")]
    InUse { key: String },
    #[error("image {key}: {source}")]
    Load {
        key: String,
        #[source]
        source: LoadError,
    },
    #[error("layer {diff_id} is not here")]
    NoLayer { diff_id: Digest },
    #[error(
        "layer {diff_id} was brought in by an older wharf, which did not keep what it takes to give it out again: \
         `wharf image pull` its image, or `wharf image verify --repair`"
    )]
    NoRecord { diff_id: Digest },
    #[error("layer {diff_id} is damaged: {source}; `wharf image verify --repair` mends it")]
    Damaged {
        diff_id: Digest,
        #[source]
        source: Split,
    },
    #[error("{what}: {source}")]
    Add {
        what: String,
        #[source]
        source: LoadError,
    },
    #[error("image {key}: {why}")]
    Unfit { key: String, why: String },
    #[error("push of {key}: {source}")]
    Push {
        key: String,
        #[source]
        source: LoadError,
    },
    #[error("the archive cannot be taken: {0}")]
    Archive(#[source] LoadError),
    #[error("the archive cannot be written: {0}")]
    Output(#[source] io::Error),
    #[error("cancelled")]
    Stopped,
    #[error("image store: cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why one image could not be brought in. `what` names the part: `index`, `manifest sha256:…`, …
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cancelled")]
    Cancelled,
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a {wanted}", path.display())]
    WrongType { path: PathBuf, wanted: &'static str },
    #[error("{} is not an absolute path", .0.display())]
    Relative(PathBuf),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space left on the file system of {}: free some, it is tried again", .0.display())]
    Full(PathBuf),
    #[error("{}: {source}", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: TarError,
    },
    #[error("{} is compressed with {with}: decompress it first, the layers inside may stay compressed", path.display())]
    CompressedArchive { path: PathBuf, with: &'static str },
    #[error("{} has no {name} in it: is it {wanted}?", container.display())]
    NotInside {
        container: PathBuf,
        name: String,
        wanted: &'static str,
    },
    #[error("{what} cannot be read: {source}")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{what}: {source}")]
    BadDigest {
        what: String,
        #[source]
        source: DigestError,
    },
    #[error("{what} is damaged or was changed: its digest should be {expected} and is {actual}")]
    Digest {
        what: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("{what} is damaged or was cut off: it should have {expected} bytes and has {actual}")]
    Size {
        what: String,
        expected: u64,
        actual: u64,
    },
    #[error("{what} has {size} bytes, more than the {limit} that are accepted")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("{what}: {why}")]
    Refused { what: String, why: String },
    #[error("there is no {reference:?} in it; it has {available}")]
    Reference { reference: String, available: String },
    #[error("it holds several images, say which by appending :REF; it has {available}")]
    Ambiguous { available: String },
    #[error("it has nothing for {wanted}, only for {available}")]
    Platform { wanted: String, available: String },
    #[error("{0}")]
    Registry(#[source] RegistryError),
    #[error("{0}")]
    NewLayer(#[source] LayerError),
    #[error("layer {diff_id}: {source}")]
    Layer {
        diff_id: Digest,
        #[source]
        source: LayerError,
    },
}

/// Why one layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("{0}")]
    Tar(#[from] TarError),
    #[error("it is compressed with {0}, which is not supported: gzip, zstd, xz and plain tar are")]
    Compression(&'static str),
    #[error("entry {name}: {source}")]
    Entry {
        name: String,
        #[source]
        source: EntryError,
    },
    #[error("it has more than the {0} entries that are accepted")]
    Entries(u64),
    #[error("it unpacks to more than the {0} bytes that are accepted")]
    Bytes(u64),
    #[error(
        "to unpack it takes {} MiB of memory for its zstd window, and {} MiB are accepted from a registry: compress it without --long and --ultra",
        wanted >> 20,
        allowed >> 20
    )]
    Window { wanted: u64, allowed: u64 },
}

/// Why one entry of a layer was refused or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("its path contains \"..\"")]
    DotDot,
    #[error("its path contains a NUL byte")]
    Nul,
    #[error("only a directory can stand for the root")]
    Root,
    #[error("it is a whiteout of no file")]
    Whiteout,
    #[error("owner {uid}:{gid} is not possible on Linux")]
    Owner { uid: u64, gid: u64 },
    #[error("its hard link target {0} is not in this layer")]
    LinkTarget(String),
    #[error("its hard link target {0} is a directory")]
    LinkToDirectory(String),
    #[error("{0} is in its way and is not a directory")]
    ParentNotDirectory(String),
    #[error("its path leads through too many symbolic links")]
    LinkLoop,
    #[error("cannot {doing}: {source}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl EntryError {
    /// For `map_err`: what was being done when a system call failed.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Io {
            doing,
            source: e.into(),
        }
    }
}

impl From<RegistryError> for LoadError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled => Self::Cancelled,
            error => Self::Registry(error),
        }
    }
}

impl LoadError {
    /// For `map_err`: what was being done to which path.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |e| Self::Io {
            doing,
            path: path.to_owned(),
            source: e.into(),
        }
    }

    pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            why: why.into(),
        }
    }

    /// The same error, said in terms of the full file system where that is the reason.
    pub(crate) fn or_full(self, store: &Path) -> Self {
        let full = kinds(&self).any(is_full);
        if full {
            return Self::Full(store.to_owned());
        }
        self
    }
}

/// What the system said, of an error and of everything that it comes from.
pub(crate) fn kinds<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = io::ErrorKind> + use<'e> {
    let mut cause = Some(error);
    std::iter::from_fn(move || {
        let this = cause?;
        cause = this.source();
        Some(this.downcast_ref::<io::Error>().map(io::Error::kind))
    })
    .flatten()
}

pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl StoreError {
    /// What reading a layer's tar ended with.
    pub(crate) fn of_layer(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(e) => Self::Output(e),
        }
    }

    /// For `map_err`: what was being done to which path of the store.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |e| Self::Io {
            doing,
            path: path.to_owned(),
            source: e.into(),
        }
    }
}
