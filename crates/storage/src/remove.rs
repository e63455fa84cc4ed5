//! Taking images out of the store, and what no image needs any more.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use model::digest::Digest;
use model::image::Image;

use crate::error::StoreError;
use crate::layout::flush_directory;
use crate::store::Store;
use crate::tree;

/// What must stay: images by their key, and layers that containers stand on. A container may outlive its image's
/// record: after a pull the key means another image, and the container stays on the old one until it is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    pub keys: BTreeSet<String>,
    pub layers: BTreeSet<PathBuf>,
}

impl InUse {
    /// The image of a container: its key and its layers.
    pub fn add(&mut self, image: &Image) {
        self.keys.insert(image.key.clone());
        self.layers.extend(image.layers.iter().cloned());
    }
}

impl<K: Into<String>> FromIterator<K> for InUse {
    /// Images that are to stay, by their keys alone.
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        Self {
            keys: keys.into_iter().map(Into::into).collect(),
            layers: BTreeSet::new(),
        }
    }
}

/// What removing one image did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Freed on disk: what other images share stays.
    pub bytes: u64,
}

/// What was, or would be, removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// By key.
    pub images: Vec<String>,
    /// How many unpacked layers, also of those that no image had any more.
    pub layers: usize,
    /// On disk.
    pub bytes: u64,
}

impl Store {
    /// Removes the image `key` and what only it had. One in use is refused.
    pub fn remove(&self, key: &str, in_use: &InUse) -> Result<Removed, StoreError> {
        let key = key.to_owned();
        if in_use.keys.contains(&key) {
            return Err(StoreError::InUse { key });
        }
        if !self.records().contains_key(&key) {
            return Err(StoreError::NoImage { key });
        }
        let gone: BTreeSet<String> = [key].into();
        let doomed = {
            let claims = self.claims.lock();
            let unused = self.unneeded(&gone, in_use, |digest| claims.is_pinned(digest))?;
            self.forget(&gone)?;
            self.move_away(unused)?
        };
        Ok(Removed {
            bytes: self.delete(doomed)?,
        })
    }

    /// Forgets images that are not in use, and removes layers and blobs that no image has. What a load at work needs
    /// stays. With `dry_run` nothing is changed and the answer is the same.
    pub fn prune(&self, in_use: &InUse, dry_run: bool) -> Result<Pruned, StoreError> {
        let claims = self.claims.lock();
        let gone: BTreeSet<String> = {
            let records = self.records();
            let unused = records.keys().filter(|key| !in_use.keys.contains(*key));
            unused.cloned().collect()
        };
        let unused = self.unneeded(&gone, in_use, |digest| claims.is_pinned(digest))?;
        let images: Vec<String> = gone.iter().cloned().collect();
        let layers = unused.iter().filter(|path| path.starts_with(self.layers_dir()));
        let layers = layers.count();
        if dry_run {
            drop(claims);
            let sizes = unused
                .iter()
                .map(|path| tree::size_of(path).map_err(StoreError::io("measure", path)));
            let bytes = sizes.sum::<Result<u64, StoreError>>()?;
            return Ok(Pruned {
                images,
                layers,
                bytes,
            });
        }
        self.forget(&gone)?;
        let doomed = self.move_away(unused)?;
        drop(claims);
        Ok(Pruned {
            images,
            layers,
            bytes: self.delete(doomed)?,
        })
    }

    /// Layers and blobs that nothing needs once the images `gone` are. Names that are no digests are not ours.
    pub(crate) fn unneeded(
        &self,
        gone: &BTreeSet<String>,
        in_use: &InUse,
        pinned: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let needed: BTreeSet<Digest> = {
            let records = self.records();
            let kept = records.iter().filter(|(key, _)| !gone.contains(*key));
            kept.flat_map(|(_, record)| [&record.layers[..], &record.diff_ids, &record.blobs].concat())
                .collect()
        };
        // By their digests, in case the state directory has been moved since.
        let stood_on: BTreeSet<Digest> = in_use.layers.iter().filter_map(|path| digest_of(path)).collect();
        let unneeded =
            |digest: &Digest| !needed.contains(digest) && !stood_on.contains(digest) && !pinned(digest);
        let mut found = Vec::new();
        // Layers first: a layer is not to be without its record.
        for directory in [&self.layout.layers, &self.layout.tars, &self.layout.blobs] {
            let listing = || StoreError::io("list", directory);
            for entry in std::fs::read_dir(directory).map_err(listing())? {
                let path = entry.map_err(listing())?.path();
                if digest_of(&path).is_some_and(|digest| unneeded(&digest)) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn forget(&self, gone: &BTreeSet<String>) -> Result<(), StoreError> {
        let mut records = self.records();
        for key in gone {
            let path = self.layout.record(key);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path)(e));
                }
                _ => records.remove(key),
            };
        }
        let images = &self.layout.images;
        flush_directory(images).map_err(StoreError::io("flush", images))
    }

    /// Into `tmp`, where it is as good as gone.
    pub(crate) fn move_away(&self, unused: Vec<PathBuf>) -> Result<Vec<PathBuf>, StoreError> {
        let mut doomed = Vec::new();
        for path in unused {
            let away = tree::fresh(&self.layout.tmp);
            std::fs::rename(&path, &away).map_err(StoreError::io("remove", &path))?;
            doomed.push(away);
        }
        Ok(doomed)
    }

    pub(crate) fn delete(&self, doomed: Vec<PathBuf>) -> Result<u64, StoreError> {
        let mut freed = 0;
        for path in doomed {
            freed += tree::remove(&path, &self.layout.tmp).map_err(StoreError::io("remove", &path))?;
        }
        Ok(freed)
    }
}

fn digest_of(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?;
    format!("sha256:{hex}").parse().ok()
}
