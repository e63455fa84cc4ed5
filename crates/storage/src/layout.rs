//! Where things lie in the store, and how files get there whole or not at all.
//!
//! ```text
//! blobs/sha256/HEX   configs and manifests
//! layers/HEX/        one unpacked layer by its diff_id; whole if it is there
//! tars/HEX           what that layer's tar has besides the unpacked tree (see `split`)
//! images/HEX.json    one record an image, by the hash of its key
//! tmp/               what is being made or removed; swept when the store is opened
//! ```

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::digest::Digest;

use crate::error::StoreError;
use crate::{hash, tree};

/// The store's directories.
#[derive(Clone, Debug)]
pub struct Layout {
    pub root: PathBuf,
    pub blobs: PathBuf,
    pub layers: PathBuf,
    pub tars: PathBuf,
    pub images: PathBuf,
    pub tmp: PathBuf,
}

impl Layout {
    /// Makes what is missing: the root 0710, for the state dir's group to pass, the rest 0700.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        directory(root, 0o710)?;
        let root = root
            .canonicalize()
            .map_err(StoreError::io("resolve the path", root))?;
        let layout = Self {
            blobs: root.join("blobs/sha256"),
            layers: root.join("layers"),
            tars: root.join("tars"),
            images: root.join("images"),
            tmp: root.join("tmp"),
            root,
        };
        directory(&layout.root.join("blobs"), 0o700)?;
        let Self {
            blobs,
            layers,
            tars,
            images,
            tmp,
            ..
        } = &layout;
        for path in [blobs, layers, tars, images, tmp] {
            directory(path, 0o700)?;
        }
        Ok(layout)
    }

    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(diff_id.hex())
    }

    /// What is kept of the layer's tar.
    pub fn tar(&self, diff_id: &Digest) -> PathBuf {
        self.tars.join(diff_id.hex())
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// A key may hold anything, so its hash is the file's name.
    pub fn record(&self, key: &str) -> PathBuf {
        let name = format!("{}.json", hash::of(key.as_bytes()).hex());
        self.images.join(name)
    }

    /// Puts `bytes` at `path` for good: written aside, flushed, renamed, and the directory flushed.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let aside = tree::fresh(&self.tmp);
        let written = write_new(&aside, bytes).and_then(|()| std::fs::rename(&aside, path));
        if let Err(e) = written {
            // It may never have been made; the first error is the one that tells.
            let _ = std::fs::remove_file(&aside);
            return Err(e);
        }
        path.parent().map_or(Ok(()), flush_directory)
    }
}

/// Makes a rename or an unlink in `directory` last.
pub fn flush_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The mode is set once more, since umask and a setgid parent have a say in it.
fn directory(path: &Path, mode: u32) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(StoreError::io("make the directory", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(StoreError::io("set the mode of", path))
}
