//! Images that are made here: layers brought in as plain tars, and a config on top of them. What commit, import, load
//! and tag end in.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use model::digest::Digest;
use model::image::{Image, ImageSource};

use crate::claims::{Claims, Pins};
use crate::error::{LoadError, StoreError};
use crate::layer::{self, Cancellable, Temporary};
use crate::record::Record;
use crate::source::spec::{Config, parse};
use crate::split::Split;
use crate::store::Store;
use crate::{hash, split};

/// A layer that was brought in. It is not pruned while this lives: keep it until the image that it is part of is added.
pub struct NewLayer {
    pub diff_id: Digest,
    /// Bytes of the plain tar.
    pub size: u64,
    _pins: Pins,
}

impl NewLayer {
    /// One that is here, or is about to be.
    pub(crate) fn held(claims: &Arc<Claims>, diff_id: Digest, size: u64) -> Self {
        Self {
            diff_id,
            size,
            _pins: claims.pin(vec![diff_id]),
        }
    }
}

/// The documents of an image, as they are to be kept.
pub(crate) struct Documents<'a> {
    pub config: &'a [u8],
    /// Of where it came from; none of what was made here.
    pub manifest: Option<&'a [u8]>,
    /// Bytes of its layers as they came; none: of the plain tars.
    pub size: Option<u64>,
}

impl Store {
    /// Brings a plain tar in as a layer: unpacked, recorded, its digest found. What follows the archive's end belongs to
    /// it. A layer that is here already is not made again. Ends with [`StoreError::Stopped`] soon after `cancel` is set.
    pub fn add_layer(&self, tar: &mut dyn Read, cancel: &AtomicBool) -> Result<NewLayer, StoreError> {
        let added = self.try_add_layer(tar, cancel);
        added.map_err(|error| self.adding("the new layer", error))
    }

    fn try_add_layer(&self, tar: &mut dyn Read, cancel: &AtomicBool) -> Result<NewLayer, LoadError> {
        let temporary = Temporary::create(&self.layout.tmp)?;
        let plain = Cancellable {
            blob: Box::new(tar),
            cancel,
        };
        let unpacked = layer::unpack_plain(plain, &temporary, &self.limits, cancel);
        if cancel.load(Ordering::Relaxed) {
            return Err(LoadError::Cancelled);
        }
        let (diff_id, size) = unpacked.map_err(LoadError::NewLayer)?;
        self.settle(temporary, diff_id, size, cancel)
    }

    /// Puts an unpacked layer into its place, where it is not there yet.
    pub(crate) fn settle(
        &self,
        temporary: Temporary,
        diff_id: Digest,
        size: u64,
        cancel: &AtomicBool,
    ) -> Result<NewLayer, LoadError> {
        let layer = NewLayer::held(&self.claims, diff_id, size);
        let work = self.claims.work_on(diff_id, || cancel.load(Ordering::Relaxed));
        let _work = work.ok_or(LoadError::Cancelled)?;
        if !self.layout.layer(&diff_id).is_dir() || !self.layout.tar(&diff_id).exists() {
            temporary.place(&self.layout, &diff_id)?;
        }
        Ok(layer)
    }

    /// Makes an image of layers that are here, bottom first, and an OCI config document (image-spec, config.md) that
    /// names just these, under a registry reference with a tag and no digest (`docker.io/library/x:1`). One of that name
    /// is replaced. `pull = "missing"` uses it without asking a registry.
    pub fn add_image(&self, reference: &str, config: &[u8], layers: &[Digest]) -> Result<Image, StoreError> {
        let documents = Documents {
            config,
            manifest: None,
            size: None,
        };
        self.adopt(reference, &documents, layers)
    }

    pub(crate) fn adopt(
        &self,
        reference: &str,
        documents: &Documents<'_>,
        layers: &[Digest],
    ) -> Result<Image, StoreError> {
        let adopted = self.try_adopt(reference, documents, layers);
        adopted.map_err(|error| self.adding(&format!("image {reference}"), error))
    }

    fn try_adopt(
        &self,
        reference: &str,
        documents: &Documents<'_>,
        layers: &[Digest],
    ) -> Result<Image, LoadError> {
        let source = tagged(reference)?;
        let id = hash::of(documents.config);
        let config: Config = parse(documents.config, "config")?;
        if config.diff_ids(layers.len())? != layers {
            let why = "its rootfs.diff_ids are not the image's layers";
            return Err(LoadError::refused("config", why));
        }
        let manifest = documents.manifest.map(|bytes| (hash::of(bytes), bytes));
        let kept: Vec<_> = [Some((id, documents.config)), manifest]
            .into_iter()
            .flatten()
            .collect();
        let blobs: Vec<Digest> = kept.iter().map(|(digest, _)| *digest).collect();
        let _pins = self.claims.pin([layers, &blobs].concat());
        for layer in layers {
            if !self.layout.layer(layer).is_dir() {
                return Err(LoadError::refused(format!("layer {layer}"), "it is not here"));
            }
        }
        self.keep(&kept)?;
        let size = match documents.size {
            Some(size) => size,
            None => layers.iter().filter_map(|layer| self.plain_size(layer)).sum(),
        };
        self.usage.want(&source.key(), &self.layout);
        self.remember(Record {
            id: Some(id),
            digest: manifest.map(|(digest, _)| digest),
            size,
            layers: self.visible(layers)?,
            diff_ids: layers.to_vec(),
            blobs,
            config: config.execution(),
            ..Record::rootfs(source)
        })
    }

    /// Gives the image `key` another name besides, or instead of what had it. As in Docker nothing is asked or fetched.
    pub fn tag(&self, key: &str, reference: &str) -> Result<Image, StoreError> {
        // What it describes is not pruned meanwhile.
        let described = self.describe(key)?;
        let tagged = tagged(reference).and_then(|source| {
            let record = self.records().get(key).cloned();
            let record = record.ok_or_else(|| LoadError::refused(key, "it is being removed"))?;
            let same_place = repository(reference) == repository(key);
            self.remember(Record {
                source,
                stamp: None,
                top: record.top.filter(|_| same_place),
                pulled: Some(Timestamp::now()),
                ..Record::clone(&record)
            })
        });
        drop(described);
        tagged.map_err(|error| self.adding(&format!("image {reference}"), error))
    }

    /// The plain tar of a layer that is here, byte for byte what `diff_id` is of. Reading it ends with an error where the
    /// layer is damaged. The layer is not pruned while it lives.
    pub fn layer_tar(&self, diff_id: &Digest) -> Result<split::LayerTar, StoreError> {
        let pins = self.claims.pin(vec![*diff_id]);
        let (layer, record) = (self.layout.layer(diff_id), self.layout.tar(diff_id));
        let root = match std::fs::File::open(&layer) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NoLayer { diff_id: *diff_id });
            }
            other => other.map_err(StoreError::io("open", &layer))?,
        };
        split::LayerTar::open(*diff_id, &record, root.into(), Some(pins)).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => StoreError::NoRecord { diff_id: *diff_id },
            _ => StoreError::Damaged {
                diff_id: *diff_id,
                source: Split::Record(e),
            },
        })
    }

    /// Bytes of a layer's plain tar, by its record's head; none where there is no record that says so.
    pub(crate) fn plain_size(&self, diff_id: &Digest) -> Option<u64> {
        split::size_of(&self.layout.tar(diff_id)).ok()
    }

    /// Puts documents in the store that are not there.
    pub(crate) fn keep<B: AsRef<[u8]>>(&self, documents: &[(Digest, B)]) -> Result<(), LoadError> {
        for (digest, bytes) in documents {
            let path: &Path = &self.layout.blob(digest);
            if !path.exists() {
                let written = self.layout.write(path, bytes.as_ref());
                written.map_err(LoadError::io("write", path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn adding(&self, what: &str, error: LoadError) -> StoreError {
        match error.or_full(&self.layout.root) {
            LoadError::Cancelled => StoreError::Stopped,
            source => StoreError::Add {
                what: what.to_owned(),
                source,
            },
        }
    }
}

/// The source that a name for something made here stands for.
fn tagged(reference: &str) -> Result<ImageSource, LoadError> {
    let bad = |why: String| LoadError::refused(format!("the name {reference:?}"), why);
    match model::file::image(reference, &["docker.io".to_owned()]) {
        Ok(ImageSource::Registry { reference }) if !reference.contains('@') => {
            Ok(ImageSource::Registry { reference })
        }
        Ok(ImageSource::Registry { .. }) => Err(bad(
            "a digest cannot be given, it comes of the content: write NAME:TAG".to_owned(),
        )),
        Ok(_) => Err(bad("it is a file's, not a name: write NAME:TAG".to_owned())),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// A registry reference without tag and digest.
pub fn repository(reference: &str) -> &str {
    let bare = reference.split_once('@').map_or(reference, |(bare, _)| bare);
    match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => bare,
    }
}
