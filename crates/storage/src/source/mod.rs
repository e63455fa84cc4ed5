//! Finding an image's manifest, config and layers in what the user named, with every digest checked on the way.

mod container;
mod docker;
pub mod oci;
mod platform;
pub mod spec;
mod streamed;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::digest::Digest;
use model::image::{ImageConfig, ImageSource};
use serde::{Deserialize, Serialize};

use crate::error::LoadError;
use crate::registry::Session;
pub use container::{Container, compression, normal};
pub use docker::MANIFEST;
pub use streamed::{Streamed, StreamedImage, StreamedLayer};

/// Most bytes an index, a manifest or a config may have.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers an image may have; Docker's own limit.
const MAX_LAYERS: usize = 127;

/// An image that was found, its documents checked and its layers not yet looked at.
pub struct Found {
    pub stamp: Option<Stamp>,
    pub id: Digest,
    /// Of the manifest; archives of Docker's kind have none.
    pub digest: Option<Digest>,
    /// Of what the reference leads to: an index, or the manifest itself. Only where it was asked of a registry.
    pub top: Option<Digest>,
    pub config: ImageConfig,
    /// Config, manifest and index, to be kept.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// Bottom first.
    pub layers: Vec<LayerBlob>,
}

/// Where a layer's bytes are and what they must be.
#[derive(Clone)]
pub struct LayerBlob {
    /// Of the plain tar.
    pub diff_id: Digest,
    /// Of the bytes as they lie there, where anybody has said.
    pub digest: Option<Digest>,
    pub size: u64,
    pub origin: Origin,
}

/// Where a layer's bytes come from.
#[derive(Clone)]
pub enum Origin {
    /// A file, or a part of one, by its name in there.
    Container(Arc<Container>, String),
    /// A blob by its digest.
    Registry(Arc<Session>, Digest),
}

/// By what a file is known to be the same as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

/// Finds the image. A rootfs and a registry reference are none of this module's business.
pub fn find(source: &ImageSource) -> Result<Found, LoadError> {
    match source {
        ImageSource::Oci { dir, reference } => {
            let container = Container::directory(dir)?;
            oci::find(container, reference.as_deref())
        }
        ImageSource::OciArchive { file, reference } => {
            let container = Container::archive(file)?;
            oci::find(container, reference.as_deref())
        }
        ImageSource::DockerArchive { file, reference } => {
            let container = Container::archive(file)?;
            docker::find(container, reference.as_deref())
        }
        ImageSource::Registry { .. } | ImageSource::Rootfs { .. } => {
            Err(LoadError::refused("source", "it holds no image files"))
        }
    }
}

/// Whether the source is something else by now than when it got `stamp`. One that is gone has not changed: what was
/// loaded from it goes on being used.
pub fn has_changed(source: &ImageSource, stamp: Option<Stamp>) -> bool {
    let (Some(path), Some(stamp)) = (witness(source), stamp) else {
        return false;
    };
    std::fs::metadata(path).is_ok_and(|meta| Stamp::of(&meta) != stamp)
}

/// The file whose change means that the image may be another one.
fn witness(source: &ImageSource) -> Option<PathBuf> {
    match source {
        ImageSource::Oci { dir, .. } => Some(dir.join(oci::INDEX)),
        ImageSource::OciArchive { file, .. } | ImageSource::DockerArchive { file, .. } => Some(file.clone()),
        ImageSource::Registry { .. } | ImageSource::Rootfs { .. } => None,
    }
}

/// Checks a rootfs: an absolute path of a directory.
pub fn check_rootfs(dir: &Path) -> Result<(), LoadError> {
    if !dir.is_absolute() {
        return Err(LoadError::Relative(dir.to_owned()));
    }
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(LoadError::WrongType {
            path: dir.to_owned(),
            wanted: "directory",
        }),
        Err(e) => Err(container::opening(dir)(e)),
    }
}

/// The list of `names` for a message, cut off where it gets long.
fn listed(names: impl IntoIterator<Item = String>) -> String {
    let mut names: Vec<String> = names.into_iter().collect();
    let rest = names.len().saturating_sub(10);
    names.truncate(10);
    match (names.is_empty(), rest) {
        (true, _) => "nothing with a name".to_owned(),
        (false, 0) => names.join(", "),
        (false, rest) => format!("{} and {rest} more", names.join(", ")),
    }
}
